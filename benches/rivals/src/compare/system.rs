//! What is measured: Oarlock by two ways to send, the rivals, and the floor. Starts one in a fresh
//! folder, says where it listens and which processes it is, and ends it.

use std::error::Error;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use oarlock::bench::client::Client;
use oarlock::bench::processes::{ClusterOptions, LocalCluster, poll};
use serde::{Deserialize, Serialize};
use toml::Table;

use super::stop::Stop;
use crate::cluster::{self, Cluster, Kind};

/// Ranges of Oarlock; the rivals have as many groups, the floor none, etcd and Redis one.
pub const RANGES: u32 = 64;
const READY_WITHIN: Duration = Duration::from_secs(60);
const CALL_WITHIN: Duration = Duration::from_secs(5);
/// Log entries of a group between two snapshots, where a rival can be told: as it is by default.
const SNAPSHOT_EVERY: u64 = 20_000;

/// One line of the tables.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    /// Oarlock, each operation to any node.
    OarlockAny,
    /// Oarlock, each operation to the node that leads its range.
    OarlockMap,
    /// The least that a write on the disks of two of three processes can cost.
    Floor,
    /// raft-rs with raft-engine.
    RaftRs,
    /// openraft, its log in raft-engine.
    Openraft,
    /// Dragonboat.
    Dragonboat,
    /// etcd.
    Etcd,
    /// One redis-server, which acknowledges alone.
    Redis,
}

impl System {
    /// All, in the order of the tables.
    pub const ALL: [Self; 8] = [
        Self::OarlockAny,
        Self::OarlockMap,
        Self::Floor,
        Self::RaftRs,
        Self::Openraft,
        Self::Dragonboat,
        Self::Etcd,
        Self::Redis,
    ];
    /// Those that the targets are set against: replicated stores.
    pub const RIVALS: [Self; 4] = [Self::RaftRs, Self::Openraft, Self::Dragonboat, Self::Etcd];

    /// How the tables name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::OarlockAny => "Oarlock, any node",
            Self::OarlockMap => "Oarlock, by the map",
            Self::Floor => "floor",
            Self::RaftRs => "raft-rs",
            Self::Openraft => "openraft",
            Self::Dragonboat => "Dragonboat",
            Self::Etcd => "etcd",
            Self::Redis => "redis, one process",
        }
    }

    /// Whether it is Oarlock.
    pub fn is_oarlock(self) -> bool {
        matches!(self, Self::OarlockAny | Self::OarlockMap)
    }

    /// Whether it is a store that can be read; the floor keeps nothing.
    pub fn takes_reads(self) -> bool {
        self != Self::Floor
    }

    /// How many nodes must have a write on disk before it is acknowledged.
    pub fn quorum(self) -> u32 {
        if self == Self::Redis { 1 } else { 2 }
    }

    /// How long it takes to start and end, about.
    pub fn start_s(self) -> f64 {
        match self {
            Self::OarlockAny | Self::OarlockMap | Self::Floor | Self::Redis => 2.0,
            Self::RaftRs | Self::Openraft | Self::Etcd => 3.0,
            Self::Dragonboat => 5.0,
        }
    }

    /// The arguments of `oarlock bench` that this system alone needs.
    pub fn bench_args(self) -> &'static [&'static str] {
        match self {
            Self::OarlockMap => &["--route", "map"],
            Self::Etcd => &["--target", "etcd"],
            Self::OarlockAny
            | Self::Floor
            | Self::RaftRs
            | Self::Openraft
            | Self::Dragonboat
            | Self::Redis => &[],
        }
    }

    fn kind(self) -> Option<Kind> {
        match self {
            Self::OarlockAny | Self::OarlockMap | Self::Floor => None,
            Self::RaftRs => Some(Kind::RaftRs),
            Self::Openraft => Some(Kind::Openraft),
            Self::Dragonboat => Some(Kind::Dragonboat),
            Self::Etcd => Some(Kind::Etcd),
            Self::Redis => Some(Kind::Redis),
        }
    }
}

/// Where the programs are and how each node is set up.
pub struct Setup {
    /// `oarlock`, built with the cargo feature `etcd`.
    pub oarlock: PathBuf,
    /// `oarlock-floor`.
    pub floor: PathBuf,
    /// Cores of a node of Oarlock, threads of a rival that can be told.
    pub cores: u16,
}

/// A system at work. It ends when this is dropped.
pub struct Running {
    /// Where clients connect.
    pub addresses: Vec<SocketAddr>,
    /// Its processes, node by node.
    pub pids: Vec<u32>,
    processes: Processes,
}

enum Processes {
    Oarlock(Box<LocalCluster>),
    /// Held for its end alone.
    Rival {
        _cluster: Cluster,
    },
    Floor(Child),
}

impl Running {
    /// Starts a system, with all its data and logs under `folder`, and waits until it serves.
    ///
    /// # Errors
    /// If it does not come up, or a stop is wanted.
    pub fn start(
        system: System,
        setup: &Setup,
        folder: &Path,
        stop: &Stop,
    ) -> Result<Self, Box<dyn Error>> {
        std::fs::create_dir_all(folder)?;
        stop.check()?;
        match system.kind() {
            Some(kind) => start_rival(kind, setup, folder),
            None if system == System::Floor => start_floor(setup, folder),
            None => start_oarlock(setup, folder, stop),
        }
    }

    /// Oarlock's cluster, to do to its nodes what one does not do to a rival.
    pub fn oarlock(&mut self) -> Option<&mut LocalCluster> {
        match &mut self.processes {
            Processes::Oarlock(cluster) => Some(cluster),
            Processes::Rival { .. } | Processes::Floor(_) => None,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Processes::Floor(child) = &mut self.processes {
            // The others follow: their leader's links end. It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn start_oarlock(setup: &Setup, folder: &Path, stop: &Stop) -> Result<Running, Box<dyn Error>> {
    let options = ClusterOptions {
        program: setup.oarlock.clone(),
        nodes: 3,
        cores_per_node: setup.cores,
        ranges: RANGES,
        more: Table::new(),
        variables: Vec::new(),
        hosts: Vec::new(),
    };
    let mut cluster = LocalCluster::prepare(options, folder)?;
    cluster.start_all()?;
    let what = "a leader for every range";
    let is_stopped = || stop.is_wanted();
    cluster.wait_for(what, READY_WITHIN, &is_stopped, LocalCluster::led_ranges)?;
    let pids = cluster.nodes.iter().filter_map(|node| node.pid()).collect();
    let addresses = cluster.addresses();
    Ok(Running { addresses, pids, processes: Processes::Oarlock(Box::new(cluster)) })
}

fn start_rival(kind: Kind, setup: &Setup, folder: &Path) -> Result<Running, Box<dyn Error>> {
    let mut cluster = Cluster::prepare(cluster::Args {
        kind,
        nodes: 3,
        data: folder.to_owned(),
        threads: usize::from(setup.cores),
        snapshot_every: SNAPSHOT_EVERY,
    })?;
    for node in 0..cluster.clients.len() {
        cluster.start(node)?;
    }
    cluster.wait_until_ready()?;
    let (addresses, pids) = (cluster.clients.clone(), cluster.pids());
    Ok(Running { addresses, pids, processes: Processes::Rival { _cluster: cluster } })
}

fn start_floor(setup: &Setup, folder: &Path) -> Result<Running, Box<dyn Error>> {
    let mut child = Command::new(&setup.floor)
        .env("TMPDIR", folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}; is it built?", setup.floor.display()))?;
    let output = child.stdout.take().ok_or("no output")?;
    let pids = vec![child.id()];
    let mut running = Running { addresses: Vec::new(), pids, processes: Processes::Floor(child) };
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    running.addresses.push(line.trim().parse().map_err(|_| "the floor does not come up")?);
    // Its address comes first, then it starts the others; it answers when they are there.
    let address = running.addresses[0];
    poll("the floor", READY_WITHIN, || {
        let ping = || Client::connect(address, CALL_WITHIN)?.call(&[b"PING"]);
        Ok(ping().map_err(|error| error.to_string()))
    })?;
    running.pids.extend(children_of(running.pids[0])?);
    if running.pids.len() != 3 {
        return Err(format!("the floor is {} processes, not three", running.pids.len()).into());
    }
    Ok(running)
}

/// The processes whose parent that one is.
fn children_of(parent: u32) -> std::io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process may end while it is looked at.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
        if behind.split_whitespace().nth(1) == Some(&parent.to_string()) {
            found.push(pid);
        }
    }
    found.sort_unstable();
    Ok(found)
}
