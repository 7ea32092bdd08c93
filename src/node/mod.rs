//! The node: pinned executors, one driver on each, and what they share.
//! It must not decide anything about consensus. One per process.
//!
//! Map: [`serve`] starts it (with what `known` says of its cluster), [`recover`] brings a core back from its disk, [`driver`] is a core's
//! turn loop around its shard. A driver's surroundings: [`front`] towards clients (with the router of
//! `oarlock_cluster`), [`outbox`] towards other nodes, [`mail`] and [`message`] towards other cores, [`log_writer`] and
//! [`files`] towards the disk, [`planner`] makes what placement plans, [`counters`], [`stages`] and [`status`] towards people. Underneath: [`executor`],
//! [`watchdog`], [`inbox`], [`clock`].

pub mod clock;
pub mod counters;
pub mod driver;
pub mod executor;
pub mod files;
pub mod front;
pub mod inbox;
pub mod join;
mod known;
pub mod links;
pub mod log_writer;
pub mod mail;
pub mod message;
pub mod outbox;
pub mod planner;
pub mod recover;
pub mod serve;
pub mod stages;
pub mod status;
pub mod watchdog;
