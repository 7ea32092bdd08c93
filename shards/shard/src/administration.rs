//! What an operator or placement asks of a group: another leader, other members.

use oarlock_raft::{ChangeError, LogPosition, TransferError};
use oarlock_types::{GroupId, NodeId};

use crate::shard::Shard;

impl Shard {
    /// Hands a group's leadership to `to`, or to the voter that is furthest ahead; gives whom it
    /// goes to.
    ///
    /// # Errors
    /// When its replica here does not lead, or can not hand over now.
    pub fn transfer(
        &mut self,
        group: GroupId,
        to: Option<NodeId>,
    ) -> Result<NodeId, TransferError> {
        let begun = self.with_group(group, |raft, ctx, out| raft.transfer(ctx, to, out));
        // Its lease has ended: whoever is to lead may do so before this one hears of it.
        self.count_keys(group);
        begun.unwrap_or(Err(TransferError::NotLeader { leader: None }))
    }

    /// Makes these the voters and learners of a group, through a joint configuration where the
    /// voters change. Replicas of nodes that are new to it must be there, or come to be.
    ///
    /// # Errors
    /// When its replica here does not lead, or may not start a change now.
    pub fn change_configuration(
        &mut self,
        group: GroupId,
        voters: Vec<NodeId>,
        learners: Vec<NodeId>,
    ) -> Result<LogPosition, ChangeError> {
        self.with_group(group, |raft, ctx, out| {
            raft.change_configuration(ctx, voters, learners, out)
        })
        .unwrap_or(Err(ChangeError::NotLeader { leader: None }))
    }
}
