//! Hash maps whose seed is fixed, so that the same inputs give the same iteration order.
//! Order of iteration still must not matter: clippy denies iterating over them.

use std::hash::{BuildHasher, Hasher};

/// Hashes integers and ids by one multiplication (Fibonacci hashing). Keys come from ourselves,
/// never from a client, so that nobody can choose collisions.
#[derive(Clone, Copy, Debug, Default)]
pub struct FastState;

/// The hasher of [`FastState`].
#[derive(Clone, Copy, Debug, Default)]
pub struct FastHasher(u64);

const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

impl Hasher for FastHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u64(u64::from(b));
        }
    }
    fn write_u16(&mut self, n: u16) {
        self.write_u64(u64::from(n));
    }
    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(5) ^ n).wrapping_mul(MULTIPLIER);
    }
}

impl BuildHasher for FastState {
    type Hasher = FastHasher;
    fn build_hasher(&self) -> FastHasher {
        FastHasher(0)
    }
}

/// A hash map over our own ids.
#[allow(clippy::disallowed_types, reason = "the seed is fixed by FastState")]
pub type FastMap<K, V> = std::collections::HashMap<K, V, FastState>;
/// A hash set over our own ids.
#[allow(clippy::disallowed_types, reason = "the seed is fixed by FastState")]
pub type FastSet<K> = std::collections::HashSet<K, FastState>;
