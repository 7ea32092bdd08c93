//! Oarlock: everything that touches the world, around the deterministic crates under `shards/`.
//!
//! Map: [`config`] is what an operator may set, [`cli`] the commands, [`logging`] the log,
//! [`disk`] the log's ring and files, [`node`] the pinned executors and what goes between them,
//! [`bench`] the load driver and what checks a cluster from outside.

pub mod bench;
pub mod cli;
pub mod config;
pub mod abort;
pub mod disk;
pub mod logging;
pub mod net;
pub mod node;
