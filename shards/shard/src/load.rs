//! What a range is asked: how many requests a second, and of which keys. One per replica that leads and was
//! asked something of late; an idle range has none.
//!
//! For each request a number is raised, and one request in many leaves a copy of a key. Nothing here runs by
//! itself, and nothing here decides: `due_splits` does.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use oarlock_store::{Request, SplitSearch};
use oarlock_types::{GroupId, Mono, Random};

use crate::due_splits::{HotKey, SplitSettings};

/// What was counted weighs half as much after this time: long enough that the noise of some hundred requests
/// a second vanishes, short enough that a load is known when its keys are.
const HALF_LIFE: Duration = Duration::from_secs(5);
/// Rates are not made anew before this time has passed: what came in one turn is no rate.
const FOLD_INTERVAL_MIN: Duration = Duration::from_millis(500);
/// Keys of a full sample: a share of one half is found with a standard deviation of 3 %, and in each quarter of
/// the sample with one of 6 %.
const SAMPLE_KEYS: usize = 256;
/// Full samples in the time for which a load is watched, above which it is watched anew; 1.3 are aimed at.
const FASTEST: f64 = 3.0;
/// Parts of a sample by age.
const AGES: usize = 4;
/// A range of fewer requests per second is cold: what is known of it is forgotten.
const COLD_PER_S: f64 = 0.1;

/// How many requests a range gets per second: an average in which what was counted weighs half as much after
/// five seconds, as it stood when [`crate::Shard::due_splits`] last looked. Zero for a range that is cold or
/// not led here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestRates {
    /// Requests that changed nothing.
    pub reads_per_s: u64,
    /// All others.
    pub writes_per_s: u64,
}

impl RequestRates {
    /// Reads and writes.
    #[must_use]
    pub fn total_per_s(self) -> u64 {
        self.reads_per_s + self.writes_per_s
    }
}

/// The middle of a range that is too large.
#[derive(Debug)]
pub(crate) enum Middle {
    /// Nobody has asked.
    Unknown,
    /// Being walked to.
    Searching(SplitSearch),
    /// The first key of the right half.
    At(Bytes),
}

/// The load of one range.
#[derive(Debug)]
pub(crate) struct RangeLoad {
    /// Counted since `folded_at`.
    reads: u64,
    writes: u64,
    /// Requests until one leaves a key. Without a sample, more than ever come.
    until_key: u64,
    sample: Option<Box<KeySample>>,
    /// Requests per second, each second weighing less the longer it is gone, and the sum of the weights.
    reads_weighed: f64,
    writes_weighed: f64,
    weights: f64,
    folded_at: Mono,
    /// No split is due before then: one was proposed.
    pub(crate) rests_until: Mono,
    pub(crate) middle: Middle,
    pub(crate) hot_key: Option<HotKey>,
}

impl RangeLoad {
    pub(crate) fn new(now: Mono) -> Self {
        Self {
            reads: 0,
            writes: 0,
            until_key: u64::MAX,
            sample: None,
            reads_weighed: 0.0,
            writes_weighed: 0.0,
            weights: 0.0,
            folded_at: now,
            rests_until: Mono(0),
            middle: Middle::Unknown,
            hot_key: None,
        }
    }

    /// Counts a request.
    #[inline]
    pub(crate) fn count(&mut self, request: &Request, is_read: bool) {
        self.reads += u64::from(is_read);
        self.writes += u64::from(!is_read);
        self.until_key -= 1;
        if self.until_key == 0 {
            self.keep_key(request);
        }
    }

    #[cold]
    fn keep_key(&mut self, request: &Request) {
        self.until_key = self.sample.as_mut().map_or(u64::MAX, |sample| sample.keep(request));
    }

    /// Takes what was counted since the last time into the rates.
    pub(crate) fn fold(&mut self, now: Mono) {
        let passed = now.since(self.folded_at);
        if passed < FOLD_INTERVAL_MIN {
            return;
        }
        self.folded_at = now;
        let kept = remaining(passed);
        let fold = |weighed: f64, count: u64| {
            weighed * kept + float(count) / passed.as_secs_f64() * (1.0 - kept)
        };
        self.reads_weighed = fold(self.reads_weighed, std::mem::take(&mut self.reads));
        self.writes_weighed = fold(self.writes_weighed, std::mem::take(&mut self.writes));
        self.weights = self.weights * kept + (1.0 - kept);
    }

    /// Requests per second. Divided by the weights, since little is known of a load that has just begun, not
    /// that it is small.
    pub(crate) fn per_s(&self) -> f64 {
        let weighed = self.reads_weighed + self.writes_weighed;
        if self.weights > 0.0 { weighed / self.weights } else { 0.0 }
    }

    pub(crate) fn rates(&self) -> RequestRates {
        let weights = if self.weights > 0.0 { self.weights } else { 1.0 };
        RequestRates {
            reads_per_s: whole(self.reads_weighed / weights),
            writes_per_s: whole(self.writes_weighed / weights),
        }
    }

    /// Whether nothing is left to remember.
    pub(crate) fn is_cold(&self, now: Mono) -> bool {
        self.reads + self.writes == 0
            && self.per_s() < COLD_PER_S
            && self.weights > 0.0
            && self.rests_until <= now
            && matches!(self.middle, Middle::Unknown)
    }

    /// Takes a sample of the keys of a range that comes near to being split for its load, of no other.
    pub(crate) fn sample_if_busy(&mut self, group: GroupId, now: Mono, settings: &SplitSettings) {
        let near = float(settings.requests_per_s) / 2.0;
        let per_s = self.per_s();
        if per_s < near / 2.0 {
            self.sample = None;
            self.until_key = u64::MAX;
            self.hot_key = None;
        } else if let Some(sample) = &mut self.sample {
            sample.spread(per_s, now, settings.load_rest);
        } else if per_s >= near {
            let mut sample = Box::new(KeySample::new(group, now));
            sample.spread(per_s, now, settings.load_rest);
            self.until_key = sample.next_gap();
            self.sample = Some(sample);
        }
    }

    /// What a full sample says that was taken for long enough. What fills it sooner is a load that has only just
    /// come, and may go.
    pub(crate) fn distribution(&self, now: Mono, settings: &SplitSettings) -> Option<Distribution> {
        let sample = self.sample.as_ref()?;
        let is_whole =
            sample.keys.len() == SAMPLE_KEYS && now.since(sample.since) >= settings.load_rest;
        is_whole.then(|| sample.read())
    }

    /// Forgets all: the range has other keys now.
    pub(crate) fn begin_anew(&mut self, now: Mono) {
        *self = Self::new(now);
    }
}

/// How much of a weight is left after some time: a half for each half life. Between them by a quotient that
/// is off by less than 0.0002, and the same on every machine, as the library's exponential is not.
fn remaining(passed: Duration) -> f64 {
    let half_lives = passed.as_secs_f64() / HALF_LIFE.as_secs_f64();
    let x = (half_lives % 1.0) * std::f64::consts::LN_2;
    let rest = (12.0 - 6.0 * x + x * x) / (12.0 + 6.0 * x + x * x);
    let halvings = i32::try_from(whole(half_lives)).unwrap_or(i32::MAX);
    rest * 0.5_f64.powi(halvings)
}

#[allow(clippy::cast_precision_loss, reason = "no count comes near to 2^53")]
pub(crate) fn float(number: u64) -> f64 {
    number as f64
}

#[allow(clippy::cast_possible_truncation, reason = "what is lost is what the rounding takes")]
#[allow(clippy::cast_sign_loss, reason = "rates are not negative")]
pub(crate) fn whole(number: f64) -> u64 {
    number as u64
}

/// The newest of the keys that one request in `gap`, on average, has named.
#[derive(Debug)]
struct KeySample {
    /// Oldest first.
    keys: VecDeque<Bytes>,
    since: Mono,
    gap: u64,
    spread_at: Mono,
    /// Keys since then.
    kept: u64,
    random: Random,
}

/// What a sample says of a range.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Distribution {
    /// The key that parts the load best, and the share of the load on its smaller side.
    pub(crate) best_cut: Option<(Bytes, f64)>,
    /// The key that is named most often, and its share.
    pub(crate) hottest: (Bytes, f64),
}

impl KeySample {
    fn new(group: GroupId, now: Mono) -> Self {
        let keys = VecDeque::with_capacity(SAMPLE_KEYS);
        Self { keys, since: now, gap: 1, spread_at: now, kept: 0, random: Random::new(group.get()) }
    }

    /// Makes the sample hold what came in three quarters of `time`, so that it is full when that has passed. Where
    /// the keys came far faster than that, the load has only just grown, and is watched anew.
    fn spread(&mut self, per_s: f64, now: Mono, time: Duration) {
        let passed = now.since(self.spread_at).as_secs_f64() / time.as_secs_f64();
        if float(self.kept) > FASTEST * float(SAMPLE_KEYS as u64) * passed {
            self.since = now;
        }
        (self.spread_at, self.kept) = (now, 0);
        self.gap = whole(per_s * time.as_secs_f64() * 0.75 / float(SAMPLE_KEYS as u64)).max(1);
    }

    /// Requests until the next key is kept: by chance, so that what clients do in turns is seen whole.
    fn next_gap(&mut self) -> u64 {
        1 + self.random.below(2 * self.gap - 1)
    }

    /// Keeps one of the keys that a request names, and says how many requests come until the next one.
    /// It is copied: what the request is part of, a whole buffer of a socket, is not to be kept for it.
    fn keep(&mut self, request: &Request) -> u64 {
        if let Some(key) = request.pick_key(self.random.next_u64()) {
            if self.keys.len() == SAMPLE_KEYS {
                self.keys.pop_front();
            }
            self.keys.push_back(Bytes::copy_from_slice(key));
            self.kept += 1;
        }
        self.next_gap()
    }

    /// A cut has to part each quarter of the sample, from the oldest to the newest, about as it parts the whole.
    /// Where the keys wander, as where each one is inserted behind the last, none does, and none would help.
    fn read(&self) -> Distribution {
        let count = self.keys.len();
        let ages = (0..count).map(|place| place * AGES / count);
        let mut sorted: Vec<(&Bytes, usize)> = self.keys.iter().zip(ages).collect();
        sorted.sort_unstable();
        let mut left = [0; AGES];
        let mut best: Option<(&Bytes, f64)> = None;
        let mut hottest = (sorted[0].0, 0);
        for same in sorted.chunk_by(|a, b| a.0 == b.0) {
            let key = same[0].0;
            let all_left: usize = left.iter().sum();
            let smaller = share(all_left.min(count - all_left), count);
            let of_age = |left: &usize| share(*left, count / AGES);
            let least = |side: f64| side.min(1.0 - side);
            let is_steady = left.iter().map(of_age).all(|side| least(side) >= smaller / 2.0);
            if is_steady && smaller > best.map_or(0.0, |(_, most)| most) {
                best = Some((key, smaller));
            }
            if same.len() > hottest.1 {
                hottest = (key, same.len());
            }
            same.iter().for_each(|(_, age)| left[*age] += 1);
        }
        Distribution {
            best_cut: best.map(|(key, smaller)| (key.clone(), smaller)),
            hottest: (hottest.0.clone(), share(hottest.1, count)),
        }
    }
}

fn share(part: usize, all: usize) -> f64 {
    float(part as u64) / float(all as u64)
}

#[cfg(test)]
mod tests {
    use oarlock_store::Command;

    use super::*;

    fn get(key: &str) -> Request {
        Request::one(Command::Get { key: Bytes::copy_from_slice(key.as_bytes()) })
    }

    /// A second of so many requests.
    fn second(load: &mut RangeLoad, at: u64, count: u64) {
        (0..count).for_each(|_| load.count(&get("k"), true));
        load.fold(Mono::from_ms(at * 1000));
    }

    #[test]
    fn a_rate_is_right_at_once_and_halves_in_five_seconds() {
        let mut load = RangeLoad::new(Mono(0));
        assert_eq!(load.rates(), RequestRates::default());
        load.count(&get("k"), true);
        load.fold(Mono::from_ms(1));
        assert_eq!(load.rates().total_per_s(), 0, "a turn is no second");
        second(&mut load, 1, 999);
        assert_eq!(load.rates(), RequestRates { reads_per_s: 1000, writes_per_s: 0 });
        (2..=60).for_each(|at| second(&mut load, at, 1000));
        (0..200).for_each(|_| load.count(&get("k"), false));
        second(&mut load, 61, 1000);
        assert!(load.rates().reads_per_s.abs_diff(1000) <= 1, "{:?}", load.rates());
        assert_eq!(load.rates().writes_per_s, 25, "a seventh and an eighth weigh so much less");
        second(&mut load, 66, 0);
        assert!(load.rates().reads_per_s.abs_diff(500) <= 1, "{:?}", load.rates());
        second(&mut load, 76, 0);
        assert!(load.rates().reads_per_s.abs_diff(125) <= 1, "{:?}", load.rates());
    }

    #[test]
    fn what_is_left_of_a_weight_is_a_power_of_two() {
        for tenths in 0..400 {
            let passed = HALF_LIFE * tenths / 10;
            let exact = (-f64::from(tenths) / 10.0).exp2();
            assert!((remaining(passed) - exact).abs() < 0.0002, "{tenths}");
        }
        assert!(remaining(Duration::from_secs(1 << 40)) == 0.0);
    }

    #[test]
    fn what_is_asked_no_more_grows_cold() {
        let mut load = RangeLoad::new(Mono(0));
        load.count(&get("k"), true);
        assert!(!load.is_cold(Mono(0)));
        load.fold(Mono::from_ms(1000));
        assert!(!load.is_cold(Mono::from_ms(1000)));
        let cold = (2..).find(|at| {
            load.fold(Mono::from_ms(at * 1000));
            load.is_cold(Mono::from_ms(at * 1000))
        });
        assert!((5..15).contains(&cold.unwrap()), "one in about ten seconds: {cold:?}");
    }

    fn sample(keys: impl Iterator<Item = u64>) -> KeySample {
        let mut sample = KeySample::new(GroupId(1), Mono(0));
        for number in keys {
            sample.keep(&get(&format!("{number:04}")));
        }
        sample
    }

    #[test]
    fn a_sample_holds_the_newest_keys_and_is_cut_where_all_of_it_is_parted() {
        let all = sample((0..1000).map(|number| number * 7 % 100));
        assert_eq!(all.keys.len(), SAMPLE_KEYS);
        let Distribution { best_cut, hottest } = all.read();
        let (at, parted) = best_cut.unwrap();
        assert!((0.47..=0.5).contains(&parted), "{parted}");
        assert!(("0045".."0055").contains(&std::str::from_utf8(&at).unwrap()), "{at:?}");
        assert!((0.009..0.02).contains(&hottest.1), "{hottest:?}");
        let newest = sample((0..1000).map(|number| u64::from(number >= 1000 - 256)));
        assert_eq!(newest.read().hottest, ("0001".into(), 1.0));
        // One key behind the other, and a place that is another one now.
        let in_order = sample(0..256);
        assert_eq!(in_order.read().best_cut, None);
        let moved = sample((0..256).map(|number| u64::from(number >= 128)));
        assert_eq!(moved.read().best_cut, None);
        // Where it is now it would be parted, and a quarter of the sample is of another place.
        let jumped = sample((0..256).map(|number| if number < 64 { 0 } else { number % 10 + 1 }));
        assert_eq!(jumped.read().best_cut, None);
    }

    /// A client that asks for eight keys in turn, at whatever step of the sample, has eight equal keys.
    #[test]
    fn what_comes_in_turns_is_seen_whole() {
        let settings = SplitSettings { requests_per_s: 1000, ..SplitSettings::default() };
        let mut load = RangeLoad::new(Mono(0));
        for at in 1..=20_u64 {
            for number in 0..1024 {
                load.count(&get(&format!("{}", number % 8)), true);
            }
            load.fold(Mono::from_ms(at * 1000));
            load.sample_if_busy(GroupId(1), Mono::from_ms(at * 1000), &settings);
        }
        let now = Mono::from_ms(20_000);
        let Distribution { best_cut, hottest } =
            load.distribution(now, &settings).expect("it is full");
        assert!(best_cut.unwrap().1 > 0.35 && hottest.1 < 0.25, "{hottest:?}");
    }
}
