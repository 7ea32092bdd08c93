//! A node, as a configuration and the map name it.

use std::net::SocketAddr;

use oarlock_types::{CoreId, NodeId};
use serde::{Deserialize, Serialize};

/// A node, as all the others know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeEntry {
    /// Its number.
    #[serde(with = "node_id")]
    pub id: NodeId,
    /// Where other nodes reach it, by TCP and by UDP.
    pub peer_address: SocketAddr,
    /// Where clients reach it.
    pub client_address: SocketAddr,
    /// How many cores it had when the cluster was formed, or when it joined; it may have others by now.
    pub cores: u16,
    /// A port for clients of each core, at the host of `client_address`: a client that knows the map
    /// reaches the very core that leads a range. Empty: the kernel chooses the core.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub core_ports: Vec<u16>,
    /// Where it stands: nodes of one zone may fail together. Empty: nothing is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
}

impl NodeEntry {
    /// Where clients reach one of its cores; where they reach the node, if its cores have no ports.
    #[must_use]
    pub fn core_address(&self, core: CoreId) -> SocketAddr {
        let port = self.core_ports.get(usize::from(core.get()));
        let mut address = self.client_address;
        address.set_port(port.copied().unwrap_or(address.port()));
        address
    }
}

/// The identifiers' crate has no serde: texts are this side's matter.
mod node_id {
    use oarlock_types::NodeId;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(id: &NodeId, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(id.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<NodeId, D::Error> {
        u64::deserialize(from).map(NodeId)
    }
}
