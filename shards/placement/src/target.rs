//! Which node, and which of its cores, should get a replica.
//!
//! Zones come first, then the rule for the leader's zone, then how full nodes are. A node that is
//! busy is waited for if no other is as good by zone: a second move would cost more.

use oarlock_types::{CoreAddr, CoreId};

use crate::model::{BY_CORE, Model, core_amounts, replica_amounts};
use crate::scale::{Holding, Scale};
use crate::task::{Obstacle, Share};
use crate::view::{ReplicaRole, Standing};

/// How well a set of nodes fits the rules about zones; less is better. Pairs of replicas that share
/// a zone, doubled, and one more if none is where the leader should be.
pub(crate) type Misfit = usize;

/// What looking for a place came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    /// Here, with this misfit of the range afterwards.
    At(CoreAddr, Misfit),
    /// The nodes that would do, with this misfit, are busy.
    Wait(Misfit),
    /// None will do.
    None(Obstacle),
}

impl Model<'_> {
    /// How many of a range's replicas are in a zone, one of them left out, and lost ones too.
    pub(crate) fn in_zone(&self, at: usize, zone: usize, without: Option<usize>) -> usize {
        let counts = |(position, (replica, place)): &(usize, (&crate::Replica, _))| {
            Some(*position) != without && self.counts_in_zone(replica, *place, zone)
        };
        self.members(at).enumerate().filter(counts).count()
    }

    fn counts_in_zone(
        &self,
        replica: &crate::Replica,
        place: crate::model::Place,
        zone: usize,
    ) -> bool {
        let Some(node) = place.node else { return false };
        let node = &self.nodes[node];
        replica.role == ReplicaRole::Voter && node.zone == zone && !node.standing.is_lost()
    }

    /// The misfit of a range's replicas without one of them and with one in another zone.
    pub(crate) fn misfit(
        &self,
        at: usize,
        without: Option<usize>,
        with_zone: Option<usize>,
    ) -> Misfit {
        let mut pairs = 0;
        let leader_zone = self.leader_zone(at).flatten();
        let mut covered = leader_zone.is_none() || with_zone == leader_zone;
        for (position, (replica, place)) in self.members(at).enumerate() {
            let Some(node) = place.node.filter(|_| Some(position) != without) else { continue };
            let zone = self.nodes[node].zone;
            if !self.counts_in_zone(replica, place, zone) {
                continue;
            }
            covered |= leader_zone == Some(zone);
            pairs += usize::from(with_zone == Some(zone));
            let later = self.members(at).skip(position + 1).zip(position + 1..);
            pairs += later
                .filter(|((replica, place), position)| {
                    Some(*position) != without && self.counts_in_zone(replica, *place, zone)
                })
                .count();
        }
        2 * pairs + usize::from(!covered)
    }

    /// Whether a node may get a replica of a range, now or after others made room.
    fn may_take(&self, at: usize, node: usize) -> Result<bool, Obstacle> {
        let range = self.range(at);
        let candidate = &self.nodes[node];
        if !candidate.serves() || !range.rules.allow(candidate.id) {
            return Ok(false);
        }
        match range.replicas.iter().find(|replica| replica.at.node == candidate.id) {
            Some(replica) => Ok(replica.role == ReplicaRole::Learner),
            None if self.has_room(node, range.bytes) => Ok(true),
            None => Err(Obstacle::Full),
        }
    }

    /// The best place for a replica of a range, maybe instead of another one, maybe in one zone.
    pub(crate) fn target(
        &self,
        at: usize,
        leaving: Option<usize>,
        only_zone: Option<usize>,
    ) -> Target {
        let range = self.range(at);
        let pinned = !range.rules.pinned.is_empty();
        let mut obstacle = if pinned { Obstacle::NoPinnedNode } else { Obstacle::NoNode };
        let mut best: Option<(Misfit, bool, f64, usize)> = None;
        let mut free: Option<(Misfit, bool, f64, usize)> = None;
        for (node, candidate) in self.nodes.iter().enumerate() {
            if only_zone.is_some_and(|zone| zone != candidate.zone) {
                continue;
            }
            match self.may_take(at, node) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(full) => {
                    obstacle = full;
                    continue;
                }
            }
            let misfit = self.misfit(at, leaving, Some(candidate.zone));
            let is_new = !range.replicas.iter().any(|replica| replica.at.node == candidate.id);
            let rank = (misfit, is_new, self.cost(at, node), node);
            let better = |than: &Option<(Misfit, bool, f64, usize)>| {
                than.is_none_or(|than| {
                    let order = (rank.0, rank.1).cmp(&(than.0, than.1));
                    order
                        .then(rank.2.total_cmp(&than.2))
                        .then(candidate.id.cmp(&self.nodes[than.3].id))
                        .is_lt()
                })
            };
            if better(&best) {
                best = Some(rank);
            }
            if self.has_slot(node) && better(&free) {
                free = Some(rank);
            }
        }
        let Some(best) = best else { return Target::None(obstacle) };
        let from_is_busy = leaving.and_then(|position| self.places(at)[position].node);
        let from_is_busy = from_is_busy
            .is_some_and(|node| self.nodes[node].standing.is_up() && !self.has_slot(node));
        match free {
            Some((misfit, .., node)) if misfit == best.0 && !from_is_busy => {
                let core = self.core_for(at, node, leaving);
                Target::At(CoreAddr::new(self.nodes[node].id, core), misfit)
            }
            Some(_) | None => Target::Wait(best.0),
        }
    }

    /// By how much a replica of the range would make things less even on a node.
    fn cost(&self, at: usize, node: usize) -> f64 {
        let amounts = replica_amounts(self.range(at));
        let scales = self.scales.by_replica.iter().zip(amounts).enumerate();
        scales
            .map(|(share, (scale, amount))| scale.cost(amount, self.nodes[node].by_replica(share)))
            .sum()
    }

    /// What the cores of a node share, of what it has or should have: while a node fills, it is
    /// the full one whose cores must be even.
    pub(crate) fn core_scales(&self, node: usize) -> [Scale; BY_CORE] {
        let used = &self.nodes[node];
        let of = |sum: fn(&[f64; BY_CORE]) -> f64| used.cores.iter().map(sum).sum::<f64>();
        let [replicas, _, writes] = &self.scales.by_replica;
        let [_, reads] = &self.scales.by_leader;
        let load = writes.fair(used.width) + reads.fair(used.width);
        let serves = used.standing == Standing::Serving;
        let fair = |amount: f64| if serves { amount } else { 0.0 };
        let slack = self.settings.core_slack_percent;
        let floor = crate::model::float(self.settings.load_floor_per_core);
        let count = of(|core| core[0]).max(fair(replicas.fair(used.weight)));
        let load = of(|core| core[1]).max(fair(load));
        [
            Scale::new(Share::Replicas, count, used.width, 0.0, slack),
            Scale::new(Share::Load, load, used.width, floor, slack),
        ]
    }

    /// How many of a range's replicas, one left out, are on a core number.
    pub(crate) fn aligned(&self, at: usize, core: CoreId, without: Option<usize>) -> usize {
        let on_core = |(position, replica): &(usize, &crate::Replica)| {
            Some(*position) != without
                && replica.at.core == core
                && replica.role == ReplicaRole::Voter
        };
        self.range(at).replicas.iter().enumerate().filter(on_core).count()
    }

    /// What being on the same core number as one other replica is worth, in levels.
    pub(crate) fn align_worth(&self) -> f64 {
        f64::from(self.settings.align_percent) / 100.0
    }

    /// The core of a node where a replica of a range would be best.
    pub(crate) fn core_for(&self, at: usize, node: usize, leaving: Option<usize>) -> CoreId {
        let used = &self.nodes[node];
        if let Some(there) = self.range(at).replicas.iter().find(|r| r.at.node == used.id) {
            return there.at.core;
        }
        let scales = self.core_scales(node);
        let amounts = core_amounts(self.range(at), false);
        let cost = |core: CoreId| {
            let each = |(share, scale): (usize, &Scale)| {
                let Holding { has, weight } = used.by_core(share, usize::from(core.0));
                scale.level(Holding { has: has + amounts[share], weight })
            };
            let levels: f64 = scales.iter().enumerate().map(each).sum();
            let aligned = self.aligned(at, core, leaving);
            levels - self.align_worth() * crate::model::float(aligned as u64)
        };
        let cores = u16::try_from(used.cores.len()).unwrap_or(u16::MAX);
        let costs = (0..cores).map(|core| (cost(CoreId(core)), CoreId(core)));
        let best = costs.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        best.map_or(CoreId(0), |(_, core)| core)
    }
}
