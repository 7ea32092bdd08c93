//! Evenness of replicas and load over the cores of each node, and equal core numbers for a range's
//! replicas, so that peers talk core to core.
//!
//! Both are one potential: sharing a core number with one other replica is worth so much unevenness.
//! A range has one task at a time; while one replica changes its core, the others are taken to
//! follow it if they gain, so that their nodes do not choose another range meanwhile.

use oarlock_types::{CoreId, FastMap, GroupId, NodeId};

use crate::model::{BY_CORE, Model, Place, core_amounts, float};
use crate::plan::Planner;
use crate::scale::{Scale, is_gain, percent};
use crate::task::{Action, Reason};

/// A better core for a replica.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BetterCore {
    pub(crate) gain: f64,
    pub(crate) node: usize,
    pub(crate) core: usize,
    /// How many replicas of the range more share the new core number.
    alignment: f64,
}

/// What the cores of a node have in common while a plan is made.
pub(crate) struct CoreState {
    scales: [Scale; BY_CORE],
    /// A typical replica's part of each scale, as the unit of gains.
    unit: f64,
    /// The cores with least of each share.
    emptiest: [usize; BY_CORE],
}

impl Model<'_> {
    pub(crate) fn core_state(&self, node: usize) -> CoreState {
        let (used, scales) = (&self.nodes[node], self.core_scales(node));
        let emptiest = std::array::from_fn(|share| {
            let level = |core: usize| used.cores[core][share];
            let cores = 0..used.cores.len();
            cores.min_by(|a, b| level(*a).total_cmp(&level(*b)).then(a.cmp(b))).unwrap_or(0)
        });
        CoreState { unit: 2.0 * scales[0].part(1.0), scales, emptiest }
    }

    fn core_gains(
        &self,
        at: usize,
        state: &CoreState,
        node: usize,
        from: usize,
        to: usize,
    ) -> [f64; BY_CORE] {
        let used = &self.nodes[node];
        let amounts = core_amounts(self.range(at), self.range(at).leader == Some(used.id));
        std::array::from_fn(|share| {
            let scale = &state.scales[share];
            let (from, to) = (used.by_core(share, from), used.by_core(share, to));
            scale.gain(amounts[share], from, to) / state.unit
        })
    }

    /// Whether a replica can leave its core for a moment.
    pub(crate) fn can_pause(&self, at: usize, position: usize) -> bool {
        let quorum = self.quorum(at);
        let (replica, place) = (&self.range(at).replicas[position], self.places(at)[position]);
        let spare = quorum.without(true).sound >= quorum.needed();
        self.is_sound(replica, place) && quorum.holds() && (spare || quorum.voters == 1)
    }

    /// The core where a replica would be best, if it is not where it is.
    pub(crate) fn better_core(
        &self,
        at: usize,
        position: usize,
        state: &CoreState,
    ) -> Option<BetterCore> {
        let Place { node, core } = self.places(at)[position];
        let node = node?;
        let cores = self.nodes[node].cores.len();
        let number = |core: usize| CoreId(u16::try_from(core).unwrap_or(u16::MAX));
        let aligned = |core: usize| float(self.aligned(at, number(core), Some(position)) as u64);
        let others = self.range(at).replicas.iter().map(|other| usize::from(other.at.core.0));
        let mut best: Option<BetterCore> = None;
        for to in others.chain(state.emptiest) {
            if to == core || to >= cores {
                continue;
            }
            let alignment = aligned(to) - aligned(core);
            let even: f64 = self.core_gains(at, state, node, core, to).iter().sum();
            let gain = even + self.align_worth() * alignment;
            if is_gain(gain) && best.is_none_or(|best| gain > best.gain) {
                best = Some(BetterCore { gain, node, core: to, alignment });
            }
        }
        best
    }

    pub(crate) fn uneven_cores(
        &self,
        at: usize,
        position: usize,
        better: BetterCore,
        state: &CoreState,
    ) -> Reason {
        let BetterCore { node, core, alignment, .. } = better;
        let from = self.places(at)[position].core;
        let gains = self.core_gains(at, state, node, from, core);
        if alignment > 0.0 && gains.iter().sum::<f64>() <= self.align_worth() * alignment {
            return Reason::Align(CoreId(u16::try_from(core).unwrap_or(u16::MAX)));
        }
        let share = usize::from(gains[1] > gains[0]);
        let (scale, used) = (&state.scales[share], &self.nodes[node]);
        Reason::UnevenCores {
            share: scale.share,
            from_percent: percent(scale.level(used.by_core(share, from))),
            to_percent: percent(scale.level(used.by_core(share, core))),
        }
    }
}

impl Planner<'_> {
    /// Moves replicas to other cores of their nodes.
    pub(crate) fn even_cores(&mut self) {
        let moving = self.model.view.under_way.iter().filter_map(|task| match task.action {
            Action::MoveCore { node, to, .. } => Some((task.group, (node, to))),
            Action::Add { .. }
            | Action::Replace { .. }
            | Action::Remove { .. }
            | Action::Transfer { .. }
            | Action::Split(_)
            | Action::Merge { .. } => None,
        });
        let moving: FastMap<GroupId, (NodeId, CoreId)> = moving.collect();
        if !moving.is_empty() {
            for at in 0..self.model.locked.len() {
                if let Some((mover, to)) = moving.get(&self.model.range(at).group) {
                    self.follow(at, *mover, usize::from(to.0));
                }
            }
        }
        let model = &self.model;
        let mut states: Vec<CoreState> =
            (0..model.nodes.len()).map(|node| model.core_state(node)).collect();
        let mut candidates: Vec<(f64, usize, usize)> = Vec::new();
        for at in (0..model.locked.len()).filter(|at| !model.locked[*at]) {
            for (position, place) in model.places(at).iter().enumerate() {
                let Some(node) = place.node.filter(|node| model.nodes[*node].serves()) else {
                    continue;
                };
                if let Some(better) = model.better_core(at, position, &states[node])
                    && model.can_pause(at, position)
                {
                    candidates.push((better.gain, at, position));
                }
            }
        }
        candidates.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        for (_, at, position) in candidates {
            if self.move_core(at, position, &states) {
                // The mover's node has changed, and those of the replicas that follow.
                for node in self.model.places(at).iter().filter_map(|place| place.node) {
                    states[node] = self.model.core_state(node);
                }
            }
        }
    }

    /// Takes the replicas that gain by following the mover to a core number as moved.
    fn follow(&mut self, at: usize, mover: NodeId, to: usize) {
        let model = &mut self.model;
        let places = model.places(at).to_vec();
        for (replica, Place { node, core }) in model.range(at).replicas.iter().zip(places) {
            let known = node.filter(|node| to < model.nodes[*node].cores.len());
            let Some(node) = known.filter(|_| replica.at.node != mover) else { continue };
            let state = model.core_state(node);
            let even: f64 = model.core_gains(at, &state, node, core, to).iter().sum();
            if core != to && is_gain(even) {
                model.shift_core(at, node, core, to);
            }
        }
    }

    fn move_core(&mut self, at: usize, position: usize, states: &[CoreState]) -> bool {
        let model = &self.model;
        let replica = model.range(at).replicas[position].at;
        let Some(node) = model.places(at)[position].node else { return false };
        let busy = model.nodes[node].core_moves >= model.settings.core_moves_per_node_max;
        if model.locked[at] || busy {
            return false;
        }
        let Some(better) = model.better_core(at, position, &states[node]) else { return false };
        let to = CoreId(u16::try_from(better.core).unwrap_or(u16::MAX));
        let action = Action::MoveCore { node: replica.node, from: replica.core, to };
        let reason = model.uneven_cores(at, position, better, &states[node]);
        self.add(at, action, reason);
        self.follow(at, replica.node, better.core);
        true
    }
}
