//! Scripted scenarios: what broke other systems, driven on purpose. Each says its property, drives
//! its schedule, and ends with the whole judgement of a run.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use bytes::Bytes;
use oarlock_codec::Refusal;
use oarlock_sim::{Config, Trouble, World};
use oarlock_store::Reply;
use oarlock_types::{CoreAddr, CoreId, GroupId, NodeId};
use support::{GROUP, MS, SECOND, another_leader, ask, get, others, outcome, set, world};

/// Edge case 7. A node that comes back blank under its old id does not vote as its former self: it
/// stays outside, and the others go on and keep what was acknowledged.
#[test]
fn a_blank_disk_under_an_old_id_stays_outside() {
    let mut world = world(71, 3, 1);
    let leader = world.leader(GROUP).unwrap();
    assert_eq!(ask(&mut world, leader, set("~blank", "1"), SECOND), Some(Ok(Reply::Ok)));
    let victim = others(&world, leader)[0];
    let blank = Trouble::Blank(victim);
    world.trouble(&blank, 0);
    world.run_for(200 * MS);
    world.relief(&blank);
    // With the third node away only the blank one could make a quorum: it must not.
    let third = others(&world, leader).into_iter().find(|node| *node != victim).unwrap();
    world.kill(third);
    world.run_for(5 * SECOND);
    let read = ask(&mut world, leader, get("~blank"), SECOND);
    assert!(!matches!(read, Some(Ok(_))), "a blank node counted: {read:?}");
    world.restart(third);
    world.settle();
}

/// Edge case 8. A hears B but B does not hear A: the terms do not run away, and a leader without a
/// quorum steps down and answers no read.
#[test]
fn a_one_way_link_neither_inflates_terms_nor_keeps_a_leader() {
    let mut world = world(81, 3, 1);
    let leader = world.leader(GROUP).unwrap();
    let cut: Vec<Trouble> =
        others(&world, leader).into_iter().map(|to| Trouble::OneWay(to, leader)).collect();
    cut.iter().for_each(|trouble| world.trouble(trouble, 0));
    let new = another_leader(&mut world, leader, 15 * SECOND);
    let elections = world.figures().elections;
    world.run_for(20 * SECOND);
    assert_eq!(world.leader(GROUP), Some(new));
    assert!(world.figures().elections <= elections + 1, "terms run away");
    let read = ask(&mut world, leader, get("k0"), SECOND);
    assert!(!matches!(read, Some(Ok(_))), "the old leader answered {read:?}");
    cut.iter().for_each(|trouble| world.relief(trouble));
    world.settle();
}

/// Edge case 8. Five nodes; one sees only one other: the four go on undisturbed.
#[test]
fn a_node_that_sees_only_one_other_disturbs_nobody() {
    let mut config = Config::calm(5, 1, 1);
    config.replicas = 5;
    let mut world = World::new(82, config);
    world.all_groups_serve();
    let leader = world.leader(GROUP).unwrap();
    let away = others(&world, leader);
    let (odd, friend) = (away[0], away[1]);
    let rest = world.config.node_ids().filter(|node| *node != odd && *node != friend);
    for node in rest.collect::<Vec<_>>() {
        world.cut(odd, node);
    }
    let elections = world.figures().elections;
    world.run_for(20 * SECOND);
    assert_eq!((world.leader(GROUP), world.figures().elections), (Some(leader), elections));
    world.settle();
}

/// Edge case 11. A failed write of the log is final: the process stops, what it had acknowledged is
/// there, and the others go on.
#[test]
fn a_failed_write_of_the_log_stops_the_process() {
    let mut world = world(111, 3, 1);
    let leader = world.leader(GROUP).unwrap();
    assert_eq!(ask(&mut world, leader, set("~kept", "1"), SECOND), Some(Ok(Reply::Ok)));
    let at = CoreAddr::new(leader, CoreId(0));
    world.trouble(&Trouble::WalFail(at), 0);
    let outcome = ask(&mut world, leader, set("~kept", "2"), 2 * SECOND);
    assert_ne!(outcome, Some(Ok(Reply::Ok)), "acknowledged although the write failed");
    world.run_for(3 * SECOND);
    world.settle();
    let leader = world.leader(GROUP).unwrap();
    assert!(matches!(ask(&mut world, leader, get("~kept"), SECOND), Some(Ok(Reply::Bulk(_)))));
}

/// Edge cases 14 and 18. Power fails everywhere, again and again, in the middle of writes and of
/// compactions: all that was acknowledged comes back.
#[test]
fn power_fails_everywhere_again_and_again() {
    let mut config = Config::calm(3, 2, 4);
    config.limits.compact_log_bytes_min = 2 << 10;
    config.think_us = 1000;
    let mut world = World::new(141, config);
    for round in 0..12 {
        world.run_for(900 * MS + round * 77 * MS);
        world.trouble(&Trouble::PowerLossAll, 0);
        world.run_for(20 * MS);
        world.relief(&Trouble::PowerLossAll);
    }
    world.settle();
    assert!(world.figures().answered > 100, "{:?}", world.figures());
}

/// Edge case 17. One bit flipped on one node's disk loses nothing and invents nothing.
#[test]
fn a_flipped_bit_on_one_node_loses_nothing() {
    for seed in 170..178 {
        let mut config = Config::calm(3, 1, 3);
        config.limits.compact_log_bytes_min = 4 << 10;
        config.think_us = 2000;
        let mut world = World::new(seed, config);
        world.run_for(3 * SECOND);
        let flip = Trouble::FlipBit(CoreAddr::new(NodeId(1 + seed % 3), CoreId(0)));
        world.trouble(&flip, 0);
        world.run_for(300 * MS);
        world.relief(&flip);
        world.run_for(2 * SECOND);
        world.settle();
    }
}

/// Edge case 19. A core that stands still, or whose log stalls, is not kept alive by its node: its
/// groups go elsewhere while those of the other core stay.
#[test]
fn a_dead_core_is_not_kept_alive_by_its_node() {
    for stall in [false, true] {
        let mut world = World::new(191, Config::calm(3, 2, 2));
        world.all_groups_serve();
        let leader = world.leader(GROUP).unwrap();
        let other = world.leader(GroupId(2)).unwrap();
        let at = CoreAddr::new(leader, CoreId(0));
        let trouble = if stall { Trouble::WalStall(at) } else { Trouble::StuckCore(at) };
        let ends_at = world.now_us() + 60 * SECOND;
        world.trouble(&trouble, ends_at);
        another_leader(&mut world, leader, 10 * SECOND);
        assert_eq!(world.leader(GroupId(2)), Some(other), "the other core's group moved, too");
        world.relief(&trouble);
        world.settle();
    }
}

/// Edge case 21. A leader that stood still for seconds answers no stale read when it wakes, with
/// every clock at an edge of the drift bound.
#[test]
fn a_leader_that_was_paused_answers_no_stale_read() {
    for rates in [[1020, 980, 980], [980, 1020, 1020], [1000, 1000, 1000]] {
        let mut config = Config::calm(3, 1, 1);
        config.clock_rates = rates.to_vec();
        let mut world = World::new(211, config);
        world.all_groups_serve();
        let leader = world.leader(GROUP).unwrap();
        assert_eq!(ask(&mut world, leader, set("~stale", "old"), SECOND), Some(Ok(Reply::Ok)));
        world.pause(leader);
        let token = world.request(leader, GROUP, get("~stale"));
        let new = another_leader(&mut world, leader, 10 * SECOND);
        assert_eq!(ask(&mut world, new, set("~stale", "new"), SECOND), Some(Ok(Reply::Ok)));
        world.resume(leader);
        world.run_for(SECOND);
        let read = world.take_outcome(token);
        let is_stale = matches!(&read, Some(Ok(Reply::Bulk(value))) if value == "old");
        assert!(!is_stale, "{rates:?}: {read:?}");
        world.settle();
    }
}

/// Edge case 22. Voters that restart at once have forgotten their support: nobody leads while the
/// old leader may still hold its lease. The world checks that at every event.
#[test]
fn restarted_voters_wait_their_promises_out() {
    for seed in 220..226 {
        let mut world = world(seed, 3, 2);
        for _ in 0..4 {
            let Some(leader) = world.leader(GROUP) else { break };
            for node in others(&world, leader) {
                world.kill(node);
                world.restart(node);
                world.cut(leader, node);
            }
            world.run_for(3 * SECOND);
            for node in others(&world, leader) {
                world.join(leader, node);
            }
            world.run_for(2 * SECOND);
        }
        world.settle();
    }
}

/// Edge case 28. Quiet groups wake when their leaders' node dies, all of them, within a bounded
/// time.
#[test]
fn quiet_groups_wake_when_their_leader_dies() {
    let mut config = Config::calm(3, 1, 300);
    config.clients = 0;
    let mut world = World::new(281, config);
    world.all_groups_serve();
    let messages = world.figures().messages;
    world.run_for(10 * SECOND);
    assert!(world.figures().messages - messages < 50, "idle groups talk");
    let dead = world.leader(GROUP).unwrap();
    let led: Vec<GroupId> =
        world.config.group_ids().filter(|group| world.leader(*group) == Some(dead)).collect();
    world.kill(dead);
    let woken = world.run_till(10 * SECOND, |world| {
        led.iter().all(|group| world.leader(*group).is_some_and(|leader| leader != dead))
    });
    assert!(woken, "{} of {} groups sleep on", led.len(), world.config.groups);
    world.settle();
}

/// Edge case 24. A range that a split has just made, on one node alone, outlives that node, though power fails everywhere
/// and the others hear of it before they come to the split: by word they would make replicas of it on another
/// core, that have nothing.
#[test]
fn a_range_that_a_split_has_just_made_outlives_the_one_node_that_has_made_it() {
    for seed in 0..40 {
        let mut config = Config::calm(3, 2, 1);
        config.clients = 0;
        let mut world = World::new(seed, config);
        world.all_groups_serve();
        let first = world.leader(GROUP).unwrap();
        assert_eq!(ask(&mut world, first, set("z", "1"), SECOND), Some(Ok(Reply::Ok)));
        world.run_for(SECOND);
        let others = others(&world, first);
        let slow = |node: &NodeId| Trouble::SlowLink(first, *node, 100_000);
        others.iter().for_each(|node| world.trouble(&slow(node), 0));
        let child = world.cut_range(GROUP, Bytes::from_static(b"m")).unwrap();
        assert!(world.run_till(SECOND, |world| world.replica(first, child).is_some()));
        world.run_for(10 * MS);
        others.iter().for_each(|node| world.relief(&slow(node)));
        world.trouble(&Trouble::PowerLossAll, 0);
        world.relief(&Trouble::PowerLossAll);
        let is_there =
            |world: &mut World| others.iter().any(|node| world.replica(*node, child).is_some());
        assert!(world.run_till(20 * SECOND, is_there), "the others hear of it");
        world.kill(first);
        let leads = |world: &mut World| world.leader(child).is_some_and(|leader| leader != first);
        assert!(world.run_till(20 * SECOND, leads), "seed {seed}: {}", world.who_waits());
        let leader = world.leader(child).unwrap();
        let token = world.request(leader, child, get("z"));
        let read = outcome(&mut world, token, SECOND);
        assert_eq!(read, Some(Ok(Reply::Bulk(Bytes::from_static(b"1")))), "seed {seed}");
        world.restart(first);
        world.settle();
    }
}

/// Edge case 29. The data link of a follower is down while pulses flow: its leader goes on without
/// it, and the follower neither disturbs it nor is lost.
#[test]
fn a_data_link_is_down_while_pulses_flow() {
    let mut world = world(291, 3, 2);
    let leader = world.leader(GROUP).unwrap();
    let follower = others(&world, leader)[0];
    let down = Trouble::DataOnly(leader, follower);
    world.trouble(&down, 0);
    world.run_for(10 * SECOND);
    let leader = world.leader(GROUP).unwrap();
    assert_eq!(ask(&mut world, leader, set("~on", "1"), SECOND), Some(Ok(Reply::Ok)));
    world.relief(&down);
    world.settle();
}

/// Edge case 31. A full disk refuses writes, serves reads, and takes writes again by itself.
#[test]
fn a_full_disk_refuses_writes_and_recovers() {
    let mut world = world(311, 3, 1);
    let leader = world.leader(GROUP).unwrap();
    assert_eq!(ask(&mut world, leader, set("~full", "1"), SECOND), Some(Ok(Reply::Ok)));
    world.fill_disk(leader, true);
    world.run_for(2 * SECOND);
    let refused = ask(&mut world, leader, set("~full", "2"), SECOND);
    assert_eq!(refused, Some(Err(Refusal::DiskFull)));
    let read = ask(&mut world, leader, get("~full"), SECOND);
    assert_eq!(read, Some(Ok(Reply::Bulk(Bytes::from_static(b"1")))));
    world.fill_disk(leader, false);
    world.run_for(2 * SECOND);
    assert_eq!(ask(&mut world, leader, set("~full", "3"), SECOND), Some(Ok(Reply::Ok)));
    world.settle();
}
