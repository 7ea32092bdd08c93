//! Going on after the loss of a quorum for good: what stopped survivors still have, what is to be done with it, and
//! what that puts into their logs. `docs/decisions/0012-recovery-after-loss-of-quorum.md` argues why it is safe for
//! what survives. Pure, and nothing here is used by a node that runs: the node's package has the directories, and
//! the simulator its own disks.
//!
//! Map: [`state`] is what one survivor has, [`collect`] makes it of its logs as they were read; [`decide`] makes a
//! [`plan`] of all survivors' states; [`records`] are what a plan puts into a log, and [`mod@apply`] says what of
//! that is left to be put there. [`fields`] is how numbers stand in the two files.

pub mod apply;
pub mod collect;
pub mod decide;
pub mod fields;
pub mod plan;
pub mod records;
pub mod state;
