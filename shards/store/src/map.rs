//! The ordered map behind a store: every touch of the engine that holds the keys goes through here,
//! so that another engine can take its place when data outgrows memory. One per range.
//!
//! It stands in parts, each with the sums of its slots, so that a range is cut without a look at each of its keys: all
//! parts but one go to one side or the other whole. It must not know about time or versions' meaning: it holds
//! slots, in key order.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;

use bytes::Bytes;
use oarlock_types::WallMs;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::key::Key;
use crate::store::KEY_OVERHEAD_BYTES;

/// A part with more keys is cut in two.
const PART_KEYS_MAX: usize = if cfg!(test) { 4 } else { 1024 };

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

/// What keys and their slots add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    /// As [`crate::Store::size_bytes`] counts.
    pub(crate) bytes: u64,
    /// The slots' hashes, whatever their order.
    pub(crate) hash: u64,
}

impl Sums {
    fn of(key: &[u8], slot: &Slot) -> Self {
        Self { bytes: slot_bytes(key, slot), hash: slot.hash }
    }

    fn of_all<'a>(slots: impl Iterator<Item = (&'a Key, &'a Slot)>) -> Self {
        let mut sums = Self::default();
        slots.for_each(|(key, slot)| sums.add(Self::of(key, slot)));
        sums
    }

    fn add(&mut self, more: Self) {
        self.bytes += more.bytes;
        self.hash = self.hash.wrapping_add(more.hash);
    }

    fn remove(&mut self, less: Self) {
        self.bytes -= less.bytes;
        self.hash = self.hash.wrapping_sub(less.hash);
    }
}

/// What a key adds to [`crate::Store::size_bytes`].
pub(crate) fn slot_bytes(key: &[u8], slot: &Slot) -> u64 {
    KEY_OVERHEAD_BYTES + (key.len() + slot.value.len()) as u64
}

/// Keys in byte order.
#[derive(Debug, Default)]
pub(crate) struct Map {
    /// In the order of their keys; none is empty.
    parts: Vec<Part>,
    len: usize,
    sums: Sums,
}

/// Keys that follow each other.
#[derive(Debug)]
struct Part {
    /// No key of its own is before it, and all those of the parts before are.
    from: Key,
    slots: BTreeMap<Key, Slot>,
    sums: Sums,
}

impl Part {
    /// Leaves the keys before `at`, gives the others.
    fn split_off(&mut self, at: Key) -> Self {
        let slots = self.slots.split_off(&at);
        let sums = Sums::of_all(slots.iter());
        self.sums.remove(sums);
        Self { from: at, slots, sums }
    }
}

impl Map {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn sums(&self) -> Sums {
        self.sums
    }

    /// The part that a key is in, if it is there, or comes into.
    fn place_of(&self, key: &[u8]) -> usize {
        self.parts.partition_point(|part| *part.from <= *key).saturating_sub(1)
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Slot> {
        self.parts.get(self.place_of(key))?.slots.get(key)
    }

    /// Puts `slot` at a key; what was there.
    pub(crate) fn put(&mut self, key: Key, slot: Slot) -> Option<Slot> {
        let place = self.place_of(&key);
        if self.parts.is_empty() {
            let (slots, sums) = Default::default();
            self.parts.push(Part { from: key.clone(), slots, sums });
        }
        let part = &mut self.parts[place];
        if key < part.from {
            part.from = key.clone();
        }
        let new = Sums::of(&key, &slot);
        part.sums.add(new);
        self.sums.add(new);
        match part.slots.entry(key) {
            Entry::Occupied(mut entry) => {
                let old = entry.insert(slot);
                let gone = Sums::of(entry.key(), &old);
                part.sums.remove(gone);
                self.sums.remove(gone);
                Some(old)
            }
            Entry::Vacant(entry) => {
                entry.insert(slot);
                self.len += 1;
                if part.slots.len() > PART_KEYS_MAX {
                    self.halve(place);
                }
                None
            }
        }
    }

    fn halve(&mut self, place: usize) {
        let part = &mut self.parts[place];
        let middle = part.slots.keys().nth(part.slots.len() / 2);
        let middle = middle.expect("invariant: it is full").clone();
        let right = part.split_off(middle);
        self.parts.insert(place + 1, right);
    }

    pub(crate) fn remove(&mut self, key: &[u8]) -> Option<(Key, Slot)> {
        let place = self.place_of(key);
        let removed = self.parts.get_mut(place)?.slots.remove_entry(key)?;
        Some(self.removed(place, removed))
    }

    pub(crate) fn pop_first(&mut self) -> Option<(Key, Slot)> {
        let removed = self.parts.first_mut()?.slots.pop_first()?;
        Some(self.removed(0, removed))
    }

    /// Accounts for what has been taken out of a part.
    fn removed(&mut self, place: usize, (key, slot): (Key, Slot)) -> (Key, Slot) {
        let gone = Sums::of(&key, &slot);
        self.len -= 1;
        self.sums.remove(gone);
        let part = &mut self.parts[place];
        part.sums.remove(gone);
        if part.slots.is_empty() {
            self.parts.remove(place);
        }
        (key, slot)
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
        self.between(Bound::Included(start), end)
    }

    /// The keys behind `cursor`; all of them when there is none.
    pub(crate) fn after<'a>(
        &'a self,
        cursor: Option<&[u8]>,
    ) -> impl Iterator<Item = (&'a Key, &'a Slot)> {
        self.between(cursor.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
    }

    fn between<'a>(
        &'a self,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = (&'a Key, &'a Slot)> + use<'a> {
        let place = |bound: Bound<&[u8]>, unbounded| match bound {
            Bound::Included(key) | Bound::Excluded(key) => self.place_of(key),
            Bound::Unbounded => unbounded,
        };
        let (first, last) = (place(start, 0), place(end, self.parts.len().saturating_sub(1)));
        let slots = |part: &'a Part, bounds| part.slots.range::<[u8], _>(bounds);
        let is_one = first == last;
        let head = self
            .parts
            .get(first)
            .map(|part| slots(part, (start, if is_one { end } else { Bound::Unbounded })));
        let whole = self.parts.get(first + 1..last).unwrap_or_default();
        let tail = (!is_one).then(|| slots(&self.parts[last], (Bound::Unbounded, end)));
        let whole = whole.iter().flat_map(|part| part.slots.iter());
        head.into_iter().flatten().chain(whole).chain(tail.into_iter().flatten())
    }

    pub(crate) fn last_key(&self) -> Option<&Key> {
        self.parts.last()?.slots.last_key_value().map(|(key, _)| key)
    }

    /// Leaves the keys before `at`, gives the others. Takes time in the number of parts, and in the keys of one.
    pub(crate) fn split_off(&mut self, at: &[u8]) -> Self {
        let cut = self.parts.partition_point(|part| *part.from < *at);
        let mut parts = self.parts.split_off(cut);
        if let Some(part) = self.parts.last_mut() {
            let right = part.split_off(Key::from(Bytes::copy_from_slice(at)));
            if part.slots.is_empty() {
                self.parts.pop();
            }
            if !right.slots.is_empty() {
                parts.insert(0, right);
            }
        }
        let mut right = Self { parts, ..Self::default() };
        for part in &right.parts {
            right.len += part.slots.len();
            right.sums.add(part.sums);
        }
        self.len -= right.len;
        self.sums.remove(right.sums);
        right
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Put(u8, u8),
        Remove(u8),
        PopFirst,
        /// Keeps one side.
        Cut(u8, bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        (0_u8..11, any::<u8>(), any::<u8>()).prop_map(|(kind, byte, value)| match kind {
            0..6 => Step::Put(byte, value),
            6..9 => Step::Remove(byte),
            9 => Step::PopFirst,
            _ => Step::Cut(byte, value % 2 == 0),
        })
    }

    fn key(byte: u8) -> Key {
        Key::from(Bytes::from(vec![byte]))
    }

    fn slot(byte: u8, value: u8) -> Slot {
        Slot::new(&[byte], Bytes::from(vec![value; usize::from(value)]), 1, None)
    }

    /// Holds what the model holds, and its parts are as they should be.
    fn check(map: &Map, model: &BTreeMap<Key, Slot>) {
        assert!(map.after(None).eq(model.iter()));
        assert_eq!((map.len(), map.sums()), (model.len(), Sums::of_all(model.iter())));
        assert_eq!(map.last_key(), model.keys().next_back());
        for (place, part) in map.parts.iter().enumerate() {
            assert!((1..=PART_KEYS_MAX).contains(&part.slots.len()));
            assert_eq!(part.sums, Sums::of_all(part.slots.iter()));
            assert!(part.slots.keys().all(|key| part.from <= *key && map.place_of(key) == place));
        }
    }

    proptest! {
        #[test]
        fn parts_are_as_one_tree(
            steps in prop::collection::vec(step(), 0..200),
            bounds in prop::collection::vec(any::<(u8, Option<u8>)>(), 20),
        ) {
            let (mut map, mut model) = (Map::default(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Put(byte, value) => {
                        let was = map.put(key(byte), slot(byte, value));
                        prop_assert_eq!(was, model.insert(key(byte), slot(byte, value)));
                    }
                    Step::Remove(byte) => {
                        prop_assert_eq!(map.remove(&[byte]), model.remove_entry(&[byte][..]));
                    }
                    Step::PopFirst => prop_assert_eq!(map.pop_first(), model.pop_first()),
                    Step::Cut(at, is_right) => {
                        let (right, right_model) = (map.split_off(&[at]), model.split_off(&[at][..]));
                        check(&map, &model);
                        check(&right, &right_model);
                        if is_right {
                            (map, model) = (right, right_model);
                        }
                    }
                }
                check(&map, &model);
            }
            for (start, end) in bounds {
                prop_assert_eq!(map.get(&[start]), model.get(&[start][..]));
                let is_within = |key: &Key| key[0] >= start && end.is_none_or(|end| key[0] < end);
                let wanted: Vec<_> = model.iter().filter(|(key, _)| is_within(key)).collect();
                let end = end.map(|end| [end]);
                let end = end.as_ref().map(|end| &end[..]);
                prop_assert!(map.range(&[start], end).eq(wanted.iter().copied()));
                prop_assert!(map.range(&[start], end).rev().eq(wanted.iter().rev().copied()));
                let behind = model.iter().filter(|(key, _)| key[0] > start);
                prop_assert!(map.after(Some(&[start])).eq(behind));
            }
        }
    }
}
