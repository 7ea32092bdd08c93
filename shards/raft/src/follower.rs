//! A follower's own state and its watch over the leader. One per group while it follows.
//!
//! It never stands for election while it is bound: that promise is what leases rest on.

use std::time::Duration;

use oarlock_types::{Guard, Mono, NodeId, Term};

use crate::group::{Group, Role};
use crate::{Context, Effects};

/// A replica that takes a leader's log, or waits for one.
#[derive(Debug)]
pub struct Follower {
    /// When to stand for election; never while bound to the leader, and for learners.
    pub(crate) election_at: Mono,
}

impl Group {
    /// Follows `leader` in `term`, from whatever role.
    pub(crate) fn become_follower(
        &mut self,
        ctx: &Context<'_>,
        term: Term,
        leader: Option<NodeId>,
        out: &mut Effects,
    ) {
        let election_at = match &self.role {
            Role::Follower(follower) => follower.election_at,
            Role::PreCandidate(_) | Role::Candidate(_) | Role::Leader(_) => Mono::NEVER,
        };
        let changed = term > self.hard.term || leader != self.leader || !self.follows();
        let former = std::mem::replace(&mut self.role, Role::Follower(Follower { election_at }));
        if let Role::Leader(leader) = former {
            self.retire(ctx, *leader, out);
        }
        if term > self.hard.term {
            self.set_hard(term, None, out);
        }
        if changed {
            self.leader = leader;
            self.refuse_asked(out);
            out.status_changed = true;
        }
    }

    pub(crate) fn follows(&self) -> bool {
        matches!(self.role, Role::Follower(_))
    }

    /// Takes a higher term from a message that is no request for a vote. Whether the message is
    /// still of interest, that is, of the present term.
    pub(crate) fn meet_term(&mut self, ctx: &Context<'_>, term: Term, out: &mut Effects) -> bool {
        if term > self.hard.term {
            self.become_follower(ctx, term, None, out);
        }
        term == self.hard.term
    }

    /// Starts the election delay anew, for a sign of life from a leader or a vote given.
    pub(crate) fn rest_election_timer(&mut self) {
        if let Role::Follower(follower) = &mut self.role {
            follower.election_at = Mono::NEVER;
        }
    }

    /// Arms the election timer of a voter that is not bound to its leader, disarms any other.
    pub(crate) fn watch_leader(&mut self, ctx: &Context<'_>, spread: Duration) {
        let guarded = self.is_bound_to_leader(ctx);
        let is_electable = self.is_electable();
        let Role::Follower(follower) = &mut self.role else { return };
        if guarded || !is_electable {
            follower.election_at = Mono::NEVER;
        } else if follower.election_at == Mono::NEVER {
            let delay = self
                .random
                .between(self.limits.election_delay_min, self.limits.election_delay_max + spread);
            follower.election_at = ctx.now + delay;
        }
    }

    /// Somebody waits for a leader: however far elections are spread, this one comes after the usual delay.
    pub fn hurry_election(&mut self, ctx: &Context<'_>) {
        let (least, most) = (self.limits.election_delay_min, self.limits.election_delay_max);
        if let Role::Follower(follower) = &mut self.role
            && follower.election_at < Mono::NEVER
            && follower.election_at > ctx.now + most
        {
            follower.election_at = ctx.now + self.random.between(least, most);
        }
    }

    /// The delay is over: stands for election unless a promise forbids it.
    pub(crate) fn election_timer(&mut self, ctx: &Context<'_>, out: &mut Effects) {
        self.rest_election_timer();
        if self.may_campaign(ctx) {
            if Guard::PreVote.is_on() {
                self.pre_campaign(ctx, out);
            } else {
                self.campaign(ctx, None, out);
            }
        }
    }
}
