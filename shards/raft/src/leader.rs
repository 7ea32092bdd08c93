//! Leading: the state of one term's leader, its commits, its lease and its timers. One per group
//! and term.
//!
//! It counts itself only up to what is durable on its own disk, and a follower towards its lease
//! only under the support that the follower's last answer named.

use std::fmt;
use std::time::Duration;

use oarlock_types::{Guard, Index, Mono, NodeId};

use crate::append::Sender;
use crate::group::{Group, Role};
use crate::progress::Progress;
use crate::reads::Barriers;
use crate::rebuild::Leaving;
use crate::transfer::Transfer;
use crate::{Context, Effects, Entry, LogPosition, Payload};

/// How long a commit waits for a write that tells the followers of it before it is told alone: a
/// busy group has one long before, and a group that falls quiet pays one message a follower.
const NOTICE_DELAY: Duration = Duration::from_millis(20);

/// How many windows' bytes a leader accepts before they are committed: one is on its way while the
/// next one fills.
const UNCOMMITTED_WINDOWS: usize = 2;

/// A replica that leads.
#[derive(Debug)]
pub struct Leader {
    /// The index of the entry that opened the term.
    pub(crate) term_start: Index,
    /// Everyone else who receives the log.
    pub(crate) progress: Vec<Progress>,
    /// Everyone who received anything in this term and so may be bound.
    pub(crate) touched: Vec<NodeId>,
    /// When to tell followers of the newest commit.
    pub(crate) notice_at: Mono,
    /// Until then the quorum of support may still be missing.
    grace_until: Mono,
    /// When to look again whether it is there.
    quorum_check_at: Mono,
    pub(crate) transfer: Option<Transfer>,
    pub(crate) leaving: Option<Leaving>,
    pub(crate) reads: Barriers,
    uncommitted_bytes: usize,
}

impl Leader {
    pub(crate) fn find(&mut self, node: NodeId) -> Option<&mut Progress> {
        self.progress.iter_mut().find(|p| p.node == node)
    }

    pub(crate) fn get(&self, node: NodeId) -> Option<&Progress> {
        self.progress.iter().find(|p| p.node == node)
    }

    pub(crate) fn deadline(&self, retry_interval: Duration) -> Mono {
        let retry = self.progress.iter().map(|p| p.retry_at(retry_interval)).min();
        let transfer = self.transfer.as_ref().map_or(Mono::NEVER, |t| t.ends_at);
        retry.unwrap_or(Mono::NEVER).min(transfer).min(self.notice_at).min(self.quorum_check_at)
    }

    /// The first entry that a follower which can be reached may still be sent from memory.
    pub(crate) fn needed_from(&self) -> Index {
        let reachable = self.progress.iter().filter(|p| p.reachable);
        reachable.map(|p| p.matched.next()).min().unwrap_or(Index(u64::MAX))
    }

    /// An entry of this many bytes has committed.
    pub(crate) fn committed(&mut self, bytes: usize) {
        self.uncommitted_bytes -= bytes;
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.progress.iter().map(Progress::memory_bytes).sum::<usize>()
            + self.touched.capacity() * size_of::<NodeId>()
    }
}

/// Why a proposal was not taken. Nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposeError {
    /// Another replica leads, or none.
    NotLeader {
        /// Who, as far as known.
        leader: Option<NodeId>,
    },
    /// Leadership is being handed over.
    Transferring,
    /// Too much is uncommitted already.
    WindowFull,
    /// The range is being cut in two.
    Splitting,
}

impl fmt::Display for ProposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader { leader: Some(leader) } => write!(f, "{leader} leads the group"),
            Self::NotLeader { leader: None } => write!(f, "the group has no known leader"),
            Self::Transferring => write!(f, "leadership is being handed over"),
            Self::WindowFull => write!(f, "too much is uncommitted, try again"),
            Self::Splitting => write!(f, "the range is being cut in two, try again"),
        }
    }
}

impl Group {
    /// Appends commands, [`Payload::Commands`] or [`Payload::Packed`], to the log and sends them to every follower
    /// that keeps up, in this step.
    ///
    /// # Errors
    /// When this replica does not lead, is handing over, or holds too much that is uncommitted.
    pub fn propose(
        &mut self,
        ctx: &Context<'_>,
        commands: Payload,
        out: &mut Effects,
    ) -> Result<LogPosition, ProposeError> {
        let bytes_max = self.limits.inflight_bytes_max * UNCOMMITTED_WINDOWS;
        let Role::Leader(leader) = &self.role else {
            return Err(ProposeError::NotLeader { leader: self.leader });
        };
        if leader.transfer.is_some() {
            return Err(ProposeError::Transferring);
        }
        if self.is_splitting() {
            return Err(ProposeError::Splitting);
        }
        if leader.uncommitted_bytes >= bytes_max {
            return Err(ProposeError::WindowFull);
        }
        let at = self.append_own(ctx, commands, out);
        self.finish(ctx, Duration::ZERO);
        Ok(at)
    }

    pub(crate) fn append_own(
        &mut self,
        ctx: &Context<'_>,
        payload: Payload,
        out: &mut Effects,
    ) -> LogPosition {
        let at = LogPosition { term: self.hard.term, index: self.log.last().index.next() };
        let entry = Entry { at, payload };
        if let Role::Leader(leader) = &mut self.role {
            leader.uncommitted_bytes += entry.size_bytes();
        }
        self.append_entry(entry, out);
        self.broadcast(ctx, out);
        at
    }

    /// The votes are there.
    pub(crate) fn become_leader(&mut self, ctx: &Context<'_>, out: &mut Effects) {
        assert!(matches!(self.role, Role::Candidate(_)), "invariant: leaders are elected");
        assert_eq!(self.hard, self.durable_hard, "invariant: the own vote is durable");
        self.lead(ctx, out);
    }

    /// Opens the term with an entry of its own.
    pub(crate) fn lead(&mut self, ctx: &Context<'_>, out: &mut Effects) {
        self.refuse_asked(out);
        let last = self.log.last().index;
        let mut uncommitted_bytes = 0;
        let mut index = self.commit.next();
        while let Some(entry) = self.log.get(index) {
            uncommitted_bytes += entry.size_bytes();
            index = index.next();
        }
        let grace_until = ctx.now + self.limits.support_duration;
        self.role = Role::Leader(Box::new(Leader {
            term_start: last.next(),
            progress: Vec::new(),
            touched: Vec::new(),
            notice_at: Mono::NEVER,
            grace_until,
            quorum_check_at: Mono::NEVER,
            transfer: None,
            leaving: None,
            reads: Barriers::default(),
            uncommitted_bytes,
        }));
        self.leader = Some(self.node);
        out.status_changed = true;
        self.track_members();
        self.append_own(ctx, Payload::Noop, out);
        self.check_quorum(ctx, out);
    }

    /// Leads no longer: releases whom it may have bound, and refuses the reads that wait for it.
    pub(crate) fn retire(&mut self, ctx: &Context<'_>, leader: Leader, out: &mut Effects) {
        leader.reads.refuse(self.hard.term, out);
        self.release_all(ctx, self.hard.term, leader.touched, out);
    }

    /// Whether this replica holds the lease: it may answer reads from its own state.
    #[must_use]
    pub fn lease_valid(&self, ctx: &Context<'_>) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let incarnation = ctx.support.incarnation();
        (self.commit >= leader.term_start || !Guard::LeaseAfterOwnTerm.is_on())
            && (leader.transfer.is_none() || !Guard::TransferEndsLease.is_on())
            && self.configuration().quorum(|node| {
                node == self.node
                    || ctx.support.received(node).is_some_and(|received| {
                        let bound = leader.get(node).and_then(|p| p.bound);
                        let is_bound = bound == Some((received.epoch, incarnation));
                        received.until > ctx.now
                            && (is_bound || !Guard::LeaseCountsTheBound.is_on())
                    })
            })
    }

    /// A leader without a quorum of support steps down, once it had the time to gather one.
    fn check_quorum(&mut self, ctx: &Context<'_>, out: &mut Effects) {
        let supported = self.configuration().quorum(|node| {
            node == self.node || ctx.support.received(node).is_some_and(|r| r.until > ctx.now)
        });
        let Role::Leader(leader) = &mut self.role else { return };
        leader.quorum_check_at = Mono::NEVER;
        if supported || !Guard::QuorumOrStepDown.is_on() {
            return;
        }
        if ctx.now < leader.grace_until {
            leader.quorum_check_at = leader.grace_until;
        } else {
            self.become_follower(ctx, self.hard.term, None, out);
        }
    }

    /// Asks whoever supports this core under an epoch that it has not bound itself under.
    pub(crate) fn leader_support_changed(&mut self, ctx: &Context<'_>, out: &mut Effects) {
        self.check_quorum(ctx, out);
        self.with_sender(ctx, |sender, leader| {
            let incarnation = ctx.support.incarnation();
            for p in &mut leader.progress {
                let received = ctx.support.received(p.node);
                if received.is_some_and(|r| p.bound != Some((r.epoch, incarnation))) {
                    sender.ping(p, out);
                }
            }
        });
    }

    pub(crate) fn leader_reachable(
        &mut self,
        ctx: &Context<'_>,
        node: NodeId,
        up: bool,
        out: &mut Effects,
    ) {
        self.with_sender(ctx, |sender, leader| {
            let Some(p) = leader.find(node) else { return };
            p.reachable = up;
            p.ping = None;
            if up {
                p.active_at = ctx.now;
                sender.restart(p, out);
            } else {
                p.pause();
            }
        });
        self.transfer_target_lost(node, up, out);
    }

    pub(crate) fn leader_timer(&mut self, ctx: &Context<'_>, out: &mut Effects) {
        let interval = self.limits.retry_interval;
        if matches!(&self.role, Role::Leader(l) if l.notice_at <= ctx.now) {
            self.log.rest();
        }
        self.with_sender(ctx, |sender, leader| {
            for p in &mut leader.progress {
                if p.retry_at(interval) <= ctx.now {
                    p.active_at = ctx.now;
                    sender.retry(p, out);
                }
            }
            if leader.notice_at <= ctx.now {
                for p in &mut leader.progress {
                    sender.notice(p, out);
                    p.rest();
                }
            }
        });
        self.transfer_timer(ctx, out);
        if matches!(&self.role, Role::Leader(l) if l.quorum_check_at <= ctx.now) {
            self.check_quorum(ctx, out);
        }
        self.plan_notice(ctx);
    }

    // WRITE 7/9: a quorum has it on disk: it is committed.
    /// Commits what a quorum has on disk, if it ends with an entry of this term (Raft §5.4.2).
    pub(crate) fn advance_commit(&mut self, ctx: &Context<'_>, out: &mut Effects) {
        let Role::Leader(leader) = &self.role else { return };
        let is_counted = Guard::OwnWriteIsOnDisk.is_on();
        let own = if is_counted { self.log.durable() } else { self.log.last().index };
        let index = self.configuration().quorum_index(|node| {
            if node == self.node { own } else { leader.get(node).map_or(Index(0), |p| p.matched) }
        });
        let is_own = self.log.term(index) == Some(self.hard.term) || !Guard::CommitsOwnTerm.is_on();
        if index > self.commit && is_own {
            self.commit_to(index, out);
            self.settle_membership(ctx, out);
            self.start_barrier(ctx, out);
        }
        self.plan_notice(ctx);
    }

    /// Arms or disarms the timer by which a quiet group learns of its last commit.
    fn plan_notice(&mut self, ctx: &Context<'_>) {
        let (commit, log) = (self.commit, &self.log);
        if let Role::Leader(leader) = &mut self.role {
            // One whose place was compacted away can not be told so; what it is sent next tells it.
            let can_be_told =
                |p: &Progress| p.needs_notice(commit) && log.term(p.matched).is_some();
            if !leader.progress.iter().any(can_be_told) {
                leader.notice_at = Mono::NEVER;
            } else if leader.notice_at == Mono::NEVER {
                leader.notice_at = ctx.now + NOTICE_DELAY;
            }
        }
    }

    pub(crate) fn broadcast(&mut self, ctx: &Context<'_>, out: &mut Effects) {
        self.with_sender(ctx, |sender, leader| {
            for p in &mut leader.progress {
                sender.fill(p, out);
            }
        });
    }

    /// Runs `f` with what sending needs, if this replica leads.
    pub(crate) fn with_sender(
        &mut self,
        ctx: &Context<'_>,
        f: impl FnOnce(&Sender<'_>, &mut Leader),
    ) {
        let Role::Leader(leader) = &mut self.role else { return };
        let sender = Sender {
            log: &self.log,
            limits: &self.limits,
            checkpoint: self.checkpoint,
            term: self.hard.term,
            core: self.core,
            commit: self.commit,
            read_sequence: leader.reads.sequence(),
            now: ctx.now,
        };
        f(&sender, leader);
    }
}
