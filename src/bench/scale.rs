//! What ranges cost while nobody asks for them, and how soon they serve after a start and after a node's death:
//! measured on a cluster of three real processes.
//!
//! Loopback's own counters tell what nodes send each other, so nothing else may use it meanwhile.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::client::Client;
use super::cluster_map::{self, RangeRow};
use super::paced::{Paced, Write, histogram, ms};
use super::processes::{ClusterOptions, LocalCluster, poll};
use super::usage::{Loopback, Usage};

const NODES: u64 = 3;
/// The node that is killed.
const VICTIM: u64 = 3;
/// Ranges of the dead node that are written to until they answer.
const WATCHED: usize = 64;
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// For a cluster of many ranges to come up.
pub(super) const START_MAX: Duration = Duration::from_secs(600);
const SETTLE_MAX: Duration = Duration::from_secs(120);
/// A cluster at rest carries out a few requests a second all the same: who leads the meta group reads there what nodes
/// are to do.
const QUIET_REQUESTS: u64 = 100;

/// What to measure.
#[derive(Clone, Debug)]
pub struct ScaleOptions {
    /// The program.
    pub program: std::path::PathBuf,
    /// Cores of each node.
    pub cores_per_node: u16,
    /// How long each window lasts.
    pub window: Duration,
    /// Writes per second while some ranges are used.
    pub rate: u32,
}

/// What a window used.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Window {
    /// CPU of a node in percent of one core, the mean of all.
    pub cpu_percent: f64,
    /// Bytes per second that a node sent to each other node, headers included.
    pub bytes_per_s: f64,
    /// Packets likewise.
    pub packets_per_s: f64,
}

/// What was measured with one number of ranges.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// How many ranges.
    pub ranges: u32,
    /// From the start of the processes to a leader for each range.
    pub formed_s: f64,
    /// Resident memory of a node, the mean of all.
    pub resident_mib: f64,
    /// What of it came with the ranges, for each of a node's replicas; against a cluster of one range.
    pub bytes_per_replica: f64,
    /// Nobody asks for anything.
    pub idle: Window,
    /// One range in a hundred is written to.
    pub active: Window,
    /// Latency of those writes, from the intended time of each, in milliseconds.
    pub quiet_p99_ms: f64,
    /// The same, of ranges that others lead, while a node dies and for as long after.
    pub death_p99_ms: f64,
    /// From a node's death to the first write of a range that it led: the median over ranges.
    pub back_p50_ms: f64,
    /// The 99th percentile.
    pub back_p99_ms: f64,
    /// The slowest.
    pub back_max_ms: f64,
    /// From a node's death to a leader for each range.
    pub elected_s: f64,
    /// From the restart of all nodes to a leader for each range.
    pub restarted_s: f64,
}

/// Resident memory of a cluster of one range, which those of more are compared with.
///
/// # Errors
/// If it does not come up.
pub fn base_bytes(options: &ScaleOptions, folder: &Path) -> io::Result<f64> {
    let (cluster, _) = start(options, 1, folder)?;
    std::thread::sleep(options.window.min(Duration::from_secs(3)));
    resident(&cluster)
}

/// Measures a cluster of so many ranges. `tell` hears what is done next.
///
/// # Errors
/// If it does not come up, or a node does not answer.
pub fn measure(
    options: &ScaleOptions,
    ranges: u32,
    base_bytes: f64,
    folder: &Path,
    tell: &dyn Fn(&str),
) -> io::Result<Figures> {
    tell("starts");
    let (mut cluster, formed) = start(options, ranges, folder)?;
    let mut figures = Figures { ranges, formed_s: formed.as_secs_f64(), ..Figures::default() };
    tell("settles");
    settle(&cluster)?;
    let resident = resident(&cluster)?;
    figures.resident_mib = resident / f64::from(1 << 20);
    figures.bytes_per_replica = (resident - base_bytes).max(0.0) / f64::from(ranges);
    tell("idle");
    figures.idle = window(&cluster, options.window, || Ok(()))?;
    tell("one range in a hundred is written to");
    // Each node has a replica of every range, and so knows who leads it.
    let mut client = Client::connect(cluster.node(1).client_address, CALL_TIMEOUT)?;
    let rows = cluster_map::ranges(&mut client)?;
    let addresses = [cluster.node(1).client_address, cluster.node(2).client_address];
    let used: Vec<&RangeRow> = rows.iter().step_by(100).collect();
    let mut quiet_p99_ms = 0.0;
    figures.active = window(&cluster, options.window, || {
        quiet_p99_ms = paced(addresses, &keys(&used), options.rate, options.window)?;
        Ok(())
    })?;
    figures.quiet_p99_ms = quiet_p99_ms;
    tell("a node dies");
    die(options, &mut cluster, &rows, &mut figures)?;
    tell("all start again");
    for node in &mut cluster.nodes {
        node.kill();
    }
    let began = Instant::now();
    cluster.start_all()?;
    await_leaders(&cluster, ranges, START_MAX)?;
    figures.restarted_s = began.elapsed().as_secs_f64();
    Ok(figures)
}

fn start(
    options: &ScaleOptions,
    ranges: u32,
    folder: &Path,
) -> io::Result<(LocalCluster, Duration)> {
    // Ranges stay as they are, and where they are.
    let keep = "[ranges]\nrange_bytes_max = 0\nrange_keys_max = 0\nrange_requests_per_s_max = 0\n\
                [placement]\nplacement_moves_max = 0\n";
    let cluster = ClusterOptions {
        program: options.program.clone(),
        nodes: NODES,
        cores_per_node: options.cores_per_node,
        ranges,
        more: keep.parse().map_err(io::Error::other)?,
        variables: Vec::new(),
        hosts: Vec::new(),
    };
    let mut cluster = LocalCluster::prepare(cluster, folder)?;
    let began = Instant::now();
    cluster.start_all()?;
    await_leaders(&cluster, ranges, START_MAX)?;
    Ok((cluster, began.elapsed()))
}

/// Waits until the nodes that run lead all ranges, and the meta group: they count that once a second.
pub(super) fn await_leaders(
    cluster: &LocalCluster,
    ranges: u32,
    patience: Duration,
) -> io::Result<()> {
    poll("a leader for every range", patience, || {
        let mut leaders = 0;
        for node in cluster.nodes.iter().filter(|node| node.is_running()) {
            let counted =
                node.client().and_then(|mut client| cluster_map::gauge(&mut client, "leaders"));
            match counted {
                Ok(counted) => leaders += counted,
                Err(error) => return Ok(Err(format!("node {}: {error}", node.id))),
            }
        }
        let wanted = u64::from(ranges) + 1;
        Ok(if leaders >= wanted { Ok(()) } else { Err(format!("{leaders} of {wanted} are led")) })
    })
}

/// Waits until nothing is written to logs and nothing asked any more: the map has been written to the meta group,
/// and whoever leads it has been told of all ranges.
pub(super) fn settle(cluster: &LocalCluster) -> io::Result<()> {
    let mut before = None;
    let mut quiet_since = Instant::now();
    poll("quiet", SETTLE_MAX, || {
        let (mut frames, mut untold) = (0, 0);
        for node in &cluster.nodes {
            let mut client = node.client()?;
            frames += cluster_map::gauge(&mut client, "wal_frames")?;
            frames += cluster_map::gauge(&mut client, "requests_answered")? / QUIET_REQUESTS;
            untold += cluster_map::gauge(&mut client, "leaders_untold")?;
        }
        if before.replace(frames) != Some(frames) || untold > 0 {
            quiet_since = Instant::now();
        }
        let is_quiet = quiet_since.elapsed() >= Duration::from_secs(3);
        Ok(if is_quiet {
            Ok(())
        } else {
            Err(format!("{frames} frames and requests, {untold} ranges to be told of"))
        })
    })
}

fn resident(cluster: &LocalCluster) -> io::Result<f64> {
    let pids = cluster.nodes.iter().filter_map(super::processes::Node::pid);
    let total = pids
        .map(|pid| Usage::of(pid).map(|usage| usage.resident_bytes))
        .sum::<io::Result<u64>>()?;
    Ok(total as f64 / NODES as f64)
}

fn window(
    cluster: &LocalCluster,
    length: Duration,
    work: impl FnOnce() -> io::Result<()>,
) -> io::Result<Window> {
    let used = || -> io::Result<f64> {
        let pids = cluster.nodes.iter().filter_map(super::processes::Node::pid);
        pids.map(|pid| Usage::of(pid).map(|usage| usage.cpu_s)).sum()
    };
    let (began, cpu, before) = (Instant::now(), used()?, Loopback::now()?);
    work()?;
    std::thread::sleep(length.saturating_sub(began.elapsed()));
    let seconds = began.elapsed().as_secs_f64();
    let (carried, pairs) = (Loopback::now()?.since(before), (NODES * (NODES - 1)) as f64);
    Ok(Window {
        cpu_percent: (used()? - cpu) / seconds / NODES as f64 * 100.0,
        bytes_per_s: carried.bytes as f64 / seconds / pairs,
        packets_per_s: carried.packets as f64 / seconds / pairs,
    })
}

fn keys(ranges: &[&RangeRow]) -> Vec<Vec<u8>> {
    ranges.iter().map(|range| range.key_inside("scale")).collect()
}

/// Writes to one key after the other at a rate; the 99th percentile of latencies from the intended time of each.
fn paced(
    addresses: [SocketAddr; 2],
    keys: &[Vec<u8>],
    rate: u32,
    length: Duration,
) -> io::Result<f64> {
    let began = Instant::now();
    let paced = Paced { addresses: &addresses, keys, value: b"value", rate };
    let writes = paced.run(&|due| due < began + length)?;
    if let Some(refusal) = writes.iter().find_map(|write| write.refusal.as_deref()) {
        return Err(io::Error::other(format!("a write was answered by {refusal}")));
    }
    Ok(ms(&histogram(writes.iter().map(Write::latency)), 0.99))
}

/// Kills a node while ranges of the others are written to, and sees when its own serve again.
fn die(
    options: &ScaleOptions,
    cluster: &mut LocalCluster,
    rows: &[RangeRow],
    figures: &mut Figures,
) -> io::Result<()> {
    let (lost, others): (Vec<&RangeRow>, Vec<&RangeRow>) =
        rows.iter().partition(|range| range.leader == VICTIM);
    let used: Vec<&RangeRow> = others.iter().copied().step_by(100).collect();
    let watched: Vec<&RangeRow> =
        lost.iter().copied().step_by(lost.len().div_ceil(WATCHED).max(1)).collect();
    let addresses = [cluster.node(1).client_address, cluster.node(2).client_address];
    let (used, watched) = (keys(&used), keys(&watched));
    let ranges = figures.ranges;
    let (p99_ms, back, elected) = std::thread::scope(|scope| {
        let load = scope.spawn(|| paced(addresses, &used, options.rate, options.window));
        std::thread::sleep(options.window / 4);
        cluster.node_mut(VICTIM).kill();
        let died = Instant::now();
        let back: Vec<_> = watched
            .iter()
            .enumerate()
            .map(|(n, key)| scope.spawn(move || write_until_ok(addresses[n % 2], key, died)))
            .collect();
        let elected = await_leaders(cluster, ranges, START_MAX).map(|()| died.elapsed());
        let back: io::Result<Vec<Duration>> = back
            .into_iter()
            .map(|one| one.join().unwrap_or_else(|_| Err(io::Error::other("a writer panicked"))))
            .collect();
        let load = load.join().unwrap_or_else(|_| Err(io::Error::other("a writer panicked")));
        (load, back, elected)
    });
    figures.death_p99_ms = p99_ms?;
    figures.elected_s = elected?.as_secs_f64();
    let times = histogram(back?.into_iter());
    (figures.back_p50_ms, figures.back_p99_ms) = (ms(&times, 0.5), ms(&times, 0.99));
    figures.back_max_ms = ms(&times, 1.0);
    Ok(())
}

fn write_until_ok(address: SocketAddr, key: &[u8], since: Instant) -> io::Result<Duration> {
    let mut client = Client::connect(address, CALL_TIMEOUT)?;
    loop {
        // What is refused or not known is tried again: the node waits for a leader itself.
        if client.call(&[b"SET", key, b"again"])?.is_ok() {
            return Ok(since.elapsed());
        }
        if since.elapsed() > START_MAX {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
    }
}
