//! What a write costs while nothing moves, with more and more ranges, and with more and more nodes.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::{MovesOptions, start};
use crate::bench::client::Client;
use crate::bench::cluster_map;
use crate::bench::keys::{Distribution, HotSpot, KeySpace, Naming};
use crate::bench::processes::{LocalCluster, Node};
use crate::bench::run::{self, RunOptions};
use crate::bench::scale::settle;
use crate::bench::schedule::Arrival;
use crate::bench::usage::Used;
use crate::bench::workload::{Mix, Mixed, Shares, WriteCommand};

const VALUE_BYTES: usize = 128;
/// Clients of each cluster for each of its nodes.
const CLIENTS_PER_NODE: usize = 8;
/// Keys of all ranges together, at least.
const KEYS: usize = 10_000;
/// Ranges for each node where nodes are counted.
const RANGES_PER_NODE: u32 = 8;
const WARMUP: Duration = Duration::from_secs(1);
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// One window at a constant rate.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Steady {
    /// Writes per second that were answered.
    pub answered_per_s: f64,
    /// Time of a write from when it was due, the median.
    pub p50_ms: f64,
    /// Its 99th percentile.
    pub p99_ms: f64,
    /// CPU time of all nodes together for each write that was answered.
    pub cpu_us_per_write: f64,
    /// What was not answered, or with an error, by its kind.
    pub errors: BTreeMap<String, u64>,
}

/// The windows of one number of ranges or nodes.
#[derive(Clone, Debug, Serialize)]
pub struct Column {
    /// How many ranges or nodes.
    pub count: u32,
    /// Writes per second that were due.
    pub due_per_s: u32,
    /// One window each round.
    pub windows: Vec<Steady>,
}

impl Column {
    /// What went wrong in all windows, by its kind.
    #[must_use]
    pub fn errors(&self) -> BTreeMap<&str, u64> {
        let mut all = BTreeMap::new();
        for (kind, count) in self.windows.iter().flat_map(|window| &window.errors) {
            *all.entry(kind.as_str()).or_default() += count;
        }
        all
    }

    /// The median of a figure over all windows, between the lowest and the highest.
    #[must_use]
    pub fn median(&self, figure: impl Fn(&Steady) -> f64) -> (f64, f64, f64) {
        spread(self.windows.iter().map(figure))
    }

    /// The same of how many times the other's a figure is in the same round: rounds may lie far apart.
    #[must_use]
    pub fn times(&self, other: &Self, figure: impl Fn(&Steady) -> f64) -> (f64, f64, f64) {
        let rounds = self.windows.iter().zip(&other.windows);
        spread(rounds.map(|(own, other)| figure(own) / figure(other).max(f64::MIN_POSITIVE)))
    }
}

/// The middle one, between the lowest and the highest.
fn spread(all: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let mut all: Vec<f64> = all.collect();
    all.sort_by(f64::total_cmp);
    match (all.first(), all.get(all.len() / 2), all.last()) {
        (Some(lowest), Some(median), Some(highest)) => (*lowest, *median, *highest),
        _ => (0.0, 0.0, 0.0),
    }
}

/// The same rate to clusters of more and more ranges. They all run; in a round one after the other is written to.
pub(super) fn by_ranges(
    options: &MovesOptions,
    folder: &Path,
    tell: &dyn Fn(&str),
) -> io::Result<Vec<Column>> {
    let mut clusters = Vec::new();
    for ranges in &options.ranges {
        tell(&format!("{ranges}: starts"));
        clusters.push(Loaded::start(options, (3, *ranges), &folder.join(ranges.to_string()))?);
    }
    let column =
        |count: &u32| Column { count: *count, due_per_s: options.ranges_rate, windows: Vec::new() };
    let mut columns: Vec<Column> = options.ranges.iter().map(column).collect();
    for round in 0..options.rounds as usize {
        for place in 0..columns.len() {
            let at = (place + round) % columns.len();
            let column = &mut columns[at];
            tell(&format!("{}: round {} of {}", column.count, round + 1, options.rounds));
            column.windows.push(clusters[at].window(column.due_per_s, options.window)?);
        }
    }
    Ok(columns)
}

/// The same rate for each node to clusters of more and more nodes, one after the other.
pub(super) fn by_nodes(
    options: &MovesOptions,
    folder: &Path,
    tell: &dyn Fn(&str),
) -> io::Result<Vec<Column>> {
    let mut columns = Vec::new();
    for nodes in &options.nodes {
        tell(&format!("{nodes}: starts"));
        let shape = (*nodes, nodes * RANGES_PER_NODE);
        let cluster = Loaded::start(options, shape, &folder.join(nodes.to_string()))?;
        let due_per_s = nodes * options.node_rate;
        let mut column = Column { count: *nodes, due_per_s, windows: Vec::new() };
        for round in 1..=options.rounds {
            tell(&format!("{nodes}: round {round} of {}", options.rounds));
            column.windows.push(cluster.window(due_per_s, options.window)?);
        }
        columns.push(column);
    }
    Ok(columns)
}

/// A cluster with keys in all of its ranges.
struct Loaded {
    cluster: LocalCluster,
    keys: Vec<Vec<u8>>,
}

impl Loaded {
    fn start(
        options: &MovesOptions,
        (nodes, ranges): (u32, u32),
        folder: &Path,
    ) -> io::Result<Self> {
        let cluster = start(options, (nodes, 1, ranges), folder)?;
        settle(&cluster)?;
        let mut client = Client::connect(cluster.node(1).client_address, CALL_TIMEOUT)?;
        let rows = cluster_map::ranges(&mut client)?;
        // One range after the other is written to, and only then another key of each.
        let names = (0..KEYS.div_ceil(rows.len())).map(|n| format!("key-{n}"));
        let of_each = |name: String| rows.iter().map(move |row| row.key_inside(&name));
        let keys = names.flat_map(of_each).collect();
        Ok(Self { cluster, keys })
    }

    fn window(&self, rate: u32, length: Duration) -> io::Result<Steady> {
        let addresses = self.cluster.addresses();
        let run = RunOptions {
            routes: None,
            clients: addresses.len() * CLIENTS_PER_NODE,
            addresses,
            pipeline: 64,
            rate: Some(f64::from(rate)),
            arrival: Arrival::Fixed,
            warmup: WARMUP,
            window: Some(length),
            timeout: CALL_TIMEOUT,
            seed: 1,
        };
        let keys = self.keys.len() as u64;
        let mix = Mix {
            shares: Shares::default(),
            command: WriteCommand::Set,
            naming: Naming::Listed(self.keys.clone()),
            space: KeySpace::new(keys, Distribution::Sequential, HotSpot::default()),
            value_bytes: VALUE_BYTES.into(),
        };
        let pids: Vec<u32> = self.cluster.nodes.iter().filter_map(Node::pid).collect();
        let running = run::start(&run, vec![Mixed::new(mix, (0, 1), 1)])?;
        std::thread::sleep(WARMUP);
        let before = Used::now(&pids, None)?;
        std::thread::sleep(length);
        let used = Used::now(&pids, None)?.since(&before);
        let (_, measured) = running.join()?;
        let latency = measured.writes.summary();
        let answered = measured.answered_in_window.max(1) as f64;
        Ok(Steady {
            answered_per_s: measured.rate_ops_s(),
            p50_ms: latency.p50 / 1000.0,
            p99_ms: latency.p99 / 1000.0,
            cpu_us_per_write: used.servers().cpu_s * 1e6 / answered,
            errors: measured.errors,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_told_by_their_median_and_all_their_errors() {
        let window = |p99_ms| Steady { p99_ms, ..Steady::default() };
        let windows = [3.0, 9.0, 1.0].map(window).to_vec();
        let column = Column { count: 1, due_per_s: 1, windows };
        assert_eq!(column.median(|window| window.p99_ms), (1.0, 3.0, 9.0));
        let failed = |count| [("BUSY".to_owned(), count)].into();
        let failed = [2, 3].map(|count| Steady { errors: failed(count), ..Steady::default() });
        let failed = Column { windows: failed.to_vec(), ..column.clone() };
        assert_eq!(failed.errors(), BTreeMap::from([("BUSY", 5)]));
        let none = Column { windows: Vec::new(), ..column };
        assert_eq!(none.median(|window| window.p99_ms), (0.0, 0.0, 0.0));
    }
}
