//! The table of all keys: the only place where one is defined.
//!
//! A key's name is unique over all sections and ends with its unit; `peer_listen` is set by
//! `peer_listen` under `[network]`, by `OARLOCK_PEER_LISTEN`, and by `--peer-listen`.
//! Must not check one key against another: that is `validate`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use oarlock_cluster::NodeEntry;
use oarlock_types::{ClusterId, FeatureLevel, FeatureLevels, Limits, NodeId};

use super::cluster::SplitPoint;
use super::table::settings;
use super::value::{Cores, LogFormat};

/// The defaults of the engine's own bounds stand with them, in `oarlock_types`.
static ENGINE: LazyLock<Limits> = LazyLock::new(Limits::default);

settings! {
    /// This node: what differs from node to node.
    node: NodeSection {
        /// This node's number, one or more. It must be one of `initial_nodes`, and it never changes.
        /// A node that joins may leave it out, and gets one.
        node_id: NodeId = NodeId(0), in 1..=i64::MAX, like "1";
        /// Where the node keeps everything: its identity, its logs, its checkpoints.
        /// On a local disk whose file system supports O_DIRECT (ext4, xfs; not tmpfs).
        data_dir: PathBuf = PathBuf::new(), like "\"/var/lib/oarlock\"";
        /// The cores that serve: a number (CPUs are taken in order), or a list of CPUs to be pinned
        /// to, as in [2, 3]. A start with another number than before brings the node's replicas to them; then
        /// leave the `cores` in `initial_nodes` as they were, by which the cluster is known.
        /// Unset: as many as this node's entry in `initial_nodes` says; 1 if there is no list.
        cores: Option<Cores> = None, in 1..=1024, like "2";
        /// The client address (HOST:PORT, or several with commas) of a node of a running cluster that this
        /// node is to join. It needs no section `cluster` then. It may stay when the node has joined.
        join: String = String::new();
        /// Where a node that joins stands: replicas of a range are kept in different zones as far as there
        /// are some. Others have theirs in `initial_nodes`.
        zone: String = String::new();
        /// Of a node that joins: a port for clients of each core, at the host of its client address. Others have
        /// theirs in `initial_nodes`.
        core_ports: Vec<u16> = Vec::new(), like "[6380, 6381]";
        /// How many bytes of replicas this node has room for. Nodes get replicas in proportion to it, and none
        /// that would fill it beyond 85 percent. A start with another number than before changes it.
        /// Unset: the size of the file system that holds `data_dir`.
        capacity_bytes: Option<u64> = None, in 1_048_576..=i64::MAX, like "1_099_511_627_776";
        /// The newest feature level that this node makes use of: it behaves as a build that understands no more,
        /// and holds the cluster there, so that going back to the build before stays possible after an upgrade.
        /// Unset: all that the build understands.
        feature_level_max: Option<u32> = None, in 1..=65_535, like "1";
    }

    /// How the cluster is formed. It must be the same on every node.
    cluster: ClusterSection {
        /// Tells clusters apart: it goes into the derived cluster id.
        cluster_name: String = "oarlock".to_owned();
        /// The cluster's identity, 32 hexadecimal digits. Nodes of another one are refused.
        /// Unset: derived from all of this section but the client addresses, and from the limits that
        /// must be the same on every node. Before you change a node's address, set it to what
        /// `oarlock config show` prints.
        cluster_id: Option<ClusterId> = None, like "\"6f61726c6f636b000000000000000001\"";
        /// The nodes that form the cluster, with the addresses (IP:port) at which other nodes and
        /// clients reach them. With `core_ports = [6380, 6381]`, one for each core that serves, clients that know
        /// the map reach the very core that leads a range. With `zone = "rack-7"` replicas of a range are
        /// kept in different zones. Empty: this node alone is the cluster.
        initial_nodes: Vec<NodeEntry> = Vec::new(), like "[
  { id = 1, peer_address = \"10.0.0.1:16379\", client_address = \"10.0.0.1:6379\", cores = 2 },
  { id = 2, peer_address = \"10.0.0.2:16379\", client_address = \"10.0.0.2:6379\", cores = 2 },
  { id = 3, peer_address = \"10.0.0.3:16379\", client_address = \"10.0.0.3:6379\", cores = 2 },
]";
        /// How many ranges the keys are cut into, evenly over their first two bytes (three, if there are more
        /// than 65,536).
        /// Unset: 16, or as many as `split_points` make.
        initial_ranges: Option<u32> = None, in 1..=1_048_576, like "16";
        /// Where to cut instead: the first key of each range but the first, in order, as text or
        /// as 0x and hexadecimal digits. Evenly spaced points do not fit keys that begin alike.
        split_points: Vec<SplitPoint> = Vec::new(), like "[\"g\", \"p\", \"0xff00\"]";
        /// Replicas of each range: an odd number, at most the number of nodes.
        /// Unset: 3, or 1 if there are fewer than three nodes.
        replication_factor: Option<u32> = None, in 1..=9, like "3";
    }

    /// Where this node listens. What others are told stands in `initial_nodes`.
    network: NetworkSection {
        /// The address for clients (Redis protocol). There is no authentication: keep it private.
        /// Unset: `client_address` of this node in `initial_nodes`, else 127.0.0.1:6379.
        client_listen: Option<SocketAddr> = None, like "\"0.0.0.0:6379\"";
        /// The address for other nodes: TCP, and UDP on the same port for pulses.
        /// Unset: `peer_address` of this node in `initial_nodes`, else 127.0.0.1:16379.
        peer_listen: Option<SocketAddr> = None, like "\"0.0.0.0:16379\"";
        /// Where clients reach a node that joins. Unset: at `client_listen`.
        client_advertise: Option<SocketAddr> = None, like "\"10.0.0.4:6379\"";
        /// Where other nodes reach a node that joins. Unset: at `peer_listen`.
        peer_advertise: Option<SocketAddr> = None, like "\"10.0.0.4:16379\"";
    }

    /// Every bound: what one client, peer or group may make a node hold, and the protocol's times.
    limits: LimitsSection {
        /// Longest key.
        key_bytes_max: usize = ENGINE.key_bytes_max, in 16..=1_048_576;
        /// Longest value. It must be the same on every node.
        value_bytes_max: usize = ENGINE.value_bytes_max, in 1_024..=536_870_912;
        /// Most arguments of one command.
        command_args_max: usize = ENGINE.command_args_max, in 16..=1_048_576;
        /// Clients connected to this node at once; one more is told so and closed.
        clients_max: usize = 10_000, in 1..=1_000_000;
        /// Commands of one client that may wait for their outcome; it is not read from meanwhile.
        client_pending_count_max: usize = 1_024, in 1..=1_048_576;
        /// Bytes of the commands of one client that may wait for their outcome.
        client_pending_bytes_max: usize = 8 << 20, in 65_536..=4_294_967_296;
        /// Replies that a client has not read yet; beyond this no further command of it is started.
        client_output_pause_bytes: usize = 1 << 20, in 4_096..=4_294_967_296;
        /// Replies that a client has not read yet; one that lets more pile up is disconnected.
        client_output_bytes_max: usize = 32 << 20, in 65_536..=4_294_967_296;
        /// A client that sends nothing for so long is disconnected; 0 for never.
        client_idle_timeout_ms: Duration = Duration::ZERO, in 0..=86_400_000;
        /// A client that is silent for so long is probed, and disconnected if nobody answers.
        client_keepalive_ms: Duration = Duration::from_secs(300), in 1_000..=86_400_000;
        /// How long a command may take before the client is told that its outcome is unknown.
        request_timeout_ms: Duration = Duration::from_secs(5), in 100..=600_000;
        /// Commands of one core that may wait for their outcome; one more gets -BUSY.
        pending_count_max: usize = ENGINE.pending_count_max, in 16..=16_777_216;
        /// Bytes of the commands of one core that may wait for their outcome.
        pending_bytes_max: usize = ENGINE.pending_bytes_max, in 65_536..=17_179_869_184;
        /// Largest log entry: the commands of one turn to one group.
        entry_bytes_max: usize = ENGINE.entry_bytes_max, in 4_096..=1_073_741_824;
        /// Largest frame that is read from another node.
        frame_bytes_max: usize = ENGINE.frame_bytes_max, in 65_536..=1_073_741_824;
        /// Bytes that may wait to be sent to another node before that connection is given up.
        peer_queue_bytes_max: usize = 16 << 20, in 65_536..=4_294_967_296;
        /// How long connecting to another node and the handshake together may take.
        peer_connect_timeout_ms: Duration = Duration::from_secs(2), in 50..=60_000;
        /// How long sending to another node may make no progress.
        peer_write_timeout_ms: Duration = Duration::from_secs(2), in 50..=60_000;
        /// The first wait before a lost connection to another node is dialled again.
        peer_backoff_min_ms: Duration = Duration::from_millis(20), in 1..=60_000;
        /// The longest wait before a lost connection to another node is dialled again.
        peer_backoff_max_ms: Duration = Duration::from_secs(1), in 1..=600_000;
        /// Handshakes of other nodes that may be under way; beyond it the oldest is dropped.
        peer_handshakes_max: usize = 64, in 1..=65_536;
        /// Appends that a leader may have unacknowledged with one follower.
        inflight_messages_max: usize = ENGINE.inflight_messages_max, in 1..=65_536;
        /// Bytes of entries that a leader may have unacknowledged with one follower.
        inflight_bytes_max: usize = ENGINE.inflight_bytes_max, in 4_096..=1_073_741_824;
        /// Bytes of entries in one append (at least one entry goes).
        append_bytes_max: usize = ENGINE.append_bytes_max, in 4_096..=536_870_912;
        /// Bytes of a group's newest entries that stay in memory.
        log_cache_bytes_max: usize = ENGINE.log_cache_bytes_max, in 0..=1_073_741_824;
        /// Bytes of one piece of a snapshot.
        snapshot_chunk_bytes: usize = ENGINE.snapshot_chunk_bytes, in 4_096..=67_108_864;
        /// Bytes per second that one core sends as snapshots, as many as old entries that it reads of its log for
        /// followers that are behind, and as many that it writes as checkpoints; of the last two, four times what is
        /// written meanwhile besides. More is sooner done, and clients feel it more.
        snapshot_bytes_per_s_max: u64 = ENGINE.snapshot_bytes_per_s_max, in 65_536..=107_374_182_400;
        /// A group is checkpointed when its log outgrows its state, under this many bytes only if it
        /// makes its core's log long.
        compact_log_bytes_min: u64 = ENGINE.compact_log_bytes_min, in 65_536..=1_099_511_627_776;
        /// Bytes of entries that stay behind a checkpoint for followers that are slightly behind.
        compact_tail_bytes: u64 = ENGINE.compact_tail_bytes, in 0..=1_099_511_627_776;
        /// Free space under which writes get -DISKFULL, so that what is running can still finish.
        disk_reserve_bytes: u64 = 256 << 20, in 0..=1_099_511_627_776;
        /// How often a node sends its pulse to each other node.
        pulse_interval_ms: Duration = ENGINE.pulse_interval, in 5..=10_000;
        /// How long support lasts after a pulse: about the time to fail over a dead node.
        /// It must be the same on every node.
        support_duration_ms: Duration = ENGINE.support_duration, in 50..=60_000;
        /// By how much any node's clock may run fast or slow, in thousandths; twice that is taken off a
        /// lease. It must be the same on every node.
        drift_per_mille_max: u32 = ENGINE.drift_per_mille_max, in 1..=500;
        /// Shortest randomized wait of a replica that has lost its leader.
        election_delay_min_ms: Duration = ENGINE.election_delay_min, in 1..=60_000;
        /// Longest randomized wait of a replica that has lost its leader.
        election_delay_max_ms: Duration = ENGINE.election_delay_max, in 2..=60_000;
        /// How long a message of a group in flight goes unanswered before it is sent again.
        retry_interval_ms: Duration = ENGINE.retry_interval, in 10..=60_000;
    }

    /// When ranges are cut in two and merged by themselves. The node that leads a range, and for merges the one
    /// that leads the meta group, goes by its own settings.
    ranges: RangesSection {
        /// Bytes of keys and values from which on a range is cut; 0: whatever it grows to, it is not.
        range_bytes_max: u64 = 64 << 20, in 0..=1_099_511_627_776;
        /// Keys from which on a range is cut; 0: however many there are, it is not.
        range_keys_max: u64 = 128 << 10, in 0..=1_099_511_627_776;
        /// Requests per second from which on a range is cut, if that parts them; 0: however many there are, it is
        /// not.
        range_requests_per_s_max: u64 = 20_000, in 0..=1_000_000_000;
        /// For so long requests are watched before a range is cut for them.
        range_load_rest_ms: Duration = Duration::from_secs(10), in 1_000..=3_600_000;
        /// Neighbours that have stayed as they are for so long, and are far too small and cold together to be cut,
        /// are merged, as long as each core keeps four ranges; 0: none ever are.
        range_merge_rest_ms: Duration = Duration::from_secs(600), in 0..=86_400_000;
    }

    /// Where replicas go by themselves. The node that leads the meta group goes by its own settings.
    placement: PlacementSection {
        /// Replicas that are brought to other nodes at once, in the whole cluster; 0: none are, whatever
        /// happens.
        placement_moves_max: usize = 8, in 0..=4_096;
        /// The replicas of a node that nothing was heard of for so long are made anew elsewhere.
        placement_gone_after_ms: Duration = Duration::from_secs(300), in 1_000..=86_400_000;
    }

    /// The log, on standard error.
    log: LogSection {
        /// `human` or `json`.
        log_format: LogFormat = LogFormat::Human;
        /// error, warn, info, debug or trace; or a filter by module, as in "info,oarlock::net=debug".
        log_level: String = "info".to_owned();
    }
}

impl super::Config {
    /// The feature levels that this node understands, or is to behave as if it did.
    #[must_use]
    pub fn levels(&self) -> FeatureLevels {
        let held = self.node.feature_level_max;
        FeatureLevels::held(held.and_then(|at| u16::try_from(at).ok()).map(FeatureLevel))
    }

    /// The engine's bounds, as `shards/` takes them.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let limits = &self.limits;
        Limits {
            key_bytes_max: limits.key_bytes_max,
            value_bytes_max: limits.value_bytes_max,
            command_args_max: limits.command_args_max,
            entry_bytes_max: limits.entry_bytes_max,
            frame_bytes_max: limits.frame_bytes_max,
            pending_count_max: limits.pending_count_max,
            pending_bytes_max: limits.pending_bytes_max,
            inflight_messages_max: limits.inflight_messages_max,
            inflight_bytes_max: limits.inflight_bytes_max,
            append_bytes_max: limits.append_bytes_max,
            log_cache_bytes_max: limits.log_cache_bytes_max,
            snapshot_chunk_bytes: limits.snapshot_chunk_bytes,
            snapshot_bytes_per_s_max: limits.snapshot_bytes_per_s_max,
            compact_log_bytes_min: limits.compact_log_bytes_min,
            compact_tail_bytes: limits.compact_tail_bytes,
            pulse_interval: limits.pulse_interval_ms,
            support_duration: limits.support_duration_ms,
            drift_per_mille_max: limits.drift_per_mille_max,
            election_delay_min: limits.election_delay_min_ms,
            election_delay_max: limits.election_delay_max_ms,
            retry_interval: limits.retry_interval_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::value::Kind;

    #[test]
    fn names_are_unique_because_they_make_flags_and_variables() {
        let mut names: Vec<_> = KEYS.iter().map(|key| key.name).collect();
        names.push("config");
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn every_key_is_documented_and_has_a_default_or_an_example() {
        for key in KEYS {
            assert!(key.doc.trim().ends_with('.'), "{}: {}", key.path(), key.doc);
            let default = key.value(&Config::default());
            assert!(default.is_some() != key.example.is_some(), "{}", key.path());
        }
        assert!(SECTIONS.iter().all(|(_, doc)| doc.trim().ends_with('.')));
    }

    #[test]
    fn numbers_have_units_and_ranges_that_hold_their_defaults() {
        for key in KEYS {
            assert_eq!(key.kind == Kind::Milliseconds, key.name.ends_with("_ms"), "{}", key.name);
            let default = key.value(&Config::default());
            if let Some(number) = default.as_ref().and_then(toml::Value::as_integer) {
                let range = key.range.as_ref().expect("a number has a range");
                assert!(range.contains(&number), "{}", key.path());
            }
        }
    }

    #[test]
    fn the_engine_s_defaults_are_the_configuration_s_defaults() {
        assert_eq!(Config::default().limits(), Limits::default());
    }
}
