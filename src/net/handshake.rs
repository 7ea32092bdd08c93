//! Who may open a link, and what both ends must know of each other before a frame flows.
//!
//! The dialler says who it is and whom it wants; the other end accepts, or refuses with a reason
//! that an operator can act on. It must not touch a socket. One [`PeerBook`] per node; its lock is
//! taken once per connection, never for a frame.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use oarlock_codec::{FrameError, Handshake, HandshakeRefusal, HandshakeReply};
use oarlock_shard::support_table::SupportTable;
use oarlock_types::{ClusterId, CoreId, DiskId, FeatureLevel, FeatureLevels, Incarnation, NodeId};

/// The longest handshake or answer that is read, header included.
pub const HANDSHAKE_BYTES_MAX: usize = 1024;

/// Who this node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its id.
    pub node: NodeId,
    /// Its data directory.
    pub disk: DiskId,
    /// This start's incarnation.
    pub incarnation: Incarnation,
    /// Its cores.
    pub cores_count: u16,
    /// The feature levels that it understands.
    pub levels: FeatureLevels,
}

/// Why a dialled connection did not become a link.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The connection could not be made, or broke.
    #[error("cannot reach node {peer} at {addr}: {source}")]
    Unreachable {
        /// Whom.
        peer: NodeId,
        /// Where.
        addr: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// The other end does not answer.
    #[error("node {peer} at {addr} did not answer in time")]
    Silent {
        /// Whom.
        peer: NodeId,
        /// Where.
        addr: SocketAddr,
    },
    /// The other end hung up.
    #[error(
        "node {peer} at {addr} closed the connection without an answer; its log may say why (it \
         may be older than this build)"
    )]
    HungUp {
        /// Whom.
        peer: NodeId,
        /// Where.
        addr: SocketAddr,
    },
    /// What came is no answer.
    #[error("no link to node {peer} at {addr}: {source}")]
    Frame {
        /// Whom.
        peer: NodeId,
        /// Where.
        addr: SocketAddr,
        /// What is wrong with it.
        source: FrameError,
    },
    /// The other end said no.
    #[error("node {peer} at {addr} refuses the link: {source}")]
    Refused {
        /// Whom.
        peer: NodeId,
        /// Where.
        addr: SocketAddr,
        /// Its reason.
        source: HandshakeRefusal,
    },
    /// The address is this node's own.
    #[error("the address {addr} of node {peer} leads back to this very node: mend it")]
    Oneself {
        /// Whom.
        peer: NodeId,
        /// Where.
        addr: SocketAddr,
    },
    /// Somebody else answered.
    #[error("the address {addr} of node {peer} leads to node {found}: mend it")]
    WrongNode {
        /// Whom.
        peer: NodeId,
        /// Where.
        addr: SocketAddr,
        /// Who.
        found: NodeId,
    },
    /// The node lives on another data directory than it did.
    #[error(
        "node {peer} came back with another disk ({found}, not {known}): its votes and log are \
         lost, so it may not be its former self; give it a new id, or its old data directory"
    )]
    WrongDisk {
        /// Whom.
        peer: NodeId,
        /// What it was.
        known: DiskId,
        /// What it is.
        found: DiskId,
    },
    /// An old process answered.
    #[error(
        "node {peer} at {addr} answers as incarnation {found}, but {known} was seen already: \
         another process runs under its id"
    )]
    StaleIncarnation {
        /// Whom.
        peer: NodeId,
        /// Where.
        addr: SocketAddr,
        /// The newest seen.
        known: Incarnation,
        /// What it says.
        found: Incarnation,
    },
    /// The node does not understand what the others say by now.
    #[error(
        "node {peer} understands feature {levels}, and the cluster is at level {level}: start the newer build there"
    )]
    FeatureLevel {
        /// Whom.
        peer: NodeId,
        /// What it understands.
        levels: FeatureLevels,
        /// The cluster's level.
        level: FeatureLevel,
    },
    /// More cores than this node can keep account of.
    #[error("node {peer} has {found} cores, this node takes at most {cores_max} of a peer")]
    TooManyCores {
        /// Whom.
        peer: NodeId,
        /// How many.
        found: u16,
        /// The bound.
        cores_max: u16,
    },
    /// The peer has another number of cores than was thought: the next attempt dials the right one.
    #[error("node {peer} has {found} cores: dialling again")]
    OtherCore {
        /// Whom.
        peer: NodeId,
        /// How many.
        found: u16,
    },
}

/// Why a connection that came in is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// It may not be, and is told so.
    #[error("{0}")]
    Refused(#[from] HandshakeRefusal),
    /// It cannot be: the dialler contradicts itself or has too many cores.
    #[error("it says that it is core {core} of {cores_count}; at most {cores_max} are taken")]
    BadCore {
        /// The core that dials.
        core: CoreId,
        /// Of how many.
        cores_count: u16,
        /// The bound.
        cores_max: u16,
    },
}

/// Called with a data directory that is seen for the first time, so that it can be written down.
pub type DiskLearned = Box<dyn Fn(NodeId, DiskId) + Send + Sync>;

/// What the node knows of its peers for the sake of handshakes.
pub struct PeerBook {
    identity: Identity,
    table: Arc<SupportTable>,
    disks: Mutex<BTreeMap<NodeId, DiskId>>,
    disk_learned: DiskLearned,
}

impl std::fmt::Debug for PeerBook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerBook").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl PeerBook {
    /// A book that knows these data directories; a peer that is not among them is believed at
    /// first sight, and `disk_learned` is called.
    #[must_use]
    pub fn new(
        identity: Identity,
        table: Arc<SupportTable>,
        disks: BTreeMap<NodeId, DiskId>,
        disk_learned: DiskLearned,
    ) -> Self {
        Self { identity, table, disks: Mutex::new(disks), disk_learned }
    }

    /// Who this node is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where incarnations and links are kept.
    #[must_use]
    pub fn table(&self) -> &Arc<SupportTable> {
        &self.table
    }

    /// What our `core` says when it dials `to`.
    #[must_use]
    pub fn greeting(&self, core: CoreId, to: NodeId) -> Handshake {
        Handshake {
            cluster: self.identity.cluster,
            from: self.identity.node,
            disk: self.identity.disk,
            incarnation: self.identity.incarnation,
            from_core: core,
            cores_count: self.identity.cores_count,
            levels: self.identity.levels,
            to,
            to_core: self.table.core_to_dial(core, to),
        }
    }

    /// Judges a dialler; if it may come in, what is new about it has been noted.
    ///
    /// # Errors
    /// Why it may not.
    pub fn judge_dialler(&self, hello: &Handshake) -> Result<HandshakeReply, AcceptError> {
        let own = &self.identity;
        if hello.cluster != own.cluster {
            return Err(HandshakeRefusal::WrongCluster { cluster: own.cluster }.into());
        }
        if hello.to != own.node {
            return Err(HandshakeRefusal::WrongNode { node: own.node }.into());
        }
        if !self.table.has_peer(hello.from) {
            return Err(HandshakeRefusal::UnknownNode.into());
        }
        let cores_max = self.table.cores_max();
        if hello.from_core.0 >= hello.cores_count || hello.cores_count > cores_max {
            return Err(AcceptError::BadCore {
                core: hello.from_core,
                cores_count: hello.cores_count,
                cores_max,
            });
        }
        self.check_disk(hello.from, hello.disk)
            .map_err(|known| HandshakeRefusal::WrongDisk { known })?;
        let newest = self.table.learn_incarnation(hello.from, hello.incarnation);
        if newest != hello.incarnation {
            return Err(HandshakeRefusal::StaleIncarnation { known: newest }.into());
        }
        self.table.learn_levels(hello.from, hello.incarnation, hello.levels);
        let level = self.table.level();
        if hello.levels.max < level {
            return Err(HandshakeRefusal::FeatureLevel { level }.into());
        }
        self.table.learn_cores(hello.from, hello.cores_count);
        if hello.to_core.0 >= own.cores_count {
            return Err(HandshakeRefusal::NoSuchCore { cores_count: own.cores_count }.into());
        }
        Ok(HandshakeReply::Accepted {
            node: own.node,
            disk: own.disk,
            incarnation: own.incarnation,
            cores_count: own.cores_count,
            levels: own.levels,
        })
    }

    /// Judges the answer to `hello`; if it is the peer that was meant, what is new about it has
    /// been noted, and its incarnation is returned.
    ///
    /// # Errors
    /// Why there is no link.
    pub fn judge_answer(
        &self,
        hello: &Handshake,
        addr: SocketAddr,
        reply: &HandshakeReply,
    ) -> Result<Incarnation, DialError> {
        let peer = hello.to;
        let (node, disk, incarnation, found, levels) = match *reply {
            HandshakeReply::Accepted { node, disk, incarnation, cores_count, levels } => {
                (node, disk, incarnation, cores_count, levels)
            }
            HandshakeReply::Refused(refusal) => {
                return Err(self.judge_refusal(peer, addr, refusal));
            }
        };
        if node != peer {
            return Err(DialError::WrongNode { peer, addr, found: node });
        }
        self.check_disk(peer, disk).map_err(|known| DialError::WrongDisk {
            peer,
            known,
            found: disk,
        })?;
        let known = self.table.learn_incarnation(peer, incarnation);
        if known != incarnation {
            return Err(DialError::StaleIncarnation { peer, addr, known, found: incarnation });
        }
        self.table.learn_levels(peer, incarnation, levels);
        let level = self.table.level();
        if levels.max < level {
            return Err(DialError::FeatureLevel { peer, levels, level });
        }
        if !self.table.learn_cores(peer, found) {
            let cores_max = self.table.cores_max();
            return Err(DialError::TooManyCores { peer, found, cores_max });
        }
        if self.table.core_to_dial(hello.from_core, peer) != hello.to_core {
            return Err(DialError::OtherCore { peer, found });
        }
        Ok(incarnation)
    }

    fn judge_refusal(
        &self,
        peer: NodeId,
        addr: SocketAddr,
        refusal: HandshakeRefusal,
    ) -> DialError {
        match refusal {
            HandshakeRefusal::WrongNode { node } if node == self.identity.node => {
                DialError::Oneself { peer, addr }
            }
            HandshakeRefusal::WrongNode { node } => {
                DialError::WrongNode { peer, addr, found: node }
            }
            HandshakeRefusal::NoSuchCore { cores_count } => {
                self.table.learn_cores(peer, cores_count);
                DialError::OtherCore { peer, found: cores_count }
            }
            HandshakeRefusal::FeatureLevel { level } => {
                self.table.hear_level(level);
                DialError::Refused { peer, addr, source: refusal }
            }
            HandshakeRefusal::WrongCluster { .. }
            | HandshakeRefusal::UnknownNode
            | HandshakeRefusal::StaleIncarnation { .. }
            | HandshakeRefusal::WrongDisk { .. } => {
                DialError::Refused { peer, addr, source: refusal }
            }
        }
    }

    /// Holds a peer's data directory against the known one; the known one if it is another.
    fn check_disk(&self, node: NodeId, disk: DiskId) -> Result<(), DiskId> {
        // A panic while the map was held cannot have left it half-changed.
        let mut disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        match disks.get(&node) {
            Some(known) if *known == disk => Ok(()),
            Some(known) => Err(*known),
            None => {
                disks.insert(node, disk);
                drop(disks);
                (self.disk_learned)(node, disk);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use oarlock_shard::support_table::TableConfig;
    use oarlock_types::Mono;

    use super::*;

    const PEER: NodeId = NodeId(2);
    const DISK: DiskId = DiskId(20);

    fn held_at(max: u16) -> FeatureLevels {
        FeatureLevels { max: FeatureLevel(max), ..FeatureLevels::FIRST }
    }

    fn book() -> PeerBook {
        let identity = Identity {
            cluster: ClusterId(9),
            node: NodeId(1),
            disk: DiskId(10),
            incarnation: Incarnation(3),
            cores_count: 4,
            levels: held_at(2),
        };
        let table = SupportTable::new(&TableConfig {
            node: identity.node,
            incarnation: identity.incarnation,
            cores: identity.cores_count,
            cores_max: 8,
            origin: Mono(0),
            peers: &[(PEER, 0)],
        });
        let disks = BTreeMap::from([(PEER, DISK)]);
        PeerBook::new(identity, Arc::new(table), disks, Box::new(|_, _| ()))
    }

    fn judge(book: &PeerBook, reply: HandshakeReply) -> Result<Incarnation, DialError> {
        let addr = SocketAddr::from(([127, 0, 0, 1], 7000));
        book.judge_answer(&book.greeting(CoreId(3), PEER), addr, &reply)
    }

    fn accepted(node: NodeId, disk: DiskId, incarnation: u64, cores_count: u16) -> HandshakeReply {
        let (incarnation, levels) = (Incarnation(incarnation), held_at(2));
        HandshakeReply::Accepted { node, disk, incarnation, cores_count, levels }
    }

    #[test]
    fn the_peer_that_was_meant_is_taken_and_remembered() {
        let book = book();
        assert_eq!(judge(&book, accepted(PEER, DISK, 5, 4)).unwrap(), Incarnation(5));
        assert_eq!(book.table().peer_incarnation(PEER), Incarnation(5));
        assert_eq!(book.table().peer_cores(PEER), 4);
    }

    #[test]
    fn a_wrong_answer_is_refused_with_its_reason_and_leaves_no_trace() {
        let book = book();
        let cases = [
            (accepted(NodeId(3), DISK, 5, 4), "leads to node n3"),
            (accepted(PEER, DiskId(21), 5, 4), "came back with another disk"),
            (HandshakeReply::Refused(HandshakeRefusal::WrongNode { node: NodeId(1) }), "this very"),
            (
                HandshakeReply::Refused(HandshakeRefusal::WrongNode { node: NodeId(3) }),
                "to node n3",
            ),
            (HandshakeReply::Refused(HandshakeRefusal::UnknownNode), "refuses the link"),
        ];
        for (reply, part) in cases {
            let error = judge(&book, reply).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
            assert_eq!(book.table().peer_incarnation(PEER), Incarnation(0), "{error}");
        }
    }

    #[test]
    fn an_older_incarnation_is_refused_once_a_newer_one_is_known() {
        let book = book();
        book.table().learn_incarnation(PEER, Incarnation(6));
        let error = judge(&book, accepted(PEER, DISK, 5, 4)).unwrap_err().to_string();
        assert!(error.contains("incarnation i5, but i6 was seen"), "{error}");
    }

    #[test]
    fn the_core_to_dial_follows_the_peers_number_of_cores() {
        let book = book();
        assert_eq!(book.greeting(CoreId(3), PEER).to_core, CoreId(3));
        let error = judge(&book, accepted(PEER, DISK, 5, 2)).unwrap_err();
        assert!(matches!(error, DialError::OtherCore { found: 2, .. }), "{error}");
        assert_eq!(book.greeting(CoreId(3), PEER).to_core, CoreId(1));
        let refusal = HandshakeRefusal::NoSuchCore { cores_count: 1 };
        judge(&book, HandshakeReply::Refused(refusal)).unwrap_err();
        assert_eq!(book.greeting(CoreId(3), PEER).to_core, CoreId(0));
        let error = judge(&book, accepted(PEER, DISK, 5, 9)).unwrap_err();
        assert!(matches!(error, DialError::TooManyCores { found: 9, .. }), "{error}");
    }

    /// The answer of this book's node to a dialler of this incarnation that understands levels up to `max`.
    fn answer(book: &PeerBook, incarnation: u64, max: u16) -> Result<HandshakeReply, AcceptError> {
        let greeting = book.greeting(CoreId(0), PEER);
        book.judge_dialler(&Handshake {
            from: PEER,
            disk: DISK,
            incarnation: Incarnation(incarnation),
            levels: held_at(max),
            to: greeting.from,
            ..greeting
        })
    }

    #[test]
    fn who_does_not_understand_the_clusters_level_gets_no_link_in_either_direction() {
        let book = book();
        answer(&book, 5, 1).unwrap();
        assert_eq!(book.table().peer_levels(PEER), Some(held_at(1)));
        book.table().raise_level(FeatureLevel(2));
        let level = FeatureLevel(2);
        let refused = answer(&book, 6, 1).unwrap_err();
        assert_eq!(refused, HandshakeRefusal::FeatureLevel { level }.into());
        assert_eq!(
            book.table().peer_levels(PEER),
            Some(held_at(1)),
            "its word counts all the same"
        );
        let (incarnation, levels) = (Incarnation(6), held_at(1));
        let reply = HandshakeReply::Accepted {
            node: PEER,
            disk: DISK,
            incarnation,
            cores_count: 4,
            levels,
        };
        let error = judge(&book, reply).unwrap_err().to_string();
        let told = "node n2 understands feature level 1 only, and the cluster is at level 2";
        assert!(error.starts_with(told), "{error}");
        answer(&book, 7, 2).unwrap();
        judge(&book, accepted(PEER, DISK, 7, 4)).unwrap();
        assert_eq!(book.table().peer_levels(PEER), Some(held_at(2)));
    }

    #[test]
    fn a_refusal_for_the_level_tells_where_the_cluster_is() {
        let book = book();
        assert_eq!(book.table().heard_level(), FeatureLevel(1));
        let level = FeatureLevel(9);
        judge(&book, HandshakeReply::Refused(HandshakeRefusal::FeatureLevel { level }))
            .unwrap_err();
        assert_eq!((book.table().heard_level(), book.table().level()), (level, FeatureLevel(1)));
    }
}
