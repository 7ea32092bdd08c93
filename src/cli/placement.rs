//! `oarlock placement`: what is planned for the cluster, and why replicas are where they are.

use std::io;

use clap::{Args, Subcommand};

use super::asked::Asked;
use super::exit::Exit;
use crate::bench::client::Answer;

/// Show what placement plans, and why replicas are where they are.
#[derive(Args, Clone, Debug)]
pub struct PlacementArgs {
    #[command(subcommand)]
    command: PlacementCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum PlacementCommand {
    /// Show what is under way, what comes next, and what should be done and cannot be.
    ///
    /// It changes nothing. The node that leads the meta group plans once a second and carries the plan out by
    /// itself; with placement_moves_max = 0 it only plans.
    Plan {
        /// Says that nothing is to be changed. Nothing is without it, either: it is for those who read a script.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        asked: Asked,
    },
    /// Say of a range why its replicas are where they are, and why they move or stay.
    Explain {
        /// The range: its group's number, as `oarlock range list` shows it.
        #[arg(value_name = "RANGE", value_parser = clap::value_parser!(u64).range(1..))]
        group: u64,
        #[command(flatten)]
        asked: Asked,
    },
}

/// Runs it.
#[must_use]
pub fn run(args: &PlacementArgs) -> Exit {
    let (asked, told) = match &args.command {
        PlacementCommand::Plan { asked, dry_run: _ } => (asked, tell(asked, None)),
        PlacementCommand::Explain { group, asked } => (asked, tell(asked, Some(*group))),
    };
    super::conclude("placement", asked, told)
}

fn tell(asked: &Asked, group: Option<u64>) -> io::Result<String> {
    let group = group.map(|group| group.to_string());
    let mut words: Vec<&[u8]> = vec![b"OARLOCK", b"PLACEMENT"];
    words.extend(group.iter().map(String::as_bytes));
    let answer = asked.client()?.call(&words)?;
    let Answer::Bulk(text) = answer else { return Err(io::Error::other(answer.to_string())) };
    Ok(String::from_utf8_lossy(&text).into_owned())
}
