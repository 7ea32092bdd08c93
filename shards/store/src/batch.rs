//! A batch as the bytes of a log entry and back. Pure functions.
//!
//! Two forms: an archive, and a packed one of little more than keys and values, which clusters of
//! [`oarlock_types::FeatureLevel::PACKED`] write. They must not change the archive's layout without a new version of
//! the frames that carry it; in the packed form the order of fields and variants is the format.

use std::fmt;

use bytes::Bytes;
use rkyv::rancor;
use rkyv::util::AlignedVec;

use crate::command::{ArchivedBatch, Batch, Request};

/// A stamp and a count, at most.
const STAMP_BYTES: usize = 20;

/// The bytes are no batch. They come from a checksummed frame, so this is a foreign format or a
/// bug, never a flipped bit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    reason: String,
}

impl DecodeError {
    /// For this reason.
    pub fn new(reason: impl fmt::Display) -> Self {
        Self { reason: reason.to_string() }
    }
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

/// The batch in the packed form.
#[must_use]
pub fn pack(batch: &Batch) -> Bytes {
    let bytes: usize = batch.requests.iter().map(Request::size_bytes).sum();
    let room = Vec::with_capacity(STAMP_BYTES + bytes);
    let packed = postcard::to_extend(batch, room);
    packed.expect("invariant: what is proposed is no order, and all else can be packed").into()
}

/// Reads the packed form. What of it a store keeps does not keep the entry alive.
///
/// # Errors
/// If the bytes are not a whole batch in that form.
pub fn unpack(bytes: &[u8]) -> Result<Batch, DecodeError> {
    let (batch, rest) = postcard::take_from_bytes(bytes).map_err(DecodeError::new)?;
    match rest {
        [] => Ok(batch),
        rest => Err(DecodeError::new(format_args!("{} bytes too many", rest.len()))),
    }
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
    rkyv::from_bytes::<Batch, rancor::Error>(bytes).map_err(DecodeError::new)
}

#[cfg(test)]
mod tests {
    use oarlock_types::{GroupId, RangeEpoch, WallMs};

    use super::*;
    use crate::command::{Absorb, Command, Expiry, SetCondition};

    fn batch() -> Batch {
        let (key, value) = (Bytes::from_static(b"some key"), Bytes::from(vec![7; 128]));
        let (condition, expiry) = (SetCondition::Always, Expiry::None);
        let set = Command::Set { key, value, condition, expiry, get: false };
        Batch { stamp: WallMs(1_795_361_650_000), requests: vec![Request::one(set)] }
    }

    #[test]
    fn a_packed_write_is_little_more_than_its_key_and_value() {
        let packed = pack(&batch());
        assert!(packed.len() <= 8 + 128 + 20, "{}", packed.len());
        assert_eq!(unpack(&packed), Ok(batch()));
    }

    #[test]
    fn what_stands_behind_orders_is_read_as_it_is_packed() {
        let bounds = (Bytes::from_static(b"k"), RangeEpoch(3), RangeEpoch(4));
        let (start, epoch, frozen) = bounds;
        let contents = Bytes::from_static(b"all of it");
        let absorb = Absorb { start, epoch, group: GroupId(7), frozen, contents };
        let requests = vec![Request::one(Command::Absorb(absorb))];
        let batch = Batch { requests, ..batch() };
        assert_eq!(unpack(&pack(&batch)), Ok(batch));
    }

    #[test]
    fn what_is_cut_or_too_long_is_no_batch() {
        let packed = pack(&batch());
        for cut in 0..packed.len() {
            assert!(unpack(&packed[..cut]).is_err(), "cut at {cut}");
        }
        let error = unpack(&[&packed, &b"\0\0"[..]].concat()).unwrap_err();
        assert!(error.to_string().ends_with("2 bytes too many"), "{error}");
    }
}
