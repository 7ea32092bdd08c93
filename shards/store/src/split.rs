//! Cuts a range in two, finds where to, and frees a store that is no longer needed.
//!
//! Nothing here may decide whether to split: placement does, by size and load.

use bytes::Bytes;
use oarlock_types::Index;

use crate::map::slot_bytes;
use crate::store::{KEY_OVERHEAD_BYTES, Store};

/// A walk to the middle of a range.
#[derive(Clone, Debug)]
pub struct SplitSearch {
    by: Measure,
    target: u64,
    seen: u64,
    cursor: Option<Bytes>,
}

/// By what the two sides of a range are to be equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    Bytes,
    Keys,
}

/// What a walk has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SplitPoint {
    /// Ask again.
    More,
    /// The first key of the right half.
    At(Bytes),
    /// There are not two keys.
    None,
}

impl Store {
    /// Begins a walk to the key that halves the range by bytes. The range may change meanwhile:
    /// the answer is then a good one, not the best one.
    #[must_use]
    pub fn split_search(&self) -> SplitSearch {
        SplitSearch { by: Measure::Bytes, target: self.size_bytes() / 2, seen: 0, cursor: None }
    }

    /// As [`Store::split_search`], to the key that halves the range by keys.
    #[must_use]
    pub fn split_search_by_keys(&self) -> SplitSearch {
        let target = self.map.len() as u64 / 2;
        SplitSearch { by: Measure::Keys, target, seen: 0, cursor: None }
    }

    /// Walks over at most `budget_keys` more keys; 500 took 13 to 28 µs.
    #[must_use]
    pub fn split_search_next(&self, search: &mut SplitSearch, budget_keys: usize) -> SplitPoint {
        let mut last = None;
        for (key, slot) in self.map.after(search.cursor.as_deref()).take(budget_keys.max(1)) {
            let is_first = search.cursor.is_none() && last.is_none();
            search.seen += match search.by {
                Measure::Bytes => slot_bytes(key, slot),
                Measure::Keys => 1,
            };
            if search.seen > search.target && !is_first {
                return SplitPoint::At(key.to_bytes());
            }
            last = Some(key);
        }
        let Some(last) = last else { return self.split_at_last_key() };
        search.cursor = Some(last.to_bytes());
        SplitPoint::More
    }

    /// The walk came to the end: the range has shrunk, or its last key outweighs all others.
    fn split_at_last_key(&self) -> SplitPoint {
        match self.map.last_key() {
            Some(key) if self.map.len() > 1 => SplitPoint::At(key.to_bytes()),
            Some(_) | None => SplitPoint::None,
        }
    }

    /// Leaves the keys before `at` here and gives a store of the others, as of entry `base` of its own
    /// log, with the same time and revision, so that versions that clients hold stay good.
    ///
    /// Both keep all `ONCE` ids: an id names no key, its retry goes to whichever side has the
    /// request's keys now, and the other side forgets it in time.
    ///
    /// Not in slices: a split is one entry. It looks at the keys of one part (see the map's module), and copies the ids.
    ///
    /// # Panics
    /// If `at` does not cut the range in two, or a checkpoint is under way: it would have to write what
    /// is no longer here.
    #[must_use]
    pub fn split_off(&mut self, at: &Bytes, base: Index) -> Self {
        assert!(self.checkpoint.is_none(), "a range is split while it is being checkpointed");
        let mut right = Self::new(self.limits);
        right.bounds = self.bounds.split_off(at.clone());
        right.map = self.map.split_off(at);
        right.expiry = self.expiry.split_off(at);
        right.once = self.once.clone();
        right.merges = self.merges.clone();
        (right.applied, right.stamp, right.revision) = (base, self.stamp, self.revision);
        right
    }

    /// Frees about `budget_bytes` (as of [`Store::size_bytes`]) of a store that is no longer
    /// needed; true when nothing is left. 256 KiB took 73 µs with values of 128 bytes. (Dropping a
    /// million keys at once would block the core for 134 ms.)
    #[must_use]
    pub fn drop_slice(&mut self, budget_bytes: u64) -> bool {
        self.checkpoint_abort();
        let mut freed = 0;
        while freed < budget_bytes {
            if let Some((key, slot)) = self.map.pop_first() {
                freed += slot_bytes(&key, &slot);
            } else if let Some(bytes) = self.free_debris(1) {
                freed += bytes;
            } else if let Some((_, record)) = self.once.pop_first() {
                freed += record.bytes();
            } else if let Some((_, key)) = self.expiry.pop_first() {
                freed += KEY_OVERHEAD_BYTES + key.len() as u64;
            } else {
                return true;
            }
        }
        false
    }

    /// Frees up to `count` pre-images of checkpoints that were given up; how many bytes, `None` if
    /// there were none.
    pub(crate) fn free_debris(&mut self, count: usize) -> Option<u64> {
        let mut bytes = None;
        let mut freed = 0;
        while freed < count {
            let Some(changed) = self.debris.last_mut() else { break };
            if let Some((key, slot)) = changed.pop_first() {
                *bytes.get_or_insert(0) += slot_bytes(&key, &slot);
                freed += 1;
            } else {
                self.debris.pop();
            }
        }
        bytes
    }
}
