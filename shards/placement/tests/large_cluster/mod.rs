//! A cluster of any size, what happens to it, and how even it is.

#![allow(dead_code, reason = "each test and the bench use a part")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::BTreeMap;

use oarlock_placement::{Duty, Node, Range, plan};
use oarlock_types::{NodeId, Random};

use crate::cluster::{Cluster, MIB, node};

/// How large a cluster is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) nodes: u64,
    pub(crate) cores: u16,
    pub(crate) zones: u64,
    pub(crate) ranges: usize,
}

pub(crate) struct Large {
    pub(crate) cluster: Cluster,
    size: Size,
}

/// What a run to rest was like.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Report {
    pub(crate) rounds: usize,
    pub(crate) moves: usize,
}

impl Large {
    /// As formed: three replicas in three zones, core numbers aligned, sizes of 16 to 48 MiB.
    pub(crate) fn new(size: Size) -> Self {
        let zone = |id: u64| format!("z{}", id % size.zones);
        let nodes = (1..=size.nodes).map(|id| node(id, size.cores, &zone(id))).collect();
        let mut cluster = Cluster::new(nodes);
        let ids: Vec<NodeId> = (1..=size.nodes).map(NodeId).collect();
        cluster.form(&ids, size.ranges, 3);
        Self { cluster, size }
    }

    /// Plans and carries out until nothing is planned, calling before and after each plan.
    pub(crate) fn run_with(&mut self, mut around: impl FnMut(bool)) -> Report {
        let before = self.cluster.counts;
        let mut report = Report::default();
        loop {
            around(true);
            let planned = plan(&self.cluster.view);
            around(false);
            if planned.tasks.is_empty() {
                break;
            }
            report.rounds += 1;
            assert!(report.rounds < 20_000, "no rest: {:?}", self.cluster.counts);
            self.cluster.view.under_way = planned.tasks;
            self.cluster.finish(|_| true);
            self.cluster.advance(1_000);
        }
        report.moves = self.cluster.counts.moves - before.moves;
        report
    }

    pub(crate) fn run(&mut self) -> Report {
        self.run_with(|_| {})
    }

    pub(crate) fn join(&mut self, count: u64) {
        for id in self.size.nodes + 1..=self.size.nodes + count {
            let zone = format!("z{}", id % self.size.zones);
            self.cluster.view.nodes.push(node(id, self.size.cores, &zone));
        }
        self.size.nodes += count;
    }

    /// A node goes down; how many replicas it had.
    pub(crate) fn kill(&mut self, at: usize) -> usize {
        let id = self.cluster.view.nodes[at].id;
        self.cluster.view.nodes[at].down_since = Some(self.cluster.view.now);
        for range in &mut self.cluster.view.ranges {
            if range.leader == Some(id) {
                let heir = range.replicas.iter().find(|replica| replica.at.node != id);
                range.leader = heir.map(|replica| replica.at.node);
            }
        }
        self.on_node(at)
    }

    pub(crate) fn drain(&mut self, at: usize) -> usize {
        self.cluster.view.nodes[at].duty = Duty::Draining;
        self.on_node(at)
    }

    pub(crate) fn on_node(&self, at: usize) -> usize {
        self.cluster.spread()[&self.cluster.view.nodes[at].id].0
    }

    /// Replicas go to random nodes, a third of them to the first tenth, and to random cores.
    pub(crate) fn scatter(&mut self, seed: u64) {
        let mut random = Random::new(seed);
        let (nodes, cores) = (self.size.nodes, u64::from(self.size.cores));
        for range in &mut self.cluster.view.ranges {
            let mut ids: Vec<u64> = Vec::new();
            while ids.len() < range.replicas.len() {
                let crowd = random.below(3) == 0;
                let id = 1 + random.below(if crowd { nodes.div_ceil(10) } else { nodes });
                if !ids.contains(&id) || nodes < 10 {
                    ids.push(id);
                }
            }
            for (replica, id) in range.replicas.iter_mut().zip(ids) {
                let core = u16::try_from(random.below(cores)).unwrap();
                *replica = crate::cluster::voter(id, core);
            }
            range.leader = Some(range.replicas[0].at.node);
        }
    }

    /// Sizes of 16 to 48 MiB; most ranges have few requests, a few have many.
    pub(crate) fn load(&mut self, seed: u64) {
        let mut random = Random::new(seed);
        for range in &mut self.cluster.view.ranges {
            range.bytes = (16 + random.below(32)) * MIB;
            let rank = 1 + random.below(1_000);
            range.writes_per_s = 10_000 / rank;
            range.reads_per_s = 9_000 / (1 + random.below(1_000));
        }
    }

    /// Each range's load is up to so many percent off.
    pub(crate) fn waver(&mut self, loads: &[Range], seed: u64, percent: u64) {
        let mut random = Random::new(seed);
        let mut waver = |load: u64| load * (100 - percent + random.below(2 * percent + 1)) / 100;
        for (range, load) in self.cluster.view.ranges.iter_mut().zip(loads) {
            range.writes_per_s = waver(load.writes_per_s);
            range.reads_per_s = waver(load.reads_per_s);
        }
    }

    /// Replicas that must travel at least: what nodes have beyond their fair share, or all of it.
    pub(crate) fn needed(&self) -> usize {
        let spread = self.cluster.spread();
        let nodes = &self.cluster.view.nodes;
        let serves = |node: &&Node| node.down_since.is_none() && node.duty == Duty::Serving;
        let fair = self.replicas() / nodes.iter().filter(serves).count();
        let excess = nodes
            .iter()
            .map(|node| spread[&node.id].0.saturating_sub(if serves(&node) { fair } else { 0 }));
        excess.sum()
    }

    pub(crate) fn replicas(&self) -> usize {
        self.cluster.view.ranges.iter().map(|range| range.replicas.len()).sum()
    }

    /// Ranges with two replicas in one zone.
    pub(crate) fn shared_zones(&self) -> usize {
        let zone = |id: NodeId| id.0 % self.size.zones;
        let shared = |range: &&Range| {
            let mut zones: Vec<u64> = range.replicas.iter().map(|r| zone(r.at.node)).collect();
            zones.sort_unstable();
            zones.windows(2).any(|pair| pair[0] == pair[1])
        };
        self.cluster.view.ranges.iter().filter(shared).count()
    }

    pub(crate) fn replica_levels(&self) -> (u64, u64) {
        self.levels(|range, _| u64::from(range.bytes > 0))
    }

    pub(crate) fn leader_levels(&self) -> (u64, u64) {
        self.levels(|range, node| u64::from(range.leader == Some(node)))
    }

    pub(crate) fn write_levels(&self) -> (u64, u64) {
        self.levels(|range, _| range.writes_per_s)
    }

    /// What the node with least and the one with most have, in percent of the mean.
    fn levels(&self, amount: impl Fn(&Range, NodeId) -> u64) -> (u64, u64) {
        let serving = self.cluster.view.nodes.iter();
        let serving = serving.filter(|n| n.down_since.is_none() && n.duty == Duty::Serving);
        let mut sums: BTreeMap<NodeId, u64> = serving.map(|node| (node.id, 0)).collect();
        for range in &self.cluster.view.ranges {
            for replica in &range.replicas {
                if let Some(sum) = sums.get_mut(&replica.at.node) {
                    *sum += amount(range, replica.at.node);
                }
            }
        }
        spread(sums.values().copied())
    }

    /// The same for the cores of all nodes, by their replicas.
    pub(crate) fn core_levels(&self) -> (u64, u64) {
        let spread_of = self.cluster.spread();
        let cores = spread_of.values().filter(|used| used.0 > 0).flat_map(|used| used.2.clone());
        spread(cores.map(|count| count as u64))
    }
}

fn spread(values: impl Iterator<Item = u64> + Clone) -> (u64, u64) {
    let (sum, count) = (values.clone().sum::<u64>().max(1), values.clone().count() as u64);
    let percent = |value: u64| value * count * 100 / sum;
    (percent(values.clone().min().unwrap_or(0)), percent(values.max().unwrap_or(0)))
}
