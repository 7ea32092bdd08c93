//! Asks the system, before anything is served, whether a node can run here. Changes nothing but a
//! soft limit that may be raised; the probe file is removed. Once per start.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use io_uring::IoUring;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::buffer::{AlignedBytes, BLOCK_BYTES};
use super::layout::TEMPORARY_SUFFIX;

/// The least memory that may be locked: the log's registered buffers of two cores. Where the limit
/// does not do for all cores, the others go on with ordinary buffers and say so.
pub const MEMLOCK_BYTES_MIN: u64 = 512 << 10;

/// Why a node cannot run here.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Too little memory may be locked.
    #[error(
        "the limit of locked memory (RLIMIT_MEMLOCK) is {limit_bytes} bytes, but at least \
         {MEMLOCK_BYTES_MIN} are needed: raise it with `ulimit -l 8192`, in /etc/security/limits.conf \
         or, for a systemd unit, with LimitMEMLOCK=8M"
    )]
    MemlockTooLow {
        /// The limit.
        limit_bytes: u64,
    },
    /// The kernel has no `io_uring`, or a filter hides it.
    #[error(
        "io_uring is not available ({source}): the kernel is older than 5.17 or built without it, \
         or a seccomp filter hides it; in a container, allow io_uring in its seccomp profile"
    )]
    NoIoUring {
        /// The kernel's answer.
        source: io::Error,
    },
    /// `io_uring` is switched off.
    #[error(
        "io_uring is forbidden here ({source}): set the sysctl kernel.io_uring_disabled to 0 \
         (`sysctl -w kernel.io_uring_disabled=0`), or, in a container, allow io_uring in its \
         seccomp profile"
    )]
    IoUringForbidden {
        /// The kernel's answer.
        source: io::Error,
    },
    /// `io_uring` lacks what the WAL needs.
    #[error(
        "this kernel's io_uring is too old: Linux 5.17 or newer is needed, 6.1 or newer is best"
    )]
    IoUringTooOld,
    /// The file system keeps files in memory.
    #[error(
        "{path} is on {file_system}, which keeps its files in memory: nothing would be durable. \
         Use a directory on a disk, for example on ext4 or xfs",
        path = path.display()
    )]
    InMemory {
        /// The directory.
        path: PathBuf,
        /// The file system's name.
        file_system: String,
    },
    /// The file system has no direct I/O.
    #[error(
        "the file system of {path} ({file_system}) does not support O_DIRECT ({source}): use a \
         directory on another one, for example on ext4 or xfs",
        path = path.display()
    )]
    NoDirectIo {
        /// The directory.
        path: PathBuf,
        /// The file system's name.
        file_system: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The system refused something else.
    #[error("cannot write to {path}: {source}", path = path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Whether enough memory may be locked. Raises the soft limit when the hard one allows it.
///
/// # Errors
/// [`ProbeError::MemlockTooLow`].
pub fn memlock() -> Result<(), ProbeError> {
    let Rlimit { current, maximum } = getrlimit(Resource::Memlock);
    let Some(limit_bytes) = current.filter(|&bytes| bytes < MEMLOCK_BYTES_MIN) else {
        return Ok(());
    };
    let raised = Rlimit { current: maximum, maximum };
    if maximum.is_none_or(|bytes| bytes >= MEMLOCK_BYTES_MIN)
        && setrlimit(Resource::Memlock, raised).is_ok()
    {
        return Ok(());
    }
    Err(ProbeError::MemlockTooLow { limit_bytes })
}

/// Whether `io_uring` is there, allowed, and new enough.
///
/// # Errors
/// One of the three, each with its remedy.
pub fn io_uring() -> Result<(), ProbeError> {
    match IoUring::new(2) {
        Ok(ring) if ring.params().is_feature_skip_cqe_on_success() => Ok(()),
        Ok(_) => Err(ProbeError::IoUringTooOld),
        Err(source) => Err(io_uring_refusal(source)),
    }
}

fn io_uring_refusal(source: io::Error) -> ProbeError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => ProbeError::IoUringForbidden { source },
        _ => ProbeError::NoIoUring { source },
    }
}

/// Whether the file system of `directory` is on a disk and writes past the page cache.
///
/// # Errors
/// What is wrong with it.
pub fn direct_io(directory: &Path) -> Result<(), ProbeError> {
    let refused = |source| ProbeError::Io { path: directory.to_owned(), source };
    let magic = rustix::fs::statfs(directory).map_err(|e| refused(e.into()))?.f_type;
    let file_system = FileSystem::of(magic.cast_unsigned());
    if file_system.is_in_memory {
        let file_system = file_system.name;
        return Err(ProbeError::InMemory { path: directory.to_owned(), file_system });
    }
    let probe = directory.join(format!("probe{TEMPORARY_SUFFIX}"));
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_DIRECT | libc::O_DSYNC)
        .open(&probe)
        .and_then(|file| file.write_all_at(AlignedBytes::zeroed(BLOCK_BYTES).as_slice(), 0));
    // When the open was refused there is none to remove.
    let _ = fs::remove_file(&probe);
    written.or_else(|source| match source.raw_os_error() {
        // A node whose disk is full still serves reads.
        Some(libc::ENOSPC | libc::EDQUOT) => Ok(()),
        Some(libc::EINVAL | libc::EOPNOTSUPP) => Err(ProbeError::NoDirectIo {
            path: directory.to_owned(),
            file_system: file_system.name,
            source,
        }),
        _ => Err(refused(source)),
    })
}

struct FileSystem {
    name: String,
    is_in_memory: bool,
}

impl FileSystem {
    /// From the magic number that `statfs` tells.
    fn of(magic: u64) -> Self {
        let (name, is_in_memory) = match magic {
            0x0102_1994 => ("tmpfs", true),
            0x8584_58f6 => ("ramfs", true),
            0xef53 => ("ext4", false),
            0x5846_5342 => ("xfs", false),
            0x9123_683e => ("btrfs", false),
            0x794c_7630 => ("overlayfs", false),
            0x6969 => ("nfs", false),
            0x2fc1_2fc1 => ("zfs", false),
            0xf2f5_2010 => ("f2fs", false),
            0x0102_1997 => ("9p", false),
            0x6573_5546 => ("fuse", false),
            _ => return Self { name: format!("type {magic:#x}"), is_in_memory: false },
        };
        Self { name: name.to_owned(), is_in_memory }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_uring_refusals_name_the_remedy() {
        let forbidden = io_uring_refusal(io::Error::from_raw_os_error(libc::EPERM)).to_string();
        assert!(forbidden.contains("kernel.io_uring_disabled"), "{forbidden}");
        let missing = io_uring_refusal(io::Error::from_raw_os_error(libc::ENOSYS)).to_string();
        assert!(missing.contains("seccomp") && missing.contains("5.17"), "{missing}");
    }

    #[test]
    fn an_unknown_file_system_is_called_by_its_number() {
        assert_eq!(FileSystem::of(0x1234).name, "type 0x1234");
        assert!(FileSystem::of(0x0102_1994).is_in_memory);
    }
}
