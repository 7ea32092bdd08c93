//! The write-ahead log of one core as a pure function of bytes: records in, frames out, and back.
//!
//! The log is a row of segment files. Each turn of the core queues its records with
//! [`Wal::append`]; [`Wal::seal`] makes the next frame of them, one at a time; [`Wal::durable`] says
//! that it is on disk. Nothing here reads or writes a file: the driver does, where and what it is
//! told. `docs/FORMAT.md` draws the bytes.
//!
//! What holds:
//! 1. A byte is written once in a segment's life. A torn write harms no durable frame.
//! 2. [`Recovery`] gives back exactly the records up to the last whole frame: nothing that was
//!    reported durable is missing, nothing is there that was not appended, and what can not be
//!    vouched for is named as [`Damage`].
//! 3. A segment leaves the log only when nothing in it is needed, by order of durable frames, and
//!    the oldest first: the remaining ones alone rebuild every group.
//! 4. A recycled segment's former frames are void: they bear another salt.
//! 5. After [`Wal::fail`] no frame is given out.
//!
//! Map: [`wal`] runs the log, [`read`] finds entries and stragglers again, [`recovery`] rebuilds it,
//! [`damage`] names what is wrong, [`layout`] places each byte; `index` and `segments` know what is
//! where, `replay` what it means.

pub mod damage;
mod index;
pub mod layout;
pub mod read;
pub mod recovery;
mod replay;
mod segments;
pub mod wal;

pub use damage::{Affected, Damage, DamageKind};
pub use layout::Owner;
pub use read::{EntriesRead, ReadError, Rewritten, Straggler};
pub use recovery::{Recovered, Recovery, SegmentReport};
pub use replay::{RecoveredGroup, Suspicion};
pub use segments::FrameSpan;
pub use wal::{Addition, FrameWrite, Wal, WalConfig};
