//! One core's engine: many groups, one log, no clock, no socket, no file.
//!
//! Map: [`shard`] is the turn, `requests` the way of a client's command, `effects` carries out
//! what Raft asks for, `checkpoints` and `snapshots` move state to and from files, `log_reads` reads old
//! entries back, `relief` keeps the log short, `news` tells groups of links and support, `upkeep` is what
//! happens a few times a second, `load` counts what ranges are asked, [`due_splits`] says which should be cut,
//! [`split`] cuts them in two, `merges` brings them into their neighbours,
//! [`moves`] brings replicas to other nodes, [`hand_over`] to other cores, `residence` tells on which one is, [`relocation`] brings all to
//! another number of cores, `orders` takes what is asked of a range, [`homes`] says which
//! core has what, [`rebuild`] brings back replicas that have lost their log, [`pulse`] and [`support_table`] are
//! liveness for the whole node, [`output`] what the driver is asked to do, [`status`] what a person may ask, `administration` what an operator may do, `observe` what the
//! simulator reads.

mod administration;
mod admission;
mod checkpoints;
pub mod due_splits;
mod effects;
mod elections;
mod files;
pub mod hand_over;
pub mod homes;
mod load;
mod log_reads;
pub mod losses;
mod merges;
pub mod moves;
mod news;
mod observe;
mod orders;
pub mod output;
pub mod pulse;
pub mod rebuild;
mod relief;
pub mod relocation;
mod replica;
mod requests;
mod residence;
mod seed;
pub mod shard;
mod snapshots;
pub mod split;
pub mod status;
mod stays;
pub mod support_changes;
pub mod support_table;
mod timers;
mod upkeep;
mod walk;

pub use due_splits::{DueSplit, HotKey, SplitReason, SplitSettings};
pub use hand_over::{HandOver, MoveError};
pub use homes::{Homes, SharedHomes};
pub use load::RequestRates;
pub use output::{
    CheckpointFile, FileDone, FileJob, JobToken, Merging, Outcome, Output, Split, Wanted,
};
pub use seed::{ReplicaSeed, base_of};
pub use shard::{Shard, ShardConfig};
pub use stays::Stayed;
pub use support_table::SupportTable;

/// The table as the cores of a node and its pulse thread share it.
#[allow(clippy::disallowed_types, reason = "the one thing that cores share; atomics only")]
pub type SharedSupport = std::sync::Arc<SupportTable>;
