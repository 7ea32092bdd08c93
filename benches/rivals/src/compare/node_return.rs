//! What a node that comes back costs the others: one node of Oarlock is killed, written past until
//! the others have cut the log that it would need, and started again; writes are timed from its
//! start until it has caught up, beside those before it was killed.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use oarlock::bench::cluster_map;
use oarlock::bench::keys::{Distribution, HotSpot, KeySpace, Naming};
use oarlock::bench::processes::{LocalCluster, poll};
use oarlock::bench::report::Measured;
use oarlock::bench::run::{self, RunOptions, Running as Load};
use oarlock::bench::schedule::Arrival;
use oarlock::bench::values::ValueBytes;
use oarlock::bench::workload::{Mix, Mixed, Shares, WriteCommand};
use oarlock::disk::layout::CheckpointName;

use super::generator::{Figure, Figures};
use super::load::Times;
use super::stop::Stop;

const RATE: f64 = 5_000.0;
const KEYS: u64 = 100_000;
const VALUE_BYTES: usize = 128;
/// While the node is away: so that logs grow fast and there is something to be sent as a snapshot.
const AWAY_VALUE_BYTES: usize = 1024;
const AWAY: u64 = 3;
const ELECTED_WITHIN: Duration = Duration::from_secs(20);
const CUT_WITHIN: Duration = Duration::from_secs(120);
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// A shorter window than this would be the start of a process alone.
const WINDOW_AT_LEAST: Duration = Duration::from_secs(1);
const WARMUP: Duration = Duration::from_secs(1);

/// Runs it on a cluster that has just started.
///
/// # Errors
/// If the node does not come back, comes back without a snapshot, or a stop is wanted.
pub fn run(
    cluster: &mut LocalCluster,
    times: &Times,
    seed: u64,
    stop: &Stop,
) -> Result<Figures, Box<dyn Error>> {
    let all = cluster.addresses();
    let open = |addresses: &[SocketAddr]| start(addresses, Some(RATE), seed);
    let before = open(&all)?;
    stop.rest(WARMUP + Duration::from_secs_f64(times.window_s))?;
    let before = end(before)?;

    let had: BTreeMap<u64, u64> = cluster_map::status(&mut cluster.node(AWAY).client()?)?
        .groups
        .iter()
        // The meta group changes too rarely to be cut.
        .filter(|group| group.group != 0)
        .map(|group| (group.group, group.last))
        .collect();
    cluster.node_mut(AWAY).kill();
    let is_stopped = || stop.is_wanted();
    cluster.wait_for("leaders elsewhere", ELECTED_WITHIN, &is_stopped, led_elsewhere)?;
    let others = &all[..2];
    let past = start(others, None, seed)?;
    cluster.wait_for("checkpoints past the node", CUT_WITHIN, &is_stopped, |cluster| {
        let missing: usize = [1, 2]
            .map(|id| had.len() - beyond(&cluster.node(id).data_dir(), &had))
            .into_iter()
            .sum();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} replicas have none")) }
    })?;
    end(past)?;

    let beside = open(others)?;
    stop.rest(WARMUP)?;
    let started = Instant::now();
    cluster.start(AWAY)?;
    let committed = cluster.committed(AWAY)?;
    poll("the node's return", BACK_WITHIN, || {
        stop.check()?;
        cluster.check_alive()?;
        Ok(cluster.has_applied(AWAY, &committed))
    })?;
    let took = started.elapsed();
    let snapshots = beyond(&cluster.node(AWAY).data_dir(), &had);
    stop.rest(WINDOW_AT_LEAST.saturating_sub(took))?;
    let beside = end(beside)?;
    if snapshots == 0 {
        return Err("the node came back without a snapshot: its log was not cut".into());
    }
    let (then, now) = (before.latency.summary().p99, beside.latency.summary().p99);
    Ok(Figures::from([
        (Figure::BeforeP99Us, then),
        (Figure::ReturnP99Us, now),
        (Figure::ReturnToBefore, now / then),
        (Figure::ReturnS, took.as_secs_f64()),
        (Figure::Snapshots, snapshots as f64),
        (Figure::Errors, (before.errors_total() + beside.errors_total()) as f64),
    ]))
}

/// Writes at a rate, or as fast as it goes with many in flight, until [`end`].
fn start(
    addresses: &[SocketAddr],
    rate: Option<f64>,
    seed: u64,
) -> Result<Load<Mixed>, Box<dyn Error>> {
    let is_timed = rate.is_some();
    let options = RunOptions {
        addresses: addresses.to_vec(),
        routes: None,
        clients: 64,
        pipeline: if is_timed { 256 } else { 16 },
        rate,
        arrival: Arrival::Fixed,
        warmup: WARMUP,
        window: None,
        timeout: Duration::from_secs(5),
        seed,
    };
    let mix = Mix {
        shares: Shares::default(),
        command: WriteCommand::Set,
        naming: Naming::Spread,
        space: KeySpace::new(KEYS, Distribution::Uniform, HotSpot::default()),
        value_bytes: ValueBytes::from(if is_timed { VALUE_BYTES } else { AWAY_VALUE_BYTES }),
    };
    Ok(run::start(&options, vec![Mixed::new(mix, (0, 1), seed)])?)
}

fn end(load: Load<Mixed>) -> Result<Measured, Box<dyn Error>> {
    load.stop();
    Ok(load.join()?.1)
}

fn led_elsewhere(cluster: &LocalCluster) -> Result<(), String> {
    let ranges = cluster.led_ranges()?;
    match ranges.iter().filter(|range| range.leader == AWAY).count() {
        0 => Ok(()),
        still => Err(format!("{still} ranges are said to be led by the node that is gone")),
    }
}

/// How many groups have a checkpoint beyond these indexes, by the names of their files.
fn beyond(data: &Path, had: &BTreeMap<u64, u64>) -> usize {
    let mut newest = BTreeMap::new();
    checkpoints(data, &mut newest);
    had.iter().filter(|(group, last)| newest.get(group).is_some_and(|index| index > *last)).count()
}

fn checkpoints(folder: &Path, newest: &mut BTreeMap<u64, u64>) {
    // Files come and go meanwhile.
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            checkpoints(&entry.path(), newest);
        } else if let Some(name) = CheckpointName::parse(&entry.file_name().to_string_lossy()) {
            let known = newest.entry(name.group.0).or_default();
            *known = name.index.0.max(*known);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_counted_that_have_a_newer_checkpoint() {
        let data = tempfile::tempdir().unwrap();
        let folder = data.path().join("core-0/ckpt");
        std::fs::create_dir_all(&folder).unwrap();
        for name in ["g1-90-2.ckpt", "g1-110-2.ckpt", "g2-99-2.ckpt", "g3-500-2.ckpt.part"] {
            std::fs::write(folder.join(name), "").unwrap();
        }
        let had = BTreeMap::from([(1, 100), (2, 99), (3, 1)]);
        assert_eq!(beyond(data.path(), &had), 1);
    }
}
