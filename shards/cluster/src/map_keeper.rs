//! Keeps the node's copy of the map up to the meta group's, and brings changes there.
//!
//! One per node, on its first core. It decides what to ask the meta group next and makes the snapshots
//! that all cores route by; the driver carries the requests and hands the snapshots out. It must not
//! change what it has not seen: every change is written only if the map is still the one that it was
//! checked against.
//!
//! What the meta group has is **confirmed**. What a range of this node said of itself counts at once,
//! but is **learned** only, until the meta group has it.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use oarlock_shard::Outcome;
use oarlock_store::{Reply, Request};
use oarlock_types::{
    CoreAddr, CoreId, FeatureLevel, FeatureLevels, GroupId, Guard, Mono, NodeId, RangeDescriptor,
    RangeMap,
};

use self::level::Level;
use self::removed::Removed;
use crate::MapCopy;
use crate::capacities;
use crate::duties;
use crate::levels;
use crate::map_store::{self, CHANGE_BYTES_MAX, Change, Formation, News};
use crate::members::{Candidate, JoinRefusal, Member};

mod level;
mod removed;

/// Between two looks for a map that routing found to be too old.
const LOOK_REST: Duration = Duration::from_millis(20);
/// After a request that failed, or found no map yet.
const FAILURE_REST: Duration = Duration::from_millis(50);
/// After what time alone mends: a change that fits only behind another.
const ODD_REST: Duration = Duration::from_secs(1);
/// How long a change that leaves a hole waits for the one that it fits behind.
const HOLE_WAIT: Duration = Duration::from_secs(3);
/// Between two writings of the copy on disk.
const COPY_INTERVAL: Duration = Duration::from_secs(10);
/// While the one there is of a lower level.
const LEVEL_COPY_INTERVAL: Duration = Duration::from_secs(1);

/// What was asked of the meta group.
#[derive(Debug)]
enum Asked {
    Formation,
    /// And the newest version that had been heard of by then.
    Changes(u64),
    All,
    Change(Change),
    Ids(CoreId),
    Duties,
    Capacity,
}

/// The keeper.
#[derive(Debug)]
pub struct MapKeeper {
    confirmed: RangeMap,
    /// The nodes that have joined, in the order of their ids.
    members: Vec<Member>,
    learned: Vec<RangeDescriptor>,
    /// Changes that the meta group shall have, each as a whole.
    proposals: VecDeque<Vec<RangeDescriptor>>,
    /// This node.
    node: NodeId,
    /// Nodes that want to join.
    candidates: Vec<Candidate>,
    level: Level,
    removed: Removed,
    /// What is left to be written of the first map, if this node has the meta group's replica.
    formation: Option<Formation>,
    /// All ranges are being read: as of which version, and from which key on.
    reading: Option<(u64, Bytes)>,
    asked: Option<Asked>,
    /// What a change must watch; known only right after the newest version was read.
    base: Option<u64>,
    /// The confirmed map may be too old.
    must_look: bool,
    /// The newest version that another node was heard to have, and up to which the meta group was
    /// asked since.
    heard: u64,
    answered: u64,
    rest_until: Mono,
    /// Since when there are only proposals that would leave a hole.
    stuck_since: Option<Mono>,
    value_bytes_max: usize,
    /// The ids of the nodes that the cluster was formed of.
    formed_of: Vec<NodeId>,
    /// The largest id of a group at the formation.
    formed: GroupId,
    /// Cores that want ids for new groups, and those that they get.
    ids_wanted: VecDeque<CoreId>,
    ids: Vec<(CoreId, Vec<GroupId>)>,
    /// What this node has room for, and when it is to be told, if the meta group does not have it yet.
    capacity: Option<(u64, Mono)>,
    snapshot: Option<RangeMap>,
    has_new_members: bool,
    /// How many of them stand in the newest copy that was taken, and in that which is on disk.
    copied_members: usize,
    durable_members: usize,
    copied_version: u64,
    copied_at: Mono,
}

impl MapKeeper {
    /// The keeper of a node that begins with `known` and understands `levels`. `formation` is the map at the cluster's formation, of the nodes `formed_of`,
    /// and `addr` this core: the one with the meta group's replica writes it. No text longer than
    /// `value_bytes_max` can be written.
    #[must_use]
    pub fn new(
        (known, levels): (MapCopy, FeatureLevels),
        (formation, formed_of): (&RangeMap, Vec<NodeId>),
        addr: CoreAddr,
        value_bytes_max: usize,
    ) -> Self {
        let MapCopy { map, members, level } = known;
        let meta = formation.group(GroupId::META);
        let has_meta = meta.is_some_and(|meta| meta.core_on(addr.node).is_some());
        Self {
            copied_version: map.version(),
            copied_members: members.len(),
            durable_members: members.len(),
            confirmed: map,
            members,
            node: addr.node,
            candidates: Vec::new(),
            level: Level::new(level, levels),
            removed: Removed::default(),
            has_new_members: false,
            learned: Vec::new(),
            proposals: VecDeque::new(),
            formation: has_meta.then(|| Formation::new(formation)),
            reading: None,
            asked: None,
            base: None,
            // While the node was away, the map may have changed for all that are up.
            must_look: true,
            heard: 0,
            answered: 0,
            rest_until: Mono(0),
            stuck_since: None,
            value_bytes_max,
            formed_of,
            formed: formation.ranges().map(|range| range.group).max().unwrap_or(GroupId::META),
            ids_wanted: VecDeque::new(),
            ids: Vec::new(),
            capacity: None,
            snapshot: None,
            copied_at: Mono(0),
        }
    }

    /// The version that it has of the meta group's map.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.confirmed.version()
    }

    /// What the meta group has, as far as this node has read it. What its ranges said of themselves besides counts
    /// here alone, and is forgotten with the process.
    #[must_use]
    pub fn confirmed(&self) -> &RangeMap {
        &self.confirmed
    }

    /// Takes ranges' word of themselves: it counts on this node at once.
    pub fn learn(&mut self, news: &[RangeDescriptor]) {
        self.learned.extend_from_slice(news);
        self.publish();
    }

    /// Sees to it that the meta group has a change: all ranges into which those before were split, the
    /// one into which they were merged, or that whose replicas moved. What it has already, or something
    /// newer, is passed over, so that whoever leads the range may propose it as often as it likes.
    pub fn propose(&mut self, change: Vec<RangeDescriptor>) {
        self.learn(&change);
        let is_known = self.proposals.contains(&change);
        if !is_known && is_news(&self.confirmed, &change) {
            self.proposals.push_back(change);
        }
    }

    /// A node wants to join. If it has, its id is returned; else it will have been let in when it asks again.
    ///
    /// # Errors
    /// Why it can not have the id that it wants, or does not understand the cluster.
    pub fn join(&mut self, candidate: &Candidate) -> Result<Option<NodeId>, JoinRefusal> {
        levels::check(self.level.cluster(), candidate.levels)?;
        let Candidate { member: Member { entry, disk }, .. } = candidate;
        let wanted = entry.id;
        let has_joined = self.members.iter().find(|member| member.disk == *disk);
        if let Some(member) = has_joined {
            return Ok(Some(member.entry.id));
        }
        if self.formed_of.contains(&wanted)
            || self.members.iter().any(|member| member.entry.id == wanted)
        {
            return Err(JoinRefusal::IdTaken(wanted));
        }
        if !self.candidates.iter().any(|known| known.member.disk == *disk) {
            self.candidates.push(candidate.clone());
        }
        Ok(None)
    }

    /// The meta group shall have what this node has room for.
    pub fn tell_capacity(&mut self, bytes: u64) {
        self.capacity = Some((bytes, Mono(0)));
    }

    /// A core wants ids for new groups.
    pub fn want_ids(&mut self, core: CoreId) {
        if !self.ids_wanted.contains(&core) {
            self.ids_wanted.push_back(core);
        }
    }

    /// Ids that the meta group has given, and for which core.
    pub fn take_ids(&mut self) -> Vec<(CoreId, Vec<GroupId>)> {
        std::mem::take(&mut self.ids)
    }

    /// A request was refused by a range that knows better than the map.
    pub fn look(&mut self) {
        self.must_look = true;
    }

    /// Another node was heard to have a map of this version.
    pub fn heard(&mut self, version: u64) {
        self.heard = self.heard.max(version);
    }

    /// The new snapshot, if there is one since the last was taken.
    pub fn take_snapshot(&mut self) -> Option<RangeMap> {
        self.snapshot.take()
    }

    /// The nodes that have joined, if there are others since they were last taken, and the copy on disk has them:
    /// a node that has forgotten who the others are can not reach those of the meta group, who alone could tell
    /// it, and without it they may have no quorum.
    pub fn take_members(&mut self) -> Option<&[Member]> {
        if self.has_more_members_than(self.durable_members) {
            return None;
        }
        std::mem::take(&mut self.has_new_members).then_some(&self.members)
    }

    fn has_more_members_than(&self, count: usize) -> bool {
        self.members.len() > count && Guard::PeersAreRemembered.is_on()
    }

    /// The copy on disk has so many of the nodes that have joined.
    pub fn set_durable_members(&mut self, count: usize) {
        self.durable_members = self.durable_members.max(count);
    }

    /// The copy that is to be written to disk now, if any. The one there is of the level `durable`: a new
    /// level is of no use before it is written down.
    pub fn take_copy(&mut self, now: Mono, durable: FeatureLevel) -> Option<MapCopy> {
        let is_new = self.confirmed.version() > self.copied_version;
        let is_awaited =
            self.level.cluster() > durable || self.has_more_members_than(self.durable_members);
        let is_urgent = self.has_more_members_than(self.copied_members);
        let wait = if is_awaited { LEVEL_COPY_INTERVAL } else { COPY_INTERVAL };
        let is_due = (is_new || is_awaited)
            && self.confirmed.is_whole()
            && (now.since(self.copied_at) >= wait || is_urgent);
        is_due.then(|| {
            self.copied_version = self.confirmed.version();
            self.copied_at = now;
            self.copied_members = self.members.len();
            let (map, members) = (self.confirmed.clone(), self.members.clone());
            MapCopy { map, members, level: self.level.cluster() }
        })
    }

    /// The next request to the meta group, if it is time for one and none is under way. Only the node
    /// that leads it writes the first map.
    pub fn next_request(&mut self, now: Mono, leads: bool) -> Option<Request> {
        if self.asked.is_some() || now < self.rest_until || self.beyond().is_some() {
            return None;
        }
        self.look_at_level(leads);
        let base = self.base.take();
        let is_behind = self.must_look || self.heard > self.version().max(self.answered);
        let (asked, request) =
            if leads && let Some(write) = self.formation.as_ref().and_then(Formation::request) {
                (Asked::Formation, write)
            } else if let Some(core) = self.ids_wanted.front() {
                self.base = base;
                (Asked::Ids(*core), map_store::take_ids(self.formed))
            } else if leads && self.level.is_question_due(now) {
                self.base = base;
                (Asked::Duties, duties::read())
            } else if let Some((_, from)) = &self.reading {
                (Asked::All, map_store::read_all(from.clone()))
            } else if let Some(base) = base.filter(|_| self.wants_change()) {
                let Some(change) = self.next_change(now) else {
                    self.rest_until = now + ODD_REST;
                    return None;
                };
                let version = self.version() + 1;
                let request = map_store::write_change(&change, version, base, self.value_bytes_max);
                (Asked::Change(change), request)
            } else if is_behind || self.wants_change() {
                self.must_look = false;
                (Asked::Changes(self.heard), map_store::read_changes(self.version()))
            } else if let Some((bytes, _)) = self.capacity.filter(|(_, from)| now >= *from) {
                // Should it not come to pass, all else goes before it again.
                self.capacity = Some((bytes, now + ODD_REST));
                self.base = base;
                (Asked::Capacity, capacities::write(self.node, bytes))
            } else if self.removed.is_question_due(now) {
                self.base = base;
                (Asked::Duties, duties::read())
            } else {
                return None;
            };
        self.asked = Some(asked);
        Some(request)
    }

    /// The outcome of the last request. What failed is tried again.
    pub fn outcome(&mut self, now: Mono, outcome: Outcome) {
        let Some(asked) = self.asked.take() else { return };
        let Ok(reply) = outcome else {
            self.must_look = true;
            self.rest_until = now + FAILURE_REST;
            return;
        };
        match asked {
            // Somebody has written the map already.
            Asked::Formation if reply == Reply::Nil => self.formation = None,
            Asked::Formation => self.formation.iter_mut().for_each(Formation::go_on),
            Asked::Changes(heard) => self.take_changes(now, heard, &reply),
            Asked::All => self.take_all(now, &reply),
            Asked::Duties => self.take_duties(&reply),
            Asked::Capacity if reply == Reply::Ok => self.capacity = None,
            Asked::Capacity => {} // no room on the disks there
            Asked::Change(change) => self.take_change(now, &change, &reply),
            Asked::Ids(core) => {
                let Some(ids) = map_store::ids(&reply) else {
                    return self.odd(now, "the meta group gives no ids for new groups");
                };
                self.ids.push((core, ids.collect()));
                self.ids_wanted.retain(|wants| *wants != core);
            }
        }
    }

    fn take_changes(&mut self, now: Mono, heard: u64, reply: &Reply) {
        let found = match map_store::changes(reply) {
            Ok(found) => found,
            Err(odd) => return self.not_understood(now, &odd),
        };
        let Some(version) = found.version else {
            // Soon somebody will have written the first one.
            self.must_look = true;
            self.rest_until = now + FAILURE_REST;
            return;
        };
        self.formation = None;
        let before = self.version();
        let newer = (before + 1..=version).zip(&found.changes);
        for (version, news) in newer {
            if !self.take_level(news.level) {
                break;
            }
            self.confirmed.apply(version, &news.ranges);
            self.take_in(&news.members);
        }
        if self.version() > before {
            self.publish();
        } else if let Some(odd) = found.odd {
            return self.not_understood(now, &odd);
        } else if version > before {
            // The change to the next version is not kept any more.
            self.reading = Some((version, map_store::first()));
        }
        if self.version() < version {
            self.must_look = true;
            return;
        }
        self.answered = heard;
        if !self.confirmed.is_whole() {
            tracing::warn!(
                "the map of version {version} has a hole: some keys' range is not known"
            );
        }
        self.base = Some(found.base);
        self.proposals.retain(|change| is_news(&self.confirmed, change));
        if !self.wants_change() {
            self.rest_until = now + LOOK_REST;
        }
    }

    fn take_all(&mut self, now: Mono, reply: &Reply) {
        let Some((version, _)) = self.reading else { return };
        let (News { ranges, members, level }, next) = match map_store::all(reply) {
            Ok(found) => found,
            Err(odd) => return self.not_understood(now, &odd),
        };
        if !self.take_level(level) {
            return;
        }
        self.confirmed.apply(0, &ranges);
        self.take_in(&members);
        self.reading = next.map(|from| (version, from));
        if self.reading.is_none() {
            self.confirmed.apply(version, &[]);
            // What has changed meanwhile may have been read half.
            self.must_look = true;
            self.publish();
        }
    }

    fn take_change(&mut self, now: Mono, change: &Change, reply: &Reply) {
        if *reply == Reply::Nil {
            // Somebody else was quicker.
            self.must_look = true;
        } else if let Reply::Array(replies) = reply
            && replies.first() == Some(&Reply::Ok)
        {
            self.confirmed.apply(self.version() + 1, &change.ranges);
            self.take_in(&change.members);
            self.take_level(change.level);
            self.proposals.retain(|change| is_news(&self.confirmed, change));
            self.publish();
        } else {
            self.odd(now, "the meta group does not take a change of the map");
        }
    }

    fn wants_change(&self) -> bool {
        !self.proposals.is_empty() || !self.candidates.is_empty() || self.level.is_due()
    }

    /// Takes in nodes that have joined. What is known of one never changes.
    fn take_in(&mut self, members: &[Member]) {
        for member in members {
            let at = self.members.binary_search_by_key(&member.entry.id, |known| known.entry.id);
            if let Err(place) = at {
                self.members.insert(place, member.clone());
                self.has_new_members = true;
            }
        }
        let members = &self.members;
        let has_joined = |disk| members.iter().any(|member| member.disk == disk);
        self.candidates.retain(|one| !has_joined(one.member.disk));
    }

    /// Those who want to join, each with an id that no node has or had. The ids are right because a change
    /// is written only to the very map that it was made for.
    fn newcomers(&self) -> Vec<Member> {
        let known = self.members.iter().map(|member| member.entry.id);
        let mut ids: Vec<NodeId> = self.formed_of.iter().copied().chain(known).collect();
        let mut newcomers: Vec<Member> =
            self.candidates.iter().map(|candidate| candidate.member.clone()).collect();
        for newcomer in &mut newcomers {
            let id = &mut newcomer.entry.id;
            if *id == NodeId(0) || ids.contains(id) {
                *id = NodeId(ids.iter().max().map_or(0, |last| last.get()) + 1);
            }
            ids.push(*id);
        }
        newcomers
    }

    fn odd(&mut self, now: Mono, what: &str) {
        tracing::error!("{what}: it is looked at again");
        self.rest_until = now + ODD_REST;
    }

    /// What is to be written next. A proposal that leaves a hole waits for the one that it follows, but
    /// not for ever: the ranges that would fill the hole are proposed by whoever leads them, and those
    /// that are told of here are better known than not.
    fn next_change(&mut self, now: Mono) -> Option<Change> {
        if let Some(change) = self.fitting(false) {
            self.stuck_since = None;
            return Some(change);
        }
        let since = *self.stuck_since.get_or_insert(now);
        if now.since(since) < HOLE_WAIT {
            return None;
        }
        self.stuck_since = None;
        self.fitting(true)
    }

    /// As many proposals as fit one behind the other.
    fn fitting(&self, may_leave_holes: bool) -> Option<Change> {
        let mut map = self.confirmed.clone();
        let mut change = Change::default();
        let mut bytes = 0;
        for proposal in &self.proposals {
            let mut next = map.clone();
            let news: Vec<_> = proposal.iter().filter(|range| next.learn(range)).cloned().collect();
            let sizes = news.iter().map(map_store::size_bytes);
            let longest = sizes.clone().max().unwrap_or(0);
            let more: usize = sizes.sum();
            let is_first = change.ranges.is_empty();
            if (next.is_whole() || may_leave_holes)
                && longest <= self.value_bytes_max
                && (is_first || bytes + more <= CHANGE_BYTES_MAX)
            {
                change.ranges.extend(news);
                bytes += more;
                map = next;
            }
        }
        // What another change of the same writing has overtaken is not even written.
        let is_alive = |range: &RangeDescriptor| {
            map.group(range.group).is_some_and(|known| known == range.as_range())
        };
        change.ranges.retain(is_alive);
        change.gone = self.gone(&map, &change.ranges);
        change.members = self.newcomers();
        change.level = self.next_level().filter(|_| change.members.is_empty());
        (change != Change::default()).then_some(change)
    }

    /// The groups whose keys `ranges` take and that `after` does not have any more.
    fn gone(&self, after: &RangeMap, ranges: &[RangeDescriptor]) -> Vec<GroupId> {
        let mut gone = Vec::new();
        for range in ranges.iter().filter(|range| range.group != GroupId::META) {
            let mut key = range.start.clone();
            loop {
                let old = self.confirmed.find(&key).map(|old| old.group);
                let is_gone = |old: &GroupId| after.group(*old).is_none() && !gone.contains(old);
                gone.extend(old.filter(is_gone));
                match self.confirmed.bounds(&key).1 {
                    Some(end) if range.end.as_ref().is_none_or(|last| end < last.as_ref()) => {
                        key = Bytes::copy_from_slice(end);
                    }
                    Some(_) | None => break,
                }
            }
        }
        gone
    }

    /// Makes the snapshot anew: what is confirmed, and what was learned beyond it.
    fn publish(&mut self) {
        let mut map = self.confirmed.clone();
        self.learned.retain(|range| map.learn(range));
        self.snapshot = Some(map);
    }
}

/// Whether a change tells a map anything.
fn is_news(map: &RangeMap, change: &[RangeDescriptor]) -> bool {
    let mut map = map.clone();
    change.iter().any(|range| map.learn(range))
}

#[cfg(test)]
mod tests;
