//! Hostile and damaged bytes for everything of Oarlock that reads bytes. For development only.
//!
//! A **target** is a function of any bytes that asserts what must hold whatever they are: no panic,
//! no unbounded memory, no silent acceptance. It is a pure function: the same bytes, the same run.
//!
//! Map: [`targets`] has a file for each target, [`source`] reads choices out of an input, [`memory`]
//! bounds what is reserved, [`mutate`] makes inputs of others, [`corpus`] keeps them in files,
//! [`engine`] puts these together without help of the compiler. The bin `oarlock-fuzz` runs the
//! engine, `oarlock-fuzz-coverage` the same targets under libFuzzer; `scripts/fuzz` chooses.

pub mod corpus;
pub mod engine;
pub mod memory;
pub mod mutate;
pub mod source;
pub mod targets;

pub use targets::{TARGETS, Target};
