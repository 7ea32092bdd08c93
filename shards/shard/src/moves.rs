//! Bringing replicas to other nodes: the voters of a group, step by step, to where they shall be, and the
//! end of replicas that are no members any more. `docs/decisions/0010-how-ranges-split-and-move.md` argues
//! why it is safe.
//!
//! A move has no state but the group's configuration: who asks again is told how far it is, whoever
//! leads by then.

use std::fmt;

use oarlock_codec::{Record, Refusal};
use oarlock_raft::{
    ChangeError, Configuration, HardState, LogPosition, ProgressState, ProgressStatus,
};
use oarlock_types::{GroupId, Index, Lsn, NodeId, RangeEpoch};
use oarlock_wal::RecoveredGroup;

use crate::checkpoints::Mark;
use crate::output::CheckpointFile;
use crate::rebuild::{Origin, Rebuilt};
use crate::replica::{Past, Replica};
use crate::shard::Shard;

/// A learner that lacks no more entries than this may vote: in the time that a change takes it has them.
const LAG_ENTRIES_MAX: u64 = 256;

/// How far a group is on its way to other voters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MoveStep {
    /// The voters are those that were asked for, and there are no other members.
    Done,
    /// New members begin to learn.
    Learning(Vec<NodeId>),
    /// New members receive what they lack.
    CatchingUp(Vec<NodeId>),
    /// Who leads is to leave: another member is to lead first.
    HandingOver(NodeId),
    /// The voters are being exchanged.
    Changing,
}

/// What must not be forgotten of a replica that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departed {
    /// Its newest term, and its vote in it.
    pub hard_state: HardState,
    /// The end of its log, or of that of one before it.
    pub last: LogPosition,
    /// How often it had come from another core.
    pub residence: u64,
    /// Set if it was rebuilt: what was found lost before that is lost no more.
    pub rebuilt: Option<Rebuilt>,
}

impl Departed {
    /// What must not be forgotten of a replica, should it end now.
    pub(crate) fn of_replica(replica: &Replica) -> Self {
        let (hard_state, last) = (replica.raft.hard_state(), replica.raft.departs_at());
        let Past { residence, rebuilt, .. } = replica.past();
        Self { hard_state, last, residence, rebuilt }
    }

    /// Whether it was made by another's word and has not held anything.
    pub(crate) fn held_nothing(&self) -> bool {
        self.last.index == Index(0) && self.rebuilt.is_none() && self.residence == 0
    }

    /// What the log gives back of a group, if its replica has ended. One that was made again since and has
    /// heard of nothing yet is no different.
    #[must_use]
    pub fn of(found: &RecoveredGroup) -> Option<Self> {
        let holds_nothing = found.checkpoint.is_none() && found.entries.is_empty();
        let Origin { left, residence, rebuilt, .. } = Origin::from_details(&found.details);
        let last = left.filter(|_| holds_nothing)?;
        Some(Self { hard_state: found.hard_state, last, residence, rebuilt })
    }
}

/// Whether a replica has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// It has.
    Ended,
    /// It is none of this core's, or knows of newer members.
    Stays,
    /// To be asked again: a mark of it is on its way to the disk, another range's state is in its log alone,
    /// it is being rebuilt, or has not heard yet that it leads no more.
    Later,
}

impl fmt::Display for MoveStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |nodes: &[NodeId]| {
            let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
            names.join(" ")
        };
        match self {
            Self::Done => f.write_str("done"),
            Self::Learning(nodes) => write!(f, "{} begin to learn", names(nodes)),
            Self::CatchingUp(nodes) => write!(f, "{} receive what they lack", names(nodes)),
            Self::HandingOver(to) => write!(f, "{to} is to lead"),
            Self::Changing => f.write_str("the voters change"),
        }
    }
}

impl Shard {
    /// Takes the next step towards these voters, if the last one has come to its end. Each new voter is a
    /// learner first, until it has nearly all that the leader has; a leader that is to leave hands over
    /// first. To be asked again until it is done.
    ///
    /// # Errors
    /// When its replica here does not lead, or may not start a change now.
    pub fn place_voters(
        &mut self,
        group: GroupId,
        voters: &[NodeId],
    ) -> Result<MoveStep, ChangeError> {
        let own = self.addr.node;
        let Some(replica) = self.replicas.get(&group) else {
            return Err(ChangeError::NotLeader { leader: None });
        };
        if !replica.raft.is_leader() {
            return Err(ChangeError::NotLeader { leader: replica.raft.leader() });
        }
        if voters.is_empty() {
            return Err(ChangeError::Invalid);
        }
        let now = replica.raft.configuration().clone();
        let Some((_, settled)) = replica.raft.settled_members().filter(|(_, m)| **m == now) else {
            return Ok(MoveStep::Changing);
        };
        if is_same(voters, &settled.voters) && settled.learners.is_empty() {
            return Ok(MoveStep::Done);
        }
        let is_member = |node: &NodeId| now.is_member(*node);
        let strangers: Vec<NodeId> = voters.iter().copied().filter(|n| !is_member(n)).collect();
        if !strangers.is_empty() {
            let learners = [now.learners.as_slice(), &strangers].concat();
            self.change_configuration(group, now.voters, learners)?;
            return Ok(MoveStep::Learning(strangers));
        }
        let behind: Vec<NodeId> = voters.iter().copied().filter(|n| replica.lags(*n)).collect();
        if !behind.is_empty() {
            return Ok(MoveStep::CatchingUp(behind));
        }
        let mut next = voters.to_vec();
        if !voters.contains(&own) {
            // Who lacks much may never have it: its node may have lost the replica for good.
            let is_able = |node: &NodeId| now.is_voter(*node) && !replica.lags_behind(*node);
            let able: Vec<NodeId> = voters.iter().copied().filter(is_able).collect();
            let to = able.into_iter().find_map(|to| self.transfer(group, Some(to)).ok());
            if let Some(to) = to {
                return Ok(MoveStep::HandingOver(to));
            }
            // None of them votes yet, has nearly all, or can be reached: it leads them for now.
            next.push(own);
        }
        // Who is left of a move that was given up only learns: it leaves with this.
        if !is_same(&now.voters, &next) || !now.learners.is_empty() {
            self.change_configuration(group, next, Vec::new())?;
        }
        Ok(MoveStep::Changing)
    }

    /// Ends a replica that is no member any more by the entry of index `configured`, which has committed. Of
    /// what it said and voted stays what is needed to vote as it would, should it be made again by the
    /// word of a member that has not heard of that entry.
    pub fn destroy(&mut self, group: GroupId, configured: Index) -> Departure {
        let Some(replica) = self.replicas.get(&group) else { return Departure::Stays };
        if self.is_joining(group) {
            return Departure::Later;
        }
        if replica.raft.configured() > configured {
            return self.end_stray(group);
        }
        // One that somebody leads may be just joining: it knows no members yet, and the map not this one.
        let knows_itself = replica.raft.configuration().is_member(self.addr.node);
        let is_joining = replica.raft.configured() == Index(0)
            && replica.raft.leader().is_some()
            && !knows_itself;
        if is_joining || replica.raft.is_leader() {
            return Departure::Later;
        }
        self.end(group)
    }

    /// Ends a replica that only learns, by an entry newer than the one that the map has, unless it knows that this
    /// entry has committed: it may have been lost with its leader, and then no member knows of this replica. Should
    /// it be of the group after all, its leader has it made anew; nothing was counted as committed by what one has
    /// acknowledged that has no vote.
    fn end_stray(&mut self, group: GroupId) -> Departure {
        let Some(replica) = self.replicas.get(&group) else { return Departure::Stays };
        let raft = &replica.raft;
        let votes = raft.open_configurations().any(|members| members.is_voter(self.addr.node));
        if votes || raft.commit() >= raft.configured() {
            return Departure::Stays;
        }
        self.end(group)
    }

    /// Ends a replica, unless it has something to do first: one that [`Shard::destroy`] says has come to its end,
    /// or whose range another one has taken, by what the map says of its first key, which other groups' ranges
    /// only come to have that way.
    pub fn end(&mut self, group: GroupId) -> Departure {
        if self.splits.needs_log_of(group) {
            return Departure::Later;
        }
        self.abandon_checkpoint(group);
        self.give_up_move(group);
        let Some(replica) = self.replicas.get(&group) else { return Departure::Stays };
        let is_receiving = replica.incoming.as_ref().is_some_and(|incoming| incoming.is_marked());
        if replica.making.is_some() || is_receiving {
            return Departure::Later;
        }
        self.drop_incoming(group);
        self.forget_outcomes(group, Index(u64::MAX));
        self.refuse_all(group);
        let waiting = &mut self.after_durable;
        waiting.messages.retain(|(.., message)| message.group != group);
        waiting.acks.retain(|(_, of, _)| *of != group);
        self.splits.saved(group);
        let Some(replica) = self.remove(group) else { return Departure::Stays };
        self.forget_joining(group);
        let file = replica.checkpoint_file(group);
        let departed = Departed::of_replica(&replica);
        self.graveyard.push(replica.store);
        let lsn = self.log_departed(group, departed);
        self.departed.insert(group, departed);
        // Until then a crash brings it back.
        self.after_durable.marks.extend(file.map(|file| (lsn, Mark::Departed(file))));
        self.out.leaders.push((group, None));
        Departure::Ended
    }

    /// What the log says of a replica that has ended: a group without members, entries or a checkpoint.
    pub(crate) fn log_departed(&mut self, group: GroupId, departed: Departed) -> Lsn {
        let (configuration, hard_state) = (Configuration::default(), departed.hard_state);
        let Departed { last, residence, rebuilt, .. } = departed;
        let first = Origin::first(RangeEpoch(0));
        let origin = Origin { left: Some(last), residence, rebuilt, ..first };
        self.log(&Record::Create { group, configuration, details: origin.to_details() });
        self.log(&Record::HardState { group, hard_state })
    }

    /// The end of a replica is durable: its checkpoint goes, unless one that was made since receives the
    /// same, which takes its place.
    pub(crate) fn delete_departed(&mut self, file: CheckpointFile) {
        let is_used = self.replicas.get(&file.group).is_some_and(|replica| {
            let incoming = replica.incoming.as_ref().map(|incoming| incoming.meta.position);
            incoming == Some(file.position) || replica.checkpoint.position == file.position
        });
        if !is_used {
            self.delete(file);
        }
    }

    /// Notes a replica that has ended in an earlier life, at the start.
    pub fn note_departed(&mut self, group: GroupId, departed: Departed) {
        debug_assert!(!self.knows_replica(group), "invariant: what has ended is not taken up");
        self.departed.insert(group, departed);
    }

    /// Sends away all that waits for a replica.
    pub(crate) fn refuse_all(&mut self, group: GroupId) {
        if let Some(replica) = self.replicas.get_mut(&group) {
            for write in std::mem::take(&mut replica.queued) {
                self.admission.release(1, write.bytes);
                self.out.replies.push((write.token, Err(Refusal::NoSuchGroup)));
            }
        }
        let reads = self.reads.extract_if(.., |_, read| read.group == group);
        for (_, read) in reads {
            self.admission.release(1, read.bytes);
            self.out.replies.push((read.token, Err(Refusal::NoSuchGroup)));
        }
    }
}

fn is_same(some: &[NodeId], others: &[NodeId]) -> bool {
    let are_in = |all: &[NodeId], of: &[NodeId]| all.iter().all(|node| of.contains(node));
    are_in(some, others) && are_in(others, some)
}

impl Replica {
    /// Whether a member that is no voter yet lacks much of what this leader has, or the entry that made it a
    /// member.
    fn lags(&self, node: NodeId) -> bool {
        !self.raft.configuration().is_voter(node) && self.lags_behind(node)
    }

    /// Whether a member lacks much of what this leader has.
    pub(crate) fn lags_behind(&self, node: NodeId) -> bool {
        let enough = Index(self.raft.last().index.get().saturating_sub(LAG_ENTRIES_MAX));
        let enough = enough.max(self.raft.configured().min(self.raft.commit()));
        let is_near =
            |p: ProgressStatus| matches!(p.state, ProgressState::Replicate) && p.matched >= enough;
        node != self.raft.node() && !self.raft.progress().any(|p| p.node == node && is_near(p))
    }

    fn checkpoint_file(&self, group: GroupId) -> Option<CheckpointFile> {
        let position = self.checkpoint.position;
        let is_in_file = self.base.is_none() && position.index > Index(0);
        is_in_file.then_some(CheckpointFile { group, position })
    }
}
