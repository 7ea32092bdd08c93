//! Changing who takes part: joint consensus with learners (Raft §6, thesis §4). One per group.
//!
//! A configuration is in force from its entry on, and taken back with it. A leader starts a change
//! only when one of its own term's entries has committed and no other change is open.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use oarlock_types::{Guard, NodeId};

use crate::group::{Group, Role};
use crate::progress::Progress;
use crate::{Configuration, Context, Effects, LogPosition, Payload};

/// Why a change of configuration was not begun. Nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeError {
    /// Another replica leads, or none.
    NotLeader {
        /// Who, as far as known.
        leader: Option<NodeId>,
    },
    /// Leadership is being handed over.
    Transferring,
    /// The leader has not committed anything in its own term yet; try again.
    TermNotOpened,
    /// Another change is not finished yet.
    ChangeOpen,
    /// The range is being cut in two.
    Splitting,
    /// There must be a voter, and nobody may be voter and learner at once.
    Invalid,
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader { leader: Some(leader) } => write!(f, "{leader} leads the group"),
            Self::NotLeader { leader: None } => write!(f, "the group has no known leader"),
            Self::Transferring => write!(f, "leadership is being handed over"),
            Self::TermNotOpened => write!(f, "the leader is too new, try again"),
            Self::Splitting => write!(f, "the range is being cut in two, try again"),
            Self::ChangeOpen => write!(f, "another change is not finished yet, try again"),
            Self::Invalid => write!(f, "a group needs a voter, and no voter may be a learner too"),
        }
    }
}

impl Group {
    /// Makes these the voters and learners. With other voters than before the configuration is
    /// joint first; the leader leaves it by itself.
    ///
    /// # Errors
    /// When this replica does not lead or may not start a change now.
    pub fn change_configuration(
        &mut self,
        ctx: &Context<'_>,
        voters: Vec<NodeId>,
        learners: Vec<NodeId>,
        out: &mut Effects,
    ) -> Result<LogPosition, ChangeError> {
        self.may_change()?;
        let voters: BTreeSet<NodeId> = voters.into_iter().collect();
        let learners: BTreeSet<NodeId> = learners.into_iter().collect();
        if voters.is_empty() || !voters.is_disjoint(&learners) {
            return Err(ChangeError::Invalid);
        }
        let voters: Vec<NodeId> = voters.into_iter().collect();
        let old = &self.configuration().voters;
        let outgoing = if *old == voters { Vec::new() } else { old.clone() };
        let next = Configuration { voters, outgoing, learners: learners.into_iter().collect() };
        let at = self.append_configuration(ctx, next, out);
        self.finish(ctx, Duration::ZERO);
        Ok(at)
    }

    /// Says the members again, though they are the same: whoever keeps where they are goes by the entry.
    ///
    /// # Errors
    /// When this replica does not lead or may not start a change now.
    pub fn restate_members(
        &mut self,
        ctx: &Context<'_>,
        out: &mut Effects,
    ) -> Result<LogPosition, ChangeError> {
        let Configuration { voters, learners, .. } = self.configuration().clone();
        self.change_configuration(ctx, voters, learners, out)
    }

    /// Whether this replica may have to lead: a voter by its newest configuration, or by one that the
    /// newest replaces once it has committed. As long as that is not known, the replica that was voted
    /// out may be the only one with the entry that says so, and then nobody else can be elected by
    /// those who have not heard of it (thesis §4.2.2).
    pub(crate) fn is_electable(&self) -> bool {
        let is_voter = if Guard::RemovedLeaderStands.is_on() {
            self.open_configurations().any(|known| known.is_voter(self.node))
        } else {
            self.configuration().is_voter(self.node)
        };
        is_voter || !Guard::LearnersDoNotStand.is_on()
    }

    /// Whether a change of the members or of the range may begin now.
    pub(crate) fn may_change(&self) -> Result<(), ChangeError> {
        let Role::Leader(leader) = &self.role else {
            return Err(ChangeError::NotLeader { leader: self.leader });
        };
        if leader.transfer.is_some() {
            return Err(ChangeError::Transferring);
        }
        if self.commit < leader.term_start {
            return Err(ChangeError::TermNotOpened);
        }
        if self.is_splitting() {
            return Err(ChangeError::Splitting);
        }
        if self.change_open() && Guard::OneChangeAtATime.is_on() {
            return Err(ChangeError::ChangeOpen);
        }
        Ok(())
    }

    fn change_open(&self) -> bool {
        let (at, configuration) =
            self.configurations.last().expect("invariant: one is always in force");
        *at > self.commit || configuration.is_joint()
    }

    fn append_configuration(
        &mut self,
        ctx: &Context<'_>,
        configuration: Configuration,
        out: &mut Effects,
    ) -> LogPosition {
        let at = self.append_own(ctx, Payload::Config(configuration), out);
        self.track_members();
        self.broadcast(ctx, out);
        at
    }

    /// Begins to replicate to members that are new.
    pub(crate) fn track_members(&mut self) {
        let members = self.configuration().members();
        let next = self.log.last().index.next();
        let (node, down) = (self.node, &self.down);
        let Role::Leader(leader) = &mut self.role else { return };
        for member in members {
            if member == node || leader.get(member).is_some() {
                continue;
            }
            // As much room as there are members: most groups never change them.
            leader.progress.reserve_exact(1);
            leader.progress.push(Progress::new(member, next, !down.contains(&member)));
            if !leader.touched.contains(&member) {
                leader.touched.reserve_exact(1);
                leader.touched.push(member);
            }
        }
    }

    /// After a commit of the leader: ends replication to those who are out, leaves a joint
    /// configuration, and steps down where this replica is no voter any more.
    pub(crate) fn settle_membership(&mut self, ctx: &Context<'_>, out: &mut Effects) {
        let (at, configuration) =
            self.configurations.last().expect("invariant: one is always in force");
        if *at > self.commit {
            return;
        }
        let Role::Leader(leader) = &mut self.role else { return };
        if configuration.is_joint() {
            if self.commit >= leader.term_start && Guard::JointIsLeft.is_on() {
                let next = Configuration { outgoing: Vec::new(), ..configuration.clone() };
                self.append_configuration(ctx, next, out);
            }
            return;
        }
        let stays = configuration.is_voter(self.node);
        if stays {
            leader.progress.retain(|p| configuration.is_member(p.node));
            self.note_left(out);
            return;
        }
        // Its followers learn that the change committed, and the best of them need not wait.
        self.with_sender(ctx, |sender, leader| {
            for p in &mut leader.progress {
                sender.notice(p, out);
            }
        });
        if let Some(to) = self.successor(None) {
            self.send_timeout_now(to, out);
        }
        self.become_follower(ctx, self.hard.term, None, out);
    }
}
