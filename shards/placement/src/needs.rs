//! What is out of order with a range's replicas, and the one step that brings it nearer to order.
//!
//! Replicas that are lost come first, then drains, then rules, of which each range has one for all of its keys. No step takes away a voter that a
//! quorum needs, and none is planned for a range that could not carry it out.

use oarlock_types::GroupId;

use crate::model::{Model, NodeUse, leader_amounts};
use crate::target::{Misfit, Target};
use crate::task::{Action, Obstacle, Reason, SplitAt};
use crate::view::{Replica, ReplicaRole, Standing};

/// Something that is out of order; the order is that of importance. Replicas go by their position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// A voter does not come back.
    Lost(usize),
    /// A voter is on a node that is being drained.
    Drain(usize),
    /// Other rules begin inside it: before it is cut, what follows would be done to keys that it is not meant for.
    Border,
    /// There are fewer voters than the rules want.
    TooFew,
    /// There are more.
    TooMany,
    /// A learner is there for no task.
    Leftover(usize),
    /// A voter is where the rules do not allow it.
    NotPinned(usize),
    /// Voters share a zone, and do not have to.
    Zones,
    /// The leader is not in the zone that the rules want.
    LeaderZone,
}

/// What to do about a need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// This.
    Do(Action),
    /// Nothing now: whom it takes is busy.
    Wait,
    /// It can not be done.
    Blocked(Obstacle),
}

impl Need {
    /// Repair before drain before rules.
    pub(crate) fn rank(self) -> u8 {
        match self {
            Self::Lost(_) => 0,
            Self::Drain(_) => 1,
            Self::Border
            | Self::TooFew
            | Self::TooMany
            | Self::Leftover(_)
            | Self::NotPinned(_)
            | Self::Zones
            | Self::LeaderZone => 2,
        }
    }

    /// Whether what it asks for is a new replica, as a rule.
    pub(crate) fn copies(self) -> bool {
        match self {
            Self::Lost(_) | Self::TooFew | Self::NotPinned(_) | Self::Zones => true,
            Self::Drain(_)
            | Self::Border
            | Self::TooMany
            | Self::Leftover(_)
            | Self::LeaderZone => false,
        }
    }
}

impl Model<'_> {
    /// All that is out of order with a range, the most important first.
    pub(crate) fn needs(&self, at: usize) -> Vec<Need> {
        let range = self.range(at);
        let mut needs = Vec::new();
        let mut voters = 0;
        for (position, (replica, place)) in self.members(at).enumerate() {
            let standing = self.standing(place);
            if replica.role == ReplicaRole::Learner {
                needs.push(Need::Leftover(position));
                continue;
            }
            voters += 1;
            if standing.is_lost() {
                needs.push(Need::Lost(position));
            } else if standing == Standing::Draining {
                needs.push(Need::Drain(position));
            } else if !range.rules.allow(replica.at.node) {
                needs.push(Need::NotPinned(position));
            }
        }
        if range.border.is_some() && range.group != GroupId::META {
            needs.push(Need::Border);
        }
        let wanted = self.wanted(at);
        if voters < wanted {
            needs.push(Need::TooFew);
        }
        if voters > wanted {
            needs.push(Need::TooMany);
        }
        if self.zones.len() > 1 {
            if self.crowded(at).is_some() {
                needs.push(Need::Zones);
            }
            if self.leads_elsewhere(at) {
                needs.push(Need::LeaderZone);
            }
        }
        needs.sort_unstable();
        needs
    }

    fn wanted(&self, at: usize) -> usize {
        usize::from(self.range(at).rules.replicas).max(1)
    }

    /// A zone that more voters share than must, if a node elsewhere could take one of them, were
    /// it up.
    fn crowded(&self, at: usize) -> Option<usize> {
        let stays = |node: &&NodeUse| match node.standing {
            Standing::Serving | Standing::Down(_) | Standing::Gone(_) => true,
            Standing::Draining | Standing::Removed => false,
        };
        self.crowded_among(at, self.nodes.iter().filter(stays))
    }

    /// The zone with most voters, if one of these nodes is in a zone with at least two fewer.
    fn crowded_among<'n>(
        &self,
        at: usize,
        mut nodes: impl Iterator<Item = &'n NodeUse>,
    ) -> Option<usize> {
        let range = self.range(at);
        let mut most = (1, None);
        for (replica, place) in self.members(at) {
            let Some(node) = place.node else { continue };
            let zone = self.nodes[node].zone;
            let count = self.in_zone(at, zone, None);
            if replica.role == ReplicaRole::Voter && count > most.0 {
                most = (count, Some(zone));
            }
        }
        let (count, zone) = (most.0, most.1?);
        let relieves = |node: &NodeUse| {
            range.rules.allow(node.id)
                && !range.voters().any(|replica| replica.at.node == node.id)
                && self.in_zone(at, node.zone, None) + 1 < count
        };
        nodes.any(relieves).then_some(zone)
    }

    fn leads_elsewhere(&self, at: usize) -> bool {
        match (self.leader_zone(at), self.leader(at)) {
            (Some(zone), Some(leader)) => zone != Some(self.nodes[leader].zone),
            (None, _) | (_, None) => false,
        }
    }

    /// What a need is for, in words for people.
    pub(crate) fn reason(&self, at: usize, need: Need) -> Reason {
        let range = self.range(at);
        let voters = range.voters().count();
        let node = |position: usize| range.replicas[position].at.node;
        match need {
            Need::Lost(position) => match self.standing(self.places(at)[position]) {
                Standing::Gone(ms) => Reason::Gone(node(position), ms),
                Standing::Serving | Standing::Draining | Standing::Down(_) | Standing::Removed => {
                    Reason::Removed(node(position))
                }
            },
            Need::Drain(position) => Reason::Draining(node(position)),
            Need::Border => Reason::Border(range.border.clone().unwrap_or_default()),
            Need::TooFew => Reason::TooFew(voters, range.rules.replicas),
            Need::TooMany => Reason::TooMany(voters, range.rules.replicas),
            Need::Leftover(position) => Reason::Leftover(node(position)),
            Need::NotPinned(position) => Reason::NotPinned(node(position)),
            Need::Zones => {
                let zone = self.crowded(at).map_or("", |zone| self.zones[zone]);
                Reason::SharedZone(zone.to_owned())
            }
            Need::LeaderZone => {
                Reason::LeaderZone(range.rules.leader_zone.clone().unwrap_or_default())
            }
        }
    }

    /// The step that a need asks for.
    pub(crate) fn step(&self, at: usize, need: Need) -> Step {
        let quorum = self.quorum(at);
        if !quorum.holds() {
            return Step::Blocked(Obstacle::NoQuorum(quorum.sound, quorum.needed()));
        }
        if self.leader(at).is_none() {
            return Step::Blocked(Obstacle::NoLeader);
        }
        let surplus = quorum.voters > self.wanted(at);
        match need {
            Need::Lost(position) | Need::NotPinned(position) if !surplus => {
                self.replace(at, position)
            }
            Need::Drain(position) if !surplus => {
                self.hand_over(at, position).unwrap_or_else(|| self.replace(at, position))
            }
            Need::Lost(position) | Need::Drain(position) | Need::NotPinned(position) => {
                self.remove(at, position)
            }
            Need::Border => Step::Do(Action::Split(SplitAt::Border)),
            Need::TooFew => match self.target(at, None, None) {
                Target::At(to, _) => Step::Do(Action::Add { to }),
                Target::Wait(_) => Step::Wait,
                Target::None(obstacle) => Step::Blocked(obstacle),
            },
            Need::TooMany => self.shrink(at),
            Need::Leftover(position) => {
                Step::Do(Action::Remove { from: self.range(at).replicas[position].at })
            }
            Need::Zones => self.spread(at),
            Need::LeaderZone => self.lead_at_home(at),
        }
    }

    fn replace(&self, at: usize, position: usize) -> Step {
        let from = self.range(at).replicas[position].at;
        match self.target(at, Some(position), None) {
            Target::At(to, _) => Step::Do(Action::Replace { from, to }),
            Target::Wait(_) => Step::Wait,
            Target::None(obstacle) => Step::Blocked(obstacle),
        }
    }

    /// Takes a voter out, unless it leads, when another leads first.
    fn remove(&self, at: usize, position: usize) -> Step {
        let (replica, place) = (&self.range(at).replicas[position], self.places(at)[position]);
        if !self.quorum(at).without(self.is_sound(replica, place)).holds() {
            return Step::Blocked(Obstacle::NeedsAll);
        }
        if place.node.is_some() && place.node == self.leader(at) {
            return self.hand_over(at, position).unwrap_or(Step::Blocked(Obstacle::NeedsAll));
        }
        Step::Do(Action::Remove { from: replica.at })
    }

    /// If this voter leads: lets the best other one lead, if there is one.
    fn hand_over(&self, at: usize, position: usize) -> Option<Step> {
        let from = self.leader(at)?;
        if self.places(at)[position].node != Some(from) {
            return None;
        }
        let heir = self.heir(at, from, None)?;
        let (from, to) = (self.nodes[from].id, self.nodes[heir].id);
        Some(Step::Do(Action::Transfer { from, to }))
    }

    /// Who should lead instead of a node, maybe in one zone: the wanted zone first, then the node
    /// that leads least.
    fn heir(&self, at: usize, leader: usize, only_zone: Option<usize>) -> Option<usize> {
        let range = self.range(at);
        let home = self.leader_zone(at).flatten();
        let amounts = leader_amounts(range);
        let cost = |node: usize| {
            let scales = self.scales.by_leader.iter().enumerate();
            let each = scales.map(|(share, scale)| {
                scale.cost(amounts[share], self.nodes[node].by_leader(share))
            });
            each.sum::<f64>()
        };
        let sound = self.members(at).filter(|(replica, place)| {
            self.is_sound(replica, *place)
                && self.standing(*place) == Standing::Serving
                && range.rules.allow(replica.at.node)
        });
        let nodes = sound.filter_map(|(_, place)| place.node).filter(|node| *node != leader);
        let nodes =
            nodes.filter(|node| only_zone.is_none_or(|zone| self.nodes[*node].zone == zone));
        let ranked = nodes.map(|node| {
            let away = home.is_some_and(|zone| zone != self.nodes[node].zone);
            (away, cost(node), self.nodes[node].id, node)
        });
        let best =
            ranked.min_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)));
        best.map(|(.., node)| node)
    }

    /// How much a node has, by all shares of replicas.
    fn fullness(&self, node: usize) -> f64 {
        let scales = self.scales.by_replica.iter().enumerate();
        scales.map(|(share, scale)| scale.level(self.nodes[node].by_replica(share))).sum()
    }

    /// Takes out the voter that is missed least.
    fn shrink(&self, at: usize) -> Step {
        let leader = self.leader(at);
        let rules = &self.range(at).rules;
        let rank = |position: usize, replica: &Replica, node: Option<usize>, sound: bool| {
            let standing = node.map_or(Standing::Removed, |node| self.nodes[node].standing);
            let worth = match standing {
                Standing::Gone(_) | Standing::Removed => 0,
                Standing::Down(_) => 1,
                Standing::Draining => 2,
                Standing::Serving if !rules.allow(replica.at.node) => 3,
                Standing::Serving if !sound => 4,
                Standing::Serving => 5,
            };
            let fullness = node.map_or(0.0, |node| self.fullness(node));
            (worth, self.misfit(at, Some(position), None), node == leader, -fullness)
        };
        let voters = self.members(at).enumerate();
        let voters = voters.filter(|(_, (replica, _))| replica.role == ReplicaRole::Voter);
        let mut ranked: Vec<_> = voters
            .map(|(position, (replica, place))| {
                let sound = self.is_sound(replica, place);
                (rank(position, replica, place.node, sound), position)
            })
            .collect();
        ranked.sort_by(|(a, _), (b, _)| {
            (a.0, a.1, a.2).cmp(&(b.0, b.1, b.2)).then(a.3.total_cmp(&b.3))
        });
        let mut steps = ranked.into_iter().map(|(_, position)| self.remove(at, position));
        steps.find(|step| matches!(step, Step::Do(_))).unwrap_or(Step::Blocked(Obstacle::NeedsAll))
    }

    /// Moves one voter out of a zone that it shares.
    fn spread(&self, at: usize) -> Step {
        let up = self.nodes.iter().filter(|node| node.serves());
        let used = (0..self.zones.len()).filter(|zone| self.in_zone(at, *zone, None) > 0).count();
        let full = self.crowded_among(at, up).is_some();
        // Fewer pairs; that the leader's zone is covered, too, would not do.
        let below = self.misfit(at, None, None) / 2 * 2;
        self.swap(at, None, below, if full { Obstacle::Full } else { Obstacle::NoZone(used) })
    }

    /// Brings the leader into the zone that the rules want.
    fn lead_at_home(&self, at: usize) -> Step {
        let (Some(Some(zone)), Some(leader)) = (self.leader_zone(at), self.leader(at)) else {
            return Step::Blocked(Obstacle::NoLeaderZone);
        };
        if let Some(heir) = self.heir(at, leader, Some(zone)) {
            let (from, to) = (self.nodes[leader].id, self.nodes[heir].id);
            return Step::Do(Action::Transfer { from, to });
        }
        if self.in_zone(at, zone, None) > 0 {
            return Step::Blocked(Obstacle::NoVoterThere);
        }
        self.swap(at, Some(zone), self.misfit(at, None, None), Obstacle::NoLeaderZone)
    }

    /// The one replacement, maybe into one zone, with the least misfit, if it is below a bound; of
    /// several, not of the leader, and on the fullest node.
    fn swap(&self, at: usize, zone: Option<usize>, below: Misfit, otherwise: Obstacle) -> Step {
        let leader = self.leader(at);
        let mut leaving: Vec<(f64, usize, usize)> = Vec::new();
        for (position, (replica, place)) in self.members(at).enumerate() {
            if let Some(node) = place.node.filter(|_| self.is_sound(replica, place)) {
                leaving.push((self.fullness(node), position, node));
            }
        }
        leaving.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut best: Option<(Misfit, bool)> = None;
        let mut step = None;
        for (_, position, node) in leaving {
            let target = self.target(at, Some(position), zone);
            let (misfit, found) = match target {
                Target::At(to, misfit) => {
                    let from = self.range(at).replicas[position].at;
                    (misfit, Step::Do(Action::Replace { from, to }))
                }
                Target::Wait(misfit) => (misfit, Step::Wait),
                Target::None(_) => continue,
            };
            let rank = (misfit, Some(node) == leader);
            if misfit < below && best.is_none_or(|than| rank < than) {
                (best, step) = (Some(rank), Some(found));
            }
        }
        step.unwrap_or(Step::Blocked(otherwise))
    }
}
