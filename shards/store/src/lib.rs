//! One range's key-value state: an ordered map that changes only by deterministic commands.
//!
//! The same entries in the same order give the same state, the same replies and the same checkpoint
//! bytes on every replica: time is the leader's stamp in the entry, and nothing else is asked.
//!
//! Map, in reading order: [`command`] is what a client may ask of one range, [`order`] what operators may, [`keys`] which of
//! its keys that names, [`reply`] what it may hear, [`batch`] how an entry carries commands. [`store`] holds the
//! state and `apply` changes it: by `write` and `read` for commands, `numbers` for Redis's arithmetic,
//! `once` for request ids, `expiry`, `map` and `key` underneath. [`checkpoint`] writes the state out in slices, [`load`] reads it
//! back, [`split`] cuts a range in two and frees what is no longer needed, [`merge`] brings one into its neighbour.

mod apply;
pub mod batch;
pub mod checkpoint;
pub mod command;
mod expiry;
mod key;
pub mod keys;
pub mod load;
mod map;
pub mod merge;
mod numbers;
mod once;
pub mod order;
mod read;
pub mod reply;
mod reply_bytes;
pub mod split;
pub mod store;
mod write;

pub use batch::{DecodeError, decode, encode, pack, unpack};
pub use checkpoint::CheckpointProgress;
pub use command::{Absorb, Batch, Command, ExpireCondition, Expiry, Request, SetCondition, Watch};
pub use keys::Keys;
pub use load::{LoadError, Loader};
pub use merge::Frozen;
pub use order::{Order, RangeReport};
pub use reply::{ErrorReply, Reply};
pub use split::{SplitPoint, SplitSearch};
pub use store::{Store, StoreLimits};
