//! Replicas that are lost, or never were, and those that are rebuilt: what is not asked of them any more.

use oarlock_raft::{Configuration, Group};
use oarlock_types::{GroupId, NodeId};

use super::{Oracle, Seen};

impl Oracle {
    /// A node's replica is lost: nothing is asked of its disk any more. One that its node can name never comes back but
    /// rebuilt.
    pub(crate) fn replica_lost(&mut self, node: NodeId, id: GroupId, is_named: bool) {
        if let Some(known) = self.groups.get_mut(&id) {
            // What it acknowledged before may still be on its way to a leader.
            if let Some(seen) = known.replicas.remove(&node) {
                known.lost.insert(node, (seen, is_named));
            } else if let Some((_, was_named)) = known.lost.get_mut(&node) {
                *was_named |= is_named;
            }
        }
    }

    /// A replica that nobody could name is back as it was, since what hid it was undone: all is asked of it that was
    /// before. False if it is another, or has not all that was on its disk.
    pub(crate) fn replica_is_back(&mut self, node: NodeId, id: GroupId, group: &Group) -> bool {
        let Some(known) = self.groups.get_mut(&id) else { return false };
        let is_it = |(seen, is_named): &mut (Seen, bool)| {
            let state = group.durable_hard_state();
            !*is_named && seen.durable_state == state && seen.durable <= group.durable_index()
        };
        let back = known.lost.extract_if(node..=node, |_, lost| is_it(lost)).next();
        back.is_some_and(|(node, (seen, _))| known.replicas.insert(node, seen).is_none())
    }

    /// A node's replica was begun and never reached its disk.
    pub(crate) fn replica_never_was(&mut self, node: NodeId, id: GroupId) {
        if let Some(known) = self.groups.get_mut(&id) {
            known.replicas.remove(&node);
        }
    }

    /// The members of a group as each of its replicas knew them when it was seen last, also those that are down.
    pub(crate) fn known_members(&self, id: GroupId) -> impl Iterator<Item = &Configuration> {
        let known = self.groups.get(&id).into_iter();
        known.flat_map(|known| known.replicas.values()).map(|seen| &seen.configuration)
    }

    /// Whether a node's replica was lost and has not been seen since.
    pub(crate) fn is_lost(&self, node: NodeId, id: GroupId) -> bool {
        self.groups.get(&id).is_some_and(|known| known.lost.contains_key(&node))
    }

    /// A lost replica has been rebuilt: it is another member now, and neither the votes nor the
    /// entries of its former self are its own.
    pub(crate) fn replica_rebuilt(&mut self, node: NodeId, id: GroupId) {
        if let Some(known) = self.groups.get_mut(&id) {
            known.lost.remove(&node);
            known.votes.remove(&node);
        }
    }
}
