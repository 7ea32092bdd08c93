//! What a client hears, without a protocol version. The listener gives it RESP2 or RESP3 bytes.

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};

/// A reply to a request.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(serialize_bounds(
    __S: rkyv::ser::Writer + rkyv::ser::Allocator,
    __S::Error: rkyv::rancor::Source,
))]
#[rkyv(deserialize_bounds(__D::Error: rkyv::rancor::Source))]
#[rkyv(bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: rkyv::rancor::Source)))]
pub enum Reply {
    /// `+OK`.
    Ok,
    /// A simple string from a fixed set (`string`, `none`, `QUEUED`…).
    Simple(String),
    /// The null reply.
    Nil,
    /// An integer.
    Int(i64),
    /// A byte string.
    Bulk(Bytes),
    /// Several replies.
    Array(#[rkyv(omit_bounds)] Vec<Reply>),
    /// An error; nothing was changed.
    Error(ErrorReply),
}

/// The errors that a range's store gives, each with Redis's own text. Part of the replicated
/// state's outputs, so deterministic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum ErrorReply {
    /// `ERR value is not an integer or out of range`
    NotAnInteger,
    /// `ERR value is not a valid float`
    NotAFloat,
    /// `ERR increment or decrement would overflow`
    Overflow,
    /// `ERR increment would produce NaN or Infinity`
    NotFinite,
    /// `ERR string exceeds maximum allowed size (value_bytes_max)`
    ValueTooLarge,
    /// `ERR invalid expire time`
    InvalidExpire,
    /// `-BUSY` the range holds as many ONCE ids as it may
    OnceTableFull,
    /// `ERR` what is asked of a range stands alone in its request
    OrderNotAlone,
    /// `ERR` the key is the first of its range: there is nothing before it to be cut off
    NothingToSplit,
    /// `-BUSY` the range is changing already
    RangeIsChanging,
    /// `ERR` a node that is named is none of the cluster's
    NoSuchNode,
    /// `ERR` not all nodes of the cluster understand what is asked
    LevelTooLow,
    /// `ERR` there is no range before it that could take its keys
    NothingToMerge,
    /// `ERR` the range is too large to be brought into its neighbour (half of value_bytes_max)
    TooLargeToMerge,
    /// `ERR` the node has no such core
    NoSuchCore,
}
