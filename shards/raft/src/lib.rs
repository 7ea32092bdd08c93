//! One Raft group's replica as a pure state machine: inputs in, [`Effects`] out, nothing called.
//!
//! The protocol is that of Ongaro's thesis with pre-vote, leader stickiness by support, parallel
//! durability, joint consensus with learners, ReadIndex and lease reads, and chunked snapshots.
//!
//! Map: [`message`] is what replicas say to each other, [`configuration`] who takes part,
//! [`support`] what the node's pulses promise, [`effects`] what a step asks the shard to do.

pub mod configuration;
pub mod effects;
pub mod message;
pub mod support;

pub use configuration::Configuration;
pub use effects::{Effects, HardState, LogRead, ReadOutcome, SnapshotRead, SnapshotWrite};
pub use message::{
    Append, AppendOutcome, AppendReply, Body, Entry, LogPosition, Message, Payload, Release,
    SnapshotChunk, SnapshotMeta, VoteReply, VoteRequest,
};
pub use support::{Context, Grant, Received, Support};
