//! The way of a client's request to the core that leads its range, and of the outcome back.
//!
//! One per core, for the connections of that core. It decides where a request goes next; the driver
//! carries it there. It must not send anything twice that may have been applied.
//!
//! A request that was bounced (not applied) is tried again until its deadline; one whose fate is
//! unknown is tried again only if it reads, or carries a `ONCE` id.
//!
//! Writes of one connection to one range keep their order: they share a lane. While writes of a
//! lane are under way, later ones go to the same place or wait; when one is bounced, the lane
//! stands still until all that were under way have come back, and then goes on in order.
//!
//! A request that a range refused because it has changed is found anew by its keys, with the newest map:
//! `map_change` says how lanes keep their order meanwhile. What names several keys that lie in
//! different ranges by now ends with [`Refusal::StaleEpoch`].

mod asker;
mod map_change;

use std::collections::VecDeque;
use std::time::Duration;

use oarlock_codec::{ForwardRequest, Refusal};
use oarlock_shard::Outcome;
use oarlock_store::Request;
use oarlock_types::{CoreAddr, CoreId, FastMap, GroupId, Mono, NodeId, RangeEpoch};

use crate::SharedMap;
use crate::passing::PASSED_ON;
pub use asker::{Asker, ConnectionId, CoreRequest, Hop, Ticket, Timed};
use map_change::UNKNOWN;

/// How long a bounced request waits before it is tried again, unless a new leader is heard of first.
const RETRY_DELAY: Duration = Duration::from_millis(10);

/// Who waits for its own replica to hear of a leader asks elsewhere so many delays later.
const WAITS: u32 = 32;

/// One attempt of so many of a request goes to this node's own replica, whoever it follows: one that has lost its leader
/// stands for election sooner if it hears that somebody waits.
const ASKS_OWN: u32 = 8;

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Waiting,
    Here,
    Node(NodeId),
}

/// Writes of one connection to one group, or to keys whose range is not known.
type LaneKey = (ConnectionId, GroupId);

#[derive(Debug)]
struct Lane {
    /// Where the writes under way were sent.
    at: At,
    under_way: usize,
    /// Not under way, in the order of submission.
    waiting: Vec<u64>,
    /// A write was bounced: nothing more is sent before all that were under way are back.
    is_stalled: bool,
    /// The group has other keys than when these writes were sent. Once all are back, each is found anew.
    is_outdated: bool,
}

impl Lane {
    fn empty() -> Self {
        Self {
            at: At::Waiting,
            under_way: 0,
            waiting: Vec::new(),
            is_stalled: false,
            is_outdated: false,
        }
    }

    /// Puts a write that is not under way into its place.
    fn put(&mut self, id: u64) {
        let place = self.waiting.partition_point(|other| *other < id);
        self.waiting.insert(place, id);
    }
}

#[derive(Clone, Copy, Debug)]
enum Retry {
    One(u64),
    Lane(LaneKey),
}

#[derive(Debug)]
struct Routed {
    asker: Asker,
    group: GroupId,
    lane: Option<LaneKey>,
    request: Request,
    at: At,
    attempts: u32,
    /// The version of its range when it was submitted or sent last.
    epoch: Option<RangeEpoch>,
    /// Which of the installed maps gave its group.
    found_in: u64,
    /// An attempt of it is lost without a word: it may have been applied.
    is_uncertain: bool,
}

impl Routed {
    /// Whether doing it twice does no harm.
    fn is_repeatable(&self) -> bool {
        self.request.once.is_some() || self.request.is_read()
    }
}

/// A core's router.
#[derive(Debug)]
pub struct Router {
    node: NodeId,
    core: CoreId,
    map: SharedMap,
    /// How many maps were installed.
    installed: u64,
    /// Who leads, by what requests and replicas brought last.
    leaders: FastMap<GroupId, NodeId>,
    /// Whom this node's own replicas follow. A replica tells only what changes, so what it said
    /// stands until it says otherwise, whatever became of requests that were sent there.
    followed: FastMap<GroupId, NodeId>,
    routed: FastMap<u64, Routed>,
    next: u64,
    /// Bounced requests and when they are tried again, oldest first.
    bounced: VecDeque<(Mono, Retry)>,
    lanes: FastMap<LaneKey, Lane>,
    /// Those of them that are outdated: only while their last writes come back.
    outdated: Vec<LaneKey>,
    /// A range knows better than the map.
    is_map_old: bool,
    /// This node has a newer map, or a replica of its own knows of another leader: what waited for that goes on with
    /// the next hops. Another node's word waits for the tick: two that name each other would be asked without end.
    is_retry_due: bool,
    /// When each request's patience ends, oldest first: all have the same.
    deadlines: VecDeque<(Mono, u64)>,
    patience: Duration,
    now: Mono,
    hops: Vec<Hop>,
}

impl Router {
    /// A router of this core. Requests are given up `patience` after they came.
    #[must_use]
    pub fn new(node: NodeId, core: CoreId, map: SharedMap, patience: Duration) -> Self {
        Self {
            node,
            core,
            map,
            installed: 0,
            leaders: FastMap::default(),
            followed: FastMap::default(),
            routed: FastMap::default(),
            next: 0,
            bounced: VecDeque::new(),
            lanes: FastMap::default(),
            outdated: Vec::new(),
            is_map_old: false,
            is_retry_due: false,
            deadlines: VecDeque::new(),
            patience,
            now: Mono(0),
            hops: Vec::new(),
        }
    }

    /// The map by which it routes.
    #[must_use]
    pub fn map(&self) -> &SharedMap {
        &self.map
    }

    /// Who leads a group, as far as this core has heard.
    #[must_use]
    pub fn leader(&self, group: GroupId) -> Option<NodeId> {
        self.leaders.get(&group).or_else(|| self.followed.get(&group)).copied()
    }

    /// Opens a turn.
    pub fn begin_turn(&mut self, now: Mono) {
        self.now = now;
    }

    /// Takes the hops that have been decided since, in order.
    pub fn take_hops(&mut self, into: &mut Vec<Hop>) {
        if self.is_retry_due {
            self.retry_due();
        }
        into.append(&mut self.hops);
    }

    // WRITE 2/9: the range's group, and the node that leads it; the driver knows the core.
    /// Sends a request on its way to the range of `key`, in which all its keys are.
    pub fn submit(&mut self, asker: Asker, key: &[u8], request: Request) {
        let found = self.map.owner(key);
        let (group, epoch) = found.map_or((UNKNOWN, None), |(group, epoch)| (group, Some(epoch)));
        let lane = match asker {
            Asker::Client { connection, .. } if !request.is_read() => {
                Some((connection, if self.is_held(connection) { UNKNOWN } else { group }))
            }
            Asker::Client { .. }
            | Asker::Node
            | Asker::Reporter
            | Asker::Placement(_)
            | Asker::Range(..)
            | Asker::Passed(..) => None,
        };
        let group = lane.map_or(group, |(_, group)| group);
        let id = self.register(asker, (group, epoch), lane, request);
        let Some(to) = lane else { return self.send_one(id) };
        let lane = self.lanes.entry(to).or_insert_with(Lane::empty);
        lane.waiting.push(id);
        if to.1 == UNKNOWN {
            lane.is_stalled = true;
            if lane.waiting.len() == 1 {
                self.wait(UNKNOWN, Retry::Lane(to));
            }
        } else if !lane.is_stalled {
            self.send_lane(to);
        }
    }

    /// Sends a request that names no key, or the node's own, on its way to a group.
    pub fn submit_to(&mut self, asker: Asker, group: GroupId, request: Request) {
        let epoch = self.map.group(group).map(|range| range.epoch);
        let id = self.register(asker, (group, epoch), None, request);
        self.send_one(id);
    }

    fn register(
        &mut self,
        asker: Asker,
        (group, epoch): (GroupId, Option<RangeEpoch>),
        lane: Option<LaneKey>,
        request: Request,
    ) -> u64 {
        self.next += 1;
        // The core stands in the upper bits, so that an outcome finds back to it from any core.
        let id = u64::from(self.core.get()) << 48 | self.next;
        let routed = Routed {
            asker,
            group,
            lane,
            request,
            at: At::Waiting,
            attempts: 0,
            epoch,
            found_in: self.installed,
            is_uncertain: false,
        };
        self.routed.insert(id, routed);
        self.deadlines.push_back((self.now + self.patience, id));
        id
    }

    /// The core whose router gave this id.
    #[must_use]
    pub fn core_of(id: u64) -> CoreId {
        CoreId(u16::try_from(id >> 48).unwrap_or(u16::MAX))
    }

    /// Where a group's requests go now, and by which version of its range; waiting, if nobody is known to
    /// lead it.
    fn target(&self, group: GroupId, attempts: u32) -> (At, RangeEpoch) {
        let Some(range) = self.map.group(group) else { return (At::Waiting, RangeEpoch(0)) };
        let is_here = range.core_on(self.node).is_some();
        let at = match (self.leader(group), is_here) {
            (Some(leader), true) if leader == self.node => At::Here,
            (_, true) if attempts % ASKS_OWN == ASKS_OWN / 2 => At::Here,
            (Some(leader), _) if leader != self.node => At::Node(leader),
            (None, false) => At::Node(self.other_replica(range.replicas, attempts)),
            // Whoever has a replica hears of the leader from it, unless the map is so old that the replica
            // is not there any more. The meta group may have been here alone by such a map: others know where it is.
            (None, true)
                if attempts % WAITS == WAITS - 1
                    && (range.replicas.len() > 1 || group == GroupId::META) =>
            {
                At::Node(self.other_replica(range.replicas, attempts / WAITS))
            }
            (Some(_) | None, _) => At::Waiting,
        };
        (at, range.epoch)
    }

    /// Where an order for one replica goes every other time: to that replica, which knows why it cannot be carried
    /// out. The other times whoever leads is asked, who may reach a replica that this node does not.
    fn replica_meant(&self, routed: &Routed) -> Option<At> {
        let node = routed.request.order()?.replica_on()?;
        self.map.group(routed.group)?.core_on(node)?;
        let at = if node == self.node { At::Here } else { At::Node(node) };
        routed.attempts.is_multiple_of(2).then_some(at)
    }

    /// Who leads a group or, if that is not known, another node that has a replica of it.
    #[must_use]
    pub fn likely_leader(&self, group: GroupId) -> Option<NodeId> {
        let by_map = || Some(self.other_replica(self.map.group(group)?.replicas, 0));
        self.leader(group).or_else(by_map)
    }

    /// One of the other nodes that have a replica, each in its turn.
    fn other_replica(&self, replicas: &[CoreAddr], turn: u32) -> NodeId {
        let others = || replicas.iter().map(|at| at.node).filter(|node| *node != self.node);
        let turn = usize::try_from(turn).unwrap_or(0) % others().count().max(1);
        others().nth(turn).unwrap_or(self.node)
    }

    fn send_one(&mut self, id: u64) {
        if !self.find_anew(id) {
            return;
        }
        let Some(routed) = self.routed.get(&id) else { return };
        let group = routed.group;
        let (at, epoch) = self.target(group, routed.attempts);
        let at = self.replica_meant(routed).unwrap_or(at);
        if at == At::Waiting {
            self.wait(group, Retry::One(id));
        } else {
            self.send(id, (at, epoch), false);
        }
    }

    fn send_lane(&mut self, key: LaneKey) {
        let Some(lane) = self.lanes.get(&key) else { return };
        let first = lane.waiting.first().and_then(|id| self.routed.get(id));
        let (at, epoch) = self.target(key.1, first.map_or(0, |routed| routed.attempts));
        let Some(lane) = self.lanes.get_mut(&key) else { return };
        if lane.under_way == 0 {
            lane.at = at;
            lane.is_stalled = at == At::Waiting;
            if lane.is_stalled {
                self.wait(key.1, Retry::Lane(key));
                return;
            }
        }
        let at = lane.at;
        let mut ids = std::mem::take(&mut lane.waiting);
        let mut follows = lane.under_way > 0;
        lane.under_way += ids.len();
        for id in ids.drain(..) {
            self.send(id, (at, epoch), follows);
            follows = true;
        }
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.waiting = ids;
        }
    }

    /// `follows`: an earlier write of its lane is under way.
    fn send(&mut self, id: u64, (at, epoch): (At, RangeEpoch), follows: bool) {
        let Some(routed) = self.routed.get_mut(&id) else { return };
        routed.at = at;
        routed.attempts = routed.attempts.wrapping_add(1);
        routed.epoch = Some(epoch);
        let lane = routed
            .lane
            .map(|(connection, _)| oarlock_codec::Lane { connection: connection.0, follows })
            .or(matches!(routed.asker, Asker::Passed(..)).then_some(PASSED_ON));
        let (group, request) = (routed.group, routed.request.clone());
        let handed = routed.asker.timed().map(|timed| timed.handed);
        self.hops.push(match at {
            At::Here => Hop::Here(CoreRequest { id, group, epoch, lane, request, handed }),
            At::Node(node) => Hop::Node(node, ForwardRequest { id, group, epoch, lane, request }),
            At::Waiting => return,
        });
    }

    /// Nobody is known to lead the group, or not even whose keys they are is known.
    fn wait(&mut self, group: GroupId, retry: Retry) {
        self.is_map_old |= group == UNKNOWN;
        let first = match retry {
            Retry::One(id) => Some(id),
            Retry::Lane(key) => self.lanes.get(&key).and_then(|lane| lane.waiting.first().copied()),
        };
        if let Some(routed) = first.and_then(|id| self.routed.get_mut(&id)) {
            routed.attempts = routed.attempts.wrapping_add(1);
        }
        self.retry_later(retry);
    }

    fn retry_later(&mut self, retry: Retry) {
        self.bounced.push_back((self.now + RETRY_DELAY, retry));
    }

    /// A request came back without having been applied: it is tried again, in its order.
    fn bounce(&mut self, id: u64) {
        let Some(routed) = self.routed.get_mut(&id) else { return };
        routed.at = At::Waiting;
        let Some(key) = routed.lane else {
            self.retry_later(Retry::One(id));
            return;
        };
        let Some(lane) = self.lanes.get_mut(&key) else { return };
        lane.under_way -= 1;
        lane.is_stalled = true;
        lane.put(id);
        if lane.under_way == 0 {
            self.lane_is_back(key);
        }
    }

    /// An outcome came back, from a core of this node or from another node.
    pub fn outcome(&mut self, id: u64, outcome: Outcome) {
        let Some(routed) = self.routed.get_mut(&id) else { return };
        let (group, at) = (routed.group, routed.at);
        if at == At::Waiting {
            return; // an answer to an attempt that was given up
        }
        match outcome {
            Err(Refusal::NotLeader { leader }) => {
                self.learn(group, at, leader);
                self.bounce(id);
            }
            Err(Refusal::StaleEpoch | Refusal::NoSuchGroup) => {
                let sent_by = routed.epoch;
                // With a map that is newer than what was refused it is only tried again.
                self.is_map_old |= self.map.group(group).map(|range| range.epoch) == sent_by;
                self.learn(group, at, None);
                self.bounce(id);
            }
            // Whoever leads there is not in doubt: it only comes too early.
            Err(Refusal::OutOfTurn) => self.bounce(id),
            Err(Refusal::Unknown) if routed.is_repeatable() => {
                routed.is_uncertain = true;
                self.bounce(id);
            }
            Ok(_)
            | Err(
                Refusal::Unknown
                | Refusal::Busy
                | Refusal::NoQuorum
                | Refusal::DiskFull
                | Refusal::TooLarge,
            ) => self.done(id, outcome),
        }
    }

    /// Whoever was asked does not lead; perhaps it knows who does.
    fn learn(&mut self, group: GroupId, asked: At, leader: Option<NodeId>) {
        let asked = match asked {
            At::Node(node) => Some(node),
            At::Here => Some(self.node),
            At::Waiting => None,
        };
        if leader.is_some() && leader != asked {
            // A node's own replica knows best who leads it: only that may name this node.
            self.leader_heard(group, leader.filter(|leader| *leader != self.node));
        } else if self.leaders.get(&group).copied() == asked {
            self.leaders.remove(&group);
        }
    }

    fn done(&mut self, id: u64, outcome: Outcome) {
        let Some(routed) = self.routed.remove(&id) else { return };
        if let Some(key) = routed.lane
            && let Some(lane) = self.lanes.get_mut(&key)
        {
            if routed.at == At::Waiting {
                lane.waiting.retain(|other| *other != id);
            } else {
                lane.under_way -= 1;
            }
            let is_over = lane.under_way == 0 && lane.waiting.is_empty();
            if is_over {
                self.end_lane(key);
            } else if lane.under_way == 0 && routed.at != At::Waiting {
                self.lane_is_back(key);
            }
        }
        self.hops.push(Hop::Done(routed.asker, outcome));
    }

    /// This node's replica of a group knows another leader than before, or none.
    pub fn leader_changed(&mut self, group: GroupId, leader: Option<NodeId>) {
        match leader {
            Some(leader) => self.followed.insert(group, leader),
            None => self.followed.remove(&group),
        };
        self.is_retry_due |= leader.is_some();
        self.leader_heard(group, leader);
    }

    /// Somebody said who leads a group, or that nobody does.
    fn leader_heard(&mut self, group: GroupId, leader: Option<NodeId>) {
        let Some(leader) = leader else {
            self.leaders.remove(&group);
            return;
        };
        if self.leaders.insert(group, leader) == Some(leader) {
            return;
        }
        // What waits for a leader of this group need not wait any longer.
        for (at, retry) in &mut self.bounced {
            let concerned = match retry {
                Retry::One(id) => self.routed.get(id).is_some_and(|r| r.group == group),
                Retry::Lane((_, of)) => *of == group,
            };
            if concerned {
                *at = self.now;
            }
        }
        self.bounced.make_contiguous().sort_by_key(|(at, _)| *at);
    }

    fn retry(&mut self, retry: Retry) {
        match retry {
            Retry::One(id) => {
                if self.routed.get(&id).is_some_and(|routed| routed.at == At::Waiting) {
                    self.send_one(id);
                }
            }
            Retry::Lane(key) => {
                if self.lanes.get(&key).is_some_and(|lane| lane.under_way == 0) {
                    if key.1 == UNKNOWN { self.go_on(key.0) } else { self.send_lane(key) }
                }
            }
        }
    }

    /// The link to a node broke: what was on its way there may or may not have arrived.
    pub fn link_down(&mut self, node: NodeId) {
        let lost: Vec<u64> = self
            .deadlines
            .iter()
            .map(|(_, id)| *id)
            .filter(|id| self.routed.get(id).is_some_and(|r| r.at == At::Node(node)))
            .collect();
        for id in lost {
            self.outcome(id, Err(Refusal::Unknown));
        }
        // Whoever led there is asked again when it can be reached, if own replicas still follow it.
        self.leaders.retain(|_, leader| *leader != node);
    }

    /// Tries bounced requests again and gives up those whose patience has ended.
    pub fn tick(&mut self) {
        self.retry_due();
        while let Some((at, id)) = self.deadlines.front().copied() {
            if at > self.now {
                break;
            }
            self.deadlines.pop_front();
            let Some(routed) = self.routed.get(&id) else { continue };
            // What never left, or only reads, was surely not applied.
            let never_left = routed.at == At::Waiting && !routed.is_uncertain;
            let harmless = never_left || routed.request.is_read();
            let refusal = if harmless { Refusal::NoQuorum } else { Refusal::Unknown };
            self.done(id, Err(refusal));
        }
    }

    fn retry_due(&mut self) {
        self.is_retry_due = false;
        while let Some((at, retry)) = self.bounced.front().copied() {
            if at > self.now {
                break;
            }
            self.bounced.pop_front();
            self.retry(retry);
        }
    }

    /// Requests on their way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.routed.len()
    }
}

#[cfg(test)]
mod tests;
