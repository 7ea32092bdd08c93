//! The command line: parses it, runs one command, ends with its exit code.
//!
//! A command is a file with its arguments (`XArgs`) and `run`. To add one: a line in `Command`
//! and a line in `run`. Must not hold what a command does.
//!
//! Map: `exit` the exit codes, `settings` the configuration's flags, `asked` the node that is asked, then a file
//! for each command.

mod asked;
pub mod bench;
pub mod completions;
pub mod config;
pub mod demo;
pub mod exit;
mod keys;
pub mod node;
pub mod placement;
pub mod range;
pub mod recover;
pub mod replica;
pub mod serve;
pub mod settings;
pub mod status;
mod table;
pub mod top;
pub mod wal;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use asked::Asked;
use exit::Exit;

/// A thread-per-core sharded Multi-Raft key-value engine that speaks the Redis protocol.
#[derive(Debug, Parser)]
#[command(name = "oarlock", version, after_help = exit::HELP, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a cluster on this machine, load it, kill a node, and show that nothing is lost.
    Demo(demo::DemoArgs),
    /// Run one node.
    Serve(serve::ServeArgs),
    /// Put load on a server and measure it.
    Bench(Box<bench::BenchArgs>),
    /// Show a cluster's nodes, ranges, leaders and lag.
    Status(status::StatusArgs),
    /// Watch a cluster: nodes, cores, the busiest ranges, what moves, throughput and latency.
    Top(top::TopArgs),
    /// Show nodes, drain them, say that one is gone for good, and tell which may be restarted.
    Node(node::NodeArgs),
    /// Show what placement plans, and why replicas are where they are.
    Placement(placement::PlacementArgs),
    /// Show ranges, cut them in two, bring them to other nodes, and set rules for keys.
    Range(range::RangeArgs),
    /// Look after single replicas: rebuild damaged ones.
    Replica(replica::ReplicaArgs),
    /// Show and verify the write-ahead log of a stopped node.
    Wal(wal::WalArgs),
    /// Go on after the loss of a quorum for good, from what survives.
    Recover(recover::RecoverArgs),
    /// Check and show the configuration.
    Config(config::ConfigArgs),
    /// Print a completion script for a shell.
    Completions(completions::CompletionsArgs),
}

/// Runs the command that `args` (the program's name first) ask for.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers (code 0); standard error may be closed, and then there
            // is nobody to tell.
            drop(error.print());
            return if error.exit_code() == 0 { Exit::Ok } else { Exit::Usage }.into();
        }
    };
    match cli.command {
        Command::Demo(args) => demo::run(&args).into(),
        Command::Serve(args) => serve::run(&args, crate::node::serve::serve).into(),
        Command::Bench(args) => bench::run(&args).into(),
        Command::Status(args) => status::run(&args).into(),
        Command::Top(args) => top::run(&args).into(),
        Command::Node(args) => node::run(&args).into(),
        Command::Placement(args) => placement::run(&args).into(),
        Command::Range(args) => range::run(&args).into(),
        Command::Replica(args) => replica::run(&args).into(),
        Command::Wal(args) => wal::run(&args).into(),
        Command::Recover(args) => recover::run(&args).into(),
        Command::Config(args) => config::run(&args).into(),
        Command::Completions(args) => completions::run(&args, Cli::command()).into(),
    }
}

/// Ends a command that asked a node: prints what it found, or says what was wrong.
fn conclude(command: &str, asked: &Asked, done: io::Result<String>) -> Exit {
    match done {
        Ok(text) => {
            print(&text);
            Exit::Ok
        }
        Err(error) => {
            eprintln!("oarlock {command}: {}: {error}", asked.address);
            Exit::Failed
        }
    }
}

/// Prints an answer. A reader that has seen enough (`| head`) is no failure.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_consistent() {
        Cli::command().debug_assert();
    }
}
