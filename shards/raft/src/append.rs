//! AppendEntries from both ends: what a leader sends and how it takes the answers, and how a
//! follower takes what is sent. One per group.
//!
//! A follower claims only what is durable and what the append itself proved; a leader believes
//! nothing else. A log is cut only at a proven conflict.

use oarlock_types::{CoreId, Guard, Index, Limits, Mono, NodeId, Term};

use crate::group::Group;
use crate::log::Log;
use crate::progress::{Progress, ProgressState};
use crate::{
    Append, AppendOutcome, AppendReply, Body, Context, Effects, Entry, LogPosition, LogRead,
    Message,
};

/// What a leader sends from.
pub(crate) struct Sender<'a> {
    pub(crate) log: &'a Log,
    pub(crate) limits: &'a Limits,
    pub(crate) checkpoint: LogPosition,
    pub(crate) term: Term,
    pub(crate) core: CoreId,
    pub(crate) commit: Index,
    pub(crate) read_sequence: u64,
    pub(crate) now: Mono,
}

impl Sender<'_> {
    /// Sends whatever the follower's state and window allow.
    pub(crate) fn fill(&self, p: &mut Progress, out: &mut Effects) {
        if !p.reachable {
            return;
        }
        match &p.state {
            ProgressState::Probe { sent: true } | ProgressState::Snapshot(_) => {}
            ProgressState::Probe { sent: false } => self.probe(p, out),
            ProgressState::Replicate => self.replicate(p, out),
        }
    }

    /// The position before `next`, if the log still reaches back to there.
    fn prev(&self, next: Index) -> Option<LogPosition> {
        self.log.position(next.prev())
    }

    fn probe(&self, p: &mut Progress, out: &mut Effects) {
        let Some(prev) = self.prev(p.next) else {
            self.start_snapshot(p, out);
            return;
        };
        p.asked(self.now);
        p.state = ProgressState::Probe { sent: true };
        let entries = self.log.batch(p.next, self.limits.append_bytes_max);
        self.send(p, prev, entries, true, out);
    }

    fn replicate(&self, p: &mut Progress, out: &mut Effects) {
        while p.next <= self.log.last().index && p.window_open(self.limits) && !p.log_read {
            let Some(prev) = self.prev(p.next) else {
                p.probe_from(p.next);
                self.start_snapshot(p, out);
                return;
            };
            if p.next < self.log.cached_first() {
                p.log_read = true;
                let to = self.log.cached_first().prev();
                out.log_reads.push(LogRead { to_node: p.node, from: p.next, to });
                return;
            }
            let entries = self.log.batch(p.next, self.limits.append_bytes_max);
            self.send_entries(p, prev, entries, out);
        }
    }

    fn send_entries(
        &self,
        p: &mut Progress,
        prev: LogPosition,
        entries: Vec<Entry>,
        out: &mut Effects,
    ) {
        p.asked(self.now);
        let last = entries.last().expect("invariant: a batch is not empty").at.index;
        p.sent(last, entries.iter().map(Entry::size_bytes).sum());
        self.send(p, prev, entries, true, out);
    }

    /// Entries that were read from the WAL go the way of cached ones.
    fn send_read(&self, p: &mut Progress, entries: Vec<Entry>, out: &mut Effects) {
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() && p.window_open(self.limits) {
            let Some(prev) = self.prev(p.next) else { break };
            let mut batch: Vec<Entry> = Vec::new();
            let mut bytes = 0;
            while let Some(entry) = entries.next_if(|e| {
                batch.is_empty() || bytes + e.size_bytes() <= self.limits.append_bytes_max
            }) {
                bytes += entry.size_bytes();
                batch.push(entry);
            }
            self.send_entries(p, prev, batch, out);
        }
    }

    fn send(
        &self,
        p: &mut Progress,
        prev: LogPosition,
        entries: Vec<Entry>,
        wants_reply: bool,
        out: &mut Effects,
    ) {
        let proven = entries.last().map_or(prev.index, |e| e.at.index);
        p.commit_sent = p.commit_sent.max(self.commit.min(proven));
        let body = Body::Append(Append {
            core: self.core,
            prev,
            entries,
            commit: self.commit,
            read_sequence: self.read_sequence,
            wants_reply,
        });
        out.send_now.push((p.node, Message { term: self.term, body }));
    }

    /// An empty append at what is known to match, or at the log's beginning: it cannot be refused
    /// for the log's sake and claims nothing that waits for a disk. It asks the follower to bind
    /// itself and to answer the newest read barrier.
    pub(crate) fn ping(&self, p: &mut Progress, out: &mut Effects) {
        if p.reachable {
            p.asked(self.now);
            p.ping = Some(self.read_sequence);
            let prev = self.log.position(p.matched).unwrap_or_default();
            self.send(p, prev, Vec::new(), true, out);
        }
    }

    /// Tells the follower of the newest commit, without an answer.
    pub(crate) fn notice(&self, p: &mut Progress, out: &mut Effects) {
        if p.needs_notice(self.commit)
            && let Some(prev) = self.log.position(p.matched)
        {
            self.send(p, prev, Vec::new(), false, out);
        }
    }

    /// Starts over with one message.
    pub(crate) fn restart(&self, p: &mut Progress, out: &mut Effects) {
        match p.state {
            ProgressState::Snapshot(_) => self.start_snapshot(p, out),
            ProgressState::Probe { .. } | ProgressState::Replicate => {
                p.probe_from(p.matched.next().max(p.next.min(self.log.last().index.next())));
                self.fill(p, out);
            }
        }
    }

    /// An answer is overdue.
    pub(crate) fn retry(&self, p: &mut Progress, out: &mut Effects) {
        // A probe asks for all that a ping does.
        let probing = matches!(p.state, ProgressState::Probe { .. });
        if p.ping.is_some() && !probing {
            self.ping(p, out);
        }
        match p.state {
            ProgressState::Replicate if p.has_inflight() => {
                p.probe_from(p.matched.next());
                self.fill(p, out);
            }
            ProgressState::Replicate => {}
            ProgressState::Probe { .. } => {
                p.state = ProgressState::Probe { sent: false };
                self.fill(p, out);
            }
            ProgressState::Snapshot(_) => self.retry_snapshot(p, out),
        }
    }

    fn take_outcome(&self, p: &mut Progress, outcome: AppendOutcome) {
        match outcome {
            AppendOutcome::Matched(index) => {
                if index > self.log.last().index {
                    // Only a replica that is not what it says could claim this.
                    return;
                }
                p.matched = p.matched.max(index);
                match &p.state {
                    ProgressState::Probe { .. } if index.next() >= p.next => p.replicate(),
                    ProgressState::Probe { .. } => p.next = p.next.max(p.matched.next()),
                    ProgressState::Replicate => {
                        p.free_upto(index);
                        p.next = p.next.max(index.next());
                    }
                    ProgressState::Snapshot(_) => {
                        if self.prev(p.matched.next()).is_some() {
                            p.probe_from(p.matched.next());
                        } else {
                            p.next = p.matched.next();
                        }
                    }
                }
            }
            AppendOutcome::Rejected { prev, hint } => {
                // A refusal of another message than the one that is waited for is an old one. A probe
                // of what had matched is refused by whom a torn tail took what it acknowledged: it
                // gets that again.
                let current = match &p.state {
                    ProgressState::Probe { .. } => prev == p.next.prev(),
                    ProgressState::Replicate => prev > p.matched && prev < p.next,
                    ProgressState::Snapshot(_) => false,
                };
                if current {
                    let index = hint.index.min(prev.prev());
                    p.matched = p.matched.min(index);
                    let bound = self.log.may_match(LogPosition { index, ..hint });
                    p.probe_from(bound.index.next());
                }
            }
        }
    }
}

impl Group {
    pub(crate) fn on_append_reply(
        &mut self,
        ctx: &Context<'_>,
        from: NodeId,
        term: Term,
        reply: AppendReply,
        out: &mut Effects,
    ) {
        if !self.meet_term(ctx, term, out) {
            return;
        }
        let split_at = self.split_at;
        self.with_sender(ctx, |sender, leader| {
            let Some(p) = leader.find(from) else { return };
            p.bound = reply.bound;
            p.read_acked = p.read_acked.max(reply.read_sequence);
            if p.ping.is_some_and(|sequence| sequence <= reply.read_sequence) {
                p.ping = None;
            }
            sender.take_outcome(p, reply.outcome);
            p.active_at = ctx.now;
            sender.fill(p, out);
            // The group that a split makes waits for whoever has not heard that it has committed.
            if (p.commit_sent.next()..=sender.commit).contains(&split_at) {
                sender.notice(p, out);
            }
        });
        self.advance_commit(ctx, out);
        self.finish_barrier(ctx, out);
        self.push_transfer(out);
        self.evict();
    }

    /// A straggler that asks for votes hears from the leader instead.
    pub(crate) fn find_straggler(&mut self, ctx: &Context<'_>, node: NodeId, out: &mut Effects) {
        self.with_sender(ctx, |sender, leader| {
            if let Some(p) = leader.find(node) {
                sender.ping(p, out);
            }
        });
    }

    /// Entries that were wanted for `to_node`; a beginning of what was wanted is enough.
    pub fn log_read(
        &mut self,
        ctx: &Context<'_>,
        to_node: NodeId,
        entries: Vec<Entry>,
        out: &mut Effects,
    ) {
        self.with_sender(ctx, |sender, leader| {
            let Some(p) = leader.find(to_node).filter(|p| p.log_read) else { return };
            p.log_read = false;
            let wanted = entries.first().is_some_and(|e| e.at.index == p.next);
            let ours = entries.iter().all(|e| sender.log.term(e.at.index) == Some(e.at.term));
            if wanted && ours && p.state == ProgressState::Replicate {
                sender.send_read(p, entries, out);
            }
            sender.fill(p, out);
        });
        self.finish(ctx, std::time::Duration::ZERO);
    }

    /// Entries that were wanted for `to_node` can not be had now; they are asked for again once the
    /// follower has given a sign of life.
    pub fn log_read_failed(&mut self, ctx: &Context<'_>, to_node: NodeId, out: &mut Effects) {
        self.with_sender(ctx, |sender, leader| {
            if let Some(p) = leader.find(to_node).filter(|p| p.log_read) {
                p.log_read = false;
                sender.ping(p, out);
            }
        });
        self.finish(ctx, std::time::Duration::ZERO);
    }

    // WRITE 6/9: a follower appends what fits its log, and acknowledges after its disk.
    pub(crate) fn on_append(
        &mut self,
        ctx: &Context<'_>,
        from: NodeId,
        term: Term,
        append: Append,
        out: &mut Effects,
    ) {
        let Append { core, prev, entries, commit, read_sequence, wants_reply } = append;
        if term < self.hard.term && Guard::OldTermIsRefused.is_on() {
            // A deposed leader learns of the newer term.
            let outcome = AppendOutcome::Rejected { prev: prev.index, hint: self.log.last() };
            let reply = AppendReply { outcome, bound: None, read_sequence: 0 };
            self.send_claim(from, Body::AppendReply(reply), Index(0), out);
            return;
        }
        if !self.follow(ctx, from, term, core, out) {
            return;
        }
        let is_busy = !entries.is_empty();
        let outcome = if self.matches(prev) {
            let proven = entries.last().map_or(prev.index, |e| e.at.index);
            self.take_entries(prev.index, entries, out);
            let bound =
                if Guard::OnlyTheProvenCommits.is_on() { proven } else { self.log.last().index };
            let commit = commit.min(bound);
            if commit > self.commit {
                self.commit_to(commit, out);
                self.evict();
            }
            AppendOutcome::Matched(proven)
        } else {
            AppendOutcome::Rejected { prev: prev.index, hint: self.hint(prev) }
        };
        if !is_busy {
            // A notice, or a question whether the leader is still followed: no entries may follow for long.
            self.log.rest();
        }
        if wants_reply {
            let claims = match outcome {
                AppendOutcome::Matched(index) => index,
                AppendOutcome::Rejected { .. } => Index(0),
            };
            let bound = self.bound_for_reply(ctx);
            let reply = AppendReply { outcome, bound, read_sequence };
            self.send_claim(from, Body::AppendReply(reply), claims, out);
        }
    }

    /// Takes `from` for the leader of `term`, which is not older than this replica's. False if that
    /// can not be.
    pub(crate) fn follow(
        &mut self,
        ctx: &Context<'_>,
        from: NodeId,
        term: Term,
        core: CoreId,
        out: &mut Effects,
    ) -> bool {
        if self.is_leader() && term == self.hard.term {
            debug_assert!(false, "invariant: one leader a term");
            return false;
        }
        self.become_follower(ctx, term, Some(from), out);
        self.bind(ctx, from, core);
        self.rest_election_timer();
        true
    }

    /// Whether the log agrees with the leader's up to `prev`. What is committed always does.
    fn matches(&self, prev: LogPosition) -> bool {
        let known = self.log.term(prev.index);
        prev.index <= self.commit
            || known == Some(prev.term)
            || (known.is_some() && !Guard::LogsMatchBefore.is_on())
    }

    /// The largest position that may match a leader's log that differs at `prev`.
    fn hint(&self, prev: LogPosition) -> LogPosition {
        let hint = self.log.may_match(LogPosition { index: prev.index.prev(), ..prev });
        let commit = self.log.position(self.commit);
        hint.max(commit.expect("invariant: the term of the commit is known"))
    }

    /// Appends what is new, after cutting the log where it is proven to differ.
    fn take_entries(&mut self, prev: Index, entries: Vec<Entry>, out: &mut Effects) {
        let mut expected = prev.next();
        for entry in entries {
            assert_eq!(entry.at.index, expected, "invariant: an append has no gap");
            expected = expected.next();
            let index = entry.at.index;
            let is_same = self.log.term(index) == Some(entry.at.term);
            if index <= self.commit || (is_same && Guard::CutAtConflictOnly.is_on()) {
                continue;
            }
            if index <= self.log.last().index {
                self.log.truncate(index, self.hard.term);
                self.configurations.retain(|(at, _)| *at < index);
                if self.split_at >= index {
                    self.split_at = Index(0); // the one before it was applied
                }
                out.append.retain(|e| e.at.index < index);
                out.status_changed = true;
            }
            self.append_entry(entry, out);
        }
    }
}
