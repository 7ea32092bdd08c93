//! Oarlock.

pub mod bench;
pub mod cli;
