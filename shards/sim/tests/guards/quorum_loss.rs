//! Guards of going on after the loss of a quorum for good.

use std::collections::BTreeSet;

use oarlock_sim::cluster::{Cluster, NodeTrouble};
use oarlock_sim::{Config, Trouble, World};
use oarlock_types::{Guard, NodeId};

use crate::harness::*;

const STANDS_BACK: &str = "survivors vote once they have come to the entry";

fn losing(config: Config) -> Config {
    Config { loses_quorum: true, ..config }
}

/// These nodes are lost for good, and the others go on.
fn lose(world: &mut World, seed: u64, lost: &[NodeId]) {
    let lost: BTreeSet<NodeId> = lost.iter().copied().collect();
    let soon = world.now_us() + 1;
    world.lose_quorum(&lost, seed, soon);
    world.run_for(2 * SECOND);
    assert!(world.has_gone_on() && world.ended().is_none(), "{:?}", world.ended());
}

/// Two of three elect each other again and again while the third does not hear them, and are lost. One comes back and
/// is not refused: with what it has it must not win the vote of the one that went on.
#[test]
fn term_is_far_ahead() {
    finds(Guard::TermIsFarAhead, 3, &[MATCHING], |seed| {
        let mut world = serving(seed, losing(quiet(3)));
        let first = leader(&world);
        let rest = others(&world, first);
        let (second, third) = (rest[0], rest[1]);
        cut(&mut world, &[third], &[first, second]);
        for round in 0..4 {
            hand_over(&mut world, if round % 2 == 0 { second } else { first });
            write(&mut world, "k", &round.to_string());
        }
        lose(&mut world, seed, &[first, second]);
        write(&mut world, "k", "alone");
        join(&mut world, &[third], &[first, second]);
        world.come_back_unrefused(first);
        for _ in 0..4 {
            world.kill(third);
            world.restart(third);
            world.run_for(3 * SECOND);
        }
        world.settle();
    });
}

/// Two of four are lost, and the group goes on from the third. The lost come back, are not refused, and want the vote
/// of the fourth, which has not heard of the third.
#[test]
fn survivors_stand_back() {
    finds(Guard::SurvivorsStandBack, 3, &[STANDS_BACK], |seed| {
        let mut world = serving(seed, losing(quiet(4)));
        let chosen = leader(&world);
        let rest = others(&world, chosen);
        let (fourth, lost) = (rest[0], [rest[1], rest[2]]);
        cut(&mut world, &[fourth], &[chosen, lost[0], lost[1]]);
        write(&mut world, "k", "kept");
        lose(&mut world, seed, &lost);
        cut(&mut world, &[chosen], &lost);
        join(&mut world, &[fourth], &lost);
        lost.iter().for_each(|node| world.come_back_unrefused(*node));
        world.run_for(10 * SECOND);
        join(&mut world, &[chosen], &[fourth]);
        world.run_for(5 * SECOND);
        join(&mut world, &[chosen], &lost);
        world.settle();
    });
}

/// A range has left a node that hears nobody, and the map knows its members. Then those are lost, and it goes on from
/// the old replica, which the map must not end.
#[test]
fn members_are_newer_than_map() {
    let stands = "the cluster comes to stand as it is to";
    finds(Guard::MembersAreNewerThanMap, 5, &[stands, SERVES], |seed| {
        let mut config = Config::calm(5, 1, 1);
        config.clients = 0;
        config.cluster = Some(Cluster::calm(&config));
        let mut world = serving(seed, losing(config));
        let members = |world: &World| {
            let leader = world.leader(GROUP)?;
            world.configuration(leader, GROUP).filter(|members| !members.is_joint())
        };
        let before = members(&world).unwrap().voters;
        let left = before.into_iter().find(|node| world.leader(GROUP) != Some(*node)).unwrap();
        let rest = others(&world, left);
        cut(&mut world, &[left], &rest);
        world.trouble(&Trouble::Node(NodeTrouble::Drain(left)), 0);
        let has_moved = |world: &mut World| {
            members(world).is_some_and(|members| !members.voters.contains(&left))
        };
        assert!(world.run_till(20 * SECOND, has_moved), "it moves: {}", world.who_waits());
        // The copies of the map are on disk by then.
        world.run_for(15 * SECOND);
        let lost = members(&world).unwrap().voters;
        lose(&mut world, seed, &lost);
        join(&mut world, &[left], &rest);
        world.settle();
    });
}
