//! Chance, in streams: each part of the world draws from its own, so that taking one fault away
//! disturbs the others as little as can be.

use oarlock_types::Random;

/// A stream with the few draws that the simulator needs.
#[derive(Clone, Debug)]
pub(crate) struct Stream(Random);

impl Stream {
    /// The stream of this name under a seed.
    pub(crate) fn new(seed: u64, name: u64) -> Self {
        let mut random = Random::new(seed ^ name.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        random.next_u64();
        Self(random)
    }

    /// 64 bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number in `0..bound`; zero when `bound` is zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0.below(bound)
    }

    /// A place in a list of `length`.
    pub(crate) fn place(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("invariant: below a usize")
    }

    /// A number in `low..=high`.
    pub(crate) fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True in so many of a thousand cases.
    pub(crate) fn per_mille(&mut self, chance: u64) -> bool {
        chance > 0 && self.below(1000) < chance
    }
}
