//! Runs a scenario without a guard and with it, and the steps that scenarios share.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use oarlock_shard::Outcome;
use oarlock_sim::{Config, World};
use oarlock_store::{Reply, Request};
use oarlock_types::{Guard, NodeId};

pub(crate) use crate::support::{GROUP, MS, SECOND, get, others, outcome, set};

/// What is found without a guard must begin so.
pub(crate) const LOST: &str = "what is committed is never lost";
pub(crate) const QUORUM: &str = "what is committed is on the disks of a quorum";
pub(crate) const SAID: &str = "what is said is on disk";
pub(crate) const COMPLETE: &str = "leader completeness";
pub(crate) const MATCHING: &str = "log matching";
pub(crate) const STATE: &str = "state-machine safety";
pub(crate) const LEASE: &str = "at most one lease";
pub(crate) const SERVES: &str = "every group serves once faults have stopped";
pub(crate) const SOUND: &str = "a sound disk is not called damaged";
pub(crate) const STALE: &str = "a stale read";

/// Without the guard one of the seeds `1..=seeds_max` breaks one of the properties; with it those
/// up to that one break none.
pub(crate) fn finds(guard: Guard, seeds_max: u64, properties: &[&str], scenario: impl Fn(u64)) {
    let found = (1..=seeds_max).find(|seed| {
        let run = || guard.removed(|| scenario(*seed));
        let Err(panic) = catch_unwind(AssertUnwindSafe(run)) else { return false };
        let text = words(panic.as_ref());
        let is_expected = properties.iter().any(|property| text.starts_with(property));
        assert!(is_expected, "without {guard:?} seed {seed} breaks something else: {text}");
        let line = text.lines().next().unwrap_or_default();
        println!("{guard:?}: seed {seed}: {}", line.chars().take(160).collect::<String>());
        true
    });
    let Some(found) = found else {
        panic!("without {guard:?} nothing is found in {seeds_max} seeds");
    };
    (1..=found).for_each(scenario);
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked")
}

/// A group with a replica on each of so many nodes, and nobody that asks for anything.
pub(crate) fn quiet(nodes: u64) -> Config {
    let mut config = Config::calm(nodes, 1, 1);
    config.clients = 0;
    config.replicas = nodes;
    config
}

pub(crate) fn serving(seed: u64, config: Config) -> World {
    let mut world = World::new(seed, config);
    world.all_groups_serve();
    world
}

pub(crate) fn ask(world: &mut World, node: NodeId, request: Request) -> Option<Outcome> {
    let token = world.request(node, GROUP, request);
    outcome(world, token, SECOND)
}

/// A write through the leader that must be acknowledged.
#[track_caller]
pub(crate) fn write(world: &mut World, key: &str, value: &str) {
    for _ in 0..50 {
        if let Some(leader) = world.leader(GROUP)
            && ask(world, leader, set(key, value)) == Some(Ok(Reply::Ok))
        {
            return;
        }
        world.run_for(100 * MS);
    }
    panic!("nobody takes a write: {}", world.who_waits());
}

pub(crate) fn leader(world: &World) -> NodeId {
    world.leader(GROUP).unwrap()
}

pub(crate) fn leads(world: &World, node: NodeId) -> bool {
    world.replica(node, GROUP).is_some_and(|replica| replica.is_leader())
}

/// Whether one of these comes to lead within the time.
pub(crate) fn one_leads(world: &mut World, nodes: &[NodeId], us_max: u64) -> Option<NodeId> {
    world.run_till(us_max, |world| nodes.iter().any(|node| leads(world, *node)));
    nodes.iter().copied().find(|node| leads(world, *node))
}

/// Another leader than this one, which must come within 10 s.
#[track_caller]
pub(crate) fn another_leader(world: &mut World, old: NodeId) -> NodeId {
    let rest = others(world, old);
    let found = one_leads(world, &rest, 10 * SECOND);
    found.unwrap_or_else(|| panic!("nobody takes over from {old}: {}", world.who_waits()))
}

/// Three leaders die, one after the other, and come back.
#[track_caller]
pub(crate) fn kill_leaders(world: &mut World) {
    for _ in 0..3 {
        let first = leader(world);
        world.kill(first);
        another_leader(world, first);
        world.restart(first);
        world.run_for(2 * SECOND);
    }
    world.settle();
}

/// Makes `to` the leader.
#[track_caller]
pub(crate) fn hand_over(world: &mut World, to: NodeId) {
    for _ in 0..20 {
        if world.leader(GROUP) == Some(to) {
            return;
        }
        world.hand_over(GROUP, to);
        world.run_till(500 * MS, |world| world.leader(GROUP) == Some(to));
    }
    panic!("{to} is not made the leader: {}", world.who_waits());
}

pub(crate) fn cut(world: &mut World, side: &[NodeId], rest: &[NodeId]) {
    for (a, b) in pairs(side, rest) {
        world.cut(a, b);
    }
}

pub(crate) fn join(world: &mut World, side: &[NodeId], rest: &[NodeId]) {
    for (a, b) in pairs(side, rest) {
        world.join(a, b);
    }
}

fn pairs(side: &[NodeId], rest: &[NodeId]) -> Vec<(NodeId, NodeId)> {
    side.iter().flat_map(|a| rest.iter().map(|b| (*a, *b))).collect()
}
