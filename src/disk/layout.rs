//! The names of files and directories inside a data directory. It does no I/O but listing.
//!
//! ```text
//! DIR/identity  DIR/peers  DIR/lock  DIR/map
//! DIR/relocation/core-<c>  DIR/relocation/decided   logs for another number of cores
//! DIR/core-<c>.begun  DIR/core-<c>/begun            the log has begun
//! DIR/core-<c>/lost                                 replicas that lost a part of their log
//! DIR/core-<c>/wal-<segment, 16 hex digits>.seg     a segment of the log
//! DIR/core-<c>/spare-<segment, 16 hex digits>.seg   a segment out of use, to be used again
//! DIR/core-<c>/ckpt/g<group>-<index>-<term>.ckpt    a checkpoint
//! …-….tmp, ….part                                   unfinished; removed at the next start
//! ```

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use oarlock_raft::LogPosition;
use oarlock_shard::CheckpointFile;
use oarlock_types::{CoreId, GroupId, Index, SegmentId, Term};

/// The end of the names of files that are being made, and are worthless after a crash.
pub const TEMPORARY_SUFFIX: &str = ".tmp";
const PART_SUFFIX: &str = ".part";
const SEGMENT_SUFFIX: &str = ".seg";
const CHECKPOINT_SUFFIX: &str = ".ckpt";

/// The file that says that a core's log has begun.
const BEGUN: &str = "begun";

/// The directory of one core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreDir {
    path: PathBuf,
}

impl CoreDir {
    /// That of `core` in the data directory `data`.
    #[must_use]
    pub fn new(data: &Path, core: CoreId) -> Self {
        Self { path: data.join(format!("core-{}", core.get())) }
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A segment of the log.
    #[must_use]
    pub fn segment(&self, segment: SegmentId) -> PathBuf {
        self.path.join(format!("wal-{:016x}{SEGMENT_SUFFIX}", segment.get()))
    }

    /// A segment out of use.
    #[must_use]
    pub fn spare(&self, segment: SegmentId) -> PathBuf {
        self.path.join(format!("spare-{:016x}{SEGMENT_SUFFIX}", segment.get()))
    }

    /// A segment that is still being filled with zeros.
    #[must_use]
    pub fn preparing(&self, segment: SegmentId) -> PathBuf {
        self.path.join(format!("prepare-{:016x}{TEMPORARY_SUFFIX}", segment.get()))
    }

    /// The mark that the log has begun, and how far it may reach: from then on its absence is a loss.
    #[must_use]
    pub fn begun(&self) -> PathBuf {
        self.path.join(BEGUN)
    }

    /// The same beside the directory: a directory that is gone takes its own mark along. Data
    /// directories of earlier versions have none.
    #[must_use]
    pub fn begun_beside(&self) -> PathBuf {
        self.path.with_extension(BEGUN)
    }

    /// Whether the log has ever begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.begun().exists() || self.begun_beside().exists()
    }

    /// Where the checkpoints are.
    #[must_use]
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("ckpt")
    }

    /// A finished checkpoint.
    #[must_use]
    pub fn checkpoint(&self, name: CheckpointName) -> PathBuf {
        self.checkpoints().join(name.to_string())
    }

    /// A checkpoint that is being written.
    #[must_use]
    pub fn checkpoint_part(&self, name: CheckpointName) -> PathBuf {
        self.checkpoints().join(format!("{name}{PART_SUFFIX}"))
    }

    /// The segments of the log, oldest first.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn segments(&self) -> io::Result<Vec<(SegmentId, PathBuf)>> {
        self.numbered("wal-")
    }

    /// The segments out of use.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn spares(&self) -> io::Result<Vec<(SegmentId, PathBuf)>> {
        self.numbered("spare-")
    }

    /// The finished checkpoints with the lengths of their files, in the order of their names.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn checkpoint_list(&self) -> io::Result<Vec<(CheckpointName, u64)>> {
        let mut found = Vec::new();
        for entry in self.checkpoints().read_dir()? {
            let entry = entry?;
            if let Some(name) = entry.file_name().to_str().and_then(CheckpointName::parse) {
                found.push((name, entry.metadata()?.len()));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Files that were unfinished when the node ended.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn leftovers(&self) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for directory in [self.path.clone(), self.checkpoints()] {
            for entry in directory.read_dir()? {
                let path = entry?.path();
                let name = path.to_string_lossy();
                if name.ends_with(TEMPORARY_SUFFIX) || name.ends_with(PART_SUFFIX) {
                    found.push(path);
                }
            }
        }
        Ok(found)
    }

    fn numbered(&self, prefix: &str) -> io::Result<Vec<(SegmentId, PathBuf)>> {
        let mut found = Vec::new();
        for entry in self.path.read_dir()? {
            let entry = entry?;
            let name = entry.file_name();
            let digits = name
                .to_str()
                .and_then(|name| name.strip_prefix(prefix)?.strip_suffix(SEGMENT_SUFFIX))
                .filter(|digits| digits.len() == 16);
            if let Some(id) = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
                found.push((SegmentId(id), entry.path()));
            }
        }
        found.sort_unstable();
        Ok(found)
    }
}

/// Names a checkpoint: whose, and the position of the last entry in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckpointName {
    /// The group.
    pub group: GroupId,
    /// The index of the last entry that it holds.
    pub index: Index,
    /// That entry's term.
    pub term: Term,
}

impl CheckpointName {
    /// The name that a file name says.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix('g')?.strip_suffix(CHECKPOINT_SUFFIX)?.split('-');
        let mut number = || parts.next()?.parse::<u64>().ok();
        let (group, index, term) = (number()?, number()?, number()?);
        let this = Self { group: GroupId(group), index: Index(index), term: Term(term) };
        // One name for one checkpoint: no leading zeros or plus signs, nothing behind.
        (this.to_string() == name).then_some(this)
    }
}

impl From<CheckpointFile> for CheckpointName {
    fn from(CheckpointFile { group, position }: CheckpointFile) -> Self {
        Self { group, index: position.index, term: position.term }
    }
}

impl From<CheckpointName> for CheckpointFile {
    fn from(CheckpointName { group, index, term }: CheckpointName) -> Self {
        Self { group, position: LogPosition { term, index } }
    }
}

impl fmt::Display for CheckpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, index, term } = self;
        write!(f, "g{}-{index}-{term}{CHECKPOINT_SUFFIX}", group.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoint_names_round_trip_and_others_are_not_taken_for_one() {
        let name = CheckpointName { group: GroupId(7), index: Index(42), term: Term(3) };
        assert_eq!(name.to_string(), "g7-42-3.ckpt");
        assert_eq!(CheckpointName::parse("g7-42-3.ckpt"), Some(name));
        for other in ["g7-42-3.ckpt.part", "g7-42.ckpt", "g07-42-3.ckpt", "g7-42-3-1.ckpt", "x"] {
            assert_eq!(CheckpointName::parse(other), None, "{other}");
        }
    }
}
