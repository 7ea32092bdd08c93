//! What raft-rs reads of a group's log: the newest entries from memory, older ones from
//! raft-engine. Entries are readable from when they are proposed, durable when the writer says so.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::util::limit_size;
use raft::{Error, StorageError};
use raft::{GetEntriesContext, RaftState, Storage};
use raft_engine::{Command, Engine, LogBatch};

use crate::shared::state::{State, load_snapshot, save_snapshot};
use crate::shared::wal::{Log, Wal};

/// Entries that stay in memory although they are on disk.
const CACHED: usize = 1024;
const HARD_STATE: &[u8] = b"hard-state";

/// An entry's place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// The log of one group.
pub struct GroupStorage {
    group: u64,
    engine: Arc<Engine>,
    snapshot_file: PathBuf,
    voters: Vec<u64>,
    hard_state: HardState,
    /// The last entry that compaction took away.
    base: Place,
    /// The last entry that the snapshot on disk holds.
    pub snapshot: Place,
    last: u64,
    /// The newest entries without a gap, up to `last`.
    cache: VecDeque<Entry>,
}

impl GroupStorage {
    /// The log as it is on disk, and the state of its snapshot.
    pub fn open(
        wal: &Wal,
        folder: &Path,
        group: u64,
        voters: Vec<u64>,
    ) -> io::Result<(Self, State)> {
        let engine = Arc::clone(&wal.engine);
        let snapshot_file = folder.join(format!("snapshot-{group}"));
        let (mut snapshot, mut state) = (Place::default(), State::default());
        if let Some((meta, data)) = load_snapshot(&snapshot_file)? {
            snapshot = read_place(meta);
            state = State::decode(data);
        }
        let found = engine.get_message::<HardState>(group, HARD_STATE);
        let mut hard_state = found.map_err(io::Error::other)?.unwrap_or_default();
        // Commits are written along with entries only, a snapshot holds what is committed.
        hard_state.commit = hard_state.commit.max(snapshot.index);
        hard_state.term = hard_state.term.max(snapshot.term);
        let mut opened = Self {
            group,
            engine,
            snapshot_file,
            voters,
            hard_state,
            base: Place::default(),
            snapshot,
            last: 0,
            cache: VecDeque::new(),
        };
        opened.find_log()?;
        Ok((opened, state))
    }

    /// Where the log on disk begins and ends; drops it if the snapshot has replaced it.
    fn find_log(&mut self) -> io::Result<()> {
        let first = self.engine.first_index(self.group).unwrap_or(0);
        let last = self.engine.last_index(self.group).unwrap_or(0);
        let fits = last > 0
            && last >= self.snapshot.index
            && (self.snapshot.index == 0
                || first > self.snapshot.index
                || self.read_term(self.snapshot.index)? == self.snapshot.term);
        if !fits {
            let mut batch = LogBatch::default();
            batch.add_command(self.group, Command::Clean);
            batch
                .put_message(self.group, HARD_STATE.to_vec(), &self.hard_state)
                .map_err(io::Error::other)?;
            self.engine.write(&mut batch, true).map_err(io::Error::other)?;
            self.base = self.snapshot;
            self.last = self.snapshot.index;
            return Ok(());
        }
        self.last = last;
        self.base = if first == self.snapshot.index + 1 {
            self.snapshot
        } else {
            // The oldest entry's term stands in for that of the one before, which is gone.
            Place { index: first, term: self.read_term(first)? }
        };
        Ok(())
    }

    fn read_term(&self, index: u64) -> io::Result<u64> {
        let entry = self.engine.get_entry::<Log>(self.group, index).map_err(io::Error::other)?;
        Ok(entry.ok_or_else(|| io::Error::other("an entry is missing"))?.term)
    }

    /// Takes new entries in, over those of the same indexes, and adds them to what is written.
    pub fn append(&mut self, entries: Vec<Entry>, batch: &mut LogBatch) {
        let Some(first) = entries.first() else { return };
        batch.add_entries::<Log>(self.group, &entries).expect("entries under raft-engine's bound");
        while self.cache.back().is_some_and(|entry| entry.index >= first.index) {
            self.cache.pop_back();
        }
        if self.cache.back().is_some_and(|entry| entry.index + 1 != first.index) {
            self.cache.clear();
        }
        self.cache.extend(entries);
        self.last = self.cache.back().map_or(self.last, |entry| entry.index);
    }

    /// Adds term, vote and commit to what is written.
    pub fn put_hard_state(&self, hard_state: &HardState, batch: &mut LogBatch) {
        batch
            .put_message(self.group, HARD_STATE.to_vec(), hard_state)
            .expect("a hard state can be encoded");
    }

    /// Lets old entries go from memory, all of which are durable up to `durable`.
    pub fn trim_cache(&mut self, durable: u64) {
        while self.cache.len() > CACHED && self.cache[0].index <= durable {
            self.cache.pop_front();
        }
    }

    /// The file of this group's snapshot.
    pub fn snapshot_file(&self) -> PathBuf {
        self.snapshot_file.clone()
    }

    /// A snapshot is on disk: entries up to `through` are not needed any more.
    pub fn compact(&mut self, through: u64, batch: &mut LogBatch) {
        if through <= self.base.index {
            return;
        }
        let Ok(term) = self.term(through) else { return };
        self.base = Place { index: through, term };
        batch.add_command(self.group, Command::Compact { index: through + 1 });
        while self.cache.front().is_some_and(|entry| entry.index <= through) {
            self.cache.pop_front();
        }
    }

    /// Puts a leader's snapshot in place of the log.
    pub fn install(
        &mut self,
        snapshot: &Snapshot,
        hard_state: &HardState,
        batch: &mut LogBatch,
    ) -> io::Result<State> {
        let meta = snapshot.get_metadata();
        let place = Place { index: meta.index, term: meta.term };
        save_snapshot(&self.snapshot_file, &write_place(place), &snapshot.data)?;
        batch.add_command(self.group, Command::Clean);
        self.put_hard_state(hard_state, batch);
        self.cache.clear();
        (self.base, self.snapshot, self.last) = (place, place, place.index);
        Ok(State::decode(Bytes::copy_from_slice(&snapshot.data)))
    }
}

/// A snapshot's place as its file keeps it.
pub fn write_place(place: Place) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u64_le(place.index);
    out.put_u64_le(place.term);
    out
}

fn read_place(mut from: Bytes) -> Place {
    let mut number = || from.try_get_u64_le().unwrap_or(0);
    Place { index: number(), term: number() }
}

impl Storage for GroupStorage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let conf_state = ConfState { voters: self.voters.clone(), ..ConfState::default() };
        Ok(RaftState::new(self.hard_state.clone(), conf_state))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.base.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        let max_size = max_size.into();
        let cached = self.cache.front().map_or(self.last + 1, |entry| entry.index);
        let mut entries = Vec::new();
        if low < cached {
            let bound = max_size.map(|size| usize::try_from(size).unwrap_or(usize::MAX));
            let end = high.min(cached);
            self.engine
                .fetch_entries_to::<Log>(self.group, low, end, bound, &mut entries)
                .map_err(|error| Error::Store(StorageError::Other(Box::new(error))))?;
            if entries.len() as u64 != end - low {
                return Ok(entries);
            }
        }
        if high > cached {
            let at = |index: u64| usize::try_from(index - cached).unwrap_or(usize::MAX);
            entries.extend(self.cache.range(at(low.max(cached))..at(high)).cloned());
        }
        limit_size(&mut entries, max_size);
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.base.index {
            return Ok(self.base.term);
        }
        if index == self.snapshot.index {
            return Ok(self.snapshot.term);
        }
        if index < self.base.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        if index > self.last {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let cached = self.cache.front().map_or(u64::MAX, |entry| entry.index);
        if index >= cached {
            return Ok(self.cache[usize::try_from(index - cached).unwrap_or(usize::MAX)].term);
        }
        self.read_term(index).map_err(|error| Error::Store(StorageError::Other(Box::new(error))))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last)
    }

    fn snapshot(&self, request_index: u64, _: u64) -> raft::Result<Snapshot> {
        let not_yet = Error::Store(StorageError::SnapshotTemporarilyUnavailable);
        if self.snapshot.index == 0 || self.snapshot.index < request_index {
            return Err(not_yet);
        }
        let Ok(Some((meta, data))) = load_snapshot(&self.snapshot_file) else {
            return Err(not_yet);
        };
        let place = read_place(meta);
        let mut snapshot = Snapshot { data, ..Snapshot::default() };
        let meta = snapshot.mut_metadata();
        (meta.index, meta.term) = (place.index, place.term);
        meta.mut_conf_state().voters = self.voters.clone();
        Ok(snapshot)
    }
}
