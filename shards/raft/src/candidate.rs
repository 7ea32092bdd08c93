//! Standing for election: the pre-vote, the vote, and the count of both. One per group and
//! attempt.
//!
//! A candidate's own vote counts only when it is durable, like anybody's.

use oarlock_types::{Guard, Mono, NodeId, Term};

use crate::group::{Group, Role};
use crate::{Body, Context, Effects, Message, Release, VoteReply, VoteRequest};

/// A replica that asks for votes, or whether it would get them.
#[derive(Debug)]
pub struct Candidate {
    /// Who said yes.
    granted: Vec<NodeId>,
    /// Who said no.
    refused: Vec<NodeId>,
    /// When this attempt is given up.
    pub(crate) ends_at: Mono,
}

impl Group {
    /// Whether this replica may stand for election: electable, on a node that remembers its promises,
    /// not bound, and not a rebuilt one that is still behind.
    pub(crate) fn may_campaign(&self, ctx: &Context<'_>) -> bool {
        ctx.may_vote && self.remembers() && self.is_electable() && !self.is_bound(ctx)
    }

    fn attempt(&mut self, ctx: &Context<'_>) -> Candidate {
        let most = self.limits.election_delay_max;
        let length = most + self.random.between(self.limits.election_delay_min, most);
        Candidate { granted: Vec::new(), refused: Vec::new(), ends_at: ctx.now + length }
    }

    /// Asks whether an election could be won; no term changes.
    pub(crate) fn pre_campaign(&mut self, ctx: &Context<'_>, out: &mut Effects) {
        assert!(self.may_campaign(ctx), "invariant: only a free voter stands");
        self.refuse_asked(out);
        self.leader = None;
        out.status_changed = true;
        let mut attempt = self.attempt(ctx);
        attempt.granted.push(self.node);
        self.role = Role::PreCandidate(attempt);
        let request = VoteRequest { last: self.log.last(), release: None };
        let message = Message { term: self.hard.term.next(), body: Body::PreVote(request) };
        for node in self.other_voters() {
            out.send_now.push((node, message.clone()));
        }
        self.count_votes(ctx, out);
    }

    /// Stands for election in the next term. `release` frees those whom a transferring leader
    /// bound.
    pub(crate) fn campaign(
        &mut self,
        ctx: &Context<'_>,
        release: Option<Release>,
        out: &mut Effects,
    ) {
        assert!(self.may_campaign(ctx), "invariant: only a free voter stands");
        self.refuse_asked(out);
        self.binding = None;
        self.leader = None;
        out.status_changed = true;
        self.set_hard(self.hard.term.next(), Some(self.node), out);
        self.role = Role::Candidate(self.attempt(ctx));
        let request = VoteRequest { last: self.log.last(), release };
        let message = Message { term: self.hard.term, body: Body::Vote(request) };
        for node in self.other_voters() {
            if Guard::OwnVoteIsOnDisk.is_on() {
                out.send_after_durable.push((node, message.clone()));
            } else {
                out.send_now.push((node, message.clone()));
            }
        }
    }

    fn other_voters(&self) -> impl Iterator<Item = NodeId> + use<> {
        let configuration = self.configuration().clone();
        let node = self.node;
        configuration.members().filter(move |n| *n != node && configuration.is_voter(*n))
    }

    pub(crate) fn count_own_vote(&mut self, ctx: &Context<'_>, out: &mut Effects) {
        if self.hard == self.durable_hard {
            self.note_vote(self.node, true);
            self.count_votes(ctx, out);
        }
    }

    fn note_vote(&mut self, from: NodeId, granted: bool) {
        if let Role::PreCandidate(candidate) | Role::Candidate(candidate) = &mut self.role {
            let list = if granted { &mut candidate.granted } else { &mut candidate.refused };
            if !list.contains(&from) {
                list.push(from);
            }
        }
    }

    pub(crate) fn on_pre_vote_reply(
        &mut self,
        ctx: &Context<'_>,
        from: NodeId,
        term: Term,
        reply: VoteReply,
        out: &mut Effects,
    ) {
        // A grant names the term that was asked for, which nobody is in yet.
        if reply.granted {
            if term == self.hard.term.next() && matches!(self.role, Role::PreCandidate(_)) {
                self.note_vote(from, true);
                self.count_votes(ctx, out);
            }
        } else if self.meet_term(ctx, term, out) && matches!(self.role, Role::PreCandidate(_)) {
            self.note_vote(from, false);
            self.count_votes(ctx, out);
        }
    }

    pub(crate) fn on_vote_reply(
        &mut self,
        ctx: &Context<'_>,
        from: NodeId,
        term: Term,
        reply: VoteReply,
        out: &mut Effects,
    ) {
        if self.meet_term(ctx, term, out) && matches!(self.role, Role::Candidate(_)) {
            self.note_vote(from, reply.granted);
            self.count_votes(ctx, out);
        }
    }

    fn count_votes(&mut self, ctx: &Context<'_>, out: &mut Effects) {
        let configuration = self.configuration();
        let (Role::PreCandidate(candidate) | Role::Candidate(candidate)) = &self.role else {
            return;
        };
        let won = configuration.quorum(|n| candidate.granted.contains(&n));
        // Lost once those who have not refused can no longer make a quorum.
        let lost = !configuration.quorum(|n| !candidate.refused.contains(&n));
        let asking = matches!(self.role, Role::PreCandidate(_));
        if won && asking {
            if self.may_campaign(ctx) {
                self.campaign(ctx, None, out);
            } else {
                self.become_follower(ctx, self.hard.term, None, out);
            }
        } else if won {
            self.become_leader(ctx, out);
        } else if lost {
            self.become_follower(ctx, self.hard.term, None, out);
        }
    }
}
