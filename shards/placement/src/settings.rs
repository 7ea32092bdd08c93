//! What an operator may set about placement, with units and defaults.

/// Thresholds and rates. How many bytes a second a move may copy is the executor's to bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Milliseconds after which a node that is down counts as gone, and its replicas are replaced.
    pub gone_after_ms: u64,
    /// Replicas that are added or replaced at the same time, in the whole cluster.
    pub moves_max: usize,
    /// Replicas that a node receives or, while it is up, gives away at the same time.
    pub moves_per_node_max: usize,
    /// Leaders that are transferred, and members that are removed, at the same time.
    pub transfers_max: usize,
    /// Replicas of a node that change their core at the same time.
    pub core_moves_per_node_max: usize,
    /// Splits, and pairs of ranges that are merged or prepared for it, at the same time.
    pub reshapes_max: usize,
    /// A node gets no replica that would fill more than this part of its capacity.
    pub fill_percent_max: u32,
    /// Differences between nodes below this part of a fair share of replicas rest.
    pub replica_slack_percent: u32,
    /// The same for a fair share of leaders.
    pub leader_slack_percent: u32,
    /// The same for a fair share of bytes, writes or reads.
    pub load_slack_percent: u32,
    /// The same for cores of a node.
    pub core_slack_percent: u32,
    /// Requests per second and core below which differences of load matter less and less.
    pub load_floor_per_core: u64,
    /// How uneven the cores of a node may become for two replicas of a range to share a core
    /// number, in parts of a fair share.
    pub align_percent: u32,
    /// A range of this many bytes is split.
    pub split_bytes: u64,
    /// A range of this many keys is split.
    pub split_keys: u64,
    /// A range of this many requests per second is split if samples know where.
    pub split_load_per_s: u64,
    /// Milliseconds after a split before the load of its parts is believed.
    pub split_rest_ms: u64,
    /// Two neighbours are merged if both together stay below this part of what would be split.
    pub merge_percent: u32,
    /// Bytes of the right one of two neighbours up to which they are merged.
    pub merge_bytes_max: u64,
    /// Splits are planned here; else whoever leads a range cuts it.
    pub plans_splits: bool,
    /// Merges are planned; else ranges stay what they are.
    pub plans_merges: bool,
    /// Milliseconds after a split before its parts may be merged.
    pub merge_rest_ms: u64,
    /// Ranges for each core that is up below which nothing is merged: idle cores help nobody.
    pub ranges_per_core_min: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            gone_after_ms: 300_000,
            moves_max: 64,
            moves_per_node_max: 4,
            transfers_max: 64,
            core_moves_per_node_max: 2,
            reshapes_max: 16,
            fill_percent_max: 85,
            replica_slack_percent: 2,
            leader_slack_percent: 5,
            load_slack_percent: 10,
            core_slack_percent: 10,
            load_floor_per_core: 1_000,
            align_percent: 5,
            split_bytes: 64 << 20,
            split_keys: 128 << 10,
            split_load_per_s: 20_000,
            split_rest_ms: 30_000,
            merge_percent: 25,
            merge_bytes_max: 512 << 10,
            plans_splits: true,
            plans_merges: true,
            merge_rest_ms: 600_000,
            ranges_per_core_min: 4,
        }
    }
}
