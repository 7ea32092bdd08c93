//! Checkpoint files: written piece by piece, closed with a checksum, read piece by piece. It must
//! not run on an executor (the worker's thread does it) and knows nothing of what is in them.
//!
//! A file is its data and then a footer of 24 bytes: magic (8), length of the data (8), CRC-32 of
//! the data (4), CRC-32 of the 20 bytes before (4); numbers are little-endian. A checkpoint is sent
//! to another node footer and all, so that the receiver verifies what the sender sealed, even when
//! its pieces came from several senders.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use oarlock_types::CoreId;

use super::atomic_file::sync_directory;
use super::job::{Action, DiskError, refused};
use super::layout::{CheckpointName, CoreDir};

/// The length of a checkpoint file's footer.
pub const FOOTER_BYTES: usize = 24;
const MAGIC: [u8; 8] = *b"OARLCKP1";
/// What may be unwritten before it is synced: one large sync at the end would stall the WAL.
const UNSYNCED_BYTES_MAX: u64 = 4 << 20;
const READ_BYTES: usize = 1 << 20;

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
    crc: crc32fast::Hasher,
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
        self.finish(core, directory, name, |part| {
            let footer = footer(part.size_bytes, part.crc.clone().finalize());
            part.append(&footer)
        })
    }

    /// Takes a checkpoint that was received whole; gives the length of its file.
    ///
    /// # Errors
    /// [`DiskError::Damaged`] when it is not what its sender sealed; it is given up. Otherwise as
    /// for [`Parts::append`].
    pub fn accept(
        &mut self,
        core: CoreId,
        directory: &CoreDir,
        name: CheckpointName,
        size_bytes: u64,
    ) -> Result<u64, DiskError> {
        self.finish(core, directory, name, |part| {
            if part.size_bytes != size_bytes {
                let what = "the checkpoint received has another length than was announced";
                return Err(DiskError::Damaged { path: part.path.clone(), what });
            }
            verify(&part.path).map(|_| size_bytes)
        })
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
        let crc = crc32fast::Hasher::new();
        let part = Part { path, file, size_bytes: 0, unsynced_bytes: 0, crc };
        self.open.insert((core, name), part);
        Ok(())
    }

    fn finish(
        &mut self,
        core: CoreId,
        directory: &CoreDir,
        name: CheckpointName,
        complete: impl FnOnce(&mut Part) -> Result<u64, DiskError>,
    ) -> Result<u64, DiskError> {
        let Some(part) = self.open.get_mut(&(core, name)) else {
            let path = directory.checkpoint_part(name);
            return Err(refused(Action::Open, &path)(std::io::ErrorKind::NotFound.into()));
        };
        let result = complete(part).and_then(|size_bytes| {
            part.file.sync_all().map_err(refused(Action::Sync, &part.path))?;
            let target = directory.checkpoint(name);
            fs::rename(&part.path, &target).map_err(refused(Action::Rename, &part.path))?;
            let parent = directory.checkpoints();
            sync_directory(&parent).map_err(refused(Action::Sync, &parent))?;
            Ok(size_bytes)
        });
        match result {
            Ok(_) => drop(self.open.remove(&(core, name))),
            Err(_) => self.give_up(core, name),
        }
        result
    }

    fn give_up(&mut self, core: CoreId, name: CheckpointName) {
        if let Some(part) = self.open.remove(&(core, name)) {
            // What cannot be removed now is removed at the next start.
            let _ = fs::remove_file(&part.path);
        }
    }
}

impl Part {
    fn append(&mut self, data: &[u8]) -> Result<u64, DiskError> {
        let len = data.len() as u64;
        self.file
            .write_all_at(data, self.size_bytes)
            .map_err(refused(Action::Write, &self.path))?;
        self.crc.update(data);
        self.size_bytes += len;
        self.unsynced_bytes += len;
        if self.unsynced_bytes >= UNSYNCED_BYTES_MAX {
            self.file.sync_data().map_err(refused(Action::Sync, &self.path))?;
            self.unsynced_bytes = 0;
        }
        Ok(self.size_bytes)
    }
}

/// Reads a checkpoint's file through and compares it with its footer; gives the length of its data.
///
/// # Errors
/// [`DiskError::Damaged`] with what is wrong, or the system's refusal.
pub fn verify(path: &Path) -> Result<u64, DiskError> {
    let damaged = |what| DiskError::Damaged { path: path.to_owned(), what };
    let file = File::open(path).map_err(refused(Action::Open, path))?;
    let size_bytes = file.metadata().map_err(refused(Action::Read, path))?.len();
    let data_bytes = size_bytes
        .checked_sub(FOOTER_BYTES as u64)
        .ok_or_else(|| damaged("it is shorter than a footer, so it was cut"))?;
    let mut found = [0; FOOTER_BYTES];
    file.read_exact_at(&mut found, data_bytes).map_err(refused(Action::Read, path))?;

    let mut crc = crc32fast::Hasher::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut offset = 0;
    while offset < data_bytes {
        let left = usize::try_from(data_bytes - offset).unwrap_or(READ_BYTES);
        let piece = &mut buffer[..left.min(READ_BYTES)];
        file.read_exact_at(piece, offset).map_err(refused(Action::Read, path))?;
        crc.update(piece);
        offset += piece.len() as u64;
    }
    if found != footer(data_bytes, crc.finalize()) {
        return Err(damaged("its bytes are not those of its checksum"));
    }
    Ok(data_bytes)
}

fn footer(data_bytes: u64, crc: u32) -> [u8; FOOTER_BYTES] {
    let mut footer = [0; FOOTER_BYTES];
    footer[..8].copy_from_slice(&MAGIC);
    footer[8..16].copy_from_slice(&data_bytes.to_le_bytes());
    footer[16..20].copy_from_slice(&crc.to_le_bytes());
    let own = crc32fast::hash(&footer[..20]);
    footer[20..].copy_from_slice(&own.to_le_bytes());
    footer
}
