//! `oarlock range`: shows the ranges, cuts them, brings them to other nodes by hand, and says what is wanted of
//! those of some keys.
//!
//! Map: `rules` sets and shows rules for keys, `order` judges whether ranges are as these want them.

mod order;
mod rules;

use std::io;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use oarlock_cluster::hex;
use serde_json::json;

use super::asked::Asked;
use super::exit::Exit;
use super::keys::shown;
use super::table::render;
use crate::bench::client::Answer;
use crate::bench::cluster_map::{self, RangeRow};
use crate::bench::processes::poll;
use crate::config::SplitPoint;
use rules::RulesArgs;

/// Show ranges, cut them in two, bring them to other nodes, and set rules for keys.
#[derive(Args, Clone, Debug)]
pub struct RangeArgs {
    #[command(subcommand)]
    command: RangeCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum RangeCommand {
    /// Show all ranges: their bounds, groups, leaders and replicas.
    List(ListArgs),
    /// Cut the range of a key in two, so that a range begins at that key.
    ///
    /// No data is copied and clients see nothing of it. Ends with 0 once the map shows the new range, with 1 if it
    /// cannot be cut there or is not in time.
    Split(SplitArgs),
    /// Bring a small range into the one before it.
    ///
    /// Clients see nothing of it but a short wait. Ends with 0 once the map shows it, with 1 if it is too large
    /// or is not in time; then it may still come to pass.
    Merge(MergeArgs),
    /// Bring the replicas of a range to these nodes and no others.
    ///
    /// New nodes learn first, then the voters change, then what has left is ended; clients see nothing of it.
    /// Placement may bring them elsewhere again. Ends with 0 once they are there, with 1 if they are not in time.
    Move(MoveArgs),
    /// Bring a replica of a range to another core of its node.
    ///
    /// It goes while the node serves; clients see nothing of it. Placement may bring it elsewhere again. Ends with 0
    /// once it is there, with 1 if it is not in time; then it may still go.
    MoveCore(MoveCoreArgs),
    /// Let another node lead a range.
    Transfer(TransferArgs),
    /// Say of spans of keys how many replicas they have, where they are led, and which nodes may hold them.
    Rules(RulesArgs),
}

#[derive(Args, Clone, Debug)]
struct ListArgs {
    #[command(flatten)]
    asked: Asked,
    /// Print JSON instead of a table; keys are hexadecimal.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
struct SplitArgs {
    /// The first key of the new range, as text or as 0x and hexadecimal digits.
    #[arg(value_name = "KEY")]
    key: SplitPoint,
    #[command(flatten)]
    asked: Asked,
    /// How long to wait until the map shows it.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    timeout_s: u64,
}

#[derive(Args, Clone, Debug)]
struct MergeArgs {
    /// The first key of the range that is to end, as text or as 0x and hexadecimal digits.
    #[arg(value_name = "KEY")]
    key: SplitPoint,
    #[command(flatten)]
    asked: Asked,
    /// How long to wait until the map shows it.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    timeout_s: u64,
}

#[derive(Args, Clone, Debug)]
struct MoveArgs {
    /// The range: its group's number, as `oarlock range list` shows it.
    #[arg(value_name = "RANGE")]
    group: u64,
    /// The nodes.
    #[arg(long = "to", value_name = "NODE,NODE,..", value_delimiter = ',', required = true)]
    nodes: Vec<u64>,
    #[command(flatten)]
    asked: Asked,
    /// How long to wait until they are there.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout_s: u64,
}

#[derive(Args, Clone, Debug)]
struct MoveCoreArgs {
    /// The range: its group's number, as `oarlock range list` shows it.
    #[arg(value_name = "RANGE")]
    group: u64,
    /// The node, which must have a replica.
    #[arg(long, value_name = "NODE")]
    node: u64,
    /// The core.
    #[arg(long = "to-core", value_name = "CORE")]
    core: u16,
    #[command(flatten)]
    asked: Asked,
    /// How long to wait until it is there.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout_s: u64,
}

#[derive(Args, Clone, Debug)]
struct TransferArgs {
    /// The range: its group's number, as `oarlock range list` shows it.
    #[arg(value_name = "RANGE")]
    group: u64,
    /// The node, which must have a replica.
    #[arg(long = "to", value_name = "NODE")]
    node: u64,
    #[command(flatten)]
    asked: Asked,
    /// How long to wait until it leads.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    timeout_s: u64,
}

/// Runs it.
#[must_use]
pub fn run(args: &RangeArgs) -> Exit {
    let (name, asked, done) = match &args.command {
        RangeCommand::List(args) => ("list", &args.asked, list(args)),
        RangeCommand::Split(args) => ("split", &args.asked, split(args)),
        RangeCommand::Merge(args) => ("merge", &args.asked, merge(args)),
        RangeCommand::Move(args) => ("move", &args.asked, bring(args)),
        RangeCommand::MoveCore(args) => ("move-core", &args.asked, move_core(args)),
        RangeCommand::Transfer(args) => ("transfer", &args.asked, transfer(args)),
        RangeCommand::Rules(args) => return rules::run(args),
    };
    super::conclude(&format!("range {name}"), asked, done)
}

fn list(args: &ListArgs) -> io::Result<String> {
    let ranges = cluster_map::ranges_with_leaders(&mut args.asked.client()?)?;
    if args.json {
        let rows: Vec<_> = ranges.iter().map(document).collect();
        return Ok(format!("{:#}\n", json!(rows)));
    }
    let rows: Vec<Vec<String>> = ranges.iter().map(cells).collect();
    let version = version_of(&ranges);
    let table = render(&["group", "from", "to", "epoch", "leader", "replicas"], &rows);
    Ok(format!("{table}\n{} ranges, version {version} of the map\n", ranges.len()))
}

fn version_of(ranges: &[RangeRow]) -> u64 {
    ranges.first().map_or(0, |range| range.map_version)
}

fn cells(range: &RangeRow) -> Vec<String> {
    let replicas: Vec<String> = range.replicas.iter().map(|node| format!("n{node}")).collect();
    vec![
        range.group.to_string(),
        shown(&range.start),
        shown(&range.end),
        range.epoch.to_string(),
        if range.leader == 0 { "none".to_owned() } else { format!("n{}", range.leader) },
        replicas.join(" "),
    ]
}

fn document(range: &RangeRow) -> serde_json::Value {
    json!({
        "group": range.group,
        "start": hex::encode(&range.start),
        "end": hex::encode(&range.end),
        "epoch": range.epoch,
        "leader": range.leader,
        "replicas": range.replicas,
    })
}

fn split(args: &SplitArgs) -> io::Result<String> {
    let mut client = args.asked.client()?;
    let begun = Instant::now();
    let timeout = Duration::from_secs(args.timeout_s);
    let SplitPoint(key) = &args.key;
    let version = version_of(&cluster_map::ranges(&mut client)?);
    let group = poll("the range to be cut", timeout, || {
        let answer = client.call(&[b"OARLOCK", b"SPLIT", key])?;
        if let Answer::Int(group) = answer {
            return Ok(Ok(group));
        }
        // What is only busy can soon be cut.
        let is_busy = answer.error_kind() == Some("BUSY");
        if is_busy {
            Ok(Err(answer.to_string()))
        } else {
            Err(io::Error::other(answer.to_string()))
        }
    })?;
    let left = timeout.saturating_sub(begun.elapsed());
    let range = poll("the new range in the map", left, || {
        let ranges = cluster_map::ranges(&mut client)?;
        let is_newer = version_of(&ranges) > version;
        let new = ranges.into_iter().find(|range| is_newer && range.start == *key);
        Ok(new.ok_or_else(|| "the map does not show it yet".to_owned()))
    })?;
    let (from, to) = (shown(&range.start), shown(&range.end));
    Ok(format!("group {group} has the keys from {from} to {to} now\n"))
}

fn merge(args: &MergeArgs) -> io::Result<String> {
    let mut client = args.asked.client()?;
    let SplitPoint(key) = &args.key;
    let (mut has_asked, mut is_done) = (false, false);
    poll("the range to be merged", Duration::from_secs(args.timeout_s), || {
        let ranges = cluster_map::ranges(&mut client)?;
        let at = ranges.partition_point(|range| range.start < *key);
        let into = at.checked_sub(1).map(|before| &ranges[before]);
        let is_there = ranges.get(at).is_some_and(|range| range.start == *key);
        let into = match into {
            Some(range) if !is_there && has_asked => {
                let (from, to) = (shown(&range.start), shown(&range.end));
                let group = range.group;
                return Ok(Ok(format!("group {group} has the keys from {from} to {to} now\n")));
            }
            Some(range) if is_there => range,
            Some(_) => {
                let text =
                    "no range begins at that key: `oarlock range list` shows where they begin";
                return Err(io::Error::other(text));
            }
            None => return Err(io::Error::other("it is the first range: there is none before it")),
        };
        if is_done {
            return Ok(Err("the map does not show it yet".to_owned()));
        }
        let epoch = into.epoch.to_string();
        let answer = client.call(&[b"OARLOCK", b"MERGE", key, &into.start, epoch.as_bytes()])?;
        is_done = answer.is_ok();
        // What is only busy, or open, or has happened since it was asked before, is looked at again.
        let is_final = answer.error_kind().is_some_and(|kind| kind != "BUSY" && kind != "UNKNOWN");
        if is_final && !has_asked {
            return Err(io::Error::other(answer.to_string()));
        }
        has_asked = true;
        Ok(Err(answer.to_string()))
    })
}

fn bring(args: &MoveArgs) -> io::Result<String> {
    let nodes: Vec<String> = args.nodes.iter().map(ToString::to_string).collect();
    let words = [&["PLACE".to_owned(), args.group.to_string()], nodes.as_slice()].concat();
    ask_until_done(&args.asked, &words, args.timeout_s)?;
    Ok(format!("range {} is on {} now\n", args.group, nodes.join(" ")))
}

fn move_core(args: &MoveCoreArgs) -> io::Result<String> {
    let numbers = [args.group, args.node, u64::from(args.core)];
    let words = [&["MOVECORE".to_owned()], &numbers.map(|number| number.to_string())[..]].concat();
    ask_until_done(&args.asked, &words, args.timeout_s)?;
    Ok(format!("range {} is on core {} of node {} now\n", args.group, args.core, args.node))
}

fn transfer(args: &TransferArgs) -> io::Result<String> {
    let words = ["TRANSFER".to_owned(), args.group.to_string(), args.node.to_string()];
    ask_until_done(&args.asked, &words, args.timeout_s)?;
    Ok(format!("node {} leads range {} now\n", args.node, args.group))
}

/// Asks for the next step until there is none, and tells each one.
fn ask_until_done(asked: &Asked, words: &[String], timeout_s: u64) -> io::Result<()> {
    let mut client = asked.client()?;
    let ranges = cluster_map::ranges(&mut client)?;
    if !ranges.iter().any(|range| range.group.to_string() == words[1]) {
        let text = format!("there is no range {}: `oarlock range list` shows them", words[1]);
        return Err(io::Error::other(text));
    }
    let mut args: Vec<&[u8]> = vec![b"OARLOCK"];
    args.extend(words.iter().map(String::as_bytes));
    let mut told = String::new();
    poll("the last step", Duration::from_secs(timeout_s), || {
        let answer = client.call(&args)?;
        if answer.is_ok() {
            return Ok(Ok(()));
        }
        let step = answer.to_string();
        if answer.error_kind().is_some_and(|kind| kind != "BUSY") {
            return Err(io::Error::other(step));
        }
        if step != told {
            super::print(&format!("{step}\n"));
            told.clone_from(&step);
        }
        Ok(Err(step))
    })
}
