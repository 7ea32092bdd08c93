//! Rebuilding a replica that has lost a part of its log: it leaves the group and joins it again as
//! a new member. One per group; `docs/decisions/0007-rebuilding-a-replica.md` argues why it is safe.
//!
//! The leader answers that a replica has left only by a configuration that it appended after it was
//! asked, and that has committed. The replica begins again in that leader's term, its vote given to
//! that leader, and votes for nobody before its log holds that configuration's entry.

use std::collections::BTreeSet;
use std::time::Duration;

use oarlock_types::{Guard, Index, NodeId, Term};

use crate::group::{Group, Role};
use crate::{
    Body, Configuration, Context, Effects, HardState, LogPosition, Message, ProgressState, Rebuild,
};

/// A learner that lacks no more entries than this is made a voter: the group's commits do not wait
/// for it for long.
const PROMOTE_LAG_MAX: u64 = 1000;

/// A replica that asked to leave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaving {
    node: NodeId,
    attempt: u64,
    /// The entry of the committed configuration without it.
    left_at: Option<Index>,
}

/// What a leader's word that a replica has left lets it begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// Its hard state: the term in which it left, the vote given to that term's leader.
    pub hard_state: HardState,
    /// The configuration without it.
    pub configuration: Configuration,
    /// Before its log holds this entry it votes for nobody.
    pub votes_from: Index,
}

impl Beginning {
    /// What `message` from `from` lets a replica begin with that asked with `attempt`; `None` if it
    /// answers something else.
    #[must_use]
    pub fn from_message(from: NodeId, message: &Message, attempt: u64) -> Option<Self> {
        let Body::Rebuild(Rebuild::Left { attempt: answered, index, configuration }) =
            &message.body
        else {
            return None;
        };
        (*answered == attempt).then(|| Self {
            hard_state: HardState { term: message.term, vote: Some(from) },
            configuration: configuration.clone(),
            votes_from: *index,
        })
    }
}

/// What a replica that was rebuilt, or that was not the first of its node, must not forget.
#[derive(Debug, Default)]
pub(crate) struct Past {
    /// One that was rebuilt votes for nobody before its log holds this entry; else zero.
    votes_from: Index,
    /// What was here before ended with a log up to here: it votes, and stands for election, as if it had
    /// that still.
    left: LogPosition,
    /// Members that others told to a rebuilt replica which is no voter yet.
    told_members: BTreeSet<NodeId>,
}

static NO_PAST: Past = Past {
    votes_from: Index(0),
    left: LogPosition { index: Index(0), term: Term(0) },
    told_members: BTreeSet::new(),
};

impl Group {
    fn past(&self) -> &Past {
        self.past.as_deref().unwrap_or(&NO_PAST)
    }

    /// This replica was rebuilt: before its log holds the entry at `index` it neither votes nor
    /// stands for election. To be said at its birth, at every start anew.
    pub fn votes_from(&mut self, index: Index) {
        self.past.get_or_insert_default().votes_from = index;
    }

    /// There was a replica here before, which ended with a log up to this entry: this one votes, and stands
    /// for election, as that one would. To be said at its birth, at every start anew.
    pub fn left_at(&mut self, last: LogPosition) {
        self.past.get_or_insert_default().left = last;
    }

    /// The end of the log, or of that of the replica that was here before if this one has not come to it.
    #[must_use]
    pub fn reached(&self) -> LogPosition {
        let last = self.log.last();
        if Guard::DepartedRemember.is_on() { last.max(self.past().left) } else { last }
    }

    /// What one that is made in this one's place must have come to before it votes, should this one end. A rebuilt
    /// one may not have come to the entry by which it left. That is of this term or an earlier one, so no log without
    /// it goes so far.
    #[must_use]
    pub fn departs_at(&self) -> LogPosition {
        let index = self.past().votes_from;
        let to_reach = LogPosition { term: self.hard.term, index };
        let has_it = self.log.last().index >= index;
        if has_it { self.reached() } else { self.reached().max(to_reach) }
    }

    /// Whether the log holds all that the replica's former self can have voted against.
    pub(crate) fn remembers(&self) -> bool {
        self.log.last().index >= self.past().votes_from && self.log.last() >= self.reached()
    }

    /// Whether it knows who the members were at the end of what it has applied. One that was made later
    /// than its group does not before the log has told it of a change, nor one that was rebuilt before
    /// the entry by which it left: it was told the members of that time.
    #[must_use]
    pub fn knows_members(&self) -> bool {
        let (_, applied) = self.configurations.first().expect("invariant: one is always in force");
        (self.commit >= self.past().votes_from && !applied.voters.is_empty())
            || !Guard::CheckpointKnowsMembers.is_on()
    }

    /// Whether the committed configuration has this replica as a voter, and none is open. A rebuilt
    /// one knows that only once it has applied the entry by which it left: a checkpoint from before
    /// has its former self as a voter.
    #[must_use]
    pub fn is_settled_voter(&self) -> bool {
        let (at, configuration) =
            self.configurations.last().expect("invariant: one is always in force");
        self.commit >= self.past().votes_from
            && *at <= self.commit
            && !configuration.is_joint()
            && configuration.is_voter(self.node)
    }

    /// Asks the others to take this replica in, as a learner first. To be repeated until
    /// [`Group::is_settled_voter`].
    pub fn ask_to_join(&mut self, ctx: &Context<'_>, out: &mut Effects) {
        let message = Message { term: self.hard.term, body: Body::Rebuild(Rebuild::Join) };
        let members = self.configuration().members();
        let mut asked: BTreeSet<NodeId> = members.collect();
        if Guard::ToldMembersAreAsked.is_on() {
            asked.extend(&self.past().told_members);
        }
        asked.remove(&self.node);
        out.send_now.extend(asked.into_iter().map(|node| (node, message.clone())));
        self.finish(ctx, Duration::ZERO);
    }

    pub(crate) fn on_rebuild(
        &mut self,
        ctx: &Context<'_>,
        from: NodeId,
        rebuild: &Rebuild,
        out: &mut Effects,
    ) {
        match rebuild {
            Rebuild::Leave { .. } | Rebuild::Join if !self.is_leader() => {
                let body = Body::Rebuild(Rebuild::Members(self.configuration().clone()));
                out.send_now.push((from, Message { term: self.hard.term, body }));
            }
            Rebuild::Leave { attempt } => self.on_leave(ctx, from, *attempt, out),
            Rebuild::Join => self.on_join(ctx, from, out),
            Rebuild::Members(told) if !self.is_settled_voter() => {
                self.past.get_or_insert_default().told_members.extend(told.members());
            }
            // Meant for a replica that is not there any more.
            Rebuild::Left { .. } | Rebuild::Members(_) => {}
        }
    }

    /// What can not be done now is passed over: the replica asks again.
    fn on_leave(&mut self, ctx: &Context<'_>, from: NodeId, attempt: u64, out: &mut Effects) {
        let Role::Leader(leader) = &self.role else { return };
        if let Some(leaving) = leader.leaving {
            if leaving.node == from && leaving.attempt >= attempt {
                if leaving.attempt == attempt {
                    self.answer_leaving(out);
                }
                return;
            }
            if leaving.left_at.is_none() {
                return;
            }
        }
        let old = self.configuration();
        // The others must be able to commit it: else the group would be caught half way.
        if from == self.node || !old.quorum(|node| node != from) {
            return;
        }
        let without = |nodes: &[NodeId]| nodes.iter().copied().filter(|n| *n != from).collect();
        let (voters, learners) = (without(&old.voters), without(&old.learners));
        if self.change_configuration(ctx, voters, learners, out).is_ok()
            && let Role::Leader(leader) = &mut self.role
        {
            leader.leaving = Some(Leaving { node: from, attempt, left_at: None });
        }
    }

    /// A configuration that is not joint has committed, after whatever was asked for before.
    pub(crate) fn note_left(&mut self, out: &mut Effects) {
        let (at, configuration) =
            self.configurations.last().expect("invariant: one is always in force");
        let (at, Role::Leader(leader)) = (*at, &mut self.role) else { return };
        let Some(leaving) = leader.leaving.as_mut().filter(|l| l.left_at.is_none()) else { return };
        if !configuration.is_member(leaving.node) {
            leaving.left_at = Some(at);
            self.answer_leaving(out);
        }
    }

    fn answer_leaving(&self, out: &mut Effects) {
        let Role::Leader(leader) = &self.role else { return };
        let Some(Leaving { node, attempt, left_at: Some(index) }) = leader.leaving else { return };
        // It may be a member again by another's wish: who has not heard that it was out has said nothing since.
        let configuration = self.configuration().clone();
        let body = Body::Rebuild(Rebuild::Left { attempt, index, configuration });
        out.send_now.push((node, Message { term: self.hard.term, body }));
    }

    /// Takes the next step for a replica that wants to be a voter.
    fn on_join(&mut self, ctx: &Context<'_>, from: NodeId, out: &mut Effects) {
        let Role::Leader(leader) = &self.role else { return };
        let configuration = self.configuration();
        if configuration.is_voter(from) {
            return;
        }
        let mut voters = configuration.voters.clone();
        let mut learners = configuration.learners.clone();
        if learners.contains(&from) {
            let last = self.log.last().index.get();
            let keeps_up = leader.get(from).is_some_and(|p| {
                p.state == ProgressState::Replicate && p.matched.get() + PROMOTE_LAG_MAX >= last
            });
            if !keeps_up {
                return;
            }
            learners.retain(|node| *node != from);
            voters.push(from);
        } else {
            learners.push(from);
        }
        // What is refused now (another change is open) is asked for again.
        let _ = self.change_configuration(ctx, voters, learners, out);
    }
}
