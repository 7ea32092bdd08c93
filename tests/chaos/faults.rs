//! What goes wrong in a run: a schedule drawn from a seed, and how each fault is done and undone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use oarlock::bench::processes::LocalCluster;
use oarlock_types::Random;
use rustix::process::Signal;

use super::common::let_pass;
use super::world::{CLIENTS, Filter, World, empty, fill};

/// One thing that goes wrong.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Nothing comes from the first to the second of each pair.
    Cut { name: &'static str, ways: Vec<(u64, u64)> },
    /// Of a hundred packets to a node, so many are lost.
    Loss { node: u64, percent: u64 },
    /// A node's packets are late.
    Delay { node: u64, ms: u64 },
    /// SIGKILL; they are started again at the end.
    Kill { nodes: Vec<u64> },
    /// SIGSTOP, and SIGCONT at the end.
    Pause { node: u64 },
    /// A node's disk does few writes a second.
    SlowDisk { node: u64, writes: u64 },
    /// A node's disk has so much room left.
    FullDisk { node: u64, left_kib: u64 },
}

impl Fault {
    /// Its kind, for people and figures.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Cut { name, .. } => name,
            Self::Loss { .. } => "packets lost",
            Self::Delay { .. } => "packets late",
            Self::Kill { .. } => "SIGKILL",
            Self::Pause { .. } => "SIGSTOP",
            Self::SlowDisk { .. } => "slow disk",
            Self::FullDisk { .. } => "full disk",
        }
    }
}

/// A fault and when, from the beginning of its round.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    from: Duration,
    to: Duration,
    fault: Fault,
}

/// Kinds of faults, drawn like cards, so that each comes before any comes again.
pub(crate) struct Deck {
    random: Random,
    nodes: u64,
    kinds: Vec<&'static str>,
    left: Vec<&'static str>,
}

impl Deck {
    pub(crate) fn new(seed: u64, nodes: u64, world: &World) -> Self {
        let mut kinds = vec![
            "whole partition",
            "partial partition",
            "one-way cut",
            "packets lost",
            "SIGKILL",
            "SIGSTOP",
            "full disk",
        ];
        kinds.extend(world.can_throttle().then_some("slow disk"));
        kinds.extend(world.can_delay().then_some("packets late"));
        Self { random: Random::new(seed), nodes, kinds, left: Vec::new() }
    }

    fn between(&mut self, low_ms: u64, high_ms: u64) -> Duration {
        self.random.between(Duration::from_millis(low_ms), Duration::from_millis(high_ms))
    }

    /// The faults of one round: in two lanes, one after the other in each.
    pub(crate) fn round(&mut self, count: usize) -> Vec<Planned> {
        let mut free = [self.between(300, 800), self.between(300, 1500)];
        let mut planned = Vec::new();
        for _ in 0..count {
            let lane = usize::from(free[1] < free[0]);
            let (fault, lasts) = self.draw();
            let (from, to) = (free[lane], free[lane] + lasts);
            free[lane] = to + self.between(200, 1200);
            planned.push(Planned { from, to, fault });
        }
        planned
    }

    fn draw(&mut self) -> (Fault, Duration) {
        if self.left.is_empty() {
            self.left = self.kinds.clone();
        }
        let at = usize::try_from(self.random.below(self.left.len() as u64)).unwrap();
        let kind = self.left.swap_remove(at);
        let node = 1 + self.random.below(self.nodes);
        let fault = match kind {
            "SIGKILL" => {
                let all = self.random.below(4) == 0;
                Fault::Kill { nodes: if all { (1..=self.nodes).collect() } else { vec![node] } }
            }
            "SIGSTOP" => Fault::Pause { node },
            "full disk" => Fault::FullDisk { node, left_kib: 64 << self.random.below(8) },
            "slow disk" => Fault::SlowDisk { node, writes: 4 + self.random.below(40) },
            "packets lost" => Fault::Loss { node, percent: 2 + self.random.below(30) },
            "packets late" => Fault::Delay { node, ms: 2 + self.random.below(80) },
            name => Fault::Cut { name, ways: self.ways(name, node) },
        };
        // Longer than support lasts, but for a kill, which may also be a quick restart.
        let shortest = if kind == "SIGKILL" { 100 } else { 1100 };
        (fault, self.between(shortest, 3200))
    }

    /// Which ways a cut of that kind closes.
    fn ways(&mut self, name: &str, node: u64) -> Vec<(u64, u64)> {
        let peers: Vec<u64> = (1..=self.nodes).filter(|peer| *peer != node).collect();
        let peer = peers[usize::try_from(self.random.below(peers.len() as u64)).unwrap()];
        let with_clients = self.random.below(3) == 0;
        let all = || peers.iter().copied().chain(with_clients.then_some(CLIENTS));
        let mute = all().map(|peer| (node, peer));
        let deaf = all().map(|peer| (peer, node));
        match (name, self.random.below(3)) {
            ("whole partition", _) => mute.chain(deaf).collect(),
            ("partial partition", _) => vec![(node, peer), (peer, node)],
            (_, 0) => vec![(node, peer)],
            (_, 1) => mute.collect(),
            _ => deaf.collect(),
        }
    }
}

/// The faults of a cluster as they are at this moment.
pub(crate) struct Trouble {
    pub(crate) world: World,
    active: BTreeMap<usize, Fault>,
    /// How many faults of each kind there were.
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

impl Trouble {
    pub(crate) fn new(world: World) -> Self {
        Self { world, active: BTreeMap::new(), counts: BTreeMap::new() }
    }

    /// Lets a round's faults happen, one after the other or at once, and end.
    pub(crate) fn happen(&mut self, cluster: &mut LocalCluster, planned: &[Planned]) {
        let started = Instant::now();
        let steps = planned.iter().enumerate();
        let mut steps: Vec<(Duration, usize, bool)> =
            steps.flat_map(|(at, plan)| [(plan.from, at, true), (plan.to, at, false)]).collect();
        steps.sort();
        for (when, at, begins) in steps {
            let_pass(when.saturating_sub(started.elapsed()));
            cluster.check_alive().unwrap();
            let fault = &planned[at].fault;
            println!(
                "{:>8.2} s  {} {fault:?}",
                started.elapsed().as_secs_f64(),
                if begins { "begins" } else { "  ends" }
            );
            if begins {
                *self.counts.entry(fault.kind()).or_default() += 1;
                self.active.insert(at, fault.clone());
            } else {
                self.active.remove(&at);
            }
            self.bring_about(cluster, fault, begins);
        }
        assert!(self.active.is_empty());
    }

    /// Makes the world what the active faults want where this one begins or ends. Another of the
    /// same kind may hold the same node: then the state stays theirs.
    fn bring_about(&self, cluster: &mut LocalCluster, fault: &Fault, begins: bool) {
        let place = |cluster: &LocalCluster, node: u64| cluster.node(node).data_dir();
        match fault {
            Fault::Cut { .. } | Fault::Loss { .. } => self.world.filter(&self.network()).unwrap(),
            Fault::Delay { node, .. } => {
                let of_node = |other: &Fault| {
                    let Fault::Delay { node: other, ms } = other else { return None };
                    (other == node).then_some(*ms)
                };
                let ms = self.active.values().filter_map(of_node).max();
                self.world.delay(*node, ms).unwrap();
            }
            Fault::Kill { nodes } if begins => {
                for node in nodes {
                    cluster.node_mut(*node).kill();
                }
            }
            Fault::Kill { nodes } => {
                let is_dead = |id: &u64| {
                    let held = |other: &Fault| matches!(other, Fault::Kill { nodes } if nodes.contains(id));
                    self.active.values().any(held)
                };
                for node in nodes.iter().filter(|id| !is_dead(id)) {
                    cluster.start(*node).unwrap();
                }
            }
            Fault::Pause { node } => {
                let paused = self
                    .active
                    .values()
                    .any(|other| matches!(other, Fault::Pause { node: other } if other == node));
                let signal = if paused { Signal::STOP } else { Signal::CONT };
                if cluster.node(*node).is_running() {
                    cluster.node(*node).signal(signal).unwrap();
                }
            }
            Fault::SlowDisk { node, .. } => {
                let of_node = |other: &Fault| {
                    let Fault::SlowDisk { node: other, writes } = other else { return None };
                    (other == node).then_some(*writes)
                };
                let writes = self.active.values().filter_map(of_node).min();
                self.world.throttle(&place(cluster, *node), writes).unwrap();
            }
            Fault::FullDisk { node, left_kib } if begins => {
                fill(&place(cluster, *node), left_kib << 10).unwrap();
            }
            Fault::FullDisk { node, .. } => empty(&place(cluster, *node)).unwrap(),
        }
    }

    fn network(&self) -> Filter {
        let mut filter = Filter::default();
        for fault in self.active.values() {
            if let Fault::Cut { ways, .. } = fault {
                filter.cut.extend(ways);
            }
            if let Fault::Loss { node, percent } = fault {
                filter.lost.insert(*node, *percent);
            }
        }
        filter
    }
}
