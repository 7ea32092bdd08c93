//! One core's engine: its groups, their log, and what waits for them. One per core.
//!
//! A turn is `begin_turn`, any number of events, `finish_turn`. Within a turn the time stands
//! still. Nothing here reads a clock, a file or a socket: [`Output`] says what is to be done.

use std::collections::{BTreeMap, VecDeque};

use oarlock_codec::{GroupMessage, Record};
use oarlock_raft::{Configuration, Context, Effects, Group, GroupConfig, SnapshotMeta};
use oarlock_store::{Reply, Store, StoreLimits};
use oarlock_types::{
    CoreAddr, CoreId, FastMap, FeatureLevel, GroupId, Guard, Index, Limits, Lsn, Mono, NodeId,
    Random, RangeBounds, SharedLimits, Term, WallMs,
};
use oarlock_wal::Wal;

use crate::admission::Admission;
use crate::checkpoints::Mark;
use crate::due_splits::Loads;
use crate::elections::Elections;
use crate::files::Files;
use crate::hand_over::HandOvers;
use crate::merges::Merges;
use crate::moves::Departed;
use crate::news::News;
use crate::orders::Orders;
use crate::output::Output;
use crate::rebuild::{Origin, Rebuilding};
use crate::replica::{Past, Replica};
use crate::requests::LaneKey;
use crate::seed::ReplicaSeed;
use crate::split::Splits;
use crate::support_changes::ChangeTracker;
use crate::timers::Timers;
use crate::upkeep::Upkeep;
use crate::walk::Survey;
use crate::{SharedHomes, SharedSupport};

/// What a shard is given at birth.
#[derive(Debug)]
pub struct ShardConfig {
    /// Its own address.
    pub addr: CoreAddr,
    /// Every bound.
    pub limits: SharedLimits,
    /// Decides every random choice of this shard.
    pub seed: u64,
    /// Support, as the pulses keep it for the whole node.
    pub support: SharedSupport,
    /// Which core of the node has what.
    pub homes: SharedHomes,
    /// Until then no replica here votes or campaigns: the node has forgotten its promises.
    /// [`Mono`] zero at a node's very first start.
    pub may_vote_from: Mono,
}

/// Messages and acknowledgements that wait for a frame of the WAL.
#[derive(Debug, Default)]
pub(crate) struct AfterDurable {
    pub(crate) messages: VecDeque<(Lsn, NodeId, GroupMessage)>,
    pub(crate) acks: VecDeque<(Lsn, GroupId, oarlock_raft::Durable)>,
    pub(crate) marks: VecDeque<(Lsn, Mark)>,
}

/// One core's engine.
#[derive(Debug)]
pub struct Shard {
    pub(crate) addr: CoreAddr,
    pub(crate) limits: SharedLimits,
    pub(crate) random: Random,
    pub(crate) support: SharedSupport,
    pub(crate) homes: SharedHomes,
    pub(crate) may_vote_from: Mono,
    pub(crate) now: Mono,
    pub(crate) wall: WallMs,
    /// Boxed: a map has up to twice the room that it needs.
    pub(crate) replicas: FastMap<GroupId, Box<Replica>>,
    /// Groups with requests that arrived in this turn, in order of arrival.
    pub(crate) queued: Vec<GroupId>,
    pub(crate) wal: Wal,
    pub(crate) after_durable: AfterDurable,
    pub(crate) timers: Timers,
    pub(crate) tracker: ChangeTracker,
    pub(crate) admission: Admission,
    pub(crate) reads: BTreeMap<u64, crate::requests::WaitingRead>,
    pub(crate) next_read: u64,
    pub(crate) files: Files,
    pub(crate) disk_full: bool,
    pub(crate) level: FeatureLevel,
    /// Lanes of which a write was refused, and when.
    pub(crate) lanes_closed: BTreeMap<LaneKey, Mono>,
    /// Reused by every step; empty between steps.
    pub(crate) effects: Effects,
    pub(crate) out: Output,
    /// Reused by every apply; empty between entries.
    pub(crate) replies: Vec<Reply>,
    /// Replaced stores, to be freed in slices.
    pub(crate) graveyard: Vec<Store>,
    /// Every group of this shard, sorted: what loops walk over.
    pub(crate) ids: Vec<GroupId>,
    pub(crate) newest_lsn: Lsn,
    pub(crate) durable_lsn: Lsn,
    pub(crate) upkeep: Upkeep,
    pub(crate) news: News,
    pub(crate) rebuilding: Rebuilding,
    pub(crate) splits: Splits,
    pub(crate) orders: Orders,
    pub(crate) merges: Merges,
    /// What must not be forgotten of replicas that have ended here.
    pub(crate) departed: FastMap<GroupId, Departed>,
    pub(crate) loads: Loads,
    pub(crate) elections: Elections,
    pub(crate) hand_overs: HandOvers,
    /// Replicas that lead.
    pub(crate) led: usize,
    /// The nodes to which this core's data link is up.
    pub(crate) linked: Vec<NodeId>,
    pub(crate) survey: Survey,
    pub(crate) writes_acknowledged: u64,
    /// Groups that steps have touched, while somebody observes.
    pub(crate) touched: Option<Vec<GroupId>>,
}

impl Shard {
    /// A shard without replicas over a log that holds `wal`.
    #[must_use]
    pub fn new(config: ShardConfig, wal: Wal) -> Self {
        let ShardConfig { addr, limits, seed, support, homes, may_vote_from } = config;
        Self {
            addr,
            random: Random::new(seed),
            may_vote_from,
            now: Mono(0),
            wall: WallMs(0),
            replicas: FastMap::default(),
            queued: Vec::new(),
            wal,
            after_durable: AfterDurable::default(),
            timers: Timers::default(),
            tracker: ChangeTracker::new(&support, addr.core),
            admission: Admission::new(&limits),
            reads: BTreeMap::new(),
            next_read: 0,
            files: Files::new(&limits),
            disk_full: false,
            level: FeatureLevel::FIRST,
            lanes_closed: BTreeMap::new(),
            effects: Effects::default(),
            out: Output::default(),
            replies: Vec::new(),
            graveyard: Vec::new(),
            ids: Vec::new(),
            newest_lsn: Lsn(0),
            durable_lsn: Lsn(0),
            upkeep: Upkeep::default(),
            news: News::default(),
            rebuilding: Rebuilding::default(),
            splits: Splits::default(),
            orders: Orders::default(),
            merges: Merges::default(),
            departed: FastMap::default(),
            loads: Loads::default(),
            hand_overs: HandOvers::new(&limits),
            elections: Elections::default(),
            led: 0,
            linked: Vec::new(),
            survey: Survey::default(),
            writes_acknowledged: 0,
            touched: None,
            limits,
            support,
            homes,
        }
    }

    /// Opens a turn at this time. Both clocks are the driver's.
    pub fn begin_turn(&mut self, now: Mono, wall: WallMs) {
        debug_assert!(now >= self.now, "invariant: the monotonic clock does not run backwards");
        self.now = now;
        self.wall = wall;
        self.news.begin_turn();
        self.send_what_rests();
    }

    /// Takes up a replica: a new one (its creation goes into this turn's frame) or a restored one. One
    /// whose state a split made waits for [`Shard::restore_split_states`].
    pub fn add_replica(&mut self, seed: ReplicaSeed, is_new: bool) {
        if let Some(base) = seed.base {
            self.splits.wait(base, seed);
        } else {
            self.take_up(seed, is_new);
        }
    }

    pub(crate) fn take_up(&mut self, seed: ReplicaSeed, is_new: bool) {
        let ReplicaSeed { group, restored, store, base, left, residence, rebuilt } = seed;
        assert!(!self.replicas.contains_key(&group), "invariant: one replica per group");
        if is_new {
            let configuration = restored.checkpoint.configuration.clone();
            let first = Origin::first(store.bounds().epoch);
            let origin = Origin { left, residence, rebuilt, ..first };
            let details = origin.to_details();
            self.log(&Record::Create { group, configuration, details });
        }
        let checkpoint = restored.checkpoint.clone();
        let config = GroupConfig {
            group,
            node: self.addr.node,
            core: self.addr.core,
            seed: self.random.next_u64(),
            limits: SharedLimits::clone(&self.limits),
        };
        let view = self.support.view(self.addr.core, self.now);
        let ctx = Context { now: self.now, support: &view, may_vote: self.may_vote() };
        let mut raft = Group::new(config, restored, &ctx);
        left.into_iter().for_each(|left| raft.left_at(left));
        self.timers.arm(raft.deadline(), group);
        if let Some(base) = base {
            self.splits.made(group, base);
        }
        let mut replica = Replica::new(raft, store, base, checkpoint);
        replica.set_past(Past { left, residence, rebuilt });
        self.put(group, Box::new(replica));
        if let Some(rebuilt) = rebuilt {
            self.note_rebuilt(group, rebuilt);
        }
    }

    pub(crate) fn put(&mut self, group: GroupId, mut replica: Box<Replica>) {
        let is_linked = |node: &NodeId| self.linked.contains(node);
        let unlinked = self.support.peers().filter(|node| !is_linked(node)).collect();
        replica.raft.begin_without_links(unlinked);
        self.replicas.insert(group, replica);
        self.note_frozen(group);
        if let Err(place) = self.ids.binary_search(&group) {
            self.ids.insert(place, group);
        }
    }

    /// The replica is none of this core's any more.
    pub(crate) fn remove(&mut self, group: GroupId) -> Option<Box<Replica>> {
        let mut replica = self.replicas.remove(&group)?;
        self.note_frozen(group);
        if std::mem::take(&mut replica.counts_as_leader) {
            self.led -= 1;
        }
        self.survey.count(&mut replica.keys_counted, (0, 0));
        replica.is_changed = false;
        self.elections.left(&mut replica.election);
        if let Ok(place) = self.ids.binary_search(&group) {
            self.ids.remove(place);
        }
        Some(replica)
    }

    /// Lets the log go of a group that has no replica here any more.
    pub fn forget_replica(&mut self, group: GroupId) {
        debug_assert!(!self.has_replica(group), "invariant: it was not taken up");
        self.log(&Record::Destroy { group });
    }

    /// Puts a record into this turn's frame.
    pub(crate) fn log(&mut self, record: &Record) -> Lsn {
        self.newest_lsn = self.wal.append(record);
        self.newest_lsn
    }

    /// The groups with a replica here, in order.
    #[must_use]
    pub fn groups(&self) -> &[GroupId] {
        &self.ids
    }

    /// Whether its replica here leads the group.
    #[must_use]
    pub fn leads(&self, group: GroupId) -> bool {
        self.replicas.get(&group).is_some_and(|replica| replica.raft.is_leader())
    }

    /// The term in which its replica here leads the group, if it does.
    #[must_use]
    pub fn leads_in(&self, group: GroupId) -> Option<Term> {
        let replica = self.replicas.get(&group).filter(|replica| replica.raft.is_leader())?;
        Some(replica.raft.term())
    }

    /// The term in which a group's replica here is.
    #[must_use]
    pub fn term(&self, group: GroupId) -> Option<Term> {
        Some(self.replicas.get(&group)?.raft.term())
    }

    /// A range's bounds, and its group's members with the entry that made them so, by what its replica
    /// here has applied; `None` while the members change.
    #[must_use]
    pub fn range(&self, group: GroupId) -> Option<(&RangeBounds, Index, &Configuration)> {
        let replica = self.replicas.get(&group)?;
        let (configured, members) = replica.raft.settled_members()?;
        Some((replica.store.bounds(), configured, members))
    }

    /// The core on which a member's replica is, as far as it was heard from.
    #[must_use]
    pub fn core_of_member(&self, group: GroupId, node: NodeId) -> Option<CoreId> {
        let heard_from = &self.replicas.get(&group)?.heard_from;
        heard_from.iter().find(|at| at.node == node).map(|at| at.core)
    }

    /// Whether a group has a replica here.
    #[must_use]
    pub fn has_replica(&self, group: GroupId) -> bool {
        self.replicas.contains_key(&group)
    }

    pub(crate) fn may_vote(&self) -> bool {
        self.now >= self.may_vote_from || !Guard::RestartedWaits.is_on()
    }

    /// Runs one step of a group and performs its effects. Does nothing for a group that is not
    /// here.
    pub(crate) fn with_group<R>(
        &mut self,
        group: GroupId,
        step: impl FnOnce(&mut Group, &Context<'_>, &mut Effects) -> R,
    ) -> Option<R> {
        let may_vote = self.may_vote();
        let replica = self.replicas.get_mut(&group)?;
        let view = self.support.view(self.addr.core, self.now);
        let ctx = Context { now: self.now, support: &view, may_vote };
        let result = step(&mut replica.raft, &ctx, &mut self.effects);
        #[cfg(debug_assertions)]
        replica.raft.check_invariants();
        self.elections.stepped(&mut replica.election, replica.raft.role());
        if replica.raft.is_leader() {
            self.survey.note_changed(group, &mut replica.is_changed);
        }
        let deadline = replica.raft.deadline();
        if deadline < replica.armed {
            replica.armed = deadline;
            self.timers.arm(deadline, group);
        }
        if let Some(touched) = &mut self.touched {
            touched.push(group);
        }
        self.perform(group);
        Some(result)
    }

    /// The frames of the log, for the driver that writes them.
    pub fn wal(&mut self) -> &mut Wal {
        &mut self.wal
    }

    /// The newest record of the log.
    #[must_use]
    pub fn newest_lsn(&self) -> Lsn {
        self.newest_lsn
    }

    /// A frame is durable: what waited for it goes on.
    pub fn wal_durable(&mut self, lsn: Lsn) {
        self.wal.durable(lsn);
        self.durable_lsn = lsn;
        while self.after_durable.messages.front().is_some_and(|(at, ..)| *at <= lsn) {
            if let Some((_, node, message)) = self.after_durable.messages.pop_front() {
                self.out.messages.push((node, message));
            }
        }
        while self.after_durable.acks.front().is_some_and(|(at, ..)| *at <= lsn) {
            if let Some((_, group, durable)) = self.after_durable.acks.pop_front() {
                self.with_group(group, |raft, ctx, out| raft.durable(ctx, durable, out));
            }
        }
        while self.after_durable.marks.front().is_some_and(|(at, _)| *at <= lsn) {
            match self.after_durable.marks.pop_front() {
                Some((_, Mark::Made(group))) => self.made(group),
                Some((_, Mark::Received(group))) => self.install(group),
                Some((_, Mark::Begun(group))) => self.begun(group),
                Some((_, Mark::Departed(file))) => self.delete_departed(file),
                Some((_, Mark::Arrived(group))) => self.arrived(group),
                Some((_, Mark::Forgotten(group))) => self.forgotten(group),
                None => break,
            }
        }
    }

    /// Whether the disk is nearly full: writes are refused, everything else goes on.
    pub fn set_disk_full(&mut self, full: bool) {
        self.disk_full = full;
    }

    /// The cluster is at this feature level, and the node knows it durably. Never less than before.
    pub fn set_feature_level(&mut self, level: FeatureLevel) {
        debug_assert!(level >= self.level, "invariant: the cluster's level never falls");
        self.level = level;
        self.wal.set_feature_level(level);
    }

    /// The cluster's feature level: what a higher one brings is neither proposed nor sent. What is in a log is
    /// applied whatever it is here, since replicas hear of it at different times.
    #[must_use]
    pub fn feature_level(&self) -> FeatureLevel {
        self.level
    }

    /// Closes the turn: proposes what was queued, runs due timers, and hands out what is to be
    /// done. `out` is swapped with the shard's own buffer, so that both keep their room.
    pub fn finish_turn(&mut self, out: &mut Output) {
        debug_assert!(out.is_empty(), "invariant: the last turn's output was carried out");
        self.spread_news();
        self.run_timers();
        self.propose_queued();
        self.free_slice();
        self.feed_checkpoints();
        self.feed_snapshots();
        self.feed_log_reads();
        std::mem::swap(out, &mut self.out);
    }

    /// When this shard next wants a turn though nothing happens. After a turn, not later than that turn only
    /// if there is more to do than one turn may take.
    #[must_use]
    pub fn next_deadline(&self) -> Mono {
        let has_more = self.news.is_open() || self.is_hand_over_due();
        if has_more { self.now } else { self.timers.next() }
    }

    /// Hints of deadlines that are kept: what a busy core's groups cost the timers.
    #[must_use]
    pub fn timers_armed(&self) -> usize {
        self.timers.len()
    }

    /// Writes that this shard's leaders have acknowledged.
    #[must_use]
    pub fn writes_acknowledged(&self) -> u64 {
        self.writes_acknowledged
    }

    fn run_timers(&mut self) {
        while let Some((at, group)) = self.timers.due(self.now) {
            let Some(replica) = self.replicas.get_mut(&group) else { continue };
            if replica.armed != at {
                continue; // an earlier hint has taken its place, and has armed the next
            }
            replica.armed = Mono::NEVER;
            let deadline = replica.raft.deadline();
            if deadline <= self.now {
                self.run_timer(group);
            } else if deadline < Mono::NEVER {
                replica.armed = deadline;
                self.timers.arm(deadline, group);
            }
        }
        self.go_on_with_elections();
    }

    /// The checkpoint that a fresh replica starts from: nothing, with its first configuration.
    #[must_use]
    pub fn fresh_checkpoint(configuration: oarlock_raft::Configuration) -> SnapshotMeta {
        SnapshotMeta { configuration, configuration_index: Index(0), ..SnapshotMeta::default() }
    }

    /// A store's bounds.
    #[must_use]
    pub fn store_limits(limits: &Limits) -> StoreLimits {
        StoreLimits { value_bytes_max: limits.value_bytes_max, ..StoreLimits::default() }
    }
}
