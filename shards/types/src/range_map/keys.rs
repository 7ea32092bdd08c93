//! Sorted keys, packed one behind the other, and the search among them.
//!
//! Keys of one table begin alike. What the first key and the end behind the last one share, every key
//! between them shares, too, so nothing compares it; the eight bytes behind it decide nearly every
//! comparison as one number.

/// Keys in strictly ascending order, before an end.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys {
    bytes: Vec<u8>,
    /// Where each key ends.
    ends: Vec<u32>,
    /// How many first bytes all keys from the first one on and before the end share.
    common: usize,
    /// The eight bytes behind those, of each key, as a number; zeros where it has no more.
    heads: Vec<u64>,
    /// Of the first 64 keys, those that their heads tell wholly: nothing is behind the head, nor a zero at its end
    /// that could as well be none. A key with the same head is not before such a one.
    whole: u64,
}

impl Keys {
    /// Packs keys that ascend. Only keys before `end` will be asked for.
    pub(super) fn new<'k>(
        keys: impl ExactSizeIterator<Item = &'k [u8]> + Clone,
        end: Option<&[u8]>,
    ) -> Self {
        let mut bytes = Vec::with_capacity(keys.clone().map(<[u8]>::len).sum());
        let mut ends = Vec::with_capacity(keys.len());
        for key in keys.clone() {
            bytes.extend_from_slice(key);
            ends.push(u32::try_from(bytes.len()).expect("invariant: some keys of bounded length"));
        }
        let common = match (keys.clone().next(), end) {
            (Some(first), Some(end)) => first.iter().zip(end).take_while(|(a, b)| a == b).count(),
            (None, _) | (_, None) => 0,
        };
        let mut heads = Vec::with_capacity(keys.len());
        heads.extend(keys.clone().map(|key| head(key, common)));
        let is_whole = |key: &[u8]| key.len() <= common + 8 && key.last() != Some(&0);
        let whole = keys.take(64).enumerate().filter(|(_, key)| is_whole(key));
        let whole = whole.fold(0, |all, (place, _)| all | 1 << place);
        Self { bytes, ends, common, heads, whole }
    }

    pub(super) fn get(&self, place: usize) -> &[u8] {
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start as usize..self.ends[place] as usize]
    }

    /// The place of the last key at or before `key`, which must lie between the first one and the end.
    pub(super) fn at_or_before(&self, key: &[u8]) -> usize {
        let head = head(key, self.common);
        let low = self.heads.partition_point(|other| *other < head);
        if self.heads.get(low) != Some(&head) {
            return low.saturating_sub(1);
        }
        let is_next_greater = self.heads.get(low + 1).is_none_or(|next| *next > head);
        if low < 64 && self.whole >> low & 1 == 1 && is_next_greater {
            return low;
        }
        let same = self.heads[low..].partition_point(|other| *other == head);
        // All of a smaller head are before it, and some of the same one.
        let (mut low, mut high) = (low, low + same);
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.get(middle) <= key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low.saturating_sub(1)
    }

    /// The place of the last key before `key`, which may be the end; the first one if there is none.
    pub(super) fn before(&self, key: &[u8]) -> usize {
        let at = self.at_or_before(key);
        if self.get(at) == key { at.saturating_sub(1) } else { at }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes.capacity()
            + self.ends.capacity() * size_of::<u32>()
            + self.heads.capacity() * size_of::<u64>()
    }
}

/// Eight bytes as a number that orders as they do.
fn head(key: &[u8], from: usize) -> u64 {
    let rest = key.get(from..).unwrap_or_default();
    if let Some(head) = rest.first_chunk::<8>() {
        return u64::from_be_bytes(*head);
    }
    let mut head = [0; 8];
    head[..rest.len()].copy_from_slice(rest);
    u64::from_be_bytes(head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_last_key_at_or_before_is_found(
            prefix in prop::collection::vec(0..2_u8, 0..4),
            tails in prop::collection::btree_set(prop::collection::vec(0..3_u8, 0..12), 2..40),
            asked in prop::collection::vec(0..3_u8, 0..14),
            has_end in any::<bool>(),
        ) {
            let all = tails.into_iter().map(|tail| [prefix.clone(), tail].concat());
            let mut all: Vec<Vec<u8>> = all.collect();
            let end = if has_end { all.pop() } else { None };
            let keys = Keys::new(all.iter().map(Vec::as_slice), end.as_deref());
            let asked = [prefix, asked].concat();
            let is_between = all[0] <= asked && end.is_none_or(|end| asked < end);
            if is_between {
                let behind = all.iter().filter(|key| **key <= asked).count();
                prop_assert_eq!(keys.at_or_before(&asked), behind - 1);
                let before = all.iter().filter(|key| **key < asked).count();
                prop_assert_eq!(keys.before(&asked), before.saturating_sub(1));
            }
        }
    }
}
