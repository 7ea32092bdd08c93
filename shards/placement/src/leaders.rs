//! Evenness of leaders over nodes, by number and reads. A transfer costs next to nothing, but a
//! leader stays in the zone that the rules want.

use oarlock_types::GroupId;

use crate::model::{BY_LEADER, Model, leader_amounts};
use crate::plan::Planner;
use crate::scale::is_gain;
use crate::task::{Action, Reason};
use crate::view::Standing;

/// A leader that would be better elsewhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heir {
    pub(crate) gain: f64,
    pub(crate) from: usize,
    pub(crate) node: usize,
}

impl Model<'_> {
    fn transfer_gains(&self, at: usize, from: usize, to: usize) -> [f64; BY_LEADER] {
        let amounts = leader_amounts(self.range(at));
        let (from, to) = (&self.nodes[from], &self.nodes[to]);
        std::array::from_fn(|share| {
            let scale = &self.scales.by_leader[share];
            scale.gain(amounts[share], from.by_leader(share), to.by_leader(share))
        })
    }

    /// Whose leading in the place of the leader makes nodes most even. Whoever leads the meta group plans, and
    /// has to hear of all ranges first: that is worth more than an even spread.
    pub(crate) fn better_leader(&self, at: usize) -> Option<Heir> {
        if self.range(at).group == GroupId::META {
            return None;
        }
        let from = self.leader(at).filter(|_| self.quorum(at).holds())?;
        let home = self.leader_zone(at).flatten();
        let mut best: Option<Heir> = None;
        for (replica, place) in self.members(at) {
            let Some(node) = place.node.filter(|node| *node != from) else { continue };
            let fit = self.is_sound(replica, place)
                && self.standing(place) == Standing::Serving
                && home.is_none_or(|zone| zone == self.nodes[node].zone);
            if !fit {
                continue;
            }
            let gain = self.transfer_gains(at, from, node).iter().sum();
            if is_gain(gain) && best.is_none_or(|best| gain > best.gain) {
                best = Some(Heir { gain, from, node });
            }
        }
        best
    }

    pub(crate) fn uneven_leaders(&self, at: usize, heir: Heir) -> Reason {
        let gains = self.transfer_gains(at, heir.from, heir.node);
        let share = usize::from(gains[1] > gains[0]);
        let scale = &self.scales.by_leader[share];
        let (from, to) = (&self.nodes[heir.from], &self.nodes[heir.node]);
        scale.uneven_nodes((from.id, from.by_leader(share)), (to.id, to.by_leader(share)))
    }
}

impl Planner<'_> {
    /// Transfers leaders from nodes that have more than their share to nodes that have less.
    pub(crate) fn even_leaders(&mut self) {
        let free = |model: &Model<'_>, at: usize| !model.locked[at];
        let mut candidates: Vec<(f64, usize)> = Vec::new();
        for at in 0..self.model.locked.len() {
            if free(&self.model, at)
                && let Some(heir) = self.model.better_leader(at)
            {
                candidates.push((heir.gain, at));
            }
        }
        candidates.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for (_, at) in candidates {
            let Some(heir) = self.model.better_leader(at) else { continue };
            let (from, to) = (self.model.nodes[heir.from].id, self.model.nodes[heir.node].id);
            let action = Action::Transfer { from, to };
            if !self.has_slot(action) {
                return;
            }
            let reason = self.model.uneven_leaders(at, heir);
            self.add(at, action, reason);
        }
    }
}
