//! Evenness of replicas over nodes: by number, bytes and writes, never at the cost of zones.
//!
//! One pass finds, for every replica on a node that has more than another, the place that gains
//! most; the best of them are planned, each reckoned again after those before it.

use oarlock_types::CoreAddr;

use crate::model::{BY_REPLICA, Model, replica_amounts};
use crate::plan::Planner;
use crate::scale::{Between, is_gain};
use crate::task::{Action, Reason};

/// Receivers of each zone that are tried for a replica. A range has fewer replicas than that in a
/// zone, so that one of them is free to take it.
const RECEIVERS_MAX: usize = 8;
/// By how much the cores' evenness tells apart moves that gain alike.
const CORE_HINT: f64 = 0.1;

/// A replica that would be better elsewhere.
struct Candidate {
    score: f64,
    leads: bool,
    bytes: u64,
    at: usize,
    position: usize,
}

/// The emptiest nodes of each zone, as a giver sees them.
type Receivers = Vec<(usize, Vec<usize>)>;

/// A place that is better for a replica.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Better {
    pub(crate) gain: f64,
    pub(crate) node: usize,
}

impl Model<'_> {
    /// By how much the nodes become more even when a replica moves.
    pub(crate) fn move_gain(&self, at: usize, from: usize, to: usize) -> f64 {
        self.move_gains(at, from, to).iter().sum()
    }

    fn move_gains(&self, at: usize, from: usize, to: usize) -> [f64; BY_REPLICA] {
        let (amounts, between) = (replica_amounts(self.range(at)), self.between(from, to));
        std::array::from_fn(|share| between[share].gain(amounts[share]))
    }

    fn between(&self, from: usize, to: usize) -> [Between; BY_REPLICA] {
        let (from, to) = (&self.nodes[from], &self.nodes[to]);
        std::array::from_fn(|share| {
            let scale = &self.scales.by_replica[share];
            scale.between(from.by_replica(share), to.by_replica(share))
        })
    }

    /// Whether a node could get anything from another for evenness.
    fn is_below(&self, to: usize, from: usize) -> bool {
        self.between(from, to).iter().any(Between::is_apart)
    }

    fn receivers(&self, from: usize) -> Receivers {
        let mut zones: Receivers = (0..self.zones.len()).map(|zone| (zone, Vec::new())).collect();
        for (node, used) in self.nodes.iter().enumerate() {
            if node != from && used.serves() && self.has_slot(node) && self.is_below(node, from) {
                zones[used.zone].1.push(node);
            }
        }
        let level = |node: &usize| {
            let scales = self.scales.by_replica.iter().enumerate();
            scales
                .map(|(share, scale)| scale.level(self.nodes[*node].by_replica(share)))
                .sum::<f64>()
        };
        for (_, nodes) in &mut zones {
            nodes.sort_by(|a, b| {
                level(a).total_cmp(&level(b)).then(self.nodes[*a].id.cmp(&self.nodes[*b].id))
            });
            nodes.truncate(RECEIVERS_MAX);
        }
        zones.retain(|(_, nodes)| !nodes.is_empty());
        zones
    }

    /// The best of some nodes for a replica that is moved for evenness.
    fn better_of(
        &self,
        at: usize,
        nodes: impl Iterator<Item = usize>,
        gain: impl Fn(usize) -> f64,
    ) -> Option<Better> {
        let range = self.range(at);
        let mut best: Option<Better> = None;
        for node in nodes {
            let candidate = &self.nodes[node];
            let free = self.has_slot(node)
                && self.has_room(node, range.bytes)
                && !self.places(at).iter().any(|place| place.node == Some(node));
            if !candidate.serves() || !free {
                continue;
            }
            let gain = gain(node);
            if is_gain(gain) && best.is_none_or(|best| gain > best.gain) {
                best = Some(Better { gain, node });
            }
        }
        best
    }

    /// Whether a replica may move into a zone without making the range fit its rules less.
    pub(crate) fn zone_allows(&self, at: usize, position: usize, zone: usize) -> bool {
        let Some(from) = self.places(at)[position].node else { return false };
        let from = self.nodes[from].zone;
        let others = |zone: usize| self.in_zone(at, zone, Some(position));
        let uncovers = || self.leader_zone(at) == Some(Some(from)) && others(from) == 0;
        from == zone || (others(zone) <= others(from) && !uncovers())
    }

    fn better(
        &self,
        at: usize,
        position: usize,
        receivers: &Receivers,
        gain: impl Fn(usize) -> f64,
    ) -> Option<Better> {
        let pinned = &self.range(at).rules.pinned;
        if !pinned.is_empty() {
            let nodes = pinned.iter().filter_map(|node| self.node_at(*node));
            let nodes = nodes.filter(|node| self.zone_allows(at, position, self.nodes[*node].zone));
            return self.better_of(at, nodes, gain);
        }
        let zones = receivers.iter().filter(|(zone, _)| self.zone_allows(at, position, *zone));
        self.better_of(at, zones.flat_map(|(_, nodes)| nodes.iter().copied()), gain)
    }

    /// The best place for a replica that is moved for evenness, of all nodes.
    pub(crate) fn better_place(&self, at: usize, position: usize) -> Option<Better> {
        let from = self.places(at)[position].node?;
        self.better(at, position, &self.receivers(from), |to| self.move_gain(at, from, to))
    }

    /// The levels of each node's cores, by their number of replicas.
    fn core_levels(&self) -> Vec<Vec<f64>> {
        let levels = |node: usize| {
            let (used, [scale, _]) = (&self.nodes[node], self.core_scales(node));
            (0..used.cores.len()).map(|core| scale.level(used.by_core(0, core))).collect()
        };
        (0..self.nodes.len()).map(levels).collect()
    }

    pub(crate) fn uneven_nodes(&self, at: usize, from: usize, to: usize) -> Reason {
        let gains = self.move_gains(at, from, to);
        let (from, to) = (&self.nodes[from], &self.nodes[to]);
        let apart = |share: usize| {
            let scale = &self.scales.by_replica[share];
            scale.level(from.by_replica(share)) - scale.level(to.by_replica(share))
        };
        let rank = |share: usize| if gains[share] > 0.0 { gains[share] } else { apart(share) };
        let gain = |share: &usize| (gains[*share] > 0.0, rank(*share));
        let most = (0..BY_REPLICA).max_by(|a, b| {
            let (a_gain, b_gain) = (gain(a), gain(b));
            a_gain.0.cmp(&b_gain.0).then(a_gain.1.total_cmp(&b_gain.1)).then(b.cmp(a))
        });
        let share = most.unwrap_or(0);
        let scale = &self.scales.by_replica[share];
        scale.uneven_nodes((from.id, from.by_replica(share)), (to.id, to.by_replica(share)))
    }
}

impl Planner<'_> {
    /// Moves replicas from nodes that have more than their share to nodes that have less.
    pub(crate) fn even_nodes(&mut self) {
        let model = &self.model;
        if model.moves >= model.settings.moves_max {
            return;
        }
        let receivers: Vec<Receivers> = (0..model.nodes.len())
            .map(|node| {
                let gives = model.nodes[node].serves() && model.has_slot(node);
                if gives { model.receivers(node) } else { Vec::new() }
            })
            .collect();
        if receivers.iter().all(Vec::is_empty) {
            return;
        }
        let candidates = self.candidates(&receivers);
        for aligned in [true, false] {
            for candidate in &candidates {
                if self.model.moves >= self.model.settings.moves_max {
                    return;
                }
                self.try_move(candidate, &receivers, aligned);
            }
        }
    }

    /// Plans the move of a candidate if it still gains. `aligned`: only if it can keep its core
    /// number and the cores of both nodes stay even, so that no core needs a move afterwards.
    fn try_move(&mut self, candidate: &Candidate, receivers: &[Receivers], aligned: bool) {
        let &Candidate { at, position, .. } = candidate;
        let model = &self.model;
        let Some(from) = model.places(at)[position].node else { return };
        if model.locked[at] || !model.has_slot(from) {
            return;
        }
        let gain = |to: usize| model.move_gain(at, from, to);
        let Some(better) = model.better(at, position, &receivers[from], gain) else { return };
        let replica = model.range(at).replicas[position].at;
        let kept = model.places(at)[position].core;
        let above = |node: usize| {
            let used = &model.nodes[node];
            used.cores.get(kept).map_or(0.0, |sums| sums[0] - used.has[0] / used.width)
        };
        if aligned && (above(from) <= -1.0 || above(better.node) >= 1.0) {
            return;
        }
        let core = model.core_for(at, better.node, Some(position));
        if aligned && core != replica.core {
            return;
        }
        let to = CoreAddr::new(model.nodes[better.node].id, core);
        let reason = model.uneven_nodes(at, from, better.node);
        self.add(at, Action::Replace { from: replica, to }, reason);
    }

    /// The replicas that gain most by a move, the best first; a leader only after all others.
    fn candidates(&self, receivers: &[Receivers]) -> Vec<Candidate> {
        let model = &self.model;
        let levels = model.core_levels();
        // The same for all replicas of a node, so that it is reckoned once.
        let between: Vec<Vec<[Between; BY_REPLICA]>> = (0..model.nodes.len())
            .map(|from| (0..model.nodes.len()).map(|to| model.between(from, to)).collect())
            .collect();
        let mut of_node: Vec<Vec<Candidate>> = model.nodes.iter().map(|_| Vec::new()).collect();
        for at in 0..model.locked.len() {
            if model.locked[at] || !model.is_healthy(at) {
                continue;
            }
            let range = model.range(at);
            let amounts = replica_amounts(range);
            for (position, place) in model.places(at).iter().enumerate() {
                let Some(from) = place.node.filter(|node| !receivers[*node].is_empty()) else {
                    continue;
                };
                let gain = |to: usize| {
                    let shares = between[from][to].iter().zip(amounts);
                    shares.map(|(between, amount)| between.gain(amount)).sum()
                };
                let better = model.better(at, position, &receivers[from], gain);
                let Some(better) = better else { continue };
                let leads = range.leader == Some(range.replicas[position].at.node);
                // Taken from a full core and put on an empty one, cores need no moves afterwards.
                let level = |node: usize| levels[node].get(place.core).copied().unwrap_or(1.0);
                let hint =
                    model.scales.by_replica[0].part(1.0) * (level(from) - level(better.node));
                let score = better.gain + CORE_HINT * hint;
                let candidate = Candidate { score, leads, bytes: range.bytes, at, position };
                of_node[from].push(candidate);
            }
        }
        let keep = 8 * model.settings.moves_per_node_max;
        let mut all = Vec::new();
        for mut candidates in of_node {
            sort(&mut candidates);
            candidates.truncate(keep);
            all.append(&mut candidates);
        }
        sort(&mut all);
        all
    }
}

fn sort(candidates: &mut [Candidate]) {
    candidates.sort_by(|a, b| {
        let order = a.leads.cmp(&b.leads).then(b.score.total_cmp(&a.score));
        order.then(a.bytes.cmp(&b.bytes)).then(a.at.cmp(&b.at)).then(a.position.cmp(&b.position))
    });
}
