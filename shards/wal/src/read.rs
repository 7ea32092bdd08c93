//! Reading the log while it runs: entries for a follower that is behind, and the few live records
//! of an old segment, which are copied to the head so that the segment can go. Says what to read
//! and makes sense of the bytes; reads nothing itself.

use std::collections::{BTreeMap, BTreeSet};

use oarlock_codec::record::{Records, Step};
use oarlock_codec::{RawRecord, Record, RecordKind};
use oarlock_raft::Entry;
use oarlock_types::{GroupId, Index, Lsn, SegmentId};
use thiserror::Error;

use crate::index::{GroupIndex, Run, What};
use crate::layout::{self, FrameKey};
use crate::segments::FrameSpan;
use crate::wal::Wal;

/// Reads are joined up to this length.
const READ_BYTES_MAX: usize = 1 << 20;
/// What a straggler's create, hard state or checkpoint is counted with.
const SINGLE_BYTES: u64 = 128;

/// Frames to read for the entries `from..=to` of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntriesRead {
    /// The frames.
    pub span: FrameSpan,
    /// The group.
    pub group: GroupId,
    /// The first entry.
    pub from: Index,
    /// The last entry.
    pub to: Index,
}

impl EntriesRead {
    /// What it gives: `log` is what its frames hold of its group, unless that is damaged; `damage`
    /// ended the walk through the frames.
    fn found(
        &self,
        log: Option<BTreeMap<Index, Entry>>,
        damage: Option<ReadError>,
    ) -> Option<Result<Vec<Entry>, ReadError>> {
        let FrameSpan { segment, offset, len, .. } = self.span;
        if let Some(ReadError::Damaged { offset: at, .. }) = damage
            && at < offset + len as u64
        {
            return damage.filter(|_| at >= offset).map(Err);
        }
        let Some(mut log) = log else { return Some(Err(ReadError::Damaged { segment, offset })) };
        let wanted = (self.from.get()..=self.to.get()).map(Index);
        let found: Vec<Entry> = wanted.map_while(|index| log.remove(&index)).collect();
        let missing = ReadError::Missing { group: self.group, index: self.from };
        Some(if found.is_empty() { Err(missing) } else { Ok(found) })
    }
}

/// A group that holds the oldest segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Straggler {
    /// The group.
    pub group: GroupId,
    /// Its entries there, first and last.
    pub entries: Option<(Index, Index)>,
    /// About how many bytes it would take to copy what it has there.
    pub bytes: u64,
}

/// What [`Wal::rewrite`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// Records that were queued.
    pub records_count: usize,
    /// Groups that could not be copied because their bits changed: their replicas must be rebuilt
    /// before the segment can go.
    pub damaged: Vec<GroupId>,
}

/// Why bytes that were read back are not what the log wrote there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReadError {
    /// The frame is not there or its bits changed. After [`Wal::retire`] gave the segment away this
    /// is no damage: ask again.
    #[error("the log can not be read back: segment {} at byte {offset}", .segment.get())]
    Damaged {
        /// The segment.
        segment: SegmentId,
        /// The frame's offset.
        offset: u64,
    },
    /// The frames are right but do not hold the first entry that was asked for.
    #[error("the log does not hold entry {index} of {group} where its index says")]
    Missing {
        /// The group.
        group: GroupId,
        /// The entry.
        index: Index,
    },
}

impl Wal {
    /// What to read for the first of the entries `from..=to` of `group`, and for as many behind it as
    /// stand close by. Ends early where entries are not durable yet or are about to be replaced; nothing
    /// if `from` itself is not to be had.
    #[must_use]
    pub fn locate(&self, group: GroupId, from: Index, to: Index) -> Option<EntriesRead> {
        let index = self.index.groups.get(&group)?;
        let notes = self.queue.iter().flat_map(|frame| &frame.notes);
        let replaced = notes.filter(|note| note.group == group).map(|note| match note.what {
            What::Entries { first, .. } if !note.moved => first,
            What::Create if note.moved => Index(u64::MAX),
            What::Create | What::Destroy => Index(0),
            What::Entries { .. } | What::HardState | What::Checkpoint { .. } => Index(u64::MAX),
        });
        let to = replaced.min().map_or(to, |first| to.min(first.prev()));
        let run = index.runs.get(index.runs.partition_point(|run| run.last < from))?;
        if run.first > from || from > to || run.lsn_first > self.durable {
            return None;
        }
        let span = self.segments.span(run.lsn_first, run.lsn_last.min(self.durable))?;
        Some(EntriesRead { span, group, from, to: run.last.min(to) })
    }

    /// The frames of `first`, and those behind them up to the last of `others` that one read of at
    /// most a MiB can reach: groups that catch up together stand in the same frames.
    #[must_use]
    pub fn join<'a>(
        &self,
        first: &EntriesRead,
        others: impl IntoIterator<Item = &'a EntriesRead>,
    ) -> FrameSpan {
        let others = others.into_iter().map(|read| &read.span);
        let behind = others.filter(|span| {
            span.segment == first.span.segment && span.first_lsn >= first.span.first_lsn
        });
        let mut ends: Vec<Lsn> = behind.map(|span| span.last_lsn).collect();
        ends.sort_unstable();
        let mut joined = first.span;
        for end in ends {
            match self.segments.span(joined.first_lsn, end.max(joined.last_lsn)) {
                Some(longer) if longer.len <= READ_BYTES_MAX => joined = longer,
                Some(_) | None => break,
            }
        }
        joined
    }

    /// The entries of each of `reads`, whose frames are all among those of `span`: all of them, or
    /// fewer at the end if the last frame was in flight when [`Wal::locate`] named it. Nothing for a
    /// read that was not come to, since a frame before its own is damaged.
    ///
    /// # Errors
    /// For each by itself, when the bytes are not what was written.
    pub fn entries_of(
        &self,
        span: &FrameSpan,
        bytes: &[u8],
        reads: &[EntriesRead],
    ) -> Vec<Option<Result<Vec<Entry>, ReadError>>> {
        let mut of_group: BTreeMap<GroupId, Vec<usize>> = BTreeMap::new();
        for (place, read) in reads.iter().enumerate() {
            of_group.entry(read.group).or_default().push(place);
        }
        let mut logs: Vec<Option<BTreeMap<Index, Entry>>> =
            vec![Some(BTreeMap::new()); reads.len()];
        let walked = each_record(self.config.key(span.segment), span, bytes, |lsn, step| {
            let group = match step {
                Step::Record(raw) => raw.group,
                Step::Bad { group } | Step::Unknown { group } => group,
                Step::Lost => return None,
            };
            for place in of_group.get(&group).into_iter().flatten().copied() {
                if reads[place].span.has(lsn) {
                    let mut log = logs[place].take();
                    if let (Some(log), Step::Record(raw)) = (&mut log, &step)
                        && replay_entries(log, raw).is_some()
                    {
                        logs[place] = Some(std::mem::take(log));
                    }
                }
            }
            Some(())
        });
        let damage = walked.err();
        reads.iter().zip(logs).map(|(read, log)| read.found(log, damage)).collect()
    }

    /// Which groups hold the oldest segment, unless it is the one that is being written.
    #[must_use]
    pub fn stragglers(&self) -> Vec<Straggler> {
        let Some(behind) = self.segments.behind_oldest() else { return Vec::new() };
        let held = |lsn: Lsn| lsn != Lsn(0) && lsn < behind;
        let mut found = Vec::new();
        for (group, index) in &self.index.groups {
            let singles = index.singles().filter(|lsn| held(*lsn)).count() as u64;
            let mut entries = None;
            let mut bytes = singles * SINGLE_BYTES;
            for run in index.runs.iter().filter(|run| held(run.lsn_first)) {
                let (first, _) = entries.unwrap_or((run.first, run.last));
                entries = Some((first, run.last));
                bytes += run.bytes;
            }
            if singles > 0 || entries.is_some() {
                found.push(Straggler { group: *group, entries, bytes });
            }
        }
        found
    }

    /// About how many bytes of all segments are still needed.
    #[must_use]
    pub fn needed_bytes(&self) -> u64 {
        let of_group = |index: &GroupIndex| {
            let runs = index.runs.iter().map(|run| run.bytes).sum::<u64>();
            runs + index.singles().count() as u64 * SINGLE_BYTES
        };
        self.index.groups.values().map(of_group).sum()
    }

    /// About how many bytes of each segment are still needed, for those where any are.
    #[must_use]
    pub fn live_bytes(&self) -> BTreeMap<SegmentId, u64> {
        let mut live = BTreeMap::new();
        for index in self.index.groups.values() {
            let singles = index.singles().map(|lsn| (lsn, SINGLE_BYTES));
            let runs = index.runs.iter().map(|run| (run.lsn_first, run.bytes));
            for (lsn, bytes) in singles.chain(runs) {
                if let Some(segment) = self.segments.of(lsn) {
                    *live.entry(segment).or_default() += bytes;
                }
            }
        }
        live
    }

    /// What to read to copy everything live out of the oldest segment, for [`Wal::rewrite`].
    #[must_use]
    pub fn straggler_reads(&self) -> Vec<FrameSpan> {
        let Some(behind) = self.segments.behind_oldest() else { return Vec::new() };
        let mut items = BTreeSet::new();
        for index in self.index.groups.values() {
            let singles = index.singles().map(|lsn| (lsn, lsn));
            let runs = index.runs.iter().map(|run| (run.lsn_first, run.lsn_last));
            items.extend(singles.chain(runs).filter(|(first, _)| *first < behind));
        }
        let mut reads: Vec<FrameSpan> = Vec::new();
        for (first, last) in items {
            let joined = reads
                .last()
                .and_then(|read| self.segments.span(read.first_lsn, read.last_lsn.max(last)));
            match (reads.last_mut(), joined) {
                (Some(read), Some(joined)) if joined.len <= READ_BYTES_MAX => *read = joined,
                (Some(_) | None, _) => reads.extend(self.segments.span(first, last)),
            }
        }
        reads
    }

    /// Queues copies of everything that is live in the frames of `read`. A group that has other
    /// records waiting is passed over: ask again for [`Wal::straggler_reads`] once they are in
    /// frames.
    ///
    /// # Errors
    /// When a frame is not what was written; nothing is queued then.
    pub fn rewrite(&mut self, read: &FrameSpan, bytes: &[u8]) -> Result<Rewritten, ReadError> {
        let key = self.config.key(read.segment);
        let notes = self.queue.iter().flat_map(|frame| &frame.notes);
        let busy: BTreeSet<GroupId> = notes.map(|note| note.group).collect();
        let in_read = |lsn: Lsn| read.has(lsn);
        let mut copies: Vec<Record> = Vec::new();
        let mut wanted: BTreeSet<(Lsn, GroupId, RecordKind)> = BTreeSet::new();
        let mut runs: Vec<(GroupId, Run)> = Vec::new();
        for (group, index) in self.index.groups.iter().filter(|(group, _)| !busy.contains(group)) {
            let singles = [
                (index.created, RecordKind::Create),
                (index.hard_state, RecordKind::HardState),
                (index.checkpoint, RecordKind::Checkpoint),
            ];
            let singles = singles.into_iter().filter(|(lsn, _)| in_read(*lsn));
            wanted.extend(singles.map(|(lsn, kind)| (lsn, *group, kind)));
            let whole = |run: &&Run| in_read(run.lsn_first) && in_read(run.lsn_last);
            runs.extend(index.runs.iter().filter(whole).map(|run| (*group, *run)));
        }
        let mut singles: BTreeMap<(Lsn, GroupId, RecordKind), Record> = BTreeMap::new();
        let mut entries: BTreeMap<GroupId, BTreeMap<Index, Entry>> = BTreeMap::new();
        let of_runs: BTreeSet<GroupId> = runs.iter().map(|(group, _)| *group).collect();
        let mut damaged: BTreeSet<GroupId> = BTreeSet::new();
        each_record(key, read, bytes, |lsn, step| {
            let raw = match step {
                Step::Record(raw) => raw,
                Step::Bad { group } | Step::Unknown { group } => {
                    damaged.insert(group);
                    return Some(());
                }
                Step::Lost => return None,
            };
            let id = (lsn, raw.group, raw.kind);
            if wanted.contains(&id) {
                // The last of a frame is the newest.
                singles.insert(id, raw.decode().ok()?);
            }
            if of_runs.contains(&raw.group) {
                replay_entries(entries.entry(raw.group).or_default(), &raw)?;
            }
            Some(())
        })?;
        copies.extend(singles.into_values());
        for (group, run) in runs {
            let found = entries.get(&group).into_iter();
            let found = found.flat_map(|found| found.range(run.first..=run.last));
            let found: Vec<Entry> = found.map(|(_, entry)| entry.clone()).collect();
            if found.len() as u64 != run.last.get() - run.first.get() + 1 {
                damaged.insert(group);
                continue;
            }
            // Runs that follow each other become one record: many frames of few entries, one of many.
            match copies.last_mut() {
                Some(Record::Entries { group: before, entries })
                    if *before == group
                        && entries.last().is_some_and(|e| e.at.index.next() == run.first) =>
                {
                    entries.extend(found);
                }
                Some(_) | None => copies.push(Record::Entries { group, entries: found }),
            }
        }
        copies.retain(|record| !damaged.contains(&record.group()));
        for record in &copies {
            self.queue_record(record, true);
        }
        let damaged = damaged.into_iter().collect();
        Ok(Rewritten { records_count: copies.len(), damaged })
    }
}

/// Replays one group's entries as recovery would; `None` if a record's content is not valid.
fn replay_entries(log: &mut BTreeMap<Index, Entry>, raw: &RawRecord<'_>) -> Option<()> {
    match raw.kind {
        RecordKind::Entries | RecordKind::PackedEntries => {
            let Record::Entries { entries, .. } = raw.decode().ok()? else { return None };
            if !raw.moved {
                log.split_off(&entries.first()?.at.index);
            }
            log.extend(entries.into_iter().map(|entry| (entry.at.index, entry)));
        }
        RecordKind::Create if raw.moved => {}
        RecordKind::Create | RecordKind::Destroy => log.clear(),
        RecordKind::HardState | RecordKind::Checkpoint => {}
    }
    Some(())
}

/// Calls `take` for each step through the records of the frames of `span`, whose heads must all be
/// there; that their bodies are whole is for `take` to judge.
fn each_record(
    key: FrameKey,
    span: &FrameSpan,
    bytes: &[u8],
    mut take: impl FnMut(Lsn, Step<'_>) -> Option<()>,
) -> Result<(), ReadError> {
    let mut at = 0;
    let mut lsn = span.first_lsn;
    let mut payload = Vec::new();
    while lsn <= span.last_lsn {
        let damaged = ReadError::Damaged { segment: span.segment, offset: span.offset + at as u64 };
        let rest = bytes.get(at..).ok_or(damaged)?;
        let head = layout::read_head(key, rest).filter(|head| head.lsn == lsn);
        let head = head.or_else(|| layout::repair_head(key, Some(lsn), rest)).ok_or(damaged)?;
        layout::read_payload(&head, rest, &mut payload);
        for step in Records::new(&payload) {
            take(lsn, step).ok_or(damaged)?;
        }
        at += head.frame_bytes();
        lsn = lsn.next();
    }
    Ok(())
}
