//! Bytes of Oarlock: frames between nodes and records of the write-ahead log.
//!
//! Archives are rkyv's and are always validated before they are read; lengths, versions and
//! checksums stand outside them, so that nothing is trusted and nothing is allocated before a
//! length has been held against its bound. Nothing here decides anything or keeps state of a
//! group. `docs/FORMAT.md` draws every layout byte by byte.
//!
//! Map: [`peer`] is what nodes say to each other, [`frame`] gives it a header and a checksum,
//! [`record`] is what a core's log holds, [`split`] what an entry says that cuts or merges a range,
//! `archive` the one place that calls rkyv.

mod archive;
pub mod commands;
pub mod frame;
pub mod peer;
pub mod record;
pub mod split;

pub use frame::{Decoder, Frame, FrameError, Framed, Header, Kind};
pub use peer::{
    ForwardReply, ForwardRequest, GroupMessage, Handshake, HandshakeRefusal, HandshakeReply, Lane,
    LinkProbe, Refusal,
};
pub use record::{BadRecord, RawRecord, Record, RecordKind};
pub use split::{MergeEntry, SplitEntry};
