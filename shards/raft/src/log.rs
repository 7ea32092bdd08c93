//! One replica's log as far as memory knows it: the newest entries, the terms of all of them, and
//! how much is durable. One per group.
//!
//! It does no I/O and decides no protocol question. Entries that were evicted are in the WAL; of
//! those only the terms stay here, as runs, so that positions can be compared without a read.

use std::collections::VecDeque;

use oarlock_types::{Index, Term};

use crate::{Entry, LogPosition};

/// The log of one replica.
#[derive(Debug)]
pub(crate) struct Log {
    /// The first position of each stretch of one term; the first run starts at the lowest index
    /// whose term is known. Never empty.
    runs: VecDeque<LogPosition>,
    /// The newest entries, ending at `last`.
    cached: VecDeque<Entry>,
    /// Bytes of `cached`.
    cached_bytes: usize,
    last: LogPosition,
    /// The first index that the WAL keeps.
    first: Index,
    /// Everything up to here is on disk.
    durable: Index,
    /// From here on a completion counts only once a hard state of `truncated_in` is durable.
    truncated_at: Index,
    truncated_in: Term,
}

impl Log {
    /// The log as it stood on disk. What follows the checkpoint without belonging to it is dropped.
    pub(crate) fn new(checkpoint: LogPosition, first: Index, entries: Vec<Entry>) -> Self {
        let mut log = Self {
            runs: VecDeque::from([checkpoint]),
            cached: VecDeque::new(),
            cached_bytes: 0,
            last: checkpoint,
            first: checkpoint.index.next(),
            durable: checkpoint.index,
            truncated_at: Index(u64::MAX),
            truncated_in: Term(0),
        };
        if !continues(checkpoint, first, &entries) {
            return log;
        }
        assert!(first <= checkpoint.index.next(), "invariant: no gap between checkpoint and log");
        if first <= checkpoint.index {
            let before = LogPosition { term: entries[0].at.term, index: first };
            log.runs = VecDeque::from([before]);
            log.last = LogPosition { term: before.term, index: first.prev() };
        }
        log.first = first;
        for entry in entries {
            log.append(entry);
        }
        log.durable = log.last.index;
        log
    }

    pub(crate) fn last(&self) -> LogPosition {
        self.last
    }

    pub(crate) fn first(&self) -> Index {
        self.first
    }

    pub(crate) fn durable(&self) -> Index {
        self.durable
    }

    /// The first index that is in memory; one past the end when none is.
    pub(crate) fn cached_first(&self) -> Index {
        Index(self.last.index.0 + 1 - self.cached.len() as u64)
    }

    pub(crate) fn cached_bytes(&self) -> usize {
        self.cached_bytes
    }

    /// Bytes that the log takes in memory, payloads included.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.cached_bytes
            + self.cached.capacity() * size_of::<Entry>()
            + self.runs.capacity() * size_of::<LogPosition>()
    }

    /// The term at `index`; `None` past the end or where it is no longer known.
    pub(crate) fn term(&self, index: Index) -> Option<Term> {
        if index > self.last.index || index < self.runs[0].index {
            return None;
        }
        let after = self.runs.partition_point(|run| run.index <= index);
        Some(self.runs[after - 1].term)
    }

    /// The position at `index`, where its term is known.
    pub(crate) fn position(&self, index: Index) -> Option<LogPosition> {
        self.term(index).map(|term| LogPosition { term, index })
    }

    /// The cached entry at `index`.
    pub(crate) fn get(&self, index: Index) -> Option<&Entry> {
        let offset = index.0.checked_sub(self.cached_first().0)?;
        self.cached.get(usize::try_from(offset).ok()?)
    }

    /// Cached entries from `from` on, at least one and otherwise no more than `bytes_max`.
    pub(crate) fn batch(&self, from: Index, bytes_max: usize) -> Vec<Entry> {
        let mut bytes = 0;
        let mut index = from;
        let mut batch = Vec::new();
        while let Some(entry) = self.get(index) {
            bytes += entry.size_bytes();
            if !batch.is_empty() && bytes > bytes_max {
                break;
            }
            batch.push(entry.clone());
            index = index.next();
        }
        batch
    }

    /// The largest position not above `bound` whose term is not above its term (thesis §5.3): what
    /// may still match a log that differs at `bound`. The place before what is known if there is
    /// none.
    pub(crate) fn may_match(&self, bound: LogPosition) -> LogPosition {
        let mut end = self.last.index;
        for run in self.runs.iter().rev() {
            let index = end.min(bound.index);
            if run.term <= bound.term && index >= run.index {
                return LogPosition { term: run.term, index };
            }
            end = run.index.prev();
        }
        LogPosition { term: Term(0), index: end }
    }

    pub(crate) fn append(&mut self, entry: Entry) {
        assert_eq!(entry.at.index, self.last.index.next(), "invariant: the log has no gap");
        assert!(entry.at.term >= self.last.term, "invariant: terms never fall along the log");
        if self.runs.back().is_none_or(|run| run.term != entry.at.term) {
            // Terms are few, and a compacted log has one or two.
            self.runs.reserve_exact(1);
            self.runs.push_back(entry.at);
        }
        self.last = entry.at;
        self.cached_bytes += entry.size_bytes();
        self.cached.push_back(entry);
    }

    /// Drops `from` and all after it. A completion that is still under way may name a position that
    /// comes back later with the same term, written before: it counts only once the hard state of
    /// `term`, in which this happens, is durable, since completions come in the order of writes.
    pub(crate) fn truncate(&mut self, from: Index, term: Term) {
        while self.last.index >= from {
            let dropped = self.cached.pop_back().expect("invariant: unapplied entries are cached");
            self.cached_bytes -= dropped.size_bytes();
            if self.runs.back().is_some_and(|run| run.index == dropped.at.index) {
                self.runs.pop_back();
            }
            let index = dropped.at.index.prev();
            let run = self.runs.back().expect("invariant: the term before a cut is known");
            self.last = LogPosition { term: run.term, index };
        }
        self.durable = self.durable.min(self.last.index);
        self.truncated_at = self.truncated_at.min(from);
        self.truncated_in = term;
    }

    /// A write up to `position`, and everything written before it, is durable, with the hard state
    /// of `durable_term`.
    pub(crate) fn mark_durable(&mut self, position: Option<LogPosition>, durable_term: Term) {
        if durable_term >= self.truncated_in {
            self.truncated_at = Index(u64::MAX);
        }
        let Some(LogPosition { term, index }) = position else { return };
        if index > self.durable && index < self.truncated_at && self.term(index) == Some(term) {
            self.durable = index;
        }
    }

    /// Gives up the memory of entries up to `upto`, as far as they are durable.
    pub(crate) fn evict(&mut self, upto: Index) {
        let upto = upto.min(self.durable);
        while self.cached.front().is_some_and(|e| e.at.index <= upto) {
            let entry = self.cached.pop_front().expect("invariant: there is a front");
            self.cached_bytes -= entry.size_bytes();
        }
    }

    /// The group falls quiet: gives back the room of the cache if nothing is in it.
    pub(crate) fn rest(&mut self) {
        if self.cached.is_empty() {
            self.cached = VecDeque::new();
        }
    }

    /// A checkpoint at `position` is durable, and the WAL keeps the log from `keep_from` on.
    pub(crate) fn compact(&mut self, position: LogPosition, keep_from: Index) {
        let keep_from = keep_from.min(position.index.next()).max(self.first);
        self.durable = self.durable.max(position.index);
        self.evict(keep_from.prev());
        self.forget_before(keep_from);
    }

    fn forget_before(&mut self, first: Index) {
        self.first = first;
        while self.runs.get(1).is_some_and(|run| run.index <= first.prev()) {
            self.runs.pop_front();
        }
        self.runs[0].index = self.runs[0].index.max(first.prev());
    }

    /// A checkpoint from the leader took the place of a log that does not contain its position.
    pub(crate) fn install(&mut self, position: LogPosition) {
        assert_ne!(self.term(position.index), Some(position.term), "invariant: else it is applied");
        self.cached = VecDeque::new();
        self.cached_bytes = 0;
        self.runs = VecDeque::from([position]);
        self.last = position;
        self.durable = position.index;
        self.first = position.index.next();
    }

    pub(crate) fn check_invariants(&self) {
        assert!(self.durable <= self.last.index, "durable is within the log");
        assert!(self.first <= self.last.index.next(), "the log starts within itself");
        assert!(self.runs[0].index <= self.first, "the first entry's term is known");
        assert_eq!(self.term(self.last.index), Some(self.last.term), "runs end with the log");
        let bytes: usize = self.cached.iter().map(Entry::size_bytes).sum();
        assert_eq!(bytes, self.cached_bytes, "cached bytes are counted");
        for (entry, index) in self.cached.iter().zip(self.cached_first().0..) {
            assert_eq!(entry.at.index.0, index, "cached entries are contiguous");
            assert_eq!(self.term(entry.at.index), Some(entry.at.term), "runs tell terms");
        }
    }
}

/// Whether `entries` from `first` on belong to the log that the checkpoint was taken of. A lower
/// term behind the checkpoint proves that they do not; an equal or higher one that they do, since
/// what a checkpoint holds is committed and so in the log of every later leader.
fn continues(checkpoint: LogPosition, first: Index, entries: &[Entry]) -> bool {
    let Some(last) = entries.last() else { return false };
    if last.at.index < checkpoint.index {
        return false;
    }
    let Some(offset) = checkpoint.index.0.checked_sub(first.0) else {
        return entries[0].at.term >= checkpoint.term;
    };
    usize::try_from(offset).ok().and_then(|o| entries.get(o)).is_some_and(|e| e.at == checkpoint)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::Payload;

    fn at(index: u64, term: u64) -> LogPosition {
        LogPosition { term: Term(term), index: Index(index) }
    }

    fn entry(index: u64, term: u64) -> Entry {
        Entry { at: at(index, term), payload: Payload::Commands(Bytes::from_static(b"x")) }
    }

    fn log(terms: &[u64]) -> Log {
        let entries = terms.iter().zip(1..).map(|(term, index)| entry(index, *term)).collect();
        Log::new(at(0, 0), Index(1), entries)
    }

    /// An entry is overwritten and then put back while its first write is still in flight: that
    /// write's completion says nothing, since the overwriting one comes after it on the disk.
    #[test]
    fn a_completion_from_before_a_cut_does_not_count_after_it() {
        let mut log = log(&[1]);
        log.append(entry(2, 1));
        log.truncate(Index(2), Term(2));
        log.append(entry(2, 2));
        log.truncate(Index(2), Term(3));
        log.append(entry(2, 1));
        log.mark_durable(Some(at(2, 1)), Term(1));
        assert_eq!(log.durable(), Index(1));
        log.mark_durable(Some(at(2, 2)), Term(2));
        assert_eq!(log.durable(), Index(1));
        log.mark_durable(Some(at(2, 1)), Term(3));
        assert_eq!(log.durable(), Index(2));
    }

    #[test]
    fn what_may_match_is_bounded_by_term_and_index() {
        let log = log(&[1, 1, 1, 4, 4, 5, 5, 6]);
        assert_eq!(log.may_match(at(7, 4)), at(5, 4));
        assert_eq!(log.may_match(at(7, 3)), at(3, 1));
        assert_eq!(log.may_match(at(2, 9)), at(2, 1));
        assert_eq!(log.may_match(at(20, 9)), at(8, 6));
        assert_eq!(log.may_match(at(8, 0)), at(0, 0));
    }

    /// A checkpoint came in while the log behind it was of another history: recovery finds both.
    #[test]
    fn entries_that_do_not_continue_the_checkpoint_are_dropped() {
        let stale = vec![entry(6, 3), entry(7, 3)];
        let log = Log::new(at(5, 7), Index(6), stale);
        assert_eq!(log.last(), at(5, 7));
        let kept = Log::new(at(5, 7), Index(4), vec![entry(4, 6), entry(5, 7), entry(6, 7)]);
        assert_eq!((kept.last(), kept.first()), (at(6, 7), Index(4)));
        let other = Log::new(at(5, 7), Index(4), vec![entry(4, 3), entry(5, 3), entry(6, 3)]);
        assert_eq!((other.last(), other.first()), (at(5, 7), Index(6)));
    }

    /// What a checkpoint ends with may be the end of the log as well, or its first entry.
    #[test]
    fn a_log_that_begins_or_ends_with_the_checkpoint_is_kept() {
        let ends = Log::new(at(5, 7), Index(4), vec![entry(4, 6), entry(5, 7)]);
        assert_eq!((ends.last(), ends.first(), ends.durable()), (at(5, 7), Index(4), Index(5)));
        let begins = Log::new(at(5, 7), Index(5), vec![entry(5, 7), entry(6, 8)]);
        assert_eq!((begins.last(), begins.first()), (at(6, 8), Index(5)));
        assert_eq!((begins.term(Index(4)), begins.term(Index(5))), (None, Some(Term(7))));
        let behind = Log::new(at(5, 7), Index(6), vec![entry(6, 7), entry(7, 8)]);
        assert_eq!((behind.last(), behind.term(Index(5))), (at(7, 8), Some(Term(7))));
    }

    #[test]
    fn terms_survive_eviction_and_compaction() {
        let mut log = log(&[1, 1, 2, 2, 3]);
        log.evict(Index(4));
        assert_eq!((log.cached_first(), log.term(Index(3))), (Index(5), Some(Term(2))));
        log.compact(at(3, 2), Index(3));
        assert_eq!((log.term(Index(1)), log.term(Index(2))), (None, Some(Term(1))));
        log.check_invariants();
        log.compact(at(3, 2), Index(4));
        assert_eq!((log.term(Index(2)), log.term(Index(3))), (None, Some(Term(2))));
        assert_eq!((log.first(), log.term(Index(4))), (Index(4), Some(Term(2))));
        log.check_invariants();
    }

    /// What is not on the disk stays in memory, whoever has it.
    #[test]
    fn only_what_is_durable_is_evicted() {
        let mut log = log(&[1, 1]);
        log.append(entry(3, 1));
        log.evict(Index(3));
        assert_eq!((log.cached_first(), log.cached_bytes()), (Index(3), entry(3, 1).size_bytes()));
        assert_eq!((log.get(Index(2)), log.get(Index(3))), (None, Some(&entry(3, 1))));
        log.mark_durable(Some(at(3, 1)), Term(1));
        log.evict(Index(3));
        assert_eq!((log.cached_first(), log.cached_bytes()), (Index(4), 0));
    }

    #[test]
    fn a_batch_is_filled_to_its_last_byte_and_holds_one_entry_at_least() {
        let log = log(&[1; 5]);
        let each = entry(1, 1).size_bytes();
        let count = |from, bytes_max| log.batch(Index(from), bytes_max).len();
        assert_eq!((count(1, 3 * each), count(1, 3 * each - 1)), (3, 2));
        assert_eq!((count(1, 0), count(4, 100 * each), count(6, 100 * each)), (1, 2, 0));
    }

    /// Memory is given back as it was taken: a log that was filled and emptied takes what an empty
    /// one does, and what it holds is counted in between.
    #[test]
    fn memory_is_counted_with_what_is_held() {
        let mut log = log(&[1]);
        log.evict(Index(1));
        log.rest();
        let empty = log.memory_bytes();
        let bytes: usize = (2..10).map(|index| entry(index, 1).size_bytes()).sum();
        (2..10).for_each(|index| log.append(entry(index, 1)));
        assert!(log.memory_bytes() >= empty + bytes + 8 * size_of::<Entry>());
        log.rest();
        assert_eq!(log.cached_bytes(), bytes, "what is held is not given back");
        log.mark_durable(Some(at(9, 1)), Term(1));
        log.evict(Index(9));
        log.rest();
        assert_eq!(log.memory_bytes(), empty);
        // The terms of what is evicted stay.
        let mut terms = self::log(&(1..=64).collect::<Vec<u64>>());
        terms.evict(Index(64));
        terms.rest();
        assert!(terms.memory_bytes() >= 64 * size_of::<LogPosition>());
    }
}
