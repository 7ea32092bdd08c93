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

/// The ids in the order in which they were carried out, which is that of their age.
#[derive(Clone, Debug, Default)]
pub(crate) struct OnceTable {
    by_sequence: BTreeMap<u64, OnceRecord>,
    by_id: BTreeMap<Bytes, u64>,
    next_sequence: u64,
    bytes: u64,
    hash: u64,
}

impl OnceTable {
    pub(crate) fn len(&self) -> usize {
        self.by_sequence.len()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Independent of the order in which records came, so that it can be kept up incrementally.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// What the record after the newest will be numbered.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    pub(crate) fn get(&self, id: &[u8]) -> Option<&OnceRecord> {
        self.by_sequence.get(self.by_id.get(id)?)
    }

    pub(crate) fn first(&self) -> Option<&OnceRecord> {
        self.by_sequence.first_key_value().map(|(_, record)| record)
    }

    pub(crate) fn last(&self) -> Option<&OnceRecord> {
        self.by_sequence.last_key_value().map(|(_, record)| record)
    }

    /// The records from `sequence` on.
    pub(crate) fn from(&self, sequence: u64) -> impl Iterator<Item = (u64, &OnceRecord)> {
        self.by_sequence.range(sequence..).map(|(sequence, record)| (*sequence, record))
    }

    /// Adds a record as the newest. Its id must not be there.
    pub(crate) fn push(&mut self, record: OnceRecord) {
        let old = self.by_id.insert(record.id.clone(), self.next_sequence);
        assert!(old.is_none(), "an id was carried out twice");
        self.bytes += record.bytes();
        self.hash = self.hash.wrapping_add(record.hash());
        self.by_sequence.insert(self.next_sequence, record);
        self.next_sequence += 1;
    }

    /// Takes the oldest out.
    pub(crate) fn pop_first(&mut self) -> Option<(u64, OnceRecord)> {
        let (sequence, record) = self.by_sequence.pop_first()?;
        self.by_id.remove(&record.id);
        self.bytes -= record.bytes();
        self.hash = self.hash.wrapping_sub(record.hash());
        Some((sequence, record))
    }
}
