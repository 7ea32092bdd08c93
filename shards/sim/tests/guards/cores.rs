//! Guards of replicas that go from core to core, while their node serves and at a start with another number of cores.

use bytes::Bytes;
use oarlock_sim::{Config, Trouble, World};
use oarlock_types::{CoreAddr, CoreId, Guard, NodeId};

use crate::harness::*;

const OLD: CoreId = CoreId(0);
const NEW: CoreId = CoreId(1);

fn two_cores() -> Config {
    let mut config = quiet(3);
    config.cores = 2;
    config
}

/// A follower, which has been asked to go to the new core, whose log is slow.
fn going(world: &mut World) -> NodeId {
    write(world, "k", "1");
    let first = leader(world);
    let node = others(world, first)[0];
    world.trouble(&Trouble::WalSlow(CoreAddr::new(node, NEW), 400), 0);
    world.move_core(node, GROUP, NEW);
    node
}

/// Waits until it is on its way.
#[track_caller]
fn leaves(world: &mut World, node: NodeId) {
    let has_left = world.run_till(SECOND, |world| world.replica(node, GROUP).is_none());
    assert!(has_left, "it goes");
}

fn stall(world: &mut World, node: NodeId, core: CoreId) {
    let ends_at = world.now_us() + 10 * SECOND;
    world.trouble(&Trouble::WalStall(CoreAddr::new(node, core)), ends_at);
}

fn power_fails(world: &mut World, node: NodeId) {
    world.power_loss(node);
    for core in [OLD, NEW] {
        world.relief(&Trouble::WalStall(CoreAddr::new(node, core)));
    }
    world.restart(node);
}

/// Power fails while the new core's log writes the replica, of which anything may arrive.
#[test]
fn old_forgets_last() {
    finds(Guard::OldForgetsLast, 8, &[LOST], |seed| {
        let mut world = serving(seed, two_cores());
        let node = going(&mut world);
        stall(&mut world, node, NEW);
        world.run_for(400 * MS);
        power_fails(&mut world, node);
        world.settle();
    });
}

/// Power fails while the old core's log does not come to forget the replica, which the new one's has.
#[test]
fn later_residence_counts() {
    finds(Guard::LaterResidenceCounts, 8, &["a group has one replica on a node"], |seed| {
        let mut world = serving(seed, two_cores());
        let node = going(&mut world);
        leaves(&mut world, node);
        stall(&mut world, node, OLD);
        world.run_for(100 * MS);
        power_fails(&mut world, node);
        assert_eq!(world.core_of(node, GROUP), Some(NEW), "both logs have it");
        world.settle();
    });
}

/// The same, and the new core's files are gone: what the old one's log shows is all that the replica has said.
#[test]
fn new_speaks_last() {
    finds(Guard::NewSpeaksLast, 8, &[LOST, SAID, "what a replica has"], |seed| {
        let mut world = serving(seed, two_cores());
        let node = going(&mut world);
        leaves(&mut world, node);
        stall(&mut world, node, OLD);
        world.run_for(100 * MS);
        write(&mut world, "k", "2");
        world.run_for(100 * MS);
        world.trouble(&Trouble::LoseFiles(CoreAddr::new(node, NEW)), 0);
        power_fails(&mut world, node);
        world.settle();
    });
}

/// Power fails when a part of the replica is in the new core's log.
#[test]
fn part_counts_not() {
    finds(Guard::PartCountsNot, 20, &[LOST, SAID, "no entry is of a term to come"], |seed| {
        let mut config = two_cores();
        config.limits.compact_log_bytes_min = 256 << 10;
        config.limits.log_cache_bytes_max = 256 << 10;
        let mut world = serving(seed, config);
        let node = {
            let first = leader(&world);
            others(&world, first)[0]
        };
        let files = Trouble::FilesStall(CoreAddr::new(node, OLD));
        let ends_at = world.now_us() + 100 * SECOND;
        write(&mut world, "k", "1");
        world.trouble(&files, ends_at);
        world.move_core(node, GROUP, NEW);
        world.run_for(100 * MS);
        // What comes while the checkpoint is made goes along, in several frames.
        for number in 0..16 {
            write(&mut world, &format!("k{number}"), &"v".repeat(6 << 10));
        }
        world.relief(&files);
        let slow = Trouble::WalSlow(CoreAddr::new(node, NEW), 400);
        world.trouble(&slow, 0);
        leaves(&mut world, node);
        world.run_for((10 + 4 * seed) * MS);
        world.relief(&slow);
        power_fails(&mut world, node);
        world.settle();
    });
}

/// A node starts with another number of cores before a checkpoint holds what a split has made.
#[test]
fn cut_stays_with_range() {
    finds(Guard::CutStaysWithRange, 3, &[SOUND], |seed| {
        let mut world = serving(seed, quiet(3));
        let node = others(&world, leader(&world))[0];
        let ends_at = world.now_us() + 10 * SECOND;
        world.trouble(&Trouble::FilesStall(CoreAddr::new(node, OLD)), ends_at);
        write(&mut world, "k", "1");
        let child = world.cut_range(GROUP, Bytes::from_static(b"m")).unwrap();
        assert!(world.run_till(SECOND, |world| world.replica(node, child).is_some()), "it is cut");
        world.run_for(100 * MS);
        world.kill(node);
        world.set_cores(node, 2);
        world.restart(node);
        assert_eq!(world.core_of(node, child), Some(OLD), "the cut range's log makes it");
        world.settle();
    });
}

/// A node whose log is gone is started with another number of cores.
#[test]
fn whole_logs_are_carried() {
    finds(Guard::WholeLogsAreCarried, 3, &[LOST, SAID, "what a replica has"], |seed| {
        let mut world = serving(seed, quiet(3));
        let node = others(&world, leader(&world))[0];
        write(&mut world, "k", "1");
        world.run_for(100 * MS);
        world.trouble(&Trouble::LoseFiles(CoreAddr::new(node, OLD)), 0);
        world.set_cores(node, 2);
        world.restart(node);
        assert_eq!(world.cores(node), 1, "it is refused, and started as before");
        world.settle();
    });
}
