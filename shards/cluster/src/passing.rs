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

/// A core of another node, in one of its lives.
pub type Life = (CoreAddr, Incarnation);

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
    /// The caller of a request that came over a link of this life. It may have waited since: the newest life that is
    /// known may be the next one.
    #[must_use]
    pub const fn new((core, incarnation): Life, id: u64) -> Self {
        Self { core, incarnation, id }
    }

    /// Whether it still lives.
    #[must_use]
    pub fn lives(&self, table: &SupportTable) -> bool {
        table.peer_incarnation(self.core.node) == self.incarnation
            || !Guard::OutcomeIsOfItsLife.is_on()
    }
}

#[cfg(test)]
mod tests {
    use oarlock_shard::support_table::TableConfig;
    use oarlock_store::{Command, Request};
    use oarlock_types::{CoreId, RangeEpoch};

    use super::*;

    const OWN: CoreAddr = CoreAddr::new(NodeId(1), CoreId(0));

    /// Node 1, with links to nodes 2 and 3.
    fn linked() -> SupportTable {
        let peers: Vec<(NodeId, u16)> = [2, 3, 4].map(|id| (NodeId(id), 1)).to_vec();
        let table = SupportTable::new(&TableConfig {
            node: OWN.node,
            incarnation: Incarnation(1),
            cores: 1,
            cores_max: 1,
            origin: oarlock_types::Mono(0),
            peers: &peers,
        });
        for id in [2, 3] {
            table.learn_incarnation(NodeId(id), Incarnation(1));
            table.outgoing_up(NodeId(id), CoreId(0), Incarnation(1));
            table.incoming_up(CoreAddr::new(NodeId(id), CoreId(0)), Incarnation(1));
        }
        table
    }

    fn request(group: GroupId) -> ForwardRequest {
        let request = Request::one(Command::Count);
        ForwardRequest { id: 1, group, epoch: RangeEpoch(1), lane: None, request }
    }

    #[test]
    fn what_the_meta_group_is_asked_goes_through_another_if_its_leader_can_not_be_reached() {
        let table = linked();
        let way = |to, request| way(&table, OWN, NodeId(to), request);
        assert_eq!(way(2, request(GroupId::META)), (NodeId(2), request(GroupId::META)));
        // Nobody has said yet who has the newest map.
        let (through, passed) = way(9, request(GroupId::META));
        assert_eq!(through, NodeId(3));
        assert!(is_to_be_passed_on(&passed));
        assert!(!is_to_be_passed_on(&request(GroupId::META)));
        let again = ForwardRequest { lane: Some(PASSED_ON), ..request(GroupId::META) };
        assert_eq!(way(9, again.clone()), (NodeId(9), again), "once, not round and round");
        assert_eq!(way(4, request(GroupId(7))), (NodeId(4), request(GroupId(7))));
        assert_eq!(
            way(1, request(GroupId::META)),
            (NodeId(3), passed),
            "by an old map it was here"
        );
    }

    #[test]
    fn an_outcome_is_for_the_life_that_asked() {
        let table = linked();
        let core = CoreAddr::new(NodeId(2), CoreId(0));
        let caller = Caller::new((core, Incarnation(1)), 7);
        assert!(caller.lives(&table));
        table.learn_incarnation(NodeId(2), Incarnation(2));
        assert!(!caller.lives(&table));
        assert!(!Caller::new((core, Incarnation(1)), 7).lives(&table), "it has waited");
        assert!(Caller::new((core, Incarnation(2)), 7).lives(&table));
    }
}
