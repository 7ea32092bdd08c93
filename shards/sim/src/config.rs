//! What a run is made of: the cluster, the weather, the clients, the schedule of faults. A seed
//! draws all of it (swarm testing: which faults are on and how strong differs from seed to seed), and
//! what a person asks for overrides the draw.

use std::time::Duration;

use oarlock_types::{CoreAddr, CoreId, GroupId, Limits, NodeId, RangeBounds};

use crate::cluster::{self, Cluster};
use crate::core_changes;
use crate::faults::{Fault, Trouble};
use crate::quorum_loss;
use crate::random::Stream;
use crate::ranges::family;
use crate::spoiling;

/// How the network and the disks behave when nothing is wrong with them, in microseconds and
/// thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// The shortest way over the network.
    pub delay_min_us: u64,
    /// What a way takes more, at most, as a rule.
    pub delay_spread_us: u64,
    /// So many of a thousand ways are slow.
    pub slow_per_mille: u64,
    /// What a slow way takes more, at most.
    pub slow_us: u64,
    /// Pulses lost.
    pub pulse_loss_per_mille: u64,
    /// Pulses doubled.
    pub pulse_twice_per_mille: u64,
    /// Frames that are lost inside a connection that stands: harsher than TCP. Raft's messages
    /// withstand it.
    pub frame_loss_per_mille: u64,
    /// Frames that arrive twice inside a connection, likewise.
    pub frame_twice_per_mille: u64,
    /// Frames that others overtake inside a connection, likewise.
    pub frame_late_per_mille: u64,
    /// A durable write of the log.
    pub wal_us: u64,
    /// A job of the disk's worker.
    pub file_us: u64,
}

impl Weather {
    /// A good network and good disks.
    pub const CALM: Self = Self {
        delay_min_us: 50,
        delay_spread_us: 100,
        slow_per_mille: 0,
        slow_us: 0,
        pulse_loss_per_mille: 0,
        pulse_twice_per_mille: 0,
        frame_loss_per_mille: 0,
        frame_twice_per_mille: 0,
        frame_late_per_mille: 0,
        wal_us: 60,
        file_us: 200,
    };

    fn draw(random: &mut Stream) -> Self {
        let mut some = |per_mille, most| {
            if random.per_mille(per_mille) { random.within(1, most) } else { 0 }
        };
        Self {
            pulse_loss_per_mille: some(500, 200),
            pulse_twice_per_mille: some(300, 100),
            frame_loss_per_mille: some(200, 30),
            frame_twice_per_mille: some(200, 30),
            frame_late_per_mille: some(200, 50),
            slow_per_mille: some(500, 50),
            slow_us: 1000 + some(500, 100_000),
            delay_min_us: 20 + some(500, 500),
            delay_spread_us: 50 + some(700, 3000),
            wal_us: 30 + some(700, 3000),
            file_us: 50 + some(500, 10_000),
        }
    }
}

/// What a person may set instead of the seed's draw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Nodes.
    pub nodes: Option<u64>,
    /// Cores of each node.
    pub cores: Option<u16>,
    /// Groups.
    pub groups: Option<u64>,
    /// How long faults go on.
    pub seconds: Option<u64>,
    /// Only the faults with these numbers.
    pub only: Option<Vec<usize>>,
    /// A quiet network and quiet disks, whatever was drawn.
    pub calm_weather: bool,
    /// The run fails once more elections are won: a wish, to see what a failure looks like.
    pub elections_max: Option<u64>,
    /// Whether the cluster keeps its own map, whatever was drawn.
    pub placement: Option<bool>,
    /// Whether a quorum is lost for good, whatever was drawn.
    pub recovery: Option<bool>,
    /// Whether disks are spoiled, by who is a member at the time, whatever was drawn.
    pub spoiled: Option<bool>,
    /// Whether nodes are started with other numbers of cores, whatever was drawn.
    pub core_changes: Option<bool>,
}

/// A run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Nodes.
    pub nodes: u64,
    /// Cores of each node at the formation.
    pub cores: u16,
    /// Groups.
    pub groups: u64,
    /// Replicas of each group at the formation.
    pub replicas: u64,
    /// How long faults and clients go on.
    pub duration_us: u64,
    /// Clients, each with one operation at a time.
    pub clients: u64,
    /// The longest pause of a client between two operations.
    pub think_us: u64,
    /// Plain keys of each group.
    pub keys: u64,
    /// Bounds and times of the engine.
    pub limits: Limits,
    /// The length of a segment of the log.
    pub segment_bytes: u64,
    /// The longest frame of the log.
    pub frame_bytes_max: usize,
    /// The weather.
    pub weather: Weather,
    /// Each node's clock in thousandths of real time's speed; 1000 for those that are not named.
    pub clock_rates: Vec<u64>,
    /// All nodes draw the same times for their pulses: those that start together send together.
    pub pulses_in_phase: bool,
    /// The run fails once more elections are won.
    pub elections_max: Option<u64>,
    /// What goes wrong, and when.
    pub faults: Vec<Fault>,
    /// What the cluster is formed with, if it keeps its own map.
    pub cluster: Option<Cluster>,
    /// A quorum may be lost for good: it must be told which writes were lost with it.
    pub loses_quorum: bool,
    /// Members change while disks are spoiled: whose may be goes by who is a member at the time.
    pub spoils_by_members: bool,
}

/// Small bounds, so that all that is rare in a large engine is common here.
#[must_use]
pub fn small_limits() -> Limits {
    Limits {
        entry_bytes_max: 16 << 10,
        value_bytes_max: 8 << 10,
        frame_bytes_max: 256 << 10,
        append_bytes_max: 2 << 10,
        inflight_bytes_max: 8 << 10,
        inflight_messages_max: 16,
        log_cache_bytes_max: 4 << 10,
        snapshot_chunk_bytes: 1 << 10,
        snapshot_bytes_per_s_max: 1 << 20,
        compact_log_bytes_min: 8 << 10,
        compact_tail_bytes: 2 << 10,
        ..Limits::default()
    }
}

impl Config {
    /// A cluster in which nothing goes wrong, with clients.
    #[must_use]
    pub fn calm(nodes: u64, cores: u16, groups: u64) -> Self {
        Self {
            nodes,
            cores,
            groups,
            replicas: nodes.min(3),
            duration_us: 10_000_000,
            clients: 4,
            think_us: 20_000,
            keys: 3,
            limits: small_limits(),
            segment_bytes: 128 << 10,
            frame_bytes_max: 32 << 10,
            weather: Weather::CALM,
            clock_rates: Vec::new(),
            pulses_in_phase: false,
            elections_max: None,
            faults: Vec::new(),
            cluster: None,
            loses_quorum: false,
            spoils_by_members: false,
        }
    }

    /// What this seed draws.
    #[must_use]
    pub fn swarm(seed: u64, overrides: &Overrides) -> Self {
        let mut random = Stream::new(seed, 1);
        let sizes = [1, 3, 3, 3, 3, 3, 4, 5, 5, 7];
        let drawn_nodes = sizes[random.place(sizes.len())];
        let cores_most = if random.per_mille(300) { 4 } else { 2 };
        let drawn_cores = random.within(1, cores_most);
        let drawn_groups = match random.below(10) {
            0..3 => random.within(1, 3),
            3..9 => random.within(2, 16),
            _ => random.within(20, 100),
        };
        let drawn_seconds = random.within(5, 30);
        let keeps_map = overrides.placement.unwrap_or_else(|| cluster::is_drawn(seed));
        let must_recover = overrides.recovery == Some(true);
        let least = if keeps_map || must_recover { 3 } else { 1 };
        let nodes = overrides.nodes.unwrap_or(drawn_nodes).clamp(least, 7);
        let drawn_cores = u16::try_from(drawn_cores).unwrap_or(1);
        let cores = overrides.cores.unwrap_or(drawn_cores).clamp(1, 4);
        let groups = overrides.groups.unwrap_or(drawn_groups).max(1);
        let seconds = overrides.seconds.unwrap_or(drawn_seconds).max(1);
        let five = random.per_mille(500);
        let mut config = Self::calm(nodes, cores, groups);
        config.replicas = nodes.min(if five { 5 } else { 3 });
        config.duration_us = seconds * 1_000_000;
        config.clients = random.within(2, 10);
        config.think_us = [2_000, 20_000, 100_000, 500_000][random.place(4)];
        // Histories are judged by search: one of tens of thousands of operations on few keys with many
        // lost ones among them takes too long.
        config.think_us = config.think_us.max(100_000 / groups.min(5));
        config.keys = random.within(1, 4);
        config.elections_max = overrides.elections_max;
        config.weather = Weather::draw(&mut random);
        if overrides.calm_weather {
            config.weather = Weather::CALM;
        }
        config.draw_limits(&mut random);
        let bound = u64::from(config.limits.drift_per_mille_max);
        config.clock_rates =
            (0..nodes).map(|_| 1000 - bound + random.below(2 * bound + 1)).collect();
        let recovers =
            overrides.recovery.unwrap_or_else(|| nodes >= 3 && quorum_loss::is_drawn(seed));
        let spoils = overrides.spoiled.unwrap_or_else(|| !recovers && spoiling::is_drawn(seed));
        config.spoils_by_members = spoils && nodes >= 3;
        config.faults = crate::swarm::draw(&config, drawn_seconds.max(seconds) * 1_000_000, seed);
        config.faults.retain(|fault| fault.at_us < config.duration_us);
        if keeps_map {
            config.keep_map(seed);
        }
        if recovers {
            config.lose_quorum(seed);
        }
        if overrides.spoiled == Some(false) {
            config.faults.retain(|fault| fault.trouble.spoils().is_none());
        }
        if config.spoils_by_members {
            config.spoil_disks(seed);
        }
        if overrides.core_changes.unwrap_or_else(|| core_changes::is_drawn(seed)) {
            config.change_cores(seed);
        }
        if let Some(only) = &overrides.only {
            config.faults.retain(|fault| only.contains(&fault.number));
        }
        config
    }

    fn draw_limits(&mut self, random: &mut Stream) {
        let limits = &mut self.limits;
        if random.per_mille(300) {
            limits.compact_log_bytes_min = 2 << 10;
            limits.compact_tail_bytes = 0;
        }
        if random.per_mille(200) {
            limits.snapshot_bytes_per_s_max = 64 << 10;
        }
        if random.per_mille(200) {
            limits.pending_count_max = 4;
        }
        if random.per_mille(200) {
            limits.inflight_messages_max = 2;
            limits.append_bytes_max = 256;
        }
        if random.per_mille(200) {
            limits.support_duration = Duration::from_millis(300);
            limits.pulse_interval = Duration::from_millis(20);
        }
        if random.per_mille(500) {
            self.segment_bytes = 64 << 10;
        }
    }

    /// All nodes.
    pub fn node_ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (1..=self.nodes).map(NodeId)
    }

    /// Whether replicas move to other nodes, and end where they were.
    #[must_use]
    pub fn has_moves(&self) -> bool {
        self.faults.iter().any(|fault| matches!(fault.trouble, Trouble::Move(_)))
    }

    /// All groups of the formation.
    pub fn group_ids(&self) -> impl Iterator<Item = GroupId> + use<> {
        (1..=self.groups).map(GroupId)
    }

    /// All groups of the formation, the meta group among them if there is one.
    pub(crate) fn formed_ids(&self) -> impl Iterator<Item = GroupId> + use<> {
        let meta = self.cluster.is_some().then_some(GroupId::META);
        meta.into_iter().chain(self.group_ids())
    }

    /// The bounds of a range at the formation, if it was there.
    #[must_use]
    pub fn formed(&self, group: GroupId) -> Option<RangeBounds> {
        match &self.cluster {
            Some(cluster) => cluster.formation.group(group).map(|range| range.bounds()),
            None => (family(group) == group).then(RangeBounds::everything),
        }
    }

    /// The core of each node that a group's replicas sit on.
    #[must_use]
    pub fn core_of(&self, group: GroupId) -> CoreId {
        if let Some(cluster) = &self.cluster {
            let formed = cluster.formation.group(group);
            return formed.and_then(|range| range.replicas.first()).map_or(CoreId(0), |at| at.core);
        }
        let core = (family(group).get() - 1) % u64::from(self.cores);
        CoreId(u16::try_from(core).expect("invariant: less than the cores"))
    }

    /// Where a group's replicas are at the formation; the first should lead.
    #[must_use]
    pub fn replicas_of(&self, group: GroupId) -> Vec<CoreAddr> {
        if let Some(cluster) = &self.cluster {
            let formed = cluster.formation.group(group);
            return formed.map_or_else(Vec::new, |range| range.replicas.to_vec());
        }
        let first = (family(group).get() - 1) / u64::from(self.cores);
        let core = self.core_of(group);
        let place = |copy| CoreAddr::new(NodeId((first + copy) % self.nodes + 1), core);
        (0..self.replicas).map(place).collect()
    }

    /// Whether leases may be broken: some fault lies outside of what the protocol promises to
    /// withstand (a clock beyond the drift bound). Then stale reads and two lease holders are not
    /// held against it; everything else is.
    #[must_use]
    pub fn is_outside_model(&self) -> bool {
        self.faults.iter().any(|fault| fault.trouble.is_outside_model(&self.limits))
    }
}
