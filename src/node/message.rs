//! What cores of one node tell each other through their inboxes.

use std::sync::Arc;
use std::time::Duration;

use oarlock_cluster::NodeEntry;
use oarlock_cluster::executor::Planning;
use oarlock_cluster::members::JoinRefusal;
use oarlock_cluster::passing::Life;
use oarlock_cluster::router::CoreRequest;
use oarlock_codec::{ForwardRequest, GroupMessage};
use oarlock_shard::rebuild::{RebuildError, RebuildStage};
use oarlock_shard::status::ReplicaStatus;
use oarlock_shard::{HandOver, Outcome, Wanted};
use oarlock_types::{CoreAddr, CoreId, GroupId, Mono, NodeId, RangeDescriptor, RangeMap};

use crate::disk::job::DiskDone;
use crate::net::link_reader::AcceptedLink;
use crate::net::session::Query;
use crate::node::stages::Stages;

/// A message to a core's driver.
#[derive(Debug)]
pub enum CoreMessage {
    /// Requests of another core's clients for groups of this core.
    Requests(Vec<CoreRequest>),
    /// Outcomes for this core's router.
    Outcomes(Vec<(u64, Outcome)>),
    /// Requests that another node forwarded, for groups of this core.
    Forwarded {
        /// The core that sent them, in the life that did, and hears the outcomes.
        from: Life,
        /// When they came.
        came: Mono,
        /// What to do.
        requests: Vec<ForwardRequest>,
    },
    /// Raft messages for groups of this core that came over another core's link.
    Messages {
        /// The sender.
        from: CoreAddr,
        /// What its replicas say.
        messages: Vec<GroupMessage>,
    },
    /// A plan that this core's placement wanted is made, and how long that took.
    Planned(Box<Planning>, Duration),
    /// Another core's replica knows a new leader.
    Leader(GroupId, Option<NodeId>),
    /// To all cores: route by this map from now on; and what of it the meta group has.
    Map(Arc<RangeMap>, Arc<RangeMap>),
    /// To all cores: these are the nodes of the cluster from now on.
    Nodes(Arc<Vec<NodeEntry>>),
    /// To all cores: these nodes were given up, and no others.
    Removed(Arc<Vec<NodeId>>),
    /// To the first core: a range has refused what the map says.
    MapIsOld,
    /// To the first core: what ranges of this node say of themselves after they have changed. It counts on
    /// this node at once.
    RangesChanged {
        /// A whole change: all ranges into which one was split, the one into which two were merged, or the
        /// one whose replicas moved.
        change: Vec<RangeDescriptor>,
        /// This core leads the range, so the meta group shall have the change from here. It may be told as
        /// often as it likes, and must be by a new leader whose range the map does not have as it is.
        propose: bool,
    },
    /// To the first core: this core wants ids for new groups.
    WantIds(CoreId),
    /// Ids that no other group has.
    Ids(Vec<GroupId>),
    /// Another node wants a replica, which this core is to make.
    Make(Wanted),
    /// A core says something of a replica that goes between it and this one.
    HandOver {
        /// The core.
        from: CoreId,
        /// What it says.
        told: HandOver,
    },
    /// Somebody on core `to` asks all cores.
    Asked {
        /// The core that asks.
        to: CoreId,
        /// The question's number.
        question: u64,
        /// The question.
        query: Query,
    },
    /// The answer.
    Answered {
        /// The question's number.
        question: u64,
        /// Who answers.
        core: CoreId,
        /// What it says.
        answer: CoreAnswer,
    },
    /// The disk worker's answer.
    Disk(DiskDone),
    /// A peer's core has dialled this core.
    Link(AcceptedLink),
}

/// A core's answer to a [`Query`].
#[derive(Debug)]
pub enum CoreAnswer {
    /// Its replicas, and those that are lost or being rebuilt.
    Status(Vec<ReplicaStatus>, Vec<(GroupId, RebuildStage)>),
    /// As whom a node has joined, or why it can not; `None`: not yet, or another core sees to it.
    Join(Result<Option<NodeId>, JoinRefusal>),
    /// Whether the rebuilding has begun; `None`: the replica is none of this core's.
    Rebuild(Option<Result<(), RebuildError>>),
    /// The lines about its connections.
    ClientList(String),
    /// How many connections it has ended.
    ClientKill(u64),
    /// Its stages of a write.
    Stages(Stages),
}
