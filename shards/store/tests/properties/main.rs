//! Properties of a store under random traffic, against a plain model.

mod damage;
mod generate;
mod model;

use bytes::Bytes;
use generate::{Step, steps};
use model::{Model, VALUE_MAX};
use oarlock_store::{
    Batch, CheckpointProgress, Command, Expiry, LoadError, Loader, Reply, Request, SetCondition,
    SplitPoint, Store, StoreLimits, Watch, decode, encode,
};
use oarlock_types::{Index, WallMs};
use proptest::prelude::*;

pub(crate) const LIMITS: StoreLimits = StoreLimits {
    value_bytes_max: VALUE_MAX,
    once_count_max: 1000,
    once_bytes_max: 1 << 20,
    once_keep_ms: 1 << 40,
    once_keep_min_ms: 1 << 40,
};

/// Drives a store and its model with the same entries.
struct Pair {
    store: Store,
    model: Model,
    clock: i64,
    watches: Vec<(Watch, u64)>,
}

impl Pair {
    fn new() -> Self {
        let (store, model) = (Store::new(LIMITS), Model::default());
        Self { store, model, clock: 1000, watches: Vec::new() }
    }

    fn step(&mut self, step: &Step) {
        for key in &step.watch {
            let version = self.read(Command::Version { key: key.clone() });
            let Reply::Int(version) = version else { panic!("a version is an integer") };
            let version = u64::try_from(version).expect("never negative");
            self.watches.push((Watch { key: key.clone(), version }, self.model.version(key)));
        }
        self.clock = (self.clock + step.later_ms).max(0);
        let stamp = u64::try_from(self.clock).expect("not negative");
        let mut batch = Batch { stamp: WallMs(stamp), requests: step.requests.clone() };
        self.model.advance(stamp);
        let mut watched = Vec::new();
        if step.watched
            && let Some(first) = batch.requests.first_mut()
        {
            for (watch, version) in self.watches.drain(..) {
                watched.push((watch.key.clone(), version));
                first.watches.push(watch);
            }
        }
        let expected: Vec<Reply> = batch
            .requests
            .iter()
            .enumerate()
            .map(|(n, r)| self.model.request(r, if n == 0 { &watched } else { &[] }))
            .collect();
        let mut replies = Vec::new();
        let batch = decode(&encode(&batch)).expect("it was just encoded");
        self.store.apply(self.store.applied().next(), batch, &mut replies);
        assert_eq!(replies, expected, "{step:?}");
    }

    fn read(&self, command: Command) -> Reply {
        self.store.read(&Request::one(command), WallMs(0))
    }
}

/// The store holds exactly what the model does.
fn assert_same(store: &Store, model: &Model) {
    let read = |command| store.read(&Request::one(command), WallMs(0));
    let all = Command::Scan {
        start: Bytes::new(),
        end: None,
        limit: u32::MAX,
        reverse: false,
        values: true,
    };
    assert_eq!(Some(read(all.clone())), model.read(&all));
    assert_eq!(read(Command::Count), Reply::Int(i64::try_from(model.keys.len()).expect("small")));
    for key in model.keys.keys() {
        let ttl = Command::Ttl { key: Bytes::copy_from_slice(key), in_ms: true };
        assert_eq!(Some(read(ttl.clone())), model.read(&ttl), "{key:?}");
    }
    assert_eq!(store.once_len(), model.once.len());
}

/// The whole checkpoint of a store as it is.
pub(crate) fn checkpoint(store: &mut Store) -> Vec<u8> {
    store.checkpoint_begin();
    let mut bytes = Vec::new();
    while store.checkpoint_next(1 << 20, &mut bytes) == CheckpointProgress::More {}
    bytes
}

pub(crate) fn load(bytes: &[u8], slice: usize) -> Result<Store, LoadError> {
    let mut loader = Loader::new(LIMITS);
    for piece in bytes.chunks(slice) {
        loader.feed(piece)?;
    }
    loader.finish()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_store_answers_and_holds_what_the_model_does(steps in steps(60)) {
        let mut pair = Pair::new();
        for step in &steps {
            pair.step(step);
            assert_same(&pair.store, &pair.model);
        }
    }

    #[test]
    fn a_checkpoint_is_the_state_at_its_beginning(
        steps in steps(60), begin in 0_usize..30, slice in 1_usize..200,
    ) {
        let (mut pair, mut twin) = (Pair::new(), Pair::new());
        let begin = begin.min(steps.len());
        for step in &steps[..begin] {
            pair.step(step);
            twin.step(step);
        }
        let (then, hash) = (pair.model.clone(), pair.store.state_hash());
        pair.store.checkpoint_begin();
        let (mut bytes, mut progress) = (Vec::new(), CheckpointProgress::More);
        for step in &steps[begin..] {
            pair.step(step);
            if progress == CheckpointProgress::More {
                progress = pair.store.checkpoint_next(step.budget, &mut bytes);
            }
        }
        while progress == CheckpointProgress::More {
            progress = pair.store.checkpoint_next(100, &mut bytes);
        }
        assert_same(&pair.store, &pair.model);
        prop_assert!(bytes == checkpoint(&mut twin.store), "slices and changes leave no trace");
        let loaded = load(&bytes, slice).expect("it is whole");
        assert_same(&loaded, &then);
        prop_assert_eq!(loaded.state_hash(), hash);
        prop_assert_eq!(loaded.applied(), twin.store.applied());
        prop_assert_eq!(loaded.size_bytes(), twin.store.size_bytes());

        // A replica that was loaded goes on like one that was there all the time.
        twin.store = loaded;
        for step in &steps[begin..] {
            twin.step(step);
        }
        prop_assert_eq!(twin.store.state_hash(), pair.store.state_hash());
        prop_assert!(checkpoint(&mut twin.store) == checkpoint(&mut pair.store));
    }

    #[test]
    fn ids_that_are_evicted_meanwhile_are_in_the_checkpoint(
        ids in prop::collection::vec((0_u64..40, 0_u64..3000), 1..60),
        begin in 0_usize..40, budget in 1_usize..200,
    ) {
        let limits = StoreLimits { once_count_max: 8, once_keep_ms: 10_000, once_keep_min_ms: 500, ..LIMITS };
        let (mut store, mut twin) = (Store::new(limits), Store::new(limits));
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        let (mut progress, mut now, mut hash) = (CheckpointProgress::Done, 0, 0);
        for (n, (id, later)) in ids.into_iter().enumerate() {
            if n == begin {
                hash = store.state_hash();
                expected = checkpoint(&mut twin);
                store.checkpoint_begin();
                progress = CheckpointProgress::More;
            }
            if progress == CheckpointProgress::More {
                progress = store.checkpoint_next(budget, &mut bytes);
            }
            now += later;
            let request = Request {
                once: Some(Bytes::from(format!("id-{id}"))),
                ..Request::one(Command::IncrBy { key: Bytes::from_static(b"n"), delta: 1 })
            };
            let batch = Batch { stamp: WallMs(now), requests: vec![request] };
            let (mut replies, mut twin_replies) = (Vec::new(), Vec::new());
            store.apply(store.applied().next(), batch.clone(), &mut replies);
            twin.apply(twin.applied().next(), batch, &mut twin_replies);
            prop_assert_eq!(replies, twin_replies);
            prop_assert!(store.once_len() <= 8);
        }
        while progress == CheckpointProgress::More {
            progress = store.checkpoint_next(budget, &mut bytes);
        }
        prop_assert!(bytes == expected);
        if !bytes.is_empty() {
            prop_assert_eq!(load(&bytes, 100).expect("it is whole").state_hash(), hash);
        }
    }

    #[test]
    fn a_checkpoint_given_up_leaves_no_trace(steps in steps(40), at in 0_usize..20) {
        let (mut pair, mut twin) = (Pair::new(), Pair::new());
        for (n, step) in steps.iter().enumerate() {
            if n == at {
                pair.store.checkpoint_begin();
                let _ = pair.store.checkpoint_next(step.budget, &mut Vec::new());
            }
            if n == at + 5 {
                pair.store.checkpoint_abort();
            }
            pair.step(step);
            twin.step(step);
        }
        prop_assert_eq!(pair.store.state_hash(), twin.store.state_hash());
        prop_assert!(checkpoint(&mut pair.store) == checkpoint(&mut twin.store));
    }

    #[test]
    fn the_halves_of_a_split_are_the_whole(steps in steps(40), at in 0_usize..24) {
        let mut pair = Pair::new();
        for step in &steps {
            pair.step(step);
        }
        let (bytes, len) = (pair.store.size_bytes(), pair.store.len());
        let at = format!("k{at:02}");
        let right = pair.store.split_off(&Bytes::from(at.clone()), Index(1));
        let (mut left_model, mut right_model) = (pair.model.clone(), pair.model.clone());
        left_model.keys.retain(|key, _| key.as_slice() < at.as_bytes());
        right_model.keys.retain(|key, _| key.as_slice() >= at.as_bytes());
        assert_same(&pair.store, &left_model);
        assert_same(&right, &right_model);
        prop_assert_eq!(pair.store.size_bytes() + right.size_bytes(), bytes);
        prop_assert_eq!(pair.store.len() + right.len(), len);

        // Size, hash and index of each half are what they would be had it always been alone.
        for mut half in [pair.store, right] {
            let loaded = load(&checkpoint(&mut half), 4096).expect("it is whole");
            prop_assert_eq!(loaded.state_hash(), half.state_hash());
            prop_assert_eq!(loaded.size_bytes(), half.size_bytes());
            while !half.drop_slice(300) {}
            prop_assert!(half.is_empty());
        }
    }

    #[test]
    fn the_split_point_by_keys_halves_the_keys(lengths in prop::collection::vec(0_usize..64, 2..50)) {
        let mut store = Store::new(StoreLimits { value_bytes_max: 1 << 20, ..LIMITS });
        // Nearly all bytes stand in the last key: by bytes, all others would be on one side.
        let last = lengths.len() - 1;
        let length = |n: usize| if n == last { 60_000 } else { lengths[n] };
        let requests = (0..lengths.len()).map(|n| {
            let pairs = vec![(Bytes::from(format!("{n:03}")), Bytes::from(vec![0; length(n)]))];
            Request::one(Command::MSet { pairs })
        });
        let batch = Batch { stamp: WallMs(1), requests: requests.collect() };
        store.apply(Index(1), batch, &mut Vec::new());
        let mut search = store.split_search_by_keys();
        let found = std::iter::repeat_with(|| store.split_search_next(&mut search, 7))
            .find(|found| *found != SplitPoint::More)
            .expect("it ends");
        let SplitPoint::At(at) = found else { panic!("{found:?}") };
        let right = store.split_off(&at, Index(1));
        prop_assert!(store.len().abs_diff(right.len()) <= 1, "{} and {}", store.len(), right.len());
    }

    #[test]
    fn the_split_point_halves_the_bytes(lengths in prop::collection::vec(0_usize..64, 0..50)) {
        let mut store = Store::new(LIMITS);
        let requests = lengths.iter().enumerate().map(|(n, length)| {
            let pairs = vec![(Bytes::from(format!("{n:03}")), Bytes::from(vec![0; *length]))];
            Request::one(Command::MSet { pairs })
        });
        let batch = Batch { stamp: WallMs(1), requests: requests.collect() };
        store.apply(Index(1), batch, &mut Vec::new());
        let mut search = store.split_search();
        let found = std::iter::repeat_with(|| store.split_search_next(&mut search, 7))
            .find(|found| *found != SplitPoint::More)
            .expect("it ends");
        if let SplitPoint::At(at) = found {
            let right = store.split_off(&at, Index(1));
            prop_assert!(!store.is_empty() && !right.is_empty());
            let off = store.size_bytes().abs_diff(right.size_bytes());
            prop_assert!(off <= 2 * (176 + 3 + 64), "{off} bytes apart");
        } else {
            prop_assert!(lengths.len() < 2);
        }
    }
}

#[test]
fn damaged_archives_of_a_batch_are_refused_or_read_without_panic() {
    let batch = Batch {
        stamp: WallMs(7),
        requests: vec![Request::one(Command::MGet {
            keys: vec![Bytes::from_static(b"a long enough key"), Bytes::new()],
        })],
    };
    let bytes = encode(&batch);
    for shift in 0..4 {
        let mut moved = vec![0; shift];
        moved.extend_from_slice(&bytes);
        assert_eq!(decode(&moved[shift..]).as_ref(), Ok(&batch), "unaligned by {shift}");
    }
    let truncated = (0..bytes.len()).filter(|cut| decode(&bytes[..*cut]) == Ok(batch.clone()));
    assert_eq!(truncated.count(), 0, "a prefix is never the batch");
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1 << bit;
            // Padding is nobody's; everything else gives an error or another batch.
            if let Ok(other) = decode(&flipped) {
                assert_eq!(decode(&encode(&other)), Ok(other), "byte {at} bit {bit}");
            }
        }
    }
}

#[test]
fn keys_end_as_fast_as_an_entry_can_bring_them() {
    let mut store = Store::new(LIMITS);
    for turn in 0..50 {
        let requests = (0..100).map(|n| {
            Request::one(Command::Set {
                key: Bytes::from(format!("{turn}-{n}")),
                value: Bytes::new(),
                condition: SetCondition::Always,
                expiry: Expiry::In(5),
                get: false,
            })
        });
        let batch = Batch { stamp: WallMs(turn * 10), requests: requests.collect() };
        store.apply(Index(turn + 1), batch, &mut Vec::new());
        assert!(store.len() <= 100, "{} keys are held in turn {turn}", store.len());
    }
}
