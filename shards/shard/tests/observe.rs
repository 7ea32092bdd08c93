//! What can be asked of a core is so: by an observer of the whole cluster, and by people.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use bytes::Bytes;
use oarlock_codec::{GroupMessage, Refusal};
use oarlock_raft::{Append, Body, LogPosition, Message};
use oarlock_shard::moves::Departure;
use oarlock_shard::{Output, Shard};
use oarlock_store::{Command, Expiry, Request, SetCondition};
use oarlock_types::{
    CoreAddr, CoreId, GroupId, Index, Limits, Mono, NodeId, RangeEpoch, Term, WallMs,
};
use support::{World, plan};

const GROUP: GroupId = GroupId(1);

/// Three nodes with the ranges of two groups; the second is the one that holds the map.
fn world() -> World {
    let mut plan = plan(3, 1, 2, Limits::default());
    plan.ranges[1].group = GroupId::META;
    let mut world = World::new(plan, 1);
    world.run_ms(2000);
    world
}

fn shard(world: &mut World, node: NodeId) -> &mut Shard {
    &mut world.node(node).life.as_mut().unwrap().cores[0].shard
}

fn set(world: &mut World, group: GroupId, key: &'static str, expiry: Expiry) {
    let leader = world.leader(group).unwrap();
    let (key, value) = (Bytes::from_static(key.as_bytes()), Bytes::from_static(b"v"));
    let command = Command::Set { key, value, condition: SetCondition::Always, expiry, get: false };
    let token = world.ask(leader, group, 1, Request::one(command));
    world.run_while(1000, |world| !world.outcomes.contains_key(&token));
    world.run_ms(100);
}

#[test]
fn only_what_is_touched_while_somebody_observes_is_told() {
    let mut world = world();
    let leader = world.leader(GROUP).unwrap();
    let mut touched = Vec::new();
    shard(&mut world, leader).take_touched(&mut touched);
    assert_eq!(touched, [], "nobody has observed");
    shard(&mut world, leader).observe();
    set(&mut world, GROUP, "k", Expiry::None);
    shard(&mut world, leader).take_touched(&mut touched);
    touched.dedup();
    assert_eq!(touched, [GROUP], "the other group is idle");
    touched.clear();
    shard(&mut world, leader).take_touched(&mut touched);
    assert_eq!(touched, [], "each step is told once");
    let shard = shard(&mut world, leader);
    assert_eq!(shard.raft(GROUP).map(|raft| raft.id()), Some(GROUP));
    assert!(shard.raft(GroupId(9)).is_none());
}

#[test]
fn replicas_that_applied_the_same_hold_the_same() {
    let mut world = world();
    let held = |world: &mut World| {
        world
            .plan
            .nodes
            .clone()
            .into_iter()
            .map(|n| shard(world, n).applied_state(GROUP).unwrap())
            .collect::<Vec<_>>()
    };
    let before = held(&mut world);
    set(&mut world, GROUP, "k", Expiry::None);
    let after = held(&mut world);
    assert!(after.iter().all(|state| *state == after[0]), "{after:?}");
    assert_eq!(after[0].0, Index(before[0].0.get() + 1));
    assert_ne!(after[0].1, before[0].1);
    assert_eq!(shard(&mut world, NodeId(1)).applied_state(GroupId(9)), None);
}

#[test]
fn one_replica_holds_the_lease_until_support_runs_out() {
    let mut world = world();
    let leader = world.leader(GROUP).unwrap();
    let holds = |world: &mut World, later_ms: u64| {
        let real = world.real;
        let all = world.plan.nodes.clone().into_iter();
        let holders = all.filter(|id| {
            let now = Mono(world.node(*id).now(real).0 + later_ms * 1000);
            shard(world, *id).holds_lease(GROUP, now)
        });
        holders.collect::<Vec<_>>()
    };
    assert_eq!(holds(&mut world, 0), [leader]);
    assert_eq!(holds(&mut world, 2000), [], "nobody has heard of anybody for two seconds");
    let now = world.nodes[0].now(world.real);
    assert!(!shard(&mut world, NodeId(1)).holds_lease(GroupId(9), now));
}

#[test]
fn counts_are_of_what_is_led_and_of_what_clients_wrote() {
    let mut world = world();
    set(&mut world, GROUP, "a", Expiry::None);
    set(&mut world, GROUP, "b", Expiry::In(60_000));
    set(&mut world, GROUP, "c", Expiry::None);
    set(&mut world, GroupId::META, "m", Expiry::None);
    let (leader, of_map) = (world.leader(GROUP).unwrap(), world.leader(GroupId::META).unwrap());
    assert_ne!(leader, of_map);
    let third = world.plan.nodes.iter().copied().find(|n| *n != leader && *n != of_map).unwrap();
    for (node, leads, keys, acknowledged) in
        [(leader, 1, (3, 1), 3), (of_map, 1, (0, 0), 1), (third, 0, (0, 0), 0)]
    {
        let shard = shard(&mut world, node);
        assert_eq!(shard.counts(), (2, leads));
        let mut led = 0;
        shard.survey(0, 100, |_, report| led += usize::from(report.is_some()));
        assert_eq!((led, shard.keys_led()), (leads, keys));
        assert_eq!(shard.writes_acknowledged(), acknowledged);
        assert_eq!((shard.waiting(), shard.unfinished()), (0, Vec::new()));
        assert!(shard.has_replica(GROUP) && !shard.has_replica(GroupId(9)));
        let all = shard.status();
        assert_eq!(all.iter().map(|s| s.group).collect::<Vec<_>>(), [GroupId::META, GROUP]);
        assert_eq!((all[1].keys, all[1].applied, all[1].commit), (3, Index(4), Index(4)));
        assert!(all[1].state_bytes > 0 && all[1].log_bytes > 0 && all[1].epoch.get() == 1);
        assert_eq!(all[1].leader, Some(leader));
        assert_eq!(all[1].followers.len(), if node == leader { 2 } else { 0 });
    }
    // While the logs are held writes wait.
    for node in &mut world.nodes {
        node.faults[0].wal_held = true;
    }
    for key in ["x", "y"] {
        let command = Command::IncrBy { key: key.into(), delta: 1 };
        world.ask(leader, GROUP, 1, Request::one(command));
    }
    world.run_ms(10);
    assert_eq!(shard(&mut world, leader).waiting(), 2);
}

#[test]
fn what_a_replica_took_in_the_turn_in_which_it_ends_is_sent_back() {
    let mut world = world();
    let leader = world.leader(GROUP).unwrap();
    let (next, core) = (NodeId(leader.get() % 3 + 1), CoreId(0));
    let members = world.plan.nodes.clone();
    let changed = shard(&mut world, leader).change_configuration(GROUP, members, Vec::new());
    assert!(changed.is_ok(), "{changed:?}");
    world.run_ms(100);
    let real = world.real;
    let now = world.node(leader).now(real);
    let shard = shard(&mut world, leader);
    shard.begin_turn(now, WallMs(2_000_000));
    let waiting = shard.waiting();
    shard.request(77, GROUP, RangeEpoch(1), Request::one(Command::GetDel { key: "k".into() }));
    assert_eq!(shard.waiting(), waiting + 1);
    let append = Append {
        core,
        prev: LogPosition::default(),
        entries: Vec::new(),
        commit: Index(0),
        read_sequence: 0,
        wants_reply: true,
    };
    let message = Message { term: Term(9), body: Body::Append(append) };
    shard.messages(CoreAddr::new(next, core), vec![GroupMessage { group: GROUP, message }]);
    assert_eq!(shard.destroy(GROUP, Index(100)), Departure::Ended);
    let mut output = Output::default();
    shard.finish_turn(&mut output);
    assert_eq!(output.replies, [(77, Err(Refusal::NoSuchGroup))]);
    assert_eq!(shard.waiting(), waiting);
}

/// The keys that each node counts, after a look at all if `look`.
fn counted(world: &mut World, look: bool) -> Vec<usize> {
    let nodes = world.plan.nodes.clone().into_iter();
    nodes
        .map(|node| {
            let shard = shard(world, node);
            if look {
                shard.survey(100, 100, |_, _| ());
            }
            shard.keys_led().0
        })
        .collect()
}

fn world_with_three_keys() -> World {
    let mut world = world();
    for key in ["a", "b", "c"] {
        set(&mut world, GROUP, key, Expiry::None);
    }
    assert_eq!(counted(&mut world, true).iter().sum::<usize>(), 3);
    world
}

#[test]
fn keys_do_not_count_where_a_leader_was_overtaken_and_does_not_know() {
    let mut world = world_with_three_keys();
    let old = world.leader(GROUP).unwrap();
    let [new, third] = [1, 2].map(|n| NodeId((old.get() + n - 1) % 3 + 1));
    assert!(shard(&mut world, old).transfer(GROUP, Some(new)).is_ok());
    assert_eq!(counted(&mut world, false).iter().sum::<usize>(), 0, "nobody may serve it");
    // What it has said arrives, and nothing more of it or to it.
    let term = shard(&mut world, old).term(GROUP);
    world.run_while(50, |world| shard(world, new).term(GROUP) == term);
    world.separate(old, new);
    world.separate(old, third);
    let both = |world: &mut World| shard(world, new).leads(GROUP) && shard(world, old).leads(GROUP);
    let mut saw_both = false;
    for _ in 0..2000 {
        world.step(1000);
        saw_both |= both(&mut world);
        let sum = counted(&mut world, true).iter().sum::<usize>();
        assert!(sum <= 3, "{sum} of 3 keys");
    }
    assert!(saw_both, "two thought that they led");
    assert!(shard(&mut world, new).leads(GROUP));
    assert_eq!((shard(&mut world, old).keys_led().0, shard(&mut world, new).keys_led().0), (0, 3));
}

#[test]
fn keys_that_were_cut_off_do_not_count_twice() {
    let mut world = world_with_three_keys();
    let (leader, child) = (world.leader(GROUP).unwrap(), GroupId(9));
    world.split(leader, GROUP, Bytes::from_static(b"b"), child).unwrap();
    let mut counted_child = false;
    for _ in 0..500 {
        world.step(1000);
        // Only the new range is looked at: the old one has nothing to do.
        let nodes = world.plan.nodes.clone();
        let mut sum = 0;
        for node in nodes {
            let shard = shard(&mut world, node);
            sum += shard.keys_led().0;
            counted_child |= shard.leads(child) && shard.keys_led().0 > 0;
        }
        assert!(sum <= 3, "{sum} of 3 keys");
    }
    assert!(counted_child);
    assert_eq!(counted(&mut world, true).iter().sum::<usize>(), 3);
}
