//! Guards of replication: what may be committed, what a follower takes, and where a log is cut.

use oarlock_sim::{Config, Trouble, World, finish};
use oarlock_types::{CoreAddr, CoreId, Guard, NodeId};

use crate::harness::*;

/// Raft's figure 8. An entry of an older term comes to stand on a majority, and its leader is gone
/// before one of its own term does; then a leader comes that does not have it.
#[test]
fn commits_own_term() {
    finds(Guard::CommitsOwnTerm, 5, &[COMPLETE, STATE], |seed| {
        let mut config = quiet(5);
        config.weather.delay_min_us = 5 * MS;
        config.limits.append_bytes_max = 1; // one entry a message,
        config.limits.inflight_messages_max = 1; // and one message at a time
        let mut world = serving(seed, config);
        let first = leader(&world);
        let rest = others(&world, first);
        let (pair, three) = ([first, rest[0]], &rest[1..]);
        cut(&mut world, &pair, three);
        for number in 0..40 {
            world.request(first, GROUP, set("k", &format!("{number}")));
            world.run_for(MS);
        }
        let old = world.committed(GROUP);
        // The second leader writes the entry of its term on its own disk alone.
        let second = one_leads(&mut world, three, 10 * SECOND).unwrap();
        let two: Vec<NodeId> = three.iter().copied().filter(|node| *node != second).collect();
        cut(&mut world, &[second], &two);
        // One of the pair leads again and brings the older entries to the others.
        join(&mut world, &pair, &two);
        let has_begun = |world: &mut World| world.committed(GROUP) > old;
        assert!(world.run_till(20 * SECOND, has_begun), "nobody leads: {}", world.who_waits());
        cut(&mut world, &pair, &two);
        join(&mut world, &[second], &two);
        world.run_for(5 * SECOND);
        world.settle();
    });
}

#[test]
fn own_write_is_on_disk() {
    finds(Guard::OwnWriteIsOnDisk, 3, &[QUORUM], |seed| {
        let mut world = serving(seed, quiet(3));
        let first = leader(&world);
        let rest = others(&world, first);
        cut(&mut world, &rest[..1], &[first, rest[1]]);
        let slow = Trouble::WalSlow(CoreAddr::new(first, CoreId(0)), 100);
        world.trouble(&slow, 0);
        write(&mut world, "k", "1");
        join(&mut world, &rest[..1], &[first, rest[1]]);
        world.settle();
    });
}

/// A leader that is cut off has entries that nobody else has, and others behind the same place are
/// committed without it; then it is back, with what it said before still on its way.
fn two_histories(seed: u64, frame_loss_per_mille: u64) {
    let mut config = quiet(3);
    config.weather.frame_loss_per_mille = frame_loss_per_mille;
    let mut world = serving(seed, config);
    let first = leader(&world);
    let rest = others(&world, first);
    write(&mut world, "k", "0");
    cut(&mut world, &[first], &rest);
    for number in 0..10 {
        world.request(first, GROUP, set("k", &format!("old{number}")));
        world.run_for(MS);
    }
    let second = one_leads(&mut world, &rest, 10 * SECOND).unwrap();
    for number in 0..3 {
        write(&mut world, "k", &format!("new{number}"));
    }
    let third = rest.iter().copied().find(|node| *node != second).unwrap();
    hand_over(&mut world, third);
    join(&mut world, &[first], &rest);
    for number in 0..10 {
        write(&mut world, "k", &format!("newer{number}"));
    }
    world.run_for(SECOND);
    world.settle();
}

#[test]
fn old_term_is_refused() {
    let invariant = "invariant: terms never fall along the log";
    let properties = [LOST, COMPLETE, MATCHING, STATE, SERVES, invariant];
    finds(Guard::OldTermIsRefused, 40, &properties, |seed| two_histories(seed, 0));
}

#[test]
fn logs_match_before() {
    finds(Guard::LogsMatchBefore, 10, &[MATCHING, QUORUM, STATE], |seed| two_histories(seed, 0));
}

#[test]
fn only_the_proven_commits() {
    finds(Guard::OnlyTheProvenCommits, 30, &[STATE], |seed| two_histories(seed, 300));
}

/// Appends that come twice and late.
#[test]
fn cut_at_conflict_only() {
    finds(Guard::CutAtConflictOnly, 10, &[LOST, QUORUM], |seed| {
        let mut config = Config::calm(3, 1, 1);
        config.weather.frame_twice_per_mille = 300;
        config.weather.frame_late_per_mille = 300;
        config.weather.slow_us = 20 * MS;
        config.think_us = 2 * MS;
        config.duration_us = 3 * SECOND;
        finish(&mut World::new(seed, config));
    });
}
