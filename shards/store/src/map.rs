//! The ordered map behind a store: every touch of the engine that holds the keys goes through here,
//! so that another engine can take its place when data outgrows memory. One per range.
//!
//! It must not know about time, versions' meaning, sizes or hashes: it holds slots, in key order.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use oarlock_types::WallMs;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::key::Key;

/// What a range knows about one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) value: Bytes,
    /// The store's revision when the key was last written.
    pub(crate) version: u64,
    pub(crate) expires: Option<WallMs>,
    /// Hash of the key and everything above, kept so that a change need not read the old value.
    pub(crate) hash: u64,
}

impl Slot {
    pub(crate) fn new(key: &[u8], value: Bytes, version: u64, expires: Option<WallMs>) -> Self {
        let mut slot = Self { value, version, expires, hash: 0 };
        slot.hash = slot.hash_with(key);
        slot
    }

    /// xxh3, because it gives the same on every machine (ahash differs with the CPU's features).
    fn hash_with(&self, key: &[u8]) -> u64 {
        let expires = self.expires.map_or(u64::MAX, |at| at.0);
        let seed = self.version.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ expires;
        xxh3_64_with_seed(&self.value, xxh3_64_with_seed(key, seed))
    }

    pub(crate) fn is_expired(&self, now: WallMs) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }
}

/// Keys in byte order.
#[derive(Debug, Default)]
pub(crate) struct Map {
    tree: BTreeMap<Key, Slot>,
}

impl Map {
    pub(crate) fn len(&self) -> usize {
        self.tree.len()
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Slot> {
        self.tree.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &[u8]) -> Option<&mut Slot> {
        self.tree.get_mut(key)
    }

    /// Puts `slot` at a key that is not there.
    pub(crate) fn insert_new(&mut self, key: Key, slot: Slot) {
        let old = self.tree.insert(key, slot);
        debug_assert!(old.is_none(), "a key was thought to be absent");
    }

    pub(crate) fn remove(&mut self, key: &[u8]) -> Option<(Key, Slot)> {
        self.tree.remove_entry(key)
    }

    /// Keys of `[start, end)`; none if the bounds cross.
    pub(crate) fn range<'a>(
        &'a self,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = (&'a Key, &'a Slot)> {
        // BTreeMap panics on crossed bounds, and these come from clients.
        let end = match end {
            Some(end) if end <= start => Bound::Excluded(start),
            Some(end) => Bound::Excluded(end),
            None => Bound::Unbounded,
        };
        self.tree.range::<[u8], _>((Bound::Included(start), end))
    }

    /// The keys behind `cursor`; all of them when there is none.
    pub(crate) fn after<'a>(
        &'a self,
        cursor: Option<&[u8]>,
    ) -> impl Iterator<Item = (&'a Key, &'a Slot)> {
        let start = cursor.map_or(Bound::Unbounded, Bound::Excluded);
        self.tree.range::<[u8], _>((start, Bound::Unbounded))
    }

    pub(crate) fn last_key(&self) -> Option<&Key> {
        self.tree.last_key_value().map(|(key, _)| key)
    }

    pub(crate) fn pop_first(&mut self) -> Option<(Key, Slot)> {
        self.tree.pop_first()
    }

    /// Leaves the keys before `at`, gives the others.
    pub(crate) fn split_off(&mut self, at: &[u8]) -> Self {
        Self { tree: self.tree.split_off(at) }
    }
}
