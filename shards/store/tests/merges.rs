//! Ranges that go into their neighbours: what both hold comes together, and a question that comes late or
//! twice changes nothing.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use bytes::Bytes;
use oarlock_store::{
    Absorb, Batch, Command, Expiry, Frozen, Loader, Reply, Request, SetCondition, Store,
    StoreLimits,
};
use oarlock_types::{GroupId, Index, RangeBounds, RangeEpoch, WallMs};

const RIGHT: GroupId = GroupId(7);

fn run(store: &mut Store, request: Request) -> Reply {
    let index = store.applied().next();
    let stamp = WallMs(1_000 + index.get());
    let mut replies = Vec::new();
    store.apply(index, Batch { stamp, requests: vec![request] }, &mut replies);
    replies.remove(0)
}

fn set(key: &str, value: &str, once: Option<&str>) -> Request {
    let (key, value) =
        (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()));
    let (condition, expiry) = (SetCondition::Always, Expiry::None);
    let command = Command::Set { key, value, condition, expiry, get: true };
    let once = once.map(|id| Bytes::copy_from_slice(id.as_bytes()));
    Request { once, ..Request::one(command) }
}

fn get(store: &Store, key: &'static str) -> Reply {
    let key = Bytes::from_static(key.as_bytes());
    store.read(&Request::one(Command::Get { key }), WallMs(0))
}

fn value(text: &'static str) -> Reply {
    Reply::Bulk(Bytes::from_static(text.as_bytes()))
}

/// A range that was cut at `m`: both halves are of version 2.
fn halves() -> (Store, Store) {
    let mut left = Store::new(StoreLimits::default());
    left.set_bounds(RangeBounds::everything());
    run(&mut left, set("a", "1", Some("before")));
    run(&mut left, set("z", "26", None));
    let mut right = left.split_off(&Bytes::from_static(b"m"), Index(1));
    run(&mut left, set("b", "2", Some("left")));
    run(&mut right, set("y", "25", Some("right")));
    (left, right)
}

fn freeze(right: &mut Store, into_epoch: u64) {
    let (index, epoch) = (right.applied().next(), right.bounds().epoch);
    let into_epoch = RangeEpoch(into_epoch);
    right.freeze(index, epoch, Frozen { into_start: Bytes::new(), into_epoch });
}

fn question(right: &Store) -> Request {
    question_of(right, RIGHT)
}

fn question_of(right: &Store, group: GroupId) -> Request {
    let frozen = right.frozen().unwrap();
    Request::one(Command::Absorb(Absorb {
        start: frozen.into_start.clone(),
        epoch: frozen.into_epoch,
        group,
        frozen: right.bounds().epoch,
        contents: right.contents(),
    }))
}

fn reloaded(store: &mut Store) -> Store {
    let mut loader = Loader::new(StoreLimits::default());
    loader.feed(&store.contents()).unwrap();
    loader.finish().unwrap()
}

#[test]
fn what_both_hold_comes_together() {
    let (mut left, mut right) = halves();
    freeze(&mut right, 2);
    assert_eq!(right.bounds().epoch, RangeEpoch(3));
    let bytes = left.size_bytes() + right.size_bytes();
    assert_eq!(run(&mut left, question(&right)), Reply::Int(1));
    assert_eq!(*left.bounds(), RangeBounds { epoch: RangeEpoch(4), ..RangeBounds::everything() });
    assert_eq!((left.len(), left.size_bytes()), (4, bytes));
    for (key, text) in [("a", "1"), ("b", "2"), ("y", "25"), ("z", "26")] {
        assert_eq!(get(&left, key), value(text), "{key}");
    }
    // Of requests with an id, each is carried out once, whichever half had it.
    for id in ["before", "left", "right"] {
        assert_eq!(run(&mut left, set("a", "again", Some(id))), Reply::Nil, "{id} was a first SET");
    }
    assert_eq!((get(&left, "a"), left.once_len()), (value("1"), 3));
}

#[test]
fn asked_again_it_says_that_it_has_taken_it_also_after_it_was_cut_and_restored() {
    let (mut left, mut right) = halves();
    freeze(&mut right, 2);
    let question = question(&right);
    assert_eq!(run(&mut left, question.clone()), Reply::Int(1));
    let mut anew = left.split_off(&Bytes::from_static(b"m"), Index(1));
    run(&mut anew, set("z", "new", None));
    for store in [&mut left, &mut anew] {
        let mut store = reloaded(store);
        let before = (store.bounds().clone(), store.len());
        assert_eq!(run(&mut store, question.clone()), Reply::Int(1));
        assert_eq!((store.bounds().clone(), store.len()), before, "it changes nothing");
    }
    assert_eq!(get(&anew, "z"), value("new"));
}

#[test]
fn a_neighbour_of_another_version_never_takes_it() {
    let (mut left, mut right) = halves();
    freeze(&mut left, 9);
    left.thaw(left.applied().next(), RangeEpoch(3));
    assert_eq!((left.bounds().epoch, left.frozen()), (RangeEpoch(4), None));
    freeze(&mut right, 2);
    let late = question(&right);
    assert_eq!(run(&mut left, late.clone()), Reply::Int(0));
    right.thaw(right.applied().next(), RangeEpoch(3));
    run(&mut right, set("z", "new", None));
    assert_eq!(run(&mut left, late), Reply::Int(0), "what it held then is old by now");
    freeze(&mut right, 4);
    assert_eq!(run(&mut left, question(&right)), Reply::Int(1));
    assert_eq!(get(&left, "z"), value("new"));
}

#[test]
fn what_is_no_neighbour_or_damaged_is_not_taken() {
    let (mut left, mut right) = halves();
    let mut last = right.split_off(&Bytes::from_static(b"z"), Index(1));
    freeze(&mut last, 2);
    assert_eq!(run(&mut left, question(&last)), Reply::Int(0), "it begins elsewhere");
    freeze(&mut right, 2);
    let mut damaged = question(&right);
    let Command::Absorb(absorb) = &mut damaged.commands[0] else { unreachable!() };
    absorb.contents = absorb.contents.slice(..absorb.contents.len() - 1);
    assert_eq!(run(&mut left, damaged), Reply::Int(0));
    freeze(&mut left, 1);
    assert_eq!(
        run(&mut reloaded(&mut left), question(&right)),
        Reply::Int(0),
        "it is frozen itself"
    );
}

#[test]
fn a_checkpoint_says_that_it_is_frozen_and_for_whom() {
    let (_, mut right) = halves();
    assert_eq!(right.contents()[8], 2, "older builds read what has nothing to do with merges");
    freeze(&mut right, 2);
    assert_eq!(right.contents()[8], 3);
    let back = reloaded(&mut right);
    assert_eq!((back.frozen(), back.state_hash()), (right.frozen(), right.state_hash()));
    assert_eq!(back.bounds(), right.bounds());
}

#[test]
fn a_checkpoint_under_way_is_of_the_state_before() {
    let (mut left, mut right) = halves();
    let (hash, keys) = (left.state_hash(), left.len());
    left.checkpoint_begin();
    let mut bytes = Vec::new();
    let _ = left.checkpoint_next(1, &mut bytes);
    freeze(&mut right, 2);
    assert_eq!(run(&mut left, question(&right)), Reply::Int(1));
    while left.checkpoint_next(1, &mut bytes) == oarlock_store::CheckpointProgress::More {}
    let mut loader = Loader::new(StoreLimits::default());
    loader.feed(&bytes).unwrap();
    let before = loader.finish().unwrap();
    assert_eq!((before.state_hash(), before.len()), (hash, keys));
}

#[test]
fn what_is_cut_and_merged_again_and_again_stays_whole() {
    let mut left = Store::new(StoreLimits::default());
    left.set_bounds(RangeBounds::everything());
    for number in 0..500 {
        let key = format!("z{number:05}");
        run(&mut left, set(&key, &"x".repeat(128), None));
    }
    for round in 1..=40_u64 {
        let mut right = left.split_off(&Bytes::from_static(b"m"), Index(1));
        run(&mut right, set("z00007", "again", None));
        freeze(&mut right, left.bounds().epoch.get());
        let taken = run(&mut left, question_of(&right, GroupId(round)));
        assert_eq!((taken, left.len()), (Reply::Int(1), 500), "round {round}");
    }
}
