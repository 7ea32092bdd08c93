//! One range's key-value state: an ordered map that changes only by deterministic commands.
//!
//! Map: [`command`] is what a client may ask of one range, [`reply`] what it may hear.

pub mod command;
pub mod reply;

pub use command::{Batch, Command, ExpireCondition, Expiry, Request, SetCondition, Watch};
pub use reply::{ErrorReply, Reply};
