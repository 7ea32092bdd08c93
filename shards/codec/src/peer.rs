//! What nodes say to each other. Pure data; one [`Handshake`] opens a link, then only frames of
//! the dialler flow over it; pulses go as datagrams between nodes.
#![allow(missing_docs, reason = "rkyv derives undocumented archived fields")]

use oarlock_raft::Message;
use oarlock_store::{Reply, Request};
use oarlock_types::{
    ClusterId, CoreId, DiskId, FeatureLevel, FeatureLevels, GroupId, Incarnation, NodeId,
    RangeEpoch,
};
use rkyv::{Archive, Deserialize, Serialize};
use thiserror::Error;

/// A Raft message of one group. Sender and receiver are the link's.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct GroupMessage {
    /// The group.
    pub group: GroupId,
    /// What its replica says.
    pub message: Message,
}

/// A client's request that another node's core shall answer.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ForwardRequest {
    /// Names the request on this link's sender; never used twice by one incarnation of a core.
    pub id: u64,
    /// The group that owns the keys, as the sender knows it.
    pub group: GroupId,
    /// The range's version that the sender knows.
    pub epoch: RangeEpoch,
    /// Among which writes it must keep its place; none for a read.
    pub lane: Option<Lane>,
    /// What to do.
    pub request: Request,
}

/// The writes of one client connection to one group, which keep their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Lane {
    /// The connection; no other one of its core ever has this number.
    pub connection: u64,
    /// The outcome of an earlier write of the lane was still open when this one was sent: it may be
    /// applied only behind that one.
    pub follows: bool,
}

/// The outcome of a [`ForwardRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ForwardReply {
    /// The request's.
    pub id: u64,
    /// The reply, or why there is none.
    pub outcome: Result<Reply, Refusal>,
}

/// Times a link's way there and back: the receiving core answers in the same turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct LinkProbe {
    /// The asking node's own time, in microseconds; only that node reads it.
    pub sent_us: u64,
    /// The answer.
    pub is_answer: bool,
}

/// Why a request was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Archive, Serialize, Deserialize)]
pub enum Refusal {
    /// Not applied: this replica does not lead. Try the leader.
    #[error("this replica does not lead; not applied")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// Not applied: the range has changed. Look it up again.
    #[error("the range has changed; not applied")]
    StaleEpoch,
    /// Not applied: too much waits already. Try again.
    #[error("too many requests are waiting; not applied, try again")]
    Busy,
    /// May have been applied: the outcome is not known and will not be.
    #[error("the outcome is not known; the request may have been applied")]
    Unknown,
    /// Not applied: the group has no quorum.
    #[error("the range has no quorum; not applied")]
    NoQuorum,
    /// Not applied: the disk is nearly full.
    #[error("the disk is nearly full; not applied")]
    DiskFull,
    /// Not applied: an earlier write of the same lane was not, and must go first.
    #[error("an earlier write of the connection goes first; not applied")]
    OutOfTurn,
    /// Not applied: there is no such group here.
    #[error("no replica of the range lives here; not applied")]
    NoSuchGroup,
    /// Not applied: the request is larger than a log entry may be.
    #[error("the request is larger than one log entry may be; not applied")]
    TooLarge,
}

/// The first frame of a link, from the dialler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Handshake {
    /// The cluster that the dialler belongs to.
    pub cluster: ClusterId,
    /// The dialler.
    pub from: NodeId,
    /// Its data directory.
    pub disk: DiskId,
    /// Its incarnation; every later frame of the link belongs to it.
    pub incarnation: Incarnation,
    /// The core that dials.
    pub from_core: CoreId,
    /// How many cores the dialler has.
    pub cores_count: u16,
    /// The feature levels that the dialler understands.
    pub levels: FeatureLevels,
    /// Whom it means to reach.
    pub to: NodeId,
    /// The core that shall own the link.
    pub to_core: CoreId,
}

/// The answer to a [`Handshake`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum HandshakeReply {
    /// Frames may flow.
    Accepted {
        /// Who answers.
        node: NodeId,
        /// Its data directory.
        disk: DiskId,
        /// Its incarnation.
        incarnation: Incarnation,
        /// How many cores it has.
        cores_count: u16,
        /// The feature levels that it understands.
        levels: FeatureLevels,
    },
    /// The link is closed after this frame.
    Refused(HandshakeRefusal),
}

/// Why a link was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Archive, Serialize, Deserialize)]
pub enum HandshakeRefusal {
    /// Another cluster's node dialled.
    #[error("it belongs to {cluster}: check the addresses of both configurations")]
    WrongCluster {
        /// The answering node's cluster.
        cluster: ClusterId,
    },
    /// Another node lives at that address.
    #[error("it is node {node}: check the address in the configuration")]
    WrongNode {
        /// Who lives there.
        node: NodeId,
    },
    /// The dialler is not in the answering node's map.
    #[error("it does not know this node: add the node to its configuration")]
    UnknownNode,
    /// The dialler's node has been started again since; this process is an old one.
    #[error(
        "it has already seen incarnation {known} of this node: another process runs under its id"
    )]
    StaleIncarnation {
        /// The newest that it has seen.
        known: Incarnation,
    },
    /// The dialler comes with another data directory than the node had.
    #[error("{}", wrong_disk(*known))]
    WrongDisk {
        /// The directory that it knows.
        known: DiskId,
    },
    /// The dialler does not understand the cluster's feature level.
    #[error("the cluster is at feature level {level}, which the dialler does not understand")]
    FeatureLevel {
        /// The cluster's level.
        level: FeatureLevel,
    },
    /// There is no such core.
    #[error("it has only {cores_count} cores")]
    NoSuchCore {
        /// How many there are.
        cores_count: u16,
    },
}

fn wrong_disk(known: DiskId) -> String {
    if known == DiskId::NONE {
        return "this node was given up for good by `oarlock recover`: give it a new id and an empty data \
                directory"
            .to_owned();
    }
    format!("it knows this node with {known}: the data directory was replaced; rebuild the node")
}
