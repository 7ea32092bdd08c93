//! The deterministic simulator: whole clusters of the production `Shard`, with the production log,
//! codec and store, in a world of networks, disks, clocks and processes that go wrong, watched by an
//! oracle. One seed decides everything; the same seed gives the same run.
//!
//! It holds no logic of the engine: where it drives a core or recovers a disk it does what the
//! root package's `node` does, in the same order. Used in development only.
//!
//! Map, in reading order: [`config`] is what a run is made of, [`faults`] what may go wrong, `swarm`
//! draws schedules of that; [`world`] is virtual time and its events, `turn`, `processes`, `links`,
//! `pulses`, `worker`, `trouble` and `asking` what they do, `node`, `disk` and `recover` what a node is;
//! [`ranges`] is who has which keys, `clients` ask and keep histories; [`oracle`] and [`linearizability`] judge; `settle` is the end
//! of a run, [`mod@run`] a whole one; [`cluster`] is what a run has whose cluster keeps its own map, `driving` and
//! `delivering` what a driver does there (`letters` are what it hears), `joining` who comes and goes, `standing` what
//! it must come to; `quorum_loss` goes on from what survives, `spoiling` says whose disk may be spoiled,
//! [`core_changes`] starts nodes with other numbers of cores; [`trace`] tells it, `words` in words, [`page`] as a
//! picture.

mod asking;
mod between;
mod clients;
pub mod cluster;
pub mod config;
pub mod core_changes;
mod delivering;
mod disk;
mod driving;
pub mod faults;
mod joining;
mod letters;
pub mod linearizability;
mod links;
mod merging;
mod node;
pub mod oracle;
pub mod page;
mod placing;
mod processes;
mod pulses;
mod quorum_loss;
mod random;
pub mod ranges;
mod recover;
pub mod run;
mod settle;
mod spoiling;
mod standing;
mod swarm;
pub mod trace;
mod trouble;
mod turn;
mod words;
mod worker;
pub mod world;

pub use config::{Config, Overrides, Weather};
pub use faults::{Fault, Trouble};
pub use run::{finish, run};
pub use trace::Trace;
pub use world::{Figures, World};
