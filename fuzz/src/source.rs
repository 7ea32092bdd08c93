//! Reads choices out of an input. What is behind its end is zero, so that every input means
//! something and cutting one makes it simpler.

use oarlock_types::Random;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// An input that is not used up yet.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    /// All of an input.
    #[must_use]
    pub const fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    /// Whether all is used up.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// The next two bytes as a number.
    pub fn short(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// The next four bytes as a number.
    pub fn long(&mut self) -> u32 {
        u32::from_be_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    /// A number below `bound`; zero if that is zero. Takes as many bytes as the bound needs.
    pub fn below(&mut self, bound: usize) -> usize {
        let drawn = match bound {
            0..=0x100 => u32::from(self.byte()),
            0x101..=0x1_0000 => u32::from(self.short()),
            _ => self.long(),
        };
        drawn as usize % bound.max(1)
    }

    /// The next `count` bytes, or as many as there are.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A piece whose length stands before it in two bytes.
    pub fn piece(&mut self) -> &'a [u8] {
        let length = usize::from(self.short());
        self.take(length)
    }

    /// All the rest.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// Cuts `bytes` into portions whose lengths are drawn.
    pub fn cut<'b>(&mut self, mut bytes: &'b [u8]) -> Vec<&'b [u8]> {
        let lengths = self.piece();
        let mut lengths = lengths.iter().copied().chain([1, 255]).cycle();
        let mut portions = Vec::new();
        while !bytes.is_empty() {
            let length = lengths.next().map_or(1, |drawn| usize::from(drawn).max(1));
            let (portion, rest) = bytes.split_at(length.min(bytes.len()));
            portions.push(portion);
            bytes = rest;
        }
        portions
    }

    /// Changes `bytes` until the input is used up, at most sixteen times.
    pub fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..16 {
            if self.is_empty() || bytes.is_empty() {
                return;
            }
            let kind = self.byte() % 8;
            let at = self.below(bytes.len());
            let length = (1 + usize::from(self.byte())).min(bytes.len() - at);
            match kind {
                0 | 1 => bytes[at] ^= 1 << self.below(8),
                2 => bytes[at] = self.byte(),
                3 => bytes.truncate(at),
                4 => drop(bytes.drain(at..at + length)),
                5 => {
                    let piece = bytes[at..at + length].to_vec();
                    let to = self.below(bytes.len());
                    bytes.splice(to..to, piece);
                }
                6 => {
                    let piece = self.take(length);
                    bytes[at..at + piece.len()].copy_from_slice(piece);
                }
                _ => bytes[at..at + length].fill(0),
            }
        }
    }
}

/// A value of a generator that tests use, too: the same of the same seed.
pub fn generate<S: Strategy>(strategy: &S, seed: u32) -> Option<S::Value> {
    let mut random = Random::new(seed.into());
    let seed = [random.next_u64(), random.next_u64()].map(u64::to_le_bytes).concat();
    let rng = TestRng::from_seed(RngAlgorithm::XorShift, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    strategy.new_tree(&mut runner).ok().map(|tree| tree.current())
}
