//! `oarlock replica rebuild`: rebuilds damaged replicas of a node from their peers, and waits until
//! each is a voter again. It asks the node itself; the cluster serves meanwhile.

use std::collections::BTreeMap;
use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};

use super::asked::Asked;
use super::exit::Exit;
use crate::bench::client::Client;
use crate::bench::cluster_map::{self, NodeStatus};
use crate::bench::run::resolve;

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the node is asked how far it is.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Look after single replicas.
#[derive(Args, Clone, Debug)]
pub struct ReplicaArgs {
    #[command(subcommand)]
    command: ReplicaCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum ReplicaCommand {
    /// Rebuild a damaged replica from its peers while the cluster serves.
    ///
    /// The replica leaves its group, begins again without what is left of its log, receives the
    /// state and is made a voter again. A quorum of the range's other replicas must be up. Ends with 0 once it is
    /// a voter, with 1 if it cannot be rebuilt or is not in time; the node then goes on by itself.
    Rebuild(RebuildArgs),
}

#[derive(Args, Clone, Debug)]
struct RebuildArgs {
    #[command(flatten)]
    asked: Asked,
    /// The range: its group's number, as `oarlock status` shows it.
    #[arg(long, value_name = "N", required_unless_present = "all_damaged")]
    range: Option<u64>,
    /// The node whose replica is damaged.
    #[arg(long, value_name = "M")]
    node: u64,
    /// Rebuild all damaged replicas of the node.
    #[arg(long, conflicts_with = "range")]
    all_damaged: bool,
    /// How long to wait until all are voters again.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout_s: u64,
}

/// Runs it.
#[must_use]
pub fn run(args: &ReplicaArgs) -> Exit {
    let ReplicaCommand::Rebuild(args) = &args.command;
    match rebuild(args) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            eprintln!("oarlock replica rebuild: {error}");
            Exit::Failed
        }
    }
}

fn rebuild(args: &RebuildArgs) -> io::Result<()> {
    let mut client = client_of(args)?;
    let status = cluster_map::status(&mut client)?;
    let groups: Vec<u64> = match args.range {
        Some(group) => vec![group],
        None => status.damaged.iter().map(|damaged| damaged.group).collect(),
    };
    if groups.is_empty() {
        super::print(&format!("node {} has no damaged replica\n", args.node));
    }
    let node = args.node.to_string();
    for group in &groups {
        let group_text = group.to_string();
        let words = [b"OARLOCK".as_slice(), b"REBUILD", group_text.as_bytes(), node.as_bytes()];
        let answer = client.call(&words)?;
        if answer.error_kind().is_some() {
            return Err(io::Error::other(format!("range {group} on node {node}: {answer}")));
        }
    }
    wait(&mut client, args, groups)
}

/// A connection to the node whose replica it is.
fn client_of(args: &RebuildArgs) -> io::Result<Client> {
    let of = |address: &str| {
        let unreachable = |error| io::Error::other(format!("{address}: {error}"));
        Client::connect(resolve(address).map_err(unreachable)?, REQUEST_TIMEOUT)
            .map_err(unreachable)
    };
    let mut client = of(&args.asked.address)?;
    let status = cluster_map::status(&mut client)?;
    if status.node == args.node {
        return Ok(client);
    }
    match status.nodes.iter().find(|other| other.node == args.node) {
        Some(other) => of(&other.client_address),
        None => Err(io::Error::other(format!("the cluster has no node {}", args.node))),
    }
}

/// Waits until none of the groups is damaged any more, and tells each step.
fn wait(client: &mut Client, args: &RebuildArgs, mut groups: Vec<u64>) -> io::Result<()> {
    let ends_at = Instant::now() + Duration::from_secs(args.timeout_s);
    let mut told: BTreeMap<u64, String> = BTreeMap::new();
    while !groups.is_empty() {
        let status = cluster_map::status(client)?;
        groups.retain(|group| {
            let stage = stage(&status, *group);
            if told.get(group) != Some(&stage) {
                super::print(&format!("range {group} on node {}: {stage}\n", args.node));
                told.insert(*group, stage.clone());
            }
            stage != DONE
        });
        if !groups.is_empty() && Instant::now() >= ends_at {
            let count = groups.len();
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!(
                    "{count} replicas are not voters yet after {} s: the node goes on by itself; see \
                     `oarlock status`, the range needs a leader and a quorum of its other replicas",
                    args.timeout_s
                ),
            ));
        }
        if !groups.is_empty() {
            sleep(POLL_INTERVAL);
        }
    }
    Ok(())
}

const DONE: &str = "rebuilt";

fn stage(status: &NodeStatus, group: u64) -> String {
    let damaged = status.damaged.iter().find(|damaged| damaged.group == group);
    damaged.map_or_else(|| DONE.to_owned(), |damaged| damaged.stage.clone())
}
