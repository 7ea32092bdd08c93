//! Where requests go, in what order, and what becomes of them when the map changes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use oarlock_store::{Command, Order, Reply};
use oarlock_types::{Random, RangeDescriptor, RangeMap};
use proptest::prelude::*;

use super::*;

const THERE: NodeId = NodeId(2);

fn router() -> (Router, GroupId) {
    let map = RangeMap::formation(&[(NodeId(1), 1), (THERE, 1), (NodeId(3), 1)], &[], 3);
    let map = map.unwrap();
    let group = map.find(b"k").unwrap().group;
    let patience = Duration::from_secs(1000);
    let mut router = Router::new(NodeId(1), CoreId(0), SharedMap::new(map), patience);
    router.begin_turn(Mono(1));
    router.leader_changed(group, Some(THERE));
    (router, group)
}

/// The halves into which the range of `key` splits there; the right one is a new group's.
fn split(map: &RangeMap, key: &'static [u8], child: u64) -> Vec<RangeDescriptor> {
    let parent = map.find(key).unwrap().to_descriptor();
    let (at, epoch) = (Bytes::from_static(key), parent.epoch.next());
    let left = RangeDescriptor { end: Some(at.clone()), epoch, ..parent.clone() };
    let right = RangeDescriptor { group: GroupId(child), start: at, epoch, ..parent };
    vec![left, right]
}

fn write(router: &mut Router, slot: u64) {
    let (key, value) = (Bytes::from_static(b"k"), Bytes::from(slot.to_string()));
    let ticket = Ticket { slot, part: 0 };
    let asker = Asker::Client { connection: ConnectionId(7), ticket, timed: None };
    router.submit(asker, b"k", Request::one(Command::SetNx { key, value }));
}

/// What was sent since: each request's id, and whether it follows another one.
fn sent(router: &mut Router) -> Vec<(u64, bool)> {
    let mut hops = Vec::new();
    router.take_hops(&mut hops);
    let sent = hops.into_iter().filter_map(|hop| match hop {
        Hop::Node(THERE, forward) => Some((forward.id, forward.lane.unwrap().follows)),
        Hop::Node(..) | Hop::Here(_) | Hop::Done(..) => None,
    });
    sent.collect()
}

/// Its keys have names that are in the range of some group, too.
#[test]
fn what_is_asked_of_the_meta_group_is_asked_of_it_whatever_the_map_says_of_such_keys() {
    let (mut router, _) = router();
    router.leader_changed(GroupId::META, Some(THERE));
    router.submit_to(Asker::Node, GroupId::META, crate::map_store::take_ids(GroupId(1)));
    let asked = |router: &mut Router| {
        let mut hops = Vec::new();
        router.take_hops(&mut hops);
        match hops.as_slice() {
            [Hop::Node(to, forward)] => (*to, forward.group, forward.id),
            other => panic!("one request: {other:?}"),
        }
    };
    let (to, group, id) = asked(&mut router);
    assert_eq!((to, group), (THERE, GroupId::META));
    router.outcome(id, Err(Refusal::NotLeader { leader: None }));
    let map = RangeMap::clone(router.map());
    router.install(SharedMap::new(map));
    router.leader_changed(GroupId::META, Some(NodeId(3)));
    router.begin_turn(Mono(1_000_000));
    router.tick();
    assert_eq!(asked(&mut router), (NodeId(3), GroupId::META, id));
}

/// The replica knows why it can not be carried out; whoever leads has the map say that it was, and may reach it though
/// this node does not.
#[test]
fn an_order_for_one_replica_goes_to_it_and_to_whoever_leads_in_turn() {
    let (mut router, group) = router();
    let order = |node| Request::one(Command::Order(Order::MoveCore { node, core: 0 }));
    for (node, own) in [(1, At::Here), (3, At::Node(NodeId(3)))] {
        let leader = At::Node(THERE);
        router.submit_to(Asker::Node, group, order(node));
        for wanted in [own, leader, own, leader] {
            let mut hops = Vec::new();
            router.take_hops(&mut hops);
            let (to, id) = match &hops[..] {
                [Hop::Here(asked)] => (At::Here, asked.id),
                [Hop::Node(to, asked)] => (At::Node(*to), asked.id),
                other => panic!("one request: {other:?}"),
            };
            assert_eq!(to, wanted);
            router.outcome(id, Err(Refusal::NotLeader { leader: Some(THERE) }));
            later(&mut router);
        }
        router.take_hops(&mut Vec::new());
    }
    // The map has no replica there: whoever leads says so.
    router.submit_to(Asker::Node, group, order(4));
    let mut hops = Vec::new();
    router.take_hops(&mut hops);
    assert!(matches!(&hops[..], [Hop::Node(THERE, _)]), "{hops:?}");
}

/// By a map that is long out of date it may have been on this node alone: whoever it is sent to has others asked
/// (`passing::way`), since no link leads from a node to itself.
#[test]
fn the_meta_group_is_asked_for_elsewhere_though_the_map_has_it_here_alone() {
    let map = RangeMap::formation(&[(NodeId(1), 1)], &[], 1).unwrap();
    let patience = Duration::from_secs(1000);
    let mut router = Router::new(NodeId(1), CoreId(0), SharedMap::new(map), patience);
    router.begin_turn(Mono(1));
    router.submit_to(Asker::Node, GroupId::META, crate::map_store::take_ids(GroupId(1)));
    router.submit(client(1), b"k", set(b"k"));
    let mut elsewhere = Vec::new();
    let mut hops = Vec::new();
    for _ in 0..=WAITS {
        router.take_hops(&mut hops);
        for hop in hops.drain(..) {
            match hop {
                // Its replica, if it has one, leads nothing.
                Hop::Here(request) => {
                    router.outcome(request.id, Err(Refusal::NotLeader { leader: None }));
                }
                Hop::Node(to, forward) => elsewhere.push((to, forward.group)),
                Hop::Done(..) => panic!("{hop:?}"),
            }
        }
        later(&mut router);
    }
    assert_eq!(elsewhere, [(NodeId(1), GroupId::META)]);
}

#[test]
fn a_write_says_that_an_earlier_one_of_its_lane_is_under_way() {
    let (mut router, group) = router();
    (1..=3).for_each(|slot| write(&mut router, slot));
    let first = sent(&mut router);
    let ids: Vec<u64> = first.iter().map(|(id, _)| *id).collect();
    assert_eq!(first.iter().map(|(_, follows)| *follows).collect::<Vec<_>>(), [false, true, true]);
    // The first was refused, then the asked node led again: the others may not go first.
    router.outcome(ids[0], Err(Refusal::NotLeader { leader: None }));
    router.leader_changed(group, Some(THERE));
    write(&mut router, 4);
    router.begin_turn(Mono(1_000_000));
    router.tick();
    assert_eq!(sent(&mut router), [], "two are still under way");
    router.outcome(ids[1], Err(Refusal::OutOfTurn));
    router.outcome(ids[2], Err(Refusal::OutOfTurn));
    assert_eq!(router.leader(group), Some(THERE), "that it leads is not in doubt");
    router.begin_turn(Mono(2_000_000));
    router.tick();
    let again = sent(&mut router);
    let wanted = [(ids[0], false), (ids[1], true), (ids[2], true)];
    assert_eq!(again[..3], wanted);
    assert_eq!((again.len(), again[3].1), (4, true));
    // With nothing under way the next one follows nobody.
    for (id, _) in again {
        router.outcome(id, Ok(Reply::Int(1)));
    }
    write(&mut router, 5);
    assert_eq!(sent(&mut router).iter().map(|(_, follows)| *follows).collect::<Vec<_>>(), [false]);
}

#[test]
fn a_leader_that_the_own_replica_follows_is_asked_again_after_its_link_broke() {
    let (mut router, group) = router();
    write(&mut router, 1);
    assert_eq!(sent(&mut router).len(), 1);
    router.link_down(THERE);
    write(&mut router, 2);
    let first = sent(&mut router);
    assert_eq!(first.len(), 1, "the replica says nothing new: it follows whom it followed");
    // The link is not back yet: it comes back unsent, and is tried again.
    router.outcome(first[0].0, Err(Refusal::NotLeader { leader: None }));
    router.begin_turn(Mono(1_000_000));
    router.tick();
    assert_eq!(sent(&mut router), first);
    // Another node's word does not outlive its refutation either.
    let elsewhere = Some(NodeId(3));
    router.outcome(first[0].0, Err(Refusal::NotLeader { leader: elsewhere }));
    assert_eq!(router.leader(group), elsewhere);
    router.link_down(NodeId(3));
    assert_eq!(router.leader(group), Some(THERE));
    // When the replica follows nobody, nobody is asked.
    router.leader_changed(group, None);
    write(&mut router, 3);
    assert_eq!(sent(&mut router), []);
}

#[test]
fn who_waits_in_vain_for_its_own_replica_asks_the_others() {
    let (mut router, group) = router();
    router.leader_changed(group, None);
    write(&mut router, 1);
    assert_eq!(sent(&mut router), [], "it would hear of a leader soon");
    let (mut asked, mut asked_own) = (Vec::new(), 0);
    for delay in 1..=200 {
        router.begin_turn(Mono(delay * 10_000));
        router.tick();
        let mut hops = Vec::new();
        router.take_hops(&mut hops);
        for hop in hops {
            match hop {
                Hop::Node(node, forward) => {
                    asked.push((delay, node.get()));
                    router.outcome(forward.id, Err(Refusal::NoSuchGroup));
                }
                Hop::Here(request) => {
                    asked_own += 1;
                    router.outcome(request.id, Err(Refusal::NotLeader { leader: None }));
                }
                Hop::Done(..) => panic!("{hop:?}"),
            }
        }
    }
    let nodes: Vec<u64> = asked.iter().map(|(_, node)| *node).collect();
    assert!(nodes.len() >= 4 && nodes.windows(2).all(|pair| pair[0] != pair[1]), "{asked:?}");
    assert!(!nodes.contains(&1) && asked[0].0 >= 20, "not itself, and not at once: {asked:?}");
    assert!(asked_own >= 20, "its replica hears {asked_own} times that somebody waits");
    assert!(router.is_map_old, "what it was told is a reason to look for a newer map");
}

fn changed(map: &RangeMap, change: &[RangeDescriptor]) -> SharedMap {
    let mut map = map.clone();
    map.apply(map.version() + 1, change);
    SharedMap::new(map)
}

fn client(slot: u64) -> Asker {
    let ticket = Ticket { slot, part: 0 };
    Asker::Client { connection: ConnectionId(7), ticket, timed: None }
}

fn set(key: &'static [u8]) -> Request {
    Request::one(Command::SetNx { key: Bytes::from_static(key), value: Bytes::new() })
}

fn get(keys: &[&'static [u8]]) -> Request {
    let keys = keys.iter().map(|key| Bytes::from_static(key)).collect();
    Request::one(Command::MGet { keys })
}

/// What was sent to the other node since: id, group, epoch.
fn forwarded(router: &mut Router) -> Vec<(u64, u64, u64)> {
    let mut hops = Vec::new();
    router.take_hops(&mut hops);
    let sent = hops.into_iter().filter_map(|hop| match hop {
        Hop::Node(THERE, forward) => Some((forward.id, forward.group.get(), forward.epoch.get())),
        Hop::Node(..) | Hop::Here(_) | Hop::Done(..) => None,
    });
    sent.collect()
}

fn ended(router: &mut Router) -> Vec<(Asker, Outcome)> {
    let mut hops = Vec::new();
    router.take_hops(&mut hops);
    let ended = hops.into_iter().filter_map(|hop| match hop {
        Hop::Done(asker, outcome) => Some((asker, outcome)),
        Hop::Node(..) | Hop::Here(_) => None,
    });
    ended.collect()
}

fn later(router: &mut Router) {
    let now = router.now + RETRY_DELAY;
    router.begin_turn(now);
    router.tick();
}

#[test]
fn what_a_range_refuses_that_has_split_is_found_anew_by_its_keys() {
    let (mut router, group) = router();
    let map = changed(router.map(), &split(router.map(), b"m", 9));
    router.leader_changed(GroupId(9), Some(THERE));
    router.submit(client(1), b"k", set(b"k"));
    router.submit(client(2), b"z", set(b"z"));
    router.submit(client(3), b"z", get(&[b"z"]));
    let sent = forwarded(&mut router);
    let to: Vec<_> = sent.iter().map(|(_, group, epoch)| (*group, *epoch)).collect();
    assert_eq!(to, [(group.get(), 1); 3]);
    assert!(!router.take_is_map_old());
    for (id, ..) in &sent {
        router.outcome(*id, Err(Refusal::StaleEpoch));
    }
    assert!(router.take_is_map_old(), "the range knows better than the map");
    later(&mut router);
    let again: Vec<_> = forwarded(&mut router).iter().map(|(_, g, e)| (*g, *e)).collect();
    assert_eq!(again, [(group.get(), 1); 3], "with the same map it can but ask again");
    for (id, ..) in &sent {
        router.outcome(*id, Err(Refusal::StaleEpoch));
    }
    router.take_is_map_old();
    router.install(map);
    later(&mut router);
    let mut anew = forwarded(&mut router);
    anew.sort_unstable();
    let ids: Vec<u64> = sent.iter().map(|(id, ..)| *id).collect();
    assert_eq!(anew, [(ids[0], group.get(), 2), (ids[1], 9, 2), (ids[2], 9, 2)]);
    assert!(!router.take_is_map_old());
}

#[test]
fn what_waits_for_the_own_replica_or_the_map_goes_on_without_a_tick() {
    let (mut router, group) = router();
    router.submit(client(1), b"z", set(b"z"));
    router.submit(client(2), b"z", get(&[b"z"]));
    let sent = forwarded(&mut router);
    for (id, ..) in &sent {
        router.outcome(*id, Err(Refusal::StaleEpoch));
    }
    assert_eq!(forwarded(&mut router), [], "the map is the same");
    let map = changed(router.map(), &split(router.map(), b"m", 9));
    router.install(map);
    assert_eq!(forwarded(&mut router), [], "nobody is known to lead the new range");
    router.leader_changed(GroupId(9), Some(THERE));
    let mut anew = forwarded(&mut router);
    anew.sort_unstable();
    assert_eq!(anew, [(sent[0].0, 9, 2), (sent[1].0, 9, 2)]);
    // What only another node says is not followed at once: that one may be wrong, and name this one's choice in turn.
    router.submit(client(3), b"k", set(b"k"));
    let (id, ..) = forwarded(&mut router)[0];
    router.outcome(id, Err(Refusal::NotLeader { leader: Some(NodeId(3)) }));
    assert_eq!(router.leader(group), Some(NodeId(3)));
    let mut hops = Vec::new();
    router.take_hops(&mut hops);
    assert!(hops.is_empty(), "{hops:?}");
    later(&mut router);
    router.take_hops(&mut hops);
    assert!(matches!(&hops[..], [Hop::Node(NodeId(3), again)] if again.id == id), "{hops:?}");
}

#[test]
fn a_write_waits_behind_those_of_its_key_that_went_to_the_range_before_it_split() {
    let (mut router, group) = router();
    let map = changed(router.map(), &split(router.map(), b"m", 9));
    router.leader_changed(GroupId(9), Some(THERE));
    router.submit(client(1), b"k", set(b"k"));
    router.submit(client(2), b"z", set(b"z"));
    let old = forwarded(&mut router);
    router.install(map);
    router.submit(client(3), b"z", set(b"z"));
    router.submit(client(4), b"k", set(b"k"));
    assert_eq!(forwarded(&mut router), [], "two of these keys are under way");
    // Another connection has nothing under way.
    let ticket = Ticket { slot: 1, part: 0 };
    let other = Asker::Client { connection: ConnectionId(8), ticket, timed: None };
    router.submit(other, b"z", set(b"z"));
    let to: Vec<_> = forwarded(&mut router).iter().map(|(_, g, e)| (*g, *e)).collect();
    assert_eq!(to, [(9, 2)]);
    router.outcome(old[0].0, Ok(Reply::Int(1)));
    router.outcome(old[1].0, Err(Refusal::StaleEpoch));
    let anew = forwarded(&mut router);
    let to: Vec<_> = anew.iter().map(|(_, group, _)| *group).collect();
    assert_eq!(to, [9, 9, group.get()]);
    assert!(anew[0].0 == old[1].0 && anew[0].0 < anew[1].0, "in the order of submission");
}

#[test]
fn keys_that_lie_apart_by_now_end_the_request() {
    let (mut router, _) = router();
    let map = changed(router.map(), &split(router.map(), b"m", 9));
    router.leader_changed(GroupId(9), Some(THERE));
    let pairs = [&b"k"[..], b"z"].map(|key| (Bytes::from_static(key), Bytes::new())).to_vec();
    router.submit(client(1), b"k", Request::one(Command::MSetNx { pairs }));
    router.submit(client(2), b"k", get(&[b"k", b"z"]));
    router.submit(client(3), b"k", get(&[b"k", b"l"]));
    let ids: Vec<u64> = forwarded(&mut router).iter().map(|(id, ..)| *id).collect();
    router.install(map);
    for id in &ids {
        router.outcome(*id, Err(Refusal::StaleEpoch));
    }
    later(&mut router);
    let mut slots = BTreeSet::new();
    let mut hops = Vec::new();
    router.take_hops(&mut hops);
    let mut sent = Vec::new();
    for hop in hops {
        match hop {
            Hop::Done(Asker::Client { ticket, .. }, Err(Refusal::StaleEpoch)) => {
                slots.insert(ticket.slot);
            }
            Hop::Node(THERE, forward) => sent.push(forward.id),
            other @ (Hop::Here(_) | Hop::Node(..) | Hop::Done(..)) => panic!("{other:?}"),
        }
    }
    assert_eq!(slots, BTreeSet::from([1, 2]));
    assert_eq!(sent, ids[2..], "what still fits is sent");
}

#[test]
fn what_is_found_in_no_range_waits_until_one_is_heard_of() {
    let (mut router, group) = router();
    let halves = split(router.map(), b"m", 9);
    let half = changed(router.map(), &halves[..1]);
    router.leader_changed(GroupId(9), Some(THERE));
    router.install(half);
    router.submit(client(1), b"z", set(b"z"));
    router.submit(client(2), b"z", get(&[b"z"]));
    router.submit(client(3), b"y", set(b"y"));
    assert!(router.take_is_map_old());
    later(&mut router);
    assert_eq!(forwarded(&mut router), []);
    assert!(router.take_is_map_old(), "it is looked for as long as anything waits");
    router.submit(client(4), b"k", set(b"k"));
    assert_eq!(forwarded(&mut router)[0].1, group.get(), "what is known is not held up");
    let whole = changed(router.map(), &halves);
    router.install(whole);
    later(&mut router);
    let to: Vec<_> = forwarded(&mut router).iter().map(|(_, group, _)| *group).collect();
    assert_eq!(to, [9, 9, 9]);
}

#[test]
fn what_never_left_is_found_anew_when_the_map_changes() {
    let (mut router, group) = router();
    router.leader_changed(group, None);
    router.submit(client(1), b"z", get(&[b"z"]));
    router.submit(client(2), b"z", set(b"z"));
    assert_eq!(forwarded(&mut router), [], "nobody leads");
    let map = changed(router.map(), &split(router.map(), b"m", 9));
    router.install(map);
    router.leader_changed(group, Some(THERE));
    router.leader_changed(GroupId(9), Some(THERE));
    later(&mut router);
    let to: Vec<_> = forwarded(&mut router).iter().map(|(_, g, e)| (*g, *e)).collect();
    assert_eq!(to, [(9, 2), (9, 2)], "not to the old group by its new epoch");
}

#[test]
fn what_names_only_a_group_ends_when_the_group_has_changed() {
    let (mut router, group) = router();
    let count = || Request::one(Command::Count);
    router.submit_to(client(1), group, count());
    let sent = forwarded(&mut router);
    router.outcome(sent[0].0, Err(Refusal::StaleEpoch));
    let map = changed(router.map(), &split(router.map(), b"m", 9));
    router.install(map);
    later(&mut router);
    assert_eq!(ended(&mut router), [(client(1), Err(Refusal::StaleEpoch))]);
    router.submit_to(client(2), group, count());
    assert_eq!(forwarded(&mut router)[0].2, 2);
}

/// Ranges that serve, split, merge and move, and answers and maps that come at any time.
struct World {
    router: Router,
    random: Random,
    /// What the ranges themselves know.
    truth: SharedMap,
    /// Sent and not yet there, and answers on their way.
    on_the_way: Vec<ForwardRequest>,
    answers: Vec<(u64, Outcome)>,
    closed: BTreeSet<(u64, u64)>,
    /// The values of each key in the order in which they were set.
    applied: BTreeMap<Bytes, Vec<u64>>,
    ended: BTreeSet<u64>,
}

const KEYS: [&[u8]; 6] = [b"a", b"g", b"k", b"p", b"t", b"z"];

impl World {
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.random.next_u64() % bound as u64).unwrap()
    }

    fn change(&mut self, child: u64) {
        let key = KEYS[self.below(KEYS.len())];
        let here = self.truth.find(key).unwrap();
        let mut range = here.to_descriptor();
        let change = match self.random.next_u64() % 3 {
            0 if range.start.as_ref() != key => split(&self.truth, key, child),
            1 => {
                let right = range.end.as_ref().and_then(|end| self.truth.find(end));
                let Some(right) = right else { return };
                range.epoch = range.epoch.max(right.epoch).next();
                range.end = right.to_descriptor().end;
                vec![range]
            }
            _ => {
                range.epoch = range.epoch.next();
                vec![range]
            }
        };
        self.truth = changed(&self.truth, &change);
    }

    /// One request arrives; those of a lane arrive in order.
    fn serve(&mut self) {
        if self.on_the_way.is_empty() {
            return;
        }
        let at = self.below(self.on_the_way.len());
        let lane = |request: &ForwardRequest| (request.group, request.lane.map(|l| l.connection));
        let first = self.on_the_way.iter().position(|r| lane(r) == lane(&self.on_the_way[at]));
        let request = self.on_the_way.remove(first.unwrap());
        let outcome = self.outcome(&request);
        self.answers.push((request.id, outcome));
    }

    fn outcome(&mut self, request: &ForwardRequest) -> Outcome {
        let lane = request.lane.unwrap();
        let key = (lane.connection, request.group.get());
        if !lane.follows {
            self.closed.remove(&key);
        } else if self.closed.contains(&key) {
            return Err(Refusal::OutOfTurn);
        }
        let refusal = match self.truth.group(request.group) {
            None => Some(Refusal::NoSuchGroup),
            Some(range) if range.epoch != request.epoch => Some(Refusal::StaleEpoch),
            Some(_) if self.random.next_u64().is_multiple_of(32) => {
                Some(Refusal::NotLeader { leader: Some(THERE) })
            }
            Some(_) => None,
        };
        if let Some(refusal) = refusal {
            self.closed.insert(key);
            return Err(refusal);
        }
        let Command::SetNx { key, value } = &request.request.commands[0] else { unreachable!() };
        let range = self.truth.group(request.group).unwrap();
        assert!(range.contains(key), "served by a range that does not have the key");
        let value = std::str::from_utf8(value).unwrap().parse().unwrap();
        self.applied.entry(key.clone()).or_default().push(value);
        Ok(Reply::Int(1))
    }

    fn hops(&mut self) {
        let mut hops = Vec::new();
        self.router.take_hops(&mut hops);
        for hop in hops {
            match hop {
                Hop::Node(_, forward) => self.on_the_way.push(forward),
                Hop::Done(Asker::Client { ticket, .. }, outcome) => {
                    assert!(outcome.is_ok(), "{outcome:?} is seen by a client");
                    assert!(self.ended.insert(ticket.slot), "an outcome each");
                }
                // The own replica does not lead.
                Hop::Here(request) => {
                    self.answers.push((request.id, Err(Refusal::NotLeader { leader: None })));
                }
                Hop::Done(
                    Asker::Node
                    | Asker::Reporter
                    | Asker::Placement(_)
                    | Asker::Range(..)
                    | Asker::Passed(..),
                    _,
                ) => {
                    unreachable!()
                }
            }
        }
    }

    fn step(&mut self) {
        let now = self.router.now + Duration::from_millis(1);
        self.router.begin_turn(now);
        self.router.tick();
        self.hops();
        self.serve();
        if !self.answers.is_empty() && self.random.next_u64().is_multiple_of(2) {
            let at = self.below(self.answers.len());
            let (id, outcome) = self.answers.remove(at);
            self.router.outcome(id, outcome);
            self.hops();
        }
    }
}

proptest! {
    #[test]
    fn writes_of_a_key_keep_their_order_whatever_ranges_it_goes_through(seed in any::<u64>()) {
        let (mut router, _) = router();
        for group in 1..300 {
            router.leader_changed(GroupId(group), Some(THERE));
        }
        let truth = SharedMap::clone(router.map());
        let mut world = World {
            router,
            random: Random::new(seed),
            truth,
            on_the_way: Vec::new(),
            answers: Vec::new(),
            closed: BTreeSet::new(),
            applied: BTreeMap::new(),
            ended: BTreeSet::new(),
        };
        let mut submitted: BTreeMap<Bytes, Vec<u64>> = BTreeMap::new();
        for slot in 1..150 {
            let key = KEYS[world.below(KEYS.len())];
            let ticket = Ticket { slot, part: 0 };
            let connection = ConnectionId(1);
            let asker = Asker::Client { connection, ticket, timed: None };
            let (name, value) = (Bytes::from_static(key), Bytes::from(slot.to_string()));
            submitted.entry(name.clone()).or_default().push(slot);
            world.router.submit(asker, key, Request::one(Command::SetNx { key: name, value }));
            for _ in 0..world.below(4) {
                world.step();
            }
            if world.below(6) == 0 {
                world.change(100 + slot);
            }
            match world.below(8) {
                // The whole map, or only one range's word of itself.
                0 => world.router.install(SharedMap::clone(&world.truth)),
                1 => {
                    let at = KEYS[world.below(KEYS.len())];
                    let mut map = RangeMap::clone(world.router.map());
                    map.learn(&world.truth.find(at).unwrap().to_descriptor());
                    world.router.install(SharedMap::new(map));
                }
                _ => {}
            }
        }
        world.router.install(SharedMap::clone(&world.truth));
        for _ in 0..100_000 {
            if world.router.under_way() == 0 {
                break;
            }
            world.step();
        }
        prop_assert_eq!(world.router.under_way(), 0);
        prop_assert_eq!(world.applied, submitted);
        prop_assert!(world.router.lanes.is_empty() && world.router.outdated.is_empty());
    }
}
