//! One node: its disks and its identity, which last, and its process, which does not. It holds what
//! production's driver, log writer and disk worker hold between turns.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use oarlock_cluster::MapCopy;
use oarlock_cluster::passing::Life;
use oarlock_codec::{Frame, GroupMessage, Lane};
use oarlock_shard::pulse::{CoreProgress, PulseAgent};
use oarlock_shard::support_table::SupportTable;
use oarlock_shard::{
    FileDone, FileJob, HandOver, JobToken, Outcome, Output, Shard, SharedHomes, SharedSupport,
    Wanted,
};
use oarlock_store::Request;
use oarlock_types::{
    ClusterId, CoreAddr, CoreId, DiskId, GroupId, Incarnation, Index, Lsn, Mono, NodeId,
    RangeEpoch, SegmentId, WallMs,
};
use oarlock_wal::{Owner, WalConfig};

use crate::config::Config;
use crate::core_changes::Folder;
use crate::disk::Disk;
use crate::driving::Driving;
use crate::letters::Admission;
use crate::pulses::Datagram;

pub(crate) const CLUSTER: ClusterId = ClusterId(0x0A21);
/// The most cores that a node may have.
pub(crate) const CORES_MAX: u16 = 8;

/// A node's clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    real_us: u64,
    mono: u64,
    rate: u64,
    wall_ms: u64,
}

impl Clock {
    pub(crate) fn new(mono: u64, rate: u64) -> Self {
        Self { real_us: 0, mono, rate, wall_ms: 1_700_000_000_000 }
    }

    pub(crate) fn mono(&self, real_us: u64) -> Mono {
        Mono(self.mono + (real_us - self.real_us) * self.rate / 1000)
    }

    pub(crate) fn wall(&self, real_us: u64) -> WallMs {
        WallMs(self.wall_ms + real_us / 1000)
    }

    /// When the monotonic clock will show `at`, on real time.
    pub(crate) fn real(&self, at: Mono) -> u64 {
        self.real_us + at.0.saturating_sub(self.mono).saturating_mul(1000).div_ceil(self.rate)
    }

    pub(crate) fn set_rate(&mut self, real_us: u64, rate: u64) {
        self.mono = self.mono(real_us).0;
        self.real_us = real_us;
        self.rate = rate;
    }

    /// The machine has been started anew: its clock begins elsewhere.
    pub(crate) fn restart(&mut self, real_us: u64, mono: u64) {
        self.mono = mono;
        self.real_us = real_us;
    }

    pub(crate) fn jump_wall(&mut self, ms: i64) {
        self.wall_ms = self.wall_ms.saturating_add_signed(ms);
    }
}

/// A frame that came over a connection.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) from: Life,
    pub(crate) bytes: Vec<u8>,
}

/// What is asked of a core.
#[derive(Debug)]
pub(crate) enum Ask {
    Request {
        token: u64,
        group: GroupId,
        epoch: RangeEpoch,
        lane: Option<(CoreAddr, Lane)>,
        request: Request,
    },
    Transfer(GroupId, Option<NodeId>),
    Members {
        group: GroupId,
        voters: Vec<NodeId>,
        learners: Vec<NodeId>,
    },
    /// A replica that another one wants made.
    Create(Wanted),
    Split {
        group: GroupId,
        at: Bytes,
        child: GroupId,
    },
    /// The same, with an id that the meta group gives.
    CutSoon(GroupId, Bytes),
    /// A lost replica that shall be rebuilt.
    Rebuild(GroupId),
    /// The next step towards these voters.
    Place {
        group: GroupId,
        voters: Vec<NodeId>,
    },
    /// A replica that is no member any more.
    Destroy(GroupId, Index),
    /// What a frozen range's neighbour has answered.
    Answer {
        group: GroupId,
        epoch: RangeEpoch,
        outcome: Outcome,
    },
    /// A replica whose range was taken.
    End(GroupId),
    /// A replica that is to go to another core.
    MoveCore(GroupId, CoreId),
}

/// A job of the disk's worker.
#[derive(Debug)]
pub(crate) enum Job {
    Shard(JobToken, FileJob),
    Prepare(SegmentId),
    Recycle(SegmentId),
    /// The node's copy of the map.
    Map(Box<MapCopy>),
}

/// A running core.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) id: CoreId,
    pub(crate) shard: Shard,
    /// In a cluster that keeps its own map.
    pub(crate) driving: Option<Box<Driving>>,
    pub(crate) homes: SharedHomes,
    /// Messages that another core took for this one's.
    pub(crate) posted: Vec<(CoreAddr, GroupMessage)>,
    /// Messages that came here and are another core's.
    pub(crate) strays: Vec<(CoreAddr, GroupMessage)>,
    pub(crate) links: Vec<(NodeId, bool)>,
    pub(crate) frames: Vec<Arrived>,
    pub(crate) asks: Vec<Ask>,
    /// What other cores say of replicas that go from one to the other.
    pub(crate) letters: Vec<(CoreId, HandOver)>,
    /// Requests of other nodes' cores, and their outcomes.
    pub(crate) forwards: Vec<(Life, Frame)>,
    pub(crate) done: Vec<(JobToken, FileDone)>,
    /// Segments that the worker made, or could not make.
    pub(crate) prepared: Vec<(SegmentId, bool)>,
    pub(crate) in_flight: bool,
    pub(crate) durable: Option<Lsn>,
    pub(crate) awaited: Option<SegmentId>,
    /// A segment could not be made for lack of room.
    pub(crate) is_stuck_full: bool,
    pub(crate) is_low: bool,
    pub(crate) space_asked_at: Mono,
    pub(crate) progress: CoreProgress,
    pub(crate) ticked_at: Mono,
    /// When its next turn is due, in real time.
    pub(crate) turn_at: u64,
    pub(crate) output: Output,
    pub(crate) touched: Vec<GroupId>,
    /// What operators' wishes came to, for the trace.
    pub(crate) granted: Vec<String>,
    /// Groups whose voters are those that were asked for, and those whose replica has ended.
    pub(crate) placed: Vec<GroupId>,
    pub(crate) destroyed: Vec<GroupId>,
}

impl Core {
    pub(crate) fn new(id: CoreId, shard: Shard, homes: SharedHomes) -> Self {
        Self {
            id,
            shard,
            driving: None,
            homes,
            posted: Vec::new(),
            strays: Vec::new(),
            links: Vec::new(),
            frames: Vec::new(),
            asks: Vec::new(),
            letters: Vec::new(),
            forwards: Vec::new(),
            done: Vec::new(),
            prepared: Vec::new(),
            in_flight: false,
            durable: None,
            awaited: None,
            is_stuck_full: false,
            is_low: false,
            space_asked_at: Mono(0),
            progress: CoreProgress::default(),
            ticked_at: Mono(0),
            turn_at: u64::MAX,
            output: Output::default(),
            touched: Vec::new(),
            granted: Vec::new(),
            placed: Vec::new(),
            destroyed: Vec::new(),
        }
    }
}

/// A running process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) table: SharedSupport,
    /// Which core has the replica of which group.
    pub(crate) homes: SharedHomes,
    pub(crate) agent: PulseAgent,
    pub(crate) cores: Vec<Core>,
    /// Pulses that wait in the socket.
    pub(crate) pulses: Vec<Datagram>,
    pub(crate) worker: VecDeque<(usize, Job)>,
    pub(crate) worker_busy: bool,
}

/// A node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) disk_id: DiskId,
    pub(crate) incarnation: Incarnation,
    /// The disks of the others, as they were first seen.
    pub(crate) known_disks: BTreeMap<NodeId, DiskId>,
    pub(crate) clock: Clock,
    pub(crate) disks: Vec<Disk>,
    /// Its cores, by its identity.
    pub(crate) cores: u16,
    /// The cores that its next start is to have.
    pub(crate) wanted_cores: u16,
    /// The next start that changes their number dies behind so many steps.
    pub(crate) cut_short: Option<u64>,
    /// A change of their number that is under way.
    pub(crate) folder: Option<Folder>,
    /// Counts its processes: what was meant for an earlier one is not for this one.
    pub(crate) life: u64,
    pub(crate) process: Option<Process>,
    pub(crate) pauses: u32,
    /// For each core, how many reasons it has to stand still.
    pub(crate) stuck: Vec<u32>,
    /// It dies after so many effects; by power loss, if so.
    pub(crate) crash_after: Option<(u64, bool)>,
    /// Its disk was spoiled: what is on it may not come back.
    pub(crate) is_spoiled: bool,
    /// The groups that have had a replica here.
    pub(crate) placed: BTreeSet<GroupId>,
    /// It lost its disk: its peers do not take it back.
    pub(crate) is_outcast: bool,
    /// Its copy of the map.
    pub(crate) map_copy: Option<MapCopy>,
    /// What it was told when it joined.
    pub(crate) admission: Option<Admission>,
    /// It has not heard that it was let in.
    pub(crate) is_absent: bool,
    /// It never comes back.
    pub(crate) is_gone: bool,
}

impl Node {
    pub(crate) fn new(id: NodeId, config: &Config) -> Self {
        let place = usize::try_from(id.get() - 1).expect("invariant: few nodes");
        let rate = config.clock_rates.get(place).copied().unwrap_or(1000);
        let mut node = Self {
            id,
            disk_id: DiskId(0),
            incarnation: Incarnation(0),
            known_disks: BTreeMap::new(),
            clock: Clock::new(1_000_000 * (1 + 7 * id.get()), rate),
            disks: Vec::new(),
            cores: config.cores,
            wanted_cores: config.cores,
            cut_short: None,
            folder: None,
            life: 0,
            process: None,
            pauses: 0,
            stuck: vec![0; usize::from(CORES_MAX)],
            crash_after: None,
            is_spoiled: false,
            placed: config
                .formed_ids()
                .filter(|group| config.replicas_of(*group).iter().any(|at| at.node == id))
                .collect(),
            is_outcast: false,
            map_copy: None,
            admission: None,
            is_absent: false,
            is_gone: false,
        };
        node.blank(config, u128::from(id.get()));
        node
    }

    /// Gives it a new, empty data directory.
    pub(crate) fn blank(&mut self, config: &Config, disk: u128) {
        self.disk_id = DiskId(disk);
        self.incarnation = Incarnation(0);
        self.known_disks.clear();
        (self.cores, self.folder) = (self.wanted_cores, None);
        let fresh = |core| Self::fresh_disk(config, (self.id, self.disk_id), core);
        self.disks = (0..self.cores).map(CoreId).map(fresh).collect();
    }

    /// An empty disk of a core.
    pub(crate) fn fresh_disk(
        config: &Config,
        (node, disk): (NodeId, DiskId),
        core: CoreId,
    ) -> Disk {
        let (segment_bytes, frame_bytes_max) = (config.segment_bytes, config.frame_bytes_max);
        let owner = Owner { cluster: CLUSTER, node, disk, core };
        Disk::new(WalConfig { owner, segment_bytes, frame_bytes_max })
    }

    /// The core that has its replica of a group, or else that which the map has for it.
    pub(crate) fn home(&self, config: &Config, group: GroupId) -> CoreAddr {
        let known = self.process.as_ref().and_then(|process| process.homes.core_of(group));
        let by_map = || CoreId(config.core_of(group).get() % self.cores);
        CoreAddr::new(self.id, known.unwrap_or_else(by_map))
    }

    /// The running core that has its replica of a group, if it has one.
    pub(crate) fn core(&self, config: &Config, group: GroupId) -> Option<&Core> {
        let core = usize::from(self.home(config, group).core.get());
        self.process.as_ref().map(|process| &process.cores[core])
    }

    pub(crate) fn addr(&self, core: usize) -> CoreAddr {
        CoreAddr::new(self.id, CoreId(u16::try_from(core).expect("invariant: few cores")))
    }

    /// Whether a process runs and is not paused.
    pub(crate) fn runs(&self) -> bool {
        self.process.is_some() && self.pauses == 0
    }

    /// Whether it may have lost replicas that nobody can name.
    pub(crate) fn has_unnamed_losses(&self) -> bool {
        self.disks.iter().any(|disk| disk.unnamed_losses.is_some())
    }

    pub(crate) fn table(&self) -> Option<&SupportTable> {
        self.process.as_ref().map(|process| &*process.table)
    }

    /// Whether a peer's disk is the one that it is known by; notes the first.
    pub(crate) fn knows_disk(&mut self, peer: NodeId, disk: DiskId) -> bool {
        *self.known_disks.entry(peer).or_insert(disk) == disk
    }
}
