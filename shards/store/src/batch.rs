//! A batch as the bytes of a log entry and back. Pure functions.
//!
//! They must not change the archive's layout without a new version of the frames that carry it.

use std::fmt;

use bytes::Bytes;
use rkyv::rancor;
use rkyv::util::AlignedVec;

use crate::command::{ArchivedBatch, Batch};

/// The bytes are no batch. They come from a checksummed frame, so this is a foreign format or a
/// bug, never a flipped bit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    reason: String,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a log entry does not hold a batch of commands: {}", self.reason)
    }
}

impl std::error::Error for DecodeError {}

/// The batch as an rkyv archive.
#[must_use]
pub fn encode(batch: &Batch) -> Bytes {
    let archive = rkyv::to_bytes::<rancor::Error>(batch)
        .expect("invariant: a batch in memory is shorter than 2 GiB");
    Bytes::from_owner(archive)
}

/// Validates `bytes` and reads the batch. Every byte string of the result owns its memory, so what
/// a store keeps of it does not keep the entry alive.
///
/// # Errors
/// If the bytes are not a whole, valid archive of a batch.
pub fn decode(bytes: &[u8]) -> Result<Batch, DecodeError> {
    // Entries that came off the wire or the disk sit in allocations of their own, which are
    // aligned; a copy is paid only for a slice out of the middle of something.
    if bytes.as_ptr().align_offset(align_of::<ArchivedBatch>()) == 0 {
        return decode_aligned(bytes);
    }
    let mut copy = AlignedVec::<16>::with_capacity(bytes.len());
    copy.extend_from_slice(bytes);
    decode_aligned(&copy)
}

fn decode_aligned(bytes: &[u8]) -> Result<Batch, DecodeError> {
    rkyv::from_bytes::<Batch, rancor::Error>(bytes)
        .map_err(|error| DecodeError { reason: error.to_string() })
}
