//! Guards of the log on disk: crashes in the middle of writes, recycled segments, damage.

use oarlock_sim::{Config, Trouble, World, finish};
use oarlock_types::{CoreAddr, CoreId, GroupId, Guard, NodeId};

use crate::harness::*;

const CORE: CoreId = CoreId(0);

/// Clients write all the time, groups are compacted all the time, segments go round.
fn busy() -> Config {
    let mut config = Config::calm(3, 1, 2);
    config.limits.compact_log_bytes_min = 2 << 10;
    config.limits.compact_tail_bytes = 0;
    config.segment_bytes = 64 << 10;
    config.think_us = MS;
    config.weather.wal_us = 4 * MS;
    config.weather.file_us = 50;
    config
}

/// Power fails everywhere, again and again, in the middle of writes.
fn power_failures(seed: u64) {
    let mut world = World::new(seed, busy());
    for round in 0..8 {
        world.run_for(700 * MS + round * 77 * MS);
        world.trouble(&Trouble::PowerLossAll, 0);
        world.run_for(20 * MS);
        world.relief(&Trouble::PowerLossAll);
    }
    world.settle();
}

#[test]
fn torn_tail_is_cut() {
    finds(Guard::TornTailIsCut, 10, &[SOUND], power_failures);
}

#[test]
fn frame_names_its_segment() {
    let invariant = "a reference is released once";
    finds(Guard::FrameNamesItsSegment, 10, &[SOUND, invariant], power_failures);
}

#[test]
fn retired_once_durable() {
    finds(Guard::RetiredOnceDurable, 30, &[SOUND, LOST], |seed| {
        let mut config = busy();
        config.segment_bytes = 40 << 10;
        config.clients = 2;
        let mut world = serving(seed, config);
        for round in 0..8 {
            world.run_for(600 * MS + round * 7 * MS);
            // A frame is on its way for long, and then the power fails.
            let node = NodeId(1 + round % 3);
            let stall = Trouble::WalStall(CoreAddr::new(node, CORE));
            let ends_at = world.now_us() + SECOND;
            world.trouble(&stall, ends_at);
            world.run_for(40 * MS);
            world.power_loss(node);
            world.relief(&stall);
            world.restart(node);
        }
        world.settle();
    });
}

#[test]
fn mark_before_letting_go() {
    finds(Guard::MarkBeforeLettingGo, 10, &[SOUND, LOST], power_failures);
}

/// Where the lock does not outlive the process, as on a file system that knows nothing of it:
/// processes are killed while their writes are on the way, which land after they have started again.
#[test]
fn recovered_head_is_closed() {
    let killed = |seed| {
        let mut config = busy();
        config.weather.wal_us = 100;
        let mut world = World::new(seed, config);
        world.run_for(SECOND);
        for round in 0..12 {
            let node = NodeId(1 + round % 3);
            let slow = Trouble::WalSlow(CoreAddr::new(node, CORE), 3000);
            world.trouble(&slow, 0);
            world.run_for(25 * MS);
            world.kill(node);
            world.relief(&slow);
            world.restart(node);
            world.run_for(600 * MS);
        }
        world.settle();
    };
    finds(Guard::RecoveredHeadIsClosed, 20, &[SOUND, LOST], |seed| {
        Guard::LockOutlivesProcess.removed(|| killed(seed));
    });
}

/// A bit flips on one node's disk.
fn flip_a_bit(world: &mut World, seed: u64) {
    world.run_for(SECOND);
    let flip = Trouble::FlipBit(CoreAddr::new(NodeId(1 + seed % 3), CORE));
    world.trouble(&flip, 0);
    world.run_for(300 * MS);
    world.relief(&flip);
    world.run_for(SECOND);
    world.settle();
}

/// Long values for several groups, one frame for each; then a bit flips on one node's disk.
fn flipped_bit(seed: u64) {
    let mut config = quiet(3);
    config.groups = 3;
    let mut world = serving(seed, config);
    for number in 0..6 {
        let group = GroupId(1 + number % 3);
        let node = world.leader(group).unwrap();
        let token = world.request(node, group, set("k", &"a".repeat(6000)));
        assert!(matches!(outcome(&mut world, token, SECOND), Some(Ok(_))));
    }
    flip_a_bit(&mut world, seed);
}

#[test]
fn damaged_tail_is_told() {
    finds(Guard::DamagedTailIsTold, 60, &[LOST], flipped_bit);
}

#[test]
fn later_frame_proves_earlier() {
    finds(Guard::LaterFrameProvesEarlier, 60, &[LOST], flipped_bit);
}

/// Files of one node's log are gone, the newest ones among them in some seeds.
#[test]
fn newest_segment_is_missed() {
    finds(Guard::NewestSegmentIsMissed, 60, &[LOST], |seed| {
        let mut config = quiet(3);
        config.segment_bytes = 40 << 10;
        config.limits.compact_log_bytes_min = 1 << 20;
        let mut world = serving(seed, config);
        for number in 0..10 {
            write(&mut world, &format!("k{number}"), &"a".repeat(6000));
        }
        world.run_for(SECOND);
        let gone = Trouble::DropFile(CoreAddr::new(NodeId(1 + seed % 3), CORE));
        for _ in 0..3 {
            world.trouble(&gone, 0);
        }
        world.run_for(300 * MS);
        world.relief(&gone);
        world.run_for(SECOND);
        world.settle();
    });
}

/// As before, where most of what the disk holds is a checkpoint.
#[test]
fn checkpoint_is_checked() {
    finds(Guard::CheckpointIsChecked, 40, &["equal indices have equal states"], |seed| {
        let mut config = quiet(3);
        config.limits.compact_log_bytes_min = 2 << 10;
        config.limits.compact_tail_bytes = 0;
        let mut world = serving(seed, config);
        for number in 0..4 {
            write(&mut world, &format!("k{number}"), &"a".repeat(3000));
        }
        flip_a_bit(&mut world, seed);
    });
}

#[test]
fn checkpoint_is_of_state() {
    let invariant = "assertion `left == right` failed: invariant: the store is what the meta says";
    finds(Guard::CheckpointIsOfState, 3, &[invariant], |seed| {
        let mut config = busy();
        config.duration_us = 2 * SECOND;
        finish(&mut World::new(seed, config));
    });
}
