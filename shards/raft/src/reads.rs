//! Linearizable reads: by lease where it holds, else by a barrier that a quorum answers
//! (thesis §6.4), and from followers through the leader. One per group.
//!
//! A barrier starts only after the leader has committed in its own term, and no read joins one that
//! started before it came. An attempt's sequence is never used again.

use oarlock_types::{Guard, Index, Mono, NodeId, Term};

use crate::group::{Group, Role};
use crate::{Body, Context, Effects, Message, ReadOutcome};

/// How often a follower asks its leader anew before it refuses a read.
const ATTEMPTS_MAX: u8 = 4;

/// Who waits for a barrier.
#[derive(Clone, Copy, Debug)]
enum Reader {
    Local(u64),
    Remote(NodeId, u64),
}

/// A leader's read barriers: one on its way, and those who wait for the next.
#[derive(Debug, Default)]
pub(crate) struct Barriers {
    sequence: u64,
    index: Index,
    active: Vec<Reader>,
    waiting: Vec<Reader>,
}

impl Barriers {
    /// The newest barrier's number; zero before the first.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(crate) fn refuse(&self, term: Term, out: &mut Effects) {
        for reader in self.active.iter().chain(&self.waiting) {
            answer(*reader, None, term, out);
        }
    }
}

fn answer(reader: Reader, index: Option<Index>, term: Term, out: &mut Effects) {
    match reader {
        Reader::Local(token) => out.reads.push(match index {
            Some(index) => ReadOutcome::Ready { token, index },
            None => ReadOutcome::Refused { token },
        }),
        Reader::Remote(node, sequence) => {
            let body = Body::ReadIndexReply { sequence, index };
            out.send_now.push((node, Message { term, body }));
        }
    }
}

/// A follower's reads that its leader was asked about.
#[derive(Debug)]
pub(crate) struct Asked {
    sequence: u64,
    attempts: u8,
    active: Vec<u64>,
    waiting: Vec<u64>,
    pub(crate) retry_at: Mono,
}

impl Group {
    /// A linearizable read wants to know up to where to apply first. The answer comes as a
    /// [`ReadOutcome`] with its token, in this step if the lease holds.
    pub fn read(&mut self, ctx: &Context<'_>, token: u64, out: &mut Effects) {
        match &self.role {
            Role::Leader(_) => self.leader_read(ctx, Reader::Local(token), out),
            Role::Follower(_) if self.leader.is_some_and(|l| !self.down.contains(&l)) => {
                self.follower_read(ctx, token, out);
            }
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => {
                out.reads.push(ReadOutcome::Refused { token });
            }
        }
        self.finish(ctx, std::time::Duration::ZERO);
    }

    fn leader_read(&mut self, ctx: &Context<'_>, reader: Reader, out: &mut Effects) {
        if self.lease_valid(ctx) {
            answer(reader, Some(self.commit), self.hard.term, out);
            return;
        }
        if let Role::Leader(leader) = &mut self.role {
            leader.reads.waiting.push(reader);
        }
        self.start_barrier(ctx, out);
    }

    /// Starts a barrier for those who wait, unless one is on its way or nothing of this term is
    /// committed yet.
    pub(crate) fn start_barrier(&mut self, ctx: &Context<'_>, out: &mut Effects) {
        let Role::Leader(leader) = &mut self.role else { return };
        let reads = &mut leader.reads;
        let is_early = self.commit < leader.term_start && Guard::BarrierAfterOwnTerm.is_on();
        if is_early || !reads.active.is_empty() || reads.waiting.is_empty() {
            return;
        }
        reads.sequence += 1;
        reads.index = self.commit;
        std::mem::swap(&mut reads.active, &mut reads.waiting);
        let configuration = self.configuration().clone();
        self.with_sender(ctx, |sender, leader| {
            for p in leader.progress.iter_mut().filter(|p| configuration.is_voter(p.node)) {
                sender.ping(p, out);
            }
        });
        self.finish_barrier(ctx, out);
    }

    /// Answers the barrier on its way if a quorum has, and starts the next.
    pub(crate) fn finish_barrier(&mut self, ctx: &Context<'_>, out: &mut Effects) {
        let Role::Leader(leader) = &self.role else { return };
        let sequence = leader.reads.sequence;
        let done = self.configuration().quorum(|node| {
            node == self.node || leader.get(node).is_some_and(|p| p.read_acked >= sequence)
        });
        if leader.reads.active.is_empty() || (!done && Guard::BarrierNeedsQuorum.is_on()) {
            return;
        }
        let term = self.hard.term;
        if let Role::Leader(leader) = &mut self.role {
            let index = leader.reads.index;
            for reader in leader.reads.active.drain(..) {
                answer(reader, Some(index), term, out);
            }
        }
        self.start_barrier(ctx, out);
    }

    pub(crate) fn on_read_index(
        &mut self,
        ctx: &Context<'_>,
        from: NodeId,
        sequence: u64,
        out: &mut Effects,
    ) {
        let reader = Reader::Remote(from, sequence);
        if self.is_leader() {
            self.leader_read(ctx, reader, out);
        } else {
            answer(reader, None, self.hard.term, out);
        }
    }

    fn follower_read(&mut self, ctx: &Context<'_>, token: u64, out: &mut Effects) {
        if let Some(asked) = &mut self.asked {
            asked.waiting.push(token);
            return;
        }
        self.asked = Some(Box::new(Asked {
            sequence: 0,
            attempts: 0,
            active: vec![token],
            waiting: Vec::new(),
            retry_at: Mono::NEVER,
        }));
        self.ask(ctx, out);
    }

    fn ask(&mut self, ctx: &Context<'_>, out: &mut Effects) {
        let (Some(asked), Some(leader)) = (&mut self.asked, self.leader) else { return };
        self.read_attempts += 1;
        asked.sequence = self.read_attempts;
        asked.attempts += 1;
        asked.retry_at = ctx.now + self.limits.retry_interval;
        let body = Body::ReadIndex { sequence: asked.sequence };
        out.send_now.push((leader, Message { term: self.hard.term, body }));
    }

    pub(crate) fn on_read_index_reply(
        &mut self,
        ctx: &Context<'_>,
        sequence: u64,
        index: Option<Index>,
        out: &mut Effects,
    ) {
        let Some(asked) = self.asked.as_mut().filter(|a| a.sequence == sequence) else { return };
        for token in asked.active.drain(..) {
            out.reads.push(match index {
                Some(index) => ReadOutcome::Ready { token, index },
                None => ReadOutcome::Refused { token },
            });
        }
        std::mem::swap(&mut asked.active, &mut asked.waiting);
        asked.attempts = 0;
        if asked.active.is_empty() {
            self.asked = None;
        } else {
            self.ask(ctx, out);
        }
    }

    pub(crate) fn asked_timer(&mut self, ctx: &Context<'_>, out: &mut Effects) {
        let Some(asked) = self.asked.as_ref().filter(|a| a.retry_at <= ctx.now) else { return };
        if asked.attempts >= ATTEMPTS_MAX {
            self.refuse_asked(out);
        } else {
            self.ask(ctx, out);
        }
    }

    /// The leader that was asked is none any more.
    pub(crate) fn refuse_asked(&mut self, out: &mut Effects) {
        if let Some(asked) = self.asked.take() {
            for token in asked.active.into_iter().chain(asked.waiting) {
                out.reads.push(ReadOutcome::Refused { token });
            }
        }
    }
}
