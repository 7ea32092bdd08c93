//! Which keys end when: an index in order of time. One per range.
//!
//! It must not decide what is expired: it only orders what the store gives it.

use std::collections::BTreeSet;

use oarlock_types::WallMs;

use crate::key::Key;

/// Keys with an expiry, soonest first; keys of one instant in key order.
#[derive(Debug, Default)]
pub(crate) struct ExpiryIndex {
    by_time: BTreeSet<(WallMs, Key)>,
}

impl ExpiryIndex {
    /// Moves `key` from one time to another.
    pub(crate) fn change(&mut self, key: &Key, old: Option<WallMs>, new: Option<WallMs>) {
        if old == new {
            return;
        }
        if let Some(at) = old {
            let was = self.by_time.remove(&(at, key.clone()));
            debug_assert!(was, "an expiry was not in the index");
        }
        if let Some(at) = new {
            self.by_time.insert((at, key.clone()));
        }
    }

    /// How many keys have an expiry.
    pub(crate) fn len(&self) -> usize {
        self.by_time.len()
    }

    /// The key that ends first, if it has ended.
    pub(crate) fn first_due(&self, now: WallMs) -> Option<&Key> {
        self.by_time.first().filter(|(at, _)| *at <= now).map(|(_, key)| key)
    }

    /// How many keys have ended but are still held.
    pub(crate) fn count_due(&self, now: WallMs) -> usize {
        self.by_time.iter().take_while(|(at, _)| *at <= now).count()
    }

    pub(crate) fn pop_first(&mut self) -> Option<(WallMs, Key)> {
        self.by_time.pop_first()
    }

    /// Leaves the keys before `at`, gives the others. Both are built in order, which is several
    /// times faster than moving key by key.
    pub(crate) fn split_off(&mut self, at: &[u8]) -> Self {
        let all = std::mem::take(&mut self.by_time).into_iter();
        let (left, right): (Vec<_>, Vec<_>) = all.partition(|(_, key)| **key < *at);
        self.by_time = left.into_iter().collect();
        Self { by_time: right.into_iter().collect() }
    }
}
