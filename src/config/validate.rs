//! Checks keys against each other: what each alone allows and all together would not work.
//!
//! A contradiction names the key to change first, then why, then what would be right.

use std::net::SocketAddr;

use oarlock_cluster::NodeEntry;
use tracing_subscriber::EnvFilter;

use super::{Config, Cores};

/// Room that a frame and an archive need around one entry.
const FRAME_OVERHEAD_BYTES: usize = 4096;
/// Pulses that fit into one support, so that losing two in a row ends nothing.
const PULSES_PER_SUPPORT_MIN: u32 = 3;

/// A key's name and what is wrong with its value.
pub(super) type Contradiction = (&'static str, String);

impl Config {
    /// Everything that does not fit together.
    pub(super) fn contradictions(&self) -> Vec<Contradiction> {
        let mut found = Vec::new();
        self.check_node(&mut found);
        self.check_own_core_ports(&mut found);
        self.check_cluster(&mut found);
        self.check_network(&mut found);
        self.check_sizes(&mut found);
        self.check_times(&mut found);
        if let Err(error) = EnvFilter::try_new(&self.log.log_level) {
            let level = &self.log.log_level;
            let mend = "give error, warn, info, debug or trace, or a filter by module";
            found.push(("log_level", format!("log.log_level: \"{level}\": {error}; {mend}")));
        }
        found
    }

    /// Whether all keys fit together; else everything that does not.
    pub fn validate(&self) -> Result<(), super::ConfigError> {
        let problem = |(_, what)| super::Problem { place: String::new(), what };
        let problems: Vec<_> = self.contradictions().into_iter().map(problem).collect();
        if problems.is_empty() { Ok(()) } else { Err(super::ConfigError::Invalid(problems)) }
    }

    fn check_node(&self, found: &mut Vec<Contradiction>) {
        let joins = self.joins().next().is_some();
        if joins && !self.cluster.initial_nodes.is_empty() {
            let what = "node.join: a node that joins learns the other nodes from the cluster: leave \
                        initial_nodes out, or join if the cluster is formed of them";
            found.push(("join", what.to_owned()));
        }
        for (name, unset) in [
            ("node_id", self.node.node_id.0 == 0 && !joins),
            ("data_dir", self.node.data_dir.as_os_str().is_empty()),
        ] {
            if unset {
                let (flag, variable) = (name.replace('_', "-"), name.to_uppercase());
                found.push((
                    name,
                    format!(
                        "node.{name} is not set: give it under [node] in the file that --config \
                         names, as --{flag}, or as OARLOCK_{variable}"
                    ),
                ));
            }
        }
        if let Some(Cores::Cpus(cpus)) = &self.node.cores {
            let distinct: std::collections::BTreeSet<_> = cpus.iter().collect();
            if cpus.is_empty() {
                found.push(("cores", "node.cores: the list is empty: name a CPU".to_owned()));
            } else if distinct.len() < cpus.len() {
                let what = "node.cores: a CPU is named twice: two cores would share it";
                found.push(("cores", what.to_owned()));
            }
        }
    }

    fn check_cluster(&self, found: &mut Vec<Contradiction>) {
        let nodes = &self.cluster.initial_nodes;
        if !nodes.is_empty() {
            self.check_own_entry(found);
            check_entries(nodes, found);
        }
        let factor = self.replication_factor();
        let count = nodes.len().max(1);
        if factor.is_multiple_of(2) {
            let what = format!(
                "cluster.replication_factor: {factor} is even, and tolerates no more failures \
                 than {}: give an odd number",
                factor.saturating_sub(1)
            );
            found.push(("replication_factor", what));
        } else if factor > count {
            let what = format!(
                "cluster.replication_factor: {factor} replicas need as many nodes, but there are \
                 {count} in initial_nodes"
            );
            found.push(("replication_factor", what));
        }
        let points = &self.cluster.split_points;
        if points.iter().any(|point| point.0.is_empty()) {
            let what = "cluster.split_points: the empty key begins the first range already";
            found.push(("split_points", what.to_owned()));
        } else if let Some(pair) = points.windows(2).find(|pair| pair[0] >= pair[1]) {
            let what = format!(
                "cluster.split_points: \"{}\" does not come after \"{}\": sort them by byte, each \
                 once",
                pair[1], pair[0]
            );
            found.push(("split_points", what));
        }
        let ranges = self.split_points().len() + 1;
        if let Some(given) = self.cluster.initial_ranges
            && usize::try_from(given) != Ok(ranges)
        {
            let what = format!(
                "cluster.initial_ranges: split_points make {ranges} ranges, not {given}: leave one \
                 of the two keys out"
            );
            found.push(("initial_ranges", what));
        }
    }

    fn check_own_entry(&self, found: &mut Vec<Contradiction>) {
        let id = self.node.node_id;
        let Some(entry) = self.own_entry() else {
            if id.0 != 0 {
                let ids: Vec<String> =
                    self.cluster.initial_nodes.iter().map(|node| node.id.0.to_string()).collect();
                let what = format!(
                    "node.node_id: {} is not among the initial_nodes ({}): give one of them, or \
                     list this node",
                    id.0,
                    ids.join(", ")
                );
                found.push(("node_id", what));
            }
            return;
        };
        let (ports, cores) = (entry.core_ports.len(), self.cores().count());
        if ports != 0 && ports != cores {
            let what = format!(
                "cluster.initial_nodes: node {} has {ports} core_ports, and {cores} cores here: give one for \
                 each, or none",
                id.0
            );
            found.push(("initial_nodes", what));
        }
    }

    /// Those of a node that joins, which stands in no list.
    fn check_own_core_ports(&self, found: &mut Vec<Contradiction>) {
        let ports = &self.node.core_ports;
        let mut say = |what: String| found.push(("core_ports", format!("node.core_ports: {what}")));
        if ports.is_empty() {
            return;
        }
        if self.own_entry().is_some() {
            say("this node is among the initial_nodes: give its core_ports there".to_owned());
            return;
        }
        let (count, cores) = (ports.len(), self.cores().count());
        if count != cores {
            say(format!("{count} ports for {cores} cores: give one for each, or none"));
        }
        let taken = [self.client_listen().port(), self.peer_listen().port()];
        for (place, port) in ports.iter().enumerate() {
            if *port == 0 {
                say("0 is no port that others can reach it at".to_owned());
            } else if taken.contains(port) || ports[..place].contains(port) {
                say(format!("port {port} is used twice"));
            }
        }
    }

    fn check_network(&self, found: &mut Vec<Contradiction>) {
        let (client, peer) = (self.client_listen(), self.peer_listen());
        if overlap(client, peer) {
            let what = format!(
                "network.client_listen: {client} is taken by peer_listen ({peer}): give the two \
                 different ports"
            );
            found.push(("client_listen", what));
        }
        for (name, address) in [("client_listen", client), ("peer_listen", peer)] {
            if address.port() == 0 {
                let what = format!("network.{name}: port 0 is no port: name one");
                found.push((name, what));
            }
        }
    }

    fn check_sizes(&self, found: &mut Vec<Contradiction>) {
        let limits = &self.limits;
        let framed = |bytes: usize| bytes.saturating_add(FRAME_OVERHEAD_BYTES);
        let mut least = |name: &'static str, value: usize, least: usize, why: &str| {
            if value < least {
                let mend = format!("{why}, so give at least {least}");
                found.push((name, format!("limits.{name}: {value} is too small: {mend}")));
            }
        };
        let command = limits.key_bytes_max.saturating_add(limits.value_bytes_max);
        let why = "a log entry holds a longest key with a longest value and 4096 bytes around them";
        least("entry_bytes_max", limits.entry_bytes_max, framed(command), why);
        for (name, bytes) in [
            ("entry_bytes_max", limits.entry_bytes_max),
            ("append_bytes_max", limits.append_bytes_max),
            ("snapshot_chunk_bytes", limits.snapshot_chunk_bytes),
        ] {
            let why = format!("a frame holds {name} ({bytes}) and 4096 bytes around it");
            least("frame_bytes_max", limits.frame_bytes_max, framed(bytes), &why);
        }
        let entry = limits.entry_bytes_max;
        let why = "what waits on a core holds an entry of entry_bytes_max";
        least("pending_bytes_max", limits.pending_bytes_max, entry, why);
        let why = "what waits of a client holds a longest command, which is as long as an entry";
        least("client_pending_bytes_max", limits.client_pending_bytes_max, entry, why);
        let why = "a follower's window holds an append of append_bytes_max";
        least("inflight_bytes_max", limits.inflight_bytes_max, limits.append_bytes_max, why);
        let why = "what waits for a node holds a frame of frame_bytes_max";
        least("peer_queue_bytes_max", limits.peer_queue_bytes_max, limits.frame_bytes_max, why);
        let output = limits.client_output_bytes_max;
        let why = "a reply holds a value of value_bytes_max";
        least("client_output_bytes_max", output, limits.value_bytes_max, why);
        let why = "a client is paused by client_output_pause_bytes before it is disconnected";
        least("client_output_bytes_max", output, limits.client_output_pause_bytes, why);
    }

    fn check_times(&self, found: &mut Vec<Contradiction>) {
        let limits = &self.limits;
        let ms = |duration: std::time::Duration| duration.as_millis();
        let support_min = limits.pulse_interval_ms * PULSES_PER_SUPPORT_MIN;
        if limits.support_duration_ms < support_min {
            let what = format!(
                "limits.support_duration_ms: {} is less than {PULSES_PER_SUPPORT_MIN} pulses of \
                 {} ms, so that one lost datagram would unseat leaders: give at least {}",
                ms(limits.support_duration_ms),
                ms(limits.pulse_interval_ms),
                ms(support_min)
            );
            found.push(("support_duration_ms", what));
        }
        if limits.peer_backoff_min_ms > limits.peer_backoff_max_ms {
            let what = format!(
                "limits.peer_backoff_max_ms: {} is below peer_backoff_min_ms ({})",
                ms(limits.peer_backoff_max_ms),
                ms(limits.peer_backoff_min_ms)
            );
            found.push(("peer_backoff_max_ms", what));
        }
        if limits.election_delay_min_ms >= limits.election_delay_max_ms {
            let what = format!(
                "limits.election_delay_max_ms: {} is not above election_delay_min_ms ({}): \
                 candidates need room to miss each other",
                ms(limits.election_delay_max_ms),
                ms(limits.election_delay_min_ms)
            );
            found.push(("election_delay_max_ms", what));
        }
    }
}

/// What is wrong with the list of nodes in itself.
pub(super) fn check_entries(nodes: &[NodeEntry], found: &mut Vec<Contradiction>) {
    let mut say =
        |what: String| found.push(("initial_nodes", format!("cluster.initial_nodes: {what}")));
    let mut addresses: Vec<(SocketAddr, u64)> = Vec::new();
    for (i, node) in nodes.iter().enumerate() {
        let id = node.id.0;
        if id == 0 {
            say("0 is no node's number: count from 1".to_owned());
        }
        if nodes[..i].iter().any(|other| other.id == node.id) {
            say(format!("node {id} is listed twice"));
        }
        if node.cores == 0 {
            say(format!("node {id} has no core: give it at least 1"));
        }
        let of_core = |port: &u16| SocketAddr::new(node.client_address.ip(), *port);
        let of_cores = node.core_ports.iter().map(of_core);
        for address in [node.peer_address, node.client_address].into_iter().chain(of_cores) {
            if address.port() == 0 || address.ip().is_unspecified() {
                say(format!("{address} of node {id} is no address that others can reach it at"));
            } else if let Some((_, other)) = addresses.iter().find(|(a, _)| *a == address) {
                say(format!("{address} is used by node {other} and again by node {id}"));
            }
            addresses.push((address, id));
        }
    }
}

/// Whether both cannot be listened on at once.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let wild = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && (a.ip() == b.ip() || wild)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use oarlock_types::NodeId;

    use super::super::SplitPoint;
    use super::super::cluster::tests::node;
    use super::*;

    fn three() -> Config {
        let mut config = Config::default();
        config.node.node_id = NodeId(1);
        config.node.data_dir = "/d".into();
        config.cluster.initial_nodes = vec![node(1), node(2), node(3)];
        config
    }

    /// The problems of the good configuration after one change.
    fn after(change: impl Fn(&mut Config)) -> Vec<String> {
        let mut config = three();
        change(&mut config);
        config.contradictions().into_iter().map(|(_, what)| what).collect()
    }

    #[track_caller]
    fn refused(part: &str, change: impl Fn(&mut Config)) {
        let found = after(change);
        assert!(found.iter().any(|what| what.contains(part)), "{part:?} not in {found:?}");
    }

    #[test]
    fn a_good_configuration_passes() {
        let mut config = three();
        assert!(config.validate().is_ok());
        config.cluster.initial_nodes.clear();
        assert!(config.validate().is_ok());
    }

    #[test]
    fn what_has_no_default_must_be_given() {
        refused("node.node_id is not set", |c| c.node.node_id = NodeId(0));
        refused("--data-dir", |c| c.node.data_dir = "".into());
    }

    #[test]
    fn a_node_that_joins_has_ports_of_its_own_or_none() {
        let joining = |ports: &[u16]| {
            let mut config = Config::default();
            config.node.data_dir = "/d".into();
            config.node.join = "10.0.0.1:6379".to_owned();
            config.node.core_ports = ports.to_vec();
            let found = config.contradictions().into_iter().map(|(_, what)| what);
            found.filter(|what| what.starts_with("node.core_ports")).collect::<Vec<_>>()
        };
        assert_eq!(joining(&[]), Vec::<String>::new());
        assert_eq!(joining(&[7001]), Vec::<String>::new());
        assert!(joining(&[7001, 7002])[0].contains("2 ports for 1 cores"));
        assert!(joining(&[0])[0].contains("0 is no port"));
        let client = Config::default().client_listen().port();
        assert!(joining(&[client])[0].contains("is used twice"));
        refused("among the initial_nodes", |c| c.node.core_ports = vec![7]);
    }

    #[test]
    fn cores_are_distinct_and_have_a_port_each_or_none() {
        refused("is empty", |c| c.node.cores = Some(Cores::Cpus(vec![])));
        refused("named twice", |c| c.node.cores = Some(Cores::Cpus(vec![1, 1])));
        assert_eq!(after(|c| c.node.cores = Some(Cores::Count(3))), Vec::<String>::new());
        refused("node 1 has 2 core_ports, and 3 cores here", |c| {
            c.cluster.initial_nodes[0].core_ports = vec![7, 8];
            c.node.cores = Some(Cores::Count(3));
        });
    }

    #[test]
    fn a_node_is_one_of_the_initial_nodes() {
        refused("4 is not among the initial_nodes (1, 2, 3)", |c| c.node.node_id = NodeId(4));
    }

    #[test]
    fn initial_nodes_are_distinct_and_reachable() {
        refused("node 2 is listed twice", |c| c.cluster.initial_nodes[2].id = NodeId(2));
        refused("count from 1", |c| c.cluster.initial_nodes[2].id = NodeId(0));
        refused("no core", |c| c.cluster.initial_nodes[2].cores = 0);
        refused("used by node 1 and again by node 3", |c| {
            c.cluster.initial_nodes[2].peer_address = c.cluster.initial_nodes[0].client_address;
        });
        refused("node 1 has 3 core_ports, and 2 cores here", |c| {
            c.cluster.initial_nodes[0].core_ports = vec![7, 8, 9];
        });
        refused("127.0.0.1:7 is used by node 2 and again by node 2", |c| {
            c.cluster.initial_nodes[1].core_ports = vec![7, 7];
        });
        refused("0.0.0.0:103 of node 3", |c| {
            c.cluster.initial_nodes[2].peer_address = "0.0.0.0:103".parse().unwrap();
        });
        refused("127.0.0.1:0 of node 3", |c| {
            c.cluster.initial_nodes[2].client_address.set_port(0);
        });
    }

    #[test]
    fn the_replication_factor_is_odd_and_fits() {
        refused("2 is even", |c| c.cluster.replication_factor = Some(2));
        refused("5 replicas need as many nodes", |c| c.cluster.replication_factor = Some(5));
    }

    #[test]
    fn split_points_are_sorted_and_agree_with_the_number_of_ranges() {
        let points = |texts: &[&str]| {
            texts.iter().map(|t| t.parse::<SplitPoint>().unwrap()).collect::<Vec<_>>()
        };
        refused("\"a\" does not come after \"b\"", |c| {
            c.cluster.split_points = points(&["b", "a"])
        });
        refused("does not come after", |c| c.cluster.split_points = points(&["a", "a"]));
        refused("the empty key", |c| c.cluster.split_points = points(&["", "a"]));
        refused("make 3 ranges, not 16", |c| {
            c.cluster.split_points = points(&["a", "b"]);
            c.cluster.initial_ranges = Some(16);
        });
        let mut config = three();
        config.cluster.split_points = points(&["a", "b"]);
        assert!(config.contradictions().is_empty());
    }

    #[test]
    fn the_two_ports_are_distinct() {
        refused("taken by peer_listen", |c| {
            c.network.client_listen = Some("0.0.0.0:101".parse().unwrap())
        });
        refused("port 0 is no port", |c| {
            c.network.peer_listen = Some("127.0.0.1:0".parse().unwrap())
        });
        let other = after(|c| c.network.client_listen = Some("127.0.0.2:101".parse().unwrap()));
        assert!(other.is_empty());
    }

    #[test]
    fn whatever_holds_something_is_large_enough_for_it() {
        refused("limits.entry_bytes_max", |c| c.limits.value_bytes_max = 2 << 20);
        refused("limits.frame_bytes_max", |c| c.limits.entry_bytes_max = 8 << 20);
        refused("append_bytes_max", |c| c.limits.append_bytes_max = 8 << 20);
        refused("snapshot_chunk_bytes", |c| c.limits.snapshot_chunk_bytes = 8 << 20);
        refused("limits.pending_bytes_max", |c| c.limits.pending_bytes_max = 1 << 20);
        refused("limits.inflight_bytes_max", |c| c.limits.inflight_bytes_max = 1 << 10);
        refused("limits.client_output_bytes_max", |c| c.limits.client_output_bytes_max = 1 << 10);
        refused("before it is disconnected", |c| c.limits.client_output_pause_bytes = 64 << 20);
        refused("limits.client_pending_bytes_max", |c| c.limits.client_pending_bytes_max = 1 << 20);
        refused("limits.peer_queue_bytes_max", |c| c.limits.peer_queue_bytes_max = 1 << 20);
    }

    #[test]
    fn support_outlasts_lost_pulses_and_candidates_miss_each_other() {
        refused("give at least 150", |c| c.limits.support_duration_ms = Duration::from_millis(149));
        refused("limits.peer_backoff_max_ms", |c| {
            c.limits.peer_backoff_max_ms = Duration::from_millis(1);
        });
        refused("room to miss each other", |c| {
            c.limits.election_delay_max_ms = c.limits.election_delay_min_ms;
        });
    }

    #[test]
    fn a_log_filter_is_one() {
        refused("log.log_level", |c| c.log.log_level = "oarlock=loud".to_owned());
        assert!(after(|c| c.log.log_level = "warn,oarlock::net=debug".to_owned()).is_empty());
    }
}
