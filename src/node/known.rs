//! What a node knows of its cluster by itself when it starts. Once per process.

use std::path::Path;
use std::sync::Arc;

use oarlock_cluster::{MapCopy, NodeEntry, levels, members};
use oarlock_types::{FeatureLevel, NodeId, RangeMap};

use super::join::{Admission, Joined};
use super::serve::ServeError;
use crate::config::Config;
use crate::disk::map_copy::{self, CopyError};

/// What a node knows of its cluster.
pub(super) struct Known {
    /// The map at the formation, by which replicas are made.
    pub(super) formation: Arc<RangeMap>,
    /// What the node begins with: the map, the nodes that have joined, and the level.
    pub(super) copy: MapCopy,
    /// The map of it.
    pub(super) map: Arc<RangeMap>,
    /// All nodes.
    pub(super) nodes: Arc<Vec<NodeEntry>>,
}

impl Known {
    /// Puts together what the cluster was formed as, what the node was told when it joined, and its copy of the map
    /// in the directory `data`. Without one it asks the meta group for the newest as soon as it can.
    ///
    /// # Errors
    /// When the split points make no map, or the node does not understand its cluster.
    pub(super) fn of(
        config: &Config,
        data: &Path,
        joined: Option<Joined>,
    ) -> Result<Self, ServeError> {
        let formed_of = config.initial_nodes();
        let cores: Vec<(NodeId, u16)> =
            formed_of.iter().map(|entry| (entry.id, entry.cores)).collect();
        let split_points: Vec<_> = config.split_points().into_iter().map(Into::into).collect();
        let formation = RangeMap::formation(&cores, &split_points, config.replication_factor());
        let formation = formation.map_err(ServeError::Map)?;
        let copy = match map_copy::read(data) {
            Ok(copy) => copy,
            Err(error @ CopyError::NotUnderstood { .. }) => return Err(error.into()),
            Err(error @ (CopyError::Read { .. } | CopyError::Damaged { .. })) => {
                tracing::warn!("{error}: the map is fetched anew from the meta group");
                None
            }
        };
        let admission = joined.map(|joined| joined.admission);
        let mut copy = copy.unwrap_or_else(|| {
            let mut map = formation.clone();
            if let Some(meta) = admission.as_ref().and_then(Admission::meta) {
                map.learn(&meta);
            }
            MapCopy { map, ..MapCopy::default() }
        });
        let told_level = admission.as_ref().map_or(0, |admission| admission.level);
        copy.level = copy.level.max(FeatureLevel(told_level));
        levels::check(copy.level, config.levels())?;
        let told = admission.map(|admission| admission.joined).unwrap_or_default();
        let entries = copy.members.iter().map(|member| &member.entry).chain(&told);
        let nodes = Arc::new(members::all_nodes(&formed_of, entries));
        let map = Arc::new(copy.map.clone());
        Ok(Self { formation: Arc::new(formation), copy, map, nodes })
    }
}
