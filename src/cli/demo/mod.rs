//! `oarlock demo`: a real cluster of this very binary on this machine, under load, losing a node
//! and getting it back, with every acknowledged write read back at the end; or, with `--scale`, one that
//! grows, shrinks and moves its ranges. `stages` does the steps of the first, `scale` those of the second;
//! this file takes arguments and tells the end.

mod as_node;
mod figures;
mod probe;
mod read_back;
mod scale;
mod stages;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::exit::Exit;
use crate::bench::ports::data_folder;
use crate::bench::processes::LocalCluster;

/// Start a cluster of processes on this machine, load it, kill a node, and show that nothing is
/// lost.
///
/// With --scale it begins with three nodes and one range. Under load the range divides, two nodes join and get
/// their share, one node is drained, another is killed and made up for. A live view shows it, as `oarlock top` does
/// of any cluster (q or Ctrl-C ends it); where standard output is no terminal, a line tells each stage. At the end
/// there is a table: how long each stage took, operations per second and their p99 meanwhile, and for how long at
/// most one of 16 keys, written to every 50 ms, took no write.
///
/// Ends with 0 and "demo: ok" if every stage came to its end and every acknowledged write was read back.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Nodes, each a process.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    pub nodes: u64,
    /// Show how a map moves: ranges divide, nodes join, one is drained, one is lost.
    #[arg(long, conflicts_with_all = ["nodes", "ranges"])]
    pub scale: bool,
    /// Ranges of the key space, each a Raft group.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub ranges: u32,
    /// Cores of each node.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub cores_per_node: u16,
    /// How long to measure before the fault; with --scale, after all stages.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// Operations per second, half of them writes.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: u32,
    /// Leave the cluster up at the end, until Ctrl-C, and say how to talk to it.
    #[arg(long)]
    pub keep: bool,
    /// Write all figures to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Become one node of a demo or test, whose life ends with the thread that started it.
    #[arg(long, hide = true, value_name = "FILE")]
    pub as_node: Option<PathBuf>,
}

/// Why a demo did not end well.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    /// Something did not work.
    #[error("{0}")]
    Failed(#[from] io::Error),
    /// Everything worked, but data was lost or reads were wrong.
    #[error("{0}")]
    Lost(String),
}

/// Runs it.
#[must_use]
pub fn run(args: &DemoArgs) -> Exit {
    if let Some(config) = &args.as_node {
        eprintln!("oarlock demo: cannot become a node: {}", as_node::become_node(config));
        return Exit::Failed;
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        if let Err(error) = signal_hook::flag::register(signal, Arc::clone(&interrupted)) {
            eprintln!("oarlock demo: cannot listen for Ctrl-C: {error}");
            return Exit::Failed;
        }
    }
    match demo(args, &interrupted) {
        Ok(()) => Exit::Ok,
        Err(_) if interrupted.load(Ordering::Relaxed) => {
            eprintln!("demo: interrupted, all nodes have been ended");
            Exit::Interrupted
        }
        Err(error) => {
            println!("demo: failed: {error}");
            Exit::Failed
        }
    }
}

fn demo(args: &DemoArgs, interrupted: &Arc<AtomicBool>) -> Result<(), DemoError> {
    let program = std::env::current_exe()?;
    let mut folder = data_folder()?;
    let is_interrupted = || interrupted.load(Ordering::Relaxed);
    let mut told = Value::Null;
    let result = if args.scale {
        scale::run(args, program, folder.path(), interrupted, &mut told)
    } else {
        stages::run(args, program, folder.path(), &is_interrupted, &mut told)
    };
    if let Some(file) = &args.json {
        super::bench::write_json(file, &told)?;
    }
    if result.is_err() && !is_interrupted() {
        folder.disable_cleanup(true);
        println!("the nodes' data and logs are kept in {}", folder.path().display());
    }
    let cluster = result?;
    println!("demo: ok");
    if args.keep {
        println!("the cluster stays up until Ctrl-C:\n{}", how_to_talk(&cluster));
        while !is_interrupted() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// How a person talks to the cluster.
fn how_to_talk(cluster: &LocalCluster) -> String {
    let mut lines = Vec::new();
    for node in cluster.nodes.iter().filter(|node| node.is_running()) {
        let port = node.client_address.port();
        lines.push(format!("  redis-cli -p {port}    # node {}", node.id));
    }
    if let Some(node) = cluster.nodes.first() {
        let address = node.client_address;
        lines.push(format!("  oarlock status --addr {address}"));
        lines.push(format!("  oarlock top --addr {address}"));
        lines.push(format!("  oarlock bench --addr {address}"));
    }
    lines.join("\n")
}
