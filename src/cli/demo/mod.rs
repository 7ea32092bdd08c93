//! `oarlock demo`: a real cluster of this very binary on this machine, under load, losing a node
//! and getting it back, with every acknowledged write read back at the end. One after the other:
//! `stages` does each step, this file takes arguments and tells the end.

mod as_node;
mod figures;
mod probe;
mod stages;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;

use super::exit::Exit;
use crate::bench::ports::data_folder;
use figures::Figures;
use stages::Stages;

/// Start a cluster of processes on this machine, load it, kill a node, and show that nothing is
/// lost.
///
/// Ends with 0 and "demo: ok" if every acknowledged write was read back.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Nodes, each a process.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    pub nodes: u64,
    /// Ranges of the key space, each a Raft group.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub ranges: u32,
    /// Cores of each node.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub cores_per_node: u16,
    /// How long to measure before the fault.
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

fn demo(args: &DemoArgs, interrupted: &AtomicBool) -> Result<(), DemoError> {
    let program = std::env::current_exe()?;
    let mut folder = data_folder()?;
    let is_interrupted = || interrupted.load(Ordering::Relaxed);
    let mut figures = Figures::default();
    let mut stages = None;
    let result = Stages::start(args, program, folder.path(), &is_interrupted)
        .map_err(DemoError::from)
        .and_then(|started| stages.insert(started).run(&mut figures));
    figures.ok = result.is_ok();
    if let Some(file) = &args.json {
        super::bench::write_json(file, &figures.json())?;
    }
    if result.is_err() && !is_interrupted() {
        folder.disable_cleanup(true);
        println!("the nodes' data and logs are kept in {}", folder.path().display());
    }
    result?;
    println!("demo: ok");
    if let Some(stages) = stages.filter(|_| args.keep) {
        println!("the cluster stays up until Ctrl-C:\n{}", stages.how_to_talk());
        while !is_interrupted() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}
