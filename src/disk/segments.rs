//! Segment files of a core's WAL. Filled in below.
use oarlock_types::SegmentId;
use std::{fs::File, path::PathBuf};
/// A segment file, open for writing.
#[derive(Debug)]
pub struct SegmentFile {
    /// Which segment.
    pub id: SegmentId,
    /// Where it is.
    pub path: PathBuf,
    /// Open with `O_DIRECT | O_DSYNC`.
    pub file: File,
}
