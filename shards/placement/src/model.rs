//! The view with indexes and sums: what each node and core has, as if all tasks were done.
//!
//! Made anew for each plan, in one pass over the replicas. A task that is planned is applied to the
//! sums, so that the next one sees it; its range is locked and is not looked at again, so that
//! ranges themselves never change here.

use std::collections::BTreeMap;

use oarlock_types::{CoreAddr, CoreId, FastMap, GroupId, NodeId};

use crate::scale::{Holding, Scale};
use crate::task::{Action, Share, Task};
use crate::view::{Range, Replica, ReplicaRole, Standing};
use crate::{Settings, View};

/// What a node shares in by its replicas, in the order of [`NodeUse::has`].
pub(crate) const BY_REPLICA: usize = 3;
/// What a node shares in by its leaders, in the order of [`NodeUse::leads`].
pub(crate) const BY_LEADER: usize = 2;
/// What a core shares in, in the order of [`NodeUse::cores`].
pub(crate) const BY_CORE: usize = 2;

/// A node with what it has.
#[derive(Clone, Debug)]
pub(crate) struct NodeUse {
    pub(crate) id: NodeId,
    pub(crate) standing: Standing,
    /// Nodes with equal numbers share a zone.
    pub(crate) zone: usize,
    /// Its capacity, as a weight.
    pub(crate) weight: f64,
    /// Its number of cores, as a weight.
    pub(crate) width: f64,
    /// Bytes of replicas that it may hold at most.
    room: u64,
    bytes: u64,
    /// Replicas, their bytes, their writes.
    pub(crate) has: [f64; BY_REPLICA],
    /// Leaders, their reads.
    pub(crate) leads: [f64; BY_LEADER],
    /// For each core: replicas, their load.
    pub(crate) cores: Vec<[f64; BY_CORE]>,
    pub(crate) moves: usize,
    pub(crate) core_moves: usize,
}

/// Where a replica is, by indexes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The node, unless the view has none of that id.
    pub(crate) node: Option<usize>,
    /// The core; one that the node has.
    pub(crate) core: usize,
}

/// How even things are, and how even they should be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scales {
    pub(crate) by_replica: [Scale; BY_REPLICA],
    pub(crate) by_leader: [Scale; BY_LEADER],
}

pub(crate) struct Model<'a> {
    pub(crate) view: &'a View,
    pub(crate) settings: &'a Settings,
    pub(crate) nodes: Vec<NodeUse>,
    index: FastMap<NodeId, usize>,
    places: Vec<Place>,
    /// Where the places of each range begin, and the end of the last.
    offsets: Vec<usize>,
    /// Ranges that have a task.
    pub(crate) locked: Vec<bool>,
    pub(crate) scales: Scales,
    pub(crate) moves: usize,
    pub(crate) transfers: usize,
    pub(crate) reshapes: usize,
    /// Whether a task under way or planned brings replicas in order that are not.
    pub(crate) mending: bool,
    /// The names of all zones; a zone's number is its place.
    pub(crate) zones: Vec<&'a str>,
}

/// How many of a range's voters can be counted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quorum {
    pub(crate) voters: usize,
    /// Up and caught up.
    pub(crate) sound: usize,
}

impl Quorum {
    pub(crate) fn needed(self) -> usize {
        self.voters / 2 + 1
    }

    pub(crate) fn holds(self) -> bool {
        self.voters > 0 && self.sound >= self.needed()
    }

    /// What is left without one voter.
    pub(crate) fn without(self, sound: bool) -> Self {
        Self {
            voters: self.voters.saturating_sub(1),
            sound: self.sound.saturating_sub(usize::from(sound)),
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "shares need no more than 52 bits")]
pub(crate) fn float(number: u64) -> f64 {
    number as f64
}

/// What a range's replica adds to its node.
pub(crate) fn replica_amounts(range: &Range) -> [f64; BY_REPLICA] {
    [1.0, float(range.bytes), float(range.writes_per_s)]
}

/// What a range's leader adds to its node.
pub(crate) fn leader_amounts(range: &Range) -> [f64; BY_LEADER] {
    [1.0, float(range.reads_per_s)]
}

/// What a range's replica adds to its core.
pub(crate) fn core_amounts(range: &Range, leads: bool) -> [f64; BY_CORE] {
    [1.0, float(if leads { range.load_per_s() } else { range.writes_per_s })]
}

fn shift<const N: usize>(sums: &mut [f64; N], amounts: [f64; N], sign: f64) {
    for (sum, amount) in sums.iter_mut().zip(amounts) {
        *sum += sign * amount;
    }
}

impl<'a> Model<'a> {
    pub(crate) fn new(view: &'a View) -> Self {
        let settings = &view.settings;
        let (nodes, index, zones) = node_uses(view);
        let scales = scales(settings, &nodes);
        let count = view.ranges.iter().map(|range| range.replicas.len()).sum();
        let mut model = Self {
            view,
            settings,
            nodes,
            index,
            places: Vec::with_capacity(count),
            offsets: Vec::with_capacity(view.ranges.len() + 1),
            locked: vec![false; view.ranges.len()],
            scales,
            moves: 0,
            transfers: 0,
            reshapes: 0,
            mending: false,
            zones,
        };
        model.count_replicas();
        model.count_tasks();
        model.rescale();
        model
    }

    fn count_replicas(&mut self) {
        for range in &self.view.ranges {
            self.offsets.push(self.places.len());
            for replica in &range.replicas {
                let node = self.index.get(&replica.at.node).copied();
                let cores = node.map_or(1, |node| self.nodes[node].cores.len().max(1));
                let place = Place { node, core: usize::from(replica.at.core.0) % cores };
                self.places.push(place);
                if let Some(node) = node {
                    let leads = range.leader == Some(replica.at.node);
                    self.put(node, place.core, range, leads, 1.0);
                }
            }
        }
        self.offsets.push(self.places.len());
    }

    fn count_tasks(&mut self) {
        let view = self.view;
        let mut tasks: FastMap<GroupId, &Task> = FastMap::default();
        for task in &view.under_way {
            tasks.insert(task.group, task);
            if let Action::Merge { right, .. } = task.action {
                tasks.entry(right).or_insert(task);
            }
        }
        if tasks.is_empty() {
            return;
        }
        for (at, range) in view.ranges.iter().enumerate() {
            if let Some(task) = tasks.get(&range.group) {
                self.locked[at] = true;
                if task.group == range.group {
                    self.apply(at, task);
                }
            }
        }
    }

    /// Takes a task as done, and its range as busy.
    pub(crate) fn apply(&mut self, at: usize, task: &Task) {
        let range = &self.view.ranges[at];
        self.locked[at] = true;
        self.mending |= task.reason.is_need();
        match task.action {
            Action::Add { to } => {
                self.moves += 1;
                self.arrive(range, to, false);
            }
            Action::Replace { from, to } => {
                self.moves += 1;
                let leads = range.leader == Some(from.node);
                self.leave(range, from);
                self.arrive(range, to, leads);
                self.busy(from.node);
            }
            Action::Remove { from } => self.leave(range, from),
            Action::Transfer { from, to } => {
                self.transfers += 1;
                self.lead(range, from, -1.0);
                self.lead(range, to, 1.0);
            }
            Action::MoveCore { node, from, to } => {
                let Some(&node_at) = self.index.get(&node) else { return };
                let leads = range.leader == Some(node);
                self.nodes[node_at].core_moves += 1;
                self.put_on_core(node_at, from, range, leads, -1.0);
                self.put_on_core(node_at, to, range, leads, 1.0);
            }
            Action::Split(_) | Action::Merge { .. } => self.reshapes += 1,
        }
    }

    /// Takes a replica as moved from one core of its node to another.
    pub(crate) fn shift_core(&mut self, at: usize, node: usize, from: usize, to: usize) {
        let range = self.range(at);
        let amounts = core_amounts(range, range.leader == Some(self.nodes[node].id));
        let cores = &mut self.nodes[node].cores;
        shift(&mut cores[from], amounts, -1.0);
        shift(&mut cores[to], amounts, 1.0);
    }

    fn busy(&mut self, node: NodeId) {
        if let Some(&node) = self.index.get(&node) {
            self.nodes[node].moves += 1;
        }
    }

    fn leave(&mut self, range: &Range, from: CoreAddr) {
        let there = range.replicas.iter().any(|replica| replica.at.node == from.node);
        if let (Some(&node), true) = (self.index.get(&from.node), there) {
            let core = self.core_at(node, from.core);
            self.put(node, core, range, range.leader == Some(from.node), -1.0);
        }
    }

    fn arrive(&mut self, range: &Range, to: CoreAddr, leads: bool) {
        self.busy(to.node);
        let there = range.replicas.iter().any(|replica| replica.at.node == to.node);
        if let (Some(&node), false) = (self.index.get(&to.node), there) {
            let core = self.core_at(node, to.core);
            self.put(node, core, range, leads, 1.0);
        }
    }

    fn lead(&mut self, range: &Range, node: NodeId, sign: f64) {
        let Some(&node_at) = self.index.get(&node) else { return };
        shift(&mut self.nodes[node_at].leads, leader_amounts(range), sign);
        if let Some(replica) = range.replicas.iter().find(|replica| replica.at.node == node) {
            let core = self.core_at(node_at, replica.at.core);
            if let Some(sums) = self.nodes[node_at].cores.get_mut(core) {
                sums[1] += sign * float(range.reads_per_s);
            }
        }
    }

    fn core_at(&self, node: usize, core: CoreId) -> usize {
        usize::from(core.0) % self.nodes[node].cores.len().max(1)
    }

    fn put_on_core(&mut self, node: usize, core: CoreId, range: &Range, leads: bool, sign: f64) {
        let core = self.core_at(node, core);
        if let Some(sums) = self.nodes[node].cores.get_mut(core) {
            shift(sums, core_amounts(range, leads), sign);
        }
    }

    fn put(&mut self, node: usize, core: usize, range: &Range, leads: bool, sign: f64) {
        let node = &mut self.nodes[node];
        shift(&mut node.has, replica_amounts(range), sign);
        if sign > 0.0 {
            node.bytes = node.bytes.saturating_add(range.bytes);
        } else {
            node.bytes = node.bytes.saturating_sub(range.bytes);
        }
        if leads {
            shift(&mut node.leads, leader_amounts(range), sign);
        }
        if let Some(sums) = node.cores.get_mut(core) {
            shift(sums, core_amounts(range, leads), sign);
        }
    }

    /// Reckons anew what is fair, after replicas came to nodes that serve or left them.
    pub(crate) fn rescale(&mut self) {
        self.scales = scales(self.settings, &self.nodes);
    }

    pub(crate) fn range(&self, at: usize) -> &'a Range {
        &self.view.ranges[at]
    }

    pub(crate) fn places(&self, at: usize) -> &[Place] {
        &self.places[self.offsets[at]..self.offsets[at + 1]]
    }

    /// A range's members with their places.
    pub(crate) fn members(&self, at: usize) -> impl Iterator<Item = (&'a Replica, Place)> {
        self.range(at).replicas.iter().zip(self.places(at).iter().copied())
    }

    pub(crate) fn standing(&self, place: Place) -> Standing {
        place.node.map_or(Standing::Removed, |node| self.nodes[node].standing)
    }

    /// Whether a member votes, is up and is caught up.
    pub(crate) fn is_sound(&self, replica: &Replica, place: Place) -> bool {
        replica.role == ReplicaRole::Voter && replica.caught_up && self.standing(place).is_up()
    }

    pub(crate) fn quorum(&self, at: usize) -> Quorum {
        let mut quorum = Quorum { voters: 0, sound: 0 };
        for (replica, place) in self.members(at) {
            quorum.voters += usize::from(replica.role == ReplicaRole::Voter);
            quorum.sound += usize::from(self.is_sound(replica, place));
        }
        quorum
    }

    /// The node whose voter leads the range, if it is up.
    pub(crate) fn leader(&self, at: usize) -> Option<usize> {
        let leader = self.range(at).leader?;
        let found = self.members(at).find(|(replica, _)| replica.at.node == leader)?;
        let votes = found.0.role == ReplicaRole::Voter && self.standing(found.1).is_up();
        found.1.node.filter(|_| votes)
    }

    /// Whether the range can be moved for evenness alone: it is led, and all members are sound
    /// voters on nodes that serve.
    pub(crate) fn is_healthy(&self, at: usize) -> bool {
        let mut members = self.members(at);
        self.leader(at).is_some()
            && members.all(|(replica, place)| {
                self.is_sound(replica, place) && self.standing(place) == Standing::Serving
            })
    }

    /// The number of the zone where a range's leader should be; `Some(None)` if no node is in it.
    pub(crate) fn leader_zone(&self, at: usize) -> Option<Option<usize>> {
        let zone = self.range(at).rules.leader_zone.as_deref()?;
        Some(self.zones.iter().position(|name| *name == zone))
    }

    pub(crate) fn node_at(&self, id: NodeId) -> Option<usize> {
        self.index.get(&id).copied()
    }

    /// Whether a node has room for so many bytes more.
    pub(crate) fn has_room(&self, node: usize, bytes: u64) -> bool {
        self.nodes[node].bytes.saturating_add(bytes) <= self.nodes[node].room
    }

    pub(crate) fn has_slot(&self, node: usize) -> bool {
        self.nodes[node].moves < self.settings.moves_per_node_max
    }

    pub(crate) fn task(&self, at: usize, action: Action, reason: crate::Reason) -> Task {
        let range = self.range(at);
        Task { group: range.group, epoch: range.epoch, action, reason }
    }
}

impl NodeUse {
    pub(crate) fn serves(&self) -> bool {
        self.standing == Standing::Serving && !self.cores.is_empty() && self.weight > 0.0
    }

    pub(crate) fn by_replica(&self, share: usize) -> Holding {
        // Data goes by capacity, work by cores.
        let weight = if share == 2 { self.width } else { self.weight };
        Holding { has: self.has[share], weight }
    }

    pub(crate) fn by_leader(&self, share: usize) -> Holding {
        Holding { has: self.leads[share], weight: self.width }
    }

    pub(crate) fn by_core(&self, share: usize, core: usize) -> Holding {
        Holding { has: self.cores[core][share], weight: 1.0 }
    }
}

type Nodes<'a> = (Vec<NodeUse>, FastMap<NodeId, usize>, Vec<&'a str>);

fn node_uses(view: &View) -> Nodes<'_> {
    let mut index = FastMap::default();
    let mut zones: Vec<&str> = Vec::new();
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let mut nodes: Vec<NodeUse> = Vec::with_capacity(view.nodes.len());
    for node in &view.nodes {
        if index.contains_key(&node.id) {
            continue;
        }
        let zone = *numbers.entry(&node.zone).or_insert_with(|| {
            zones.push(&node.zone);
            zones.len() - 1
        });
        let fill = u128::from(view.settings.fill_percent_max);
        let room = u128::from(node.capacity_bytes) * fill / 100;
        index.insert(node.id, nodes.len());
        nodes.push(NodeUse {
            id: node.id,
            standing: node.standing(view.now, view.settings.gone_after_ms),
            zone,
            weight: float(node.capacity_bytes),
            width: f64::from(node.cores),
            room: u64::try_from(room).unwrap_or(u64::MAX),
            bytes: 0,
            has: [0.0; BY_REPLICA],
            leads: [0.0; BY_LEADER],
            cores: vec![[0.0; BY_CORE]; usize::from(node.cores)],
            moves: 0,
            core_moves: 0,
        });
    }
    (nodes, index, zones)
}

fn scales(settings: &Settings, nodes: &[NodeUse]) -> Scales {
    let serving = || nodes.iter().filter(|node| node.serves());
    let weights: f64 = serving().map(|node| node.weight).sum();
    let widths: f64 = serving().map(|node| node.width).sum();
    let has = |share: usize| serving().map(|node| node.has[share]).sum::<f64>();
    let leads = |share: usize| serving().map(|node| node.leads[share]).sum::<f64>();
    let (replicas, load) = (settings.replica_slack_percent, settings.load_slack_percent);
    let load_floor = float(settings.load_floor_per_core);
    // A cluster with less than one full range for each node need not share bytes evenly.
    let count = float(serving().count() as u64);
    let bytes_floor =
        if weights > 0.0 { float(settings.split_bytes) * count / weights } else { 0.0 };
    Scales {
        by_replica: [
            Scale::new(Share::Replicas, has(0), weights, 0.0, replicas),
            Scale::new(Share::Bytes, has(1), weights, bytes_floor, load),
            Scale::new(Share::Writes, has(2), widths, load_floor, load),
        ],
        by_leader: [
            Scale::new(Share::Leaders, leads(0), widths, 0.0, settings.leader_slack_percent),
            Scale::new(Share::Reads, leads(1), widths, load_floor, load),
        ],
    }
}
