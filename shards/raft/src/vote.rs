//! Answering requests for votes: who may have this replica's vote. One per group.
//!
//! A bound replica gives no vote to anybody but the leader that it is bound to, whatever the term,
//! and takes no term from such a request, so that a straggler cannot unseat a working leader.

use oarlock_types::{Guard, NodeId, Term};

use crate::group::Group;
use crate::{Body, Context, Effects, Message, VoteReply, VoteRequest};

impl Group {
    pub(crate) fn on_pre_vote(
        &mut self,
        ctx: &Context<'_>,
        from: NodeId,
        term: Term,
        request: VoteRequest,
        out: &mut Effects,
    ) {
        self.free_for(from, term, request.release, out);
        let granted = ctx.may_vote
            && self.remembers()
            && term > self.hard.term
            && self.is_behind(&request)
            && !self.is_leader()
            && !self.refuses_bound(ctx)
            && !(self.leader_supported(ctx) && Guard::BoundVotesNot.is_on());
        if granted {
            let body = Body::PreVoteReply(VoteReply { granted });
            out.send_now.push((from, Message { term, body }));
        } else {
            let body = Body::PreVoteReply(VoteReply { granted });
            self.send_claim(from, body, self.log.durable(), out);
            self.find_straggler(ctx, from, out);
        }
    }

    pub(crate) fn on_vote(
        &mut self,
        ctx: &Context<'_>,
        from: NodeId,
        term: Term,
        request: VoteRequest,
        out: &mut Effects,
    ) {
        self.free_for(from, term, request.release, out);
        let deaf = !ctx.may_vote || !self.remembers() || self.refuses_bound(ctx);
        if term > self.hard.term && !deaf {
            self.become_follower(ctx, term, None, out);
        }
        let free = match self.hard.vote {
            Some(vote) => vote == from || !Guard::OneVoteATerm.is_on(),
            None => self.leader.is_none(),
        };
        let granted = !deaf && term == self.hard.term && free && self.is_behind(&request);
        if granted && self.hard.vote.is_none() {
            self.become_follower(ctx, term, None, out);
            self.set_hard(term, Some(from), out);
            self.binding = None;
            self.rest_election_timer();
        }
        self.send_claim(from, Body::VoteReply(VoteReply { granted }), self.log.durable(), out);
        if !granted {
            self.find_straggler(ctx, from, out);
        }
    }

    /// Whether the candidate's log holds at least what this one does (Raft §5.4.1).
    fn is_behind(&self, request: &VoteRequest) -> bool {
        request.last >= self.reached() || !Guard::NewestLogWins.is_on()
    }

    fn refuses_bound(&self, ctx: &Context<'_>) -> bool {
        self.is_bound(ctx) && Guard::BoundVotesNot.is_on()
    }
}
