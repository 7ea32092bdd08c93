//! What an operator may set, from where, and whether it makes sense. Read once at a node's start.
//!
//! A value comes from its default, or else from the file, or else from an environment variable, or
//! else from a flag: the later wins. Must not open a socket or touch the data directory.
//!
//! Map: `keys` is the one table of all keys, `table` the macro that makes the rest of it, `value`
//! the types that a key can have, `load` puts the sources together, `validate` checks keys against
//! each other, `cluster` is static formation, `render` prints the example and what is effective,
//! `shared` what nodes of a cluster must have alike.

mod cluster;
mod keys;
mod load;
mod render;
mod shared;
mod table;
mod validate;
mod value;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use oarlock_cluster::NodeEntry;

pub use cluster::SplitPoint;
pub use keys::{
    ClusterSection, Config, KEYS, LimitsSection, LogSection, NetworkSection, NodeSection, SECTIONS,
};
pub use load::{FILE_VARIABLE, Loaded, Origin, Sources};
pub use render::{effective, example};
pub use table::Key;
pub use value::{Cores, Element, Kind, LogFormat, Setting, Value};

/// The Redis port, which clients try first.
const CLIENT_PORT_DEFAULT: u16 = 6379;
/// The client port and ten thousand, which is how the Redis world numbers a node's second port.
const PEER_PORT_DEFAULT: u16 = 16379;

impl Config {
    /// This node's entry among the initial nodes.
    #[must_use]
    pub fn own_entry(&self) -> Option<&NodeEntry> {
        self.cluster.initial_nodes.iter().find(|node| node.id == self.node.node_id)
    }

    /// Where this node listens for clients.
    #[must_use]
    pub fn client_listen(&self) -> SocketAddr {
        let entry = || self.own_entry().map(|entry| entry.client_address);
        let fallback = SocketAddr::from((Ipv4Addr::LOCALHOST, CLIENT_PORT_DEFAULT));
        self.network.client_listen.or_else(entry).unwrap_or(fallback)
    }

    /// Where each of its cores listens for clients of its own, if they have ports.
    pub fn core_listens(&self) -> impl Iterator<Item = SocketAddr> + use<> {
        let of_entry = self.own_entry().map(|entry| &entry.core_ports);
        let ports = of_entry.unwrap_or(&self.node.core_ports).clone();
        let ip = self.client_listen().ip();
        ports.into_iter().map(move |port| SocketAddr::new(ip, port))
    }

    /// Where this node listens for other nodes.
    #[must_use]
    pub fn peer_listen(&self) -> SocketAddr {
        let entry = || self.own_entry().map(|entry| entry.peer_address);
        let fallback = SocketAddr::from((Ipv4Addr::LOCALHOST, PEER_PORT_DEFAULT));
        self.network.peer_listen.or_else(entry).unwrap_or(fallback)
    }

    /// The cores that this node serves with.
    #[must_use]
    pub fn cores(&self) -> Cores {
        let entry = || self.own_entry().map(|entry| Cores::Count(entry.cores));
        self.node.cores.clone().or_else(entry).unwrap_or(Cores::Count(1))
    }
}

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it was found: a file's line, a variable, a flag; empty if it is what is missing.
    pub place: String,
    /// What is wrong, and how to mend it.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place.is_empty() {
            f.write_str(&self.what)
        } else {
            write!(f, "{}: {}", self.place, self.what)
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {source}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// All that is wrong with it, in the order of its places.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<Problem>),
}
