//! Going on after the loss of a quorum for good: what stopped survivors still have, what is to be done
//! with it, and doing it. `docs/decisions/0012-recovery-after-loss-of-quorum.md` argues why it is safe
//! for what survives. Nothing here is used by a node that runs.
//!
//! Map: [`state`] is what one survivor has, [`collect`] reads it from its directory; [`decide`] makes a
//! [`plan`] of all survivors' states, a pure function; [`records`] are what a plan puts into a log, and
//! [`apply`] puts them there. [`fields`] is how numbers stand in the two files.

pub mod apply;
pub mod collect;
pub mod decide;
pub mod fields;
pub mod plan;
pub mod records;
pub mod state;
