//! Loads over a vector of ranges, a second a step, until they come to rest: each begins with one range, and
//! what is due is cut at once.

use oarlock_store::{Batch, Command, Request, StoreLimits};
use oarlock_types::{Index, Random, RangeBounds, WallMs};

use super::*;

const SETTINGS: SplitSettings = SplitSettings {
    bytes: u64::MAX,
    keys: 2_000,
    requests_per_s: 200,
    load_rest: Duration::from_secs(10),
};
/// The load of a run whose ranges have to part it: sixteen times that of one.
const MUCH: u64 = 3_200;

struct Range {
    group: GroupId,
    store: Store,
    load: RangeLoad,
    /// Requests since somebody last asked.
    asked: u64,
}

struct Cut {
    second: u64,
    group: GroupId,
    reason: SplitReason,
}

struct Ranges {
    /// In order of their keys.
    all: Vec<Range>,
    cuts: Vec<Cut>,
    second: u64,
    random: Random,
    settings: SplitSettings,
}

impl Ranges {
    fn new() -> Self {
        let mut store = Store::new(StoreLimits::default());
        store.set_bounds(RangeBounds::everything());
        let first = Range { group: GroupId(1), store, load: RangeLoad::new(Mono(0)), asked: 0 };
        let (cuts, random) = (Vec::new(), Random::new(7));
        Self { all: vec![first], cuts, second: 0, random, settings: SETTINGS }
    }

    fn of(&mut self, key: &[u8]) -> &mut Range {
        let behind = self.all.partition_point(|range| range.store.bounds().start.as_ref() <= key);
        &mut self.all[behind - 1]
    }

    fn ask(&mut self, key: Bytes) {
        let range = self.of(&key);
        range.asked += 1;
        range.load.count(&Request::one(Command::Get { key }), true);
    }

    fn insert(&mut self, key: Bytes) {
        let range = self.of(&key);
        range.asked += 1;
        let request = Request::one(Command::MSet { pairs: vec![(key, Bytes::new())] });
        range.load.count(&request, false);
        let batch = Batch { stamp: WallMs(1), requests: vec![request] };
        range.store.apply(range.store.applied().next(), batch, &mut Vec::new());
    }

    /// Seconds of so many requests each, for keys that are drawn.
    fn run(&mut self, seconds: u64, per_s: u64, mut draw: impl FnMut(&mut Random) -> Bytes) {
        for _ in 0..seconds {
            for _ in 0..per_s {
                let key = draw(&mut self.random);
                self.ask(key);
            }
            self.look();
        }
    }

    fn look(&mut self) {
        self.second += 1;
        let now = Mono::from_ms(self.second * 1000);
        let mut place = 0;
        while place < self.all.len() {
            let Range { group, store, load, .. } = &mut self.all[place];
            load.fold(now);
            load.sample_if_busy(*group, now, &self.settings);
            let found = load.look(*group, store, now, &self.settings);
            match found {
                Found::Nothing => {}
                Found::Large => while load.search(store) {},
                Found::Due(at, reason) => self.cut(place, &at, reason),
            }
            place += 1;
        }
    }

    fn cut(&mut self, place: usize, at: &Bytes, reason: SplitReason) {
        let now = Mono::from_ms(self.second * 1000);
        let group = GroupId(self.all.len() as u64 + 1);
        let range = &mut self.all[place];
        self.cuts.push(Cut { second: self.second, group: range.group, reason });
        let store = range.store.split_off(at, Index(1));
        range.load.begin_anew(now);
        self.all.insert(place + 1, Range { group, store, load: RangeLoad::new(now), asked: 0 });
    }

    /// Runs a load until it has come to rest, which it must within three minutes; then ten seconds more.
    fn settle(&mut self, per_s: u64, mut draw: impl FnMut(&mut Random) -> Bytes) {
        self.run(180, per_s, &mut draw);
        let cuts = self.cuts.len();
        self.run(120, per_s, &mut draw);
        assert_eq!(self.cuts.len(), cuts, "{} ranges, and no end", self.all.len());
        self.all.iter_mut().for_each(|range| range.asked = 0);
        self.run(10, per_s, &mut draw);
    }

    /// Ten seconds' requests of each range, for all but those of which a hot key has half: whatever has too much
    /// and can not be cut is one, since less than a quarter of what is too much stands on either side of it.
    fn shares(&self) -> Vec<u64> {
        let is_hot =
            |range: &Range| range.load.hot_key.as_ref().is_some_and(|hot| hot.share_percent >= 50);
        self.all.iter().filter(|range| !is_hot(range)).map(|range| range.asked).collect()
    }

    /// What an even spread is: no range has twice the mean, none as much as would split it, and there are no
    /// more than the load is worth.
    #[track_caller]
    fn assert_even(&self, per_s: u64) {
        let shares = self.shares();
        let mean = self.all.iter().map(|range| range.asked).sum::<u64>() / self.all.len() as u64;
        let most = shares.iter().copied().max().unwrap_or(0);
        assert!(most <= 2 * mean, "{most} of {mean} on average: {shares:?}");
        // The rates waver by the chance in what is drawn.
        assert!(most <= SETTINGS.requests_per_s * 10 * 11 / 10, "{most}: {shares:?}");
        let most_ranges = usize::try_from(4 * per_s / SETTINGS.requests_per_s).unwrap();
        assert!(self.all.len() <= most_ranges, "{} ranges", self.all.len());
    }

    fn hot_keys(&self) -> Vec<HotKey> {
        self.all.iter().filter_map(|range| range.load.hot_key.clone()).collect()
    }
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("key:{number:08}"))
}

/// Draws ranks of so many keys with a skew of 0.99.
struct Zipfian(Vec<f64>);

impl Zipfian {
    fn new(keys: u32) -> Self {
        let mut sum = 0.0;
        let mut add = |rank: u32| {
            sum += 1.0 / f64::from(rank).powf(0.99);
            sum
        };
        Self((1..=keys).map(&mut add).collect())
    }

    fn draw(&self, random: &mut Random) -> u64 {
        let all = self.0.last().unwrap();
        let at = float(random.below(1 << 40)) / float(1 << 40) * all;
        self.0.partition_point(|sum| *sum < at) as u64
    }
}

#[test]
fn a_uniform_load_divides() {
    let mut ranges = Ranges::new();
    ranges.settle(MUCH, |random| key(random.below(10_000)));
    assert!(ranges.all.len() >= 16, "{} ranges", ranges.all.len());
    ranges.assert_even(MUCH);
    assert_eq!(ranges.shares().len(), ranges.all.len(), "no key is hot");
    assert_eq!(ranges.hot_keys(), []);
}

/// Keys near the first are the hottest: the head of the key space really divides.
#[test]
fn a_zipfian_load_divides_at_its_head() {
    let mut ranges = Ranges::new();
    let zipfian = Zipfian::new(10_000);
    ranges.settle(MUCH, |random| key(zipfian.draw(random)));
    ranges.assert_even(MUCH);
    // The first key alone has 10 % of the load, more than a range should; the second 5 %.
    let hot: Vec<Bytes> = ranges.hot_keys().into_iter().map(|hot| hot.key).collect();
    assert!(hot.starts_with(&[key(0), key(1)]), "{hot:?}");
    let alone = ranges.of(&key(0)).store.bounds().clone();
    assert!(!alone.contains(&key(1)), "the hottest key has a range for itself: {alone:?}");
    let groups = [30, 300].map(|number| ranges.of(&key(number)).group);
    assert_ne!(groups[0], groups[1], "and its neighbours divide");
}

#[test]
fn a_scrambled_zipfian_load_divides() {
    let mut ranges = Ranges::new();
    let zipfian = Zipfian::new(10_000);
    let scrambled = |rank: u64| key(rank.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40);
    ranges.settle(MUCH, |random| scrambled(zipfian.draw(random)));
    ranges.assert_even(MUCH);
    assert!(ranges.all.len() >= 12, "{} ranges", ranges.all.len());
    let hot: Vec<Bytes> = ranges.hot_keys().into_iter().map(|hot| hot.key).collect();
    assert!(hot.contains(&scrambled(0)) && hot.contains(&scrambled(1)), "{hot:?}");
}

/// The load is at the end, wherever that is: to cut there would leave it where it is. It is cut by size alone.
#[test]
fn keys_inserted_in_order_divide_by_number_and_not_by_load() {
    let mut ranges = Ranges::new();
    // So many that each range gets them for longer than its load is watched.
    ranges.settings.keys = 8_000;
    for second in 0..120 {
        (0..400).for_each(|number| ranges.insert(key(second * 400 + number)));
        ranges.look();
    }
    assert!(ranges.cuts.iter().all(|cut| cut.reason == SplitReason::Keys), "none for the load");
    ranges.run(20, 10, |random| key(random.below(48_000)));
    let cuts = ranges.cuts.len();
    ranges.run(120, 10, |random| key(random.below(48_000)));
    assert_eq!(ranges.cuts.len(), cuts, "it has come to rest");
    let sizes: Vec<usize> = ranges.all.iter().map(|range| range.store.len()).collect();
    let mean = sizes.iter().sum::<usize>() / sizes.len();
    assert_eq!(sizes.iter().sum::<usize>(), 48_000);
    assert!(sizes.iter().all(|size| *size < 8_000 && *size <= 2 * mean), "{sizes:?}");
    assert!(sizes.len() <= 12, "{sizes:?}");
}

/// Each of many clients inserts in an order of its own: the load lies between them.
#[test]
fn many_who_insert_in_order_divide_by_load() {
    let mut ranges = Ranges::new();
    let mut next = [0; 16];
    ranges.settle(MUCH, |random| {
        let client = random.below(16);
        let number: &mut u64 = &mut next[usize::try_from(client).unwrap()];
        *number += 1;
        Bytes::from(format!("client:{client:02}:{number:08}"))
    });
    ranges.assert_even(MUCH);
    assert!(ranges.all.len() >= 12, "{} ranges", ranges.all.len());
}

#[test]
fn a_single_hot_key_is_told_and_nothing_is_cut() {
    let mut ranges = Ranges::new();
    ranges.settle(MUCH, |_| key(5));
    assert_eq!(ranges.all.len(), 1);
    let hot = ranges.hot_keys().pop().expect("it is found");
    assert_eq!((hot.key, hot.share_percent), (key(5), 100));
    assert!((MUCH * 98 / 100..=MUCH).contains(&hot.requests_per_s), "{}", hot.requests_per_s);
    // What stands beside it is not worth a range.
    ranges = Ranges::new();
    let nine_in_ten =
        |random: &mut Random| key(if random.below(10) > 0 { 5_000 } else { random.below(10_000) });
    ranges.settle(400, nine_in_ten);
    assert_eq!(ranges.all.len(), 1);
    let hot = ranges.hot_keys().pop().expect("it is found");
    assert!((80..=96).contains(&hot.share_percent), "{hot:?}");
}

/// What stands beside it is worth a range on either side: it is cut off on both, once.
#[test]
fn a_hot_key_among_a_real_load_is_left_alone() {
    let mut ranges = Ranges::new();
    let nine_in_ten =
        |random: &mut Random| key(if random.below(10) > 0 { 5_000 } else { random.below(10_000) });
    ranges.settle(MUCH, nine_in_ten);
    assert_eq!(ranges.cuts.len(), 2);
    let found = ranges.of(&key(5_000));
    let hot = found.load.hot_key.clone().expect("it is found");
    assert!(hot.share_percent >= 98, "{hot:?}");
    assert_eq!(ranges.hot_keys().len(), 1, "and no other");
}

#[test]
fn a_load_below_the_threshold_is_never_cut() {
    let mut ranges = Ranges::new();
    ranges.run(300, 180, |random| key(random.below(10_000)));
    assert_eq!(ranges.cuts.len(), 0);
    // One that reaches it is, but not before it was watched for a while, nor is what came from it.
    ranges.run(100, MUCH, |random| key(random.below(10_000)));
    for cut in &ranges.cuts {
        let halves = ranges.cuts.iter().filter(|other| {
            other.group == cut.group && (1..10).contains(&other.second.abs_diff(cut.second))
        });
        assert_eq!(halves.count(), 0, "{} is cut twice within ten seconds", cut.group);
    }
    assert!(ranges.cuts.len() >= 15);
    // And when the load goes, what is there stays.
    let cuts = ranges.cuts.len();
    ranges.run(300, 180, |random| key(random.below(10_000)));
    assert_eq!(ranges.cuts.len(), cuts);
}

/// Wherever the load jumps, a cut that suits where it was is not made.
#[test]
fn a_load_that_jumps_about_is_not_cut_for_ever() {
    let mut ranges = Ranges::new();
    for _ in 0..100 {
        let base = ranges.random.below(1_000_000);
        ranges.run(5, 400, |random| key(base + random.below(10)));
    }
    assert!(ranges.cuts.len() <= 8, "{} cuts", ranges.cuts.len());
}

#[test]
fn what_does_not_come_to_pass_is_due_again_but_not_at_once() {
    let mut ranges = Ranges::new();
    for number in 0..2_500 {
        ranges.insert(key(number));
    }
    let Range { group, store, load, .. } = &mut ranges.all[0];
    let mut look = |second: u64| {
        let found = load.look(*group, store, Mono::from_ms(second * 1000), &SETTINGS);
        if found == Found::Large {
            while load.search(store) {}
        }
        found
    };
    assert_eq!(look(1), Found::Large);
    let due = Found::Due(key(1_250), SplitReason::Keys);
    assert_eq!(look(2), due);
    (3..12).for_each(|second| assert_eq!(look(second), Found::Nothing, "at {second}"));
    assert_eq!(look(12), Found::Large);
    assert_eq!(look(13), due);
}

#[test]
fn a_middle_that_was_cut_off_meanwhile_is_looked_for_again() {
    let mut ranges = Ranges::new();
    for number in 0..4_500 {
        ranges.insert(key(number));
    }
    let Range { group, store, load, .. } = &mut ranges.all[0];
    assert_eq!(load.look(*group, store, Mono::from_ms(1_000), &SETTINGS), Found::Large);
    while load.search(store) {}
    drop(store.split_off(&key(2_200), Index(1)));
    assert_eq!(load.look(*group, store, Mono::from_ms(2_000), &SETTINGS), Found::Large);
    while load.search(store) {}
    let due = Found::Due(key(1_100), SplitReason::Keys);
    assert_eq!(load.look(*group, store, Mono::from_ms(3_000), &SETTINGS), due);
}
