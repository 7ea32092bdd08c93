//! The links of one core to the cores of other nodes that it dials. One per core.

use std::rc::Rc;
use std::sync::Arc;

use oarlock_cluster::NodeEntry;
use oarlock_cluster::members;
use oarlock_types::{CoreId, NodeId};

use crate::net::handshake::PeerBook;
use crate::net::link::{LinkConfig, LinkLimits, PeerLink};
use crate::net::link_hub::LinkHub;

/// The links.
#[derive(Debug)]
pub struct Links {
    core: CoreId,
    book: Arc<PeerBook>,
    hub: Rc<LinkHub>,
    limits: LinkLimits,
    seed: u64,
    links: Vec<PeerLink>,
}

impl Links {
    /// No links yet. What comes in, and what becomes of links, is told to the hub.
    #[must_use]
    pub fn new(
        core: CoreId,
        book: Arc<PeerBook>,
        hub: Rc<LinkHub>,
        limits: LinkLimits,
        seed: u64,
    ) -> Self {
        Self { core, book, hub, limits, seed, links: Vec::new() }
    }

    /// Dials every node to which there is no link yet, and gives up those to nodes whose place another has
    /// taken, or that were let go.
    pub fn meet(&mut self, nodes: &[NodeEntry]) {
        let own = self.book.identity().node;
        let table = self.book.table();
        let is_wanted = |id| id != own && !table.has_let_go(id, self.core);
        let wanted = || members::reachable(nodes).filter(|node| is_wanted(node.id));
        self.links.retain(|link| wanted().any(|node| node.id == link.peer()));
        for node in wanted() {
            if self.links.iter().any(|link| link.peer() == node.id) {
                continue;
            }
            let config = LinkConfig {
                core: self.core,
                peer: node.id,
                addr: node.peer_address,
                limits: self.limits.clone(),
                seed: self.seed ^ node.id.get() << 16 ^ u64::from(self.core.get()),
            };
            let link = PeerLink::open(config, Arc::clone(&self.book), Rc::clone(&self.hub));
            self.links.push(link);
        }
    }

    /// The link to a node.
    #[must_use]
    pub fn to(&self, node: NodeId) -> Option<&PeerLink> {
        self.links.iter().find(|link| link.peer() == node)
    }
}
