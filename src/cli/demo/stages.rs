//! The demo's steps in order: start, load, fault, recovery, read back. Each prints what it found.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use toml::Table;

use super::figures::Figures;
use super::probe::{Probers, period};
use super::read_back::ReadAll;
use super::{DemoArgs, DemoError};
use crate::bench::cluster_map::{self, Counters, RangeRow};
use crate::bench::keys::Naming;
use crate::bench::ledger::Ledger;
use crate::bench::processes::{ClusterOptions, LocalCluster};
use crate::bench::run::{self, RunOptions, Running};
use crate::bench::schedule::Arrival;
use crate::bench::verify::Recorded;
use crate::cli::bench::progress;

const VALUE_BYTES: usize = 128;
const READ_SHARE: f64 = 0.5;
const KEYS: usize = 20_000;
const CONNECTIONS: usize = 48;
const START_TIMEOUT: Duration = Duration::from_secs(30);
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(20);
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the load runs undisturbed before the node is killed, and on after it is back.
const CALM: Duration = Duration::from_secs(1);

/// Runs it all. `told` gets the figures, however far it comes.
pub(super) fn run(
    args: &DemoArgs,
    program: PathBuf,
    folder: &Path,
    interrupted: &dyn Fn() -> bool,
    told: &mut Value,
) -> Result<LocalCluster, DemoError> {
    let mut figures = Figures::default();
    let result = Stages::start(args, program, folder, interrupted)
        .map_err(DemoError::from)
        .and_then(|mut stages| stages.run(&mut figures).map(|()| stages.cluster));
    figures.ok = result.is_ok();
    *told = figures.json();
    result
}

/// A running cluster and what the steps hand on.
struct Stages<'a> {
    args: &'a DemoArgs,
    interrupted: &'a dyn Fn() -> bool,
    cluster: LocalCluster,
    started: Instant,
}

impl<'a> Stages<'a> {
    /// Starts the processes.
    fn start(
        args: &'a DemoArgs,
        program: PathBuf,
        folder: &Path,
        interrupted: &'a dyn Fn() -> bool,
    ) -> io::Result<Self> {
        let options = ClusterOptions {
            program,
            nodes: args.nodes,
            cores_per_node: args.cores_per_node,
            ranges: args.ranges,
            more: Table::new(),
            variables: Vec::new(),
            hosts: Vec::new(),
        };
        println!(
            "starting {} nodes with {} cores each and {} ranges in {}",
            args.nodes,
            args.cores_per_node,
            args.ranges,
            folder.display()
        );
        let started = Instant::now();
        let mut cluster = LocalCluster::prepare(options, folder)?;
        cluster.start_all()?;
        Ok(Self { args, interrupted, cluster, started })
    }

    /// All steps. A node that ended by itself is told before what failed because of it.
    fn run(&mut self, figures: &mut Figures) -> Result<(), DemoError> {
        let result = self.steps(figures);
        if result.is_err() && !(self.interrupted)() {
            self.cluster.check_alive()?;
        }
        result
    }

    fn steps(&mut self, figures: &mut Figures) -> Result<(), DemoError> {
        let ranges = self.wait_for_leaders()?;
        figures.start = self.started.elapsed();
        println!("all {} ranges have a leader after {:.1?}", ranges.len(), figures.start);
        let recorded =
            Recorded::new(Ledger::new(Naming::Spread, 0, KEYS, VALUE_BYTES), READ_SHARE, 1);
        let recorded = self.load(recorded, figures)?;
        let (mut all, addresses) = (ReadAll::default(), self.cluster.addresses());
        let recorded = if self.args.nodes >= 3 {
            let (recorded, probed) = self.fault(recorded, figures)?;
            all.read(probed, addresses.clone(), self.interrupted)?;
            recorded
        } else {
            println!("with fewer than three nodes none can be missed: the fault is left out");
            recorded
        };
        all.findings.merge(recorded.findings);
        all.read(recorded.ledger, addresses, self.interrupted)?;
        (figures.acknowledged, figures.keys_read_back) = (all.acknowledged, all.keys);
        figures.violations = all.findings.count;
        all.tell()
    }

    fn wait_for_leaders(&mut self) -> io::Result<Vec<RangeRow>> {
        let what = "a leader for every range";
        self.cluster.wait_for(what, START_TIMEOUT, self.interrupted, LocalCluster::led_ranges)
    }

    fn options(&self, window: Option<Duration>) -> RunOptions {
        RunOptions {
            routes: None,
            addresses: self.cluster.addresses(),
            clients: CONNECTIONS,
            pipeline: 64,
            rate: Some(f64::from(self.args.rate)),
            arrival: Arrival::Poisson,
            warmup: Duration::from_millis(500),
            window,
            timeout: Duration::from_secs(6),
            seed: 1,
        }
    }

    /// Undisturbed load, measured.
    fn load(&mut self, recorded: Recorded, figures: &mut Figures) -> Result<Recorded, DemoError> {
        let window = Duration::from_secs(self.args.seconds);
        let options = self.options(Some(window));
        println!(
            "{} operations per second for {window:?}, half of them writes of {VALUE_BYTES} bytes",
            self.args.rate
        );
        let before = self.counters()?;
        let running = run::start(&options, vec![recorded])?;
        self.watch(&running, options.warmup + window)?;
        let (mut workloads, measured) = running.join()?;
        figures.counters = self.counters()?.since(&before);
        crate::cli::print(&measured.text());
        println!("{:.2} writes per durable flush of a core", figures.writes_per_flush());
        figures.load = Some(measured);
        Ok(workloads.remove(0))
    }

    fn watch(&self, running: &Running<Recorded>, total: Duration) -> io::Result<()> {
        let bar = progress(total);
        let start = Instant::now();
        while !running.is_finished() {
            if (self.interrupted)() {
                running.stop();
                return Err(io::ErrorKind::Interrupted.into());
            }
            std::thread::sleep(Duration::from_millis(50));
            bar.set_position(u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX));
            let (done, errors) = (running.completed(), running.errors());
            bar.set_message(format!("{done} operations, {errors} errors"));
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn counters(&self) -> io::Result<Counters> {
        let mut sum = Counters::default();
        for node in &self.cluster.nodes {
            sum.add(&cluster_map::counters(&mut node.client()?)?);
        }
        Ok(sum)
    }

    /// Load, and in the middle of it the node that leads most is killed and comes back.
    fn fault(
        &mut self,
        recorded: Recorded,
        figures: &mut Figures,
    ) -> Result<(Recorded, Ledger), DemoError> {
        let ranges = self.wait_for_leaders()?;
        let (victim, led) = leads_most(&ranges);
        let keys: Vec<_> = led.iter().map(|range| range.key_inside(":probe")).collect();
        let survivors: Vec<SocketAddr> = self
            .cluster
            .nodes
            .iter()
            .filter(|node| node.id != victim)
            .map(|node| node.client_address)
            .collect();
        let running = run::start(&self.options(Some(Duration::from_secs(600))), vec![recorded])?;
        let period = period(keys.len());
        let probers = Probers::start(keys, &survivors, period)?;
        let found = self.kill_and_restart(victim, led.len(), &probers, figures);
        running.stop();
        let probed = probers.finish()?;
        let (mut workloads, measured) = running.join()?;
        let killed_us = found?;
        figures.failover = probed.gaps(killed_us);
        println!(
            "writes to its {} ranges failed for {:.1?} (p50), {:.1?} (max), measured every {period:.1?}",
            led.len(),
            figures.failover_p50(),
            figures.failover_max(),
        );
        let kinds: Vec<String> =
            measured.errors.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        println!(
            "meanwhile {} operations were answered, and these failed: {}",
            measured.answered_in_window,
            if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") }
        );
        figures.fault_load = Some(measured);
        Ok((workloads.remove(0), probed.ledger))
    }

    /// Gives the time of the kill.
    fn kill_and_restart(
        &mut self,
        victim: u64,
        led: usize,
        probers: &Probers,
        figures: &mut Figures,
    ) -> io::Result<u64> {
        self.await_probes(probers, led, CALM)?;
        println!("killing node {victim}, which leads {led} ranges");
        self.cluster.node_mut(victim).kill();
        let killed_us = probers.now_us();
        self.await_probes(probers, led, CALM)?;
        println!("every range takes writes again; restarting node {victim}");
        let restarted = Instant::now();
        self.cluster.start(victim)?;
        self.await_caught_up(victim)?;
        figures.catch_up = restarted.elapsed();
        println!("node {victim} is back and has caught up after {:.1?}", figures.catch_up);
        Ok(killed_us)
    }

    /// Waits until every prober was acknowledged after now, and again after `calm`.
    fn await_probes(&mut self, probers: &Probers, led: usize, calm: Duration) -> io::Result<()> {
        for wait in [Duration::ZERO, calm] {
            let from_us = probers.now_us() + u64::try_from(wait.as_micros()).unwrap_or(0);
            let what = "writes to every range of the node";
            self.cluster.wait_for(what, wait + FAILOVER_TIMEOUT, self.interrupted, |_| {
                match probers.acked_after(from_us) {
                    acked if acked == led => Ok(()),
                    acked => Err(format!("{acked} of {led} ranges take writes")),
                }
            })?;
        }
        Ok(())
    }

    /// Waits until a node has applied, in every group, what was committed when it came back.
    fn await_caught_up(&mut self, id: u64) -> io::Result<()> {
        let committed = self.cluster.committed(id)?;
        self.cluster.wait_for("catching up", CATCH_UP_TIMEOUT, self.interrupted, |cluster| {
            cluster.has_applied(id, &committed)
        })
    }
}

/// The node that leads most ranges, and those ranges.
fn leads_most(ranges: &[RangeRow]) -> (u64, Vec<RangeRow>) {
    let mut led: BTreeMap<u64, Vec<RangeRow>> = BTreeMap::new();
    for range in ranges {
        led.entry(range.leader).or_default().push(range.clone());
    }
    led.into_iter().max_by_key(|(_, led)| led.len()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_victim_is_the_node_that_leads_most() {
        let range = |group, leader| RangeRow {
            addresses: Vec::new(),
            group,
            start: Vec::new(),
            end: Vec::new(),
            epoch: 1,
            leader,
            leader_core: 0,
            replicas: vec![1, 2, 3],
            map_version: 1,
        };
        let ranges = [range(1, 2), range(2, 3), range(3, 2), range(4, 1)];
        let (victim, led) = leads_most(&ranges);
        assert_eq!(victim, 2);
        assert_eq!(led.iter().map(|range| range.group).collect::<Vec<_>>(), [1, 3]);
    }
}
