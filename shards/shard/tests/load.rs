//! Many groups on few cores: what idle ones cost, how ten thousand of them find leaders again, and
//! what a busy one leaves behind.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use bytes::Bytes;
use oarlock_store::{Command, Request};
use oarlock_types::{CoreId, GroupId, Limits, Mono, NodeId};
use support::{World, plan};

fn world(groups: u64, limits: Limits) -> World {
    let mut plan = plan(3, 1, groups, limits);
    plan.segment_bytes = 16 << 20;
    plan.frame_bytes_max = 4 << 20;
    let mut world = World::new(plan, 7);
    world.trace.wanted.insert("no-outcomes".to_owned());
    world
}

/// How many groups the nodes that are up lead.
fn led(world: &World) -> usize {
    let lives = world.nodes.iter().filter_map(|node| node.life.as_ref());
    lives.flat_map(|life| &life.cores).map(|core| core.shard.counts().1).sum()
}

/// Waits until all groups have leaders. Counting them is dear, so it is done now and then.
fn form(world: &mut World, groups: usize) {
    for _ in 0..150 {
        if led(world) == groups {
            return;
        }
        world.run_ms(100);
    }
    panic!("{} of {groups} have leaders after 15 s", led(world));
}

fn frames(world: &World) -> u64 {
    world.nodes.iter().flat_map(|node| &node.disks).map(|disk| disk.frames_count).sum()
}

#[test]
fn idle_groups_cost_nothing() {
    let mut world = world(1000, Limits::default());
    form(&mut world, 1000);
    world.run_ms(1000);
    let (messages, frames_before) = (world.messages_sent, frames(&world));
    for _ in 0..100 {
        world.run_ms(100);
        for node in &world.nodes {
            let shard = &node.life.as_ref().unwrap().cores[0].shard;
            assert_eq!((shard.timers_armed(), shard.next_deadline()), (0, Mono::NEVER));
        }
    }
    assert_eq!(world.messages_sent, messages, "idle groups say nothing");
    assert_eq!(frames(&world), frames_before, "and write nothing");
    assert_eq!(led(&world), 1000, "and keep their leaders");
    assert!(world.pulses_sent > 1000, "the pulses go on");
}

/// The leaders' node dies: a third of all groups lose their leader at once. They stand for election
/// spread over two seconds, not all in one turn.
#[test]
fn ten_thousand_groups_find_leaders_again_without_a_storm() {
    const GROUPS: u64 = 10_000;
    let mut world = world(GROUPS, Limits::default());
    let all = usize::try_from(GROUPS).unwrap();
    form(&mut world, all);
    world.run_ms(1000);
    world.crash(NodeId(1), 0);
    let (mut most, mut total) = (0, 0);
    let mut ticks = 0;
    while led(&world) < all {
        let before = world.messages_sent;
        world.run_ms(10);
        most = most.max(world.messages_sent - before);
        total += world.messages_sent - before;
        ticks += 1;
        assert!(ticks < 500, "{} have leaders after 5 s", led(&world));
    }
    println!("{total} messages in {ticks} ticks, {most} in the busiest");
    assert!(most < GROUPS / 4, "{most} messages in one tick");
}

/// Deadlines that move closer and away again leave nothing behind.
#[test]
fn a_busy_group_keeps_few_timers() {
    let mut world = world(1, Limits::default());
    assert!(world.run_while(2000, |w| led(w) < 1));
    let leader = world.leader(GroupId(1)).unwrap();
    for _ in 0..2000 {
        let command = Command::IncrBy { key: "k".into(), delta: 1 };
        world.ask(leader, GroupId(1), 1, Request::one(command));
        world.run_ms(2);
    }
    assert!(world.outcomes.len() > 1990);
    for node in &world.nodes {
        let armed = node.life.as_ref().unwrap().cores[0].shard.timers_armed();
        assert!(armed < 20, "{} keeps {armed} hints for one group", node.id);
    }
}

/// Many groups that write a little each, one entry to a frame, hold every segment of the log. It
/// stays short all the same, through checkpoints that come evenly, not by being read back.
#[test]
fn a_log_of_sparse_frames_stays_short() {
    const GROUPS: u64 = 8;
    let mut plan = plan(3, 1, GROUPS, Limits::default());
    plan.segment_bytes = 512 << 10;
    let mut world = World::new(plan, 7);
    world.trace.wanted.insert("no-outcomes".to_owned());
    form(&mut world, 8);
    let value = Bytes::from(vec![b'v'; 1500]);
    for round in 0..900 {
        for group in (1..=GROUPS).map(GroupId) {
            let leader = world.leader(group).unwrap();
            let key = format!("k{}", round % 16).into();
            let command = Command::SetRange { key, offset: 0, value: value.clone() };
            world.ask(leader, group, 1, Request::one(command));
            world.run_ms(1);
        }
    }
    for node in &world.nodes {
        let disk = &node.disks[0];
        let written = disk.frames_count * 4096 / (512 << 10);
        assert!(written > 30, "{}: only {written} segments' worth was written", node.id);
        assert!(disk.segments_count_max <= 12, "{}: {}", node.id, disk.segments_count_max);
        // What made the groups and their votes is copied now and then: a frame each time.
        assert!(disk.frame_reads_count < 10, "{}: {} reads", node.id, disk.frame_reads_count);
    }
}

/// A node that was away lacks entries of all its groups, and they stand in the same frames: what it
/// lacks is read about once, not once for each group.
#[test]
fn a_node_that_comes_back_has_the_log_read_once_for_all_groups() {
    const GROUPS: u64 = 32;
    let limits = Limits { log_cache_bytes_max: 4096, ..Limits::default() };
    let mut world = world(GROUPS, limits);
    form(&mut world, 32);
    world.crash(NodeId(3), 0);
    assert!(world.run_while(5000, |w| led(w) < 32));
    let value = Bytes::from(vec![b'v'; 700]);
    let written = |world: &World| {
        world.nodes[..2].iter().map(|node| node.disks[0].frames_bytes).sum::<usize>()
    };
    let before = written(&world);
    for _ in 0..100 {
        for group in (1..=GROUPS).map(GroupId) {
            let leader = world.leader(group).unwrap();
            let command = Command::SetRange { key: "k".into(), offset: 0, value: value.clone() };
            world.ask(leader, group, 1, Request::one(command));
        }
        world.run_ms(2);
    }
    let lacking = written(&world) - before;
    world.restart(NodeId(3));
    let behind = |world: &mut World| {
        let of = |world: &mut World, id| world.statuses(NodeId(id), CoreId(0));
        let (has, here) = (of(world, 3), of(world, 1));
        has.len() < here.len() || has.iter().zip(&here).any(|(h, l)| h.applied < l.applied)
    };
    assert!(world.run_while(10_000, behind), "it has caught up");
    let read: usize = world.nodes.iter().map(|node| node.disks[0].frames_read_bytes).sum();
    assert!(read > lacking / 4, "{read} bytes were read of {lacking}: the log was not needed");
    assert!(read < 3 * lacking, "{read} bytes were read to send what stands in {lacking}");
}
