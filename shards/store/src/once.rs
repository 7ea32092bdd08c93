//! Which request ids have been carried out, and what was answered. One table per range.
//!
//! It must not decide when to forget: the store does, because a checkpoint may still need what goes.
//!
//! An id is remembered for at least `once_keep_min_ms` and at most about `once_keep_ms` of stamp
//! time. In between, the oldest goes first when the table is full. When even the oldest is younger
//! than the minimum, new ids are refused and not carried out: a promise that was given is kept.

use std::collections::BTreeMap;

use bytes::Bytes;
use oarlock_types::WallMs;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What an id costs beside its bytes and its reply's: its places in two trees.
const OVERHEAD_BYTES: u64 = 160;

/// One id and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OnceRecord {
    pub(crate) id: Bytes,
    /// The store's time when it was carried out.
    pub(crate) at: WallMs,
    /// The reply as [`crate::reply_bytes`] writes it: compact, so that a kept reply pins no value.
    pub(crate) reply: Bytes,
}

impl OnceRecord {
    pub(crate) fn bytes(&self) -> u64 {
        OVERHEAD_BYTES + (self.id.len() + self.reply.len()) as u64
    }

    fn hash(&self) -> u64 {
        xxh3_64_with_seed(&self.reply, xxh3_64_with_seed(&self.id, self.at.0))
    }
}

/// The ids in the order in which they were carried out, which is that of their age. Most ranges have none, and pay a
/// word for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct OnceTable(Option<Box<Records>>);

#[derive(Clone, Debug, Default)]
struct Records {
    by_sequence: BTreeMap<u64, OnceRecord>,
    by_id: BTreeMap<Bytes, u64>,
    next_sequence: u64,
    bytes: u64,
    hash: u64,
}

impl OnceTable {
    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |records| records.by_sequence.len())
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |records| records.bytes)
    }

    /// Independent of the order in which records came, so that it can be kept up incrementally.
    pub(crate) fn hash(&self) -> u64 {
        self.0.as_ref().map_or(0, |records| records.hash)
    }

    /// What the record after the newest will be numbered.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.0.as_ref().map_or(0, |records| records.next_sequence)
    }

    pub(crate) fn get(&self, id: &[u8]) -> Option<&OnceRecord> {
        let records = self.0.as_ref()?;
        records.by_sequence.get(records.by_id.get(id)?)
    }

    pub(crate) fn first(&self) -> Option<&OnceRecord> {
        self.0.as_ref()?.by_sequence.first_key_value().map(|(_, record)| record)
    }

    pub(crate) fn last(&self) -> Option<&OnceRecord> {
        self.0.as_ref()?.by_sequence.last_key_value().map(|(_, record)| record)
    }

    /// The records from `sequence` on.
    pub(crate) fn from(&self, sequence: u64) -> impl Iterator<Item = (u64, &OnceRecord)> {
        let records = self.0.iter().flat_map(move |records| records.by_sequence.range(sequence..));
        records.map(|(sequence, record)| (*sequence, record))
    }

    /// Adds a record as the newest. Its id must not be there.
    pub(crate) fn push(&mut self, record: OnceRecord) {
        let records = self.0.get_or_insert_default();
        let old = records.by_id.insert(record.id.clone(), records.next_sequence);
        assert!(old.is_none(), "an id was carried out twice");
        records.bytes += record.bytes();
        records.hash = records.hash.wrapping_add(record.hash());
        records.by_sequence.insert(records.next_sequence, record);
        records.next_sequence += 1;
    }

    /// Takes the oldest out.
    pub(crate) fn pop_first(&mut self) -> Option<(u64, OnceRecord)> {
        let records = self.0.as_mut()?;
        let (sequence, record) = records.by_sequence.pop_first()?;
        records.by_id.remove(&record.id);
        records.bytes -= record.bytes();
        records.hash = records.hash.wrapping_sub(record.hash());
        Some((sequence, record))
    }
}
