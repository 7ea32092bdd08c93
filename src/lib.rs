//! Oarlock: everything that touches the world, around the deterministic crates under `shards/`.
//!
//! Map: [`config`] is what an operator may set, [`cli`] the commands, [`logging`] the log.

pub mod cli;
pub mod config;
pub mod logging;
