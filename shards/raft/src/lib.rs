//! One Raft group's replica as a pure state machine: inputs in, [`Effects`] out, nothing called.
//!
//! The protocol is that of Ongaro's thesis with pre-vote, leader stickiness by support, parallel
//! durability, joint consensus with learners, ReadIndex and lease reads, and chunked snapshots.
//!
//! Map, in reading order. What is said: [`message`] is what replicas say to each other,
//! [`configuration`] who takes part, [`support`] what the node's pulses promise, [`effects`] what a
//! step asks the shard to do. What decides: [`group`] holds a replica and hands each input to its
//! matter; `follower`, `candidate` and `leader` are the roles; `vote` answers for votes, `append`
//! moves the log, `log` and `progress` remember it on both ends, `reads` answers reads, `release`
//! binds and frees, `transfer` hands over, `membership` changes who takes part, `snapshot` brings
//! stragglers back, `rebuild` takes back who has lost its log, `split` cuts a range in two, `invariants` says what always holds.

pub mod configuration;
pub mod effects;
pub mod group;
pub mod message;
pub mod support;

mod append;
mod candidate;
mod follower;
mod invariants;
mod leader;
mod log;
mod membership;
mod progress;
mod reads;
mod rebuild;
mod release;
mod residence;
mod snapshot;
mod split;
mod transfer;
mod vote;

pub use candidate::Candidate;
pub use configuration::Configuration;
pub use effects::{Effects, HardState, LogRead, ReadOutcome, SnapshotRead, SnapshotWrite};
pub use follower::Follower;
pub use group::{Durable, Group, GroupConfig, ProgressStatus, Restored, Role};
pub use leader::{Leader, ProposeError};
pub use membership::ChangeError;
pub use message::{
    Append, AppendOutcome, AppendReply, Body, Entry, LogPosition, Message, Payload, Rebuild,
    Release, SnapshotChunk, SnapshotMeta, VoteReply, VoteRequest,
};
pub use progress::{ProgressState, SnapshotSend};
pub use rebuild::Beginning;
pub use release::Binding;
pub use split::SPLIT_BASE;
pub use support::{Context, Grant, Received, Support};
pub use transfer::TransferError;
