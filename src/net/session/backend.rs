//! What a session needs of the rest of the node. Implemented by each core's router, and by tests.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use oarlock_cluster::members::{Candidate, JoinRefusal};
pub use oarlock_cluster::router::{ConnectionId, Ticket, Timed};
use oarlock_shard::rebuild::RebuildError;
use oarlock_store::{Reply, Request};
use oarlock_types::{ClusterId, CoreAddr, CoreId, GroupId, Incarnation, Mono, NodeId, RangeEpoch};
use thiserror::Error;

use crate::net::commands::{ClientFilter, KillReply};

/// Why a request has no reply. What the router can mend itself (another leader, a newer map) never
/// gets here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Not applied: too much is waiting.
    #[error("BUSY too many commands are waiting on this node; nothing was applied, try again")]
    Busy,
    /// Perhaps applied.
    #[error(
        "UNKNOWN the command may or may not have been applied: its range lost its leader or did not \
         answer in time; read before you repeat it, or send it with OARLOCK ONCE"
    )]
    Unknown,
    /// Not applied: nobody leads the range.
    #[error(
        "NOQUORUM the range has no leader with a quorum of its replicas; nothing was applied, try \
         again when more of its nodes are up"
    )]
    NoQuorum,
    /// Not applied: the disk is nearly full.
    #[error(
        "DISKFULL a disk that holds the range is nearly full; nothing was applied, reads go on; \
         free space there and writes come back by themselves"
    )]
    DiskFull,
    /// Not applied: larger than a log entry may be.
    #[error(
        "ERR the command is larger than one log entry may be (entry_bytes_max); nothing was applied"
    )]
    TooLarge,
    /// No connection has that address.
    #[error("ERR No such client")]
    NoSuchClient,
    /// Not begun: there is no such replica.
    #[error("ERR this node has no replica of that range (OARLOCK RANGES shows who has)")]
    NoReplica,
    /// Not begun.
    #[error("ERR {0}")]
    Rebuild(RebuildError),
    /// The node can not join.
    #[error("ERR {0}")]
    Join(JoinRefusal),
    /// Not applied: what it names is not in one range any more, or its group owns other keys by now.
    #[error("BUSY the range has just been split or moved; nothing was applied, try again")]
    Moved,
    /// Not applied: the command is atomic, and its keys are in different ranges.
    #[error(
        "CROSSRANGE the keys are in different ranges, and this command is atomic; nothing was applied \
         (OARLOCK RANGES shows the ranges)"
    )]
    CrossRange,
}

/// What is asked of all cores of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// How they are: answered by one JSON document.
    Status,
    /// How long the stages of a write take: answered by pairs of a stage's name and its distribution
    /// in microseconds, as `HdrHistogram`'s V2 encoding.
    Stages,
    /// That a node may join: answered by what it needs to know once it has, by nil until then.
    Join(Candidate),
    /// To rebuild this node's replica of a range: answered as soon as it has begun.
    Rebuild(GroupId),
    /// The lines about their connections.
    ClientList {
        /// Which.
        filter: ClientFilter,
        /// Who asks.
        asker: ConnectionId,
    },
    /// To end connections.
    ClientKill {
        /// Which.
        filter: ClientFilter,
        /// Who asks; if it is meant itself it still gets its answer.
        asker: ConnectionId,
        /// The form of the answer.
        reply: KillReply,
    },
}

/// How a request ended.
pub type Outcome = Result<Reply, Refusal>;

/// One range, as this node's copy of the map has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeInfo {
    /// The group that owns it.
    pub group: GroupId,
    /// Its first key.
    pub start: Bytes,
    /// The first key behind it; `None`: it is the last range.
    pub end: Option<Bytes>,
    /// The node that leads it, if known.
    pub leader: Option<NodeId>,
    /// Its replicas, each on a core of a node.
    pub replicas: Vec<CoreAddr>,
    /// Where clients reach the core of each of them, if this node knows.
    pub addresses: Vec<Option<SocketAddr>>,
    /// The version of its bounds and replicas.
    pub epoch: RangeEpoch,
}

/// The bounds of a range, or of keys whose range is not known: all that reading one range after the
/// other needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key.
    pub start: Bytes,
    /// The first key behind it; `None`: there is no more.
    pub end: Option<Bytes>,
}

impl KeyRange {
    /// Bounds of their own.
    #[must_use]
    pub fn copy((start, end): (&[u8], Option<&[u8]>)) -> Self {
        Self { start: Bytes::copy_from_slice(start), end: end.map(Bytes::copy_from_slice) }
    }
}

/// What this node says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInfo {
    /// The node.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// How often it was started.
    pub incarnation: Incarnation,
    /// The core that answers.
    pub core: CoreId,
    /// Cores of the node.
    pub cores: u16,
    /// The port for clients.
    pub client_port: u16,
    /// Since the process started.
    pub uptime: Duration,
    /// Connections of all cores.
    pub clients: usize,
    /// Settings by name, for `CONFIG GET`.
    pub configuration: Vec<(String, String)>,
    /// More that `INFO` (section `oarlock`) shows, by name.
    pub status: Vec<(String, String)>,
}

/// One core's way to every range.
///
/// The promises that sessions build on:
/// 1. Each submitted request has exactly one outcome, brought by
///    [`Clients::complete`](crate::net::listener::Clients::complete), in a bounded time and never
///    from within `submit` or `submit_to`.
/// 2. **Writes** (requests that are no reads) of one connection to one range take effect in the order
///    in which they were submitted, even when one was bounced by a node that no longer leads: the
///    later ones wait until it was sent again. Nothing is promised about the order of a read and a
///    write; the session never has both under way on one key.
/// 3. A refusal other than [`Refusal::Unknown`] means that nothing was applied.
/// 4. [`Refusal::Moved`] comes only when the map is newer than it was when the request was submitted.
pub trait Backend {
    /// Sends a request to the range that owns `key`, and with it all other keys that the request names.
    fn submit(&mut self, connection: ConnectionId, ticket: Ticket, key: &[u8], request: Request);

    /// Sends a request that names no key to a group.
    fn submit_to(
        &mut self,
        connection: ConnectionId,
        ticket: Ticket,
        group: GroupId,
        request: Request,
    );

    /// Asks all cores of this node; the outcome is made of all answers.
    fn ask(&mut self, connection: ConnectionId, ticket: Ticket, query: Query);

    /// The group that owns `key`; `None` while it is not known. Requests wait until it is.
    fn range_of(&self, key: &[u8]) -> Option<GroupId>;

    /// The bounds in which `key` is.
    fn bounds_of(&self, key: &[u8]) -> KeyRange;

    /// The bounds in which the last key before `end` is; without an end the last of all.
    fn bounds_before(&self, end: Option<&[u8]>) -> KeyRange;

    /// The groups of all ranges.
    fn groups(&self) -> Vec<GroupId>;

    /// The version of this node's copy of the map.
    fn map_version(&self) -> u64;

    /// All ranges in the order of their keys.
    fn ranges(&self) -> Vec<RangeInfo>;

    /// What this node says about itself.
    fn info(&self) -> NodeInfo;

    /// The turn's monotonic time.
    fn now(&self) -> Mono;

    /// Microseconds since the Unix epoch, for `TIME`.
    fn wall_us(&self) -> u64;

    /// What is submitted from now on stems from bytes that came at this time; none: it does not.
    fn input_came(&mut self, _: Option<Mono>) {}

    /// The reply of a timed write is in its socket.
    fn reply_left(&mut self, _: Timed) {}
}
