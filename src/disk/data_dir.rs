//! Opens a node's data directory: locks it, makes sure that it is this node's, has it brought to as many cores
//! as are wanted, and raises its incarnation durably before the node says a word. It must not read logs. One
//! per process.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oarlock_types::{ClusterId, CoreId, DiskId, GroupId, Incarnation, NodeId, SegmentId};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::atomic_file::{replace, sync_directory};
use super::buffer::AlignedBytes;
use super::identity::{FORMAT_VERSION, Identity, IdentityFault};
use super::job::DiskError;
use super::layout::CoreDir;
use super::peers::PeerDisks;
use super::probe::{self, ProbeError};
use super::relocation;
use super::segments::read_segment;

pub(super) const IDENTITY: &str = "identity";
const LOCK: &str = "lock";

/// How long a process that was killed may still have writes under way.
const LAST_WRITES_MAX: Duration = Duration::from_secs(60);
/// How often to look whether they have ended: a lock can not be awaited and given up.
const LOCK_LOOK: Duration = Duration::from_millis(5);

/// Whose directory is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDirOptions {
    /// The cluster that it must belong to; a new directory is made for it.
    pub cluster: ClusterId,
    /// The node that it must belong to.
    pub node: NodeId,
    /// The cores that it is to be laid out for; one that is laid out for others is written anew.
    pub cores: u16,
    /// The identity that a new directory gets; none: a new one is drawn.
    pub disk: Option<DiskId>,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// There is something else under that name.
    #[error("{path} is not a directory: choose another data directory", path = path.display())]
    NotADirectory {
        /// The data directory.
        path: PathBuf,
    },
    /// The process may not use it.
    #[error(
        "no permission to use the data directory {path}: give it to the user who runs oarlock \
         (chown), or choose another",
        path = path.display()
    )]
    NoPermission {
        /// The data directory.
        path: PathBuf,
    },
    /// No node was ever started on it.
    #[error("{path} is no node's data directory: check the path", path = path.display())]
    NothingThere {
        /// The path.
        path: PathBuf,
    },
    /// Another process uses it.
    #[error(
        "the data directory {path} is in use by {holder}: stop that process, or choose another \
         directory",
        path = path.display()
    )]
    Locked {
        /// The data directory.
        path: PathBuf,
        /// Who, as far as it is known.
        holder: String,
    },
    /// The process that used it has ended, but the kernel has not ended its writes.
    #[error(
        "the last writes of the process that used {path} have not ended within {seconds} s: the \
         disk does not answer; check it (dmesg, smartctl), then start again",
        path = path.display(),
        seconds = LAST_WRITES_MAX.as_secs()
    )]
    LastWrites {
        /// The data directory.
        path: PathBuf,
    },
    /// It is another node's.
    #[error(
        "the data directory {path} belongs to node {found}, but this is node {wanted}: check the \
         node id and the data directory in the configuration",
        path = path.display()
    )]
    OtherNode {
        /// The data directory.
        path: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Whose it should be.
        wanted: NodeId,
    },
    /// It is another cluster's.
    #[error(
        "the data directory {path} belongs to {found}, but this node is to join {wanted}: \
         check the data directory and the cluster in the configuration",
        path = path.display()
    )]
    OtherCluster {
        /// The data directory.
        path: PathBuf,
        /// Whose it is.
        found: ClusterId,
        /// Whose it should be.
        wanted: ClusterId,
    },
    /// Another version of the program wrote it.
    #[error(
        "the data directory {path} has format {found}, but this program reads format \
         {FORMAT_VERSION}: start the version of oarlock that wrote it, or a newer one",
        path = path.display()
    )]
    OtherFormat {
        /// The data directory.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// Its identity cannot be read.
    #[error(
        "{path} is damaged or missing although the directory holds data: restore it from a backup, \
         or empty the directory and let the node be rebuilt from its peers under a new node id",
        path = path.display()
    )]
    IdentityDamaged {
        /// The identity file.
        path: PathBuf,
    },
    /// The peers file cannot be read.
    #[error(
        "{path} is damaged: restore it from a backup, or, when no other node's disk was replaced \
         since, remove it",
        path = path.display()
    )]
    PeersDamaged {
        /// The peers file.
        path: PathBuf,
    },
    /// A log that is to be written anew for another number of cores is not whole.
    #[error(
        "{path}: {what}: the number of cores is changed only where all logs are whole: start the node with \
         {cores} cores, have what it does not serve rebuilt (`oarlock replica rebuild`), and change the number \
         afterwards; or remove the node and add it as a new one",
        path = path.display()
    )]
    DamagedLog {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// The cores that it was laid out for until now.
        cores: u16,
    },
    /// A newer build has written a log.
    #[error(
        "{path} was written in format {found}, and this build reads up to {known}: start the newer \
         build again",
        path = path.display()
    )]
    NewerLog {
        /// The segment.
        path: PathBuf,
        /// Its version.
        found: u16,
        /// The newest that this build reads.
        known: u16,
    },
    /// Two cores have a replica of one group.
    #[error(
        "{path}: the logs of {} and {} both have a replica of {group}, which may have voted twice: remove \
         the node from the cluster and add it as a new one", cores[0], cores[1],
        path = path.display()
    )]
    TwoReplicas {
        /// The data directory.
        path: PathBuf,
        /// The group.
        group: GroupId,
        /// The cores.
        cores: [CoreId; 2],
    },
    /// A core's directory is not simply a part of the data directory.
    #[error(
        "{path} is a link, or a disk of its own: to change the number of cores, bring it into the data \
         directory itself, or start the node with as many cores as before",
        path = path.display()
    )]
    Elsewhere {
        /// The core's directory.
        path: PathBuf,
    },
    /// What says which of two layouts counts can not be read.
    #[error(
        "{path} is damaged, and it alone says whether the logs beside it or those of before count: restore \
         the data directory from a backup, or remove the node and add it as a new one",
        path = path.display()
    )]
    RelocationDamaged {
        /// The file.
        path: PathBuf,
    },
    /// A start that brought the replicas to other cores was interrupted.
    #[error(
        "a start of the node of {path} with another number of cores was interrupted: start it once more, \
         which ends what that began, and try again",
        path = path.display()
    )]
    HalfRelocated {
        /// The data directory.
        path: PathBuf,
    },
    /// There is no room for logs beside those that there are.
    #[error(
        "to write its logs anew for another number of cores, {path} needs {} MiB of room, and {} MiB are \
         free: free some, or start the node with as many cores as before",
        needed_bytes.div_ceil(1 << 20), available_bytes >> 20,
        path = path.display()
    )]
    NoRoom {
        /// The data directory.
        path: PathBuf,
        /// What it would take.
        needed_bytes: u64,
        /// What there is.
        available_bytes: u64,
    },
    /// A log can not be read or written.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// There is no room for it.
    #[error(
        "no room on the disk for {path}: free some space, then start again",
        path = path.display()
    )]
    DiskFull {
        /// What there was no room for.
        path: PathBuf,
    },
    /// The system gives no random numbers.
    #[error("cannot draw a random identity for the data directory: {reason}")]
    NoRandomness {
        /// The system's words.
        reason: String,
    },
    /// The file system is not fit for it.
    #[error(transparent)]
    Unfit(#[from] ProbeError),
    /// The system refused.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// An open data directory: locked until it is dropped, and all rings that hold on to its lock.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    identity: Identity,
    /// Whether this very start made it, so that there are no promises to have forgotten.
    is_new: bool,
    lock: File,
}

impl DataDir {
    /// Opens the directory `path`, or makes it. When this returns, its incarnation is higher than
    /// ever before, durably.
    ///
    /// # Errors
    /// [`DataDirError`] in one clear line.
    pub fn open(path: &Path, options: &DataDirOptions) -> Result<Self, DataDirError> {
        make_directory(path)?;
        let lock = lock(path)?;
        probe::direct_io(path)?;
        let found = read_identity(path)?;
        let is_new = found.is_none();
        let mut identity = match found {
            Some(identity) => at_home(path, check(path, identity, options)?, options.cores)?,
            None => new_identity(options)?,
        };
        identity.incarnation = identity.incarnation.next();
        replace(path, IDENTITY, identity.to_text().as_bytes())
            .map_err(refused("write", &path.join(IDENTITY)))?;
        let this = Self { path: path.to_owned(), identity, is_new, lock };
        make_core_directories(path, this.identity.cores)?;
        Ok(this)
    }

    /// The open file with the lock, for whoever may have writes under way when the process ends.
    #[must_use]
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The cluster that it belongs to.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.identity.cluster
    }

    /// The node that it belongs to.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.identity.node
    }

    /// Its own identity.
    #[must_use]
    pub fn disk(&self) -> DiskId {
        self.identity.disk
    }

    /// How often it was started, this time included.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.identity.incarnation
    }

    /// Whether this start made it: then the node cannot have promised anything to anyone.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// The directory of one core.
    #[must_use]
    pub fn core(&self, core: CoreId) -> CoreDir {
        CoreDir::new(&self.path, core)
    }

    /// What is known of the other nodes' disks.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn peer_disks(&self) -> Result<PeerDisks, DataDirError> {
        PeerDisks::open(&self.path)
    }

    /// The segments of one core's log for recovery, oldest first; each is read when it is its turn.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn read_segments(&self, core: CoreId) -> Result<SegmentReads, DataDirError> {
        SegmentReads::new(&self.core(core))
    }
}

/// The identity of a directory whose replicas are on so many cores: they are brought there if they are not.
fn at_home(path: &Path, identity: Identity, cores: u16) -> Result<Identity, DataDirError> {
    let identity = relocation::finish(path, identity, &mut |_| Ok(()))?;
    if identity.cores == cores {
        return Ok(identity);
    }
    relocation::carry_out(path, identity, cores, &mut |_| Ok(()))
        .inspect_err(|_| relocation::give_back(path))
}

/// Makes the directories of so many cores in `path`, if they are not there, and removes what is unfinished in them.
pub(super) fn make_core_directories(path: &Path, cores: u16) -> Result<(), DataDirError> {
    for core in (0..cores).map(CoreId) {
        let directory = CoreDir::new(path, core);
        let checkpoints = directory.checkpoints();
        fs::create_dir_all(&checkpoints).map_err(refused("create", &checkpoints))?;
        let leftovers = directory.leftovers().map_err(refused("list", directory.path()))?;
        for leftover in leftovers {
            fs::remove_file(&leftover).map_err(refused("remove", &leftover))?;
        }
        for made in [checkpoints.as_path(), directory.path()] {
            sync_directory(made).map_err(refused("sync", made))?;
        }
    }
    sync_directory(path).map_err(refused("sync", path))
}

/// Reads a core's segments one at a time, so that recovery holds one in memory, not all.
#[derive(Debug)]
pub struct SegmentReads {
    rest: std::vec::IntoIter<(SegmentId, PathBuf)>,
}

impl SegmentReads {
    /// The segments in a core's directory, oldest first; also of a stopped node's, without a lock.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn new(directory: &CoreDir) -> Result<Self, DataDirError> {
        let segments = directory.segments().map_err(refused("list", directory.path()))?;
        Ok(Self { rest: segments.into_iter() })
    }

    /// Reads the next segment into `into`, whatever its length is; `None` after the last.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn next_into(
        &mut self,
        into: &mut AlignedBytes,
    ) -> Result<Option<(SegmentId, PathBuf)>, DiskError> {
        let Some((segment, path)) = self.rest.next() else { return Ok(None) };
        read_segment(&path, into)?;
        Ok(Some((segment, path)))
    }
}

/// Locks a stopped node's directory for a tool that works on it while no node runs, and reads whose it is.
/// Nothing in it changes.
///
/// # Errors
/// When it is nobody's, a node runs on it, or it cannot be read.
pub fn lock_stopped(path: &Path) -> Result<(Identity, File), DataDirError> {
    let nothing = || DataDirError::NothingThere { path: path.to_owned() };
    read_identity(path)?.ok_or_else(nothing)?;
    let lock = lock(path)?;
    if relocation::is_half_done(path) {
        return Err(DataDirError::HalfRelocated { path: path.to_owned() });
    }
    // A node that has just ended may have changed it before.
    Ok((read_identity(path)?.ok_or_else(nothing)?, lock))
}

/// Reads whose a directory is without locking it or raising its incarnation, for tools.
///
/// # Errors
/// When it is nobody's, damaged, or of another format.
pub fn peek_identity(path: &Path) -> Result<Identity, DataDirError> {
    read_identity(path)?.ok_or_else(|| DataDirError::IdentityDamaged { path: path.join(IDENTITY) })
}

/// Makes the directory if it is not there.
///
/// # Errors
/// When it can not be made, or something else has its name.
pub fn make_directory(path: &Path) -> Result<(), DataDirError> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(DataDirError::NotADirectory { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(path).map_err(refused("create", path))?;
            match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => {
                    sync_directory(parent).map_err(refused("sync", parent))
                }
                Some(_) | None => Ok(()),
            }
        }
        Err(error) => Err(refused("open", path)(error)),
    }
}

fn lock(path: &Path) -> Result<File, DataDirError> {
    let file_path = path.join(LOCK);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&file_path)
        .map_err(refused("open", &file_path))?;
    let mut waits_since = None;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(refused("lock", &file_path)(error.into())),
        }
        // Read each time: somebody else may have been quicker.
        let holder = fs::read_to_string(&file_path).unwrap_or_default();
        let locked = |holder| Err(DataDirError::Locked { path: path.to_owned(), holder });
        let Ok(process) = holder.trim().parse() else {
            return locked("another process".to_owned());
        };
        if runs(process) {
            return locked(format!("process {process}"));
        }
        // Its rings still hold the lock: see `WalRing::open`.
        let since = waits_since.get_or_insert_with(|| {
            let path = path.display();
            tracing::info!(
                "process {process}, which used {path}, has ended: waiting for its last writes"
            );
            Instant::now()
        });
        if since.elapsed() > LAST_WRITES_MAX {
            return Err(DataDirError::LastWrites { path: path.to_owned() });
        }
        std::thread::sleep(LOCK_LOOK);
    }
    // Only for the message above: a full disk must not keep the node from starting.
    let _ = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

/// Whether a process runs: one that has ended may still be known until its parent asks for it.
fn runs(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

fn read_identity(path: &Path) -> Result<Option<Identity>, DataDirError> {
    let file = path.join(IDENTITY);
    match fs::read(&file) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            Identity::from_text(&text).map(Some).map_err(|fault| match fault {
                IdentityFault::Format(found) => {
                    DataDirError::OtherFormat { path: path.to_owned(), found }
                }
                IdentityFault::Damaged => DataDirError::IdentityDamaged { path: file },
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // The identity is made before the first core's directory is.
            if CoreDir::new(path, CoreId(0)).path().exists() {
                return Err(DataDirError::IdentityDamaged { path: file });
            }
            Ok(None)
        }
        Err(error) => Err(refused("read", &file)(error)),
    }
}

fn new_identity(options: &DataDirOptions) -> Result<Identity, DataDirError> {
    Ok(Identity {
        cluster: options.cluster,
        node: options.node,
        disk: options.disk.map_or_else(draw_disk_id, Ok)?,
        incarnation: Incarnation(0),
        cores: options.cores,
    })
}

/// An identity that no other data directory has.
///
/// # Errors
/// When the system gives no random numbers.
pub fn draw_disk_id() -> Result<DiskId, DataDirError> {
    let mut drawn = [0; 16];
    getrandom::fill(&mut drawn)
        .map_err(|error| DataDirError::NoRandomness { reason: error.to_string() })?;
    Ok(DiskId(u128::from_le_bytes(drawn)))
}

fn check(path: &Path, found: Identity, wanted: &DataDirOptions) -> Result<Identity, DataDirError> {
    let path = path.to_owned();
    // The cluster comes last: its id may be derived from the other two, and then says less.
    if found.node != wanted.node {
        let (found, wanted) = (found.node, wanted.node);
        return Err(DataDirError::OtherNode { path, found, wanted });
    }
    if found.cluster != wanted.cluster {
        let (found, wanted) = (found.cluster, wanted.cluster);
        return Err(DataDirError::OtherCluster { path, found, wanted });
    }
    Ok(found)
}

/// Says what was tried with which file, and tells refusals apart that are mended differently.
pub(super) fn refused(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataDirError {
    move |source| {
        let path = path.to_owned();
        match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => DataDirError::DiskFull { path },
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => DataDirError::NoPermission { path },
            Some(libc::ENOTDIR) => DataDirError::NotADirectory { path },
            _ => DataDirError::Io { action, path, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_apart() {
        let told = |errno| {
            let error = io::Error::from_raw_os_error(errno);
            refused("open", Path::new("/data"))(error).to_string()
        };
        assert!(told(libc::EACCES).starts_with("no permission to use the data directory /data"));
        assert!(told(libc::ENOSPC).starts_with("no room on the disk for /data"));
        assert!(told(libc::ENOTDIR).starts_with("/data is not a directory"));
        assert!(told(libc::EIO).starts_with("cannot open /data: Input/output error"));
    }
}
