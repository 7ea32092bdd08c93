//! `oarlock range rules`: sets rules for spans of keys, shows them, and waits until ranges are as they want.

use std::io;
use std::time::{Duration, Instant};

use clap::{ArgGroup, Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use oarlock_cluster::hex;
use oarlock_cluster::rules::{REPLICAS, Rule, RuleSet};
use oarlock_types::NodeId;
use serde_json::json;

use super::order::{Nodes, Order};
use crate::bench::client::{Answer, Client};
use crate::bench::cluster_map;
use crate::bench::processes::poll;
use crate::bench::run::resolve;
use crate::cli::asked::{Asked, REQUEST_TIMEOUT};
use crate::cli::exit::Exit;
use crate::cli::keys::shown;
use crate::cli::table::render;
use crate::cli::top::look::Looker;
use crate::config::SplitPoint;

/// Say of spans of keys how many replicas they have, where they are led, and which nodes may hold them.
///
/// A rule is for keys, not for ranges: ranges that are cut keep it, ranges inside which it begins or ends are cut
/// there, and neighbours of different rules are not merged. Spans may lie one in another: of the rules that have a
/// key the one that begins last counts, as a whole. What it leaves open is as for keys without a rule.
#[derive(Args, Clone, Debug)]
pub(super) struct RulesArgs {
    #[command(subcommand)]
    command: RulesCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum RulesCommand {
    /// Show all rules, and how many of their ranges are as they want them.
    List {
        #[command(flatten)]
        asked: Asked,
        /// Print JSON instead of a table; keys are hexadecimal.
        #[arg(long)]
        json: bool,
    },
    /// Set the rule of the keys from START on, in place of one that begins there.
    ///
    /// The cluster brings the ranges in order; this command only shows how far it is. Ctrl-C ends the showing,
    /// `oarlock range rules clear` the rule. Ends with 0 once all ranges of these keys are as it wants them, with 1
    /// if it can not be kept, or some are not in time: then `oarlock placement explain` says what is in the way.
    #[command(after_help = SET_HELP)]
    Set(SetArgs),
    /// End the rule that begins at START: its keys are as those around them from then on.
    Clear {
        /// Its first key, as text or as 0x and hexadecimal digits; "" is the first of all.
        #[arg(value_name = "START")]
        start: SplitPoint,
        #[command(flatten)]
        asked: Asked,
    },
}

const SET_HELP: &str = "\
Examples:
  oarlock range rules set user: 'user;' --replicas 5   keys that begin with user:
  oarlock range rules set eu/ eu0 --pin 4,5,6          keys that begin with eu/
  oarlock range rules set \"\" --leader-zone east        all, but for rules that begin later";

#[derive(Args, Clone, Debug)]
#[command(group(ArgGroup::new("wanted").required(true).multiple(true)))]
struct SetArgs {
    /// The first key, as text or as 0x and hexadecimal digits; "" is the first of all.
    #[arg(value_name = "START")]
    start: SplitPoint,
    /// The first key behind them; they have no end if it is left out.
    #[arg(value_name = "END")]
    end: Option<SplitPoint>,
    /// How many replicas each range has: 1, 3 or 5.
    #[arg(long, value_name = "N", group = "wanted", value_parser = replicas)]
    replicas: Option<u8>,
    /// The zone in which the ranges are led, as long as a replica there can.
    #[arg(long, value_name = "ZONE", group = "wanted")]
    leader_zone: Option<String>,
    /// The only nodes that may hold replicas.
    #[arg(long, value_name = "NODE,NODE,..", value_delimiter = ',', group = "wanted")]
    pin: Vec<u64>,
    /// Only set it: the ranges are brought in order all the same.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    asked: Asked,
    /// How long to wait until the ranges are in order.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    timeout_s: u64,
}

fn replicas(text: &str) -> Result<u8, String> {
    let known = REPLICAS.into_iter().find(|count| count.to_string() == text);
    known.ok_or_else(|| {
        "a range has 1, 3 or 5 replicas: with an even number it survives no more failures than with \
         one fewer"
            .to_owned()
    })
}

/// Runs it.
pub(super) fn run(args: &RulesArgs) -> Exit {
    let (name, asked, done) = match &args.command {
        RulesCommand::List { asked, json } => ("list", asked, list(asked, *json)),
        RulesCommand::Set(args) => ("set", &args.asked, set(args)),
        RulesCommand::Clear { start, asked } => ("clear", asked, clear(start, asked)),
    };
    crate::cli::conclude(&format!("range rules {name}"), asked, done)
}

fn looker(asked: &Asked) -> io::Result<Looker> {
    Ok(Looker::new(resolve(&asked.address)?, REQUEST_TIMEOUT))
}

fn key_or_none(key: Option<&[u8]>) -> String {
    shown(key.unwrap_or_default())
}

fn nodes_of(rule: &Rule, before: &str, between: &str) -> String {
    let nodes: Vec<String> =
        rule.pinned.iter().map(|node| format!("{before}{}", node.get())).collect();
    nodes.join(between)
}

fn list(asked: &Asked, is_json: bool) -> io::Result<String> {
    let look = looker(asked)?.look()?;
    let rules = cluster_map::rules(&mut asked.client()?)?;
    let nodes = Nodes::of(&look);
    let orders: Vec<(&Rule, Order)> =
        rules.rules().iter().map(|rule| (rule, nodes.order(rule, &rules, &look.ranges))).collect();
    if is_json {
        let rows: Vec<_> = orders.iter().map(|(rule, order)| document(rule, order)).collect();
        return Ok(format!("{:#}\n", json!(rows)));
    }
    if orders.is_empty() {
        return Ok("no rules are set\n".to_owned());
    }
    let or_any = |text: Option<String>| text.unwrap_or_else(|| "any".to_owned());
    let rows = orders.iter().map(|(rule, order)| {
        let pinned = (!rule.pinned.is_empty()).then(|| nodes_of(rule, "n", " "));
        vec![
            shown(&rule.start),
            key_or_none(rule.end.as_deref()),
            rule.replicas.map_or_else(|| "as others".to_owned(), |count| count.to_string()),
            or_any(rule.leader_zone.clone()),
            or_any(pinned),
            order.ranges.to_string(),
            order.in_order.to_string(),
        ]
    });
    let headers = ["from", "to", "replicas", "leader zone", "nodes", "ranges", "in order"];
    Ok(render(&headers, &rows.collect::<Vec<_>>()))
}

fn document(rule: &Rule, order: &Order) -> serde_json::Value {
    json!({
        "start": hex::encode(&rule.start),
        "end": rule.end.as_deref().map(hex::encode),
        "replicas": rule.replicas,
        "leader_zone": rule.leader_zone,
        "pinned": rule.pinned.iter().map(|node| node.get()).collect::<Vec<u64>>(),
        "ranges": order.ranges,
        "in_order": order.in_order,
    })
}

/// What a rule wants, in words.
fn words(rule: &Rule) -> String {
    let replicas = rule.replicas.map(|count| match count {
        1 => "one replica".to_owned(),
        count => format!("{count} replicas"),
    });
    let zone = rule.leader_zone.as_ref().map(|zone| format!("led in zone {zone}"));
    let pinned = nodes_of(rule, "", ", ");
    let pinned = (!pinned.is_empty()).then(|| format!("on no nodes but {pinned}"));
    let all: Vec<String> = [replicas, zone, pinned].into_iter().flatten().collect();
    format!("{}: {}", rule.span(), all.join(", "))
}

fn set(args: &SetArgs) -> io::Result<String> {
    let mut pinned: Vec<NodeId> = args.pin.iter().copied().map(NodeId).collect();
    pinned.sort_unstable();
    pinned.dedup();
    let rule = Rule {
        start: args.start.0.clone().into(),
        end: args.end.as_ref().map(|SplitPoint(end)| end.clone().into()),
        replicas: args.replicas,
        leader_zone: args.leader_zone.clone(),
        pinned,
    };
    let mut looker = looker(&args.asked)?;
    let look = looker.look()?;
    Nodes::of(&look).refuse(&rule).map_err(io::Error::other)?;
    let mut client = args.asked.client()?;
    let before = cluster_map::rules(&mut client)?;
    write(&mut client, &rule)?;
    crate::cli::print(&format!("{}\n{}", words(&rule), beside(&rule, &before)));
    if args.no_wait {
        return Ok(String::new());
    }
    let (order, took) = wait(&mut looker, &mut client, &rule, args.timeout_s)?;
    Ok(match order.ranges {
        0 => "rules that begin later count for all of these keys\n".to_owned(),
        1 => format!("its range is in order, after {took:.1} s\n"),
        ranges => format!("its {ranges} ranges are in order, after {took:.1} s\n"),
    })
}

/// What other rules have to do with it.
fn beside(rule: &Rule, others: &RuleSet) -> String {
    let others = others.rules().iter().filter(|other| other.overlaps(rule));
    let line = |other: &Rule| match other.start.cmp(&rule.start) {
        std::cmp::Ordering::Less => {
            format!("  it counts there, and not the rule for {}\n", other.span())
        }
        std::cmp::Ordering::Equal => format!("  before it was {}\n", words(other)),
        std::cmp::Ordering::Greater => {
            format!("  the rule for {} goes on to count there\n", other.span())
        }
    };
    others.map(line).collect()
}

fn write(client: &mut Client, rule: &Rule) -> io::Result<()> {
    let (replicas, pinned) = (rule.replicas.map(|count| count.to_string()), numbers(&rule.pinned));
    let mut words: Vec<&[u8]> = vec![b"OARLOCK", b"RULES", b"SET", &rule.start];
    words.push(rule.end.as_deref().unwrap_or_default());
    if let Some(replicas) = &replicas {
        words.extend([b"REPLICAS", replicas.as_bytes()]);
    }
    if let Some(zone) = &rule.leader_zone {
        words.extend([b"LEADERZONE", zone.as_bytes()]);
    }
    if !pinned.is_empty() {
        words.push(b"PIN");
        words.extend(pinned.iter().map(String::as_bytes));
    }
    let answer = client.call(&words)?;
    if answer.is_ok() { Ok(()) } else { Err(io::Error::other(answer.to_string())) }
}

fn numbers(nodes: &[NodeId]) -> Vec<String> {
    nodes.iter().map(|node| node.get().to_string()).collect()
}

/// Waits until the ranges are in order; how long that took.
fn wait(
    looker: &mut Looker,
    client: &mut Client,
    rule: &Rule,
    timeout_s: u64,
) -> io::Result<(Order, f64)> {
    let begun = Instant::now();
    let bar = ProgressBar::new(0);
    let style =
        ProgressStyle::with_template("{bar:40} {pos}/{len} ranges are in order  {elapsed}  {msg}");
    bar.set_style(style.expect("invariant: the template is right"));
    let done = poll("the ranges to be in order", Duration::from_secs(timeout_s), || {
        let rules = cluster_map::rules(client)?;
        if !rules.rules().contains(rule) {
            return Err(io::Error::other("the rule was set anew or cleared meanwhile"));
        }
        let look = looker.look()?;
        let order = Nodes::of(&look).order(rule, &rules, &look.ranges);
        bar.set_length(order.ranges as u64);
        bar.set_position(order.in_order as u64);
        bar.set_message(order.why.clone().unwrap_or_default());
        match &order.why {
            None => Ok(Ok(order)),
            Some(why) => Ok(Err(format!(
                "{} of {} ranges are; {why}. It goes on: `oarlock placement plan` says how",
                order.in_order, order.ranges
            ))),
        }
    });
    bar.finish_and_clear();
    Ok((done?, begun.elapsed().as_secs_f64()))
}

fn clear(start: &SplitPoint, asked: &Asked) -> io::Result<String> {
    let mut client = asked.client()?;
    let rules = cluster_map::rules(&mut client)?;
    let rule = rules.rules().iter().find(|rule| *rule.start == *start.0);
    let answer = client.call(&[b"OARLOCK", b"RULES", b"CLEAR", &start.0])?;
    match (answer, rule) {
        (Answer::Int(1), Some(rule)) => Ok(format!("no longer {}\n", words(rule))),
        (Answer::Int(1), None) => Ok("the rule is cleared\n".to_owned()),
        (Answer::Int(_), _) => {
            let text =
                "no rule begins at that key: `oarlock range rules list` shows where they begin";
            Err(io::Error::other(text))
        }
        (answer, _) => Err(io::Error::other(answer.to_string())),
    }
}
