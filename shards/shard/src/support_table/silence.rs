//! Peers that are silent for good: which cores of ours dial them no more. Whoever is heard is dialled again by all.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use oarlock_types::{CoreId, NodeId};

use super::{Peer, SupportTable};

impl Peer {
    /// All cores of ours dial it.
    pub(super) fn take_up(&self) {
        self.let_go.iter().for_each(|mark| mark.store(false, SeqCst));
    }
}

impl SupportTable {
    /// Whether any link to a peer or from it is up.
    #[must_use]
    pub fn is_linked(&self, node: NodeId) -> bool {
        let is_up = |mark: &AtomicU64| mark.load(SeqCst) != 0;
        let links = |peer: &Peer| peer.incoming.iter().chain(&peer.outgoing).any(is_up);
        self.peer(node).is_some_and(links)
    }

    /// A core of ours dials a peer no more, until it is heard.
    pub fn let_go(&self, node: NodeId, core: CoreId) {
        let mark = self.peer(node).and_then(|peer| peer.let_go.get(usize::from(core.0)));
        mark.into_iter().for_each(|mark| mark.store(true, SeqCst));
    }

    /// All cores of ours dial a peer, and it gets pulses.
    pub fn take_up(&self, node: NodeId) {
        self.peer(node).into_iter().for_each(Peer::take_up);
    }

    /// Whether a core of ours dials a peer no more.
    #[must_use]
    pub fn has_let_go(&self, node: NodeId, core: CoreId) -> bool {
        let mark = self.peer(node).and_then(|peer| peer.let_go.get(usize::from(core.0)));
        mark.is_some_and(|mark| mark.load(SeqCst))
    }

    /// Whether no core of ours dials a peer any more.
    pub(crate) fn have_all_let_go(&self, node: NodeId) -> bool {
        self.peer(node).is_some_and(|peer| peer.let_go.iter().all(|mark| mark.load(SeqCst)))
    }
}
