//! Other replicated stores, to measure Oarlock against: each keeps 64 groups on three nodes, speaks
//! the Redis protocol, and acknowledges a write when most nodes have it on disk.
//!
//! Map: [`cluster`] starts a rival's processes, [`node`] is one of them, [`check`] kills them and
//! looks for what they acknowledged, [`compare`] measures Oarlock beside them; [`shared`] is the front, links and log that those in Rust
//! share, [`raft_rs`] and [`open_raft`] the consensus behind it.

mod check;
mod cluster;
mod compare;
mod node;
mod open_raft;
mod raft_rs;
mod shared;

use std::error::Error;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The rivals that Oarlock is measured against.
#[derive(Parser)]
enum Args {
    /// Starts a rival on this machine's loopback and ends it with this command's input, or Ctrl-C.
    Cluster(cluster::Args),
    /// One process of a rival; `cluster` starts three.
    Node(node::Args),
    /// Writes, kills all nodes at once, restarts them, and looks for every acknowledged write.
    Check(check::Args),
    /// Measures Oarlock beside all of them, and writes what came out.
    Compare(compare::Args),
}

fn main() -> Result<(), Box<dyn Error>> {
    match Args::parse() {
        Args::Cluster(args) => cluster::run(args),
        Args::Node(args) => node::run(args).map_err(|error| error.to_string().into()),
        Args::Check(args) => check::run(args),
        Args::Compare(args) => compare::run(&args),
    }
}
