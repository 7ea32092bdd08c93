//! Which keys a range holds, and which version of it that is.

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};

use crate::RangeEpoch;

/// The keys of a range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct RangeBounds {
    /// Raised whenever the bounds change; zero where they are not known yet.
    pub epoch: RangeEpoch,
    /// The first key.
    pub start: Bytes,
    /// The first key behind it; `None` for the last range.
    pub end: Option<Bytes>,
}

impl RangeBounds {
    /// All keys, in the first version.
    #[must_use]
    pub fn everything() -> Self {
        Self { epoch: RangeEpoch(1), ..Self::default() }
    }

    /// Whether the key is one of the range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start.as_ref() <= key && self.end.as_ref().is_none_or(|end| key < end.as_ref())
    }

    /// Whether `key` cuts the range into two that both may hold keys.
    #[must_use]
    pub fn can_split_at(&self, key: &[u8]) -> bool {
        self.contains(key) && self.start.as_ref() != key
    }

    /// Takes over the keys of the range behind, in a version that is newer than both.
    ///
    /// # Panics
    /// If that one does not begin where this one ends.
    pub fn join(&mut self, right: Self) {
        assert_eq!(self.end.as_ref(), Some(&right.start), "invariant: neighbours are merged");
        self.epoch = self.epoch.max(right.epoch).next();
        self.end = right.end;
    }

    /// Leaves the keys before `at` and gives the bounds of the others, both in the next version.
    ///
    /// # Panics
    /// If `at` does not cut the range in two.
    #[must_use]
    pub fn split_off(&mut self, at: Bytes) -> Self {
        assert!(self.can_split_at(&at), "invariant: a range is cut within its bounds");
        self.epoch = self.epoch.next();
        let end = self.end.replace(at.clone());
        Self { epoch: self.epoch, start: at, end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_leaves_no_gap_and_no_overlap() {
        let mut left = RangeBounds::everything();
        let mut right = left.split_off(Bytes::from_static(b"m"));
        let last = right.split_off(Bytes::from_static(b"t"));
        assert_eq!(
            (left.epoch, right.epoch, last.epoch),
            (RangeEpoch(2), RangeEpoch(3), RangeEpoch(3))
        );
        for key in [&b""[..], b"a", b"lzz", b"m", b"m\0", b"szz", b"t", b"\xff"] {
            let holders = [&left, &right, &last].iter().filter(|part| part.contains(key)).count();
            assert_eq!(holders, 1, "{key:?}");
        }
        assert!(!right.can_split_at(b"m") && !right.can_split_at(b"t"));
        assert!(right.can_split_at(b"m\0"));
        right.join(last);
        assert_eq!((right.epoch, right.end.as_ref()), (RangeEpoch(4), None));
        left.join(right);
        assert_eq!(left, RangeBounds { epoch: RangeEpoch(5), ..RangeBounds::everything() });
    }
}
