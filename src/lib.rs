//! Oarlock: everything that touches the world, around the deterministic crates under `shards/`.
//!
//! Map: [`config`] is what an operator may set, [`cli`] the commands, [`logging`] the log,
//! [`disk`] the log's ring and files, [`net`] all that crosses a socket, [`node`] the pinned
//! executors and their turns, [`runtime`] what their tasks run on, [`quorum_loss`] goes on from what survives,
//! [`mod@bench`] the load driver, [`abort`] ends
//! the process on a bug.

pub mod abort;
pub mod bench;
pub mod cli;
pub mod config;
pub mod disk;
pub mod logging;
pub mod net;
pub mod node;
pub mod quorum_loss;
pub mod runtime;
