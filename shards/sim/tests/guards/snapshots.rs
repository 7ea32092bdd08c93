//! Guards of checkpoints on their way between replicas.

use oarlock_sim::{Trouble, World};
use oarlock_types::{CoreAddr, CoreId, Guard, NodeId};

use crate::harness::*;

/// A follower is away while the others write and let their logs go.
fn follower_behind(seed: u64) -> (World, NodeId) {
    let mut config = quiet(3);
    config.limits.compact_log_bytes_min = 2 << 10;
    config.limits.compact_tail_bytes = 0;
    let mut world = serving(seed, config);
    let first = leader(&world);
    let away = others(&world, first)[0];
    world.kill(away);
    for number in 0..20 {
        write(&mut world, "k", &format!("{number:0>300}"));
    }
    (world, away)
}

/// Power fails as soon as a follower says that it has the checkpoint.
#[test]
fn mark_before_install() {
    finds(Guard::MarkBeforeInstall, 5, &[LOST], |seed| {
        let (mut world, away) = follower_behind(seed);
        let slow = Trouble::WalSlow(CoreAddr::new(away, CoreId(0)), 500);
        world.restart(away);
        world.trouble(&slow, 0);
        let has_it = |world: &mut World| {
            world.replica(away, GROUP).is_some_and(|replica| replica.commit().get() > 15)
        };
        assert!(world.run_till(10 * SECOND, has_it), "no checkpoint: {}", world.who_waits());
        world.power_loss(away);
        world.restart(away);
        world.relief(&slow);
        world.settle();
    });
}

/// A follower is killed while the mark of a checkpoint from the leader is on its way to a disk that
/// stands still; the mark lands when the next process has found a file that nothing marks.
#[test]
fn lock_outlives_process() {
    finds(Guard::LockOutlivesProcess, 5, &[SOUND], |seed| {
        let (mut world, away) = follower_behind(seed);
        let stall = Trouble::WalStall(CoreAddr::new(away, CoreId(0)));
        world.trouble(&stall, world.now_us() + 10 * SECOND);
        world.restart(away);
        world.run_for(SECOND);
        for other in others(&world, away) {
            world.cut(away, other);
        }
        world.kill(away);
        world.restart(away);
        world.run_for(SECOND);
        world.relief(&stall);
        world.run_for(SECOND);
        world.kill(away);
        world.settle();
    });
}
