//! `oarlock node`: shows the nodes with what they hold, drains them, gives up those that are lost, and tells
//! which may be restarted.
//!
//! Map: `restart_safe` asks whether one may be restarted, `verdict` judges it.

mod restart_safe;
mod verdict;

use std::io;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use super::asked::Asked;
use super::exit::Exit;
use super::table::{render, shown_levels};
use crate::bench::client::{Answer, Client};
use crate::bench::cluster_map::{self, RangeRow};
use crate::bench::processes::poll;
use restart_safe::RestartSafeArgs;

/// Show nodes, drain them, say that one is gone for good, and tell which may be restarted.
#[derive(Args, Clone, Debug)]
pub struct NodeArgs {
    #[command(subcommand)]
    command: NodeCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum NodeCommand {
    /// Show all nodes: where they stand, what they have room for, their duty, replicas and leaders.
    ///
    /// Room is `capacity_bytes` of a node's configuration, or the size of its file system; "?" for one that has not
    /// told it: it counts as the others do on average.
    List {
        #[command(flatten)]
        asked: Asked,
    },
    /// Bring all replicas of a node to others, leaders first.
    ///
    /// The cluster does it; this command only shows how far it is. Ctrl-C ends the showing, `oarlock node serve`
    /// the draining. Ends with 0 once no range has a replica there, with 1 if some still have in the end: then
    /// `oarlock placement plan` says what is in the way.
    Drain(DutyArgs),
    /// Give a node up that never comes back: its replicas are made anew on others at once.
    ///
    /// Ends with 0 once no range counts on it. Should it come back all the same, it is a member of nothing.
    Remove(DutyArgs),
    /// Let a node have replicas again that was to be drained or was given up.
    Serve {
        /// The node.
        #[arg(value_name = "NODE")]
        node: u64,
        #[command(flatten)]
        asked: Asked,
    },
    RestartSafe(RestartSafeArgs),
}

#[derive(Args, Clone, Debug)]
struct DutyArgs {
    /// The node.
    #[arg(value_name = "NODE")]
    node: u64,
    #[command(flatten)]
    asked: Asked,
    /// How long to wait until it is empty.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    timeout_s: u64,
}

/// Runs it.
#[must_use]
pub fn run(args: &NodeArgs) -> Exit {
    let (name, asked, done) = match &args.command {
        NodeCommand::List { asked } => ("list", asked, list(asked)),
        NodeCommand::Drain(args) => ("drain", &args.asked, empty(args, "DRAIN")),
        NodeCommand::Remove(args) => ("remove", &args.asked, empty(args, "REMOVE")),
        NodeCommand::Serve { node, asked } => ("serve", asked, serve(*node, asked)),
        NodeCommand::RestartSafe(args) => return restart_safe::run(args),
    };
    super::conclude(&format!("node {name}"), asked, done)
}

fn list(asked: &Asked) -> io::Result<String> {
    let mut client = asked.client()?;
    let status = cluster_map::status(&mut client)?;
    let ranges = cluster_map::ranges_with_leaders(&mut client)?;
    // Both are asked of whoever leads the meta group: without one, the rest is told all the same.
    let duties = cluster_map::duties(&mut client).ok();
    let capacities = cluster_map::capacities(&mut client).unwrap_or_default();
    let duty = |node: u64| {
        let duty =
            duties.as_ref().map_or("?", |all| all.get(&node).map_or("serving", String::as_str));
        duty.to_owned()
    };
    let rows = status.nodes.iter().map(|node| {
        let replicas = held(&ranges, node.node);
        let leaders = ranges.iter().filter(|range| range.leader == node.node).count();
        vec![
            node.node.to_string(),
            node.client_address.clone(),
            if node.zone.is_empty() { "-".to_owned() } else { node.zone.clone() },
            capacities.get(&node.node).map_or_else(|| "?".to_owned(), |bytes| spelled(*bytes)),
            duty(node.node),
            replicas.to_string(),
            leaders.to_string(),
            shown_levels(node.levels),
        ]
    });
    let headers =
        ["node", "address", "zone", "capacity", "duty", "replicas", "leaders", "levels known here"];
    let mut text = render(&headers, &rows.collect::<Vec<_>>());
    text.push_str(&format!("\nthe cluster is at feature level {}\n", status.level));
    Ok(text)
}

/// Bytes as people say them.
fn spelled(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB")];
    let (shift, unit) =
        units.into_iter().find(|(shift, _)| bytes >> shift > 0).unwrap_or((20, "MiB"));
    format!("{}.{} {unit}", bytes >> shift, ((bytes >> (shift - 10)) % 1024) * 10 / 1024)
}

fn held(ranges: &[RangeRow], node: u64) -> usize {
    ranges.iter().filter(|range| range.replicas.contains(&node)).count()
}

fn serve(node: u64, asked: &Asked) -> io::Result<String> {
    let mut client = asked.client()?;
    say(&mut client, node, "SERVE")?;
    Ok(format!("node {node} may have replicas again\n"))
}

fn say(client: &mut Client, node: u64, duty: &str) -> io::Result<()> {
    let status = cluster_map::status(client)?;
    if !status.nodes.iter().any(|known| known.node == node) {
        return Err(io::Error::other(format!("the cluster has no node {node}")));
    }
    let node = node.to_string();
    let answer = client.call(&[b"OARLOCK", b"NODE", node.as_bytes(), duty.as_bytes()])?;
    match answer {
        Answer::Error(text) => Err(io::Error::other(text)),
        Answer::Simple(_) | Answer::Int(_) | Answer::Bulk(_) | Answer::Nil | Answer::Array(_) => {
            Ok(())
        }
    }
}

fn empty(args: &DutyArgs, duty: &str) -> io::Result<String> {
    let node = args.node;
    let mut client = args.asked.client()?;
    say(&mut client, node, duty)?;
    let begun = Instant::now();
    let ranges = cluster_map::ranges(&mut client)?;
    let first = held(&ranges, node) as u64;
    let bar = ProgressBar::new(first);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} replicas have left  {elapsed}");
    bar.set_style(style.expect("invariant: the template is right"));
    poll("the node to be empty", Duration::from_secs(args.timeout_s), || {
        let ranges = cluster_map::ranges(&mut client)?;
        let left = held(&ranges, node) as u64;
        bar.set_position(first.saturating_sub(left));
        Ok(if left == 0 { Ok(()) } else { Err(format!("{left} replicas are left")) })
    })?;
    bar.finish_and_clear();
    let took = begun.elapsed().as_secs_f64();
    Ok(format!(
        "no range has a replica on node {node} any more; {first} have left in {took:.1} s\n"
    ))
}
