//! Which groups have lost their quorum, which survivor each goes on from, and what may be lost: a
//! function of what all survivors have.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use oarlock_cluster::members::Member;
use oarlock_raft::LogPosition;
use oarlock_types::{CoreId, GroupId, Guard, Index, NodeId, RangeDescriptor, RangeEpoch, Term};

use super::plan::{GroupPlan, Loss, Plan, Survived, Survivor};
use super::state::{MetaState, NodeState, ReplicaKind, ReplicaState};

/// So far above all terms that survivors know is the one in which a group goes on. Each term but this one
/// takes an election, so whoever was not asked is far below: a log of theirs never wins over it.
pub const TERM_LEAP: u64 = 1_000_000;

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecideError {
    /// There is nothing to decide on.
    #[error("no survivor is given: name each one's data directory or collected state")]
    NoSurvivor,
    /// Two clusters are mixed.
    #[error("{one} is of {first} and {other} of {second}: give survivors of one cluster only")]
    OtherCluster {
        /// A node.
        one: NodeId,
        /// Its cluster.
        first: oarlock_types::ClusterId,
        /// Another.
        other: NodeId,
        /// And its cluster.
        second: oarlock_types::ClusterId,
    },
    /// A node is given more than once.
    #[error("{0} is given twice: give each survivor once")]
    Twice(NodeId),
    /// A node's directory was made anew.
    #[error(
        "the directory of {node} is not the one that {knows} knew it by: its votes and log are lost, \
         so it is no survivor; leave it out"
    )]
    OtherDisk {
        /// Whose.
        node: NodeId,
        /// Who knew it.
        knows: NodeId,
    },
}

/// Makes the plan. A node that is not among `states` is taken as lost for good.
///
/// # Errors
/// When the states are not those of one cluster's survivors.
pub fn decide(states: &[NodeState]) -> Result<Plan, DecideError> {
    check(states)?;
    let survivors: BTreeMap<NodeId, &NodeState> = states.iter().map(|s| (s.node, s)).collect();
    let ranges = newest_ranges(states);
    let all: BTreeSet<GroupId> =
        states.iter().flat_map(|state| state.replicas.iter().map(|r| r.group)).collect();
    let taken = taken(&survivors, &all);
    let (mut sound_count, mut groups, mut gone) = (0, Vec::new(), Vec::new());
    for group in all.iter().chain(ranges.keys()).copied().collect::<BTreeSet<_>>() {
        let case = Case { group, survivors: &survivors, range: ranges.get(&group) };
        if case.has_quorum() {
            sound_count += 1;
        } else if case.is_taken(&ranges) || taken.contains(&group) {
            // A replica that has not heard of it ends once it has the map.
        } else if let Some(chosen) = case.best() {
            groups.push(case.plan(chosen, states, &all));
        } else if case.range.is_some() {
            gone.push(group);
        }
    }
    let concerned =
        |group: &GroupId| gone.contains(group) || groups.iter().any(|g| g.group == *group);
    let ranges = ranges.into_iter().filter(|(group, _)| concerned(group));
    Ok(Plan {
        cluster: states[0].cluster,
        given_up: given_up(states),
        sound_count,
        ranges: ranges.map(|(_, range)| range.clone()).collect(),
        gone,
        survivors: survivors
            .values()
            .map(|s| Survivor { node: s.node, disk: s.disk, incarnation: s.incarnation })
            .collect(),
        groups,
    })
}

fn check(states: &[NodeState]) -> Result<(), DecideError> {
    let first = states.first().ok_or(DecideError::NoSurvivor)?;
    let mut seen = BTreeSet::new();
    for state in states {
        if state.cluster != first.cluster {
            return Err(DecideError::OtherCluster {
                one: first.node,
                first: first.cluster,
                other: state.node,
                second: state.cluster,
            });
        }
        if !seen.insert(state.node) {
            return Err(DecideError::Twice(state.node));
        }
        let other = |knows: &&NodeState| {
            knows.peers.iter().any(|peer| peer.node == state.node && peer.disk != state.disk)
        };
        if let Some(knows) = states.iter().find(other) {
            return Err(DecideError::OtherDisk { node: state.node, knows: knows.node });
        }
    }
    Ok(())
}

/// All nodes that anybody knows and that are no survivors.
fn given_up(states: &[NodeState]) -> Vec<NodeId> {
    let of_state = |state: &NodeState| {
        let members = state.replicas.iter().flat_map(|replica| replica.members.members());
        let peers = state.peers.iter().map(|peer| peer.node);
        let ranges = state.ranges.iter().flat_map(|range| range.replicas.iter().map(|at| at.node));
        let joined = state.joined.iter().map(|member| member.entry.id);
        members.chain(peers).chain(ranges).chain(joined).collect::<Vec<_>>()
    };
    let mut all: BTreeSet<NodeId> = states.iter().flat_map(of_state).collect();
    all.retain(|node| states.iter().all(|state| state.node != *node));
    all.into_iter().collect()
}

fn newest_ranges(states: &[NodeState]) -> BTreeMap<GroupId, &RangeDescriptor> {
    let mut newest: BTreeMap<GroupId, &RangeDescriptor> = BTreeMap::new();
    for range in states.iter().flat_map(|state| &state.ranges) {
        let known = newest.entry(range.group).or_insert(range);
        if (range.epoch, range.configured) > (known.epoch, known.configured) {
            *known = range;
        }
    }
    newest
}

/// The groups whose ranges others have taken, by what these go on with: no surviving map may know of either.
fn taken(survivors: &BTreeMap<NodeId, &NodeState>, all: &BTreeSet<GroupId>) -> BTreeSet<GroupId> {
    let best = |group: &GroupId| Case { group: *group, survivors, range: None }.best();
    all.iter().filter_map(best).flat_map(|(_, best)| best.taken.iter().copied()).collect()
}

/// The nodes that have joined, as all survivors know them.
fn joined(states: &[NodeState]) -> Vec<Member> {
    let all = states.iter().flat_map(|state| &state.joined);
    let by_id: BTreeMap<NodeId, &Member> = all.map(|member| (member.entry.id, member)).collect();
    by_id.into_values().cloned().collect()
}

/// One group, as all survivors know it.
struct Case<'a> {
    group: GroupId,
    survivors: &'a BTreeMap<NodeId, &'a NodeState>,
    range: Option<&'a &'a RangeDescriptor>,
}

impl<'a> Case<'a> {
    fn replicas(&self) -> impl Iterator<Item = (NodeId, &'a ReplicaState)> {
        let group = self.group;
        self.survivors
            .iter()
            .flat_map(move |(node, state)| state.of(group).map(move |replica| (*node, replica)))
    }

    fn whole(&self) -> impl Iterator<Item = (NodeId, &'a ReplicaState)> {
        self.replicas().filter(|(_, replica)| replica.kind == ReplicaKind::Whole)
    }

    /// Whether a survivor can still be elected, as Raft has it.
    fn has_quorum(&self) -> bool {
        self.whole().any(|(_, replica)| {
            remembers(replica)
                && replica.is_electable
                && replica.members.quorum(|voter| self.votes(voter, replica.last))
        })
    }

    /// Whether a member would vote for a log that ends there.
    fn votes(&self, voter: NodeId, candidate: LogPosition) -> bool {
        let Some(state) = self.survivors.get(&voter) else { return false };
        let mut there = state.of(self.group).peekable();
        if there.peek().is_none() {
            // It makes an empty replica as soon as it is asked.
            return !state.has_unnamed_losses;
        }
        there.any(|replica| {
            replica.kind == ReplicaKind::Whole && remembers(replica) && replica.last <= candidate
        })
    }

    /// Whether another group has its keys, by a merge that is not lost itself: only so does the first key of a range
    /// come to have another owner, with a newer epoch.
    fn is_taken(&self, ranges: &BTreeMap<GroupId, &'a RangeDescriptor>) -> bool {
        let Some(range) = self.range.filter(|range| range.group != GroupId::META) else {
            return false;
        };
        let epochs = self.replicas().map(|(_, replica)| replica.epoch).chain([range.epoch]);
        let epoch = epochs.max().unwrap_or_default();
        ranges.values().any(|other| {
            let case = Case { group: other.group, range: Some(other), ..*self };
            other.epoch > epoch
                && other.as_range().contains(&range.start)
                && case.is_as_new_as(other.epoch)
        })
    }

    /// Whether what its group goes on with has its range in this version.
    fn is_as_new_as(&self, epoch: RangeEpoch) -> bool {
        let is_new = |(_, best): (NodeId, &ReplicaState)| best.epoch >= epoch;
        self.has_quorum() || self.best().is_some_and(is_new)
    }

    /// The newest log, by the rule by which voters compare them; one that knows its members, at least.
    fn best(&self) -> Option<(NodeId, &'a ReplicaState)> {
        let known = self.whole().filter(|(_, replica)| !replica.members.voters.is_empty());
        known.max_by_key(|(node, replica)| {
            (replica.last, replica.members.is_voter(*node), Reverse(*node))
        })
    }

    fn plan(
        &self,
        (chosen, best): (NodeId, &ReplicaState),
        states: &[NodeState],
        known: &BTreeSet<GroupId>,
    ) -> GroupPlan {
        let meta = (self.group == GroupId::META).then(|| self.meta(chosen, states)).flatten();
        let of_map = self.range.map_or(Index(0), |range| range.configured);
        let configured = self.whole().map(|(_, replica)| replica.configured).max();
        let next = Index(best.last.index.get() + 1 + u64::from(meta.is_some()));
        let newest = of_map.next().max(configured.unwrap_or_default().next());
        let index = if Guard::MembersAreNewerThanMap.is_on() { next.max(newest) } else { next };
        let terms = self.replicas().map(|(_, r)| r.term.max(r.last.term).max(r.reached.term));
        let leap = if Guard::TermIsFarAhead.is_on() { TERM_LEAP } else { 1 };
        let term = Term(terms.max().unwrap_or_default().get() + leap);
        let cuts = best.cuts.iter().map(|cut| cut.child).filter(|child| !known.contains(child));
        let epoch_known = self.range.map_or(0, |range| range.epoch.get());
        GroupPlan {
            group: self.group,
            chosen,
            recovered_at: LogPosition { term, index },
            cuts: cuts.collect(),
            is_cut_since: best.epoch.get() > 0 && epoch_known > best.epoch.get(),
            loss: self.loss(best),
            members: best.members.clone(),
            level: states.iter().map(|state| state.level).max().unwrap_or_default(),
            joined: meta.map(|_| joined(states)).unwrap_or_default(),
            meta,
            replicas: self.survived(),
        }
    }

    fn loss(&self, best: &ReplicaState) -> Loss {
        let all = || self.replicas().map(|(_, replica)| replica);
        let committed = all().map(|replica| replica.committed).max().unwrap_or_default();
        let existed = all().map(|replica| replica.reached.max(replica.last)).max();
        let existed = existed.filter(|existed| *existed > best.last).map(|existed| existed.index);
        // Absent ones have never acknowledged anything, or cannot be asked.
        let left_nothing = |node: NodeId| match self.survivors.get(&node) {
            None => true,
            Some(state) => {
                let mut there = state.of(self.group).peekable();
                let is_absent = there.peek().is_none();
                (is_absent && state.has_unnamed_losses)
                    || there.any(|r| r.kind != ReplicaKind::Whole || !remembers(r))
            }
        };
        let certain = existed.into_iter().chain([committed]).max();
        let certain = certain.filter(|index| *index > best.last.index);
        Loss {
            kept: best.last,
            kept_until: best.stamp,
            committed: committed.min(best.last.index),
            is_possible: best.members.quorum(left_nothing) || certain.is_some(),
            certain_to: certain.unwrap_or_default(),
        }
    }

    fn survived(&self) -> Vec<Survived> {
        let there = self.replicas().map(|(node, replica)| Survived {
            node,
            core: replica.core,
            kind: replica.kind,
            term: replica.term,
            last: replica.last,
            committed: replica.committed,
        });
        // Also those that are no members by the chosen log: a lost one may know of newer members.
        let without = self.survivors.iter().filter(|(_, s)| s.of(self.group).next().is_none());
        let absent = without.map(|(node, _)| Survived {
            node: *node,
            core: CoreId(0),
            kind: ReplicaKind::Absent,
            term: Term(0),
            last: LogPosition::default(),
            committed: Index(0),
        });
        there.chain(absent).collect()
    }

    /// What the meta group's keys must say, since its newest changes may be lost: a version behind all that
    /// survivors have seen, so that they read the whole map, and ids that no surviving group has.
    fn meta(&self, chosen: NodeId, states: &[NodeState]) -> Option<MetaState> {
        let kept = self.survivors.get(&chosen)?.meta?;
        let seen = states.iter().map(|state| state.map_version).max().unwrap_or_default();
        let of_replicas = states.iter().flat_map(|s| s.replicas.iter().map(|r| r.group));
        let of_ranges = states.iter().flat_map(|s| s.ranges.iter().map(|r| r.group));
        let cuts = states.iter().flat_map(|s| &s.replicas).flat_map(|r| &r.cuts);
        let of_cuts = cuts.map(|cut| cut.child);
        let given = states.iter().filter_map(|s| s.meta).map(|meta| meta.groups);
        let groups = of_replicas.chain(of_ranges).chain(of_cuts).chain(given).max();
        Some(MetaState {
            map_version: seen.max(kept.map_version) + 1,
            groups: groups.unwrap_or_default(),
        })
    }
}

/// Whether a replica has all that it, or one before it, can have voted against.
fn remembers(replica: &ReplicaState) -> bool {
    replica.last >= replica.reached && replica.last.index >= replica.votes_from
}
