//! Many groups hear of links and of support some each turn, and none counts on what it has not heard.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use oarlock_codec::Refusal;
use oarlock_shard::Shard;
use oarlock_store::{Command, Request};
use oarlock_types::{GroupId, Limits, Mono, NodeId};
use support::{World, plan};

const GROUPS: usize = 1500;
/// What one turn tells at most.
const TOLD_PER_TURN: usize = 256;
const DEAD: NodeId = NodeId(1);
const LOOKED_AT: NodeId = NodeId(2);

/// Three nodes of one core, each leading a third of many groups, all at rest.
fn world() -> World {
    let mut plan = plan(3, 1, GROUPS as u64, Limits::default());
    plan.segment_bytes = 16 << 20;
    plan.frame_bytes_max = 4 << 20;
    let mut world = World::new(plan, 7);
    world.trace.wanted.insert("no-outcomes".to_owned());
    let led = |world: &mut World| -> usize {
        let ids = world.plan.nodes.clone();
        ids.into_iter().map(|node| shard(world, node).counts().1).sum()
    };
    assert!(world.run_while(15_000, |world| led(world) < GROUPS));
    world.run_ms(2000);
    shard(&mut world, LOOKED_AT).observe();
    world
}

fn shard(world: &mut World, node: NodeId) -> &mut Shard {
    &mut world.node(node).life.as_mut().unwrap().cores[0].shard
}

/// Whom the last turn touched.
fn touched(world: &mut World) -> BTreeSet<GroupId> {
    let mut touched = Vec::new();
    shard(world, LOOKED_AT).take_touched(&mut touched);
    touched.into_iter().collect()
}

/// Whether there is more to do than its last turn could.
fn wants_more(world: &mut World) -> bool {
    let now = world.nodes[1].now(world.real);
    shard(world, LOOKED_AT).next_deadline() <= now
}

fn followers_of(world: &mut World, leader: NodeId) -> Vec<GroupId> {
    let shard = shard(world, LOOKED_AT);
    let follows = |group: &GroupId| shard.raft(*group).unwrap().leader() == Some(leader);
    shard.groups().iter().copied().filter(follows).collect()
}

#[test]
fn a_broken_link_is_told_to_some_groups_each_turn_and_to_all() {
    let mut world = world();
    world.break_link(LOOKED_AT, DEAD);
    world.cut.insert((LOOKED_AT, DEAD));
    let mut told = BTreeSet::new();
    for turn in 1..=GROUPS.div_ceil(TOLD_PER_TURN) {
        world.step(1000);
        let now_told = touched(&mut world);
        let news: usize = now_told.iter().filter(|group| told.insert(**group)).count();
        assert!((1..=TOLD_PER_TURN).contains(&news), "{news} in turn {turn}");
        assert_eq!(wants_more(&mut world), told.len() < GROUPS, "{} were told", told.len());
    }
    assert_eq!(told.len(), GROUPS);
}

/// While all are told that the link broke it comes up again: whoever leads asks over it anew.
#[test]
fn a_link_that_flaps_during_the_walk_is_told_to_all() {
    let mut world = world();
    let led = followers_of(&mut world, LOOKED_AT);
    // What goes out to one follower is lost with the link.
    world.drop.insert((LOOKED_AT, DEAD), u64::MAX);
    for group in &led {
        let command = Command::IncrBy { key: "k".into(), delta: 1 };
        world.ask(LOOKED_AT, *group, 1, Request::one(command));
    }
    world.run_ms(3);
    world.drop.remove(&(LOOKED_AT, DEAD));
    world.break_link(LOOKED_AT, DEAD);
    world.step(1000);
    assert!(
        wants_more(&mut world),
        "not all have heard that it broke, and with the next turn it comes up"
    );
    // Nobody waits for an answer so long that it would ask again by itself.
    let begun = world.real;
    let lacks = |world: &mut World| {
        let shard = &*shard(world, LOOKED_AT);
        let has = |group: &&GroupId| {
            let raft = shard.raft(**group).unwrap();
            raft.progress().any(|p| p.node == DEAD && p.reachable && p.matched == raft.last().index)
        };
        led.len() - led.iter().filter(has).count()
    };
    assert!(lacks(&mut world) > 0);
    assert!(world.run_while(150, |world| lacks(world) > 0), "{} lack it", lacks(&mut world));
    assert!(world.real - begun >= 3000, "{} us for all", world.real - begun);
}

/// Another node's promise ends while groups are still told of the first one's: all stand in the end.
#[test]
fn support_that_lapses_during_the_walk_is_told_to_all() {
    let mut world = world();
    let mut concerned = followers_of(&mut world, DEAD);
    concerned.extend(followers_of(&mut world, NodeId(3)));
    assert_eq!(concerned.len(), GROUPS * 2 / 3);
    // Nobody hears the others any more: two promises end within a few milliseconds of each other.
    world.separate(LOOKED_AT, DEAD);
    world.run_ms(3);
    world.separate(LOOKED_AT, NodeId(3));
    world.run_ms(700);
    let watches = |world: &mut World| -> usize {
        let shard = shard(world, LOOKED_AT);
        let watches = |group: &&GroupId| shard.raft(**group).unwrap().deadline() < Mono::NEVER;
        concerned.iter().filter(watches).count()
    };
    let (mut before, mut turns) = (watches(&mut world), 0);
    while before < concerned.len() {
        world.step(1000);
        let now = watches(&mut world);
        assert!(now - before <= TOLD_PER_TURN, "{} begin to watch in one turn", now - before);
        turns += u64::from(now > before);
        before = now;
        assert!(world.real < 30_000_000, "{} of {} watch", before, concerned.len());
    }
    assert!(turns >= 4, "{turns} turns");
}

/// Elections are spread by how many groups lose their leader; one that a client asks for is not put off.
#[test]
fn a_group_that_somebody_asks_for_does_not_wait_for_all_others() {
    let mut world = world();
    let concerned = followers_of(&mut world, DEAD);
    world.separate(LOOKED_AT, DEAD);
    let usual = Limits::default().election_delay_max;
    // The last to stand of those that are put off.
    let last = |world: &mut World| {
        let now = world.nodes[1].now(world.real);
        let shard = shard(world, LOOKED_AT);
        let stands_at = |group: &GroupId| (shard.raft(*group).unwrap().deadline(), *group);
        let put_off = concerned.iter().map(stands_at);
        put_off.filter(|(at, _)| (now + usual..Mono::NEVER).contains(at)).max()
    };
    assert!(world.run_while(2000, |world| last(world).is_none()), "none is put off");
    let (before, group) = last(&mut world).unwrap();
    let now = world.nodes[1].now(world.real);
    world.ask(LOOKED_AT, group, 1, Request::one(Command::Get { key: "k".into() }));
    let stands_at = |world: &mut World| shard(world, LOOKED_AT).raft(group).unwrap().deadline();
    assert!(world.run_while(5, |world| stands_at(world) == before), "it is not brought forward");
    assert!(stands_at(&mut world) <= now + usual + Duration::from_millis(5));
}

/// Leaders whose support has run out have no lease from that very moment, told or not, and answer no read by it.
#[test]
fn a_leader_that_was_not_told_yet_has_no_lease_all_the_same() {
    let mut world = world();
    let led = followers_of(&mut world, LOOKED_AT);
    let leases = |world: &mut World| {
        let now = world.nodes[1].now(world.real);
        let shard = shard(world, LOOKED_AT);
        led.iter().filter(|group| shard.holds_lease(**group, now)).count()
    };
    assert_eq!(leases(&mut world), led.len());
    world.separate(LOOKED_AT, DEAD);
    world.separate(LOOKED_AT, NodeId(3));
    let leads = |world: &mut World| {
        let shard = shard(world, LOOKED_AT);
        led.iter().copied().filter(|group| shard.leads(*group)).collect::<Vec<_>>()
    };
    assert!(world.run_while(2000, |world| leads(world).len() == led.len()), "all lead still");
    let still = leads(&mut world);
    assert!(led.len() - still.len() <= TOLD_PER_TURN && !still.is_empty(), "{}", still.len());
    assert_eq!(leases(&mut world), 0, "none counts on what has lapsed");
    let read = Request::one(Command::Get { key: "k".into() });
    let token = world.ask(LOOKED_AT, *still.last().unwrap(), 1, read);
    world.run_ms(2000);
    assert_eq!(leads(&mut world), [], "all have stepped down");
    let outcome = world.outcomes.get(&token).expect("it has one");
    assert!(matches!(outcome, Err(Refusal::NotLeader { .. } | Refusal::NoQuorum)), "{outcome:?}");
}
