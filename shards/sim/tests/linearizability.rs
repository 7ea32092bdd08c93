//! The checker itself: histories that are known to be good, and histories that are known to be bad.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use bytes::Bytes;
use oarlock_sim::linearizability::{Action, Answer, Operation, check, check_along};
use oarlock_types::Random;

fn b(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn op(called_at: u64, answered_at: u64, action: Action, answer: Answer) -> Operation {
    Operation { client: 0, called_at, action, answer: Some((answered_at, answer)) }
}

fn lost(called_at: u64, action: Action) -> Operation {
    Operation { client: 9, called_at, action, answer: None }
}

fn set(key: &str, value: &str) -> Action {
    Action::Write(vec![(b(key), b(value))])
}

fn write(from: u64, to: u64, key: &str, value: &str) -> Operation {
    op(from, to, set(key, value), Answer::Done)
}

fn read(from: u64, to: u64, key: &str, value: Option<&str>) -> Operation {
    op(from, to, Action::Read(vec![b(key)]), Answer::Values(vec![value.map(b)]))
}

fn read_two(from: u64, to: u64, one: Option<&str>, two: Option<&str>) -> Operation {
    let action = Action::Read(vec![b("x"), b("y")]);
    op(from, to, action, Answer::Values(vec![one.map(b), two.map(b)]))
}

fn both(from: u64, to: u64, value: &str) -> Operation {
    let action = Action::Write(vec![(b("x"), b(value)), (b("y"), b(value))]);
    op(from, to, action, Answer::Done)
}

fn number(from: u64, to: u64, action: Action, number: i64) -> Operation {
    op(from, to, action, Answer::Number(number))
}

fn add(from: u64, to: u64, sum: i64) -> Operation {
    number(from, to, Action::Add(b("n"), 1), sum)
}

fn append(from: u64, to: u64, length: i64) -> Operation {
    number(from, to, Action::Append(b("a"), b("ab")), length)
}

fn swap(from: u64, to: u64, expected: Option<&str>, new: &str, done: i64) -> Operation {
    let action = Action::Swap { key: b("x"), expected: expected.map(b), new: b(new) };
    number(from, to, action, done)
}

fn scan(from: u64, to: u64, pairs: &[(&str, &str)]) -> Operation {
    let pairs = pairs.iter().map(|(key, value)| (b(key), b(value))).collect();
    op(from, to, Action::Scan(b(""), None), Answer::Pairs(pairs))
}

fn delete(from: u64, to: u64, count: i64) -> Operation {
    number(from, to, Action::Delete(b("x")), count)
}

#[test]
fn good_histories_are_explained() {
    let good = [
        vec![],
        vec![read(0, 1, "x", None)],
        vec![write(0, 1, "x", "1"), read(2, 3, "x", Some("1"))],
        // A read beside a write sees either.
        vec![write(0, 9, "x", "1"), read(2, 3, "x", None), read(4, 5, "x", Some("1"))],
        vec![write(0, 9, "x", "1"), write(0, 9, "x", "2"), read(10, 11, "x", Some("1"))],
        // What was lost may have happened, late, or never.
        vec![lost(0, set("x", "1")), read(5, 6, "x", None), read(7, 8, "x", Some("1"))],
        vec![lost(0, set("x", "1")), read(5, 6, "x", None), read(70, 80, "x", None)],
        vec![lost(0, set("x", "1")), write(2, 3, "x", "2"), read(4, 5, "x", Some("1"))],
        vec![lost(0, Action::Delete(b("x"))), write(1, 2, "x", "1"), read(4, 5, "x", None)],
        // Two lost ones that are seen only together.
        vec![
            lost(0, Action::Append(b("a"), b("ab"))),
            lost(0, Action::Append(b("a"), b("ab"))),
            append(1, 2, 6),
        ],
        vec![lost(0, set("x", "1")), swap(1, 2, Some("1"), "2", 1), read(3, 4, "x", Some("2"))],
        // One that is overwritten where it is looked for, and seen elsewhere.
        vec![
            lost(0, Action::Write(vec![(b("x"), b("1")), (b("y"), b("1"))])),
            lost(0, set("x", "2")),
            read(1, 2, "x", Some("2")),
            read(3, 4, "y", Some("1")),
        ],
        // One that must stand before another lost one, and has nothing to do with what that one must
        // stand before itself.
        vec![
            write(0, 1, "z", "0"),
            lost(2, Action::Write(vec![(b("x"), b("1")), (b("y"), b("1"))])),
            lost(2, Action::Write(vec![(b("y"), b("2")), (b("z"), b("2"))])),
            number(3, 4, Action::Delete(b("z")), 1),
            scan(5, 6, &[("x", "1"), ("y", "2")]),
        ],
        vec![lost(0, set("x", "5")), lost(0, Action::Add(b("x"), 3)), read(1, 2, "x", Some("8"))],
        // A scan is the first to see three.
        vec![
            lost(0, set("x", "1")),
            lost(0, Action::Append(b("x"), b("2"))),
            lost(0, set("y", "3")),
            scan(1, 2, &[("x", "12"), ("y", "3")]),
        ],
        vec![add(0, 1, 1), add(0, 9, 3), add(0, 9, 2)],
        vec![both(0, 9, "1"), read_two(1, 2, None, None), read_two(3, 4, Some("1"), Some("1"))],
        vec![write(0, 1, "x", "1"), write(0, 1, "y", "2"), scan(2, 3, &[("x", "1"), ("y", "2")])],
        vec![write(0, 1, "x", "1"), delete(2, 3, 1), delete(4, 5, 0), scan(6, 7, &[])],
    ];
    for history in good {
        assert_eq!(check(&history), Ok(()), "{history:?}");
    }
}

/// Additions of 1, 2 and so on of unknown outcome, before one of 100.
fn lost_additions(count: i64, sum: i64) -> Vec<Operation> {
    let lost = (1..=count).map(|delta| lost(1, Action::Add(b("n"), delta)));
    lost.chain([number(100, 101, Action::Add(b("n"), 100), sum)]).collect()
}

#[test]
fn additions_of_unknown_outcome_add_up() {
    // More than fit into a row.
    for sum in [0, 1, 66, 66 - 5, 2 + 3 + 5 + 7 + 8 + 10 + 11] {
        check(&lost_additions(11, 100 + sum)).unwrap();
        let mut and_read = lost_additions(11, 0);
        let text = sum.to_string();
        *and_read.last_mut().unwrap() = read(100, 101, "n", (sum > 0).then_some(text.as_str()));
        check(&and_read).unwrap();
    }
    assert!(check(&lost_additions(3, 100 + 7)).is_err());
    assert!(check(&lost_additions(3, 99)).is_err());
    // Each counts once.
    let mut twice = lost_additions(3, 100 + 6);
    twice.push(add(102, 103, 108));
    assert!(check(&twice).is_err());
}

#[test]
fn bad_histories_are_caught() {
    let bad = [
        vec![read(0, 1, "x", Some("1"))],
        vec![write(0, 1, "x", "1"), read(2, 3, "x", None)],
        vec![write(0, 1, "x", "1"), write(2, 3, "x", "2"), read(4, 5, "x", Some("1"))],
        // Once seen it does not go away.
        vec![write(0, 9, "x", "1"), read(1, 2, "x", Some("1")), read(3, 4, "x", None)],
        // Read before it was written.
        vec![read(0, 1, "x", Some("1")), write(2, 3, "x", "1")],
        vec![read(0, 1, "x", Some("1")), lost(2, set("x", "1"))],
        // Two readers see two writes in two orders.
        vec![
            write(0, 20, "x", "1"),
            write(0, 20, "x", "2"),
            read(1, 2, "x", Some("1")),
            read(3, 4, "x", Some("2")),
            read(5, 6, "x", Some("1")),
        ],
        // A lost write happens once.
        vec![
            lost(0, set("x", "1")),
            read(1, 2, "x", Some("1")),
            write(3, 4, "x", "2"),
            read(5, 6, "x", Some("1")),
        ],
        vec![add(0, 1, 1), add(2, 3, 1)],
        vec![add(0, 1, 1), add(2, 3, 3)],
        vec![lost(0, Action::Add(b("n"), 1)), add(2, 3, 3)],
        vec![add(0, 9, 2), add(0, 9, 2)],
        vec![append(0, 1, 2), append(2, 3, 2)],
        vec![append(0, 1, 2), append(2, 3, 6)],
        vec![write(0, 1, "x", "1"), swap(2, 3, None, "2", 1)],
        vec![write(0, 1, "x", "1"), swap(2, 3, Some("1"), "2", 0)],
        vec![swap(0, 9, None, "1", 1), swap(0, 9, None, "2", 1)],
        // Half of what happens at one moment.
        vec![both(0, 9, "1"), read_two(1, 2, Some("1"), None)],
        vec![both(0, 1, "1"), both(2, 9, "2"), read_two(3, 4, Some("2"), Some("1"))],
        vec![both(0, 9, "1"), scan(1, 2, &[("x", "1")])],
        vec![write(0, 1, "x", "1"), scan(2, 3, &[])],
        vec![write(0, 1, "x", "1"), write(2, 3, "y", "2"), scan(4, 5, &[("y", "2")])],
        vec![delete(0, 1, 1)],
        vec![write(0, 1, "x", "1"), delete(2, 3, 0)],
        vec![write(0, 1, "x", "1"), delete(2, 9, 1), delete(2, 9, 1)],
        vec![write(0, 1, "x", "1"), delete(2, 3, 1), read(4, 5, "x", Some("1"))],
    ];
    assert!(bad.len() >= 20);
    for history in bad {
        assert!(check(&history).is_err(), "{history:?}");
        // No order that anybody proposes makes it a good one.
        for order in orders(&writes(&history)) {
            assert!(check_along(&history, &order).is_err(), "{history:?} along {order:?}");
        }
    }
}

/// The places of what changes something.
fn writes(history: &[Operation]) -> Vec<usize> {
    (0..history.len()).filter(|at| !history[*at].action.is_read()).collect()
}

/// All orders of a few places.
fn orders(places: &[usize]) -> Vec<Vec<usize>> {
    if places.is_empty() {
        return vec![Vec::new()];
    }
    let begun = |first: &usize| {
        let rest: Vec<usize> = places.iter().copied().filter(|at| at != first).collect();
        let behind = |rest: Vec<usize>| std::iter::once(*first).chain(rest).collect();
        orders(&rest).into_iter().map(behind).collect::<Vec<_>>()
    };
    places.iter().flat_map(begun).collect()
}

/// Twelve writes of unknown outcome that have taken effect in the order of their numbers, and what a scan sees then.
fn lost_row() -> Vec<Operation> {
    let row = (1..=12).map(|number| {
        let (one, two) = (format!("k{}", number % 7), format!("k{}", number % 5));
        let pairs = [one, two].map(|key| (b(&key), b(&number.to_string())));
        lost(1, Action::Write(pairs.to_vec()))
    });
    let seen = [
        ("k0", "10"),
        ("k1", "11"),
        ("k2", "12"),
        ("k3", "10"),
        ("k4", "11"),
        ("k5", "12"),
        ("k6", "6"),
    ];
    row.chain([scan(100, 101, &seen)]).collect()
}

#[test]
fn an_order_that_is_proposed_is_gone_through() {
    let history = lost_row();
    let order: Vec<usize> = (0..12).collect();
    assert_eq!(check_along(&history, &order), Ok(()));
    // It is no more than a proposal: what does not come to what was seen is searched for.
    let other = [write(0, 1, "x", "1"), write(0, 1, "x", "2"), read(2, 3, "x", Some("1"))];
    assert_eq!(check_along(&other, &[0, 1]), Ok(()));
    // Named twice it takes effect where its answer fits, once.
    let adds = [add(0, 9, 2), add(0, 9, 1), read(10, 11, "n", Some("2"))];
    assert_eq!(check_along(&adds, &[0, 1, 0, 1]), Ok(()));
    // What is not named has not happened, unless it was answered.
    assert_eq!(check_along(&[write(0, 1, "x", "1"), read(2, 3, "x", Some("1"))], &[]), Ok(()));
}

/// A history of one copy: each operation takes effect between its call and its answer.
fn honest(seed: u64) -> Vec<Operation> {
    let mut random = Random::new(seed);
    let mut value: BTreeMap<&str, u64> = BTreeMap::new();
    let mut history = Vec::new();
    for number in 1..80 {
        let at = number * 10;
        let (before, after) = (random.below(25), random.below(25));
        let key = if random.below(2) == 0 { "x" } else { "y" };
        let (called, answered) = (at - before.min(at), at + after);
        let is_lost = random.below(12) == 0;
        if random.below(2) == 0 {
            if !is_lost || random.below(2) == 0 {
                value.insert(key, number);
            }
            let write = write(called, answered, key, &number.to_string());
            history.push(if is_lost { Operation { answer: None, ..write } } else { write });
        } else {
            let seen = value.get(key).map(ToString::to_string);
            history.push(read(called, answered, key, seen.as_deref()));
        }
    }
    history
}

#[test]
fn random_histories_are_explained_and_their_mutants_caught() {
    let mut caught = 0;
    for seed in 0..60 {
        let history = honest(seed);
        assert_eq!(check(&history), Ok(()), "seed {seed}");
        let order = writes(&history);
        // A read at the end of a value that was certainly overwritten long before.
        let end = 2000;
        let last = write(end, end + 1, "x", "last");
        for stale in [None, Some("1"), Some("never")] {
            let mut mutant = history.clone();
            mutant.extend([last.clone(), read(end + 2, end + 3, "x", stale)]);
            let was_lost = mutant.iter().any(|operation| {
                let is_it = stale.is_some_and(|stale| operation.action == set("x", stale));
                is_it && operation.answer.is_none()
            });
            // One whose write was lost may be explained by its coming late.
            if !was_lost {
                assert!(check(&mutant).is_err(), "seed {seed}, {stale:?}");
                assert!(check_along(&mutant, &order).is_err(), "seed {seed}, {stale:?}");
                caught += 1;
            }
        }
        // What the history saw is not there any more.
        let mut mutant = history.clone();
        let place = mutant.iter().rposition(|o| o.action.is_read()).unwrap();
        mutant[place].answer = Some((end, Answer::Values(vec![Some(b("nobody wrote this"))])));
        assert!(check(&mutant).is_err(), "seed {seed}");
        caught += 1;
    }
    assert!(caught >= 200, "{caught} mutants");
}
