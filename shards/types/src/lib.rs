//! The words that every Oarlock crate shares: identifiers, time, limits, keys.
//!
//! Nothing here decides anything. A number that means something has a newtype, so that a term can
//! not be passed where an index is wanted. Units stand in names (`_ms`, `_us`, `_bytes`).
//!
//! Map: [`ids`] names things, [`time`] holds handed-in time, [`random`] the seeded generator,
//! [`map`] hash maps with a fixed seed, [`guard`] the guards that tests can remove, [`bounds`] a range's keys, [`level`] what the nodes of a cluster may say, [`limits`] every bound in one place, [`pulse`] what nodes
//! tell each other of their liveness, [`range_map`] says which range owns a key.

pub mod bounds;
pub mod guard;
pub mod ids;
pub mod level;
pub mod limits;
pub mod map;
pub mod pulse;
pub mod random;
pub mod range_map;
pub mod time;

pub use bounds::RangeBounds;
pub use guard::Guard;
pub use ids::{
    ClusterId, CoreAddr, CoreId, DiskId, GroupId, Incarnation, Index, Lsn, NodeId, RangeEpoch,
    SegmentId, SupportEpoch, Term,
};
pub use level::{FeatureLevel, FeatureLevels};
pub use limits::{Limits, SharedLimits};
pub use map::{FastMap, FastSet};
pub use pulse::{Pulse, PulseSupport};
pub use random::Random;
pub use range_map::{RangeDescriptor, RangeMap};
pub use time::{Mono, WallMs};
