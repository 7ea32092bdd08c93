//! What the log holds of each group, in memory: which frames its newest create, hard state and
//! checkpoint stand in, and in which its entries. One per log. Holds no record's content.
//!
//! An idle, compacted group costs one map entry of a hundred-odd bytes and no allocation.

use std::collections::BTreeMap;

use oarlock_types::{GroupId, Index, Lsn};

use crate::segments::Segments;

/// A run is closed when the frames it spans outgrow this: to read a few entries, at most so much
/// is read.
const RUN_BYTES_MAX: usize = 256 << 10;

/// Entries that follow each other, in frames of one segment. Frames in between may hold other
/// groups' records, or older entries of this one that were replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: Index,
    pub(crate) last: Index,
    pub(crate) lsn_first: Lsn,
    pub(crate) lsn_last: Lsn,
    pub(crate) bytes: u64,
}

impl Run {
    fn count(&self) -> u64 {
        self.last.get() - self.first.get() + 1
    }

    /// The part within `first..=last`, with its share of the bytes.
    fn clip(&self, first: Index, last: Index) -> Option<Self> {
        let (first, last) = (self.first.max(first), self.last.min(last));
        if first > last {
            return None;
        }
        let kept = last.get() - first.get() + 1;
        let bytes = self.bytes * kept / self.count();
        Some(Self { first, last, bytes, ..*self })
    }

    /// Both as one, where `next` follows in index and place, and what they span is not too long.
    fn grown(&self, next: &Self, segments: &Segments) -> Option<Self> {
        let follows = self.last.next() == next.first && self.lsn_last <= next.lsn_first;
        if !follows || segments.of(self.lsn_first) != segments.of(next.lsn_first) {
            return None;
        }
        let span = segments.span(self.lsn_first, next.lsn_last)?;
        (span.len <= RUN_BYTES_MAX || self.lsn_first == next.lsn_first).then_some(Self {
            last: next.last,
            lsn_last: next.lsn_last,
            bytes: self.bytes + next.bytes,
            ..*self
        })
    }
}

/// One group's part of the index.
#[derive(Debug, Default)]
pub(crate) struct GroupIndex {
    /// Frames of the newest record of each kind; zero: none.
    pub(crate) created: Lsn,
    pub(crate) hard_state: Lsn,
    pub(crate) checkpoint: Lsn,
    pub(crate) checkpoint_index: Index,
    pub(crate) log_bytes: u64,
    /// The oldest frame that a run begins in; zero: no runs.
    pub(crate) oldest: Lsn,
    /// In order of index, none overlapping.
    pub(crate) runs: Vec<Run>,
}

// Ten thousand idle groups must stay cheap; a B-tree's nodes are at worst half empty.
const _: () = assert!(2 * (size_of::<GroupId>() + size_of::<GroupIndex>()) < 200);

/// What the index has to know of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) group: GroupId,
    pub(crate) moved: bool,
    pub(crate) what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Entries { first: Index, last: Index, bytes: u64 },
    HardState,
    Checkpoint { index: Index, keep_from: Index },
    Create,
    Destroy,
}

/// The groups of one log.
#[derive(Debug, Default)]
pub(crate) struct LogIndex {
    pub(crate) groups: BTreeMap<GroupId, GroupIndex>,
}

impl LogIndex {
    /// Takes in a record of frame `lsn`, which already has its place in `segments`. Records come
    /// in the order of the log.
    pub(crate) fn apply(&mut self, note: &Note, lsn: Lsn, segments: &mut Segments) {
        match note.what {
            What::Destroy => {
                self.forget(note.group, lsn, segments);
                return;
            }
            What::Create if !note.moved => self.forget(note.group, lsn, segments),
            What::Create | What::Entries { .. } | What::HardState | What::Checkpoint { .. } => {}
        }
        let group = self.groups.entry(note.group).or_default();
        match note.what {
            What::Create => replace(&mut group.created, lsn, segments),
            What::HardState => replace(&mut group.hard_state, lsn, segments),
            What::Checkpoint { index, keep_from } => {
                replace(&mut group.checkpoint, lsn, segments);
                group.checkpoint_index = index;
                if !note.moved {
                    group.keep(keep_from, Index(u64::MAX), lsn, segments);
                }
                group.recount();
            }
            What::Entries { first, last, bytes } => {
                let run = Run { first, last, lsn_first: lsn, lsn_last: lsn, bytes };
                if note.moved {
                    group.put(run, segments);
                    group.recount();
                } else {
                    if group.runs.last().is_some_and(|newest| newest.last >= first) {
                        group.keep(Index(0), first.prev(), lsn, segments);
                        group.recount();
                    }
                    group.log_bytes += bytes;
                    group.push(run, segments);
                }
            }
            What::Destroy => {}
        }
    }

    fn forget(&mut self, group: GroupId, by: Lsn, segments: &mut Segments) {
        let Some(group) = self.groups.remove(&group) else { return };
        for lsn in group.singles().chain(group.runs.iter().map(|run| run.lsn_first)) {
            segments.release(lsn, by);
        }
    }
}

fn replace(place: &mut Lsn, lsn: Lsn, segments: &mut Segments) {
    segments.hold(lsn);
    if *place != Lsn(0) {
        segments.release(*place, lsn);
    }
    *place = lsn;
}

impl GroupIndex {
    /// The frames of its create, hard state and checkpoint, as far as there are any.
    pub(crate) fn singles(&self) -> impl Iterator<Item = Lsn> {
        let all = [self.created, self.hard_state, self.checkpoint];
        all.into_iter().filter(|lsn| *lsn != Lsn(0))
    }

    /// To be called when runs other than the newest have changed.
    fn recount(&mut self) {
        self.oldest = self.runs.iter().map(|run| run.lsn_first).min().unwrap_or(Lsn(0));
        let after = self.checkpoint_index.next();
        let live = self.runs.iter().filter_map(|run| run.clip(after, Index(u64::MAX)));
        self.log_bytes = live.map(|run| run.bytes).sum();
    }

    /// The first of the last `bytes` of entries up to `end` that stand in frames from `since` on, by
    /// each run's average.
    pub(crate) fn tail_start(&self, end: Index, bytes: u64, since: Lsn) -> Index {
        let mut left = bytes;
        let mut start = end.next();
        for run in self.runs.iter().rev().filter_map(|run| run.clip(Index(0), end)) {
            if run.last.next() != start || run.lsn_first < since {
                break;
            }
            let fit = (run.count() * left).checked_div(run.bytes).unwrap_or(run.count());
            start = Index(start.get() - fit.min(run.count()));
            if fit < run.count() {
                break;
            }
            left -= run.bytes;
        }
        start
    }

    /// Drops entries outside `first..=last`, by order of frame `by`.
    fn keep(&mut self, first: Index, last: Index, by: Lsn, segments: &mut Segments) {
        self.runs.retain_mut(|run| match run.clip(first, last) {
            Some(kept) => {
                *run = kept;
                true
            }
            None => {
                segments.release(run.lsn_first, by);
                false
            }
        });
        if self.runs.is_empty() {
            self.runs = Vec::new();
        }
    }

    /// Adds entries behind all others; the newest run grows where it may.
    fn push(&mut self, run: Run, segments: &mut Segments) {
        if let Some(newest) = self.runs.last_mut()
            && let Some(grown) = newest.grown(&run, segments)
        {
            *newest = grown;
            return;
        }
        segments.hold(run.lsn_first);
        if self.runs.is_empty() {
            self.oldest = run.lsn_first;
            // All that most groups ever have.
            self.runs.reserve_exact(1);
        }
        self.runs.push(run);
    }

    /// Gives entries a new place, wherever they stood, and touches no others: a run that they became
    /// part of could be read only when they are durable, and those behind it would not wait.
    fn put(&mut self, run: Run, segments: &mut Segments) {
        let from = self.runs.partition_point(|old| old.last < run.first);
        let to = self.runs.partition_point(|old| old.first <= run.last);
        let replaced = self.runs.get(from..to).unwrap_or_default();
        let below = replaced.first().and_then(|old| old.clip(old.first, run.first.prev()));
        let above = replaced.last().and_then(|old| old.clip(run.last.next(), old.last));
        for run in [below, Some(run), above].into_iter().flatten() {
            segments.hold(run.lsn_first);
        }
        for old in replaced {
            segments.release(old.lsn_first, run.lsn_first);
        }
        self.runs.splice(from..to, [below, Some(run), above].into_iter().flatten());
    }
}
