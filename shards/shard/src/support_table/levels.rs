//! Feature levels in the table: the cluster's, and what the other nodes understand. It must not decide what
//! follows from them.

use std::sync::atomic::Ordering::SeqCst;

use oarlock_types::{FeatureLevel, FeatureLevels, Incarnation, NodeId};

use super::{INCARNATION_MAX, SupportTable};

impl SupportTable {
    /// The cluster's feature level, as this node knows it durably.
    #[must_use]
    pub fn level(&self) -> FeatureLevel {
        FeatureLevel(self.level.load(SeqCst))
    }

    /// The cluster has come to this level.
    pub fn raise_level(&self, level: FeatureLevel) {
        self.level.fetch_max(level.get(), SeqCst);
    }

    /// The highest level of which a peer has said that the cluster is there, refusing this node for it.
    #[must_use]
    pub fn heard_level(&self) -> FeatureLevel {
        FeatureLevel(self.heard_level.load(SeqCst))
    }

    /// A peer refuses this node, since the cluster is at this level.
    pub fn hear_level(&self, level: FeatureLevel) {
        self.heard_level.fetch_max(level.get(), SeqCst);
    }

    /// The feature levels that a peer understands; `None` while its newest incarnation has not said so.
    #[must_use]
    pub fn peer_levels(&self, node: NodeId) -> Option<FeatureLevels> {
        let peer = self.peer(node)?;
        let said = peer.levels.load(SeqCst);
        let bytes = said.to_le_bytes();
        let level = |at: usize| FeatureLevel(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        let newest = Incarnation(peer.incarnation.load(SeqCst));
        let levels = FeatureLevels { min: level(2), max: level(0) };
        (newest != Incarnation(0) && said == pack_levels(newest, levels)).then_some(levels)
    }

    /// Takes note of the feature levels that a peer's incarnation understands.
    pub fn learn_levels(&self, node: NodeId, incarnation: Incarnation, levels: FeatureLevels) {
        if let Some(peer) = self.peer(node) {
            // An older incarnation's word is less than that of a newer one.
            peer.levels.fetch_max(pack_levels(incarnation, levels), SeqCst);
        }
    }
}

/// Incarnation and levels in one word, so that nobody sees those of one with the other.
fn pack_levels(incarnation: Incarnation, levels: FeatureLevels) -> u64 {
    debug_assert!(incarnation.get() <= INCARNATION_MAX, "invariant: it has 28 bits");
    incarnation.get() << 32 | u64::from(levels.min.get()) << 16 | u64::from(levels.max.get())
}

#[cfg(test)]
mod tests {
    use oarlock_types::Mono;

    use super::super::TableConfig;
    use super::*;

    const OTHER: NodeId = NodeId(2);
    const FIFTH: Incarnation = Incarnation(5);

    #[test]
    fn the_levels_of_a_peer_are_those_of_its_newest_incarnation() {
        let table = SupportTable::new(&TableConfig {
            node: NodeId(1),
            incarnation: Incarnation(1),
            cores: 1,
            cores_max: 1,
            origin: Mono(0),
            peers: &[(OTHER, 1)],
        });
        let levels = |max| FeatureLevels { min: FeatureLevel(1), max: FeatureLevel(max) };
        assert_eq!(table.peer_levels(OTHER), None);
        assert_eq!(table.learn_incarnation(OTHER, FIFTH), FIFTH);
        assert_eq!(table.peer_levels(OTHER), None, "it was heard, but has not said");
        table.learn_levels(OTHER, FIFTH, levels(0x0203));
        assert_eq!(table.peer_levels(OTHER), Some(levels(0x0203)));
        table.learn_incarnation(OTHER, FIFTH.next());
        assert_eq!(table.peer_levels(OTHER), None, "it may be another build");
        table.learn_levels(OTHER, FIFTH.next(), levels(1));
        table.learn_levels(OTHER, FIFTH, levels(3));
        assert_eq!(table.peer_levels(OTHER), Some(levels(1)), "the late word of an old one");
        assert_eq!(table.peer_levels(NodeId(77)), None);
        table.raise_level(FeatureLevel(3));
        table.raise_level(FeatureLevel(2));
        assert_eq!(table.level(), FeatureLevel(3));
    }
}
