//! How a node asks the meta group though whoever leads it can not be reached: it may have joined while this
//! node was away, and only the meta group says where it is. The node has another one, that was heard to have
//! the newest map, pass the request on. And to whom an outcome goes back. Pure.

use oarlock_codec::{ForwardRequest, Lane};
use oarlock_shard::SupportTable;
use oarlock_types::{CoreAddr, GroupId, Guard, Incarnation, NodeId};

/// Marks a request that is to be passed on. The node's own requests are in no lane.
const TO_PASS_ON: Lane = Lane { connection: u64::MAX, follows: false };
/// Marks one that was: it is not passed on again.
pub const PASSED_ON: Lane = Lane { connection: u64::MAX - 1, follows: false };

/// Whether another node wants this request passed on.
#[must_use]
pub fn is_to_be_passed_on(request: &ForwardRequest) -> bool {
    request.group == GroupId::META && request.lane == Some(TO_PASS_ON)
}

/// Where a request that this core sends to `to` goes.
#[must_use]
pub fn way(
    table: &SupportTable,
    own: CoreAddr,
    to: NodeId,
    request: ForwardRequest,
) -> (NodeId, ForwardRequest) {
    let is_linked = |node| table.links_up(CoreAddr::new(node, own.core));
    if request.group != GroupId::META || request.lane.is_some() || is_linked(to) {
        return (to, request);
    }
    let others = table.peers().filter(|node| is_linked(*node));
    let newest = others.max_by_key(|node| (table.peer_map_version(*node), *node));
    match newest {
        Some(node) => (node, ForwardRequest { lane: Some(TO_PASS_ON), ..request }),
        None => (to, request),
    }
}

/// Who forwarded a request: a core of another node, in one of its lives. The next one gives the same names to
/// other requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The core.
    pub core: CoreAddr,
    incarnation: Incarnation,
    /// Its name for the request.
    pub id: u64,
}

impl Caller {
    /// The caller of a request that has just come.
    #[must_use]
    pub fn new(table: &SupportTable, core: CoreAddr, id: u64) -> Self {
        Self { core, incarnation: table.peer_incarnation(core.node), id }
    }

    /// Whether it still lives.
    #[must_use]
    pub fn lives(&self, table: &SupportTable) -> bool {
        table.peer_incarnation(self.core.node) == self.incarnation
            || !Guard::OutcomeIsOfItsLife.is_on()
    }
}
