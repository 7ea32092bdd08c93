//! What one stopped survivor has of each group, as plain data. It reads no log: [`mod@super::collect`]
//! does.

use oarlock_cluster::members::Member;
use oarlock_raft::{Configuration, LogPosition};
use oarlock_types::{
    ClusterId, CoreId, DiskId, FeatureLevel, GroupId, Incarnation, Index, NodeId, RangeDescriptor,
    RangeEpoch, Term, WallMs,
};
use serde::{Deserialize, Serialize};

use super::fields::{digits, joined, members, number, numbers, position, ranges};

/// What a survivor has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// Its cluster.
    #[serde(with = "digits")]
    pub cluster: ClusterId,
    /// The node.
    #[serde(with = "number")]
    pub node: NodeId,
    /// Its data directory's own identity.
    #[serde(with = "digits")]
    pub disk: DiskId,
    /// How often it was started: a start changes what it has.
    #[serde(with = "number")]
    pub incarnation: Incarnation,
    /// It may have lost replicas that nobody can name.
    pub has_unnamed_losses: bool,
    /// The disks of the other nodes, as it last saw them.
    pub peers: Vec<KnownPeer>,
    /// The newest version of the map of ranges that it had.
    pub map_version: u64,
    /// The highest feature level at which it knew the cluster.
    #[serde(with = "number", default)]
    pub level: FeatureLevel,
    /// The nodes that have joined since the cluster was formed, as far as it knows.
    #[serde(with = "joined")]
    pub joined: Vec<Member>,
    /// What the meta group's replica here says of the map, if there is one.
    pub meta: Option<MetaState>,
    /// Its replicas, in the order of their groups.
    pub replicas: Vec<ReplicaState>,
    /// The newest that it knows of each range.
    #[serde(with = "ranges")]
    pub ranges: Vec<RangeDescriptor>,
}

/// Another node's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPeer {
    /// The node.
    #[serde(with = "number")]
    pub node: NodeId,
    /// Its disk.
    #[serde(with = "digits")]
    pub disk: DiskId,
}

/// What the keys of the meta group say once all of its log is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaState {
    /// The map's version.
    pub map_version: u64,
    /// The largest id that was given to a group; zero where none was.
    #[serde(with = "number")]
    pub groups: GroupId,
}

/// What is there of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplicaKind {
    /// A replica whose log and checkpoint are sound.
    Whole,
    /// A replica was here and has ended.
    Ended,
    /// A replica lost a part of its log, or its checkpoint.
    Lost,
    /// Nothing, though the group counts on a replica here.
    Absent,
}

/// A group's replica on a survivor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaState {
    /// The group.
    #[serde(with = "number")]
    pub group: GroupId,
    /// The core whose log has it.
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
    /// Everything up to here is known to be committed: a checkpoint holds it, or a range that was cut off
    /// proves it. How much more was committed is not on the disk.
    #[serde(with = "number")]
    pub committed: Index,
    /// Up to here it, or one before it, has had the log.
    #[serde(with = "position")]
    pub reached: LogPosition,
    /// It was rebuilt, and votes for nobody before its log holds this entry; else zero.
    #[serde(with = "number")]
    pub votes_from: Index,
    /// The entry that says who the members are.
    #[serde(with = "number")]
    pub configured: Index,
    /// It votes by this configuration, or by one that this one may not have replaced yet.
    pub is_electable: bool,
    /// The version of its bounds once all of its log is applied; zero where it is not known.
    #[serde(with = "number")]
    pub epoch: RangeEpoch,
    /// When its newest write was made, by the clock of whoever led.
    #[serde(with = "number")]
    pub stamp: WallMs,
    /// The newest members that it knows.
    #[serde(with = "members")]
    pub members: Configuration,
    /// Entries behind its checkpoint that cut the range.
    pub cuts: Vec<Cut>,
    /// The groups of the ranges that it has taken, once all of its log is applied.
    #[serde(with = "numbers", default)]
    pub taken: Vec<GroupId>,
}

/// An entry that cuts a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// The group that it makes.
    #[serde(with = "number")]
    pub child: GroupId,
    /// The entry.
    #[serde(with = "number")]
    pub index: Index,
}

impl NodeState {
    /// What it has of a group.
    pub fn of(&self, group: GroupId) -> impl Iterator<Item = &ReplicaState> {
        self.replicas.iter().filter(move |replica| replica.group == group)
    }
}
