//! Identifiers. Each is a newtype over an integer, ordered, hashable, archivable by rkyv.

use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};

macro_rules! id {
    ($(#[$meta:meta])* $name:ident, $inner:ty, $prefix:literal) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Archive, Serialize,
            Deserialize, serde::Serialize, serde::Deserialize,
        )]
        pub struct $name(pub $inner);

        impl $name {
            /// The value itself.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }

            /// The value that follows this one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(
    /// A Raft term. Zero is the term before any election.
    Term, u64, ""
);
id!(
    /// A position in a group's log. The first entry has index 1; zero is the place before it.
    Index, u64, ""
);
id!(
    /// A Raft group, and so the range that it owns. Zero is the meta group.
    GroupId, u64, "g"
);
id!(
    /// A node: one process with its data directory. Given by the operator, never zero.
    NodeId, u64, "n"
);
id!(
    /// A core of a node, counted from zero in the order of the configuration.
    CoreId, u16, "c"
);
id!(
    /// A frame of one core's write-ahead log. Grows by one with each frame; the first is 1.
    Lsn, u64, "lsn"
);
id!(
    /// A segment file of one core's write-ahead log, in order of use. Also the salt of its frames.
    SegmentId, u64, "seg"
);
id!(
    /// How often a node's data directory has been started. Durable before the node speaks.
    Incarnation, u64, "i"
);
id!(
    /// Counts the lapses of one core pair's support. A grant after a lapse has a higher epoch.
    SupportEpoch, u64, "e"
);
id!(
    /// The version of a range's bounds and replicas. A request that carries an older one is retried.
    RangeEpoch, u64, "v"
);
id!(
    /// A cluster's identity, drawn at random when it is formed.
    ClusterId, u128, "cluster-"
);
id!(
    /// A data directory's identity, drawn at random when it is made: a blank disk is another one.
    DiskId, u128, "disk-"
);

impl Index {
    /// The index before this one; zero stays zero.
    #[must_use]
    pub const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl DiskId {
    /// One that no data directory has. A node that is known by it was given up for good.
    pub const NONE: Self = Self(u128::MAX);
}

impl GroupId {
    /// The group that holds the cluster's own map.
    pub const META: Self = Self(0);
}

/// One core of one node.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Archive,
    Serialize,
    Deserialize,
)]
pub struct CoreAddr {
    /// The node.
    pub node: NodeId,
    /// Its core.
    pub core: CoreId,
}

impl CoreAddr {
    /// A core's address from its parts.
    #[must_use]
    pub const fn new(node: NodeId, core: CoreId) -> Self {
        Self { node, core }
    }
}

impl fmt::Display for CoreAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.core)
    }
}
