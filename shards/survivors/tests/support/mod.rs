//! Made-up survivors.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]

use oarlock_raft::{Configuration, LogPosition};
use oarlock_survivors::state::{NodeState, ReplicaKind, ReplicaState};
use oarlock_types::{
    ClusterId, CoreAddr, CoreId, DiskId, FeatureLevel, GroupId, Incarnation, Index, NodeId,
    RangeDescriptor, RangeEpoch, Term, WallMs,
};

/// A sound replica of a group of these voters whose log ends there; everything but the last five entries is
/// known to be committed.
pub fn replica(group: u64, voters: &[u64], (index, term): (u64, u64)) -> ReplicaState {
    let last = LogPosition { term: Term(term), index: Index(index) };
    ReplicaState {
        group: GroupId(group),
        core: CoreId(0),
        kind: ReplicaKind::Whole,
        term: Term(term),
        last,
        committed: Index(index.saturating_sub(5)),
        reached: last,
        votes_from: Index(0),
        configured: Index(0),
        is_electable: true,
        epoch: RangeEpoch(1),
        stamp: WallMs(1_700_000_000_123),
        members: Configuration::simple(voters.iter().copied().map(NodeId)),
        cuts: Vec::new(),
        taken: Vec::new(),
    }
}

pub fn survivor(node: u64, replicas: Vec<ReplicaState>) -> NodeState {
    NodeState {
        cluster: ClusterId(7),
        node: NodeId(node),
        disk: DiskId(u128::from(node) + 100),
        incarnation: Incarnation(3),
        has_unnamed_losses: false,
        peers: Vec::new(),
        map_version: 1,
        level: FeatureLevel::FIRST,
        joined: Vec::new(),
        meta: None,
        replicas,
        ranges: Vec::new(),
    }
}

pub fn range(group: u64, (epoch, configured): (u64, u64), nodes: &[u64]) -> RangeDescriptor {
    let (start, end) = (vec![b'a'], Some(vec![b'm'].into()));
    RangeDescriptor {
        group: GroupId(group),
        epoch: RangeEpoch(epoch),
        configured: Index(configured),
        start: start.into(),
        end,
        replicas: nodes.iter().map(|node| CoreAddr::new(NodeId(*node), CoreId(0))).collect(),
    }
}
