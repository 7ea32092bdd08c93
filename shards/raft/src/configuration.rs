//! Who takes part in a group, and what a quorum of it is.

use std::collections::BTreeSet;

use oarlock_types::{Guard, Index, NodeId};
use rkyv::{Archive, Deserialize, Serialize};

/// Voters and learners. While `outgoing` is not empty the configuration is joint: elections,
/// commits, reads and leases need a majority of both sets (Raft §6). Lists are sorted and free
/// of duplicates.
#[derive(
    Clone,
    Debug,
    Default,
    PartialEq,
    Eq,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Configuration {
    /// The (new) voters.
    pub voters: Vec<NodeId>,
    /// The old voters of a joint configuration; else empty.
    pub outgoing: Vec<NodeId>,
    /// Receive the log, do not vote.
    pub learners: Vec<NodeId>,
}

impl Configuration {
    /// A simple configuration of these voters.
    #[must_use]
    pub fn simple(voters: impl IntoIterator<Item = NodeId>) -> Self {
        let voters: BTreeSet<NodeId> = voters.into_iter().collect();
        Self { voters: voters.into_iter().collect(), ..Self::default() }
    }

    /// Whether two majorities are needed.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether `node` votes, on either side.
    #[must_use]
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.outgoing.contains(&node)
    }

    /// Whether `node` receives the log.
    #[must_use]
    pub fn is_member(&self, node: NodeId) -> bool {
        self.is_voter(node) || self.learners.contains(&node)
    }

    /// Everyone who receives the log, each once, in order.
    pub fn members(&self) -> impl Iterator<Item = NodeId> + use<> {
        let all: BTreeSet<NodeId> = self.unsorted_members().collect();
        all.into_iter()
    }

    /// Everyone who receives the log, each once, in no order; allocates nothing.
    pub fn unsorted_members(&self) -> impl Iterator<Item = NodeId> {
        let is_new = |node: &&NodeId| !self.voters.contains(node);
        let outgoing = self.outgoing.iter().filter(is_new);
        let learners = self.learners.iter().filter(|node| !self.is_voter(**node));
        self.voters.iter().chain(outgoing).chain(learners).copied()
    }

    /// Whether those for whom `has` holds make a quorum (both, when joint).
    pub fn quorum(&self, mut has: impl FnMut(NodeId) -> bool) -> bool {
        let mut majority = |set: &[NodeId]| set.iter().filter(|n| has(**n)).count() * 2 > set.len();
        majority(&self.voters) && (self.has_one_set() || majority(&self.outgoing))
    }

    /// The largest index that a quorum (both, when joint) has reached. Allocates nothing, since a
    /// leader asks with every acknowledgement.
    pub fn quorum_index(&self, mut reached: impl FnMut(NodeId) -> Index) -> Index {
        let mut of = |set: &[NodeId]| {
            let mut best = Index(0);
            for candidate in set {
                let index = reached(*candidate);
                let count = set.iter().filter(|n| reached(**n) >= index).count();
                if count * 2 > set.len() {
                    best = best.max(index);
                }
            }
            best
        };
        let incoming = of(&self.voters);
        if self.has_one_set() { incoming } else { incoming.min(of(&self.outgoing)) }
    }

    fn has_one_set(&self) -> bool {
        self.outgoing.is_empty() || !Guard::JointNeedsBoth.is_on()
    }
}
