//! What the rivals in Rust share: the same front, links, state machine and log file.

pub mod mesh;
pub mod router;
pub mod session;
pub mod state;
pub mod wal;
