//! What all nodes of a cluster share, and how it changes: deterministic, with time and answers handed in.
//!
//! Map: the map stands in the meta group's keys ([`map_store`]), and each node keeps a copy up to it
//! ([`map_keeper`]); a range is written as [`range_text`] says, a node ([`node_entry`]) that joins as [`members`]
//! says; [`duties`] are what the operator has nodes do, [`capacities`] what these have room for, [`rules`] what is
//! wanted for spans of keys, [`wishes`] all three as they are read; [`levels`] are the cluster's feature level;
//! [`executor`] carries out what `oarlock_placement` plans, by what the cores' [`reporter`]s tell; [`range_news`]
//! is what ranges tell the map of themselves; [`departures`]
//! ends replicas that the map has elsewhere; [`router`] sends requests on their way by the map (with [`locate`]),
//! or has them passed on ([`passing`]);
//! [`hex`] writes bytes as digits.

pub mod capacities;
pub mod departures;
pub mod duties;
pub mod executor;
pub mod hex;
pub mod levels;
pub mod locate;
pub mod map_keeper;
pub mod map_store;
pub mod members;
pub mod node_entry;
pub mod partings;
pub mod passing;
pub mod range_news;
pub mod range_text;
pub mod reporter;
pub mod router;
pub mod rules;
pub mod wishes;

use oarlock_types::{FeatureLevel, RangeMap};

pub use node_entry::NodeEntry;

/// The map that the cores of a node route by. It never changes: a new one takes its place.
#[allow(clippy::disallowed_types, reason = "the cores of a node share it, and only read")]
pub type SharedMap = std::sync::Arc<RangeMap>;

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
