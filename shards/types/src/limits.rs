//! Every bound of the engine in one place, with its default. The configuration file sets them.

use std::time::Duration;

/// Bounds as all that lives by them shares them: replicas go from core to core with theirs.
#[allow(clippy::disallowed_types, reason = "what is shared never changes")]
pub type SharedLimits = std::sync::Arc<Limits>;

/// Bounds on what one client, peer or group may make a node hold, and the times of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest key, in bytes.
    pub key_bytes_max: usize,
    /// Longest value, in bytes.
    pub value_bytes_max: usize,
    /// Most arguments of one client command.
    pub command_args_max: usize,
    /// Largest log entry (one turn's commands of one group), in bytes. A frame holds at least one.
    pub entry_bytes_max: usize,
    /// Largest peer frame that is read, in bytes.
    pub frame_bytes_max: usize,
    /// Commands of one core that may wait for their outcome.
    pub pending_count_max: usize,
    /// Bytes of commands of one core that may wait for their outcome.
    pub pending_bytes_max: usize,
    /// Append messages that a leader may have unacknowledged with one follower.
    pub inflight_messages_max: usize,
    /// Bytes of entries that a leader may have unacknowledged with one follower.
    pub inflight_bytes_max: usize,
    /// Bytes of entries in one append message (at least one entry goes).
    pub append_bytes_max: usize,
    /// Bytes of a group's newest entries that stay in memory once they are applied everywhere.
    pub log_cache_bytes_max: usize,
    /// Bytes of one snapshot chunk.
    pub snapshot_chunk_bytes: usize,
    /// Bytes per second that one core sends as snapshots; four times as many as old entries that it reads of its
    /// log for followers that are behind.
    pub snapshot_bytes_per_s_max: u64,
    /// A group is checkpointed when its log outgrows its state, under this many bytes only if it
    /// makes its core's log long.
    pub compact_log_bytes_min: u64,
    /// Entries' bytes that stay behind a checkpoint for followers that are slightly behind.
    pub compact_tail_bytes: u64,
    /// How often a node sends its pulse to another.
    pub pulse_interval: Duration,
    /// How long support lasts after a pulse.
    pub support_duration: Duration,
    /// By how much any node's clock may run fast or slow, in thousandths. Both ends of a promise
    /// may be off, so twice that is taken off a lease.
    pub drift_per_mille_max: u32,
    /// Shortest randomized wait of a replica that has lost its leader.
    pub election_delay_min: Duration,
    /// Longest randomized wait of a replica that has lost its leader.
    pub election_delay_max: Duration,
    /// How long a message of a group in flight goes unanswered before it is sent again.
    pub retry_interval: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            key_bytes_max: 32 << 10,
            value_bytes_max: 1 << 20,
            command_args_max: 64 << 10,
            entry_bytes_max: 2 << 20,
            frame_bytes_max: 8 << 20,
            pending_count_max: 64 << 10,
            pending_bytes_max: 64 << 20,
            inflight_messages_max: 256,
            inflight_bytes_max: 4 << 20,
            append_bytes_max: 512 << 10,
            log_cache_bytes_max: 256 << 10,
            snapshot_chunk_bytes: 256 << 10,
            snapshot_bytes_per_s_max: 16 << 20,
            compact_log_bytes_min: 4 << 20,
            compact_tail_bytes: 1 << 20,
            pulse_interval: Duration::from_millis(50),
            support_duration: Duration::from_millis(750),
            drift_per_mille_max: 20,
            election_delay_min: Duration::from_millis(20),
            election_delay_max: Duration::from_millis(200),
            retry_interval: Duration::from_millis(200),
        }
    }
}
