//! Handing leadership over (thesis §3.10). One per leader at most.
//!
//! The lease ends first, and for good in this term once the successor was told to campaign: its
//! vote requests carry the release of whoever is bound. If nothing comes of it, the leader stands
//! for election itself: only a new term may have a lease again.

use std::fmt;
use std::time::Duration;

use oarlock_types::{Mono, NodeId, Term};

use crate::group::{Group, Role};
use crate::{Body, Context, Effects, Message, Release};

/// A transfer under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    to: NodeId,
    /// The successor was told to campaign.
    sent: bool,
    /// When the leader goes on without it.
    pub(crate) ends_at: Mono,
}

/// Why leadership is not handed over. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferError {
    /// Another replica leads, or none.
    NotLeader {
        /// Who, as far as known.
        leader: Option<NodeId>,
    },
    /// A transfer is under way already.
    Transferring,
    /// The one named is no other voter that can be reached, or there is none.
    NoSuccessor,
}

impl fmt::Display for TransferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader { leader: Some(leader) } => write!(f, "{leader} leads the group"),
            Self::NotLeader { leader: None } => write!(f, "the group has no known leader"),
            Self::Transferring => write!(f, "a transfer is under way already"),
            Self::NoSuccessor => write!(f, "no other voter can be reached to take over"),
        }
    }
}

impl Group {
    /// Hands leadership to `to`, or to the voter that is furthest ahead. Proposals are refused
    /// until it is done or given up after one support duration.
    ///
    /// # Errors
    /// When this replica does not lead, is handing over already, or has nobody to hand over to.
    pub fn transfer(
        &mut self,
        ctx: &Context<'_>,
        to: Option<NodeId>,
        out: &mut Effects,
    ) -> Result<NodeId, TransferError> {
        let successor = self.successor(to);
        let ends_at = ctx.now + self.limits.support_duration;
        let Role::Leader(leader) = &mut self.role else {
            return Err(TransferError::NotLeader { leader: self.leader });
        };
        if leader.transfer.is_some() {
            return Err(TransferError::Transferring);
        }
        let to = successor.ok_or(TransferError::NoSuccessor)?;
        leader.transfer = Some(Transfer { to, sent: false, ends_at });
        self.push_transfer(out);
        self.finish(ctx, Duration::ZERO);
        Ok(to)
    }

    /// Who could take over: a new voter that can be reached, `to` if one is named.
    pub(crate) fn successor(&self, to: Option<NodeId>) -> Option<NodeId> {
        let Role::Leader(leader) = &self.role else { return None };
        let voters = &self.configuration().voters;
        leader
            .progress
            .iter()
            .filter(|p| p.reachable && voters.contains(&p.node))
            .filter(|p| to.is_none_or(|to| to == p.node))
            .max_by_key(|p| (p.matched, std::cmp::Reverse(p.node)))
            .map(|p| p.node)
    }

    /// Tells the successor to campaign once it has the whole log.
    pub(crate) fn push_transfer(&mut self, out: &mut Effects) {
        let last = self.log.last().index;
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(Transfer { to, sent: false, .. }) = leader.transfer else { return };
        if leader.get(to).is_some_and(|p| p.matched == last) {
            if let Some(transfer) = &mut leader.transfer {
                transfer.sent = true;
            }
            self.send_timeout_now(to, out);
        }
    }

    pub(crate) fn send_timeout_now(&self, to: NodeId, out: &mut Effects) {
        let term = self.hard.term;
        let body = Body::TimeoutNow(Release { leader: self.node, term });
        out.send_now.push((to, Message { term, body }));
    }

    /// The successor has not taken over in time. If it was not told to campaign yet the leader just
    /// goes on; else some followers may be free already, and it asks all of them again.
    pub(crate) fn transfer_timer(&mut self, ctx: &Context<'_>, out: &mut Effects) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(transfer) = leader.transfer.filter(|t| t.ends_at <= ctx.now) else { return };
        leader.transfer = None;
        out.status_changed = true;
        if transfer.sent {
            let release = Release { leader: self.node, term: self.hard.term };
            self.become_follower(ctx, self.hard.term, None, out);
            if self.may_campaign(ctx) {
                self.campaign(ctx, Some(release), out);
            }
        }
    }

    pub(crate) fn transfer_target_lost(&mut self, node: NodeId, up: bool, out: &mut Effects) {
        let Role::Leader(leader) = &mut self.role else { return };
        if !up && leader.transfer.is_some_and(|t| t.to == node && !t.sent) {
            leader.transfer = None;
            out.status_changed = true;
        }
    }

    pub(crate) fn on_timeout_now(
        &mut self,
        ctx: &Context<'_>,
        from: NodeId,
        term: Term,
        release: Release,
        out: &mut Effects,
    ) {
        let follows = self.follows() && self.hard.term == term && release.term == term;
        if !follows || self.leader.is_some_and(|l| l != from) {
            return;
        }
        self.free(release, out);
        if self.may_campaign(ctx) {
            self.campaign(ctx, Some(release), out);
        }
    }
}
