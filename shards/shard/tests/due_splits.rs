//! A cluster that says which of its ranges should be split: what requests leave behind at a leader, what the
//! split does to it, and what idle ranges cost.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use oarlock_shard::{DueSplit, RequestRates, SplitReason, SplitSettings};
use oarlock_store::{Command, Request};
use oarlock_types::{GroupId, Limits, NodeId, Random};
use support::{World, plan};

const GROUP: GroupId = GroupId(1);
const CHILD: GroupId = GroupId(99);

const SETTINGS: SplitSettings = SplitSettings {
    bytes: u64::MAX,
    keys: u64::MAX,
    requests_per_s: 100,
    load_rest: Duration::from_secs(5),
};

fn world(groups: u64) -> (World, NodeId) {
    let mut plan = plan(3, 1, groups, Limits::default());
    plan.segment_bytes = 16 << 20;
    plan.frame_bytes_max = 4 << 20;
    let mut world = World::new(plan, 7);
    world.trace.wanted.insert("no-outcomes".to_owned());
    assert!(world.run_while(10_000, |w| (1..=groups).any(|g| w.leader(GroupId(g)).is_none())));
    world.run_ms(500);
    let leader = world.leader(GROUP).unwrap();
    (world, leader)
}

fn look(world: &mut World, node: NodeId, settings: &SplitSettings) -> Vec<DueSplit> {
    world.node(node).life.as_mut().unwrap().cores[0].shard.due_splits(settings)
}

fn rates(world: &mut World, node: NodeId, group: GroupId) -> RequestRates {
    world.status(node, group).unwrap().rates
}

fn set(key: u64) -> Request {
    let pairs = vec![(Bytes::from(format!("{key:04}")), Bytes::from_static(b"value"))];
    Request::one(Command::MSet { pairs })
}

fn get(key: u64) -> Request {
    Request::one(Command::Get { key: Bytes::from(format!("{key:04}")) })
}

/// A second of 150 writes and 50 reads, evenly over a thousand keys, of the ranges that have them; what is
/// then due at the leader.
fn second(
    world: &mut World,
    node: NodeId,
    random: &mut Random,
    split: Option<&Bytes>,
) -> Vec<DueSplit> {
    for number in 0..200 {
        let key = random.below(1000);
        let request = if number % 4 == 0 { get(key) } else { set(key) };
        let is_right = split.is_some_and(|at| format!("{key:04}").as_bytes() >= &at[..]);
        let group = if is_right { CHILD } else { GROUP };
        world.ask(node, group, 1 + u64::from(split.is_some()), request);
        world.run_ms(5);
    }
    look(world, node, &SETTINGS)
}

#[test]
fn a_leader_under_load_says_where_to_split_and_both_halves_start_anew() {
    let (mut world, leader) = world(1);
    let mut random = Random::new(3);
    let due = (1..20)
        .find_map(|at| second(&mut world, leader, &mut random, None).pop().map(|due| (at, due)));
    let (at_second, DueSplit { group, at, reason }) = due.expect("it is due");
    assert_eq!((group, reason), (GROUP, SplitReason::Load));
    assert!((5..=12).contains(&at_second), "after {at_second} s");
    assert!((&b"0350"[..]..b"0650").contains(&&at[..]), "{at:?} is no middle");
    let before = rates(&mut world, leader, GROUP);
    assert!(before.writes_per_s.abs_diff(150) <= 2, "{before:?}");
    assert!(before.reads_per_s.abs_diff(50) <= 2, "{before:?}");
    for other in [1, 2, 3].map(NodeId).into_iter().filter(|node| *node != leader) {
        assert_eq!(look(&mut world, other, &SETTINGS), []);
        assert_eq!(rates(&mut world, other, GROUP), RequestRates::default(), "it does not lead");
    }
    world.split(leader, GROUP, at.clone(), CHILD).unwrap();
    assert!(world.run_while(1000, |w| w.leader(CHILD).is_none()));
    assert_eq!(rates(&mut world, leader, GROUP), RequestRates::default(), "it begins anew");
    for _ in 0..3 {
        assert_eq!(second(&mut world, leader, &mut random, Some(&at)), []);
    }
    for half in [GROUP, CHILD] {
        let rates = rates(&mut world, leader, half);
        assert!((70..=130).contains(&rates.total_per_s()), "{half}: {rates:?}");
    }
}

#[test]
fn a_large_range_without_load_is_found_and_halved_and_what_grew_cold_is_forgotten() {
    let (mut world, leader) = world(40);
    let home = world.leader(GROUP).unwrap();
    for key in 0..600 {
        world.ask(home, GROUP, 1, set(key));
    }
    world.run_ms(1000);
    assert_eq!(look(&mut world, leader, &SETTINGS), []);
    assert!(rates(&mut world, leader, GROUP).writes_per_s > 100);
    for _ in 0..80 {
        world.run_ms(1000);
        assert_eq!(look(&mut world, leader, &SETTINGS), []);
    }
    assert_eq!(rates(&mut world, leader, GROUP), RequestRates::default());
    let shard = &world.node(leader).life.as_ref().unwrap().cores[0].shard;
    assert_eq!(shard.loads_count(), 0, "nothing is kept of it, nor of the thirty-nine others");
    // It has no load at all, and is too large by other settings.
    let settings = SplitSettings { keys: 500, ..SETTINGS };
    assert_eq!(look(&mut world, leader, &settings), [], "its middle is looked for");
    world.run_ms(100);
    let at = Bytes::from_static(b"0300");
    assert_eq!(
        look(&mut world, leader, &settings),
        [DueSplit { group: GROUP, at: at.clone(), reason: SplitReason::Keys }]
    );
    assert_eq!(look(&mut world, leader, &settings), [], "not twice at once");
    world.split(leader, GROUP, at, CHILD).unwrap();
    world.run_ms(1000);
    for _ in 0..20 {
        world.run_ms(1000);
        assert_eq!(look(&mut world, leader, &settings), [], "both halves are small");
    }
}

#[test]
fn a_hot_key_is_told_and_a_full_disk_splits_nothing() {
    let (mut world, leader) = world(1);
    let hot_second = |world: &mut World, key: &mut dyn FnMut() -> u64| {
        for _ in 0..200 {
            let key = key();
            world.ask(leader, GROUP, 1, get(key));
            world.run_ms(5);
        }
        look(world, leader, &SETTINGS)
    };
    for _ in 0..12 {
        assert_eq!(hot_second(&mut world, &mut || 7), []);
    }
    let shard = &world.node(leader).life.as_ref().unwrap().cores[0].shard;
    let hot = shard.hot_keys();
    assert_eq!((hot.len(), hot[0].group, &hot[0].key[..]), (1, GROUP, &b"0007"[..]));
    assert_eq!(hot[0].share_percent, 100);
    assert!(hot[0].requests_per_s.abs_diff(200) <= 2, "{hot:?}");
    let mut random = Random::new(5);
    world.node(leader).faults[0].disk_full = true;
    for _ in 0..12 {
        assert_eq!(hot_second(&mut world, &mut || random.below(1000)), [], "there is no room");
    }
    world.node(leader).faults[0].disk_full = false;
    let due = (0..3).find_map(|_| hot_second(&mut world, &mut || random.below(1000)).pop());
    assert!(due.is_some(), "it was due all the time");
    let shard = &world.node(leader).life.as_ref().unwrap().cores[0].shard;
    assert_eq!(shard.hot_keys(), []);
}
