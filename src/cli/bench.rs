//! `oarlock bench`: puts load on any server that speaks the Redis protocol and tells what it
//! measured. Reads its arguments and prints; measuring is [`crate::bench`]'s.
//!
//! Map: [`load`] one run and its arguments, [`sweep`] runs at rising rates, [`compare`] runs side by
//! side; [`scale`] and [`moves`] measure clusters that they start themselves.

pub mod compare;
pub mod load;
pub mod moves;
pub mod scale;
pub mod sweep;

use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use super::exit::Exit;
use compare::CompareArgs;
use load::LoadArgs;
use moves::MovesArgs;
use scale::ScaleArgs;
use sweep::SweepArgs;

/// Put load on a server and measure it.
///
/// With --rate the loop is open: operations are due on a schedule whatever the server does, and
/// a latency runs from the time at which the operation was due. Without it the loop is closed:
/// each client keeps its pipeline full.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    load: LoadArgs,
}

/// What else than a single run.
#[derive(Clone, Debug, Subcommand)]
enum Action {
    /// Measure at rising rates until the server no longer keeps up, and name the knee.
    Sweep(Box<SweepArgs>),
    /// Measure what ranges cost that nobody asks for: a thousand, ten thousand, a hundred thousand.
    Scale(ScaleArgs),
    /// Measure what it costs to cut ranges, to bring them to other nodes and cores, and to change their leaders.
    Moves(MovesArgs),
    /// Show runs side by side, from the files that --json wrote.
    Compare(CompareArgs),
}

/// Runs it: 0 if no operation failed (or that is allowed) and every --assert holds, 1 otherwise.
#[must_use]
pub fn run(args: &BenchArgs) -> Exit {
    let ended = match &args.action {
        None => load::run(&args.load),
        Some(Action::Sweep(args)) => sweep::run(args),
        Some(Action::Scale(args)) => scale::run(args),
        Some(Action::Moves(args)) => moves::run(args),
        Some(Action::Compare(args)) => compare::run(args).map(|()| Exit::Ok),
    };
    match ended {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("oarlock bench: {error}");
            Exit::Failed
        }
    }
}

/// Writes a JSON document to a file.
///
/// # Errors
/// If the file cannot be written; the message names it.
pub(crate) fn write_json(file: &std::path::Path, json: &serde_json::Value) -> io::Result<()> {
    write_file(file, format!("{json:#}\n").as_bytes())
}

fn write_file(file: &std::path::Path, bytes: &[u8]) -> io::Result<()> {
    std::fs::write(file, bytes).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot write {}: {error}", file.display()))
    })
}

/// A progress bar over a time, on a terminal only.
pub(crate) fn progress(total: Duration) -> ProgressBar {
    bar(u64::try_from(total.as_millis()).unwrap_or(u64::MAX))
}

fn bar(length: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {percent:>3} %  {msg}");
    ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
