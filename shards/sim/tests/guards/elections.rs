//! Guards of elections: who may win, what a vote is worth, and that terms do not run away.

use std::time::Duration;

use oarlock_types::{Guard, Term};

use crate::harness::*;

#[test]
fn newest_log_wins() {
    finds(Guard::NewestLogWins, 10, &[COMPLETE], |seed| {
        let mut world = serving(seed, quiet(3));
        let first = leader(&world);
        let rest = others(&world, first);
        let (behind, other) = (rest[0], rest[1]);
        cut(&mut world, &[behind], &[first, other]);
        write(&mut world, "k", "1");
        world.kill(first);
        join(&mut world, &[behind], &[first, other]);
        another_leader(&mut world, first);
        world.run_for(SECOND);
        world.settle();
    });
}

#[test]
fn one_vote_a_term() {
    finds(Guard::OneVoteATerm, 10, &["one vote a term", "election safety"], |seed| {
        let mut config = quiet(5);
        // Some stand at once.
        config.limits.election_delay_min = Duration::from_millis(20);
        config.limits.election_delay_max = Duration::from_millis(40);
        config.weather.delay_min_us = 2 * MS;
        let mut world = serving(seed, config);
        kill_leaders(&mut world);
    });
}

/// A slow disk: what is said before it is written is said long before.
fn slow_disks(seed: u64) {
    let mut config = quiet(3);
    config.weather.wal_us = 3 * MS;
    let mut world = serving(seed, config);
    let first = leader(&world);
    world.kill(first);
    another_leader(&mut world, first);
    world.restart(first);
    write(&mut world, "k", "1");
    world.settle();
}

#[test]
fn vote_is_on_disk() {
    finds(Guard::VoteIsOnDisk, 3, &[SAID], slow_disks);
}

#[test]
fn own_vote_is_on_disk() {
    finds(Guard::OwnVoteIsOnDisk, 3, &[SAID], slow_disks);
}

#[test]
fn ack_is_on_disk() {
    finds(Guard::AckIsOnDisk, 3, &[SAID, QUORUM], slow_disks);
}

#[test]
fn pre_vote() {
    finds(Guard::PreVote, 3, &["terms run away"], |seed| {
        let mut world = serving(seed, quiet(3));
        let first = leader(&world);
        let rest = others(&world, first);
        let term = |world: &oarlock_sim::World| -> Term {
            world.replica(rest[0], GROUP).map(|replica| replica.term()).unwrap_or_default()
        };
        let before = term(&world);
        cut(&mut world, &rest[..1], &[first, rest[1]]);
        world.run_for(10 * SECOND);
        let after = term(&world);
        assert!(after == before, "terms run away: from {before} to {after} while it sees nobody");
        join(&mut world, &rest[..1], &[first, rest[1]]);
        world.settle();
    });
}

#[test]
fn quorum_or_step_down() {
    finds(Guard::QuorumOrStepDown, 3, &["a leader that nobody hears steps down"], |seed| {
        let mut world = serving(seed, quiet(3));
        let first = leader(&world);
        let rest = others(&world, first);
        cut(&mut world, &[first], &rest);
        world.run_for(3 * SECOND);
        assert!(!leads(&world, first), "a leader that nobody hears steps down: {first}");
        join(&mut world, &[first], &rest);
        world.settle();
    });
}
