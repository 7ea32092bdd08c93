//! What a run has beyond others whose cluster keeps its own map: the keyspace in which the ranges of the
//! formation lie one behind the other, the bounds of placement, and what operators do with nodes. Drawn from a
//! stream of its own.
//!
//! In the other runs each group of the formation has a keyspace of its own, and the world orders what becomes
//! of ranges; here the meta group, each node's keeper of the map and placement do.

use std::time::Duration;

use bytes::Bytes;
use oarlock_cluster::NodeEntry;
use oarlock_cluster::executor::PlacementParts;
use oarlock_shard::SplitSettings;
use oarlock_types::{FeatureLevel, FeatureLevels, GroupId, NodeId, RangeMap};

use crate::config::Config;
use crate::faults::{Fault, Trouble};
use crate::random::Stream;

/// Of a thousand seeds so many keep their own map.
const SHARE_PER_MILLE: u64 = 250;
/// Most families of keys, each a range at the formation: all is in one map, and each is judged by itself.
const FAMILIES_MAX: u64 = 24;
/// Most nodes of a run, with those that join.
const NODES_MAX: u64 = 8;

/// What is done with nodes, by operators or by what befalls them for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeTrouble {
    /// A new node asks to join.
    Join,
    /// An operator has a node drained.
    Drain(NodeId),
    /// He takes that back.
    Serve(NodeId),
    /// A node is gone for good, with its disk; an operator says so, if the flag is set.
    Lose(NodeId, bool),
    /// A node has lost its disk: it comes back as a new one, while its former self is gone.
    Replace(NodeId),
    /// The meta group is handed over.
    HandOver,
}

/// What the cluster of such a run is formed with.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The map at the formation.
    pub formation: RangeMap,
    /// The nodes that it was formed of.
    pub formed_of: Vec<NodeEntry>,
    /// The feature level at which it begins.
    pub level: FeatureLevel,
    /// What ranges are cut for.
    pub splits: SplitSettings,
    /// When a silent node's replicas are made anew.
    pub gone_after: Duration,
    /// How long ranges stay what they are before they are merged.
    pub merge_rest: Duration,
    /// Moves at once.
    pub moves_max: usize,
}

/// What the keys of a family begin with; nothing where each has a keyspace of its own.
pub(crate) fn prefix(config: &Config, family: GroupId) -> String {
    if config.cluster.is_some() { format!("{:03}/", family.get()) } else { String::new() }
}

/// The entry of a node; each is at an address of its own.
pub(crate) fn entry(id: NodeId, number: u16, cores: u16) -> NodeEntry {
    let address = |port| ([10, 0, 0, 1], port).into();
    NodeEntry {
        id,
        peer_address: address(10_000 + number),
        client_address: address(20_000 + number),
        cores,
        core_ports: Vec::new(),
        zone: String::new(),
    }
}

/// Whether a seed's cluster keeps its own map.
pub(crate) fn is_drawn(seed: u64) -> bool {
    Stream::new(seed, 20).per_mille(SHARE_PER_MILLE)
}

impl Cluster {
    /// The cluster of a run with these nodes, cores and families, with placement that rests.
    ///
    /// # Panics
    /// If it has no node.
    #[must_use]
    pub fn calm(config: &Config) -> Self {
        let nodes: Vec<(NodeId, u16)> = config.node_ids().map(|id| (id, config.cores)).collect();
        let points: Vec<Bytes> =
            (2..=config.groups).map(|family| Bytes::from(format!("{family:03}"))).collect();
        let replicas = usize::try_from(config.replicas).expect("invariant: few replicas");
        let formation = RangeMap::formation(&nodes, &points, replicas);
        let number = |id: NodeId| u16::try_from(id.get()).expect("invariant: few nodes");
        Self {
            formation: formation.expect("invariant: the points ascend"),
            formed_of: nodes.iter().map(|(id, cores)| entry(*id, number(*id), *cores)).collect(),
            level: FeatureLevel::MAX,
            splits: SplitSettings {
                bytes: u64::MAX,
                keys: u64::MAX,
                requests_per_s: u64::MAX,
                load_rest: Duration::from_secs(1),
            },
            gone_after: Duration::from_secs(4),
            merge_rest: Duration::ZERO,
            moves_max: 8,
        }
    }

    fn draw(config: &Config, random: &mut Stream) -> Self {
        let mut cluster = Self::calm(config);
        if random.per_mille(300) {
            cluster.level = FeatureLevel::FIRST;
        }
        if random.per_mille(500) {
            cluster.splits.keys = [6, 12, 40][random.place(3)];
        }
        if random.per_mille(400) {
            cluster.splits.requests_per_s = [20, 60, 200][random.place(3)];
        }
        cluster.gone_after = Duration::from_millis(random.within(2500, 8000));
        if random.per_mille(700) {
            cluster.merge_rest = Duration::from_millis(random.within(500, 4000));
        }
        cluster.moves_max = [1, 4, 64][random.place(3)];
        cluster
    }

    /// What placement is made of on a node that knows these.
    pub(crate) fn parts(
        &self,
        node: NodeId,
        nodes: &[NodeEntry],
        config: &Config,
    ) -> PlacementParts {
        PlacementParts {
            node,
            nodes: nodes.to_vec(),
            replicas: u8::try_from(config.replicas).expect("invariant: few replicas"),
            moves_max: self.moves_max,
            gone_after: self.gone_after,
            splits: self.splits,
            merge_bytes_max: (config.limits.value_bytes_max / 2) as u64,
            merge_rest: self.merge_rest,
        }
    }

    /// The levels that all nodes understand.
    pub(crate) const LEVELS: FeatureLevels = FeatureLevels::BUILD;
}

impl Config {
    /// Makes the cluster keep its own map: what ordered ranges in its place goes, what is done with nodes comes.
    pub(crate) fn keep_map(&mut self, seed: u64) {
        let mut random = Stream::new(seed, 21);
        self.groups = self.groups.clamp(2, FAMILIES_MAX);
        self.cluster = Some(Cluster::draw(self, &mut random));
        let is_other = |trouble: &Trouble| {
            trouble.spoils().is_some() || matches!(trouble, Trouble::Members(_) | Trouble::Move(_))
        };
        self.faults.retain(|fault| !is_other(&fault.trouble));
        let mut number = self.faults.iter().map(|fault| fault.number + 1).max().unwrap_or(0);
        let interval_us = [500_000, 1_500_000, 4_000_000][random.place(3)];
        let mut nodes = self.nodes;
        let mut at_us = 500_000;
        loop {
            at_us += random.within(1, 2 * interval_us);
            if at_us >= self.duration_us {
                return;
            }
            let node = NodeId(1 + random.below(nodes));
            let trouble = match random.below(10) {
                0..3 if nodes < NODES_MAX => NodeTrouble::Join,
                0..5 => NodeTrouble::Drain(node),
                5..7 => NodeTrouble::Serve(node),
                7 => NodeTrouble::Lose(node, random.per_mille(300)),
                8 if nodes < NODES_MAX => NodeTrouble::Replace(node),
                _ => NodeTrouble::HandOver,
            };
            nodes += u64::from(matches!(trouble, NodeTrouble::Join | NodeTrouble::Replace(_)));
            let trouble = Trouble::Node(trouble);
            self.faults.push(Fault { number, at_us, lasts_us: 1, trouble });
            number += 1;
        }
    }
}
