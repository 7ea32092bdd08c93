//! Guards of checkpoints on their way between replicas.

use oarlock_sim::{Trouble, World};
use oarlock_types::{CoreAddr, CoreId, Guard};

use crate::harness::*;

/// A follower was away while the others wrote and let their logs go. Power fails as soon as it says
/// that it has the checkpoint.
#[test]
fn mark_before_install() {
    finds(Guard::MarkBeforeInstall, 5, &[LOST], |seed| {
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
