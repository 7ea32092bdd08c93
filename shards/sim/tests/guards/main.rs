//! Removed guards: each test takes one guard of the engine away and shows that the simulator finds
//! the bug that it keeps away, within so many seeds; and that the same seeds find nothing while the
//! guard is there. `cargo test -p oarlock-sim --test guards -- --nocapture` prints what was found.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;
mod cores;
mod disk;
mod elections;
mod harness;
mod leases;
mod members;
mod quorum_loss;
mod ranges;
mod reads;
mod replication;
mod requests;
mod snapshots;
#[path = "../support/mod.rs"]
mod support;
