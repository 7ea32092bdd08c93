//! Cutting a range in two, as far as it concerns the group: the entry that does it, the first term of
//! the group that it makes, and replicas of that group on nodes that never applied the entry.
//! `docs/decisions/0010-how-ranges-split-and-move.md` argues why it is safe.
//!
//! What the entry says and how a range is cut is the shard's.

use std::time::Duration;

use bytes::Bytes;
use oarlock_types::{Guard, Index, NodeId, Term};

use crate::group::{Group, Role};
use crate::{
    AppendOutcome, AppendReply, Body, ChangeError, Context, Effects, LogPosition, Message, Payload,
};

/// Where the log of a group begins that was made by a split: the state there is its share of what the
/// cut range held. A replica without that state holds nothing, and so matches nothing: it acknowledges no
/// entry before it has it.
pub const SPLIT_BASE: LogPosition = LogPosition { term: Term(1), index: Index(1) };

impl Group {
    /// Appends the entry that cuts the range. Its members must be settled: they become those of the new
    /// group, too.
    ///
    /// # Errors
    /// When this replica does not lead or may not start a change now.
    pub fn propose_split(
        &mut self,
        ctx: &Context<'_>,
        split: Bytes,
        out: &mut Effects,
    ) -> Result<LogPosition, ChangeError> {
        self.may_change()?;
        if !self.configuration().learners.is_empty() {
            return Err(ChangeError::ChangeOpen);
        }
        let at = self.append_own(ctx, Payload::Split(split), out);
        self.finish(ctx, Duration::ZERO);
        Ok(at)
    }

    /// Appends a step of bringing the range into its neighbour.
    ///
    /// # Errors
    /// When this replica does not lead or may not start a change now.
    pub fn propose_merge(
        &mut self,
        ctx: &Context<'_>,
        step: Bytes,
        out: &mut Effects,
    ) -> Result<LogPosition, ChangeError> {
        self.may_change()?;
        let at = self.append_own(ctx, Payload::Merge(step), out);
        self.finish(ctx, Duration::ZERO);
        Ok(at)
    }

    /// Whether the log holds an entry that changes the range's bounds or version and is not applied yet.
    /// Until then nothing is proposed: what follows the entry in the log was accepted by what it leaves.
    #[must_use]
    pub fn is_splitting(&self) -> bool {
        self.split_at > self.commit && Guard::SplitHoldsProposals.is_on()
    }

    /// Leads the first term of a group that a split has just made, without an election. Only the node that
    /// all its replicas have given their vote may, and only once: in the life in which it proposed the
    /// split.
    pub fn lead_first_term(&mut self, ctx: &Context<'_>, out: &mut Effects) {
        assert_eq!(self.log.last(), SPLIT_BASE, "invariant: nothing happened in this group yet");
        assert_eq!(self.hard.term, SPLIT_BASE.term, "invariant: it is the first term");
        assert_eq!(self.hard.vote, Some(self.node), "invariant: all voted for this replica");
        self.lead(ctx, out);
        self.finish(ctx, Duration::ZERO);
    }

    /// Tells the first term's leader that this replica is there now: what that one sent before found none.
    pub fn announce(&self, leader: NodeId, out: &mut Effects) {
        let outcome = AppendOutcome::Matched(SPLIT_BASE.index);
        let reply = AppendReply { outcome, bound: None, read_sequence: 0 };
        let message = Message { term: self.hard.term, body: Body::AppendReply(reply) };
        out.send_after_durable.push((leader, message));
    }

    /// Tells followers at once of what is committed.
    pub fn tell_commit(&mut self, ctx: &Context<'_>, out: &mut Effects) {
        self.with_sender(ctx, |sender, leader| {
            for p in &mut leader.progress {
                sender.notice(p, out);
            }
        });
        self.finish(ctx, Duration::ZERO);
    }

    /// Something durable proves that everything up to `index` was committed before the restart.
    pub fn was_committed(&mut self, ctx: &Context<'_>, index: Index, out: &mut Effects) {
        assert!(matches!(self.role, Role::Follower(_)), "invariant: it was just restored");
        self.commit_to(index, out);
        self.evict();
        self.finish(ctx, Duration::ZERO);
    }

    /// A member has no replica: it is to make one. Who stands for election says so, too: where new
    /// members are needed to elect a leader, no leader could.
    pub(crate) fn on_absent(&mut self, from: NodeId, out: &mut Effects) {
        if self.open_configurations().any(|known| known.is_member(from)) {
            out.send_now.push((from, Message { term: self.hard.term, body: Body::Create }));
        }
    }
}
