//! What every `cargo test` fuzzes: each target over its corpus and a few mutations of it, the same
//! ones each time. `scripts/fuzz` goes on from there.

use oarlock_fuzz::engine::Engine;
use oarlock_fuzz::{TARGETS, corpus, memory, targets};

const SEED: u64 = 1;

/// Runs a target, and says which input broke it.
fn fuzz(name: &str) {
    let _alone = memory::alone();
    let target = targets::named(name).expect("there is such a target");
    let mut engine = Engine::new(target, SEED);
    let known = corpus::load(&corpus::folder(name)).expect("the corpus can be read");
    assert!(!known.is_empty(), "the corpus of {name} is gone");
    for (path, input) in known {
        let _named = Named(path.display().to_string());
        engine.seed(input);
    }
    for _ in 0..target.bounded_runs {
        let input = engine.choose();
        let _named = Named(format!("the input {}", input.escape_ascii()));
        engine.run();
    }
    assert!(engine.outcomes_count() > 10, "nearly all inputs have the same outcome");
}

/// Is told if a panic goes by.
struct Named(String);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what broke it: {}", self.0);
        }
    }
}

#[test]
fn fuzz_resp() {
    fuzz("resp");
}

#[test]
fn fuzz_frame() {
    fuzz("frame");
}

#[test]
fn fuzz_wal() {
    fuzz("wal");
}

#[test]
fn fuzz_checkpoint() {
    fuzz("checkpoint");
}

#[test]
fn fuzz_config() {
    fuzz("config");
}

#[test]
fn fuzz_map() {
    fuzz("map");
}

#[test]
fn every_target_has_a_test_and_a_corpus() {
    let source = include_str!("bounded.rs");
    for target in TARGETS {
        assert!(source.contains(&format!("fuzz(\"{}\")", target.name)), "{}", target.name);
        assert!(corpus::folder(target.name).is_dir(), "{}", target.name);
    }
}
