//! What the disk worker can be asked to do, and what it answers. Only words: no I/O here.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use oarlock_cluster::MapCopy;
use oarlock_types::{CoreId, SegmentId};

use super::layout::CheckpointName;
use super::segments::SegmentFile;

/// A job, with who asked for it.
#[derive(Debug)]
pub struct DiskRequest {
    /// The core in whose directory it is done, and to which the answer goes.
    pub core: CoreId,
    /// Given back with the answer; the worker does not look at it.
    pub token: u64,
    /// What to do.
    pub job: DiskJob,
}

/// What to do. Jobs are done in the order in which they were asked for, but for
/// [`DiskJob::PrepareSegment`], which goes on in slices between them.
#[derive(Debug)]
pub enum DiskJob {
    /// Make a segment ready to be written: zeros, the header at its start, its name, all durable.
    /// A spare one is used if there is one. Answered by [`DiskOutcome::Segment`].
    PrepareSegment {
        /// Its id, never used before.
        segment: SegmentId,
        /// Its first blocks.
        header: Vec<u8>,
        /// How many bytes of its present segment the core has used by now; the largest number of all while
        /// its log waits for this one. The disk is spared for WAL writes only while a quarter more of the
        /// new one is ready, so that no core ever waits for it that a disk could keep up with.
        used: Arc<AtomicU64>,
    },
    /// Take a segment out of use. It becomes a spare, or goes when there are enough.
    RecycleSegment {
        /// Which.
        segment: SegmentId,
    },
    /// Read whole blocks of a segment. Answered by [`DiskOutcome::Bytes`].
    ReadWal {
        /// Which.
        segment: SegmentId,
        /// From this byte, at which a block begins.
        offset_bytes: u64,
        /// That many, all of whole blocks; fewer only at the file's end.
        len: usize,
    },
    /// Add a piece to an unfinished checkpoint, which begins with one at offset 0. An empty piece
    /// changes nothing and asks how much is there. Answered by [`DiskOutcome::Appended`].
    CheckpointAppend {
        /// Which.
        name: CheckpointName,
        /// Where the piece goes: where the file ends.
        offset_bytes: u64,
        /// The piece.
        data: bytes::Bytes,
    },
    /// Finish a checkpoint: make it durable, give it its name. Answered by [`DiskOutcome::Finished`].
    CheckpointSeal {
        /// Which.
        name: CheckpointName,
    },
    /// Read a piece of a finished checkpoint's file. Answered by [`DiskOutcome::Bytes`].
    CheckpointRead {
        /// Which.
        name: CheckpointName,
        /// From this byte.
        offset_bytes: u64,
        /// That many, fewer only at the file's end.
        len: usize,
    },
    /// Give a finished checkpoint of another core a second name here, durably. Answered by
    /// [`DiskOutcome::Adopted`].
    CheckpointAdopt {
        /// Which.
        name: CheckpointName,
        /// The other core.
        from: CoreId,
    },
    /// Remove a checkpoint, finished or not. That there is none is no error.
    CheckpointDelete {
        /// Which.
        name: CheckpointName,
    },
    /// List the finished checkpoints. Answered by [`DiskOutcome::Checkpoints`].
    CheckpointList,
    /// Tell how much room the file system has. Answered by [`DiskOutcome::Space`].
    FreeSpace,
    /// Replace the node's copy of the map. Answered by [`DiskOutcome::MapCopied`].
    CopyMap(Box<MapCopy>),
}

/// An answer.
#[derive(Debug)]
pub struct DiskDone {
    /// Who asked.
    pub core: CoreId,
    /// The request's token.
    pub token: u64,
    /// How it went.
    pub result: Result<DiskOutcome, DiskError>,
}

/// How a job ended well.
#[derive(Debug)]
pub enum DiskOutcome {
    /// The segment is ready; this is its file.
    Segment(SegmentFile),
    /// The segment is out of use.
    Recycled,
    /// What was read.
    Bytes {
        /// The bytes.
        data: bytes::Bytes,
    },
    /// The unfinished checkpoint now ends here.
    Appended {
        /// Its length.
        size_bytes: u64,
    },
    /// The checkpoint is durable under its name.
    Finished {
        /// The length of its file.
        size_bytes: u64,
    },
    /// The checkpoint has its second name.
    Adopted,
    /// The checkpoint is gone.
    Deleted,
    /// The finished checkpoints, with the lengths of their files.
    Checkpoints(Vec<(CheckpointName, u64)>),
    /// The file system's room.
    Space(Space),
    /// The copy of the map is durable.
    MapCopied,
}

/// The room on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What may still be written.
    pub available_bytes: u64,
    /// All that there is.
    pub total_bytes: u64,
}

/// Why a job failed.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// There is no room. The job may be asked for again when there is.
    #[error(
        "no room on the disk for {path} ({available_bytes} bytes are available): free some space; \
         the node goes on by itself",
        path = path.display()
    )]
    DiskFull {
        /// What there was no room for.
        path: PathBuf,
        /// What may still be written.
        available_bytes: u64,
    },
    /// A piece of a checkpoint does not begin where the one before ended.
    #[error("{name} has {size_bytes} bytes so far: the next piece begins there")]
    OutOfPlace {
        /// Which checkpoint.
        name: CheckpointName,
        /// Where the next piece goes.
        size_bytes: u64,
    },
    /// A segment's file is there already: its id is in use.
    #[error("{path} exists already and is not overwritten", path = path.display())]
    SegmentInUse {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        action: Action,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// What was being done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Making it.
    Create,
    /// Opening it.
    Open,
    /// Reading it.
    Read,
    /// Writing it.
    Write,
    /// Making it durable.
    Sync,
    /// Renaming it.
    Rename,
    /// Removing it.
    Remove,
    /// Listing it.
    List,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Rename => "rename",
            Self::Remove => "remove",
            Self::List => "list",
        })
    }
}

impl DiskError {
    /// Whether the checkpoint or segment that was asked for is not there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Says what was done to `path`, and tells a full disk from other refusals.
pub(super) fn refused(action: Action, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    move |source| match source.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => DiskError::DiskFull {
            path: path.to_owned(),
            available_bytes: path
                .parent()
                .and_then(|directory| space(directory).ok())
                .map_or(0, |space| space.available_bytes),
        },
        _ => DiskError::Io { action, path: path.to_owned(), source },
    }
}

/// How much room the file system of `directory` has for this process.
///
/// # Errors
/// When the system does not tell.
pub fn space(directory: &Path) -> io::Result<Space> {
    let stat = rustix::fs::statvfs(directory)?;
    Ok(Space {
        available_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_refusals_and_says_how_much_room_there_is() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let told = |errno| refused(Action::Write, &path)(io::Error::from_raw_os_error(errno));
        let DiskError::DiskFull { available_bytes, .. } = told(libc::ENOSPC) else {
            panic!("ENOSPC is a full disk");
        };
        assert!(available_bytes > 0, "the room is that of the file's directory");
        assert!(matches!(told(libc::EDQUOT), DiskError::DiskFull { .. }));
        assert!(matches!(told(libc::EIO), DiskError::Io { action: Action::Write, .. }));
        assert!(told(libc::ENOENT).is_missing() && !told(libc::EIO).is_missing());
    }
}
