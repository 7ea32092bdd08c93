//! What entries ask for, in the order in which they were committed: for whoever judges the answers.

use oarlock_raft::{Entry, Group, Payload};
use oarlock_types::Index;

use super::Known;

impl Known {
    /// What is committed from this entry on, as a replica has it in memory.
    pub(super) fn commands_from(
        &self,
        from: Index,
        group: &Group,
    ) -> impl Iterator<Item = Payload> {
        let indices = std::iter::successors(Some(from), |index| Some(index.next()));
        let committed = indices.take_while(|index| self.committed.contains_key(index));
        let payloads =
            committed.filter_map(|index| group.entry(index)).map(|Entry { payload, .. }| payload);
        let is_command =
            |payload: &&Payload| matches!(payload, Payload::Commands(_) | Payload::Packed(_));
        payloads.filter(is_command).cloned()
    }
}
