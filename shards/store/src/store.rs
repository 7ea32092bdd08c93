//! The state of one range and the few ways to change it. One per replica of a range.
//!
//! It must not interpret commands: everything that changes a key goes through `put` and `remove` here,
//! which keep the size, the hash, the expiry index and a checkpoint under way in step.

use std::collections::BTreeMap;

use bytes::Bytes;
use oarlock_types::{Index, RangeBounds, WallMs};

use crate::checkpoint::Checkpoint;
use crate::expiry::ExpiryIndex;
use crate::key::Key;
use crate::map::{Map, Slot};
use crate::merge::Merges;
use crate::once::OnceTable;

/// What a key costs beside its bytes and its value's: 32 bytes of key handle and 64 of slot at the
/// tree's usual fill of two thirds, and the heads of two allocations.
pub const KEY_OVERHEAD_BYTES: u64 = 176;

/// Bounds of a store. They decide replies, so they are part of the replicated behaviour: equal on
/// all replicas of a cluster, or those diverge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// Longest value, in bytes. (Keys are bounded where requests are parsed: no command makes one.)
    pub value_bytes_max: usize,
    /// Most `ONCE` ids remembered.
    pub once_count_max: usize,
    /// Most bytes of remembered `ONCE` ids and their replies; one reply may go over it.
    pub once_bytes_max: u64,
    /// An id is forgotten when it is this old.
    pub once_keep_ms: u64,
    /// No id is forgotten before it is this old; when the table is full of younger ones, new ids
    /// are refused.
    pub once_keep_min_ms: u64,
}

impl Default for StoreLimits {
    /// 131,072 ids of which the youngest 30 s stay: one range takes 4,300 `ONCE` requests a second.
    fn default() -> Self {
        Self {
            value_bytes_max: 1 << 20,
            once_count_max: 128 << 10,
            once_bytes_max: 32 << 20,
            once_keep_ms: 3_600_000,
            once_keep_min_ms: 30_000,
        }
    }
}

/// One range's keys and values.
#[derive(Debug)]
pub struct Store {
    pub(crate) limits: StoreLimits,
    pub(crate) bounds: RangeBounds,
    pub(crate) map: Map,
    pub(crate) expiry: ExpiryIndex,
    pub(crate) once: OnceTable,
    /// What merges have left; most ranges have no part in any.
    pub(crate) merges: Option<Box<Merges>>,
    pub(crate) applied: Index,
    pub(crate) stamp: WallMs,
    /// Grows with every change of a key; a key's version is the revision that wrote it.
    pub(crate) revision: u64,
    pub(crate) checkpoint: Option<Box<Checkpoint>>,
    /// Pre-images of checkpoints that were given up, freed little by little.
    pub(crate) debris: Vec<BTreeMap<Key, Slot>>,
}

impl Store {
    /// An empty range, whose bounds are not known yet.
    #[must_use]
    pub fn new(limits: StoreLimits) -> Self {
        Self {
            limits,
            bounds: RangeBounds::default(),
            map: Map::default(),
            expiry: ExpiryIndex::default(),
            once: OnceTable::default(),
            merges: None,
            applied: Index(0),
            stamp: WallMs(0),
            revision: 0,
            checkpoint: None,
            debris: Vec::new(),
        }
    }

    /// The range's keys, and its version; version zero where that is not known yet.
    #[must_use]
    pub fn bounds(&self) -> &RangeBounds {
        &self.bounds
    }

    /// Says what the range's keys are.
    pub fn set_bounds(&mut self, bounds: RangeBounds) {
        self.bounds = bounds;
    }

    /// The newest entry that was applied.
    #[must_use]
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// The store's time: the largest stamp that was applied.
    #[must_use]
    pub fn stamp(&self) -> WallMs {
        self.stamp
    }

    /// Keys held, those included that have expired but are not yet removed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Keys among them that have an expiry.
    #[must_use]
    pub fn expiring_len(&self) -> usize {
        self.expiry.len()
    }

    /// Whether no key is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.len() == 0
    }

    /// Bytes of keys and values with [`KEY_OVERHEAD_BYTES`] each: what a split goes by.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.map.sums().bytes
    }

    /// Remembered `ONCE` ids.
    #[must_use]
    pub fn once_len(&self) -> usize {
        self.once.len()
    }

    /// Bytes of remembered `ONCE` ids and their replies.
    #[must_use]
    pub fn once_bytes(&self) -> u64 {
        self.once.bytes()
    }

    /// Keys that may be read as of `now`, expired ones not counted.
    #[must_use]
    pub fn live_count(&self, now: WallMs) -> usize {
        self.map.len() - self.expiry.count_due(now.max(self.stamp))
    }

    /// Whether something has expired that the next entry would remove: a leader whose range gets no
    /// writes may propose an empty batch to free the memory.
    #[must_use]
    pub fn has_expired(&self, now: WallMs) -> bool {
        self.expiry.first_due(now).is_some()
    }

    /// A hash of the whole state, the same on every replica that applied the same entries. Kept up
    /// with each change, so asking costs nothing. It guards against bugs, not against malice.
    #[must_use]
    pub fn state_hash(&self) -> u64 {
        let parts = [self.map.sums().hash, self.once.hash(), self.revision, self.stamp.0];
        let frozen = self.frozen().map(|frozen| frozen.into_epoch.get());
        let taken = self.taken().flat_map(|(group, epoch)| [group.get(), epoch.get()]);
        parts.into_iter().chain(frozen).chain(taken).fold(0, |hash: u64, part| {
            (hash.rotate_left(23) ^ part).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        })
    }

    /// The slot of a key that may be seen as of `now`.
    pub(crate) fn live(&self, key: &[u8], now: WallMs) -> Option<&Slot> {
        self.map.get(key).filter(|slot| !slot.is_expired(now))
    }

    /// Puts a key, whatever was there.
    pub(crate) fn put(&mut self, key: Bytes, value: Bytes, expires: Option<WallMs>) {
        debug_assert!(
            self.bounds.epoch.get() == 0 || self.bounds.contains(&key),
            "invariant: no key is written to a range that does not hold it"
        );
        self.revision += 1;
        let key = Key::from(key);
        let slot = Slot::new(&key, value, self.revision, expires);
        let old = self.map.put(key.clone(), slot);
        self.expiry.change(&key, old.as_ref().and_then(|old| old.expires), expires);
        if let Some(old) = old {
            self.before_change(&key, old);
        }
    }

    /// Removes a key, if it is there.
    pub(crate) fn remove(&mut self, key: &[u8]) {
        if let Some((key, old)) = self.map.remove(key) {
            self.revision += 1;
            self.expiry.change(&key, old.expires, None);
            self.before_change(&key, old);
        }
    }

    /// Gives a slot that is no longer in the map to a checkpoint under way.
    fn before_change(&mut self, key: &Key, old: Slot) {
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.before_change(key, old);
        }
    }
}
