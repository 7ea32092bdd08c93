//! Keepers of several nodes over one meta group, which is a real store. `members`: who joins, and what all understand.

mod members;

use bytes::Bytes;
use oarlock_codec::Refusal;
use oarlock_store::{Batch, Command, Store, StoreLimits};
use oarlock_types::range_map::split_points;
use oarlock_types::{CoreId, Index, NodeId, Random, RangeEpoch, WallMs};
use proptest::prelude::*;

use super::*;

const VALUE_BYTES_MAX: usize = 1 << 20;
const FORMED_OF: [NodeId; 2] = [NodeId(1), NodeId(2)];

/// The meta group.
struct Meta {
    store: Store,
    writes: usize,
}

impl Meta {
    fn new() -> Self {
        Self { store: Store::new(StoreLimits::default()), writes: 0 }
    }

    fn carry_out(&mut self, request: Request) -> Reply {
        if request.is_read() {
            return self.store.read(&request, WallMs(1));
        }
        self.writes += 1;
        let index = Index(self.store.applied().0 + 1);
        let mut replies = Vec::new();
        let batch = Batch { stamp: WallMs(1), requests: vec![request] };
        self.store.apply(index, batch, &mut replies);
        replies.remove(0)
    }

    fn get(&mut self, key: &str) -> Reply {
        let key = Bytes::copy_from_slice(key.as_bytes());
        self.carry_out(Request::one(Command::Get { key }))
    }

    fn ranges(&mut self) -> Vec<RangeDescriptor> {
        let mut all = Vec::new();
        let mut from = Some(map_store::first());
        while let Some(start) = from.take() {
            let reply = self.carry_out(map_store::read_all(start));
            let (page, next) = map_store::all(&reply).unwrap();
            all.extend(page.ranges);
            from = next;
        }
        all.sort_by(|a, b| a.start.cmp(&b.start));
        all
    }
}

fn formation(ranges: u32) -> RangeMap {
    let points: Vec<Bytes> = split_points(ranges).into_iter().map(Bytes::from).collect();
    RangeMap::formation(&[(NodeId(1), 2), (NodeId(2), 2)], &points, 1).unwrap()
}

/// The halves into which the range of `key` splits there; the right one is a new group's.
fn split(map: &RangeMap, key: &'static [u8], child: u64) -> Vec<RangeDescriptor> {
    let parent = map.find(key).unwrap().to_descriptor();
    let (at, epoch) = (Bytes::from_static(key), parent.epoch.next());
    let left = RangeDescriptor { end: Some(at.clone()), epoch, ..parent.clone() };
    let right = RangeDescriptor { group: GroupId(child), start: at, epoch, ..parent };
    vec![left, right]
}

fn keeper(map: &RangeMap) -> MapKeeper {
    keeper_of(map, levels(1))
}

/// One whose node understands these levels.
fn keeper_of(map: &RangeMap, levels: FeatureLevels) -> MapKeeper {
    MapKeeper::new(
        (MapCopy { map: map.clone(), ..MapCopy::default() }, levels),
        (map, FORMED_OF.to_vec()),
        CoreAddr::new(NodeId(1), CoreId(0)),
        VALUE_BYTES_MAX,
    )
}

fn levels(max: u16) -> FeatureLevels {
    FeatureLevels { max: FeatureLevel(max), ..FeatureLevels::FIRST }
}

/// Carries out what the keeper asks for until it asks for nothing; time passes by a second at most.
fn settle(keeper: &mut MapKeeper, meta: &mut Meta, now: &mut Mono) {
    let until = *now + Duration::from_secs(3);
    while *now < until {
        match keeper.next_request(*now, true) {
            Some(request) => {
                let reply = meta.carry_out(request);
                keeper.outcome(*now, Ok(reply));
            }
            None => *now = *now + Duration::from_millis(10),
        }
    }
}

fn all(map: &RangeMap) -> Vec<RangeDescriptor> {
    map.ranges().map(|range| range.to_descriptor()).collect()
}

/// The range of `key` with its right neighbour.
fn merge(map: &RangeMap, key: &[u8]) -> Option<Vec<RangeDescriptor>> {
    let mut left = map.find(key)?.to_descriptor();
    let right = map.find(left.end.as_ref()?)?.to_descriptor();
    left.epoch = left.epoch.max(right.epoch).next();
    left.end = right.end;
    Some(vec![left])
}

#[test]
fn the_first_map_is_written_whole_before_its_version_and_only_once() {
    let map = formation(300);
    let (mut keeper, mut meta, mut now) = (keeper(&map), Meta::new(), Mono(0));
    let mut sizes = Vec::new();
    while let Some(request) = keeper.next_request(now, true).filter(|r| !r.is_read()) {
        assert_eq!(keeper.next_request(now, true), None, "one at a time");
        let Command::MSet { pairs } = &request.commands[0] else { panic!("{request:?}") };
        sizes.push(pairs.len());
        assert_eq!(meta.get("map/version"), Reply::Nil);
        keeper.outcome(now, Ok(meta.carry_out(request)));
    }
    assert_eq!(sizes, [256, 44, 1]);
    assert_eq!(meta.get("map/version"), Reply::Bulk("1".into()));
    assert_eq!(meta.ranges(), all(&map));
    // Whoever leads later, with another map even, leaves it alone.
    let mut later = self::keeper(&formation(3));
    settle(&mut later, &mut meta, &mut now);
    assert_eq!(meta.ranges(), all(&map));
}

#[test]
fn only_the_leader_of_the_meta_group_writes_the_first_map() {
    let mut keeper = keeper(&formation(3));
    let request = keeper.next_request(Mono(0), false).unwrap();
    assert!(request.is_read(), "the others look whether there is a newer one");
    keeper.outcome(Mono(0), Err(Refusal::NoQuorum));
    let again = keeper.next_request(Mono(0) + FAILURE_REST, false);
    assert_eq!(again, Some(request), "what failed is tried again");
}

#[test]
fn a_split_counts_here_at_once_and_everywhere_once_it_was_proposed() {
    let map = formation(3);
    let (mut here, mut there) = (keeper(&map), keeper(&map));
    let (mut meta, mut now) = (Meta::new(), Mono(0));
    settle(&mut here, &mut meta, &mut now);
    settle(&mut there, &mut meta, &mut now);
    let _ = (here.take_snapshot(), there.take_snapshot());
    assert!(there.next_request(now, false).is_none(), "who is up to date asks nothing");

    let halves = split(&map, b"a", 9);
    here.propose(halves.clone());
    let snapshot = here.take_snapshot().unwrap();
    assert_eq!(snapshot.find(b"a").unwrap().to_descriptor(), halves[1]);
    assert_eq!(
        (snapshot.version(), here.version()),
        (1, 1),
        "but the meta group does not know yet"
    );
    settle(&mut here, &mut meta, &mut now);
    assert_eq!(here.take_snapshot().unwrap().version(), 2);
    assert_eq!(meta.get("map/version"), Reply::Bulk("2".into()));

    there.heard(2);
    settle(&mut there, &mut meta, &mut now);
    let snapshot = there.take_snapshot().unwrap();
    assert_eq!((snapshot.version(), all(&snapshot)), (2, meta.ranges()));
    // Proposed again, by whoever leads the range by now, it changes nothing.
    let writes = meta.writes;
    there.propose(halves);
    settle(&mut there, &mut meta, &mut now);
    assert_eq!(meta.writes, writes);
}

#[test]
fn a_change_that_is_written_though_its_outcome_is_lost_is_not_written_twice() {
    let map = formation(3);
    let (mut keeper, mut meta, mut now) = (keeper(&map), Meta::new(), Mono(0));
    settle(&mut keeper, &mut meta, &mut now);
    keeper.propose(split(&map, b"a", 9));
    let look = keeper.next_request(now, true).unwrap();
    keeper.outcome(now, Ok(meta.carry_out(look)));
    let write = keeper.next_request(now, true).unwrap();
    assert!(!write.is_read());
    assert!(matches!(meta.carry_out(write), Reply::Array(_)));
    keeper.outcome(now, Err(Refusal::Unknown));
    let writes = meta.writes;
    settle(&mut keeper, &mut meta, &mut now);
    assert_eq!((meta.writes, keeper.version()), (writes, 2));
    assert!(keeper.proposals.is_empty());
}

#[test]
fn of_two_changes_at_once_the_second_is_checked_anew() {
    let map = formation(3);
    let (mut one, mut two) = (keeper(&map), keeper(&map));
    let (mut meta, mut now) = (Meta::new(), Mono(0));
    settle(&mut one, &mut meta, &mut now);
    settle(&mut two, &mut meta, &mut now);
    one.propose(split(&map, b"a", 8));
    two.propose(split(&map, b"\x01", 9));
    for keeper in [&mut one, &mut two] {
        let look = keeper.next_request(now, true).unwrap();
        keeper.outcome(now, Ok(meta.carry_out(look)));
    }
    let writes = [one.next_request(now, true).unwrap(), two.next_request(now, true).unwrap()];
    let replies = writes.map(|write| meta.carry_out(write));
    assert_eq!(replies[1], Reply::Nil, "the map is another one by now");
    let [first, second] = replies;
    one.outcome(now, Ok(first));
    two.outcome(now, Ok(second));
    settle(&mut two, &mut meta, &mut now);
    assert_eq!(two.version(), 3);
    assert_eq!(meta.ranges(), all(&two.confirmed));
    assert_eq!(two.confirmed.len(), 5);
}

#[test]
fn half_a_split_waits_for_the_other_half_but_not_for_ever() {
    let map = formation(3);
    let (mut keeper, mut meta, mut now) = (keeper(&map), Meta::new(), Mono(0));
    settle(&mut keeper, &mut meta, &mut now);
    let halves = split(&map, b"a", 9);
    for key_of_other in [&b"\x60"[..], b"b"] {
        assert!(keeper.confirmed.find(key_of_other).is_some());
    }
    keeper.propose(halves[1..].to_vec());
    let look = keeper.next_request(now, true).unwrap();
    keeper.outcome(now, Ok(meta.carry_out(look)));
    assert!(keeper.next_request(now, true).is_none());
    assert_eq!((keeper.version(), meta.ranges()), (1, all(&map)));
    // Nobody proposes the other half: its keys' range is not known any more.
    settle(&mut keeper, &mut meta, &mut now);
    settle(&mut keeper, &mut meta, &mut now);
    assert_eq!(keeper.version(), 2);
    assert!(keeper.confirmed.find(b"\x60").is_none() && keeper.confirmed.find(b"b").is_some());
    keeper.propose(halves);
    settle(&mut keeper, &mut meta, &mut now);
    assert_eq!(keeper.version(), 3);
    assert!(keeper.confirmed.is_whole() && keeper.proposals.is_empty());
    assert_eq!(meta.ranges(), all(&keeper.confirmed));
}

#[test]
fn what_a_merge_takes_away_is_gone_from_the_meta_group() {
    let map = formation(3);
    let (mut keeper, mut meta, mut now) = (keeper(&map), Meta::new(), Mono(0));
    settle(&mut keeper, &mut meta, &mut now);
    keeper.propose(merge(&map, b"").unwrap());
    settle(&mut keeper, &mut meta, &mut now);
    assert_eq!(meta.ranges().len(), 2);
    assert_eq!(meta.ranges(), all(&keeper.confirmed));
    assert_eq!(meta.get("range/2"), Reply::Nil);
}

#[test]
fn who_is_far_behind_reads_all_ranges() {
    let map = formation(5000);
    let (mut keeper, mut meta, mut now) = (keeper(&map), Meta::new(), Mono(0));
    settle(&mut keeper, &mut meta, &mut now);
    // So many changes that the first ones are not kept.
    let newest = CHANGES_KEPT_AND_TWO;
    let mut range = map.find(b"a").unwrap().to_descriptor();
    for version in 2..=newest {
        range.epoch = range.epoch.next();
        let look =
            map_store::changes(&meta.carry_out(map_store::read_changes(version - 1))).unwrap();
        let change = Change { ranges: vec![range.clone()], ..Change::default() };
        let write = map_store::write_change(&change, version, look.base, VALUE_BYTES_MAX);
        assert!(matches!(meta.carry_out(write), Reply::Array(_)));
    }
    assert_eq!(meta.get("map/change/2"), Reply::Nil);
    assert!(matches!(meta.get("map/change/3"), Reply::Bulk(_)));
    keeper.heard(newest);
    settle(&mut keeper, &mut meta, &mut now);
    assert_eq!(keeper.version(), newest);
    assert_eq!(keeper.take_snapshot().unwrap().find(b"a").unwrap().epoch, range.epoch);
    assert_eq!(meta.ranges(), all(&keeper.confirmed));
}

const CHANGES_KEPT_AND_TWO: u64 = map_store::CHANGES_KEPT + 2;

#[test]
fn the_copy_is_written_when_it_is_new_and_not_all_the_time() {
    let map = formation(3);
    let (mut keeper, mut meta, mut now) = (keeper(&map), Meta::new(), Mono::from_ms(60_000));
    settle(&mut keeper, &mut meta, &mut now);
    assert!(
        keeper.take_copy(now, FeatureLevel::FIRST).is_none(),
        "it is the one that the node began with"
    );
    keeper.propose(split(&map, b"a", 9));
    settle(&mut keeper, &mut meta, &mut now);
    assert_eq!(keeper.take_copy(now, FeatureLevel::FIRST).unwrap().map.version(), 2);
    let halves = split(&keeper.confirmed, b"b", 10);
    keeper.propose(halves);
    settle(&mut keeper, &mut meta, &mut now);
    assert!(keeper.take_copy(now, FeatureLevel::FIRST).is_none(), "too soon");
    assert_eq!(
        keeper.take_copy(now + COPY_INTERVAL, FeatureLevel::FIRST).unwrap().map.version(),
        3
    );
    assert!(keeper.take_copy(now + COPY_INTERVAL * 3, FeatureLevel::FIRST).is_none());
}

#[test]
fn a_version_that_nobody_has_is_asked_for_once() {
    let map = formation(3);
    let (mut keeper, mut meta, mut now) = (keeper(&map), Meta::new(), Mono(0));
    settle(&mut keeper, &mut meta, &mut now);
    keeper.heard(7);
    assert!(keeper.next_request(now, false).is_some());
    keeper.asked = None;
    keeper.must_look = true;
    settle(&mut keeper, &mut meta, &mut now);
    keeper.heard(7);
    assert!(keeper.next_request(now, false).is_none());
    keeper.heard(8);
    assert!(keeper.next_request(now, false).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Three nodes whose ranges split, merge and move; requests are lost before or after they were
    /// carried out. In the end all have the meta group's map, with every change in it.
    #[test]
    fn keepers_agree_whatever_is_lost(seed in any::<u64>()) {
        let map = formation(4);
        let mut random = Random::new(seed);
        let mut below = |bound: u64| random.next_u64() % bound;
        let mut keepers: Vec<MapKeeper> = (0..3).map(|_| keeper(&map)).collect();
        let (mut meta, mut now) = (Meta::new(), Mono(0));
        // What the ranges themselves know.
        let mut truth = map.clone();
        let mut child = 100;
        for _ in 0..300 {
            now = now + Duration::from_millis(below(40));
            let place = usize::try_from(below(3)).unwrap();
            if below(8) == 0 {
                let key: &'static [u8] = [b"a", b"\x10", b"\x80", b"\xf0", b"\xaa"]
                    [usize::try_from(below(5)).unwrap()];
                let is_start = truth.find(key).unwrap().start == key;
                let change = match below(3) {
                    0 if !is_start => {
                        child += 1;
                        Some(split(&truth, key, child))
                    }
                    1 => merge(&truth, key),
                    _ => {
                        let mut range = truth.find(key).unwrap().to_descriptor();
                        range.epoch = RangeEpoch(range.epoch.get() + 1);
                        Some(vec![range])
                    }
                };
                if let Some(change) = change {
                    truth.apply(0, &change);
                    keepers[place].propose(change);
                }
            }
            let keeper = &mut keepers[place];
            let Some(request) = keeper.next_request(now, below(2) == 0) else { continue };
            let outcome = match below(4) {
                0 => Err(Refusal::NoQuorum),
                1 => {
                    meta.carry_out(request);
                    Err(Refusal::Unknown)
                }
                _ => Ok(meta.carry_out(request)),
            };
            keeper.outcome(now, outcome);
            prop_assert!(meta.get("map/version") == Reply::Nil || !meta.ranges().is_empty());
        }
        let is_done = |keepers: &[MapKeeper]| keepers.iter().all(|k| k.proposals.is_empty());
        for _ in 0..40 {
            if is_done(&keepers) {
                break;
            }
            for keeper in &mut keepers {
                settle(keeper, &mut meta, &mut now);
            }
        }
        for _ in 0..2 {
            for keeper in &mut keepers {
                keeper.look();
                settle(keeper, &mut meta, &mut now);
            }
        }
        for keeper in &keepers {
            prop_assert_eq!(all(&keeper.confirmed), all(&truth));
            prop_assert!(keeper.proposals.is_empty() && keeper.learned.is_empty());
            prop_assert_eq!(keeper.version(), keepers[0].version());
        }
        prop_assert_eq!(meta.ranges(), all(&truth));
    }
}

#[test]
fn a_line_that_is_not_known_is_neither_taken_in_nor_passed_over() {
    let map = formation(3);
    let (mut one, mut two) = (keeper(&map), keeper(&map));
    let (mut meta, mut now) = (Meta::new(), Mono(0));
    settle(&mut one, &mut meta, &mut now);
    one.propose(split(&map, b"a", 9));
    settle(&mut one, &mut meta, &mut now);
    let halves = split(&one.confirmed, b"b", 10);
    one.propose(halves);
    settle(&mut one, &mut meta, &mut now);
    let odd = (Bytes::from_static(b"map/change/3"), Bytes::from_static(b"{\"moon\":3}"));
    meta.carry_out(Request::one(Command::MSet { pairs: vec![odd] }));
    settle(&mut two, &mut meta, &mut now);
    assert_eq!(two.version(), 2, "up to there it is understood");
    // Neither does the whole map help, if a range's line is not known; lines of other kinds of keys do no harm.
    let keys = ["map/change/2", "map/change/3"].map(Bytes::from).to_vec();
    meta.carry_out(Request::one(Command::Del { keys }));
    let moon = (Bytes::from_static(b"moon/3"), Bytes::from_static(b"full"));
    let odd = (Bytes::from_static(b"range/9"), Bytes::from_static(b"{\"moon\":3}"));
    meta.carry_out(Request::one(Command::MSet { pairs: vec![moon.clone(), odd] }));
    let mut three = keeper(&map);
    settle(&mut three, &mut meta, &mut now);
    assert_eq!(three.version(), 1);
    let sound = one.confirmed.group(GroupId(9)).unwrap();
    let sound = (Bytes::from_static(b"range/9"), crate::range_text::write(&sound).into());
    meta.carry_out(Request::one(Command::MSet { pairs: vec![sound] }));
    settle(&mut three, &mut meta, &mut now);
    assert_eq!((three.version(), all(&three.confirmed)), (3, all(&one.confirmed)));
}

#[test]
fn a_node_tells_what_it_has_room_for_once_the_meta_group_has_a_map_and_until_it_has_that() {
    let map = formation(2);
    let (mut keeper, mut meta, mut now) = (keeper(&map), Meta::new(), Mono(0));
    keeper.tell_capacity(7 << 30);
    assert!(keeper.next_request(now, false).is_some_and(|request| request.is_read()));
    keeper.outcome(now, Ok(meta.carry_out(map_store::read_changes(0))));
    // There was none. Then another node writes it.
    let mut formation = map_store::Formation::new(&map);
    while let Some(request) = formation.request() {
        formation.go_on();
        meta.carry_out(request);
    }
    let tells = capacities::write(NodeId(1), 7 << 30);
    let mut told = 0;
    let until = now + Duration::from_secs(10);
    while now < until {
        now = now + Duration::from_millis(10);
        let Some(request) = keeper.next_request(now, false) else { continue };
        if request.is_read() {
            keeper.outcome(now, Ok(meta.carry_out(request)));
            continue;
        }
        assert_eq!(request, tells);
        told += 1;
        let outcome = match told {
            1 => Err(Refusal::Unknown),
            2 => Ok(Reply::Nil),
            _ => Ok(meta.carry_out(request)),
        };
        keeper.outcome(now, outcome);
    }
    assert_eq!((told, meta.get("capacity/1")), (3, Reply::Bulk("7516192768".into())));
}
