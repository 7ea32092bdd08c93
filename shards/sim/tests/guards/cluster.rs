//! Guards of clusters that keep their own map.

use oarlock_sim::cluster::{Cluster, NodeTrouble};
use oarlock_sim::{Config, Overrides, Trouble, World};
use oarlock_types::{CoreAddr, CoreId, GroupId, Guard, NodeId};

use crate::harness::*;

/// A cluster of three nodes that keeps its own map, with clients.
fn keeping(seed: u64, groups: u64) -> World {
    let mut config = Config::calm(3, 1, groups);
    config.think_us = 5 * MS;
    config.cluster = Some(Cluster::calm(&config));
    serving(seed, config)
}

fn node(world: &mut World, trouble: NodeTrouble) {
    world.trouble(&Trouble::Node(trouble), 0);
}

/// What seeds draw, with all that operators and placement do.
#[test]
fn meta_is_named() {
    let asked = "what is asked of the meta group is asked of it";
    finds(Guard::MetaIsNamed, 60, &[asked], |seed| {
        let overrides = Overrides { placement: Some(true), ..Overrides::default() };
        let _ = oarlock_sim::run(seed, &overrides);
    });
}

/// Only this node and one that has joined are left of the meta group when it is started again.
#[test]
fn peers_are_remembered() {
    finds(Guard::PeersAreRemembered, 3, &[SERVES], |seed| {
        let mut world = keeping(seed, 2);
        // The copy of the map that this writes is the newest for ten seconds.
        world.trouble(&Trouble::Cut(GroupId(1)), 0);
        world.run_for(500 * MS);
        node(&mut world, NodeTrouble::Join);
        node(&mut world, NodeTrouble::Drain(NodeId(1)));
        let has_moved = world.run_till(9 * SECOND, |world| {
            let leader = world.leader(GroupId::META);
            let members = leader.and_then(|leader| world.configuration(leader, GroupId::META));
            members.is_some_and(|m| m.voters == [2, 3, 4].map(NodeId) && !m.is_joint())
        });
        assert!(has_moved, "the meta group leaves the drained node: {}", world.who_waits());
        node(&mut world, NodeTrouble::Lose(NodeId(2), false));
        world.kill(NodeId(3));
        world.restart(NodeId(3));
        world.settle();
    });
}

/// Writes take long, and a node that forwarded some is started again and again meanwhile.
#[test]
fn outcome_is_of_its_life() {
    let taken = ["linearizability", "a read is answered", "the cluster comes to stand"];
    finds(Guard::OutcomeIsOfItsLife, 40, &taken, |seed| {
        let mut world = keeping(seed, 3);
        for round in 0..20 {
            let asks = NodeId(1 + round % 3);
            let slow = |n| Trouble::WalSlow(CoreAddr::new(n, CoreId(0)), 5000);
            let rest: Vec<NodeId> = others(&world, asks);
            rest.iter().for_each(|n| world.trouble(&slow(*n), 0));
            world.run_for(60 * MS);
            world.kill(asks);
            world.restart(asks);
            world.run_for(300 * MS);
            rest.iter().for_each(|n| world.relief(&slow(*n)));
            world.run_for(200 * MS);
        }
        world.settle();
    });
}
