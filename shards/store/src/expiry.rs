//! Which keys end when: an index in order of time. One per range.
//!
//! It stands in parts, each with the keys from one on, so that a range is cut without a look at each of its keys: all
//! parts but one go to one side or the other whole. It must not decide what is expired: it only orders what the store
//! gives it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use oarlock_types::WallMs;

use crate::key::Key;

/// A part with more keys is cut in two.
const PART_KEYS_MAX: usize = 1024;

/// Keys with an expiry, soonest first; keys of one instant in key order. Most ranges have none: they pay for a pointer.
#[derive(Debug, Default)]
pub(crate) struct ExpiryIndex(Option<Box<Times>>);

#[derive(Debug, Default)]
struct Times {
    /// Each by a key that is none of the parts' before it and none behind its own. None is empty.
    parts: BTreeMap<Key, Part>,
    /// What ends first in each part, and the part.
    soonest: BTreeSet<(WallMs, Key, Key)>,
    len: usize,
}

type Part = BTreeSet<(WallMs, Key)>;

/// What ends first in the part from `from` on, as [`Times::soonest`] has it.
fn first_of(from: &Key, part: &Part) -> Option<(WallMs, Key, Key)> {
    part.first().map(|(at, key)| (*at, key.clone(), from.clone()))
}

impl ExpiryIndex {
    /// Moves `key` from one time to another.
    pub(crate) fn change(&mut self, key: &Key, old: Option<WallMs>, new: Option<WallMs>) {
        if old != new {
            self.0.get_or_insert_default().change(key, old, new);
            self.0.take_if(|times| times.parts.is_empty());
        }
    }

    /// How many keys have an expiry.
    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |times| times.len)
    }

    /// The key that ends first, if it has ended.
    pub(crate) fn first_due(&self, now: WallMs) -> Option<&Key> {
        let soonest = self.0.as_ref()?.soonest.first();
        soonest.filter(|(at, ..)| *at <= now).map(|(_, key, _)| key)
    }

    /// How many keys have ended but are still held.
    pub(crate) fn count_due(&self, now: WallMs) -> usize {
        let Some(times) = &self.0 else { return 0 };
        let parts = times.soonest.iter().take_while(|(at, ..)| *at <= now);
        let due = |part: &Part| part.iter().take_while(|(at, _)| *at <= now).count();
        parts.map(|(.., from)| due(&times.parts[from])).sum()
    }

    pub(crate) fn pop_first(&mut self) -> Option<(WallMs, Key)> {
        let (at, key, _) = self.0.as_ref()?.soonest.first()?.clone();
        self.change(&key, Some(at), None);
        Some((at, key))
    }

    /// Leaves the keys before `at`, gives the others.
    pub(crate) fn split_off(&mut self, at: &Bytes) -> Self {
        let at = Key::from(at.clone());
        let Some(mut all) = self.0.take() else { return Self::default() };
        if let Some((from, _)) = all.parts.range::<Key, _>(..&at).next_back() {
            let from = from.clone();
            all.cut_part(&from, &at);
        }
        let right = all.parts.split_off(&at);
        *self = Self::of(all.parts);
        Self::of(right)
    }

    fn of(parts: BTreeMap<Key, Part>) -> Self {
        let soonest = parts.iter().filter_map(|(from, part)| first_of(from, part)).collect();
        let len = parts.values().map(Part::len).sum();
        Self((len > 0).then(|| Box::new(Times { parts, soonest, len })))
    }
}

impl Times {
    fn change(&mut self, key: &Key, old: Option<WallMs>, new: Option<WallMs>) {
        let from = self.parts.range::<Key, _>(..=key).next_back().map(|(from, _)| from.clone());
        let from = from.unwrap_or_else(|| Key::from(Bytes::new()));
        let part = self.parts.entry(from.clone()).or_default();
        let first = part.first().cloned();
        if let Some(at) = old {
            let was = part.remove(&(at, key.clone()));
            debug_assert!(was, "an expiry was not in the index");
            self.len -= usize::from(was);
        }
        if let Some(at) = new {
            self.len += usize::from(part.insert((at, key.clone())));
        }
        let is_full = part.len() > PART_KEYS_MAX;
        if part.first() != first.as_ref() {
            self.soonest.extend(first_of(&from, part));
            if part.is_empty() {
                self.parts.remove(&from);
            }
            if let Some((at, key)) = first {
                self.soonest.remove(&(at, key, from.clone()));
            }
        }
        if is_full {
            self.halve(&from);
        }
    }

    fn halve(&mut self, from: &Key) {
        let part = self.parts.get(from).expect("invariant: it is full");
        let mut keys: Vec<&Key> = part.iter().map(|(_, key)| key).collect();
        let middle = keys.len() / 2;
        let middle = keys.select_nth_unstable(middle).1.clone();
        self.cut_part(from, &middle);
        // What was first is first in one of the two.
        let (left, right) = (&self.parts[from], &self.parts[&middle]);
        let (at, key) = right.first().expect("invariant: it has the middle");
        self.soonest.remove(&(*at, key.clone(), from.clone()));
        self.soonest.extend([first_of(from, left), first_of(&middle, right)].into_iter().flatten());
    }

    /// The keys of a part from `at` on become a part of their own.
    fn cut_part(&mut self, from: &Key, at: &Key) {
        let part = self.parts.remove(from).unwrap_or_default();
        let (left, right): (Part, Part) = part.into_iter().partition(|(_, key)| key < at);
        let halves = [(from.clone(), left), (at.clone(), right)];
        self.parts.extend(halves.into_iter().filter(|(_, part)| !part.is_empty()));
    }
}

#[cfg(test)]
mod tests {
    use oarlock_types::Random;

    use super::*;

    fn key(number: u64) -> Key {
        Key::from(Bytes::from(format!("key-{number:06}")))
    }

    fn check(index: &ExpiryIndex, all: &BTreeSet<(WallMs, Key)>) {
        assert_eq!(index.len(), all.len());
        if let Some(times) = &index.0 {
            assert!(times.parts.values().all(|part| (1..=PART_KEYS_MAX).contains(&part.len())));
            let anew = ExpiryIndex::of(times.parts.clone()).0.unwrap();
            assert_eq!((&times.soonest, times.len), (&anew.soonest, anew.len));
        }
        assert_eq!(index.first_due(WallMs(u64::MAX)), all.first().map(|(_, key)| key));
        for now in [0, 20, 50, u64::MAX].map(WallMs) {
            assert_eq!(index.count_due(now), all.iter().filter(|(at, _)| *at <= now).count());
        }
    }

    /// Beside one set of all: whatever is put in, taken out and cut off, in whatever parts.
    #[test]
    fn it_is_as_one_set_of_all_would_be() {
        let mut random = Random::new(7);
        let (mut index, mut all) = (ExpiryIndex::default(), BTreeSet::new());
        let mut times: BTreeMap<u64, WallMs> = BTreeMap::new();
        for step in 0..60_000_u64 {
            let number = random.below(8_000);
            let new = (random.below(4) > 0).then(|| WallMs(random.below(100)));
            let old = times.get(&number).copied();
            index.change(&key(number), old, new);
            if let Some(at) = old {
                all.remove(&(at, key(number)));
                times.remove(&number);
            }
            if let Some(at) = new {
                all.insert((at, key(number)));
                times.insert(number, at);
            }
            if step % 10_000 == 0 {
                check(&index, &all);
            }
        }
        let parts = index.0.as_ref().unwrap().parts.len();
        assert!(parts > 4, "it is in {parts} parts");
        for at in [6_500, 9_000, 4_000, 3_999, 10, 1, 0] {
            let at = key(at);
            let right = index.split_off(&at.to_bytes());
            let of_right = all.iter().filter(|(_, key)| *key >= at).cloned().collect();
            all.retain(|(_, key)| *key < at);
            check(&right, &of_right);
            check(&index, &all);
            if all.len() < 2 {
                (index, all) = (right, of_right);
            }
        }
        while let Some(first) = index.pop_first() {
            assert_eq!(Some(first), all.pop_first());
        }
        assert!(all.is_empty() && index.0.is_none());
    }
}
