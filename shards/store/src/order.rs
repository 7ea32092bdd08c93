//! What operators and placement ask of a range, and what its leader tells placement of it. Plain data.

#![allow(missing_docs, reason = "rkyv gives the fields that it derives no documentation")]

use bytes::Bytes;
use oarlock_types::{NodeId, RangeEpoch};
use rkyv::{Archive, Deserialize, Serialize};

/// What is asked of a range.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Order {
    /// To be cut in two: the new group's id once that is done.
    Split {
        /// The first key of the new range.
        at: Bytes,
    },
    /// To have these nodes, by their ids, as its voters: `OK` once it has and no other members, else a simple
    /// string that says which step is under way. To be repeated until it is `OK`.
    Place {
        /// The nodes.
        voters: Vec<u64>,
    },
    /// To be led by this node: `OK` if it is already, else a simple string.
    Transfer {
        /// The node.
        to: u64,
    },
    /// To take note, as the group that placement rests on, of how ranges are that a core leads: its term.
    Report {
        /// The ranges.
        ranges: Vec<RangeReport>,
    },
    /// To tell, as the group that placement rests on, what placement does and why: a text.
    Explain {
        /// About this group; zero: what is planned for all.
        group: u64,
    },
    /// To be brought into the neighbour before it: `OK` once that has its keys.
    Merge {
        /// The first key of the range that is to end.
        start: Bytes,
        /// The neighbour's first key.
        into_start: Bytes,
        /// The neighbour's version.
        into_epoch: RangeEpoch,
    },
    /// To have its replica of a node on this core there: `OK` once it is, else a simple string. To be repeated
    /// until it is `OK`.
    MoveCore {
        /// The node.
        node: u64,
        /// The core.
        core: u16,
    },
}

impl Order {
    /// The node whose replica it is for, if it is for one alone: that replica takes it, whoever leads.
    #[must_use]
    pub fn replica_on(&self) -> Option<NodeId> {
        match self {
            Self::MoveCore { node, .. } => Some(NodeId(*node)),
            Self::Split { .. }
            | Self::Place { .. }
            | Self::Transfer { .. }
            | Self::Report { .. }
            | Self::Explain { .. }
            | Self::Merge { .. } => None,
        }
    }
}

/// How a range is, as whoever leads it tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct RangeReport {
    /// Its group.
    pub group: u64,
    /// The term in which it is led: a report of a later one counts.
    pub term: u64,
    /// The node that leads it.
    pub leader: u64,
    /// Bytes of its keys and values.
    pub bytes: u64,
    /// Its keys.
    pub keys: u64,
    /// Writes per second.
    pub writes_per_s: u64,
    /// Reads per second.
    pub reads_per_s: u64,
    /// Members that lack much of its log; and once more, marked with [`RangeReport::LEARNS`], those that only
    /// learn, with the index of the entry that made them so, marked with [`RangeReport::AS_OF`]: who does not know the
    /// marks sees no node in them.
    pub lagging: Vec<u64>,
}

impl RangeReport {
    /// Marks a member that has no vote. No node has an id so high.
    pub const LEARNS: u64 = 1 << 63;
    /// Marks the index of an entry.
    pub const AS_OF: u64 = 1 << 62;

    /// Whether a member only learns by the entry of this index. One that has got its vote since is a voter, though
    /// the report of that may still be on its way.
    #[must_use]
    pub fn learns(&self, node: u64, configured: u64) -> bool {
        let has = |word: u64| self.lagging.contains(&word);
        has(node | Self::LEARNS) && has(configured | Self::AS_OF)
    }
}
