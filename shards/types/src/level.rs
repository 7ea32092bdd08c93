//! Feature levels: what the nodes of a cluster may say and write, so that builds of different age can be
//! members of one. Plain data; who raises the level, and when, is decided elsewhere.
//!
//! A build understands some levels; the cluster is at one. What a level brings is proposed, sent and written
//! only once the cluster is there. What is in a log already is applied whatever the level: replicas must not
//! differ by what they have heard of it.

use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};

/// A feature level. A cluster is formed at the first, and its level never falls.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Archive, Serialize, Deserialize,
)]
pub struct FeatureLevel(pub u16);

/// What each level brings, in order.
pub const FEATURES: &[(FeatureLevel, &str)] = &[
    (FeatureLevel::FIRST, "all that was there when levels came"),
    (FeatureLevel::MERGES, "merges of ranges"),
    (FeatureLevel::PACKED, "log entries in a shorter form"),
    (FeatureLevel::CORE_MOVES, "moves between the cores of a node while it serves"),
    (FeatureLevel::SPLIT_LIVES, "splits that name the lives of the range's nodes"),
];

impl FeatureLevel {
    /// The level of a new cluster, and of one that says nothing of levels.
    pub const FIRST: Self = Self(1);
    /// Ranges can be merged.
    pub const MERGES: Self = Self(2);
    /// Log entries are packed.
    pub const PACKED: Self = Self(3);
    /// Replicas can go from core to core.
    pub const CORE_MOVES: Self = Self(4);
    /// Entries that cut ranges name the lives of the members' nodes.
    pub const SPLIT_LIVES: Self = Self(5);

    /// The oldest that this build understands.
    pub const MIN: Self = Self::FIRST;
    /// The newest that this build understands.
    pub const MAX: Self = FEATURES[FEATURES.len() - 1].0;

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// That of a cluster of which nothing else is known.
impl Default for FeatureLevel {
    fn default() -> Self {
        Self::FIRST
    }
}

impl fmt::Display for FeatureLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The levels that a node understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct FeatureLevels {
    /// The oldest.
    pub min: FeatureLevel,
    /// The newest.
    pub max: FeatureLevel,
}

impl FeatureLevels {
    /// Those of this build.
    pub const BUILD: Self = Self { min: FeatureLevel::MIN, max: FeatureLevel::MAX };
    /// Those of a node that says nothing of levels.
    pub const FIRST: Self = Self { min: FeatureLevel::FIRST, max: FeatureLevel::FIRST };

    /// Those of this build up to one that the operator may have set.
    #[must_use]
    pub fn held(at: Option<FeatureLevel>) -> Self {
        let max = at.map_or(FeatureLevel::MAX, |at| at.min(FeatureLevel::MAX));
        Self { max: max.max(FeatureLevel::MIN), ..Self::BUILD }
    }

    /// Whether a level is among them.
    #[must_use]
    pub fn has(&self, level: FeatureLevel) -> bool {
        (self.min..=self.max).contains(&level)
    }
}

impl fmt::Display for FeatureLevels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max {
            write!(f, "level {} only", self.max)
        } else {
            write!(f, "levels {} to {}", self.min, self.max)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_follow_each_other_without_a_gap() {
        let levels = FEATURES.iter().map(|(level, _)| level.get());
        assert!(levels.eq(1..=FeatureLevel::MAX.get()));
        assert!(FeatureLevel::MIN <= FeatureLevel::MAX);
    }

    #[test]
    fn a_node_is_held_among_the_levels_of_its_build() {
        let max = |at: Option<u16>| FeatureLevels::held(at.map(FeatureLevel)).max;
        assert_eq!(max(None), FeatureLevel::MAX);
        assert_eq!(max(Some(1)), FeatureLevel(1));
        assert_eq!(max(Some(u16::MAX)), FeatureLevel::MAX, "an older build than the file is for");
        assert_eq!(max(Some(0)), FeatureLevel::MIN);
        let held = FeatureLevels::held(Some(FeatureLevel(1)));
        assert_eq!((held.has(FeatureLevel(1)), held.has(FeatureLevel(2))), (true, false));
        assert_eq!(held.to_string(), "level 1 only");
        assert_eq!(FeatureLevels::BUILD.to_string(), "levels 1 to 5");
    }
}
