//! One node in memory: its disks, which last, and the life of its process, which does not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::time::Duration;

use oarlock_codec::{GroupMessage, Lane};
use oarlock_raft::{Configuration, SnapshotMeta};
use oarlock_shard::moves::Departed;
use oarlock_shard::pulse::{CoreProgress, PulseAgent, PulseConfig};
use oarlock_shard::rebuild::{LostReplica, Origin};
use oarlock_shard::support_table::{SupportTable, TableConfig};
use oarlock_shard::{
    CheckpointFile, FileDone, FileJob, Homes, JobToken, Output, ReplicaSeed, Shard, ShardConfig,
    SharedHomes, SharedSupport, Split,
};
use oarlock_store::{Loader, Request, Store};
use oarlock_types::{
    ClusterId, CoreAddr, CoreId, DiskId, FeatureLevel, GroupId, Incarnation, Limits, Lsn, Mono,
    NodeId, Pulse, Random, RangeBounds, RangeEpoch, SharedLimits, WallMs,
};
use oarlock_wal::{FrameWrite, RecoveredGroup, WalConfig};

use super::disk::Disk;

pub const CLUSTER: ClusterId = ClusterId(1);
/// A core looks at the pulses about so often.
pub const TICK: Duration = Duration::from_millis(10);

/// A range and its replicas; the first of them is the one that should lead.
#[derive(Clone, Debug)]
pub struct Range {
    pub group: GroupId,
    pub replicas: Vec<CoreAddr>,
    /// The cluster was formed with it; else a split made it.
    pub is_formed: bool,
}

/// What nodes are made of.
#[derive(Clone, Debug)]
pub struct Plan {
    pub nodes: Vec<NodeId>,
    pub cores: u16,
    pub ranges: Vec<Range>,
    pub limits: SharedLimits,
    pub segment_bytes: u64,
    pub frame_bytes_max: usize,
    pub level: FeatureLevel,
}

impl Plan {
    /// The bounds of a range at the formation, if it was there.
    pub fn formed(&self, group: GroupId) -> Option<RangeBounds> {
        let is_formed = self.ranges.iter().any(|range| range.group == group && range.is_formed);
        is_formed.then(RangeBounds::everything)
    }

    pub fn has(&self, group: GroupId) -> bool {
        self.ranges.iter().any(|range| range.group == group)
    }

    /// What a split makes belongs to the plan from then on.
    pub fn note_split(&mut self, split: &Split) {
        let (parent, child) = (split.parent.0, split.child.0);
        let core = self.ranges.iter().find(|range| range.group == parent);
        let core = core.map_or(CoreId(0), |range| range.replicas[0].core);
        if !self.has(child) {
            let replicas = split.members.voters.iter().map(|node| CoreAddr::new(*node, core));
            let replicas = replicas.collect();
            self.ranges.push(Range { group: child, replicas, is_formed: false });
        }
    }
}

/// A frame on its way to the disk.
#[derive(Debug)]
pub struct Writing {
    pub frame: FrameWrite,
    pub bytes: Vec<u8>,
    pub done_at: u64,
}

/// A request on its way to a shard.
#[derive(Debug)]
pub struct Ask {
    pub token: u64,
    pub group: GroupId,
    pub epoch: RangeEpoch,
    pub lane: Option<Lane>,
    pub request: Request,
}

/// A running core.
#[derive(Debug)]
pub struct Core {
    pub shard: Shard,
    pub homes: SharedHomes,
    pub letters: Vec<(CoreAddr, Vec<GroupMessage>)>,
    pub links: Vec<(NodeId, bool)>,
    pub asks: Vec<Ask>,
    pub writing: Option<Writing>,
    pub durable: Option<Lsn>,
    pub jobs: VecDeque<(JobToken, FileJob, u64)>,
    pub done: Vec<(JobToken, FileDone)>,
    pub progress: CoreProgress,
    pub ticked_at: Mono,
    pub output: Output,
}

impl Core {
    fn new(shard: Shard, homes: SharedHomes) -> Self {
        Self {
            shard,
            homes,
            letters: Vec::new(),
            links: Vec::new(),
            asks: Vec::new(),
            writing: None,
            durable: None,
            jobs: VecDeque::new(),
            done: Vec::new(),
            progress: CoreProgress::default(),
            ticked_at: Mono(0),
            output: Output::default(),
        }
    }

    /// Whether it has a reason to run a turn.
    pub fn wants_turn(&self, now: Mono) -> bool {
        !self.letters.is_empty()
            || !self.links.is_empty()
            || !self.asks.is_empty()
            || !self.done.is_empty()
            || self.durable.is_some()
            || now.since(self.ticked_at) >= TICK
            || self.shard.next_deadline() <= now
    }
}

/// A process.
#[derive(Debug)]
pub struct Life {
    pub table: SharedSupport,
    pub agent: PulseAgent,
    pub cores: Vec<Core>,
    pub pulses: Vec<Pulse>,
}

/// What a test does to a core.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Its loop does not run.
    pub stuck: bool,
    /// Writes of the log do not end.
    pub wal_held: bool,
    /// The next write of the log fails: the process stops.
    pub wal_fails: bool,
    /// File jobs do not end.
    pub files_held: bool,
    /// The disk is nearly full.
    pub disk_full: bool,
}

#[derive(Debug)]
pub struct Node {
    pub id: NodeId,
    pub incarnation: Incarnation,
    /// Its clock's thousandths to one of real time's.
    pub rate: u64,
    pub clock_origin: u64,
    pub disks: Vec<Disk>,
    pub faults: Vec<Faults>,
    /// The whole process does not run.
    pub paused: bool,
    /// Replicas that have lost their log, and the life in which that is found.
    pub lost: BTreeMap<GroupId, Incarnation>,
    /// It may have lost replicas that nobody can name, as this life was the last to find.
    pub unnamed: Option<Incarnation>,
    pub life: Option<Life>,
}

impl Node {
    pub fn new(id: NodeId, plan: &Plan) -> Self {
        let disk = |core| {
            let owner = oarlock_wal::Owner { cluster: CLUSTER, node: id, disk: DiskId(7), core };
            let (segment_bytes, frame_bytes_max) = (plan.segment_bytes, plan.frame_bytes_max);
            Disk::new(WalConfig { owner, segment_bytes, frame_bytes_max })
        };
        Self {
            id,
            incarnation: Incarnation(0),
            rate: 1000,
            clock_origin: 1_000_000 * id.get(),
            disks: (0..plan.cores).map(CoreId).map(disk).collect(),
            faults: vec![Faults::default(); usize::from(plan.cores)],
            paused: false,
            lost: BTreeMap::new(),
            unnamed: None,
            life: None,
        }
    }

    pub fn now(&self, real: u64) -> Mono {
        Mono(self.clock_origin + real * self.rate / 1000)
    }

    /// Starts the process over what its disks hold.
    pub fn start(&mut self, plan: &Plan, real: u64, random: &mut Random) {
        assert!(self.life.is_none(), "it runs already");
        let now = self.now(real);
        self.incarnation = self.incarnation.next();
        let others = plan.nodes.iter().filter(|n| **n != self.id);
        let peers: Vec<(NodeId, u16)> = others.map(|n| (*n, plan.cores)).collect();
        let table = SharedSupport::new(SupportTable::new(&TableConfig {
            node: self.id,
            incarnation: self.incarnation,
            cores: plan.cores,
            cores_max: plan.cores,
            origin: now,
            peers: &peers,
        }));
        let config = PulseConfig::new(CLUSTER, &plan.limits, random.next_u64());
        let agent = PulseAgent::new(config, &table, now);
        let cores =
            (0..plan.cores).map(CoreId).map(|core| self.core(core, plan, &table, now, random));
        let cores = cores.collect();
        self.life = Some(Life { table, agent, cores, pulses: Vec::new() });
    }

    fn core(
        &mut self,
        core: CoreId,
        plan: &Plan,
        table: &SharedSupport,
        now: Mono,
        random: &mut Random,
    ) -> Core {
        let addr = CoreAddr::new(self.id, core);
        let disk = &mut self.disks[usize::from(core.get())];
        let recovered = disk.recover();
        assert!(recovered.damage.is_empty(), "{addr}: {:?}", recovered.damage);
        let wait = plan.limits.support_duration;
        let drift = wait * plan.limits.drift_per_mille_max / 1000;
        let is_new = self.incarnation == Incarnation(1);
        let homes = Homes::new(1);
        if let Some(found_in) = self.unnamed {
            homes.note_unknown_losses(found_in);
        }
        let config = ShardConfig {
            addr,
            limits: SharedLimits::clone(&plan.limits),
            seed: random.next_u64(),
            support: SharedSupport::clone(table),
            homes: SharedHomes::clone(&homes),
            may_vote_from: if is_new { Mono(0) } else { now + wait + drift },
        };
        let mut shard = Shard::new(config, recovered.wal);
        shard.set_feature_level(plan.level);
        shard.begin_turn(now, WallMs(0));
        let held: Vec<&Range> =
            plan.ranges.iter().filter(|range| range.replicas.contains(&addr)).collect();
        let spread = Duration::from_micros(100) * u32::try_from(held.len()).unwrap();
        let groups: BTreeMap<GroupId, RecoveredGroup> = recovered.groups;
        let rebuilt = |group| Origin::from_details(&groups.get(&group)?.details).rebuilt;
        let is_lost = |(group, lost_in): (&GroupId, &Incarnation)| {
            (!rebuilt(*group).is_some_and(|rebuilt| rebuilt.is_after(*lost_in))).then_some(*group)
        };
        let lost: BTreeSet<GroupId> = self.lost.iter().filter_map(is_lost).collect();
        for (group, found) in groups.iter().filter(|(group, _)| !lost.contains(group)) {
            assert!(!found.damaged, "{addr}: {group} is damaged");
            if let Some(departed) = Departed::of(found) {
                shard.note_departed(*group, departed);
                continue;
            }
            let delay = wait + random.between(Duration::ZERO, spread * 2);
            let load = |checkpoint: &SnapshotMeta, loader| {
                Ok::<_, Infallible>(load(disk, *group, checkpoint, loader))
            };
            let formed = plan.formed(*group);
            let found = found.clone();
            let Ok(seed) = ReplicaSeed::recovered(*group, found, &plan.limits, delay, formed, load);
            shard.add_replica(seed, false);
        }
        for range in held {
            if lost.contains(&range.group) {
                shard.note_lost(lost_replica(range, addr, plan));
            }
            if !range.is_formed || groups.contains_key(&range.group) || lost.contains(&range.group)
            {
                continue;
            }
            let delay =
                first_election(range, addr) + spread + random.between(Duration::ZERO, spread);
            shard.add_replica(create(range, &plan.limits, delay), true);
        }
        assert_eq!(shard.restore_split_states(), [], "every state that splits make is made");
        shard.sweep_checkpoints(disk.files.keys().copied());
        disk.serve(shard.wal());
        Core::new(shard, homes)
    }
}

fn lost_replica(range: &Range, addr: CoreAddr, plan: &Plan) -> LostReplica {
    let peers = range.replicas.iter().map(|replica| replica.node);
    let peers = peers.filter(|node| *node != addr.node).collect();
    let (group, formed, files) = (range.group, plan.formed(range.group), Vec::new());
    LostReplica { group, formed, peers, files }
}

fn load(disk: &Disk, group: GroupId, checkpoint: &SnapshotMeta, mut loader: Loader) -> Store {
    let file = CheckpointFile { group, position: checkpoint.position };
    let bytes = disk.files.get(&file).unwrap_or_else(|| panic!("{file:?} is marked, not there"));
    assert_eq!(bytes.len() as u64, checkpoint.size_bytes);
    loader.feed(bytes).expect("a checkpoint loads");
    loader.finish().expect("a checkpoint is whole")
}

fn first_election(range: &Range, addr: CoreAddr) -> Duration {
    Duration::from_millis(if range.replicas.first() == Some(&addr) { 50 } else { 1000 })
}

fn create(range: &Range, limits: &Limits, first_election_delay: Duration) -> ReplicaSeed {
    let voters = Configuration::simple(range.replicas.iter().map(|replica| replica.node));
    let bounds = RangeBounds::everything();
    ReplicaSeed::fresh(range.group, bounds, voters, limits, first_election_delay)
}
