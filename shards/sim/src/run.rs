//! One run from beginning to end, as the command line and the tests do it.

use crate::config::{Config, Overrides};
use crate::world::{Figures, World};

/// Runs what a seed draws: faults and clients for their time, then calm, then judgement.
///
/// # Panics
/// When a property does not hold, or the production code finds itself in contradiction.
#[must_use]
pub fn run(seed: u64, overrides: &Overrides) -> Figures {
    let mut world = World::new(seed, Config::swarm(seed, overrides));
    finish(&mut world)
}

/// Runs a world to its end.
///
/// # Panics
/// As [`run`].
pub fn finish(world: &mut World) -> Figures {
    world.run_until(world.config.duration_us);
    world.settle();
    world.figures()
}
