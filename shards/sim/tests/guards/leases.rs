//! Guards of support, bindings, leases and releases. At every event the world looks whether an older
//! leader holds a lease although there is a newer one.

use std::time::Duration;

use oarlock_sim::{Config, Trouble, World};
use oarlock_types::{CoreAddr, CoreId, Guard, NodeId};

use crate::harness::*;

/// Elections come at once where they may.
fn eager(nodes: u64) -> Config {
    let mut config = quiet(nodes);
    config.limits.election_delay_min = Duration::from_millis(5);
    config.limits.election_delay_max = Duration::from_millis(20);
    config
}

/// A follower does not hear its leader, another hears both.
#[test]
fn bound_votes_not() {
    finds(Guard::BoundVotesNot, 3, &[LEASE], |seed| {
        let mut world = serving(seed, eager(3));
        let first = leader(&world);
        let odd = others(&world, first)[0];
        world.cut(first, odd);
        world.run_for(3 * SECOND);
        world.join(first, odd);
        world.settle();
    });
}

/// A leader is removed while messages get lost: those whom it bound must be free though it is no
/// candidate any more and its node lives on.
#[test]
fn former_leader_releases() {
    finds(Guard::FormerLeaderReleases, 20, &[SERVES], |seed| {
        let mut config = Config { replicas: 3, ..eager(4) };
        config.weather.frame_loss_per_mille = 300;
        let mut world = serving(seed, config);
        for _ in 0..4 {
            let Some(first) = world.leader(GROUP) else { break };
            let rest = others(&world, first).into_iter().take(3).collect();
            world.set_members(GROUP, rest, Vec::new());
            world.run_for(2 * SECOND);
        }
        world.settle();
    });
}

/// A release of an older term is repeated, since its answer got lost, while the same leader leads
/// again: it must not free those who are bound to it now.
#[test]
fn release_names_term() {
    finds(Guard::ReleaseNamesTerm, 10, &[LEASE], |seed| {
        let mut world = serving(seed, eager(3));
        let first = leader(&world);
        let rest = others(&world, first);
        let (odd, friend) = (rest[0], rest[1]);
        let deaf = Trouble::DataOnly(friend, first);
        world.trouble(&deaf, 0);
        world.hand_over(GROUP, odd);
        world.run_till(200 * MS, |world| leads(world, odd));
        world.run_for(3 * MS);
        world.relief(&deaf);
        world.trouble(&Trouble::BreakLinks(friend, first), 0);
        world.run_for(60 * MS);
        hand_over(&mut world, first);
        write(&mut world, "k", "1");
        world.run_for(30 * MS);
        // The friend's data gets no further, so that the release goes on; its pulses do.
        world.trouble(&deaf, 0);
        world.cut(first, odd);
        world.run_for(2500 * MS);
        world.relief(&deaf);
        world.join(first, odd);
        world.settle();
    });
}

/// A leader that has just been elected loses its support and gains it anew, while the others have
/// elected another one and nobody tells it.
fn support_comes_back(seed: u64) {
    let mut world = serving(seed, eager(3));
    let before = leader(&world);
    let rest = others(&world, before);
    let (first, other) = (rest[0], rest[1]);
    let unheard: Vec<Trouble> =
        [before, other].iter().map(|to| Trouble::PulsesOnly(first, *to)).collect();
    unheard.iter().for_each(|trouble| world.trouble(trouble, 0));
    world.run_for(350 * MS);
    hand_over(&mut world, first);
    world.run_for(300 * MS);
    let untold: Vec<Trouble> =
        [before, other].iter().map(|from| Trouble::DataOnly(*from, first)).collect();
    untold.iter().for_each(|trouble| world.trouble(trouble, 0));
    one_leads(&mut world, &[before, other], 2 * SECOND).unwrap();
    unheard.iter().for_each(|trouble| world.relief(trouble));
    world.run_for(SECOND);
    untold.iter().for_each(|trouble| world.relief(trouble));
    world.settle();
}

#[test]
fn lease_counts_the_bound() {
    finds(Guard::LeaseCountsTheBound, 10, &[LEASE], support_comes_back);
}

#[test]
fn lapse_is_for_good() {
    finds(Guard::LapseIsForGood, 10, &[LEASE], support_comes_back);
}

/// The leader's clock is slow and the others' are fast, as much as they may be.
#[test]
fn lease_allows_for_drift() {
    finds(Guard::LeaseAllowsForDrift, 5, &[LEASE], |seed| {
        let mut config = eager(3);
        config.clock_rates = vec![980, 1020, 1020];
        config.limits.support_duration = Duration::from_secs(5);
        let mut world = serving(seed, config);
        hand_over(&mut world, NodeId(1));
        world.run_for(SECOND);
        cut_off(&mut world, NodeId(1), 8 * SECOND);
    });
}

#[test]
fn lease_runs_from_sending() {
    finds(Guard::LeaseRunsFromSending, 5, &[LEASE], |seed| {
        let mut world = serving(seed, eager(3));
        let first = leader(&world);
        for node in others(&world, first) {
            world.trouble(&Trouble::SlowLink(node, first, 300 * MS), 0);
        }
        world.run_for(SECOND);
        cut_off(&mut world, first, 3 * SECOND);
    });
}

fn cut_off(world: &mut World, node: NodeId, us: u64) {
    let rest = others(world, node);
    cut(world, &[node], &rest);
    world.run_for(us);
    join(world, &[node], &rest);
    world.settle();
}

#[test]
fn restarted_waits() {
    finds(Guard::RestartedWaits, 5, &[LEASE], |seed| {
        let mut world = serving(seed, eager(3));
        let first = leader(&world);
        let rest = others(&world, first);
        let (odd, friend) = (rest[0], rest[1]);
        // One asks for votes already; the other has forgotten that it must refuse.
        world.cut(first, odd);
        world.run_for(2 * SECOND);
        world.kill(friend);
        world.restart(friend);
        world.cut(first, friend);
        world.run_for(3 * SECOND);
        world.join(first, odd);
        world.join(first, friend);
        world.settle();
    });
}

#[test]
fn transfer_ends_lease() {
    finds(Guard::TransferEndsLease, 5, &[LEASE], |seed| {
        let mut world = serving(seed, eager(3));
        let first = leader(&world);
        let next = others(&world, first)[0];
        let slow = Trouble::SlowLink(next, first, 50 * MS);
        world.trouble(&slow, 0);
        world.hand_over(GROUP, next);
        world.run_for(SECOND);
        world.relief(&slow);
        world.settle();
    });
}

#[test]
fn stuck_core_is_dead() {
    finds(Guard::StuckCoreIsDead, 3, &["nobody takes over"], |seed| {
        let mut world = serving(seed, quiet(3));
        let first = leader(&world);
        let stuck = Trouble::StuckCore(CoreAddr::new(first, CoreId(0)));
        world.trouble(&stuck, 0);
        another_leader(&mut world, first);
        world.relief(&stuck);
        world.settle();
    });
}

/// Pulses flow and data does not.
#[test]
fn support_needs_links() {
    finds(Guard::SupportNeedsLinks, 3, &["nobody takes over"], |seed| {
        let mut world = serving(seed, quiet(3));
        let first = leader(&world);
        let ways =
            others(&world, first).into_iter().flat_map(|node| [(first, node), (node, first)]);
        let down: Vec<Trouble> = ways.map(|(from, to)| Trouble::DataOnly(from, to)).collect();
        down.iter().for_each(|trouble| world.trouble(trouble, 0));
        another_leader(&mut world, first);
        down.iter().for_each(|trouble| world.relief(trouble));
        world.settle();
    });
}
