//! Who asks, and where requests go from here: the words in which a driver and its router speak.

use oarlock_codec::{ForwardRequest, Lane};
use oarlock_shard::Outcome;
use oarlock_store::Request;
use oarlock_types::{GroupId, Mono, NodeId, RangeEpoch};

use crate::passing::Caller;

/// A client connection of this core. Never given again to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// A request of one connection: what its outcome is brought back with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    /// The command, counted over the connection's life.
    pub slot: u64,
    /// Which of the command's requests.
    pub part: u32,
}

/// A write whose way through the node is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timed {
    /// When the bytes of its command came.
    pub came: Mono,
    /// When it was handed to the backend; once it is answered, when its outcome came.
    pub handed: Mono,
}

/// Whose request it is: what the driver hands back with the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A client's connection on this core.
    Client {
        /// The connection.
        connection: ConnectionId,
        /// The connection's name for the request.
        ticket: Ticket,
        /// Whether its way is timed.
        timed: Option<Timed>,
    },
    /// The keeper of the map.
    Node,
    /// The core that tells how its ranges are.
    Reporter,
    /// Placement, with its name for the request.
    Placement(u64),
    /// A range of this core that is frozen for its neighbour, in this version.
    Range(GroupId, RangeEpoch),
    /// A core of another node, which can not bring the request there itself.
    Passed(Caller),
}

impl Asker {
    /// The times of a request whose way is timed.
    #[must_use]
    pub const fn timed(&self) -> Option<Timed> {
        match self {
            Self::Client { timed, .. } => *timed,
            Self::Node
            | Self::Reporter
            | Self::Placement(_)
            | Self::Range(..)
            | Self::Passed(..) => None,
        }
    }
}

/// Where a request goes next.
#[derive(Debug)]
pub enum Hop {
    /// To the shard of the core of this node that has the group's replica.
    Here(CoreRequest),
    /// To another node.
    Node(NodeId, ForwardRequest),
    /// Decided.
    Done(Asker, Outcome),
}

/// One request on its way between two cores of a node.
#[derive(Debug)]
pub struct CoreRequest {
    /// The asking router's name for it.
    pub id: u64,
    /// The group.
    pub group: GroupId,
    /// The range's version.
    pub epoch: RangeEpoch,
    /// Among which writes it keeps its place.
    pub lane: Option<Lane>,
    /// What to do.
    pub request: Request,
    /// When it was handed on, if it is timed.
    pub handed: Option<Mono>,
}
