//! Everything that touches the disk: the data directory, the ring that writes a core's WAL, the
//! worker that prepares segments and keeps checkpoints. It must not know what the bytes mean.
//!
//! Map: [`data_dir`] opens and locks the directory, [`probe`] asks the system beforehand whether
//! the node can run here; [`ring`] writes frames (hot path, one per core) from [`buffer`]s;
//! [`worker`] does everything slow on a thread of its own (one per node): [`segments`] and
//! [`checkpoint`] are what it does. [`atomic_file`] replaces small files durably.

pub mod buffer;
pub mod ring;
pub mod segments;
