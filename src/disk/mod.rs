//! Everything that touches the disk. It must not know what the bytes mean.
//!
//! Map: [`data_dir`] opens and locks the directory, with [`identity`], [`peers`],
//! [`map_copy`] and [`lost`] as its files ([`atomic_file`] replaces them durably) and [`layout`] the names in it; [`probe`] asks the
//! system beforehand whether a node can run here; [`ring`] writes WAL frames from [`buffer`]s (the
//! hot path, one per core); [`worker`] does everything slow on a thread of its own (one per node),
//! as [`job`] describes it: [`segments`] and [`checkpoint`] are what it does. [`stopped`] reads the logs of a
//! node that does not run, and adds to them; [`relocation`] writes them anew for another number of cores.

pub mod atomic_file;
pub mod buffer;
pub mod checkpoint;
pub mod data_dir;
pub mod identity;
pub mod job;
pub mod layout;
pub mod lost;
pub mod map_copy;
pub mod peers;
pub mod probe;
pub mod relocation;
pub mod ring;
pub mod segments;
pub mod stopped;
pub mod worker;
