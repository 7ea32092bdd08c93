//! What a step asks the shard to do. One reused out-parameter; the order of its parts is fixed.

use bytes::Bytes;
use oarlock_types::{Index, NodeId, Term};
use rkyv::{Archive, Deserialize, Serialize};

use crate::{Entry, LogPosition, Message, SnapshotMeta};

/// What must be durable before this replica says anything that depends on it (Raft figure 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct HardState {
    /// The current term.
    pub term: Term,
    /// Whom this replica voted for in it.
    pub vote: Option<NodeId>,
}

/// The effects of one or more steps, accumulated until the shard takes them.
///
/// The shard performs them in this order: `hard_state` and `append` go into the turn's WAL batch;
/// `send_now` leaves with the turn; `send_after_durable` leaves when that batch is durable;
/// `apply` is applied in order, once each; the rest are requests that are answered by inputs.
#[derive(Debug, Default)]
pub struct Effects {
    /// To be made durable with this turn's batch.
    pub hard_state: Option<HardState>,
    /// To be appended to the log; an entry at an index that the log has replaces it and all after.
    /// When durable, the shard answers with `Group::durable` and the last of these positions.
    pub append: Vec<Entry>,
    /// Messages that claim nothing about this replica's disk.
    pub send_now: Vec<(NodeId, Message)>,
    /// Messages that are true only once this turn's batch is durable.
    pub send_after_durable: Vec<(NodeId, Message)>,
    /// Newly committed entries, in order, none left out, none twice.
    pub apply: Vec<Entry>,
    /// Reads that were decided.
    pub reads: Vec<ReadOutcome>,
    /// Log entries that are no longer in memory and are wanted for a follower.
    pub log_reads: Vec<LogRead>,
    /// Pieces of the newest checkpoint that are wanted for a follower.
    pub snapshot_reads: Vec<SnapshotRead>,
    /// A piece of a checkpoint that came from the leader.
    pub snapshot_writes: Vec<SnapshotWrite>,
    /// Role, term or known leader changed: pending requests and hints must be looked at.
    pub status_changed: bool,
    /// A configuration has committed.
    pub settled: bool,
}

impl Effects {
    /// Forgets everything, keeps the room.
    pub fn clear(&mut self) {
        self.hard_state = None;
        self.append.clear();
        self.send_now.clear();
        self.send_after_durable.clear();
        self.apply.clear();
        self.reads.clear();
        self.log_reads.clear();
        self.snapshot_reads.clear();
        self.snapshot_writes.clear();
        self.status_changed = false;
        self.settled = false;
    }
}

/// What became of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// Linearizable once this replica has applied `index`.
    Ready {
        /// The caller's token.
        token: u64,
        /// Apply up to here first.
        index: Index,
    },
    /// Not to be had here now; try the leader.
    Refused {
        /// The caller's token.
        token: u64,
    },
}

/// Wanted: entries `from..=to` of the WAL for a follower. Answered by `Group::log_read`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRead {
    /// Whom they are for.
    pub to_node: NodeId,
    /// The first.
    pub from: Index,
    /// The last.
    pub to: Index,
}

/// Wanted: a piece of the newest checkpoint for a follower. Answered by `Group::snapshot_read`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotRead {
    /// Whom it is for.
    pub to_node: NodeId,
    /// Which checkpoint: the one last given to `Group::compact`.
    pub position: LogPosition,
    /// From this byte; `None` for the offer, which only needs the meta data.
    pub offset_bytes: Option<u64>,
}

/// A piece of a checkpoint to be kept. Answered by `Group::snapshot_written`, and when the whole is
/// there, verified, loaded and durable, by `Group::snapshot_installed`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotWrite {
    /// Who sent it.
    pub from_node: NodeId,
    /// Which checkpoint.
    pub meta: SnapshotMeta,
    /// Where the piece goes.
    pub offset_bytes: u64,
    /// The piece; empty for the offer.
    pub data: Bytes,
}
