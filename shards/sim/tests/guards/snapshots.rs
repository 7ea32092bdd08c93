//! Guards of checkpoints on their way between replicas.

use oarlock_sim::{Trouble, World};
use oarlock_types::{CoreAddr, CoreId, Guard, NodeId};

use crate::harness::*;

/// A follower is away while the others write, of whom the leader lets its log go, and the other one
/// does not if `keeps_log`. Gives the leader, who is away, and the other.
fn follower_away(seed: u64, keeps_log: bool) -> (World, [NodeId; 3]) {
    let mut config = quiet(3);
    config.limits.compact_log_bytes_min = 2 << 10;
    config.limits.compact_tail_bytes = 0;
    let mut world = serving(seed, config);
    let first = leader(&world);
    let rest = others(&world, first);
    world.kill(rest[0]);
    let fails = Trouble::FilesFail(CoreAddr::new(rest[1], CoreId(0)));
    if keeps_log {
        world.trouble(&fails, 0);
    }
    for number in 0..20 {
        write(&mut world, "k", &format!("{number:0>300}"));
    }
    world.relief(&fails);
    (world, [first, rest[0], rest[1]])
}

/// Power fails as soon as the follower says that it has the checkpoint.
#[test]
fn mark_before_install() {
    finds(Guard::MarkBeforeInstall, 5, &[LOST], |seed| {
        let (mut world, [_, away, _]) = follower_away(seed, false);
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

/// While the mark of a received checkpoint is on its way to the disk, another leader comes that still
/// has the log behind it.
#[test]
fn marked_takes_nothing() {
    let invariant = "assertion `left == right` failed: invariant: nothing was said to the group";
    finds(Guard::MarkedTakesNothing, 5, &[invariant, LOST], |seed| {
        let (mut world, [_, away, keeper]) = follower_away(seed, true);
        world.restart(away);
        let ends_at = world.now_us() + 3 * SECOND;
        let stall = Trouble::WalStall(CoreAddr::new(away, CoreId(0)));
        world.trouble(&stall, ends_at);
        world.run_for(SECOND);
        hand_over(&mut world, keeper);
        world.run_for(3 * SECOND);
        world.settle();
    });
}
