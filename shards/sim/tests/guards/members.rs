//! Guards of changes of members.

use oarlock_sim::Config;
use oarlock_types::{Guard, NodeId};

use crate::harness::*;

/// More nodes than the group has replicas.
fn spare(nodes: u64) -> Config {
    Config { replicas: 3, ..quiet(nodes) }
}

fn ids(numbers: &[u64]) -> Vec<NodeId> {
    numbers.iter().copied().map(NodeId).collect()
}

#[test]
fn learners_do_not_stand() {
    finds(Guard::LearnersDoNotStand, 10, &["leaders are voters"], |seed| {
        let mut world = serving(seed, spare(4));
        world.set_members(GROUP, ids(&[1, 2, 3]), ids(&[4]));
        world.run_for(SECOND);
        kill_leaders(&mut world);
    });
}

#[test]
fn one_change_at_a_time() {
    finds(Guard::OneChangeAtATime, 3, &["configurations overlap"], |seed| {
        let mut world = serving(seed, spare(5));
        world.set_members(GROUP, ids(&[1, 2, 4]), Vec::new());
        world.set_members(GROUP, ids(&[1, 3, 5]), Vec::new());
        world.run_for(SECOND);
        world.settle();
    });
}

/// All members are replaced while the old ones do not hear their leader.
#[test]
fn joint_needs_both() {
    finds(Guard::JointNeedsBoth, 3, &[QUORUM], |seed| {
        let mut world = serving(seed, spare(6));
        let first = leader(&world);
        let old: Vec<NodeId> = ids(&[1, 2, 3]).into_iter().filter(|n| *n != first).collect();
        cut(&mut world, &old, &[vec![first], ids(&[4, 5, 6])].concat());
        world.set_members(GROUP, ids(&[4, 5, 6]), Vec::new());
        world.run_for(500 * MS);
        join(&mut world, &old, &[vec![first], ids(&[4, 5, 6])].concat());
        world.run_for(SECOND);
        world.settle();
    });
}

#[test]
fn joint_is_left() {
    finds(Guard::JointIsLeft, 3, &["everything comes to rest"], |seed| {
        let mut world = serving(seed, spare(4));
        world.set_members(GROUP, ids(&[2, 3, 4]), Vec::new());
        world.run_for(SECOND);
        world.settle();
    });
}

/// A member joins behind the end of the log: a checkpoint brings all that it knows.
#[test]
fn snapshot_sets_members() {
    finds(Guard::SnapshotSetsMembers, 3, &["equal indices have equal members"], |seed| {
        let mut config = spare(5);
        config.limits.compact_log_bytes_min = 2 << 10;
        config.limits.compact_tail_bytes = 0;
        let mut world = serving(seed, config);
        world.set_members(GROUP, ids(&[1, 2, 3]), ids(&[5]));
        world.run_for(SECOND);
        for number in 0..20 {
            write(&mut world, "k", &format!("{number:0>300}"));
        }
        world.set_members(GROUP, ids(&[1, 2, 3, 4]), ids(&[5]));
        world.run_for(2 * SECOND);
        world.settle();
    });
}
