//! Old entries that Raft no longer holds in memory, for followers that are behind: read back from
//! the log. One per core.
//!
//! Groups whose follower was away stand in the same frames. So what all of them want is gathered,
//! and one read gives to each what it holds of theirs: else a core of a thousand groups would read
//! its log a thousand times. One read at a time, by turns for whoever is furthest behind (it comes
//! up with the next, and both go on together) and for whoever is nearest to the end.

use std::collections::BTreeMap;

use oarlock_raft::{Entry, LogRead};
use oarlock_types::{GroupId, NodeId};
use oarlock_wal::{EntriesRead, FrameSpan};

use crate::files::Purpose;
use crate::output::{FileDone, FileJob};
use crate::shard::Shard;

/// What followers want of the log.
#[derive(Debug, Default)]
pub(crate) struct LogReads {
    wanted: BTreeMap<(GroupId, NodeId), EntriesRead>,
    /// Frames are being read for them.
    is_reading: bool,
    /// Whose turn it was.
    was_newest: bool,
}

impl LogReads {
    fn next(&mut self) -> Option<EntriesRead> {
        let all = self.wanted.values();
        let place = |read: &&EntriesRead| read.span.first_lsn;
        self.was_newest = !self.was_newest;
        if self.was_newest { all.max_by_key(place) } else { all.min_by_key(place) }.copied()
    }
}

impl Shard {
    /// A follower wants old entries. Only the newest wish of each counts.
    pub(crate) fn read_log(&mut self, group: GroupId, wanted: LogRead) {
        let follower = (group, wanted.to_node);
        self.files.log_reads.wanted.remove(&follower);
        match self.wal.locate(group, wanted.from, wanted.to) {
            Some(read) => drop(self.files.log_reads.wanted.insert(follower, read)),
            None => self.log_read_failed(follower),
        }
    }

    /// Starts the next read if none is under way and the budget allows one.
    pub(crate) fn feed_log_reads(&mut self) {
        let reads = &mut self.files.log_reads;
        if reads.is_reading || reads.wanted.is_empty() || !self.files.log_budget.allows(self.now) {
            return;
        }
        let Some(first) = reads.next() else { return };
        let span = self.wal.join(&first, reads.wanted.values());
        reads.is_reading = true;
        self.start_job(Purpose::Log(span), FileJob::ReadFrames(span));
    }

    /// Frames of the log have come: each follower that wants entries of them gets them, or a
    /// beginning.
    pub(crate) fn frames_read(&mut self, span: &FrameSpan, done: FileDone) {
        let reads = &mut self.files.log_reads;
        reads.is_reading = false;
        let within = reads.wanted.iter().filter(|(_, read)| span.encloses(&read.span));
        let (followers, wanted): (Vec<_>, Vec<_>) = within.map(|(f, read)| (*f, *read)).unzip();
        let found = match done {
            FileDone::Read(bytes) => self.wal.entries_of(span, &bytes, &wanted),
            FileDone::Written | FileDone::Failed => Vec::new(),
        };
        let mut found = found.into_iter();
        for follower in followers {
            let entries = match found.next() {
                // Not come to: the next read begins behind what is damaged.
                Some(None) => continue,
                Some(Some(entries)) => entries.ok(),
                None => None,
            };
            self.files.log_reads.wanted.remove(&follower);
            let Some(entries) = entries else {
                self.log_read_failed(follower);
                continue;
            };
            // What is read beside it is not counted: the less a follower lacks, the more that is.
            let bytes: usize = entries.iter().map(Entry::size_bytes).sum();
            self.files.log_budget.take(bytes as u64);
            let (group, node) = follower;
            self.with_group(group, |raft, ctx, out| raft.log_read(ctx, node, entries, out));
        }
    }

    fn log_read_failed(&mut self, (group, node): (GroupId, NodeId)) {
        self.with_group(group, |raft, ctx, out| raft.log_read_failed(ctx, node, out));
    }
}

#[cfg(test)]
mod tests {
    use oarlock_types::{Index, Lsn, SegmentId};

    use super::*;

    /// Whoever is behind all others and whoever lacks least go on by turns.
    #[test]
    fn the_furthest_behind_and_the_nearest_take_turns() {
        let mut reads = LogReads::default();
        assert_eq!(reads.next(), None);
        for place in [5, 2, 9] {
            let segment = SegmentId(1);
            let (offset, len, first_lsn) = (place * 4096, 4096, Lsn(place));
            let span = FrameSpan { segment, offset, len, first_lsn, last_lsn: first_lsn };
            let (group, from, to) = (GroupId(place), Index(1), Index(1));
            reads.wanted.insert((group, NodeId(2)), EntriesRead { span, group, from, to });
        }
        let mut turns: Vec<u64> =
            (0..4).filter_map(|_| reads.next()).map(|read| read.group.get()).collect();
        turns.sort_unstable();
        assert_eq!(turns, [2, 2, 9, 9]);
        let two = [reads.next(), reads.next()].map(|read| read.map(|read| read.group));
        assert_ne!(two[0], two[1]);
    }
}
