//! The map of ranges: what the cluster was formed with, and what splits have made of it since. The
//! world's is the newest that any replica has told of; clients have an older one until they are refused.
//!
//! Each group of the formation has a keyspace of its own, and the groups that splits make of it are its
//! family: a history is judged by family, since each key was always somebody's in it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use oarlock_shard::Split;
use oarlock_types::{GroupId, RangeBounds, RangeEpoch};

use crate::config::Config;
use crate::linearizability::Action;

/// Ids of groups that splits make are their family's and a multiple of this.
const FAMILY_IDS: u64 = 1_000_000;
/// Stands for the keyspace of all groups, where there is but one.
const ONE: GroupId = GroupId(1);

/// The group of the formation that a group comes from.
#[must_use]
pub fn family(group: GroupId) -> GroupId {
    GroupId(group.get() % FAMILY_IDS)
}

/// The map.
#[derive(Clone, Debug)]
pub struct Ranges {
    /// All groups but the meta group are of one keyspace.
    is_one: bool,
    bounds: BTreeMap<GroupId, BTreeMap<GroupId, RangeBounds>>,
    cuts: u64,
    /// Groups whose ranges others have taken.
    ended: BTreeSet<GroupId>,
}

impl Ranges {
    pub(crate) fn new(config: &Config) -> Self {
        let is_one = config.cluster.is_some();
        let mut ranges = Self { is_one, bounds: BTreeMap::new(), cuts: 0, ended: BTreeSet::new() };
        for group in config.formed_ids() {
            let bounds = config.formed(group).unwrap_or_default();
            ranges.bounds.entry(ranges.keyspace(group)).or_default().insert(group, bounds);
        }
        ranges
    }

    /// What stands for the keyspace of a group.
    pub(crate) fn keyspace(&self, group: GroupId) -> GroupId {
        match group {
            GroupId::META => group,
            _ if self.is_one => ONE,
            _ => family(group),
        }
    }

    /// A new group's id.
    pub(crate) fn next_id(&mut self, group: GroupId) -> GroupId {
        self.cuts += 1;
        GroupId(family(group).get() + self.cuts * FAMILY_IDS)
    }

    /// A replica tells of a split, perhaps late. True if the new group was not known yet, and the groups whose
    /// ranges the cut one has taken since.
    pub(crate) fn note(&mut self, split: &Split) -> (bool, Vec<GroupId>) {
        let mut taken = self.note_bounds(split.parent.0, &split.parent.1);
        let (child, bounds) = &split.child;
        let keyspace = self.keyspace(*child);
        let family = self.bounds.entry(keyspace).or_default();
        if family.contains_key(child) || self.ended.contains(child) {
            return (false, taken);
        }
        let has_taken =
            |known: &RangeBounds| known.contains(&bounds.start) && known.epoch > bounds.epoch;
        if family.values().any(has_taken) {
            self.ended.insert(*child);
            taken.push(*child);
        } else {
            family.insert(*child, bounds.clone());
            // What the cut range took right before it is the new one's.
            taken.extend(self.take(*child, bounds));
        }
        (true, taken)
    }

    /// A replica tells of a group's bounds. Gives the groups whose ranges it has taken.
    pub(crate) fn note_bounds(&mut self, group: GroupId, bounds: &RangeBounds) -> Vec<GroupId> {
        let keyspace = self.keyspace(group);
        let family = self.bounds.entry(keyspace).or_default();
        let is_news = family.get(&group).is_some_and(|known| known.epoch < bounds.epoch);
        if !is_news {
            return Vec::new();
        }
        family.insert(group, bounds.clone());
        self.take(group, bounds)
    }

    /// Ends the groups whose ranges stand in a newer one.
    fn take(&mut self, group: GroupId, bounds: &RangeBounds) -> Vec<GroupId> {
        let family = self.bounds.entry(self.keyspace(group)).or_default();
        let is_taken = |other: &GroupId, known: &mut RangeBounds| {
            *other != group && bounds.contains(&known.start) && known.epoch < bounds.epoch
        };
        let taken: Vec<GroupId> = family.extract_if(.., is_taken).map(|(group, _)| group).collect();
        self.ended.extend(&taken);
        taken
    }

    /// Whether another one has taken a group's range.
    pub(crate) fn has_ended(&self, group: GroupId) -> bool {
        self.ended.contains(&group)
    }

    /// Groups whose ranges others have taken.
    pub(crate) fn ended(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.ended.iter().copied()
    }

    /// The bounds of the range before a group's.
    pub(crate) fn left_of(&self, group: GroupId) -> Option<RangeBounds> {
        let start = self.bounds(group).start;
        let ends_there = |bounds: &&RangeBounds| bounds.end.as_ref() == Some(&start);
        let lefts = self.bounds.get(&self.keyspace(group))?.values().filter(ends_there);
        lefts.max_by_key(|bounds| bounds.epoch).cloned()
    }

    /// The group of a family that has a key.
    pub(crate) fn holder(&self, family: GroupId, key: &[u8]) -> Option<(GroupId, RangeEpoch)> {
        let holders = self.bounds.get(&self.keyspace(family))?.iter();
        let holders = holders.filter(|(_, b)| b.contains(key));
        holders.max_by_key(|(_, bounds)| bounds.epoch).map(|(group, b)| (*group, b.epoch))
    }

    /// All groups.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.bounds.values().flat_map(BTreeMap::keys).copied()
    }

    /// The groups of a group's family.
    pub(crate) fn relatives(&self, group: GroupId) -> Vec<GroupId> {
        let family = self.bounds.get(&self.keyspace(group)).into_iter();
        family.flat_map(BTreeMap::keys).copied().collect()
    }

    /// The keys of a group.
    pub(crate) fn bounds(&self, group: GroupId) -> RangeBounds {
        let bounds = self.bounds.get(&self.keyspace(group)).and_then(|family| family.get(&group));
        bounds.cloned().unwrap_or_default()
    }

    /// The group of a family that holds all that an operation looks at, if it is one.
    pub(crate) fn of_action(
        &self,
        family: GroupId,
        action: &Action,
    ) -> Option<(GroupId, RangeEpoch)> {
        let (keys, end): (Vec<&Bytes>, Option<&Bytes>) = match action {
            Action::Read(keys) => (keys.iter().collect(), None),
            Action::Write(pairs) => (pairs.iter().map(|(key, _)| key).collect(), None),
            Action::Delete(key)
            | Action::Swap { key, .. }
            | Action::Add(key, _)
            | Action::Append(key, _) => (vec![key], None),
            Action::Scan(start, end) => (vec![start], end.as_ref()),
        };
        let scans = matches!(action, Action::Scan(..));
        let holds = |bounds: &RangeBounds| {
            let ends_behind = match (&bounds.end, end) {
                (None, _) => true,
                (Some(_), None) => !scans,
                (Some(bound), Some(end)) => end <= bound,
            };
            ends_behind && keys.iter().all(|key| bounds.contains(key))
        };
        // Of what two versions say that do not know of each other the newer is right.
        let holders = self.bounds.get(&self.keyspace(family))?.iter();
        let holders = holders.filter(|(_, bounds)| holds(bounds));
        holders.max_by_key(|(_, bounds)| bounds.epoch).map(|(group, b)| (*group, b.epoch))
    }
}
