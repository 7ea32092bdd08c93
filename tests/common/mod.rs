//! Clusters of real processes for the fault tests: started, killed, paused and restarted by the
//! test, ended with it however it ends, their logs shown if it fails. Tests of one binary take
//! turns, so that they do not disturb each other's timing.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use oarlock::bench::client::{Answer, Client};
use oarlock::bench::cluster_map::{self, NodeStatus, RangeRow};
use oarlock::bench::keys::Naming;
use oarlock::bench::ledger::Ledger;
use oarlock::bench::processes::{ClusterOptions, LocalCluster, poll};
use oarlock::bench::report::Measured;
use oarlock::bench::run::{self, RunOptions, Running};
use oarlock::bench::schedule::Arrival;
use oarlock::bench::verify::{ReadBack, Recorded};
use rustix::process::Signal;
use toml::{Table, Value};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_oarlock");

/// Long enough for anything that a slow, busy machine does at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(25);

static TURN: Mutex<()> = Mutex::new(());

/// One test at a time.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A folder of this test's own, on the disk of the build.
pub(crate) fn folder(name: &str) -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix(&format!("{name}-"))
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .unwrap()
}

/// What a test's cluster is like.
pub(crate) struct Options {
    pub(crate) nodes: u64,
    pub(crate) cores: u16,
    pub(crate) ranges: u32,
    /// Keys of the configuration's section `cluster`.
    pub(crate) formation: Vec<(&'static str, u64)>,
    /// Keys of the configuration's section `limits`.
    pub(crate) limits: Vec<(&'static str, u64)>,
    /// Keys of the configuration's section `placement`.
    pub(crate) placement: Vec<(&'static str, u64)>,
    /// Keys of the configuration's section `ranges`.
    pub(crate) splits: Vec<(&'static str, u64)>,
    /// The folder of the only node's data, if it is not the usual one.
    pub(crate) data_dir: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 3,
            cores: 2,
            ranges: 16,
            formation: Vec::new(),
            limits: Vec::new(),
            placement: Vec::new(),
            splits: Vec::new(),
            data_dir: None,
        }
    }
}

/// A running cluster.
pub(crate) struct Cluster {
    pub(crate) local: LocalCluster,
    folder: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    /// Starts it and waits until every range has a leader.
    pub(crate) fn start(name: &str, options: Options) -> Self {
        let mut cluster = Self::prepare(name, options);
        cluster.local.start_all().unwrap();
        cluster.wait_for_leaders();
        cluster
    }

    /// Prepares one that the test starts itself.
    pub(crate) fn prepare(name: &str, options: Options) -> Self {
        let turn = turn();
        let folder = folder(name);
        let number = |n: u64| Value::Integer(i64::try_from(n).unwrap());
        let section = |keys: &[(&str, u64)]| {
            Value::Table(keys.iter().map(|(key, n)| ((*key).to_owned(), number(*n))).collect())
        };
        let mut more = Table::from_iter([
            ("cluster".to_owned(), section(&options.formation)),
            ("limits".to_owned(), section(&options.limits)),
            ("placement".to_owned(), section(&options.placement)),
            ("ranges".to_owned(), section(&options.splits)),
        ]);
        if let Some(data_dir) = &options.data_dir {
            assert_eq!(options.nodes, 1);
            let data_dir = Value::String(data_dir.display().to_string());
            let node = Table::from_iter([("data_dir".to_owned(), data_dir)]);
            more.insert("node".to_owned(), Value::Table(node));
        }
        let options = ClusterOptions {
            program: PROGRAM.into(),
            nodes: options.nodes,
            cores_per_node: options.cores,
            ranges: options.ranges,
            more,
            variables: Vec::new(),
            hosts: Vec::new(),
        };
        let local = LocalCluster::prepare(options, folder.path()).unwrap();
        Self { local, folder, _turn: turn }
    }

    /// Waits until every range has a leader.
    pub(crate) fn wait_for_leaders(&mut self) -> Vec<RangeRow> {
        self.eventually("a leader for every range", LocalCluster::led_ranges)
    }

    /// Waits until every range has a leader on another node than this one.
    pub(crate) fn wait_for_leaders_without(&mut self, id: u64) -> Vec<RangeRow> {
        self.eventually("a leader elsewhere for every range", |local| {
            let ranges = local.led_ranges()?;
            match ranges.iter().filter(|range| range.leader == id).count() {
                0 => Ok(ranges),
                still => Err(format!("node {id} is still said to lead {still} ranges")),
            }
        })
    }

    /// Waits for something; fails at once when a node ends by itself.
    #[track_caller]
    pub(crate) fn eventually<T>(
        &mut self,
        what: &str,
        check: impl FnMut(&LocalCluster) -> Result<T, String>,
    ) -> T {
        self.local
            .wait_for(what, PATIENCE, &|| false, check)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, id: u64) {
        self.local.node_mut(id).kill();
    }

    /// SIGKILL for all, as nearly at once as one can.
    pub(crate) fn kill_all(&mut self) {
        for node in &self.local.nodes {
            node.signal(Signal::KILL).ok();
        }
        for node in &mut self.local.nodes {
            node.kill();
        }
    }

    /// Starts a node again. The test's own thread must call it.
    pub(crate) fn restart(&mut self, id: u64) {
        self.local.start(id).unwrap();
    }

    /// Starts a node again and waits until it has all that was committed when it did.
    pub(crate) fn restart_and_catch_up(&mut self, id: u64) {
        self.restart(id);
        let committed = self.local.committed(id).unwrap();
        self.wait_for_applied(id, &committed);
    }

    /// Waits until a node has applied all that.
    pub(crate) fn wait_for_applied(&mut self, id: u64, committed: &BTreeMap<u64, u64>) {
        self.eventually("catching up", |local| local.has_applied(id, committed));
    }

    pub(crate) fn pause(&self, id: u64) {
        self.local.node(id).signal(Signal::STOP).unwrap();
    }

    pub(crate) fn resume(&self, id: u64) {
        self.local.node(id).signal(Signal::CONT).unwrap();
    }

    pub(crate) fn client(&self, id: u64) -> Client {
        self.local.node(id).client().unwrap()
    }

    pub(crate) fn status(&self, id: u64) -> io::Result<NodeStatus> {
        cluster_map::status(&mut self.local.node(id).client()?)
    }

    /// Runs a command of the program against a node: its exit code, and all that it printed.
    pub(crate) fn command(&self, id: u64, args: &[&str]) -> (Option<i32>, String) {
        let address = self.local.node(id).client_address.to_string();
        let output = Command::new(PROGRAM).args(args).args(["--addr", &address]).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    }

    pub(crate) fn data_dir(&self, id: u64) -> PathBuf {
        self.local.node(id).data_dir()
    }

    /// Reads every key of a load back and fails the test if anything acknowledged is missing or
    /// anything refused is there.
    #[track_caller]
    pub(crate) fn verify(&self, recorded: Recorded) {
        let findings = &recorded.findings;
        assert_eq!(findings.count, 0, "reads under load were wrong: {:#?}", findings.first);
        assert!(recorded.ledger.acked_total() > 0, "no write was acknowledged at all");
        let running = self.local.nodes.iter().filter(|node| node.is_running());
        let options = RunOptions {
            routes: None,
            addresses: running.map(|node| node.client_address).collect(),
            clients: 12,
            rate: None,
            window: None,
            ..load_options(self, 1)
        };
        let read_back = ReadBack::new(recorded.ledger);
        let (mut ended, measured) = run::start(&options, vec![read_back]).unwrap().join().unwrap();
        let read_back = ended.remove(0);
        assert_eq!(read_back.unread(), 0, "keys could not be read: {:?}", measured.errors);
        let findings = &read_back.findings;
        assert_eq!(findings.count, 0, "data is wrong: {:#?}", findings.first);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.local.nodes {
                eprintln!("--- log of node {} ---\n{}", node.id, node.log_tail(60));
            }
        }
    }
}

fn load_options(cluster: &Cluster, rate: u32) -> RunOptions {
    RunOptions {
        routes: None,
        addresses: cluster.local.addresses(),
        clients: 12,
        pipeline: 16,
        rate: Some(f64::from(rate)),
        arrival: Arrival::Poisson,
        warmup: Duration::ZERO,
        window: Some(Duration::from_secs(600)),
        timeout: Duration::from_secs(6),
        seed: 7,
    }
}

/// Writers and readers at work on a cluster, on a thread of their own. Every outcome is recorded.
pub(crate) struct Load {
    running: Running<Recorded>,
}

/// Keys and sizes of a load.
pub(crate) struct Shape {
    /// Operations per second.
    pub(crate) rate: u32,
    pub(crate) keys: usize,
    pub(crate) value_bytes: usize,
    pub(crate) read_share: f64,
}

impl Default for Shape {
    fn default() -> Self {
        Self { rate: 1500, keys: 3000, value_bytes: 128, read_share: 0.3 }
    }
}

impl Load {
    pub(crate) fn start(cluster: &Cluster, shape: &Shape) -> Self {
        let ledger = Ledger::new(Naming::Spread, 0, shape.keys, shape.value_bytes);
        Self::go_on(cluster, shape, Recorded::new(ledger, shape.read_share, 3))
    }

    /// Goes on with what an earlier load recorded.
    pub(crate) fn go_on(cluster: &Cluster, shape: &Shape, recorded: Recorded) -> Self {
        let running = run::start(&load_options(cluster, shape.rate), vec![recorded]).unwrap();
        Self { running }
    }

    /// Waits until that many more operations have succeeded.
    #[track_caller]
    pub(crate) fn progress(&self, more: u64) {
        let goal = self.running.completed() + more;
        poll("progress of the load", PATIENCE, || {
            assert!(!self.running.is_finished(), "the load ended early");
            let (done, errors) = (self.running.completed(), self.running.errors());
            let missing = goal.saturating_sub(done);
            Ok(if missing == 0 {
                Ok(())
            } else {
                Err(format!("{missing} missing, {errors} errors"))
            })
        })
        .unwrap_or_else(|error| panic!("{error}"));
    }

    pub(crate) fn stop(self) -> (Recorded, Measured) {
        self.running.stop();
        let (mut recorded, measured) = self.running.join().unwrap();
        (recorded.remove(0), measured)
    }
}

/// The cluster's level as each node knows it, and what each understands.
pub(crate) fn levels(cluster: &Cluster) -> Result<Vec<(u16, u16)>, String> {
    let running = cluster.local.nodes.iter().filter(|node| node.is_running());
    let of = |id| cluster.status(id).map_err(|error| error.to_string());
    running
        .map(|node| of(node.id).map(|status| (status.level, status.levels.unwrap_or_default().1)))
        .collect()
}

/// Returns once all nodes know that the cluster is at this level.
#[track_caller]
pub(crate) fn wait_for_level(cluster: &Cluster, wanted: u16) {
    eventually("the level", || {
        let levels = levels(cluster)?;
        if levels.iter().all(|(level, _)| *level == wanted) {
            Ok(())
        } else {
            Err(format!("{levels:?}"))
        }
    });
}

/// Waits for something that concerns no node.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut check: impl FnMut() -> Result<T, String>) -> T {
    poll(what, PATIENCE, || Ok(check())).unwrap_or_else(|error| panic!("{error}"))
}

/// Lets time pass where time itself is what the test is about.
pub(crate) fn let_pass(time: Duration) {
    let start = Instant::now();
    poll("time", time + PATIENCE, || {
        Ok(if start.elapsed() >= time { Ok(()) } else { Err("not yet".to_owned()) })
    })
    .unwrap();
}

/// Calls until the answer is no error, on one node after the other.
#[track_caller]
pub(crate) fn call_until_ok(cluster: &Cluster, nodes: &[u64], args: &[&[u8]]) -> Answer {
    let mut turn = nodes.iter().cycle();
    eventually("an answer without an error", || {
        let id = *turn.next().unwrap();
        let answer = cluster.local.node(id).client().and_then(|mut client| client.call(args));
        match answer {
            Ok(answer) if answer.error_kind().is_none() => Ok(answer),
            Ok(answer) => Err(answer.to_string()),
            Err(error) => Err(error.to_string()),
        }
    })
}

/// The node that leads most ranges, and those ranges.
pub(crate) fn leads_most(ranges: &[RangeRow]) -> (u64, Vec<RangeRow>) {
    let mut led: BTreeMap<u64, Vec<RangeRow>> = BTreeMap::new();
    for range in ranges {
        led.entry(range.leader).or_default().push(range.clone());
    }
    led.into_iter().max_by_key(|(_, led)| led.len()).unwrap()
}

/// Files under a folder, at any depth, whose name has this start and end, sorted.
pub(crate) fn files(folder: &Path, start: &str, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if name.starts_with(start) && name.ends_with(end) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
