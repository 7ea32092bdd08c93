//! What all nodes of a cluster share, and how it changes: deterministic, with time and answers handed in.
//!
//! Map: the map stands in the meta group's keys ([`map_store`]), and each node keeps a copy up to it
//! ([`map_keeper`]); a range is written as [`range_text`] says, a node ([`node_entry`]) that joins as [`members`]
//! says; [`duties`] are what the operator has nodes do, [`capacities`] what these have room for, [`rules`] what is
//! wanted for spans of keys, [`wishes`] all three as they are read; [`levels`] are the cluster's feature level;
//! [`executor`] carries out what `oarlock_placement` plans; [`hex`] writes bytes as digits.

pub mod capacities;
pub mod duties;
pub mod executor;
pub mod hex;
pub mod levels;
pub mod map_keeper;
pub mod map_store;
pub mod members;
pub mod node_entry;
pub mod range_text;
pub mod rules;
pub mod wishes;

use oarlock_types::{FeatureLevel, RangeMap};

pub use node_entry::NodeEntry;

/// What a node keeps of the map.
#[derive(Clone, Debug, Default)]
pub struct MapCopy {
    /// The ranges.
    pub map: RangeMap,
    /// The nodes that have joined since the cluster was formed.
    pub members: Vec<members::Member>,
    /// The cluster's feature level.
    pub level: FeatureLevel,
}
