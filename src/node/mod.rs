//! The node: pinned executors, one driver on each, and what they share.
//! It must not decide anything about consensus. One per process.

pub mod executor;
pub mod inbox;
pub mod watchdog;
