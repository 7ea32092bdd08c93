//! Nodes that are dialled no more: the operator gave them up, nothing is heard of them, and no replica has them as
//! a member. One per core. Who is heard again is dialled again, so it is never wrong to let one go. The id stays
//! known, as does the disk that it was last seen with.

use oarlock_shard::{Shard, SupportTable};
use oarlock_types::{CoreId, GroupId, Mono, NodeId};

use crate::executor::SILENCE;

/// Replicas that one call looks at.
const LOOKS: usize = 1024;

/// Who was given up, and what this core does about it.
#[derive(Debug, Default)]
pub struct Partings {
    removed: Vec<NodeId>,
    /// Those whom no replica was found to have as a member, as far as they were looked at.
    leaving: Vec<NodeId>,
    /// The replica to go on from.
    next: GroupId,
    /// Those who were let go when it was last looked.
    gone: Vec<NodeId>,
}

/// Whether nothing is heard of a node, and there is no link to it or from it.
#[must_use]
pub fn is_silent(table: &SupportTable, node: NodeId, now: Mono) -> bool {
    let is_heard = table.heard_at(node).is_some_and(|at| now.since(at) < SILENCE);
    !is_heard && !table.is_linked(node)
}

impl Partings {
    /// These nodes were given up, and no others.
    pub fn set_removed(&mut self, removed: &[NodeId], table: &SupportTable) {
        let serves_again = |node: &&NodeId| !removed.contains(node);
        self.removed.iter().filter(serves_again).for_each(|node| table.take_up(*node));
        self.removed = removed.to_vec();
    }

    /// Looks at some replicas, once a second. True: `core` is to dial others than before.
    pub fn go_on(&mut self, shard: &Shard, table: &SupportTable, core: CoreId, now: Mono) -> bool {
        if self.removed.is_empty() && self.gone.is_empty() {
            return false;
        }
        let stays = |node: &NodeId| {
            !table.has_peer(*node) || table.has_let_go(*node, core) || !is_silent(table, *node, now)
        };
        if self.leaving.is_empty() {
            self.leaving.clone_from(&self.removed);
            self.next = GroupId::default();
        }
        self.leaving.retain(|node| !stays(node));
        if !self.leaving.is_empty() {
            self.look(shard);
        }
        if !self.leaving.is_empty() && self.next == GroupId::default() {
            for node in self.leaving.drain(..) {
                tracing::info!("{core} dials {node} no more: it was removed, and is silent");
                table.let_go(node, core);
            }
        }
        let is_gone = |node: &&NodeId| table.has_let_go(**node, core);
        let gone: Vec<NodeId> = self.removed.iter().filter(is_gone).copied().collect();
        let is_new = gone != self.gone;
        self.gone = gone;
        is_new
    }

    /// Keeps back whom a replica has as a member. Behind the last replica it begins anew.
    fn look(&mut self, shard: &Shard) {
        let groups = shard.groups();
        let start = groups.partition_point(|group| *group < self.next);
        let end = groups.len().min(start + LOOKS);
        for raft in groups[start..end].iter().filter_map(|group| shard.raft(*group)) {
            self.leaving.retain(|node| !raft.configuration().is_member(*node));
        }
        self.next = groups.get(end).copied().unwrap_or_default();
    }
}
