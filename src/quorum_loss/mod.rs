//! Going on after the loss of a quorum for good, on the directories of stopped survivors: what is decided, and what
//! that puts into their logs, is `shards/survivors`. `docs/decisions/0012-recovery-after-loss-of-quorum.md` argues why
//! it is safe for what survives. Nothing here is used by a node that runs.
//!
//! Map: [`collect`] reads what one survivor has, [`apply`] carries a plan out, [`mod@file`] is what both are written down
//! in between hosts.

pub mod apply;
pub mod collect;
pub mod file;
