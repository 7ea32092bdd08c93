//! The targets: a file for each, whose `run` takes any bytes and panics if what must hold does not.
//!
//! Its result tells kinds of outcome apart, so that the engine knows which inputs lead somewhere.

mod checkpoint;
mod config;
mod frame;
mod map;
mod resp;
mod wal;

use std::fmt::Debug;
use std::hash::{DefaultHasher, Hasher};

/// Something of Oarlock that reads bytes.
#[derive(Debug)]
pub struct Target {
    /// Its name, and its folders'.
    pub name: &'static str,
    /// What it does with an input.
    pub run: fn(&[u8]) -> u64,
    /// Words that mean something to it.
    pub words: &'static [&'static [u8]],
    /// Longer inputs tell nothing new.
    pub input_bytes_max: usize,
    /// New inputs in the run that is part of the tests: about three seconds.
    pub bounded_runs: u32,
}

/// All of them.
pub static TARGETS: &[Target] = &[
    Target {
        name: "resp",
        run: resp::run,
        words: resp::WORDS,
        input_bytes_max: 4096,
        bounded_runs: 1500,
    },
    Target {
        name: "frame",
        run: frame::run,
        words: frame::WORDS,
        input_bytes_max: 4096,
        bounded_runs: 1500,
    },
    Target { name: "wal", run: wal::run, words: &[], input_bytes_max: 512, bounded_runs: 40 },
    Target {
        name: "checkpoint",
        run: checkpoint::run,
        words: checkpoint::WORDS,
        input_bytes_max: 4096,
        bounded_runs: 800,
    },
    Target {
        name: "config",
        run: config::run,
        words: config::WORDS,
        input_bytes_max: 4096,
        bounded_runs: 1500,
    },
    Target {
        name: "map",
        run: map::run,
        words: map::WORDS,
        input_bytes_max: 4096,
        bounded_runs: 1500,
    },
];

/// The target of this name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// A number for a kind of outcome.
fn outcome(kind: &impl Debug) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(format!("{kind:?}").as_bytes());
    hasher.finish()
}
