//! Which key an operation takes: the names of numbered keys, and how the numbers are drawn.
//! Pure; one of each per driver.

use oarlock_types::Random;

use super::resp::decimal;
use super::schedule::unit;

/// How numbered keys are named.
#[derive(Clone, Debug, Default)]
pub enum Naming {
    /// Two bytes of a hash of the number, then `:key:<number>`: spread evenly over ranges whose
    /// bounds lie evenly over the first two bytes.
    #[default]
    Spread,
    /// The given text, then the number.
    Prefixed(Vec<u8>),
    /// The names themselves, by number.
    Listed(Vec<Vec<u8>>),
}

impl Naming {
    /// Writes the name of key `number` in place of what `out` held.
    pub fn write(&self, number: u64, out: &mut Vec<u8>) {
        out.clear();
        match self {
            Self::Spread => {
                let hash = Random::new(number).next_u64().to_be_bytes();
                out.extend_from_slice(&hash[..2]);
                out.extend_from_slice(b":key:");
                decimal(out, number);
            }
            Self::Prefixed(prefix) => {
                out.extend_from_slice(prefix);
                decimal(out, number);
            }
            Self::Listed(names) => {
                let at = usize::try_from(number).expect("invariant: a listed key's number");
                out.extend_from_slice(&names[at]);
            }
        }
    }
}

/// How key numbers are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Distribution {
    /// Each key as likely as another.
    #[default]
    Uniform,
    /// Few keys are drawn often (exponent 0.99), as in real use.
    Zipfian,
}

/// Draws key numbers below a bound.
#[derive(Clone, Debug)]
pub struct Chooser {
    count: u64,
    zipf: Option<Zipf>,
    random: Random,
}

impl Chooser {
    /// A chooser among `count` keys.
    #[must_use]
    pub fn new(count: u64, distribution: Distribution, seed: u64) -> Self {
        assert!(count > 0);
        let zipf = match distribution {
            Distribution::Uniform => None,
            Distribution::Zipfian => Some(Zipf::new(count)),
        };
        Self { count, zipf, random: Random::new(seed) }
    }

    /// The next key's number.
    pub fn choose(&mut self) -> u64 {
        match &self.zipf {
            None => self.random.below(self.count),
            Some(zipf) => zipf.rank(unit(&mut self.random)),
        }
    }

    /// A number in `0..1` from the same seed.
    pub fn unit(&mut self) -> f64 {
        unit(&mut self.random)
    }
}

const THETA: f64 = 0.99;

/// Zipf's distribution by the method of Gray and others, "Quickly generating billion-record
/// synthetic databases" (1994): constant time per draw.
#[derive(Clone, Debug)]
struct Zipf {
    count: f64,
    zeta: f64,
    alpha: f64,
    eta: f64,
}

impl Zipf {
    fn new(count: u64) -> Self {
        let zeta: f64 = (1..=count).map(|rank| (rank as f64).powf(-THETA)).sum();
        let zeta_two = 1.0 + 0.5f64.powf(THETA);
        let eta = (1.0 - (2.0 / count as f64).powf(1.0 - THETA)) / (1.0 - zeta_two / zeta);
        Self { count: count as f64, zeta, alpha: 1.0 / (1.0 - THETA), eta }
    }

    #[allow(clippy::cast_possible_truncation, reason = "the float is below a count of keys")]
    fn rank(&self, unit: f64) -> u64 {
        let scaled = unit * self.zeta;
        if scaled < 1.0 || self.count < 2.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5f64.powf(THETA) {
            return 1;
        }
        let rank = self.count * (self.eta * unit - self.eta + 1.0).powf(self.alpha);
        rank.min(self.count - 1.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_keys_fall_evenly_on_the_first_two_bytes() {
        let mut buckets = [0u32; 64];
        let mut name = Vec::new();
        for number in 0..64_000 {
            Naming::Spread.write(number, &mut name);
            buckets[usize::from(name[0] >> 2)] += 1;
        }
        assert!(buckets.iter().all(|n| (800..1200).contains(n)), "{buckets:?}");
        assert!(name.ends_with(b":key:63999"));
    }

    #[test]
    fn prefixed_and_listed_keys_are_named_as_told() {
        let mut name = b"old".to_vec();
        Naming::Prefixed(b"user:".to_vec()).write(12, &mut name);
        assert_eq!(name, b"user:12");
        Naming::Listed(vec![b"a".to_vec(), b"b".to_vec()]).write(1, &mut name);
        assert_eq!(name, b"b");
    }

    #[test]
    fn uniform_choice_covers_all_keys_evenly() {
        let mut chooser = Chooser::new(10, Distribution::Uniform, 3);
        let mut counts = [0u32; 10];
        for _ in 0..100_000 {
            counts[usize::try_from(chooser.choose()).unwrap()] += 1;
        }
        assert!(counts.iter().all(|n| (9_500..10_500).contains(n)), "{counts:?}");
    }

    #[test]
    fn zipfian_choice_has_the_frequencies_of_its_law() {
        let count = 1000u32;
        let mut chooser = Chooser::new(u64::from(count), Distribution::Zipfian, 5);
        let mut counts = vec![0u32; 1000];
        let draws = 1_000_000;
        for _ in 0..draws {
            counts[usize::try_from(chooser.choose()).unwrap()] += 1;
        }
        let zeta: f64 = (1..=count).map(|rank| f64::from(rank).powf(-THETA)).sum();
        // The first two ranks are exact in Gray's method; the rest is an approximation.
        for (rank, tolerance) in [(0usize, 0.02), (1, 0.02), (9, 0.25), (99, 0.25)] {
            let want = f64::from(draws) * ((rank + 1) as f64).powf(-THETA) / zeta;
            let got = f64::from(counts[rank]);
            assert!((got / want - 1.0).abs() < tolerance, "rank {rank}: {got}, law says {want}");
        }
        assert!(counts.iter().all(|n| *n > 0), "every key is drawn");
    }

    #[test]
    fn the_same_seed_draws_the_same_keys() {
        for distribution in [Distribution::Uniform, Distribution::Zipfian] {
            let draw = |seed| {
                let mut chooser = Chooser::new(500, distribution, seed);
                (0..100).map(|_| chooser.choose()).collect::<Vec<_>>()
            };
            assert_eq!(draw(1), draw(1));
            assert_ne!(draw(1), draw(2));
        }
    }

    #[test]
    fn one_key_is_enough() {
        let mut chooser = Chooser::new(1, Distribution::Zipfian, 5);
        assert!((0..100).all(|_| chooser.choose() == 0));
    }
}
