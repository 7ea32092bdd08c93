//! `oarlock demo --scale`: a cluster that begins with one range on three nodes grows, shrinks and loses a
//! node, all under load, and moves its ranges by itself. This file has the stages and what ends each;
//! `board` tells them, `figures` what clients saw of them.

mod board;
mod figures;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use oarlock_types::GroupId;
use serde_json::{Value, json};
use toml::Table;

use super::probe::Probers;
use super::read_back::ReadAll;
use super::{DemoArgs, DemoError};
use crate::bench::cluster_map::{self, GroupStatus, RangeRow};
use crate::bench::keys::Naming;
use crate::bench::ledger::Ledger;
use crate::bench::processes::{ClusterOptions, LocalCluster, Node};
use crate::bench::run::{self, RunOptions, Running};
use crate::bench::schedule::Arrival;
use crate::bench::verify::Recorded;
use board::Board;
use figures::{Seen, Stage};

const NODES: u64 = 3;
/// Those that are emptied and killed. Clients talk to the first two nodes, so that what they see is
/// the cluster's doing, and not that they have lost their own node.
const DRAINED: u64 = 2;
const KILLED: u64 = 3;
const VALUE_BYTES: usize = 128;
const READ_SHARE: f64 = 0.5;
const KEYS: usize = 8_000;
/// A range is cut when it has this part of all keys or of all requests. Halves of halves of halves are
/// below.
const PARTS: u32 = 5;
/// So many ranges come of that at least.
const RANGES_MIN: usize = 6;
const CONNECTIONS: usize = 32;
/// Keys of which it is measured for how long they take no write, spread over all keys, and how often.
const PROBED: u16 = 16;
const PROBE_PERIOD_MS: u32 = 50;
/// What is silent for so long is made up for.
const GONE_AFTER_MS: i64 = 3_000;
const LOAD_REST_MS: i64 = 2_000;
/// The load's driver may have begun so much later than the stages' time.
const AFTER_SECOND: Duration = Duration::from_millis(20);
/// All stages together take no longer.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Runs it all. `told` gets the figures, however far it comes.
pub(super) fn run(
    args: &DemoArgs,
    program: PathBuf,
    folder: &Path,
    interrupted: &Arc<AtomicBool>,
    told: &mut Value,
) -> Result<LocalCluster, DemoError> {
    let options = ClusterOptions {
        program,
        nodes: NODES,
        cores_per_node: args.cores_per_node,
        ranges: 1,
        more: settings(args.rate),
        variables: Vec::new(),
        hosts: Vec::new(),
    };
    println!("starting {NODES} nodes and one range in {}", folder.display());
    let started = Instant::now();
    let mut cluster = LocalCluster::prepare(options, folder)?;
    cluster.start_all()?;
    let is_interrupted = || interrupted.load(Ordering::Relaxed);
    cluster.wait_for("a leader", TIMEOUT, &is_interrupted, LocalCluster::led_ranges)?;
    println!(
        "it has a leader after {:.1?}; {} operations per second begin",
        started.elapsed(),
        args.rate
    );
    let clients: Vec<SocketAddr> = cluster.addresses().into_iter().take(2).collect();
    let recorded = Recorded::new(Ledger::new(Naming::Spread, 0, KEYS, VALUE_BYTES), READ_SHARE, 1);
    let running = run::start(&load(args.rate, clients.clone()), vec![recorded])?;
    let begun = Instant::now();
    let keys = (0..PROBED).map(|at| [&(at << 12).to_be_bytes()[..], b":probe"].concat()).collect();
    let probers = Probers::start(keys, &clients, Duration::from_millis(PROBE_PERIOD_MS.into()))?;
    let board = Board::open(clients[0], interrupted)?;
    let mut scale = Scale {
        args,
        cluster,
        board,
        running,
        begun,
        stages: Vec::new(),
        is_interrupted: &is_interrupted,
    };
    let result = scale.all_stages();
    let Scale { mut cluster, board, running, stages, .. } = scale;
    drop(board);
    running.stop();
    let probed = probers.finish()?;
    let (mut workloads, measured) = running.join()?;
    let seen: Vec<Seen> = stages
        .into_iter()
        .map(|stage| {
            let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
            let pause = probed.pause(us(stage.from), us(stage.to));
            Seen::new(stage, &measured.series, pause)
        })
        .collect();
    *told = json!({ "ok": false, "stages": figures::json(&seen), "load": measured.json() });
    if let Err(error) = result {
        if !is_interrupted() {
            cluster.check_alive()?;
        }
        return Err(error.into());
    }
    crate::cli::print(&figures::table(&seen));
    let mut all = ReadAll::default();
    let recorded = workloads.remove(0);
    all.findings.merge(recorded.findings);
    for ledger in [recorded.ledger, probed.ledger] {
        all.read(ledger, clients.clone(), &is_interrupted)?;
    }
    told["acknowledged"] = json!(all.acknowledged);
    told["keys_read_back"] = json!(all.keys);
    told["violations"] = json!(all.findings.count);
    all.tell()?;
    told["ok"] = json!(true);
    Ok(cluster)
}

/// Ranges are cut early enough, and a node counts as gone soon enough, to be seen.
fn settings(rate: u32) -> Table {
    let section = |keys: &[(&str, i64)]| {
        let keys = keys.iter().map(|(key, number)| ((*key).to_owned(), (*number).into()));
        toml::Value::Table(keys.collect())
    };
    let probes = u32::from(PROBED) * (1000 / PROBE_PERIOD_MS);
    let keys = i64::try_from(KEYS).expect("invariant: few keys") / i64::from(PARTS);
    let splits = [
        ("range_keys_max", keys),
        ("range_requests_per_s_max", i64::from(rate.saturating_add(probes) / PARTS)),
        ("range_load_rest_ms", LOAD_REST_MS),
    ];
    Table::from_iter([
        ("ranges".to_owned(), section(&splits)),
        ("placement".to_owned(), section(&[("placement_gone_after_ms", GONE_AFTER_MS)])),
    ])
}

fn load(rate: u32, addresses: Vec<SocketAddr>) -> RunOptions {
    RunOptions {
        routes: None,
        addresses,
        clients: CONNECTIONS,
        pipeline: 64,
        rate: Some(f64::from(rate)),
        arrival: Arrival::Poisson,
        warmup: Duration::ZERO,
        // Longer than it lasts: it is stopped.
        window: Some(TIMEOUT * 3),
        timeout: Duration::from_secs(6),
        seed: 1,
    }
}

/// A cluster under load, and how far it is.
struct Scale<'a> {
    args: &'a DemoArgs,
    cluster: LocalCluster,
    board: Board,
    running: Running<Recorded>,
    begun: Instant,
    stages: Vec<Stage>,
    is_interrupted: &'a dyn Fn() -> bool,
}

impl Scale<'_> {
    fn all_stages(&mut self) -> io::Result<()> {
        self.stage(
            "one range divides",
            |_| Ok(()),
            |cluster| {
                let ranges = cluster.led_ranges()?;
                let text = format!("{} ranges", ranges.len());
                if ranges.len() >= RANGES_MIN { Ok(text) } else { Err(text) }
            },
        )?;
        let join = |cluster: &mut LocalCluster| {
            for _ in 0..2 {
                let node = cluster.add_node()?;
                cluster.start(node)?;
            }
            Ok(())
        };
        self.stage("two nodes join", join, |cluster| {
            let known = asked(cluster, cluster_map::status)?.nodes.len();
            let text = format!("{known} nodes");
            if known == cluster.nodes.len() { Ok(text) } else { Err(text) }
        })?;
        self.stage("replicas and leaders spread", |_| Ok(()), is_spread)?;
        let drain = |cluster: &mut LocalCluster| order(cluster, DRAINED, b"DRAIN");
        self.stage(&format!("node {DRAINED} is drained"), drain, |cluster| {
            let how = left(cluster, DRAINED)?;
            // A move to a node that dies would hold up its range: the next stage kills one.
            rests(cluster).map(|()| how)
        })?;
        let kill = |cluster: &mut LocalCluster| {
            cluster.node_mut(KILLED).kill();
            Ok(())
        };
        let name = format!("node {KILLED} is killed and made up for");
        self.stage(&name, kill, |cluster| left(cluster, KILLED))?;
        let (calm, mut first) = (Duration::from_secs(self.args.seconds), None);
        let end = |_: &LocalCluster| match first.get_or_insert_with(Instant::now).elapsed() {
            passed if passed >= calm => Ok("nothing moves".to_owned()),
            passed => Err(format!("{passed:.1?} have passed")),
        };
        self.stage("calm", |_| Ok(()), end)?;
        self.await_whole_second();
        Ok(())
    }

    /// What clients saw is known by seconds, and so stages begin with one.
    fn await_whole_second(&self) {
        let now = self.begun.elapsed();
        let next = Duration::from_secs(now.as_secs() + 1) + AFTER_SECOND;
        std::thread::sleep(next - now);
    }

    /// Does something, and waits until it has come to its end; that tells how it is then.
    fn stage(
        &mut self,
        name: &str,
        begin: impl FnOnce(&mut LocalCluster) -> io::Result<()>,
        end: impl FnMut(&LocalCluster) -> Result<String, String>,
    ) -> io::Result<()> {
        self.await_whole_second();
        let from = self.begun.elapsed();
        self.board.tell(format!("{name} …"));
        begin(&mut self.cluster)?;
        let left = TIMEOUT.saturating_sub(from) + Duration::from_secs(self.args.seconds);
        let how = self.cluster.wait_for(name, left, self.is_interrupted, end)?;
        let to = self.begun.elapsed();
        let done = self.running.completed();
        let took = (to - from).as_secs_f64();
        self.board.tell(format!("  done in {took:.1} s: {how}; {done} operations so far"));
        self.stages.push(Stage { name: name.to_owned(), from, to });
        Ok(())
    }
}

/// Asks the first node.
fn asked<T>(
    cluster: &LocalCluster,
    ask: fn(&mut crate::bench::client::Client) -> io::Result<T>,
) -> Result<T, String> {
    let client = cluster.nodes[0].client();
    client.and_then(|mut client| ask(&mut client)).map_err(|error| error.to_string())
}

fn order(cluster: &LocalCluster, node: u64, duty: &[u8]) -> io::Result<()> {
    let node = node.to_string();
    let answer = cluster.nodes[0].client()?.call(&[b"OARLOCK", b"NODE", node.as_bytes(), duty])?;
    match answer.error_kind() {
        None => Ok(()),
        Some(_) => Err(io::Error::other(answer.to_string())),
    }
}

/// Whether each node has a share of replicas, and leads, if only the meta group, which placement counts like any other, and
/// nothing is left to be done.
fn is_spread(cluster: &LocalCluster) -> Result<String, String> {
    let ranges = cluster.led_ranges()?;
    let counts = cluster.nodes.iter().map(|node| {
        let replicas = held(&ranges, node.id);
        let led = ranges.iter().filter(|range| range.leader == node.id).count();
        (replicas, led + usize::from(leads_meta(node)))
    });
    let counts: Vec<(usize, usize)> = counts.collect();
    let texts: Vec<String> = counts.iter().map(|(held, led)| format!("{led}/{held}")).collect();
    let text = format!("leaders/replicas of the nodes {}", texts.join(" "));
    let fair = ranges.len() * 3 / cluster.nodes.len();
    if counts.iter().any(|(held, led)| held + 1 < fair || *led == 0) {
        return Err(text);
    }
    rests(cluster)?;
    Ok(text)
}

fn leads_meta(node: &Node) -> bool {
    let status = node.client().and_then(|mut client| cluster_map::status(&mut client));
    let is_meta = |group: &GroupStatus| group.group == GroupId::META.get();
    status.is_ok_and(|status| {
        status.groups.iter().any(|group| is_meta(group) && group.role == "leader")
    })
}

/// Whether no move is under way or planned.
fn rests(cluster: &LocalCluster) -> Result<(), String> {
    let plan = asked(cluster, cluster_map::placement)?;
    if plan == "nothing to do\n" { Ok(()) } else { Err(plan) }
}

fn held(ranges: &[RangeRow], node: u64) -> usize {
    ranges.iter().filter(|range| range.replicas.contains(&node)).count()
}

/// Whether no range has a replica on the node any more, and all have three and a leader.
fn left(cluster: &LocalCluster, node: u64) -> Result<String, String> {
    let ranges = cluster.led_ranges()?;
    let rest = held(&ranges, node);
    let short = ranges.iter().filter(|range| range.replicas.len() != 3).count();
    if rest + short > 0 {
        return Err(format!("{rest} replicas are left, {short} ranges have not three"));
    }
    let nodes: std::collections::BTreeSet<u64> =
        ranges.iter().flat_map(|range| range.replicas.iter().copied()).collect();
    let nodes: Vec<String> = nodes.iter().map(u64::to_string).collect();
    Ok(format!("{} ranges on nodes {}", ranges.len(), nodes.join(", ")))
}
