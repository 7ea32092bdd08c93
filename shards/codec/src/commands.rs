//! The commands of a log entry, in whichever form they stand there.

use oarlock_raft::Payload;
use oarlock_store::{Batch, DecodeError, decode, encode, pack, unpack};
use oarlock_types::FeatureLevel;

/// A batch as what an entry of a cluster at this level says.
#[must_use]
pub fn payload(batch: &Batch, level: FeatureLevel) -> Payload {
    if level >= FeatureLevel::PACKED {
        Payload::Packed(pack(batch))
    } else {
        Payload::Commands(encode(batch))
    }
}

/// The batch that an entry holds.
///
/// # Errors
/// If it holds none.
pub fn batch(payload: &Payload) -> Result<Batch, DecodeError> {
    match payload {
        Payload::Commands(bytes) => decode(bytes),
        Payload::Packed(bytes) => unpack(bytes),
        Payload::Noop | Payload::Config(_) | Payload::Split(_) | Payload::Merge(_) => {
            Err(DecodeError::new("it says something else"))
        }
    }
}
