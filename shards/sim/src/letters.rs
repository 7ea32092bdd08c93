//! What cores of a node, clients and operators tell a core of a cluster that keeps its own map, and what leaves it.

use std::collections::BTreeMap;

use oarlock_cluster::members::{Candidate, JoinRefusal};
use oarlock_cluster::passing::Life;
use oarlock_cluster::router::CoreRequest;
use oarlock_cluster::{MapCopy, NodeEntry, SharedMap};
use oarlock_codec::{ForwardReply, ForwardRequest};
use oarlock_shard::Outcome;
use oarlock_store::Request;
use oarlock_types::{CoreId, FeatureLevel, GroupId, NodeId, RangeDescriptor};

/// What cores of a node, clients and operators tell a core.
#[derive(Debug)]
pub(crate) enum Letter {
    /// A client's request; its outcome goes back under the token.
    Client {
        token: u64,
        connection: u64,
        request: Request,
    },
    /// A request for a group that it names.
    ToGroup {
        token: u64,
        group: GroupId,
        request: Request,
    },
    /// A request of another core of this node.
    Here(CoreRequest),
    /// One that another node sent.
    Forwarded(Life, ForwardRequest),
    /// What became of a request of this core.
    Outcome(u64, Outcome),
    /// The outcomes that another node was to send are lost.
    LinkLost(NodeId),
    Leader(GroupId, Option<NodeId>),
    /// By which it routes, and what of it the meta group has.
    Map(SharedMap, SharedMap),
    Nodes(Vec<NodeEntry>),
    MapIsOld,
    Removed(Vec<NodeId>),
    RangesChanged {
        change: Vec<RangeDescriptor>,
        propose: bool,
    },
    WantIds(CoreId),
    Ids(Vec<GroupId>),
    /// A node asks to join.
    Join {
        joiner: usize,
        candidate: Box<Candidate>,
    },
}

/// What a node that is let in is told.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    pub(crate) node: NodeId,
    pub(crate) meta: Option<RangeDescriptor>,
    pub(crate) joined: Vec<NodeEntry>,
    pub(crate) level: FeatureLevel,
}

/// The answer to a node that asks to join; `None`: it will have been let in when it asks again.
pub(crate) type Answer = Result<Option<Box<Admission>>, JoinRefusal>;

/// What leaves the core with a turn.
#[derive(Debug, Default)]
pub(crate) struct Leaving {
    pub(crate) mail: Vec<(CoreId, Letter)>,
    pub(crate) forwards: BTreeMap<NodeId, Vec<ForwardRequest>>,
    pub(crate) replies: BTreeMap<NodeId, Vec<ForwardReply>>,
    /// For clients, by their tokens.
    pub(crate) answers: Vec<(u64, Outcome)>,
    pub(crate) copy: Option<Box<MapCopy>>,
    /// The nodes of the cluster, as the first core has just heard.
    pub(crate) met: Option<Vec<NodeEntry>>,
    pub(crate) admissions: Vec<(usize, Answer)>,
    /// Replicas that have ended.
    pub(crate) ended: Vec<GroupId>,
    /// What placement ordered and heard, for the trace.
    pub(crate) told: Vec<String>,
}

/// What a node knows of its cluster when it starts.
pub(crate) struct Known {
    pub(crate) copy: MapCopy,
    pub(crate) nodes: Vec<NodeEntry>,
}
