//! The places at which `SCAN`s stand. One table per core, for all its connections.
//!
//! Clients take a cursor for an integer, and many for one below 2^53, but a place in an ordered
//! keyspace is a key. So a cursor is a number in this table, with the key's first two bytes:
//! bits 52–37 the bytes, bits 36–0 the number. A cursor that the table does not know (made by
//! another core or node, or long ago) goes back to the first key with those two bytes: the client
//! gets some keys twice, which Redis allows, and misses none. A client that stays on its connection
//! never sees that, because a connection stays on its core.

use std::collections::VecDeque;

use bytes::Bytes;

const NUMBER_BITS: u32 = 37;
const NUMBER_MASK: u64 = (1 << NUMBER_BITS) - 1;
/// Cursors that are remembered.
const COUNT_MAX: usize = 4096;
/// Bytes of keys that are remembered; the newest one always is.
const BYTES_MAX: usize = 4 << 20;

/// The newest cursors of one core, numbered without gaps.
#[derive(Debug)]
pub struct Cursors {
    places: VecDeque<Bytes>,
    /// The number of the first in the queue.
    first: u64,
    bytes: usize,
}

impl Cursors {
    /// An empty table. Tables with different seeds give different cursors, as good as always.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // Above zero, so that no cursor is the number that begins and ends a scan.
        let first = (seed & (NUMBER_MASK >> 1)) + 1;
        Self { places: VecDeque::new(), first, bytes: 0 }
    }

    /// A cursor that continues at `key`.
    pub(super) fn insert(&mut self, key: Bytes) -> u64 {
        let number = self.first + u64::try_from(self.places.len()).expect("invariant: it fits");
        let cursor = prefix(&key) << NUMBER_BITS | (number & NUMBER_MASK);
        self.bytes += key.len();
        self.places.push_back(key);
        while self.places.len() > COUNT_MAX || (self.bytes > BYTES_MAX && self.places.len() > 1) {
            let oldest = self.places.pop_front().expect("invariant: it is not empty");
            self.bytes -= oldest.len();
            self.first += 1;
        }
        cursor
    }

    /// The key at which a scan continues.
    pub(super) fn place(&self, cursor: u64) -> Bytes {
        let number = cursor & NUMBER_MASK;
        let known = number
            .checked_sub(self.first & NUMBER_MASK)
            .and_then(|at| self.places.get(usize::try_from(at).ok()?))
            .filter(|key| prefix(key) == cursor >> NUMBER_BITS);
        match known {
            Some(key) => key.clone(),
            None => {
                let bytes = (cursor >> NUMBER_BITS).to_be_bytes();
                // A key of fewer bytes reads as if zeros followed, so zeros are cut off again.
                let end = bytes.iter().rposition(|&byte| byte != 0).map_or(6, |at| at + 1);
                Bytes::copy_from_slice(&bytes[6..end.max(6)])
            }
        }
    }
}

fn prefix(key: &[u8]) -> u64 {
    let byte = |at: usize| u64::from(key.get(at).copied().unwrap_or(0));
    byte(0) << 8 | byte(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_cursor_is_exact_and_fits_into_a_double() {
        let mut cursors = Cursors::new(u64::MAX);
        for key in [&b"user:1\0"[..], b"", b"\xff\xff\xff", b"a"] {
            let cursor = cursors.insert(Bytes::copy_from_slice(key));
            assert!((1..1 << 53).contains(&cursor));
            assert_eq!(&cursors.place(cursor)[..], key);
        }
    }

    #[test]
    fn an_unknown_cursor_goes_back_and_never_forward() {
        let mut here = Cursors::new(1);
        let there = Cursors::new(1 << 30);
        for key in [&b"user:1"[..], b"u", b"", b"u\0", b"\0", b"\0\0a", b"\xff\xff\xff"] {
            let cursor = here.insert(Bytes::copy_from_slice(key));
            let place = there.place(cursor);
            assert!(&place[..] <= key, "{place:?} {key:?}");
            assert!(key.starts_with(&place));
        }
        assert!(there.place(u64::MAX).len() <= 2);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut cursors = Cursors::new(7);
        let first = cursors.insert(Bytes::from_static(b"abc"));
        for _ in 0..10 * COUNT_MAX {
            cursors.insert(Bytes::from_static(b"abd"));
        }
        assert_eq!(cursors.places.len(), COUNT_MAX);
        assert_eq!(&cursors.place(first)[..], b"ab");
        let large = Bytes::from(vec![b'x'; 1 << 20]);
        for _ in 0..10 {
            cursors.insert(large.clone());
        }
        assert!(cursors.bytes <= BYTES_MAX);
    }
}
