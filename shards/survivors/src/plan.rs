//! A plan: which survivors each group that lost its quorum goes on from, and what may be lost with that.
//! Plain data; [`super::decide`] makes it, [`mod@super::apply`] says what it puts where.

use oarlock_cluster::members::Member;
use oarlock_raft::{Configuration, LogPosition};
use oarlock_types::{
    ClusterId, CoreId, DiskId, FeatureLevel, GroupId, Incarnation, Index, NodeId, RangeDescriptor,
    Term, WallMs,
};
use serde::{Deserialize, Serialize};

use super::fields::{digits, joined, members, number, numbers, position, ranges};
use super::state::{MetaState, ReplicaKind};

/// What is to be done on all survivors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The cluster.
    #[serde(with = "digits")]
    pub cluster: ClusterId,
    /// Nodes that are no survivors: they are refused from then on.
    #[serde(with = "numbers")]
    pub given_up: Vec<NodeId>,
    /// Groups that have a quorum and are left alone.
    pub sound_count: usize,
    /// Groups of which nothing survives. Nothing is done about them.
    #[serde(with = "numbers")]
    pub gone: Vec<GroupId>,
    /// The survivors, as the plan saw them.
    pub survivors: Vec<Survivor>,
    /// The groups that go on from a survivor.
    pub groups: Vec<GroupPlan>,
    /// Ranges of those groups and of those that are gone, as far as survivors know them.
    #[serde(with = "ranges")]
    pub ranges: Vec<RangeDescriptor>,
}

/// A survivor, to be known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survivor {
    /// The node.
    #[serde(with = "number")]
    pub node: NodeId,
    /// Its data directory.
    #[serde(with = "digits")]
    pub disk: DiskId,
    /// How often it was started.
    #[serde(with = "number")]
    pub incarnation: Incarnation,
}

/// What is to be done about a group that has no quorum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupPlan {
    /// The group.
    #[serde(with = "number")]
    pub group: GroupId,
    /// The node from which it goes on, alone.
    #[serde(with = "number")]
    pub chosen: NodeId,
    /// The end of its log from then on: an entry that makes it the only voter, in a term that nobody was in.
    #[serde(with = "position")]
    pub recovered_at: LogPosition,
    /// A range that this one was cut into may be known by no survivor: the entry that cut it stands in the
    /// chosen log, and a second plan is needed once it was applied.
    #[serde(with = "numbers", default, skip_serializing_if = "Vec::is_empty")]
    pub cuts: Vec<GroupId>,
    /// The map knows a newer version of the range's bounds than any survivor.
    pub is_cut_since: bool,
    /// What may be lost.
    pub loss: Loss,
    /// The members before.
    #[serde(with = "members")]
    pub members: Configuration,
    /// What the meta group's keys are to say; none for other groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<MetaState>,
    /// The feature level at which survivors know the cluster: the meta group must, too.
    #[serde(with = "number", default)]
    pub level: FeatureLevel,
    /// Nodes that have joined and that survivors know: the meta group must, too. None for other groups.
    #[serde(with = "joined", default, skip_serializing_if = "Vec::is_empty")]
    pub joined: Vec<Member>,
    /// What survivors have of it, and those of the members among them that have nothing.
    pub replicas: Vec<Survived>,
}

/// What may be lost of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The end of the chosen log: everything up to it is kept.
    #[serde(with = "position")]
    pub kept: LogPosition,
    /// When its newest write was made.
    #[serde(with = "number")]
    pub kept_until: WallMs,
    /// Up to here it is known that writes were acknowledged; from there to `kept` some may never have been,
    /// and become valid.
    #[serde(with = "number")]
    pub committed: Index,
    /// A quorum of members that left nothing may have acknowledged writes behind `kept`.
    pub is_possible: bool,
    /// Entries up to here have existed: those behind `kept` are lost for certain. Else zero.
    #[serde(with = "number")]
    pub certain_to: Index,
}

/// What a survivor has of a group, and what a plan was made on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survived {
    /// The node.
    #[serde(with = "number")]
    pub node: NodeId,
    /// The core.
    #[serde(with = "number")]
    pub core: CoreId,
    /// What is there.
    pub kind: ReplicaKind,
    /// Its newest term.
    #[serde(with = "number")]
    pub term: Term,
    /// The end of its log.
    #[serde(with = "position")]
    pub last: LogPosition,
    /// What it knows to be committed.
    #[serde(with = "number")]
    pub committed: Index,
}

impl Plan {
    /// The survivor that is this node.
    #[must_use]
    pub fn survivor(&self, node: NodeId) -> Option<&Survivor> {
        self.survivors.iter().find(|survivor| survivor.node == node)
    }
}

impl GroupPlan {
    /// Whether the group goes on from this replica.
    #[must_use]
    pub fn is_chosen(&self, survived: &Survived) -> bool {
        survived.node == self.chosen && survived.kind == ReplicaKind::Whole
    }
}
