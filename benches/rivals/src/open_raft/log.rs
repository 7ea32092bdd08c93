//! A group's log on openraft: the newest entries in memory, all of them in raft-engine, where one
//! write and one fsync serve many groups. openraft hears of an entry when that fsync is done.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{
    AnyError, Entry, LogId, LogState, OptionalSend, RaftLogReader, StorageError, StorageIOError,
    Vote,
};
use raft::eraftpb::Entry as Record;
use raft_engine::{Command, LogBatch};
use tokio::sync::oneshot;

use super::types::Types;
use crate::shared::wal::{Log, Wal};

/// Entries that stay in memory although they are on disk.
const CACHED: usize = 1024;
const VOTE: &[u8] = b"vote";
const PURGED: &[u8] = b"purged";

type Fault = StorageError<u64>;

/// A group's log; clones are the same log.
#[derive(Clone)]
pub struct GroupLog {
    group: u64,
    wal: Wal,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    purged: Option<LogId<u64>>,
    last: Option<LogId<u64>>,
    vote: Option<Vote<u64>>,
    cache: BTreeMap<u64, Entry<Types>>,
    /// Entries up to here are in raft-engine.
    durable: u64,
}

fn read_fault(error: impl std::error::Error + 'static) -> Fault {
    StorageIOError::read_logs(AnyError::new(&error)).into()
}

fn decode(record: &Record) -> Result<Entry<Types>, Fault> {
    postcard::from_bytes(&record.data).map_err(read_fault)
}

impl GroupLog {
    /// The log as it is on disk.
    pub fn open(wal: &Wal, group: u64) -> io::Result<Self> {
        let engine = &wal.engine;
        let read = |key: &[u8]| engine.get(group, key);
        let parse = |bytes: &[u8]| postcard::from_bytes(bytes).map_err(io::Error::other);
        let mut inner = Inner::default();
        if let Some(bytes) = read(VOTE) {
            inner.vote = Some(postcard::from_bytes(&bytes).map_err(io::Error::other)?);
        }
        if let Some(bytes) = read(PURGED) {
            inner.purged = Some(parse(&bytes)?);
        }
        inner.last = inner.purged;
        if let Some(index) = engine.last_index(group) {
            let record = engine.get_entry::<Log>(group, index).map_err(io::Error::other)?;
            let record = record.ok_or_else(|| io::Error::other("the last entry is missing"))?;
            let entry: Entry<Types> =
                postcard::from_bytes(&record.data).map_err(io::Error::other)?;
            inner.last = inner.last.max(Some(entry.log_id));
            inner.durable = index;
        }
        Ok(Self { group, wal: wal.clone(), inner: Arc::new(Mutex::new(inner)) })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes and waits until it is durable.
    async fn write(&self, batch: LogBatch) -> Result<(), Fault> {
        let (told, done) = oneshot::channel();
        self.wal.write(batch, move || {
            // Who asked may have given up meanwhile.
            let _ = told.send(());
        });
        done.await.map_err(|error| StorageIOError::write(AnyError::new(&error)).into())
    }

    fn put(&self, batch: &mut LogBatch, key: &[u8], bytes: Vec<u8>) -> Result<(), Fault> {
        let put = batch.put(self.group, key.to_vec(), bytes);
        put.map_err(|error| StorageIOError::write(AnyError::new(&error)).into())
    }
}

fn encode(value: &impl serde::Serialize) -> Result<Vec<u8>, Fault> {
    postcard::to_stdvec(value).map_err(|error| StorageIOError::write(AnyError::new(&error)).into())
}

impl RaftLogReader<Types> for GroupLog {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry<Types>>, Fault> {
        let inner = self.inner();
        let first = inner.purged.map_or(0, |log_id| log_id.index + 1);
        let low = match range.start_bound() {
            Bound::Included(&at) => at,
            Bound::Excluded(&at) => at + 1,
            Bound::Unbounded => 0,
        };
        let end = inner.last.map_or(0, |log_id| log_id.index + 1);
        let high = match range.end_bound() {
            Bound::Included(&at) => at + 1,
            Bound::Excluded(&at) => at,
            Bound::Unbounded => end,
        };
        let (low, high) = (low.max(first), high.min(end));
        let mut entries = Vec::new();
        if low >= high {
            return Ok(entries);
        }
        let cached = inner.cache.keys().next().map_or(end, |&index| index);
        if low < cached {
            let mut records = Vec::new();
            let until = high.min(cached);
            let engine = &self.wal.engine;
            let read = engine.fetch_entries_to::<Log>(self.group, low, until, None, &mut records);
            read.map_err(read_fault)?;
            for record in &records {
                entries.push(decode(record)?);
            }
        }
        if high > cached {
            entries
                .extend(inner.cache.range(low.max(cached)..high).map(|(_, entry)| entry.clone()));
        }
        Ok(entries)
    }
}

impl RaftLogStorage<Types> for GroupLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, Fault> {
        let inner = self.inner();
        Ok(LogState { last_purged_log_id: inner.purged, last_log_id: inner.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), Fault> {
        let mut batch = LogBatch::default();
        self.put(&mut batch, VOTE, encode(vote)?)?;
        self.write(batch).await?;
        self.inner().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, Fault> {
        Ok(self.inner().vote)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), Fault>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::new();
        {
            let mut inner = self.inner();
            for entry in entries {
                records.push(Record {
                    index: entry.log_id.index,
                    term: entry.log_id.leader_id.term,
                    data: encode(&entry)?.into(),
                    ..Record::default()
                });
                inner.last = Some(entry.log_id);
                inner.cache.insert(entry.log_id.index, entry);
            }
            let durable = inner.durable;
            while inner.cache.len() > CACHED {
                match inner.cache.first_entry() {
                    Some(first) if *first.key() <= durable => first.remove(),
                    Some(_) | None => break,
                };
            }
        }
        let mut batch = LogBatch::default();
        let added = batch.add_entries::<Log>(self.group, &records);
        added.map_err(|error| Fault::from(StorageIOError::write_logs(AnyError::new(&error))))?;
        let inner = Arc::clone(&self.inner);
        let last = records.last().map_or(0, |record| record.index);
        self.wal.write(batch, move || {
            inner.lock().unwrap_or_else(PoisonError::into_inner).durable = last;
            callback.log_io_completed(Ok(()));
        });
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId<u64>) -> Result<(), Fault> {
        // On disk the next append replaces what is from its first entry on. If there is none before
        // a crash, the old entries are back as if the leader's message had never come.
        let previous = match log_id.index.checked_sub(1) {
            Some(index) => self.try_get_log_entries(index..=index).await?.pop(),
            None => None,
        };
        let mut inner = self.inner();
        inner.cache.split_off(&log_id.index);
        inner.last = previous.map_or(inner.purged, |entry| Some(entry.log_id));
        inner.durable = inner.durable.min(log_id.index.saturating_sub(1));
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId<u64>) -> Result<(), Fault> {
        {
            let mut inner = self.inner();
            inner.purged = inner.purged.max(Some(log_id));
            inner.last = inner.last.max(inner.purged);
            inner.cache = inner.cache.split_off(&(log_id.index + 1));
        }
        let mut batch = LogBatch::default();
        self.put(&mut batch, PURGED, encode(&log_id)?)?;
        batch.add_command(self.group, Command::Compact { index: log_id.index + 1 });
        self.write(batch).await
    }
}
