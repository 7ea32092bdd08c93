//! Guards of changes of members.

use oarlock_sim::{Config, Trouble, World};
use oarlock_types::{CoreAddr, CoreId, Guard, NodeId};

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

/// A replica moves away and ends while a member does not hear of it. That one then asks where it was, has it
/// made again, and stands for election by the members that it knows of.
#[test]
fn departed_remember() {
    finds(Guard::DepartedRemember, 5, &[COMPLETE], |seed| {
        let mut world = serving(seed, spare(4));
        let members = world.configuration(leader(&world), GROUP).unwrap().voters;
        let spare_node = ids(&[1, 2, 3, 4]).into_iter().find(|n| !members.contains(n)).unwrap();
        let (first, deaf, leaves) = (members[0], members[1], members[2]);
        hand_over(&mut world, first);
        cut(&mut world, &[deaf], &[first, leaves, spare_node]);
        for number in 0..5 {
            write(&mut world, "k", &number.to_string());
        }
        world.bring_to(GROUP, vec![first, deaf, spare_node]);
        let has_ended = |world: &mut World| world.replica(leaves, GROUP).is_none();
        assert!(world.run_till(10 * SECOND, has_ended), "it ends: {}", world.who_waits());
        world.stop_placing();
        write(&mut world, "k", "last");
        join(&mut world, &[deaf], &[leaves]);
        world.run_for(5 * SECOND);
        join(&mut world, &[deaf], &[first, spare_node]);
        world.settle();
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

/// A leader that is voted out writes the entry that says so on its own disk alone, and its process
/// ends: the others are in the joint configuration, which needs its vote.
#[test]
fn removed_leader_stands() {
    finds(Guard::RemovedLeaderStands, 5, &[SERVES], |seed| {
        let mut config = Config { replicas: 2, ..quiet(3) };
        config.weather.delay_min_us = 5 * MS;
        let mut world = serving(seed, config);
        hand_over(&mut world, NodeId(1));
        let (first, rest) = (NodeId(1), ids(&[2, 3]));
        world.set_members(GROUP, ids(&[1, 2]), ids(&[3]));
        world.run_for(SECOND);
        world.set_members(GROUP, rest.clone(), Vec::new());
        let knows = |world: &mut World| {
            world.configuration(first, GROUP).is_some_and(|members| !members.is_voter(first))
        };
        assert!(world.run_till(SECOND, knows), "it votes itself out: {}", world.who_waits());
        cut(&mut world, &[first], &rest);
        let has_it = |world: &mut World| {
            let replica = world.replica(first, GROUP);
            replica.is_some_and(|replica| replica.durable_index() == replica.last().index)
        };
        assert!(world.run_till(SECOND, has_it), "it is on its disk: {}", world.who_waits());
        world.kill(first);
        join(&mut world, &[first], &rest);
        world.restart(first);
        world.settle();
    });
}

/// No node can make a checkpoint for long, and they rest before they try again; then one loses its files,
/// and gets the whole log.
#[test]
fn checkpoint_knows_members() {
    finds(Guard::CheckpointKnowsMembers, 5, &["equal indices have equal members"], |seed| {
        let mut config = quiet(3);
        config.limits.compact_log_bytes_min = 2 << 10;
        config.limits.compact_tail_bytes = 0;
        config.limits.append_bytes_max = 1; // one entry a message,
        config.limits.inflight_messages_max = 1; // and one message at a time
        let mut world = serving(seed, config);
        let core = |node| CoreAddr::new(NodeId(node), CoreId(0));
        (1..=3).for_each(|node| world.trouble(&Trouble::FilesFail(core(node)), 0));
        for number in 0..20 {
            write(&mut world, "k", &format!("{number:0>300}"));
            world.run_for(600 * MS);
        }
        (1..=3).for_each(|node| world.relief(&Trouble::FilesFail(core(node))));
        let lost = core(1 + seed % 3);
        let files = Trouble::LoseFiles(lost);
        world.trouble(&files, 0);
        world.run_for(SECOND);
        world.relief(&files);
        let has_all = |world: &mut World| {
            let replica = world.replica(lost.node, GROUP);
            replica.is_some_and(|replica| replica.commit().get() > 20)
        };
        assert!(world.run_till(20 * SECOND, has_all), "it gets the log: {}", world.who_waits());
        world.settle();
    });
}

/// While a rebuilt replica is away, all members change but one, and that one does not lead.
#[test]
fn told_members_are_asked() {
    finds(Guard::ToldMembersAreAsked, 5, &["everything comes to rest"], |seed| {
        let mut world = serving(seed, spare(5));
        hand_over(&mut world, NodeId(1));
        let lost = NodeId(3);
        let files = Trouble::LoseFiles(CoreAddr::new(lost, CoreId(0)));
        world.trouble(&files, 0);
        world.run_for(SECOND);
        world.relief(&files);
        let begins = |world: &mut World| world.replica(lost, GROUP).is_some();
        assert!(world.run_till(20 * SECOND, begins), "it begins again: {}", world.who_waits());
        world.kill(lost);
        world.set_members(GROUP, ids(&[1, 2, 4, 5]), Vec::new());
        world.run_for(2 * SECOND);
        hand_over(&mut world, NodeId(4));
        world.set_members(GROUP, ids(&[2, 4, 5]), Vec::new());
        world.run_for(2 * SECOND);
        world.restart(lost);
        world.run_for(SECOND);
        world.settle();
    });
}
