//! Static formation: what every node works out alike from the same `[cluster]` section.
//!
//! No node is asked and nothing is drawn at random, so that nodes may start in any order.

use std::fmt;
use std::str::FromStr;

use oarlock_cluster::{NodeEntry, hex};
use oarlock_types::ClusterId;
use oarlock_types::range_map::split_points;

use super::{Config, Cores};

/// Replicas of a range where nothing else is asked for and there are nodes enough.
const REPLICATION_FACTOR_DEFAULT: usize = 3;
/// Ranges where neither their number nor their bounds are given.
const RANGES_DEFAULT: u32 = 16;

/// The first key of a range. Written as text, or as `0x` and hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SplitPoint(pub Vec<u8>);

impl FromStr for SplitPoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(digits) = text.strip_prefix("0x") else {
            return Ok(Self(text.as_bytes().to_vec()));
        };
        hex::decode(digits).map(Self).ok_or_else(|| {
            format!("\"{text}\" begins with 0x and needs an even number of digits 0-9a-f")
        })
    }
}

impl fmt::Display for SplitPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(&self.0) {
            Ok(text) if !text.starts_with("0x") && !text.chars().any(char::is_control) => {
                f.write_str(text)
            }
            Ok(_) | Err(_) => write!(f, "0x{}", hex::encode(&self.0)),
        }
    }
}

impl Config {
    /// The nodes that form the cluster, sorted by number; this node alone if none are listed.
    #[must_use]
    pub fn initial_nodes(&self) -> Vec<NodeEntry> {
        let mut nodes = self.cluster.initial_nodes.clone();
        if nodes.is_empty() {
            let cores = self.node.cores.as_ref().map_or(1, Cores::count);
            nodes.push(NodeEntry {
                id: self.node.node_id,
                peer_address: self.peer_listen(),
                client_address: self.client_listen(),
                cores: u16::try_from(cores).unwrap_or(u16::MAX),
                core_ports: Vec::new(),
                zone: self.node.zone.clone(),
            });
        }
        nodes.sort_by_key(|node| node.id);
        nodes
    }

    /// The first keys of all ranges but the first, in order.
    #[must_use]
    pub fn split_points(&self) -> Vec<Vec<u8>> {
        if self.cluster.split_points.is_empty() {
            split_points(self.cluster.initial_ranges.unwrap_or(RANGES_DEFAULT))
        } else {
            self.cluster.split_points.iter().map(|point| point.0.clone()).collect()
        }
    }

    /// Replicas of each range.
    #[must_use]
    pub fn replication_factor(&self) -> usize {
        let nodes = self.cluster.initial_nodes.len();
        let fitting =
            if nodes < REPLICATION_FACTOR_DEFAULT { 1 } else { REPLICATION_FACTOR_DEFAULT };
        let given = self.cluster.replication_factor.and_then(|f| usize::try_from(f).ok());
        given.unwrap_or(fitting)
    }

    /// The cluster's identity: the one that is given, or else a hash of everything on which the
    /// nodes must agree, so that nodes with different `[cluster]` sections refuse each other.
    #[must_use]
    pub fn cluster_id(&self) -> ClusterId {
        if let Some(id) = self.cluster.cluster_id {
            return id;
        }
        let mut hash = Fnv128::new();
        hash.text(&self.cluster.cluster_name);
        let nodes = self.initial_nodes();
        hash.number(nodes.len());
        for node in nodes {
            hash.bytes(&node.id.0.to_le_bytes());
            hash.text(&node.peer_address.to_string());
            hash.bytes(&node.cores.to_le_bytes());
        }
        hash.number(self.replication_factor());
        let points = self.split_points();
        hash.number(points.len());
        for point in points {
            hash.number(point.len());
            hash.bytes(&point);
        }
        // Replicas answer alike only with the same bound, and leases fit only the same promises.
        let limits = self.limits();
        hash.number(limits.value_bytes_max);
        hash.bytes(&limits.support_duration.as_micros().to_le_bytes());
        hash.bytes(&limits.drift_per_mille_max.to_le_bytes());
        ClusterId(hash.0)
    }

    /// Keeps the identity `found`, if it is the one that this node, a cluster of its own without a list, had
    /// when it began with another number of cores, at most `cores_max`.
    pub fn keep_cluster_id(&mut self, found: ClusterId, cores_max: u16) {
        if self.cluster.cluster_id.is_some() || !self.cluster.initial_nodes.is_empty() {
            return;
        }
        let mut former = self.clone();
        let is_it = (1..=cores_max).any(|cores| {
            former.node.cores = Some(Cores::Count(cores));
            former.cluster_id() == found
        });
        self.cluster.cluster_id = Some(found).filter(|_| is_it);
    }
}

/// FNV-1a with 128 bits: the same on every machine and in every version, which is all that is
/// asked of it. It keeps mistakes apart, not enemies.
struct Fnv128(u128);

impl Fnv128 {
    const fn new() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b);
        }
    }

    /// Lengths go in too, so that two texts do not run into each other.
    fn number(&mut self, number: usize) {
        self.bytes(&u64::try_from(number).unwrap_or(u64::MAX).to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len());
        self.bytes(text.as_bytes());
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use oarlock_types::{CoreId, NodeId};

    use super::*;

    pub(in crate::config) fn node(id: u64) -> NodeEntry {
        let port = |base: u64| format!("127.0.0.1:{}", base + id).parse().unwrap();
        NodeEntry {
            id: NodeId(id),
            peer_address: port(100),
            client_address: port(200),
            cores: 2,
            core_ports: Vec::new(),
            zone: String::new(),
        }
    }

    fn three() -> Config {
        let mut config = Config::default();
        config.node.node_id = NodeId(1);
        config.cluster.initial_nodes = vec![node(1), node(2), node(3)];
        config
    }

    #[test]
    fn ranges_are_cut_evenly_over_the_first_two_bytes() {
        assert_eq!(split_points(1), Vec::<Vec<u8>>::new());
        assert_eq!(split_points(2), [[0x80, 0x00]]);
        assert_eq!(split_points(3), [[0x55, 0x55], [0xaa, 0xaa]]);
        assert_eq!(split_points(4), [[0x40, 0x00], [0x80, 0x00], [0xc0, 0x00]]);
        assert_eq!(split_points(65_536).last(), Some(&vec![0xff, 0xff]));
        let many = split_points(100_000);
        assert_eq!(
            (many.len(), &many[0], &many[49_999]),
            (99_999, &vec![0, 0, 167], &vec![0x80, 0, 0])
        );
        assert!(many.is_sorted_by(|one, next| one < next));
    }

    proptest! {
        #[test]
        fn any_number_of_ranges_is_cut_in_order_and_almost_equal(ranges in 1u32..=65_536) {
            let points = split_points(ranges);
            prop_assert_eq!(points.len() + 1, usize::try_from(ranges).unwrap());
            let mut at: Vec<u32> = points.iter().map(|p| u32::from_be_bytes([0, 0, p[0], p[1]])).collect();
            at.insert(0, 0);
            at.push(65_536);
            let widths = || at.windows(2).map(|pair| pair[1] - pair[0]);
            prop_assert!(widths().min() >= Some(1));
            prop_assert!(widths().max().unwrap() - widths().min().unwrap() <= 1);
        }

        #[test]
        fn a_split_point_reads_back_as_it_is_printed(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let point = SplitPoint(bytes);
            prop_assert_eq!(point.to_string().parse::<SplitPoint>(), Ok(point));
        }
    }

    #[test]
    fn a_split_point_is_text_or_hexadecimal() {
        assert_eq!("user:".parse(), Ok(SplitPoint(b"user:".to_vec())));
        assert_eq!("0x00fF".parse(), Ok(SplitPoint(vec![0, 0xff])));
        assert!("0x0".parse::<SplitPoint>().unwrap_err().contains("even number"));
        assert!("0xzz".parse::<SplitPoint>().is_err());
    }

    #[test]
    fn nodes_that_agree_derive_one_cluster_id_whatever_the_order() {
        let one = three();
        let mut other = three();
        other.node.node_id = NodeId(2);
        other.cluster.initial_nodes.reverse();
        assert_eq!(one.cluster_id(), other.cluster_id());
    }

    #[test]
    fn whatever_nodes_must_agree_on_changes_the_cluster_id() {
        let base = three().cluster_id();
        let changes: [fn(&mut Config); 9] = [
            |c| c.cluster.cluster_name.push('x'),
            |c| c.cluster.initial_nodes[1].peer_address.set_port(9),
            |c| c.cluster.initial_nodes[1].cores = 3,
            |c| c.cluster.initial_ranges = Some(17),
            |c| c.cluster.replication_factor = Some(1),
            |c| c.cluster.initial_nodes[2].id = NodeId(4),
            |c| c.limits.value_bytes_max += 1,
            |c| c.limits.support_duration_ms *= 2,
            |c| c.limits.drift_per_mille_max += 1,
        ];
        for change in changes {
            let mut config = three();
            change(&mut config);
            assert_ne!(config.cluster_id(), base);
        }
    }

    #[test]
    fn what_may_differ_leaves_the_cluster_id() {
        let mut config = three();
        config.cluster.initial_nodes[0].client_address.set_port(7);
        config.limits.clients_max = 7;
        assert_eq!(config.cluster_id(), three().cluster_id());
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        let mut hash = Fnv128::new();
        hash.bytes(b"a");
        assert_eq!(hash.0, 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
    }

    #[test]
    fn the_derived_cluster_id_never_changes_between_versions() {
        assert_eq!(format!("{:032x}", three().cluster_id().0), "95b7f5afb62724bc6d7b592ffb94c9e9");
        let mut config = three();
        config.cluster.cluster_id = Some(ClusterId(5));
        assert_eq!(config.cluster_id(), ClusterId(5));
    }

    #[test]
    fn a_node_without_a_list_is_a_cluster_of_its_own() {
        let mut config = Config::default();
        config.node.node_id = NodeId(7);
        config.node.cores = Some(Cores::Cpus(vec![1, 3]));
        let nodes = config.initial_nodes();
        assert_eq!(nodes.len(), 1);
        assert_eq!((nodes[0].id, nodes[0].cores), (NodeId(7), 2));
        assert_eq!(config.replication_factor(), 1);
    }

    #[test]
    fn a_node_without_a_list_stays_its_cluster_with_other_cores() {
        let mut config = Config::default();
        config.node.node_id = NodeId(7);
        let first = config.cluster_id();
        config.node.cores = Some(Cores::Count(3));
        assert_ne!(config.cluster_id(), first);
        for other in [ClusterId(5), three().cluster_id()] {
            config.keep_cluster_id(other, 8);
            assert_eq!(config.cluster.cluster_id, None);
        }
        config.keep_cluster_id(first, 8);
        assert_eq!(config.cluster_id(), first);
        let mut listed = three();
        let derived = listed.cluster_id();
        listed.keep_cluster_id(first, 8);
        assert_eq!(listed.cluster_id(), derived);
    }

    #[test]
    fn a_core_is_reached_at_its_own_port_or_at_the_node_s() {
        let mut node = node(1);
        let port = |node: &NodeEntry, core| node.core_address(CoreId(core)).to_string();
        assert_eq!(port(&node, 1), "127.0.0.1:201");
        node.core_ports = vec![7, 8];
        assert_eq!(
            (port(&node, 0).as_str(), port(&node, 1).as_str()),
            ("127.0.0.1:7", "127.0.0.1:8")
        );
    }

    #[test]
    fn the_replication_factor_fits_the_nodes_unless_it_is_given() {
        let mut config = three();
        assert_eq!(config.replication_factor(), 3);
        config.cluster.initial_nodes.pop();
        assert_eq!(config.replication_factor(), 1);
        config.cluster.replication_factor = Some(5);
        assert_eq!(config.replication_factor(), 5);
    }
}
