//! The life of a segment file: filled with zeros ahead of use, named, and used again. It must not
//! run on an executor (the worker's thread does it) and knows nothing of what is in a segment.
//!
//! A write into a file that is already written costs no metadata, which halves its time: hence the
//! zeros. A segment that was used before is not filled again; its frames' salt makes them invalid.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use oarlock_types::SegmentId;
use rustix::fs::FallocateFlags;

use super::atomic_file::{replace, seal, sync_directory, unseal};
use super::buffer::{AlignedBytes, BLOCK_BYTES, round_up_to_block};
use super::job::{Action, DiskError, refused};
use super::layout::CoreDir;

/// The length of a segment file.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// How many zeros are written at a time. A WAL write that comes meanwhile waits for them, on some
/// disks until they are durable: some hundred microseconds at most.
pub const SLICE_BYTES: usize = 128 << 10;
/// How much of a segment is read at a time: writes of other logs of the disk go in between.
const READ_BYTES: usize = 512 << 10;
/// Segments out of use that are kept; more are removed, to give their room back.
pub const SPARES_MAX: usize = 8;

/// A segment file, open for direct and synchronous writing: what a WAL ring writes to.
#[derive(Debug)]
pub struct SegmentFile {
    /// Which segment.
    pub id: SegmentId,
    /// Where it is.
    pub path: PathBuf,
    /// The open file.
    pub file: File,
}

impl SegmentFile {
    /// Opens the segment to go on writing it, after a restart.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn open(directory: &CoreDir, id: SegmentId) -> Result<Self, DiskError> {
        let path = directory.segment(id);
        let file = open_direct(&path).map_err(refused(Action::Open, &path))?;
        Ok(Self { id, path, file })
    }
}

fn open_direct(path: &Path) -> io::Result<File> {
    let flags = libc::O_DIRECT | libc::O_DSYNC;
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
}

/// A segment that is being made ready, a slice at a time.
#[derive(Debug)]
pub struct Preparation {
    directory: CoreDir,
    segment: SegmentId,
    header: AlignedBytes,
    path: PathBuf,
    file: File,
    /// What is filled so far; all of it from the beginning when the file is a spare.
    filled_bytes: u64,
    segment_bytes: u64,
}

impl Preparation {
    /// Begins: takes a spare segment, or makes a file and reserves its room, so that a full disk
    /// is noticed before anything is written.
    ///
    /// # Errors
    /// [`DiskError::DiskFull`], [`DiskError::SegmentInUse`], or the system's refusal.
    pub fn begin(
        directory: &CoreDir,
        segment: SegmentId,
        header: &[u8],
        segment_bytes: u64,
    ) -> Result<Self, DiskError> {
        let target = directory.segment(segment);
        if target.exists() {
            return Err(DiskError::SegmentInUse { path: target });
        }
        let mut aligned = AlignedBytes::with_capacity(header.len().max(BLOCK_BYTES));
        aligned.extend_from_slice(header);
        aligned.pad_to_block();
        let path = directory.preparing(segment);
        let is_spare = claim_spare(directory, &path, segment, segment_bytes)?;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(!is_spare)
            .custom_flags(libc::O_DIRECT)
            .open(&path)
            .map_err(refused(Action::Create, &path))?;
        let filled_bytes = if is_spare { segment_bytes } else { 0 };
        let directory = directory.clone();
        let this =
            Self { directory, segment, header: aligned, path, file, filled_bytes, segment_bytes };
        if let Err(error) = reserve(&this.file, segment_bytes) {
            this.abandon();
            return Err(refused(Action::Write, &this.path)(error));
        }
        Ok(this)
    }

    /// Goes on by one slice of `zeros`; the last step gives the file. After an error nothing of it
    /// is left on the disk.
    ///
    /// # Errors
    /// As for [`Preparation::begin`].
    pub fn step(&mut self, zeros: &AlignedBytes) -> Result<Option<SegmentFile>, DiskError> {
        let result = self.try_step(zeros);
        if result.is_err() {
            self.abandon();
        }
        result
    }

    /// Its length.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// How much of it is left to be filled.
    #[must_use]
    pub fn unfilled_bytes(&self) -> u64 {
        self.segment_bytes - self.filled_bytes
    }

    /// Removes an unfinished file.
    pub fn abandon(&self) {
        // What cannot be removed now is removed at the next start.
        let _ = fs::remove_file(&self.path);
    }

    fn try_step(&mut self, zeros: &AlignedBytes) -> Result<Option<SegmentFile>, DiskError> {
        let left = self.unfilled_bytes();
        if left == 0 {
            self.file.sync_all().map_err(refused(Action::Sync, &self.path))?;
            return self.put_in_place().map(Some);
        }
        let slice = zeros.as_slice();
        let len = usize::try_from(left).map_or(slice.len(), |left| left.min(slice.len()));
        self.file
            .write_all_at(&slice[..len], self.filled_bytes)
            .map_err(refused(Action::Write, &self.path))?;
        self.filled_bytes += len as u64;
        Ok(None)
    }

    /// The header is durable before the name: a file with a segment's name has its header. The mark
    /// that the log has begun, and how far it may reach, is durable after the segment's name and before
    /// anything is written there: what the mark names and is not there is a loss.
    fn put_in_place(&self) -> Result<SegmentFile, DiskError> {
        let path = &self.path;
        let file = open_direct(path).map_err(refused(Action::Open, path))?;
        file.write_all_at(self.header.as_slice(), 0).map_err(refused(Action::Write, path))?;
        let target = self.directory.segment(self.segment);
        fs::rename(path, &target).map_err(refused(Action::Rename, path))?;
        let directory = self.directory.path();
        sync_directory(directory).map_err(refused(Action::Sync, directory))?;
        if self.segment == SegmentId(1) {
            let mark = self.directory.begun_beside();
            write_mark(&mark, "").map_err(refused(Action::Create, &mark))?;
        }
        let mark = self.directory.begun();
        let reach = seal(&format!("newest_segment = {}\n", self.segment.get()));
        write_mark(&mark, &reach).map_err(refused(Action::Create, &mark))?;
        Ok(SegmentFile { id: self.segment, path: target, file })
    }
}

fn write_mark(mark: &Path, text: &str) -> io::Result<()> {
    let name = mark.file_name().and_then(|name| name.to_str());
    let (Some(folder), Some(name)) = (mark.parent(), name) else { return Ok(()) };
    replace(folder, name, text.as_bytes())
}

/// The newest segment that was ever made ready, as the mark says; nothing if there is no mark, it is
/// damaged, or of a version that only noted that there is a log.
#[must_use]
pub fn newest_marked(directory: &CoreDir) -> Option<SegmentId> {
    let text = fs::read_to_string(directory.begun()).ok()?;
    let number = unseal(&text)?.trim_end().strip_prefix("newest_segment = ")?;
    number.parse().ok().map(SegmentId)
}

/// Makes a spare the file at `path`; whether there was one. It changes its name at once, so that no
/// other preparation takes it too. A file that was once the segment of this
/// id, or a later one, would give its old frames back to it: when a log has lost its end, ids begin
/// again below those that were used.
fn claim_spare(
    directory: &CoreDir,
    path: &Path,
    segment: SegmentId,
    segment_bytes: u64,
) -> Result<bool, DiskError> {
    let spares = directory.spares().map_err(refused(Action::List, directory.path()))?;
    for (former, spare) in spares {
        let len = fs::metadata(&spare).map_err(refused(Action::Open, &spare))?.len();
        if len == segment_bytes && former < segment {
            fs::rename(&spare, path).map_err(refused(Action::Rename, &spare))?;
            return Ok(true);
        }
        // Or it was made when segments had another length.
        fs::remove_file(&spare).map_err(refused(Action::Remove, &spare))?;
    }
    Ok(false)
}

fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        // A file system without it gets its blocks from the zeros.
        Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        other => Ok(other?),
    }
}

/// Takes a segment out of use: it becomes a spare, or goes when there are `spares_max`.
///
/// # Errors
/// When the system refuses.
pub fn recycle(
    directory: &CoreDir,
    segment: SegmentId,
    spares_max: usize,
) -> Result<(), DiskError> {
    let (path, parent) = (directory.segment(segment), directory.path());
    let spares = directory.spares().map_err(refused(Action::List, parent))?;
    if spares.len() < spares_max {
        fs::rename(&path, directory.spare(segment)).map_err(refused(Action::Rename, &path))?;
    } else {
        fs::remove_file(&path).map_err(refused(Action::Remove, &path))?;
    }
    sync_directory(parent).map_err(refused(Action::Sync, parent))
}

/// Reads a whole segment into `into`, for recovery: whatever its length is.
///
/// # Errors
/// When the system refuses.
pub fn read_segment(path: &Path, into: &mut AlignedBytes) -> Result<(), DiskError> {
    let file = open_past_cache(path).map_err(refused(Action::Open, path))?;
    let len = file.metadata().map_err(refused(Action::Read, path))?.len();
    fill(&file, 0, usize::try_from(len).unwrap_or(usize::MAX), into)
        .map_err(refused(Action::Read, path))
}

/// Reads whole blocks of a segment; fewer where it ends before.
///
/// # Errors
/// When the system refuses.
pub fn read_blocks(path: &Path, offset_bytes: u64, len: usize) -> Result<bytes::Bytes, DiskError> {
    let file = open_past_cache(path).map_err(refused(Action::Open, path))?;
    let mut data = AlignedBytes::with_capacity(len);
    fill(&file, offset_bytes, len, &mut data).map_err(refused(Action::Read, path))?;
    Ok(bytes::Bytes::from_owner(data))
}

/// A log is written past the page cache, so nothing of it is there, and it is read once: the
/// cache would only copy it, and push out what others need.
fn open_past_cache(path: &Path) -> io::Result<File> {
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path);
    match direct {
        // A copy of a log, on a file system that cannot.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => File::open(path),
        opened => opened,
    }
}

fn fill(file: &File, offset_bytes: u64, len: usize, into: &mut AlignedBytes) -> io::Result<()> {
    into.resize(round_up_to_block(len));
    let mut at = 0;
    while at < len {
        let piece = into.as_mut_slice().get_mut(at..).unwrap_or_default();
        let piece_len = piece.len().min(READ_BYTES);
        match file.read_at(&mut piece[..piece_len], offset_bytes + at as u64) {
            Ok(0) => break,
            Ok(got) => at += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    into.resize(at.min(len));
    Ok(())
}

/// Reads a piece of a file; less where it ends before.
///
/// # Errors
/// When the system refuses.
pub fn read_piece(path: &Path, offset_bytes: u64, len: usize) -> Result<bytes::Bytes, DiskError> {
    // Not filled with zeros first: that took a quarter of a large read's time.
    let mut data = Vec::with_capacity(len);
    let mut read = || {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset_bytes))?;
        file.take(len as u64).read_to_end(&mut data)
    };
    read().map_err(refused(Action::Read, path))?;
    Ok(data.into())
}
