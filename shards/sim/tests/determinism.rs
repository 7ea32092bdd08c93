//! The same seed gives the same run, byte for byte.

use oarlock_sim::{Config, Overrides, World, finish};

fn trace(seed: u64) -> (String, u64) {
    let overrides = Overrides { seconds: Some(4), groups: Some(6), ..Overrides::default() };
    let mut world = World::traced(seed, Config::swarm(seed, &overrides), true);
    let figures = finish(&mut world);
    assert!(figures.answered > 20, "next to nothing was done: {figures:?}");
    (world.trace.text(), figures.digest)
}

#[test]
fn two_runs_of_a_seed_are_the_same_byte_for_byte() {
    for seed in [2, 5] {
        let (one, two) = (trace(seed), trace(seed));
        let differs = one.0.lines().zip(two.0.lines()).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert!(one == two, "seed {seed}: one trace is longer, or their digests differ");
    }
    assert_ne!(trace(2).1, trace(5).1, "seeds decide nothing");
}

#[test]
fn a_trace_does_not_change_a_run() {
    let overrides = Overrides { seconds: Some(3), groups: Some(3), ..Overrides::default() };
    let run = |is_traced| {
        let mut world = World::traced(9, Config::swarm(9, &overrides), is_traced);
        finish(&mut world)
    };
    assert_eq!(run(false), run(true));
}
