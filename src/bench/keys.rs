//! Which key an operation takes: the names of numbered keys, and how the numbers are drawn.
//! Pure; one of each per driver.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Distribution {
    /// Each key as likely as another.
    #[default]
    Uniform,
    /// Few keys are drawn often (exponent 0.99), as in real use.
    Zipfian,
    /// As zipfian, counted back from the key that was inserted last.
    Latest,
    /// One after the other, and again from the first.
    Sequential,
    /// A share of the keys is hot: a share of the operations takes those.
    HotSpot,
}

/// Which keys a hot-spot distribution draws how often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HotSpot {
    /// Which share of the keys is hot, 0 to 1; at least one key is.
    pub keys_share: f64,
    /// Which share of the operations takes a hot key, 0 to 1.
    pub ops_share: f64,
}

impl Default for HotSpot {
    fn default() -> Self {
        Self { keys_share: 0.2, ops_share: 0.8 }
    }
}

/// The numbered keys of a run; its drivers share the count of those that were inserted.
#[derive(Clone, Debug)]
pub struct KeySpace {
    keys: u64,
    distribution: Distribution,
    hot: HotSpot,
    count: Arc<AtomicU64>,
}

impl KeySpace {
    /// `keys` keys, before anything is inserted.
    #[must_use]
    pub fn new(keys: u64, distribution: Distribution, hot: HotSpot) -> Self {
        assert!(keys > 0);
        Self { keys, distribution, hot, count: Arc::new(AtomicU64::new(keys)) }
    }

    /// The number of a key that was not there.
    #[must_use]
    pub fn insert(&self) -> u64 {
        self.count.fetch_add(1, Ordering::Relaxed)
    }
}

/// How a chooser's numbers fall.
#[derive(Clone, Debug)]
enum Law {
    Uniform,
    Zipfian(Zipf),
    Latest(Zipf),
    Sequential { first: u64, next: u64, step: u64 },
    HotSpot { hot_keys: u64, ops_share: f64 },
}

/// Draws key numbers. One per driver.
#[derive(Clone, Debug)]
pub struct Chooser {
    space: KeySpace,
    law: Law,
    random: Random,
}

impl Chooser {
    /// A chooser among the keys of `space`, for driver number `share` of `shares`.
    #[must_use]
    pub fn new(space: KeySpace, (share, shares): (u64, u64), seed: u64) -> Self {
        assert!(share < shares);
        let law = match space.distribution {
            Distribution::Uniform => Law::Uniform,
            Distribution::Zipfian => Law::Zipfian(Zipf::new(space.keys)),
            Distribution::Latest => Law::Latest(Zipf::new(space.keys)),
            Distribution::Sequential => {
                let first = share % space.keys;
                Law::Sequential { first, next: first, step: shares }
            }
            Distribution::HotSpot => Law::HotSpot {
                hot_keys: hot_keys(space.keys, space.hot.keys_share),
                ops_share: space.hot.ops_share,
            },
        };
        Self { space, law, random: Random::new(seed) }
    }

    /// The next key's number.
    pub fn choose(&mut self) -> u64 {
        let keys = self.space.keys;
        match &mut self.law {
            Law::Uniform => self.random.below(keys),
            Law::Zipfian(zipf) => zipf.rank(unit(&mut self.random)),
            Law::Latest(zipf) => {
                let last = self.space.count.load(Ordering::Relaxed) - 1;
                last - zipf.rank(unit(&mut self.random))
            }
            Law::Sequential { first, next, step } => {
                let number = *next;
                *next = if number + *step < keys { number + *step } else { *first };
                number
            }
            Law::HotSpot { hot_keys, ops_share } => {
                let is_hot = unit(&mut self.random) < *ops_share || *hot_keys == keys;
                if is_hot {
                    self.random.below(*hot_keys)
                } else {
                    *hot_keys + self.random.below(keys - *hot_keys)
                }
            }
        }
    }

    /// The number of a key that was not there.
    pub fn insert(&mut self) -> u64 {
        self.space.insert()
    }

    /// A number in `0..1` from the same seed.
    pub fn unit(&mut self) -> f64 {
        unit(&mut self.random)
    }

    /// A number below `bound` from the same seed.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
    }
}

#[allow(clippy::cast_possible_truncation, reason = "a share of a count of keys")]
fn hot_keys(keys: u64, share: f64) -> u64 {
    ((keys as f64 * share).round() as u64).clamp(1, keys)
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

    fn chooser(keys: u64, distribution: Distribution, seed: u64) -> Chooser {
        Chooser::new(KeySpace::new(keys, distribution, HotSpot::default()), (0, 1), seed)
    }

    #[test]
    fn uniform_choice_covers_all_keys_evenly() {
        let mut chooser = chooser(10, Distribution::Uniform, 3);
        let mut counts = [0u32; 10];
        for _ in 0..100_000 {
            counts[usize::try_from(chooser.choose()).unwrap()] += 1;
        }
        assert!(counts.iter().all(|n| (9_500..10_500).contains(n)), "{counts:?}");
    }

    #[test]
    fn zipfian_choice_has_the_frequencies_of_its_law() {
        let count = 1000u32;
        let mut chooser = chooser(u64::from(count), Distribution::Zipfian, 5);
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
        let drawn = [
            Distribution::Uniform,
            Distribution::Zipfian,
            Distribution::Latest,
            Distribution::HotSpot,
        ];
        for distribution in drawn {
            let draw = |seed| {
                let mut chooser = chooser(500, distribution, seed);
                (0..100).map(|_| chooser.choose()).collect::<Vec<_>>()
            };
            assert_eq!(draw(1), draw(1));
            assert_ne!(draw(1), draw(2));
        }
    }

    #[test]
    fn one_key_is_enough() {
        for distribution in <Distribution as clap::ValueEnum>::value_variants() {
            let mut chooser = chooser(1, *distribution, 5);
            assert!((0..100).all(|_| chooser.choose() == 0), "{distribution:?}");
        }
    }

    #[test]
    fn latest_choice_follows_the_inserts() {
        let mut chooser = chooser(1000, Distribution::Latest, 7);
        let share_of = |chooser: &mut Chooser, number| {
            (0..100_000).filter(|_| chooser.choose() == number).count() as f64 / 1e5
        };
        let zeta: f64 = (1..=1000).map(|rank| f64::from(rank).powf(-THETA)).sum();
        let newest = share_of(&mut chooser, 999);
        assert!((newest * zeta - 1.0).abs() < 0.05, "{newest}, law says {}", 1.0 / zeta);
        assert_eq!((chooser.insert(), chooser.insert()), (1000, 1001));
        let newest = share_of(&mut chooser, 1001);
        assert!((newest * zeta - 1.0).abs() < 0.05, "{newest} after the inserts");
        assert!((0..100_000).all(|_| chooser.choose() <= 1001), "none that is not there yet");
    }

    #[test]
    fn sequential_choice_takes_each_key_once_whoever_drives() {
        let mut one = chooser(3, Distribution::Sequential, 1);
        assert_eq!((0..7).map(|_| one.choose()).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2, 0]);
        let space = KeySpace::new(10, Distribution::Sequential, HotSpot::default());
        let mut all = Vec::new();
        for (share, keys) in [(0, 4), (1, 3), (2, 3)] {
            let mut chooser = Chooser::new(space.clone(), (share, 3), 1);
            let own: Vec<u64> = (0..keys).map(|_| chooser.choose()).collect();
            assert_eq!(chooser.choose(), share, "then from the first again");
            all.extend(own);
        }
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_hot_spot_is_as_hot_as_told() {
        let hot = HotSpot { keys_share: 0.01, ops_share: 0.9 };
        let space = KeySpace::new(1000, Distribution::HotSpot, hot);
        let mut chooser = Chooser::new(space, (0, 1), 11);
        let mut counts = vec![0u32; 1000];
        for _ in 0..1_000_000 {
            counts[usize::try_from(chooser.choose()).unwrap()] += 1;
        }
        let (hot, cold) = counts.split_at(10);
        assert!(hot.iter().all(|n| (88_000..92_000).contains(n)), "{hot:?}");
        let (least, most) = (cold.iter().min().unwrap(), cold.iter().max().unwrap());
        assert!(*least > 50 && *most < 160, "100 each: {least} to {most}");
    }
}
