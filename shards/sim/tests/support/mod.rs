//! What scenarios ask of a world.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test is a crate that uses its part, and fails by panicking"
)]

use bytes::Bytes;
use oarlock_shard::Outcome;
use oarlock_sim::{Config, World};
use oarlock_store::{Command, Expiry, Request, SetCondition};
use oarlock_types::{GroupId, NodeId};

pub const GROUP: GroupId = GroupId(1);
pub const MS: u64 = 1000;
pub const SECOND: u64 = 1_000_000;

pub fn world(seed: u64, nodes: u64, groups: u64) -> World {
    let mut world = World::new(seed, Config::calm(nodes, 1, groups));
    world.all_groups_serve();
    world
}

pub fn set(key: &str, value: &str) -> Request {
    let (key, value) = (Bytes::from(key.to_owned()), Bytes::from(value.to_owned()));
    let (condition, expiry) = (SetCondition::Always, Expiry::None);
    Request::one(Command::Set { key, value, condition, expiry, get: false })
}

pub fn get(key: &str) -> Request {
    Request::one(Command::Get { key: Bytes::from(key.to_owned()) })
}

/// Asks and waits; `None` if there is no outcome in time.
pub fn ask(world: &mut World, node: NodeId, request: Request, us_max: u64) -> Option<Outcome> {
    let token = world.request(node, GROUP, request);
    outcome(world, token, us_max)
}

/// Waits for a request's outcome; `None` if there is none in time.
pub fn outcome(world: &mut World, token: u64, us_max: u64) -> Option<Outcome> {
    let mut outcome = None;
    world.run_till(us_max, |world| {
        outcome = world.take_outcome(token);
        outcome.is_some()
    });
    outcome
}

pub fn others(world: &World, node: NodeId) -> Vec<NodeId> {
    world.config.node_ids().filter(|other| *other != node).collect()
}

/// Another leader than this one, which must come within the time.
#[track_caller]
pub fn another_leader(world: &mut World, old: NodeId, us_max: u64) -> NodeId {
    let found = world.run_till(us_max, |w| w.leader(GROUP).is_some_and(|leader| leader != old));
    assert!(found, "nobody takes over from {old}: {}", world.who_waits());
    world.leader(GROUP).unwrap()
}
