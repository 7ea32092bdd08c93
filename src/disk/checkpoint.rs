//! Checkpoint files: written piece by piece, closed with a checksum, read piece by piece. It must
//! not run on an executor (the worker's thread does it) and knows nothing of what is in them.
//!
//! A file is what was written, and nothing else: a checkpoint carries its own checksums, and its mark
//! in the log its length.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use oarlock_types::CoreId;

use super::atomic_file::sync_directory;
use super::job::{Action, DiskError, refused};
use super::layout::{CheckpointName, CoreDir};

/// What may be unwritten before it is synced, about a slice: what a sync writes at once stalls the WAL. With 4 MiB a range
/// that was cut, whose halves are saved then, was not written for 6 ms at the median, and 3 to 5 ms with this.
const UNSYNCED_BYTES_MAX: u64 = 256 << 10;

/// Gives a finished checkpoint of one core a second name under another one, durably, in the place of what may have
/// that name there.
///
/// # Errors
/// When it is not there, or the system refuses.
pub fn adopt(from: &CoreDir, to: &CoreDir, name: CheckpointName) -> Result<(), DiskError> {
    let (old, new) = (from.checkpoint(name), to.checkpoint(name));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(refused(Action::Remove, &new)(error));
        }
        Ok(()) | Err(_) => {}
    }
    link(&old, &new).map_err(refused(Action::Create, &new))?;
    let parent = to.checkpoints();
    sync_directory(&parent).map_err(refused(Action::Sync, &parent))
}

/// Gives a file a second name, or copies it where the file system knows none.
///
/// # Errors
/// When the system refuses, or there is such a file.
pub fn link(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        // The file system knows no second names, or the directories are on two of them.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EXDEV | libc::EPERM | libc::EOPNOTSUPP | libc::EMLINK)
            ) =>
        {
            fs::copy(from, to)?;
            File::open(to)?.sync_all()
        }
        linked => linked,
    }
}

/// The unfinished checkpoints of all cores. One, in the worker.
#[derive(Debug, Default)]
pub struct Parts {
    open: BTreeMap<(CoreId, CheckpointName), Part>,
}

#[derive(Debug)]
struct Part {
    path: PathBuf,
    file: File,
    size_bytes: u64,
    unsynced_bytes: u64,
}

impl Parts {
    /// Adds a piece, or, when it is empty, only tells how much there is.
    ///
    /// # Errors
    /// [`DiskError::OutOfPlace`] when the piece does not begin at the end, [`DiskError::DiskFull`]
    /// (then the unfinished checkpoint is given up), or the system's refusal.
    pub fn append(
        &mut self,
        core: CoreId,
        directory: &CoreDir,
        name: CheckpointName,
        offset_bytes: u64,
        data: &[u8],
    ) -> Result<u64, DiskError> {
        let have = self.open.get(&(core, name)).map_or(0, |part| part.size_bytes);
        if data.is_empty() {
            return Ok(have);
        }
        if offset_bytes == 0 {
            self.begin(core, directory, name)?;
        } else if offset_bytes != have {
            return Err(DiskError::OutOfPlace { name, size_bytes: have });
        }
        let part = self.open.get_mut(&(core, name)).expect("invariant: begun at offset 0");
        let result = part.append(data);
        if result.is_err() {
            self.give_up(core, name);
        }
        result
    }

    /// Closes a checkpoint that was made here; gives the length of its file.
    ///
    /// # Errors
    /// As for [`Parts::append`]; the unfinished checkpoint is given up.
    pub fn seal(
        &mut self,
        core: CoreId,
        directory: &CoreDir,
        name: CheckpointName,
    ) -> Result<u64, DiskError> {
        if !self.open.contains_key(&(core, name)) {
            // One without data is a checkpoint too.
            self.begin(core, directory, name)?;
        }
        let part = self.open.get_mut(&(core, name)).expect("invariant: begun");
        let size_bytes = part.size_bytes;
        let sealed = part.seal(directory, name);
        match sealed {
            Ok(()) => drop(self.open.remove(&(core, name))),
            Err(_) => self.give_up(core, name),
        }
        sealed.map(|()| size_bytes)
    }

    /// Removes a checkpoint, finished or not.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn delete(
        &mut self,
        core: CoreId,
        directory: &CoreDir,
        name: CheckpointName,
    ) -> Result<(), DiskError> {
        self.give_up(core, name);
        let path = directory.checkpoint(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(refused(Action::Remove, &path)(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn begin(
        &mut self,
        core: CoreId,
        directory: &CoreDir,
        name: CheckpointName,
    ) -> Result<(), DiskError> {
        let path = directory.checkpoint_part(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(refused(Action::Create, &path))?;
        let part = Part { path, file, size_bytes: 0, unsynced_bytes: 0 };
        self.open.insert((core, name), part);
        Ok(())
    }

    fn give_up(&mut self, core: CoreId, name: CheckpointName) {
        if let Some(part) = self.open.remove(&(core, name)) {
            // What cannot be removed now is removed at the next start.
            let _ = fs::remove_file(&part.path);
        }
    }
}

impl Part {
    /// Makes it durable under its name.
    fn seal(&self, directory: &CoreDir, name: CheckpointName) -> Result<(), DiskError> {
        self.file.sync_all().map_err(refused(Action::Sync, &self.path))?;
        let target = directory.checkpoint(name);
        fs::rename(&self.path, &target).map_err(refused(Action::Rename, &self.path))?;
        let parent = directory.checkpoints();
        sync_directory(&parent).map_err(refused(Action::Sync, &parent))
    }

    fn append(&mut self, data: &[u8]) -> Result<u64, DiskError> {
        let len = data.len() as u64;
        self.file
            .write_all_at(data, self.size_bytes)
            .map_err(refused(Action::Write, &self.path))?;
        self.size_bytes += len;
        self.unsynced_bytes += len;
        if self.unsynced_bytes >= UNSYNCED_BYTES_MAX {
            self.file.sync_data().map_err(refused(Action::Sync, &self.path))?;
            self.unsynced_bytes = 0;
        }
        Ok(self.size_bytes)
    }
}
