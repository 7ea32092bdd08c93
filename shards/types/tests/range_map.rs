//! Maps that change: whatever is heard, in whatever order, a key has one range, and the newest one.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]
#![allow(clippy::disallowed_types, reason = "proptest's own macros share their strategies")]

use bytes::Bytes;
use oarlock_types::RangeMap;
use oarlock_types::{
    CoreAddr, CoreId, GroupId, Index, NodeId, Random, RangeDescriptor, RangeEpoch,
};
use proptest::prelude::*;

/// What happens to a range.
#[derive(Clone, Debug)]
enum Step {
    /// It splits at this key, if the key is not its first.
    Split(Vec<u8>),
    /// It takes up its right neighbour.
    Merge(Vec<u8>),
    /// Its replicas move on by a node.
    Move(Vec<u8>),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0..4_u8, 0..4)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => key().prop_map(Step::Split),
        2 => key().prop_map(Step::Merge),
        1 => key().prop_map(Step::Move),
    ];
    prop::collection::vec(step, 1..60)
}

fn replicas(first: u64) -> Vec<CoreAddr> {
    (first..first + 3).map(|node| CoreAddr::new(NodeId(node), CoreId(0))).collect()
}

fn descriptor(group: GroupId, start: &[u8], end: Option<&[u8]>) -> RangeDescriptor {
    RangeDescriptor {
        group,
        epoch: RangeEpoch(1),
        configured: Index(0),
        start: Bytes::copy_from_slice(start),
        end: end.map(Bytes::copy_from_slice),
        replicas: replicas(1),
    }
}

/// What really is: the ranges in order, and every whole change that led there.
struct Truth {
    ranges: Vec<RangeDescriptor>,
    changes: Vec<Vec<RangeDescriptor>>,
    groups: u64,
}

impl Truth {
    fn new() -> Self {
        let first = vec![descriptor(GroupId(1), b"", None)];
        Self { ranges: first.clone(), changes: vec![first], groups: 1 }
    }

    fn place(&self, key: &[u8]) -> usize {
        self.ranges.partition_point(|range| range.start.as_ref() <= key) - 1
    }

    fn take(&mut self, step: &Step) {
        let (Step::Split(key) | Step::Merge(key) | Step::Move(key)) = step;
        let at = self.place(key);
        let mut left = self.ranges[at].clone();
        left.epoch = left.epoch.next();
        let change = match step {
            Step::Split(key) if left.start.as_ref() != key.as_slice() => {
                self.groups += 1;
                let start = Bytes::copy_from_slice(key);
                let group = GroupId(self.groups);
                let right = RangeDescriptor { group, start: start.clone(), ..left.clone() };
                left.end = Some(start);
                self.ranges.splice(at..=at, [left.clone(), right.clone()]);
                vec![left, right]
            }
            Step::Merge(_) if at + 1 < self.ranges.len() => {
                let right = self.ranges.remove(at + 1);
                left.epoch = left.epoch.max(right.epoch.next());
                left.end = right.end;
                self.ranges[at] = left.clone();
                vec![left]
            }
            Step::Move(_) => {
                left.replicas = replicas(left.replicas[0].node.get() % 7 + 1);
                self.ranges[at] = left.clone();
                vec![left]
            }
            Step::Split(_) | Step::Merge(_) => return,
        };
        self.changes.push(change);
    }

    fn after(steps: &[Step]) -> Self {
        let mut truth = Self::new();
        steps.iter().for_each(|step| truth.take(step));
        truth
    }
}

fn all(map: &RangeMap) -> Vec<RangeDescriptor> {
    map.ranges().map(|range| range.to_descriptor()).collect()
}

/// Fisher and Yates's.
fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut random = Random::new(seed);
    for at in (1..items.len()).rev() {
        let other = usize::try_from(random.next_u64() % (at as u64 + 1)).unwrap();
        items.swap(at, other);
    }
}

proptest! {
    #[test]
    fn every_key_has_exactly_one_range_after_every_change(steps in steps(), asked in key()) {
        let mut truth = Truth::new();
        let mut map = RangeMap::default();
        prop_assert_eq!(map.find(&asked), None);
        map.apply(1, &truth.changes[0]);
        for step in &steps {
            let known = truth.changes.len();
            truth.take(step);
            let before = (map.clone(), all(&map));
            for (version, change) in (known as u64 + 1..).zip(&truth.changes[known..]) {
                map.apply(version, change);
                prop_assert_eq!(map.version(), version);
            }
            prop_assert_eq!(&all(&before.0), &before.1, "a snapshot never changes");
            prop_assert!(map.is_whole());
            prop_assert_eq!(&all(&map), &truth.ranges);
            prop_assert_eq!(map.len(), truth.ranges.len());
            let range = map.find(&asked).unwrap();
            prop_assert!(range.contains(&asked));
            prop_assert_eq!(&range.to_descriptor(), &truth.ranges[truth.place(&asked)]);
            prop_assert_eq!(map.group(range.group), Some(range));
            for range in &truth.ranges {
                prop_assert_eq!(map.group(range.group).unwrap().to_descriptor(), range.clone());
                let bounds = (range.start.as_ref(), range.end.as_deref());
                prop_assert_eq!(map.bounds(&range.start), bounds);
                prop_assert_eq!(map.bounds_before(range.end.as_deref()), bounds);
            }
        }
        for gone in (1..=truth.groups).map(GroupId) {
            let is_there = truth.ranges.iter().any(|range| range.group == gone);
            prop_assert_eq!(map.group(gone).is_some(), is_there);
        }
    }

    #[test]
    fn news_in_any_order_make_the_same_map_and_old_ones_never_win(
        steps in steps(),
        seed in any::<u64>(),
        asked in key(),
    ) {
        let truth = Truth::after(&steps);
        let mut news: Vec<RangeDescriptor> = truth.changes.concat();
        news.extend(truth.changes.concat());
        shuffle(&mut news, seed);
        let mut map = RangeMap::default();
        let mut newest = RangeEpoch(0);
        for one in &news {
            let was_new = map.learn(one);
            let covers = one.start.as_ref() <= asked.as_slice()
                && one.end.as_ref().is_none_or(|end| asked.as_slice() < end.as_ref());
            if covers {
                newest = newest.max(one.epoch);
            }
            prop_assert_eq!(map.epoch(&asked), newest);
            if let Some(range) = map.find(&asked) {
                prop_assert_eq!(range.epoch, newest, "what is found is the newest of the key");
            }
            prop_assert!(!map.learn(one), "known already: {was_new}");
            // Pieces never overlap: they stand in order, and each ends at or before the next one.
            let ranges: Vec<_> = map.ranges().collect();
            let in_order = ranges.windows(2).all(|two| two[0].end.unwrap() <= two[1].start);
            prop_assert!(in_order);
            prop_assert_eq!(map.len(), ranges.len());
        }
        prop_assert!(map.is_whole());
        prop_assert_eq!(&all(&map), &truth.ranges);
        for old in &news {
            prop_assert!(!map.learn(old));
        }
    }

    #[test]
    fn one_half_of_a_split_leaves_a_hole_until_the_other_is_heard_of(
        keys in prop::collection::btree_set(key(), 3), is_left_first in any::<bool>(),
    ) {
        let [start, at, end] = keys.into_iter().collect::<Vec<_>>().try_into().unwrap();
        let mut map = RangeMap::default();
        let parent = descriptor(GroupId(1), &start, Some(&end));
        map.learn(&parent);
        let epoch = RangeEpoch(2);
        let left = RangeDescriptor { epoch, ..descriptor(GroupId(1), &start, Some(&at)) };
        let right = RangeDescriptor { epoch, ..descriptor(GroupId(2), &at, Some(&end)) };
        let (first, second) = if is_left_first { (&left, &right) } else { (&right, &left) };
        prop_assert!(map.learn(first));
        prop_assert_eq!(map.find(&first.start).map(|range| range.to_descriptor()), Some(first.clone()));
        prop_assert_eq!(map.find(&second.start), None);
        let hole = (second.start.as_ref(), second.end.as_deref());
        prop_assert_eq!(map.bounds(&second.start), hole);
        prop_assert_eq!(map.bounds_before(second.end.as_deref()), hole);
        prop_assert!(!map.is_whole());
        prop_assert!(!map.learn(&parent), "the parent is gone for good");
        prop_assert_eq!(map.find(&second.start), None);
        prop_assert!(map.learn(second));
        prop_assert_eq!(all(&map), vec![left, right]);
    }
}

#[test]
fn what_is_no_range_changes_nothing() {
    let mut map = RangeMap::default();
    assert!(!map.learn(&descriptor(GroupId(1), b"b", Some(b"b"))));
    assert!(!map.learn(&descriptor(GroupId(1), b"b", Some(b"a"))));
    let nobody = RangeDescriptor { replicas: Vec::new(), ..descriptor(GroupId(1), b"", None) };
    assert!(!map.learn(&nobody));
    assert!(map.is_empty() && !map.is_whole());
}

#[test]
fn a_group_that_begins_elsewhere_counts_where_it_is_newest() {
    let (old, new) = (descriptor(GroupId(1), b"a", Some(b"b")), RangeEpoch(2));
    let new = RangeDescriptor { epoch: new, ..descriptor(GroupId(1), b"m", Some(b"n")) };
    for news in [[&old, &new], [&new, &old]] {
        let mut map = RangeMap::default();
        news.iter().for_each(|one| assert!(map.learn(one)));
        assert_eq!(all(&map), std::slice::from_ref(&new));
        assert_eq!((map.epoch(b"a"), map.epoch(b"m")), (RangeEpoch(1), RangeEpoch(2)));
    }
}

#[test]
fn the_meta_group_moves_as_ranges_do() {
    let mut map = RangeMap::default();
    let meta = |epoch, first| RangeDescriptor {
        epoch: RangeEpoch(epoch),
        configured: Index(0),
        replicas: replicas(first),
        ..descriptor(GroupId::META, b"", None)
    };
    assert!(map.learn(&meta(2, 1)) && !map.learn(&meta(1, 4)));
    assert_eq!(map.group(GroupId::META).unwrap().replicas, replicas(1));
    assert!(map.learn(&meta(3, 4)));
    assert_eq!(map.group(GroupId::META).unwrap().replicas, replicas(4));
    assert!(map.is_empty());
}

/// A table's ranges: keys of 15 bytes, three replicas.
fn many(count: u64) -> RangeMap {
    let point = |number| Bytes::from(format!("user:{number:010}"));
    let points: Vec<Bytes> = (1..count).map(point).collect();
    let nodes: Vec<_> = (1..=5).map(|node| (NodeId(node), 2)).collect();
    RangeMap::formation(&nodes, &points, 3).unwrap()
}

#[test]
fn a_range_with_three_replicas_takes_less_than_200_bytes() {
    const RANGES: u64 = 20_000;
    let mut map = many(RANGES);
    let bytes = |map: &RangeMap| map.memory_bytes() as u64;
    let alone = bytes(&many(1));
    let least = RANGES * (15 + 3 * size_of::<CoreAddr>() as u64);
    assert!(bytes(&map) > least, "{} bytes are less than what is in it", bytes(&map));
    assert!(bytes(&map) < alone + RANGES * 200, "{} bytes a range", bytes(&map) / RANGES);
    // And it stays so when every range has split.
    let all = all(&map);
    for (group, range) in (RANGES + 1..).zip(&all) {
        let at = Bytes::from([range.start.as_ref(), b":middle"].concat());
        let epoch = RangeEpoch(2);
        let left = RangeDescriptor { end: Some(at.clone()), epoch, ..range.clone() };
        let group = GroupId(group);
        let right = RangeDescriptor { group, epoch, start: at, ..range.clone() };
        map.apply(group.get(), &[left, right]);
    }
    assert_eq!(map.len() as u64, 2 * RANGES);
    assert!(map.is_whole());
    assert!(bytes(&map) < alone + 2 * RANGES * 200, "{} bytes a range", bytes(&map) / 2 / RANGES);
}

#[test]
fn a_change_leaves_nearly_all_of_the_map_shared() {
    let before = many(20_000);
    let range = before.find(b"user:0000010000").unwrap().to_descriptor();
    let moved = RangeDescriptor { epoch: RangeEpoch(2), ..range.clone() };
    let mut after = before.clone();
    after.apply(2, std::slice::from_ref(&moved));
    assert_eq!(after.find(&range.start).unwrap().to_descriptor(), moved);
    assert_eq!(before.find(&range.start).unwrap().to_descriptor(), range);
    let address = |map: &RangeMap, key: &[u8]| map.find(key).unwrap().replicas.as_ptr();
    let shared = before.ranges().filter(|r| address(&before, r.start) == address(&after, r.start));
    assert!(shared.count() > 19_800);
}
