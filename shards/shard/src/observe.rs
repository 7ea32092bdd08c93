//! What an observer of a whole cluster (the simulator's oracle) reads between turns. It changes
//! nothing that a replica decides by, and costs a core that is not observed one comparison a step.

use oarlock_raft::{Context, Group};
use oarlock_types::{GroupId, Index, Mono};

use crate::shard::Shard;

impl Shard {
    /// From now on notes which groups each step touches.
    pub fn observe(&mut self) {
        self.touched.get_or_insert_default();
    }

    /// Moves the groups that steps have touched since the last call to `into`; one may stand there
    /// several times.
    pub fn take_touched(&mut self, into: &mut Vec<GroupId>) {
        if let Some(touched) = &mut self.touched {
            into.append(touched);
        }
    }

    /// The Raft state of a group's replica here.
    #[must_use]
    pub fn raft(&self, group: GroupId) -> Option<&Group> {
        self.replicas.get(&group).map(|replica| &replica.raft)
    }

    /// The last entry that a group's store here holds, and the hash of its state.
    #[must_use]
    pub fn applied_state(&self, group: GroupId) -> Option<(Index, u64)> {
        let replica = self.replicas.get(&group)?;
        Some((replica.applied, replica.store.state_hash()))
    }

    /// Whether a group's replica here may answer reads from its lease when its clock shows `now`.
    #[must_use]
    pub fn holds_lease(&self, group: GroupId, now: Mono) -> bool {
        let Some(replica) = self.replicas.get(&group) else { return false };
        let view = self.support.view(self.addr.core, now);
        let ctx = Context { now, support: &view, may_vote: now >= self.may_vote_from };
        replica.raft.lease_valid(&ctx)
    }

    /// What still waits for something, in words: empty on a core at rest.
    #[must_use]
    pub fn unfinished(&self) -> Vec<String> {
        let after = &self.after_durable;
        let parts = [
            ("requests without an outcome", self.admission.count()),
            ("reads without a barrier", self.reads.len()),
            ("messages that wait for the log", after.messages.len()),
            ("acknowledgements that wait for the log", after.acks.len()),
            ("marks that wait for the log", after.marks.len()),
            ("file jobs without an answer", self.files.under_way_count()),
            ("pieces of checkpoints not sent", self.files.unsent.len()),
            ("replicas that go to another core", self.moves_under_way()),
            ("states of splits that no checkpoint holds", self.splits.unsaved_count()),
        ];
        let open = parts.into_iter().filter(|(_, count)| *count > 0);
        open.map(|(what, count)| format!("{count} {what}")).collect()
    }
}
