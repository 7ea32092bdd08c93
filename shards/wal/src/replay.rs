//! What each group was, rebuilt from the records of a log in their order. Lives as long as one
//! recovery. Takes whatever order damage leaves: a group with a hole is marked, never a panic.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use oarlock_codec::Record;
use oarlock_raft::{Configuration, Entry, HardState, SnapshotMeta};
use oarlock_types::{GroupId, Index};

/// A group as the log knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredGroup {
    /// The configuration that its replica was created with.
    pub configuration: Configuration,
    /// What the shard gave along then.
    pub details: Bytes,
    /// The newest durable term and vote.
    pub hard_state: HardState,
    /// The newest checkpoint, whose file must be there.
    pub checkpoint: Option<SnapshotMeta>,
    /// The index of the first of `entries`, or that of the next entry if there are none.
    pub log_start: Index,
    /// The log from there, without a hole.
    pub entries: Vec<Entry>,
    /// Something of it may be lost: it must not vote or acknowledge as its former self, and is to
    /// be destroyed and rebuilt from its peers.
    pub damaged: bool,
}

#[derive(Debug, Default)]
struct Building {
    created: Option<(Configuration, Bytes)>,
    hard_state: HardState,
    checkpoint: Option<SnapshotMeta>,
    entries: BTreeMap<Index, Entry>,
    damaged: bool,
}

/// All groups of one log, under construction.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    groups: BTreeMap<GroupId, Building>,
    /// Damage of unknown extent was met: a group that was not seen before it may have lost records
    /// unless it was made or destroyed afterwards.
    unknown_lost: bool,
    settled: BTreeSet<GroupId>,
}

impl Replay {
    pub(crate) fn damage_all(&mut self) {
        self.unknown_lost = true;
        self.settled.clear();
        for group in self.groups.values_mut() {
            group.damaged = true;
        }
    }

    pub(crate) fn damage(&mut self, group: GroupId) {
        self.settled.remove(&group);
        self.building(group).damaged = true;
    }

    fn building(&mut self, group: GroupId) -> &mut Building {
        let damaged = self.unknown_lost && !self.settled.contains(&group);
        self.groups.entry(group).or_insert_with(|| Building { damaged, ..Building::default() })
    }

    pub(crate) fn apply(&mut self, record: Record, moved: bool) {
        match record {
            Record::Destroy { group } => self.settle(group),
            Record::Create { group, configuration, details } => {
                if !moved {
                    self.settle(group);
                }
                self.building(group).created = Some((configuration, details));
            }
            Record::HardState { group, hard_state } => self.building(group).hard_state = hard_state,
            Record::Checkpoint { group, meta, keep_from } => {
                let group = self.building(group);
                group.checkpoint = Some(meta);
                if !moved {
                    group.entries = group.entries.split_off(&keep_from);
                }
            }
            Record::Entries { group, entries } => {
                let group = self.building(group);
                if let Some(first) = entries.first()
                    && !moved
                {
                    group.entries.split_off(&first.at.index);
                }
                group.entries.extend(entries.into_iter().map(|entry| (entry.at.index, entry)));
            }
        }
    }

    /// The log says afresh what the group is: what was lost before concerns it no more.
    fn settle(&mut self, group: GroupId) {
        self.groups.remove(&group);
        if self.unknown_lost {
            self.settled.insert(group);
        }
    }

    /// The groups, and which of them are incomplete though no damage explains it.
    pub(crate) fn finish(self) -> (BTreeMap<GroupId, RecoveredGroup>, Vec<GroupId>, Suspicion) {
        let mut incomplete = Vec::new();
        let mut groups = BTreeMap::new();
        for (id, building) in self.groups {
            let was_damaged = building.damaged;
            let group = building.finish();
            if group.damaged && !was_damaged {
                incomplete.push(id);
            }
            groups.insert(id, group);
        }
        let suspicion = Suspicion { unknown_lost: self.unknown_lost, settled: self.settled };
        (groups, incomplete, suspicion)
    }
}

impl Building {
    fn finish(self) -> RecoveredGroup {
        let after_checkpoint =
            self.checkpoint.as_ref().map_or(Index(0), |meta| meta.position.index);
        let after_checkpoint = after_checkpoint.next();
        let count = self.entries.len();
        let log_start = self.entries.keys().next().copied().unwrap_or(after_checkpoint);
        let followed = self.entries.into_values().zip(log_start.get()..);
        let entries: Vec<Entry> = followed
            .take_while(|(entry, index)| entry.at.index.get() == *index)
            .map(|(entry, _)| entry)
            .collect();
        let last = entries.last().map(|entry| entry.at.index);
        let hole = entries.len() != count
            || log_start > after_checkpoint
            || last.is_some_and(|last| last.next() < after_checkpoint);
        let damaged = self.damaged || self.created.is_none() || hole;
        let (configuration, details) = self.created.unwrap_or_default();
        let (hard_state, checkpoint) = (self.hard_state, self.checkpoint);
        RecoveredGroup {
            configuration,
            details,
            hard_state,
            checkpoint,
            log_start,
            entries,
            damaged,
        }
    }
}

/// Whether groups that the log does not show may have been in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suspicion {
    unknown_lost: bool,
    settled: BTreeSet<GroupId>,
}

impl Suspicion {
    /// Whether there may be such groups that nobody can name.
    #[must_use]
    pub fn has_unnamed(&self) -> bool {
        self.unknown_lost
    }

    /// Whether `group`, which recovery does not list, may have had a replica here: then a new one
    /// must not be made as if there had been none.
    #[must_use]
    pub fn of_unlisted(&self, group: GroupId) -> bool {
        self.unknown_lost && !self.settled.contains(&group)
    }
}
