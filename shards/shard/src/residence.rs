//! On which core of its node a replica is: who is told when that changes, and who asks for it. One per core.
//!
//! Nothing rests on it: what is known of other nodes' cores saves a way from core to core. How a replica goes is
//! another matter (`hand_over`).

use oarlock_codec::GroupMessage;
use oarlock_raft::{Body, Message};
use oarlock_types::{CoreAddr, CoreId, FeatureLevel, GroupId, NodeId};

use crate::shard::Shard;

impl Shard {
    /// Tells of replicas that are on another core than before.
    pub(crate) fn tell_residences(&mut self) {
        for group in self.hand_overs.untold.clone() {
            if self.tell_leader_or_map(group) {
                self.hand_overs.untold.remove(&group);
            }
        }
    }

    /// Says where a replica is now. A leader says the members again: the map takes what is newer, with the cores
    /// that they are on.
    fn tell_leader_or_map(&mut self, group: GroupId) -> bool {
        let Some(replica) = self.replicas.get(&group) else { return true };
        if replica.raft.is_leader() {
            let told = self.with_group(group, |raft, ctx, out| raft.restate_members(ctx, out));
            return told.is_none_or(|told| told.is_ok());
        }
        let Some(leader) = replica.raft.leader() else { return false };
        self.tell_residence(group, leader, self.addr.core, true);
        true
    }

    pub(crate) fn tell_residence(
        &mut self,
        group: GroupId,
        to: NodeId,
        core: CoreId,
        is_answer: bool,
    ) {
        let Some(replica) = self.replicas.get(&group) else { return };
        if self.feature_level() >= FeatureLevel::CORE_MOVES {
            let body = Body::Residence { core, is_answer };
            let message = Message { term: replica.raft.term(), body };
            self.out.messages.push((to, GroupMessage { group, message }));
        }
    }

    /// A replica is asked to be on a core, or tells on which it is.
    pub(crate) fn residence_told(
        &mut self,
        from: NodeId,
        group: GroupId,
        core: CoreId,
        is_answer: bool,
    ) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        if is_answer {
            if replica.note_core(CoreAddr::new(from, core)) {
                self.hand_overs.untold.insert(group);
            }
        } else if core == self.addr.core {
            self.tell_residence(group, from, core, true);
        } else {
            // If it can not go now it is asked again.
            let _ = self.move_to_core(group, core);
        }
    }
}
