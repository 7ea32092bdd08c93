//! One replica of one Raft group: its state, what it is asked and what it tells. One per group.
//!
//! It calls nothing and keeps no clock: time and the pulses' promises come with each step as
//! [`Context`], everything that must happen leaves as [`Effects`]. What each message means stands
//! in the file of that matter; here is what they share.

use std::time::Duration;

use oarlock_types::{CoreId, GroupId, Guard, Index, Mono, NodeId, Random, SharedLimits, Term};

use crate::candidate::Candidate;
use crate::follower::Follower;
use crate::leader::Leader;
use crate::log::Log;
use crate::progress::ProgressState;
use crate::reads::Asked;
use crate::rebuild::Past;
use crate::release::{Binding, Releases};
use crate::{
    Body, Configuration, Context, Effects, Entry, HardState, LogPosition, Message, Payload,
    SnapshotMeta,
};

/// What a replica is given at birth.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// The group.
    pub group: GroupId,
    /// The node that this replica lives on.
    pub node: NodeId,
    /// The core that it is pinned to.
    pub core: CoreId,
    /// Seeds the randomized delays. Replicas of one group must have different ones.
    pub seed: u64,
    /// Bounds and times.
    pub limits: SharedLimits,
}

/// What a replica finds on its disk.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The newest hard state.
    pub hard_state: HardState,
    /// The newest checkpoint: position zero and the initial configuration when there is none.
    pub checkpoint: SnapshotMeta,
    /// The first index that the log keeps, at most one past the checkpoint.
    pub log_start: Index,
    /// The log from there on, without a gap.
    pub entries: Vec<Entry>,
    /// When to stand for election if no leader is heard of before.
    pub first_election_delay: Duration,
}

/// A batch of the WAL is durable. Told in the order of writes: everything written before it is
/// durable too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Durable {
    /// The hard state that it held.
    pub hard_state: Option<HardState>,
    /// The position of its last entry.
    pub last: Option<LogPosition>,
}

/// What a replica does at present, with the state that only this role has.
#[derive(Debug)]
pub enum Role {
    /// Takes a leader's log, or waits for one. A learner is a follower that has no vote.
    Follower(Follower),
    /// Asks whether an election could be won, in the present term.
    PreCandidate(Candidate),
    /// Stands for election in its own term.
    Candidate(Candidate),
    /// Leads.
    Leader(Box<Leader>),
}

impl Role {
    /// The role's name for people.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Follower(_) => "follower",
            Self::PreCandidate(_) => "pre-candidate",
            Self::Candidate(_) => "candidate",
            Self::Leader(_) => "leader",
        }
    }
}

/// A follower as its leader sees it, for people and placement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgressStatus {
    /// The follower.
    pub node: NodeId,
    /// What it is known to have on disk.
    pub matched: Index,
    /// How it is replicated to.
    pub state: ProgressState,
    /// Whether the data link to it is up.
    pub reachable: bool,
}

/// One replica.
#[derive(Debug)]
pub struct Group {
    pub(crate) id: GroupId,
    pub(crate) node: NodeId,
    pub(crate) core: CoreId,
    pub(crate) limits: SharedLimits,
    pub(crate) random: Random,
    pub(crate) hard: HardState,
    pub(crate) durable_hard: HardState,
    pub(crate) log: Log,
    /// Everything up to here is committed and was handed out to be applied.
    pub(crate) commit: Index,
    pub(crate) checkpoint: LogPosition,
    /// The configurations since the last applied one, each from the index of its entry on. The
    /// last is in force; a cut log takes it back.
    pub(crate) configurations: Vec<(Index, Configuration)>,
    pub(crate) role: Role,
    pub(crate) leader: Option<NodeId>,
    pub(crate) binding: Option<Binding>,
    /// The newest term that was released: its appends bind no more.
    pub(crate) released: Term,
    /// Nodes to which the data link is down.
    pub(crate) down: Vec<NodeId>,
    pub(crate) releases: Option<Box<Releases>>,
    pub(crate) asked: Option<Box<Asked>>,
    pub(crate) read_attempts: u64,
    /// What few replicas have behind them.
    pub(crate) past: Option<Box<Past>>,
    /// The newest entry of the log that cuts the range; zero if none is known.
    pub(crate) split_at: Index,
    /// Entries from here on are to stay in memory, as far as there is room.
    pub(crate) kept_from: Option<Index>,
}

impl Group {
    /// A replica as its disk tells. Restored entries count as durable; what the checkpoint holds
    /// counts as applied.
    #[must_use]
    pub fn new(config: GroupConfig, restored: Restored, ctx: &Context<'_>) -> Self {
        let Restored { hard_state, checkpoint, log_start, entries, first_election_delay } =
            restored;
        let mut configurations =
            vec![(checkpoint.configuration_index, checkpoint.configuration.clone())];
        let log = Log::new(checkpoint.position, log_start, entries);
        let mut index = log.cached_first().max(checkpoint.position.index.next());
        let mut split_at = Index(0);
        while let Some(entry) = log.get(index) {
            match &entry.payload {
                Payload::Config(configuration) => {
                    configurations.push((index, configuration.clone()))
                }
                Payload::Split(_) | Payload::Merge(_) => split_at = index,
                Payload::Noop | Payload::Commands(_) | Payload::Packed(_) => {}
            }
            index = index.next();
        }
        let mut group = Self {
            id: config.group,
            node: config.node,
            core: config.core,
            limits: config.limits,
            random: Random::new(config.seed),
            hard: hard_state,
            durable_hard: hard_state,
            log,
            commit: checkpoint.position.index,
            checkpoint: checkpoint.position,
            configurations,
            role: Role::Follower(Follower { election_at: ctx.now + first_election_delay }),
            leader: None,
            binding: None,
            released: Term(0),
            down: Vec::new(),
            releases: None,
            asked: None,
            // An answer to an attempt of an earlier life must not be taken for one of this life.
            read_attempts: ctx.support.incarnation().get() << 40,
            past: None,
            split_at,
            kept_from: None,
        };
        group.evict();
        group.finish(ctx, Duration::ZERO);
        group
    }

    /// A message from another replica.
    pub fn step(&mut self, ctx: &Context<'_>, from: NodeId, message: Message, out: &mut Effects) {
        let Message { term, body } = message;
        match body {
            Body::PreVote(request) => self.on_pre_vote(ctx, from, term, request, out),
            Body::Vote(request) => self.on_vote(ctx, from, term, request, out),
            Body::PreVoteReply(reply) => self.on_pre_vote_reply(ctx, from, term, reply, out),
            Body::VoteReply(reply) => self.on_vote_reply(ctx, from, term, reply, out),
            Body::Append(append) => self.on_append(ctx, from, term, append, out),
            Body::AppendReply(reply) => self.on_append_reply(ctx, from, term, reply, out),
            Body::Snapshot(chunk) => self.on_snapshot(ctx, from, term, chunk, out),
            Body::SnapshotReply { position, received_bytes, installed } => {
                if self.meet_term(ctx, term, out) {
                    self.on_snapshot_reply(ctx, from, position, received_bytes, installed, out);
                }
            }
            Body::TimeoutNow(release) => self.on_timeout_now(ctx, from, term, release, out),
            Body::Release(release) => self.on_release(from, release, out),
            Body::ReleaseReply(release) => self.on_release_reply(from, release),
            Body::ReadIndex { sequence } => self.on_read_index(ctx, from, sequence, out),
            Body::ReadIndexReply { sequence, index } => {
                self.on_read_index_reply(ctx, sequence, index, out);
            }
            Body::Rebuild(rebuild) => self.on_rebuild(ctx, from, &rebuild, out),
            Body::Absent => self.on_absent(from, out),
            // Meant for a node that had no replica, which has one by now, or for its shard.
            Body::Create | Body::Residence { .. } => {}
        }
        self.finish(ctx, Duration::ZERO);
    }

    /// A batch of this replica's writes is durable.
    pub fn durable(&mut self, ctx: &Context<'_>, durable: Durable, out: &mut Effects) {
        if let Some(hard) = durable.hard_state {
            let newer = |h: HardState| (h.term, h.vote.is_some());
            if newer(hard) > newer(self.durable_hard) {
                self.durable_hard = hard;
            }
        }
        self.log.mark_durable(durable.last, self.durable_hard.term);
        match &self.role {
            Role::Candidate(_) => self.count_own_vote(ctx, out),
            Role::Leader(_) => self.advance_commit(ctx, out),
            Role::Follower(_) | Role::PreCandidate(_) => {}
        }
        self.evict();
        self.finish(ctx, Duration::ZERO);
    }

    /// The deadline has come, or may have.
    pub fn timer(&mut self, ctx: &Context<'_>, out: &mut Effects) {
        self.release_timer(ctx, out);
        self.asked_timer(ctx, out);
        match &self.role {
            Role::Follower(follower) if follower.election_at <= ctx.now => {
                self.election_timer(ctx, out);
            }
            Role::PreCandidate(c) | Role::Candidate(c) if c.ends_at <= ctx.now => {
                self.become_follower(ctx, self.hard.term, None, out);
                self.election_timer(ctx, out);
            }
            Role::Leader(_) => self.leader_timer(ctx, out),
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => {}
        }
        self.finish(ctx, Duration::ZERO);
        // Else whoever runs timers that are due would never be done.
        debug_assert!(self.deadline() > ctx.now, "invariant: a timer that has run lies ahead");
    }

    /// When [`Group::timer`] wants to be called; [`Mono::NEVER`] for an idle leader and for a
    /// follower that is bound to its leader.
    #[must_use]
    pub fn deadline(&self) -> Mono {
        let role = match &self.role {
            Role::Follower(follower) => follower.election_at,
            Role::PreCandidate(candidate) | Role::Candidate(candidate) => candidate.ends_at,
            Role::Leader(leader) => leader.deadline(self.limits.retry_interval),
        };
        let releases = self.releases.as_ref().map_or(Mono::NEVER, |r| r.deadline(&self.down));
        let asked = self.asked.as_ref().map_or(Mono::NEVER, |a| a.retry_at);
        role.min(releases).min(asked)
    }

    /// What the pulses promise has changed in a way that may concern this group: it may have lost
    /// its leader, or its quorum of support, or gained a new epoch of it. `spread` widens the
    /// randomized delay of an election, so that many groups do not stand at once.
    pub fn support_changed(&mut self, ctx: &Context<'_>, spread: Duration, out: &mut Effects) {
        if matches!(self.role, Role::Leader(_)) {
            self.leader_support_changed(ctx, out);
        }
        self.finish(ctx, spread);
    }

    /// These are all nodes to which the data link is not up, where the replica is from now on.
    pub fn begin_without_links(&mut self, to: Vec<NodeId>) {
        debug_assert!(!self.is_leader(), "invariant: who leads is told of each link");
        self.down = to;
    }

    /// The data link to `node` came up or broke.
    pub fn reachable(&mut self, ctx: &Context<'_>, node: NodeId, up: bool, out: &mut Effects) {
        self.down.retain(|n| *n != node);
        if !up {
            self.down.push(node);
        } else if self.down.is_empty() {
            self.down = Vec::new();
        }
        self.leader_reachable(ctx, node, up, out);
        if up {
            self.send_release(node, out);
        } else if self.leader == Some(node) {
            self.refuse_asked(out);
        }
        self.finish(ctx, Duration::ZERO);
    }

    /// A checkpoint is durable, and the WAL keeps the log from `keep_from` on.
    pub fn compact(&mut self, meta: SnapshotMeta, keep_from: Index) {
        assert!(meta.position.index <= self.commit, "invariant: only applied state is kept");
        if meta.position.index < self.checkpoint.index {
            return;
        }
        self.log.compact(meta.position, keep_from);
        self.checkpoint = meta.position;
    }

    /// Whatever every step ends with: a follower watches its leader.
    pub(crate) fn finish(&mut self, ctx: &Context<'_>, spread: Duration) {
        self.watch_leader(ctx, spread);
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
    }

    pub(crate) fn set_hard(&mut self, term: Term, vote: Option<NodeId>, out: &mut Effects) {
        assert!(term >= self.hard.term, "invariant: terms never fall");
        assert!(
            term > self.hard.term || self.hard.vote.is_none() || self.hard.vote == vote,
            "invariant: one vote a term"
        );
        self.hard = HardState { term, vote };
        out.hard_state = Some(self.hard);
    }

    /// Sends what is true once the hard state and the log up to `claims` are durable.
    pub(crate) fn send_claim(&self, to: NodeId, body: Body, claims: Index, out: &mut Effects) {
        let message = Message { term: self.hard.term, body };
        let is_state_kept = self.hard == self.durable_hard || !Guard::VoteIsOnDisk.is_on();
        let is_log_kept = claims <= self.log.durable() || !Guard::AckIsOnDisk.is_on();
        if is_state_kept && is_log_kept {
            out.send_now.push((to, message));
        } else {
            out.send_after_durable.push((to, message));
        }
    }

    /// Appends to the log, from memory to disk, and brings a configuration into force.
    pub(crate) fn append_entry(&mut self, entry: Entry, out: &mut Effects) {
        match &entry.payload {
            Payload::Config(configuration) => {
                self.configurations.push((entry.at.index, configuration.clone()));
                out.status_changed = true;
            }
            Payload::Split(_) | Payload::Merge(_) => self.split_at = entry.at.index,
            Payload::Noop | Payload::Commands(_) | Payload::Packed(_) => {}
        }
        self.log.append(entry.clone());
        out.append.push(entry);
    }

    /// Commits up to `index`: hands the entries out, once each and in order.
    pub(crate) fn commit_to(&mut self, index: Index, out: &mut Effects) {
        assert!(index <= self.log.last().index, "invariant: what is committed is in the log");
        while self.commit < index {
            self.commit = self.commit.next();
            let entry = self.log.get(self.commit).expect("invariant: unapplied is cached");
            if let Role::Leader(leader) = &mut self.role {
                leader.committed(entry.size_bytes());
            }
            out.apply.push(entry.clone());
        }
        let settled = self.configurations.partition_point(|(at, _)| *at <= self.commit);
        self.configurations.drain(..settled.saturating_sub(1));
        out.settled |= settled > 1;
    }

    /// Gives memory back: what is applied, durable, and needed by no follower that can be reached,
    /// or more than the cache may hold.
    pub(crate) fn evict(&mut self) {
        let needed = match &self.role {
            Role::Leader(leader) => leader.needed_from().min(self.commit.next()),
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => self.commit.next(),
        };
        let needed = self.kept_from.map_or(needed, |kept| kept.min(needed));
        self.log.evict(needed.prev());
        let bytes_max = if self.kept_from.is_some() {
            self.limits.log_cache_bytes_max.max(self.kept_bytes_max())
        } else {
            self.limits.log_cache_bytes_max
        };
        let mut bytes = self.log.cached_bytes();
        let mut upto = self.log.cached_first().prev();
        while bytes > bytes_max && upto < self.commit {
            upto = upto.next();
            bytes -= self.log.get(upto).map_or(0, Entry::size_bytes);
        }
        self.log.evict(upto);
    }

    /// The group.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// The node of this replica.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// What it does at present.
    #[must_use]
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// Whether it leads, as far as it knows.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// Its term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.hard.term
    }

    /// Its term, and whom it voted for in it.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        self.hard
    }

    /// What of that is on this replica's disk.
    #[must_use]
    pub fn durable_hard_state(&self) -> HardState {
        self.durable_hard
    }

    /// Whom it takes for the leader; itself when it leads.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// Everything up to here is committed.
    #[must_use]
    pub fn commit(&self) -> Index {
        self.commit
    }

    /// Everything up to here was handed out to be applied.
    #[must_use]
    pub fn applied(&self) -> Index {
        self.commit
    }

    /// The first index that the WAL keeps.
    #[must_use]
    pub fn first_index(&self) -> Index {
        self.log.first()
    }

    /// The end of the log.
    #[must_use]
    pub fn last(&self) -> LogPosition {
        self.log.last()
    }

    /// Everything up to here is on this replica's disk.
    #[must_use]
    pub fn durable_index(&self) -> Index {
        self.log.durable()
    }

    /// The term of the entry at `index`, where it is known: from just before the first entry of the
    /// log on.
    #[must_use]
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.log.term(index)
    }

    /// The entry at `index`, if it is in memory: what is not committed always is.
    #[must_use]
    pub fn entry(&self, index: Index) -> Option<&Entry> {
        self.log.get(index)
    }

    /// The configuration in force.
    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        &self.configurations.last().expect("invariant: one is always in force").1
    }

    /// The configuration of what is applied, and all that have followed it since, up to the one in
    /// force.
    pub fn open_configurations(&self) -> impl Iterator<Item = &Configuration> {
        self.configurations.iter().map(|(_, configuration)| configuration)
    }

    /// Whether this replica leads, and is not about to hand over.
    #[must_use]
    pub fn leads_on(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.transfer.is_none())
    }

    /// The members by what is committed, and the entry that made them so; `None` while they change.
    #[must_use]
    pub fn settled_members(&self) -> Option<(Index, &Configuration)> {
        let (at, members) = self.configurations.first()?;
        (*at <= self.commit && !members.is_joint()).then_some((*at, members))
    }

    /// The newest entry of its log that this replica knows to say who the members are.
    #[must_use]
    pub fn configured(&self) -> Index {
        self.configurations.last().expect("invariant: one is always in force").0
    }

    /// What a checkpoint of the applied state says, but for its length.
    #[must_use]
    pub fn applied_meta(&self) -> SnapshotMeta {
        let (configuration_index, configuration) =
            self.configurations.first().expect("invariant: one is always in force").clone();
        let position = self.log.position(self.commit).expect("invariant: its term is known");
        SnapshotMeta { position, configuration, configuration_index, size_bytes: 0 }
    }

    /// Where the newest checkpoint that it was told of ends.
    #[must_use]
    pub fn checkpoint(&self) -> LogPosition {
        self.checkpoint
    }

    /// Whether a checkpoint at `position` would replace this replica's state: neither is it
    /// committed here nor does the log hold its last entry.
    #[must_use]
    pub fn needs_install(&self, position: LogPosition) -> bool {
        position.index > self.commit && self.log.term(position.index) != Some(position.term)
    }

    /// Followers as the leader sees them; empty elsewhere.
    pub fn progress(&self) -> impl Iterator<Item = ProgressStatus> + '_ {
        let leader = match &self.role {
            Role::Leader(leader) => Some(leader),
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => None,
        };
        leader.into_iter().flat_map(|l| &l.progress).map(|p| ProgressStatus {
            node: p.node,
            matched: p.matched,
            state: p.state.clone(),
            reachable: p.reachable,
        })
    }

    /// Bytes that the replica takes in memory, its cached entries included.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let leader = match &self.role {
            Role::Leader(leader) => leader.memory_bytes(),
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => 0,
        };
        let configurations: usize = self
            .configurations
            .iter()
            .map(|(_, c)| size_of::<(Index, Configuration)>() + 8 * c.members().count())
            .sum();
        size_of::<Self>() + self.log.memory_bytes() + leader + configurations
    }
}
