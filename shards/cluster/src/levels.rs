//! The cluster's feature level: when it is raised, how it stands in the map, and who is refused for it. Pure.
//!
//! What the levels are is said in [`oarlock_types::level`]; how the cluster comes to one, in
//! `docs/decisions/0014-feature-levels.md`.

use oarlock_types::{FeatureLevel, FeatureLevels};
use serde::{Deserialize, Serialize};

/// A node does not understand what its cluster says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the cluster is at feature level {cluster}, and this node understands {understood}: {}", mend(*cluster)
)]
pub struct NotUnderstood {
    /// Where the cluster is.
    pub cluster: FeatureLevel,
    /// What the node understands.
    pub understood: FeatureLevels,
}

fn mend(cluster: FeatureLevel) -> &'static str {
    if cluster < FeatureLevel::MIN {
        "start the build that it ran, or one between the two"
    } else if cluster <= FeatureLevel::MAX {
        "this build understands more, so raise feature_level_max, or leave it out"
    } else {
        "start the newer build"
    }
}

/// Whether a node may be one of a cluster.
///
/// # Errors
/// When it does not understand the cluster's level.
pub fn check(cluster: FeatureLevel, understood: FeatureLevels) -> Result<(), NotUnderstood> {
    if understood.has(cluster) { Ok(()) } else { Err(NotUnderstood { cluster, understood }) }
}

/// The level to which the cluster is to be raised from `now`: the newest that this node (`own`) and all others
/// understand. `None`: it stays. Of whom nothing is known understands nothing new.
#[must_use]
pub fn raised(
    now: FeatureLevel,
    own: FeatureLevels,
    others: impl Iterator<Item = Option<FeatureLevels>>,
) -> Option<FeatureLevel> {
    let newest = |known: FeatureLevels, other: Option<FeatureLevels>| {
        let other = other?;
        Some(FeatureLevels { min: known.min.max(other.min), max: known.max.min(other.max) })
    };
    let common = { others }.try_fold(own, newest)?;
    (common.max > now && common.min <= common.max).then_some(common.max)
}

#[derive(Serialize, Deserialize)]
struct Text {
    level: u16,
}

/// The level as a line of JSON.
#[must_use]
pub fn write(level: FeatureLevel) -> String {
    serde_json::to_string(&Text { level: level.get() }).expect("invariant: a number")
}

/// The level that a line stands for; `None` if it stands for none.
#[must_use]
pub fn read(line: &[u8]) -> Option<FeatureLevel> {
    let text: Text = serde_json::from_slice(line).ok()?;
    (text.level > 0).then_some(FeatureLevel(text.level))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(min: u16, max: u16) -> FeatureLevels {
        FeatureLevels { min: FeatureLevel(min), max: FeatureLevel(max) }
    }

    fn to(now: u16, own: FeatureLevels, others: &[Option<FeatureLevels>]) -> Option<u16> {
        raised(FeatureLevel(now), own, others.iter().copied()).map(FeatureLevel::get)
    }

    #[test]
    fn the_level_is_raised_to_what_all_understand_and_never_falls() {
        let (old, new, newest) = (Some(levels(1, 1)), Some(levels(1, 2)), Some(levels(2, 4)));
        assert_eq!(to(1, levels(1, 2), &[new, new]), Some(2));
        assert_eq!(to(1, levels(1, 2), &[]), Some(2), "a node alone");
        assert_eq!(to(1, levels(1, 2), &[new, old]), None);
        assert_eq!(to(1, levels(1, 1), &[new, new]), None, "this node does not");
        assert_eq!(to(1, levels(1, 2), &[new, None]), None, "of one nothing is known");
        assert_eq!(to(2, levels(1, 4), &[newest, newest]), Some(4), "two at once");
        assert_eq!(to(2, levels(1, 4), &[newest, new]), None);
        assert_eq!(to(3, levels(1, 4), &[new]), None, "it does not fall");
        assert_eq!(to(1, levels(1, 2), &[Some(levels(3, 4))]), None, "nothing is common to them");
    }

    #[test]
    fn who_is_refused_is_told_both_levels_and_what_to_do() {
        assert_eq!(check(FeatureLevel(2), levels(1, 2)), Ok(()));
        let told = |cluster, understood| check(FeatureLevel(cluster), understood).unwrap_err();
        assert_eq!(
            told(7, levels(1, 2)).to_string(),
            "the cluster is at feature level 7, and this node understands levels 1 to 2: start the newer build"
        );
        assert_eq!(
            told(2, levels(1, 1)).to_string(),
            "the cluster is at feature level 2, and this node understands level 1 only: this build \
             understands more, so raise feature_level_max, or leave it out"
        );
        assert!(told(0, levels(1, 2)).to_string().ends_with("or one between the two"));
    }

    #[test]
    fn a_level_is_read_as_it_was_written_and_what_is_new_beside_it_passed_over() {
        assert_eq!(write(FeatureLevel(2)), r#"{"level":2}"#);
        assert_eq!(read(br#"{"level":2,"since":7}"#), Some(FeatureLevel(2)));
        for wrong in ["", "{}", "2", r#"{"level":0}"#, r#"{"level":-1}"#, r#"{"level":70000}"#] {
            assert_eq!(read(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
