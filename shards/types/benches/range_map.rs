//! The map of 100,000 ranges: the range of a key, a group's range, a split, and a start.

#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use oarlock_types::RangeMap;
use oarlock_types::{
    CoreAddr, CoreId, GroupId, Index, NodeId, Random, RangeDescriptor, RangeEpoch,
};

const RANGES: u64 = 100_000;
/// Keys that are looked up in turn: no two lookups near each other find the same lines warm.
const KEYS: usize = 1 << 16;

fn replicas(group: u64) -> Vec<CoreAddr> {
    (0..3).map(|copy| CoreAddr::new(NodeId((group + copy) % 5 + 1), CoreId(0))).collect()
}

/// Ranges of a table whose keys begin alike.
fn ranges(start: impl Fn(u64) -> Vec<u8>) -> Vec<RangeDescriptor> {
    let start = |number| if number == 0 { Bytes::new() } else { Bytes::from(start(number)) };
    let range = |number| RangeDescriptor {
        group: GroupId(number + 1),
        epoch: RangeEpoch(1),
        configured: Index(0),
        start: start(number),
        end: (number + 1 < RANGES).then(|| start(number + 1)),
        replicas: replicas(number),
    };
    (0..RANGES).map(range).collect()
}

fn meta() -> RangeDescriptor {
    RangeDescriptor {
        group: GroupId::META,
        epoch: RangeEpoch(1),
        configured: Index(0),
        start: Bytes::new(),
        end: None,
        replicas: replicas(0),
    }
}

fn user(number: u64) -> Vec<u8> {
    format!("user:{number:010}").into_bytes()
}

/// Points spread over all bytes, as a hash as key prefix gives them.
fn spread(number: u64) -> Vec<u8> {
    (u64::MAX / RANGES * number).to_be_bytes().to_vec()
}

fn lookups(criterion: &mut Criterion) {
    let mut random = Random::new(1);
    let (of_users, of_spread) =
        (RangeMap::new(1, ranges(user), meta()), RangeMap::new(1, ranges(spread), meta()));
    let (of_users, of_spread) = (of_users.unwrap(), of_spread.unwrap());
    println!("{} bytes a range", of_users.memory_bytes() as u64 / RANGES);
    let mut number = || random.next_u64() % RANGES;
    let users: Vec<Vec<u8>> =
        (0..KEYS).map(|_| [user(number()), b":x".to_vec()].concat()).collect();
    let spreads: Vec<Vec<u8>> = (0..KEYS).map(|_| spread(number())).collect();
    let groups: Vec<GroupId> = (0..KEYS).map(|_| GroupId(number() + 1)).collect();
    let mut at = 0;
    let mut next = move || {
        at = (at + 1) % KEYS;
        at
    };
    criterion.bench_function("owner/100k/alike", |bench| {
        bench.iter(|| of_users.owner(black_box(&users[next()])).unwrap().0);
    });
    criterion.bench_function("owner/100k/spread", |bench| {
        bench.iter(|| of_spread.owner(black_box(&spreads[next()])).unwrap().0);
    });
    criterion.bench_function("keys alone", |bench| {
        bench.iter(|| black_box(&users[next()])[0]);
    });
    criterion.bench_function("find/100k/alike", |bench| {
        bench.iter(|| of_users.find(black_box(&users[next()])).unwrap().group);
    });
    criterion.bench_function("find/100k/spread", |bench| {
        bench.iter(|| of_spread.find(black_box(&spreads[next()])).unwrap().group);
    });
    criterion.bench_function("group/100k", |bench| {
        bench.iter(|| of_users.group(black_box(groups[next()])).unwrap().epoch);
    });
}

fn changes(criterion: &mut Criterion) {
    let all = ranges(user);
    let map = RangeMap::new(1, all.clone(), meta()).unwrap();
    let parent = &all[usize::try_from(RANGES / 2).unwrap()];
    let at = Bytes::from([parent.start.as_ref(), b":m"].concat());
    let left = RangeDescriptor { epoch: RangeEpoch(2), end: Some(at.clone()), ..parent.clone() };
    let right = RangeDescriptor {
        epoch: RangeEpoch(2),
        group: GroupId(RANGES + 1),
        start: at,
        ..parent.clone()
    };
    let split = [left, right];
    criterion.bench_function("split/100k", |bench| {
        bench.iter(|| {
            let mut next = map.clone();
            next.apply(2, black_box(&split));
            next
        });
    });
    criterion.bench_function("start/100k", |bench| {
        let build = |all| RangeMap::new(1, all, meta()).unwrap();
        bench.iter_batched(|| all.clone(), build, BatchSize::PerIteration);
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = lookups, changes
}
criterion_main!(benches);
