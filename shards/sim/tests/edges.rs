//! Scripted scenarios of edge cases that need exact disks, pulses or quiet: each says its property,
//! drives its schedule, and ends with the whole judgement of a run.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use bytes::Bytes;
use oarlock_codec::Refusal;
use oarlock_sim::{Config, Trouble, World};
use oarlock_store::Reply;
use oarlock_types::{CoreAddr, CoreId, Index, NodeId, RangeEpoch};
use support::{GROUP, MS, SECOND, another_leader, ask, get, others, set, world};

fn core(node: NodeId) -> CoreAddr {
    CoreAddr::new(node, CoreId(0))
}

/// A cluster whose log is soon cut short.
fn compacting(seed: u64, nodes: u64) -> World {
    let mut config = Config::calm(nodes, 1, 1);
    config.replicas = nodes;
    config.limits.compact_log_bytes_min = 1 << 10;
    config.limits.compact_tail_bytes = 0;
    config.think_us = 20_000;
    World::new(seed, config)
}

/// Writes so many values, each under a key of its own.
fn fill(world: &mut World, leader: NodeId, count: usize, bytes: usize) {
    for number in 0..count {
        let wrote = ask(world, leader, set(&format!("~f{number}"), &"v".repeat(bytes)), SECOND);
        assert_eq!(wrote, Some(Ok(Reply::Ok)), "write {number}");
    }
}

/// Edge case 13. A write of an entry is under way to a follower's disk; another leader's entry
/// takes its place; then the old write ends. It says nothing of the new entry, which has no quorum
/// on disk without that follower, and does not commit.
#[test]
fn the_late_end_of_a_write_says_nothing_of_what_took_its_place() {
    let mut config = Config::calm(5, 1, 1);
    (config.replicas, config.clients) = (5, 0);
    let mut world = World::new(131, config);
    world.all_groups_serve();
    world.run_for(2 * SECOND);
    let leader = world.leader(GROUP).unwrap();
    let away = others(&world, leader);
    let (follower, slow) = (away[0], away[3]);
    away[1..].iter().for_each(|node| world.cut(leader, *node));
    // The follower's disk takes the entry and does not end; the next write takes its time, too.
    world.trouble(&Trouble::WalSlow(core(follower), 10_000), 0);
    world.trouble(&Trouble::WalSlow(core(slow), 3000), 0);
    let ends_at = world.now_us() + 60 * SECOND;
    world.trouble(&Trouble::WalStall(core(follower)), ends_at);
    let before = world.committed(GROUP);
    world.request(leader, GROUP, set("~aba", "old"));
    let has_it = |w: &mut World, term_of| {
        let end = w.replica(follower, GROUP).map(|raft| (raft.last(), raft.durable_index()));
        end.is_some_and(|(last, durable)| {
            last.index == before.next() && durable == before && last.term > term_of
        })
    };
    let old = world.replica(leader, GROUP).unwrap().term();
    assert!(world.run_till(SECOND, |w| has_it(w, oarlock_types::Term(old.get() - 1))));
    world.kill(leader);
    // Of the others one is so slow that it votes, and ends before it has the new leader's entry.
    let new = another_leader(&mut world, leader, 20 * SECOND);
    assert!(new != follower && new != slow, "{new} was not meant to lead: another seed is needed");
    world.kill(slow);
    assert!(world.run_till(2 * SECOND, |w| has_it(w, old)), "the entry is replaced");
    world.relief(&Trouble::WalStall(core(follower)));
    assert!(
        !world.run_till(200 * MS, |w| w.committed(GROUP) > before),
        "it counts what is not on disk"
    );
    assert_eq!(world.replica(follower, GROUP).unwrap().durable_index(), before);
    assert!(world.run_till(2 * SECOND, |w| w.committed(GROUP) > before), "{}", world.who_waits());
    world.settle();
}

/// Edge case 15. A process that dies at any moment around checkpoints comes back with a state that
/// skips no entry and repeats none: counters count, and equal indices have equal states.
#[test]
fn a_crash_anywhere_around_a_checkpoint_neither_skips_nor_repeats() {
    let mut world = compacting(151, 3);
    world.all_groups_serve();
    let mut compacted = 0;
    for round in 0..300_u64 {
        let victim = NodeId(1 + round % 3);
        let crash = Trouble::CrashAtEffect(victim, round * 7 % 61, round % 2 == 0);
        let before = world.replica(victim, GROUP).map(|raft| raft.checkpoint().index);
        world.trouble(&crash, 0);
        world.run_for(120 * MS);
        world.relief(&crash);
        let after = world.replica(victim, GROUP).map(|raft| raft.checkpoint().index);
        compacted += u64::from(after > before);
        world.run_for(40 * MS);
        if round % 10 == 9 {
            world.run_for(4 * SECOND);
        }
    }
    assert!(compacted > 5, "only {compacted} checkpoints were made around a crash");
    world.settle();
    assert!(world.figures().answered > 500, "{:?}", world.figures());
}

/// Edge case 16. A checkpoint that is whole but older than its mark in the log says, so that
/// entries behind it are gone: the replica is not served, skips nothing, and is rebuilt from the
/// others.
#[test]
fn a_checkpoint_that_is_older_than_the_log_is_not_served() {
    for seed in 160..163 {
        let mut world = compacting(seed, 3);
        world.all_groups_serve();
        let victim = NodeId(1 + seed % 3);
        let checkpoint = |w: &World| w.replica(victim, GROUP).unwrap().checkpoint().index;
        assert!(world.run_till(20 * SECOND, |w| checkpoint(w) > Index(0)), "no checkpoint");
        let first = checkpoint(&world);
        assert!(world.run_till(20 * SECOND, |w| checkpoint(w) > first), "no second checkpoint");
        world.run_for(50 * MS);
        let old = Trouble::OldCheckpoint(core(victim));
        world.trouble(&old, 0);
        world.run_for(100 * MS);
        world.relief(&old);
        assert!(world.replica(victim, GROUP).is_none(), "an older state is served");
        world.settle();
        assert!(world.replica(victim, GROUP).is_some(), "it is rebuilt");
    }
}

/// Edge case 25. Replication goes on behind a snapshot, entry by entry; a receiver that can no
/// longer be reached in the middle of its transfer holds up neither the writes nor the other
/// receiver.
#[test]
fn after_a_snapshot_replication_goes_on_and_an_unreachable_receiver_holds_nobody_up() {
    let mut config = Config::calm(5, 1, 1);
    (config.replicas, config.clients) = (5, 0);
    config.limits.compact_tail_bytes = 0;
    config.limits.snapshot_bytes_per_s_max = 32 << 10;
    let mut world = World::new(251, config);
    world.all_groups_serve();
    let leader = world.leader(GROUP).unwrap();
    let away = others(&world, leader);
    let (one, two) = (away[0], away[1]);
    for lagging in [one, two] {
        others(&world, lagging).into_iter().for_each(|node| world.cut(lagging, node));
    }
    // Their connections are given up: else what waits in them would do.
    world.run_for(6 * SECOND);
    // Twice: a log is cut short when it has outgrown the state.
    fill(&mut world, leader, 150, 1000);
    fill(&mut world, leader, 170, 1000);
    let end = |w: &World, node| w.replica(node, GROUP).unwrap().last().index;
    let kept = world.replica(leader, GROUP).unwrap().first_index();
    assert!(kept > end(&world, one).next(), "the log still has what they lack");
    let links: Vec<(NodeId, NodeId)> = others(&world, one).iter().map(|to| (one, *to)).collect();
    links.iter().filter(|(_, to)| *to != two).for_each(|(from, to)| world.join(*from, *to));
    // In the middle of its transfer the first is out of reach again.
    world.run_for(3 * SECOND);
    assert!(end(&world, one) < kept, "the transfer is over too soon");
    for (from, to) in [(leader, one), (one, leader)] {
        world.trouble(&Trouble::DataOnly(from, to), 0);
    }
    let links: Vec<NodeId> = others(&world, two).into_iter().filter(|to| *to != one).collect();
    links.iter().for_each(|to| world.join(two, *to));
    let got = |w: &mut World, node| {
        let checkpoint = w.replica(node, GROUP).unwrap().checkpoint().index;
        checkpoint >= kept.prev() && end(w, node) == w.committed(GROUP)
    };
    assert!(world.run_till(20 * SECOND, |w| got(w, two)), "{}", world.who_waits());
    // From here on entries come as entries.
    let checkpoint = world.replica(two, GROUP).unwrap().checkpoint();
    assert_eq!(ask(&mut world, leader, set("~after", "1"), SECOND), Some(Ok(Reply::Ok)));
    let committed = world.committed(GROUP);
    assert!(world.run_till(SECOND, |w| end(w, two) >= committed), "replication does not resume");
    assert_eq!(world.replica(two, GROUP).unwrap().checkpoint(), checkpoint);
    assert!(end(&world, one) < committed);
    world.settle();
}

/// Edge case 28. The leader of a quiet group is cut off: the others notice without a word in the
/// group, elect another within a bounded time, and the old one answers nothing stale.
#[test]
fn a_quiet_group_wakes_when_its_leader_is_cut_off() {
    let mut config = Config::calm(3, 1, 40);
    config.clients = 0;
    let mut world = World::new(282, config);
    world.all_groups_serve();
    world.run_for(20 * SECOND);
    let leader = world.leader(GROUP).unwrap();
    others(&world, leader).into_iter().for_each(|node| world.cut(leader, node));
    let new = another_leader(&mut world, leader, 10 * SECOND);
    assert_eq!(ask(&mut world, new, set("~quiet", "new"), SECOND), Some(Ok(Reply::Ok)));
    let read = ask(&mut world, leader, get("~quiet"), SECOND);
    assert!(!matches!(read, Some(Ok(_))), "the old leader answered {read:?}");
    world.settle();
}

/// Edge case 28. A quiet group's leader dies while the only replica that anybody asks lags behind:
/// it cannot lead, and the group still has a leader within a bounded time, with all that was
/// committed.
#[test]
fn a_quiet_group_wakes_though_only_a_lagging_replica_is_asked() {
    let mut config = Config::calm(3, 1, 1);
    config.clients = 0;
    let mut world = World::new(283, config);
    world.all_groups_serve();
    let leader = world.leader(GROUP).unwrap();
    let (lagging, other) = (others(&world, leader)[0], others(&world, leader)[1]);
    for to in [leader, other] {
        world.trouble(&Trouble::DataOnly(to, lagging), 0);
    }
    fill(&mut world, leader, 3, 10);
    world.run_for(10 * SECOND);
    let behind = world.replica(lagging, GROUP).unwrap().last().index;
    assert!(behind < world.committed(GROUP), "it does not lag");
    world.kill(leader);
    for to in [leader, other] {
        world.relief(&Trouble::DataOnly(to, lagging));
    }
    let end = world.now_us() + 10 * SECOND;
    let mut named = None;
    while named.is_none() {
        assert!(world.now_us() < end, "nobody leads: {}", world.who_waits());
        match ask(&mut world, lagging, get("~f0"), SECOND) {
            Some(Ok(reply)) => panic!("it has not got that: {reply:?}"),
            Some(Err(oarlock_codec::Refusal::NotLeader { leader: Some(new) })) if new == other => {
                named = world.leader(GROUP).filter(|leads| *leads == new);
            }
            Some(Err(_)) | None => {}
        }
        world.run_for(50 * MS);
    }
    let read = ask(&mut world, other, get("~f0"), 5 * SECOND);
    assert_eq!(read, Some(Ok(Reply::Bulk(Bytes::from_static(b"vvvvvvvvvv")))));
    world.settle();
}

/// Edge case 29. Whole pulses are lost, doubled, late by more than support lasts, and out of order,
/// while leadership moves and clocks drift: no two hold a lease (the world looks at every event),
/// and the group is served again and again.
#[test]
fn pulses_are_lost_doubled_late_and_out_of_order() {
    let mut config = Config::calm(3, 1, 3);
    config.clock_rates = vec![1020, 980, 1000];
    let weather = &mut config.weather;
    (weather.pulse_loss_per_mille, weather.pulse_twice_per_mille) = (300, 400);
    (weather.slow_per_mille, weather.slow_us) = (30, 900 * MS);
    let mut world = World::new(292, config);
    world.all_groups_serve();
    for round in 0..10 {
        world.run_for(2 * SECOND);
        let node = NodeId(1 + round % 3);
        let cut = Trouble::PulsesOnly(node, NodeId(1 + (round + 1) % 3));
        world.trouble(&cut, 0);
        world.trouble(&Trouble::Transfer(GROUP), 0);
        world.run_for(SECOND);
        world.relief(&cut);
    }
    let answered = world.figures().answered;
    world.run_for(10 * SECOND);
    assert!(world.figures().answered > answered, "nothing is served: {}", world.who_waits());
    world.settle();
}

/// Edge case 29. A node's process is gone and back between two of its pulses, whichever moment
/// between them that is: its groups have a leader again within a bounded time, and no lease
/// outlives its grant.
#[test]
fn a_sender_of_pulses_restarts_between_two_of_them() {
    let mut world = world(293, 3, 3);
    for moment in 0..12 {
        let leader = world.leader(GROUP).unwrap();
        world.run_for(moment * 5 * MS);
        world.kill(leader);
        world.run_for(moment * 150);
        world.restart(leader);
        world.all_groups_serve();
        world.run_for(SECOND);
    }
    world.settle();
}

/// Edge case 29. The pulses of all nodes leave at the same moments: nobody's support lapses by
/// that, and when the leader's node ends the others take over as ever.
#[test]
fn the_pulses_of_all_nodes_are_in_phase() {
    let mut config = Config::calm(5, 2, 20);
    (config.replicas, config.pulses_in_phase) = (5, true);
    let mut world = World::new(294, config);
    world.all_groups_serve();
    let in_phase = |world: &World| {
        let due = world.next_pulses_us();
        due.iter().max().unwrap() - due.iter().min().unwrap() <= 1
    };
    world.run_for(10 * SECOND);
    assert!(in_phase(&world), "{:?}", world.next_pulses_us());
    let elections = world.figures().elections;
    world.run_for(20 * SECOND);
    assert_eq!(world.figures().elections, elections, "a leader was lost");
    assert!(in_phase(&world), "{:?}", world.next_pulses_us());
    let leader = world.leader(GROUP).unwrap();
    world.kill(leader);
    another_leader(&mut world, leader, 10 * SECOND);
    world.settle();
}

/// Edge case 7, and decision 0007. All files of a core are gone while its node knows who it is: its
/// replicas begin again as new members under load, whoever led, and then count as any other.
#[test]
fn replicas_whose_files_are_gone_are_rebuilt_under_load() {
    for seed in 70..76 {
        let mut config = Config::calm(3, 2, 4);
        config.limits.compact_log_bytes_min = 4 << 10;
        config.think_us = 2000;
        let mut world = World::new(seed, config);
        world.all_groups_serve();
        world.run_for(3 * SECOND);
        let leader = world.leader(GROUP).unwrap();
        let victim = if seed % 2 == 0 { leader } else { others(&world, leader)[0] };
        let gone = Trouble::LoseFiles(core(victim));
        world.trouble(&gone, 0);
        world.run_for(300 * MS);
        world.relief(&gone);
        assert!(world.replica(victim, GROUP).is_none(), "it is served from nothing");
        let is_whole = |w: &mut World| {
            w.config
                .group_ids()
                .filter(|group| w.config.core_of(*group) == CoreId(0))
                .all(|group| w.replica(victim, group).is_some_and(|raft| raft.is_settled_voter()))
        };
        assert!(world.run_till(20 * SECOND, is_whole), "{}", world.who_waits());
        // One of the others goes: the rebuilt one is half of the quorum that is left.
        let lost = others(&world, victim)[0];
        world.kill(lost);
        let committed = world.committed(GROUP);
        let goes_on =
            world.run_till(20 * SECOND, |w| w.committed(GROUP).get() > committed.get() + 20);
        assert!(goes_on, "{}", world.who_waits());
        world.restart(lost);
        world.settle();
    }
}

/// Edge case 5. A leader removes itself while writes follow: what stands behind its removal may be
/// committed by its successor, and nobody tells it. Each client hears at once that its write's fate
/// is unknown, not when it has waited for as long as any write may take.
#[test]
fn a_leader_that_leaves_keeps_nobody_waiting() {
    for seed in 151..161 {
        let mut config = Config::calm(3, 1, 1);
        config.clients = 0;
        let mut world = World::new(seed, config);
        world.all_groups_serve();
        world.run_for(2 * SECOND);
        let leader = world.leader(GROUP).unwrap();
        let mut open = vec![world.request(leader, GROUP, set("~first", "v"))];
        world.set_members(GROUP, others(&world, leader), Vec::new());
        for number in 0..30 {
            world.run_for(30);
            open.push(world.request(leader, GROUP, set(&format!("~{number}"), "v")));
        }
        let answered = world.run_till(2 * SECOND, |world| {
            open.retain(|token| world.take_outcome(*token).is_none());
            open.is_empty()
        });
        assert!(answered, "seed {seed}: {} writes wait; {}", open.len(), world.who_waits());
        world.settle();
    }
}

/// Edge case 23. Who asks by the bounds from before a split, of what the range still holds or of what it
/// gave away, reads and writes nothing, however often leadership moves meanwhile.
#[test]
fn nobody_is_served_by_the_bounds_from_before_a_split() {
    let mut config = Config::calm(3, 1, 1);
    config.clients = 0;
    let mut world = World::new(231, config);
    world.all_groups_serve();
    let leader = world.leader(GROUP).unwrap();
    for key in ["a", "z"] {
        assert_eq!(ask(&mut world, leader, set(key, "old"), SECOND), Some(Ok(Reply::Ok)));
    }
    let child = world.cut_range(GROUP, Bytes::from_static(b"m")).unwrap();
    let is_made = |w: &mut World| w.config.node_ids().all(|id| w.replica(id, child).is_some());
    assert!(world.run_till(SECOND, is_made), "{}", world.who_waits());
    for _ in 0..3 {
        world.all_groups_serve();
        for group in [GROUP, child] {
            let leader = world.leader(group).unwrap();
            for request in [get("a"), get("z"), set("a", "new"), set("z", "new")] {
                let token = world.request_routed(leader, group, (RangeEpoch(1), None), request);
                let outcome = support::outcome(&mut world, token, SECOND);
                assert_eq!(outcome, Some(Err(Refusal::StaleEpoch)));
            }
        }
        let leader = world.leader(child).unwrap();
        world.hand_over(child, others(&world, leader)[0]);
        world.run_for(200 * MS);
    }
    let leader = world.leader(child).unwrap();
    let token = world.request(leader, child, get("z"));
    let read = support::outcome(&mut world, token, SECOND);
    assert_eq!(read, Some(Ok(Reply::Bulk(Bytes::from_static(b"old")))));
    world.settle();
}

/// Edge case 27. A follower misses a split, and the cut range comes to it by a snapshot from behind the
/// split: the new range's replica appears there, once, with its data, under load and over restarts.
#[test]
fn a_snapshot_overtakes_a_split() {
    for seed in 270..276 {
        let mut world = compacting(seed, 3);
        world.all_groups_serve();
        world.run_for(SECOND);
        let leader = world.leader(GROUP).unwrap();
        let away = others(&world, leader)[1];
        world.config.node_ids().filter(|id| *id != away).for_each(|id| world.cut(id, away));
        let child = world.cut_range(GROUP, Bytes::from_static(b"k1")).unwrap();
        let is_cut = |w: &mut World| w.replica(leader, child).is_some();
        assert!(world.run_till(SECOND, is_cut), "{}", world.who_waits());
        // Both logs are cut short behind the split.
        let is_short = |w: &mut World| {
            let replica = w.replica(leader, GROUP).unwrap();
            let (first, seen) = (replica.first_index(), w.replica(away, GROUP).unwrap().last());
            let new = w.replica(leader, child).unwrap().checkpoint().index;
            first > seen.index.next() && new > Index(1)
        };
        assert!(world.run_till(20 * SECOND, is_short), "{}", world.who_waits());
        world.config.node_ids().filter(|id| *id != away).for_each(|id| world.join(id, away));
        let is_there =
            |w: &mut World| w.replica(away, child).is_some_and(|r| r.commit() > Index(1));
        assert!(world.run_till(20 * SECOND, is_there), "{}", world.who_waits());
        world.kill(away);
        world.restart(away);
        world.settle();
    }
}

/// Nodes die at every effect around a split: what was acknowledged before and since is there, in one range
/// or the other, and both serve.
#[test]
fn a_crash_anywhere_around_a_split_loses_nothing() {
    for seed in 0..40 {
        let mut world = compacting(500 + seed, 3);
        world.all_groups_serve();
        world.run_for(SECOND);
        let leader = world.leader(GROUP).unwrap();
        let dies = if seed % 2 == 0 { leader } else { others(&world, leader)[0] };
        let trouble = Trouble::CrashAtEffect(dies, seed / 2, seed % 4 < 2);
        world.trouble(&trouble, 0);
        world.cut_range(GROUP, Bytes::from_static(b"k1")).unwrap();
        world.run_for(SECOND);
        world.relief(&trouble);
        world.settle();
    }
}

/// No write is refused for longer than 10 ms by a split, where a write takes a millisecond or two.
#[test]
fn a_split_holds_writes_for_milliseconds() {
    let mut config = Config::calm(3, 1, 1);
    config.clients = 0;
    let mut world = World::new(77, config);
    world.all_groups_serve();
    let leader = world.leader(GROUP).unwrap();
    let started = world.now_us();
    let child = world.cut_range(GROUP, Bytes::from_static(b"m")).unwrap();
    let mut written = 0;
    for (group, key) in [(GROUP, "a"), (child, "z")] {
        loop {
            let token = world.request(leader, group, set(key, "1"));
            if support::outcome(&mut world, token, SECOND) == Some(Ok(Reply::Ok)) {
                written += 1;
                break;
            }
        }
    }
    let took = world.now_us() - started;
    assert!(written == 2 && took < 10 * MS, "both ranges took a write after {took} us");
    world.settle();
}
