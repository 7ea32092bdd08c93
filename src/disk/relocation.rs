//! Brings the replicas of a node to another number of cores: at a start, before anything of the node runs, in
//! a directory that is locked. Once per such start; it may take as long as its logs take to be read and written.
//!
//! All logs are written anew in a folder beside the old ones, and checkpoints are linked there. Nothing of the
//! old is touched before all of the new is durable and a file says so: that one file decides which of the two
//! counts. What is cut short is begun anew before it, for whatever number of cores is wanted by then, and
//! brought to its end behind it. So no group ever has two replicas, and none has none.
//! `docs/decisions/0015-between-cores.md` argues why so and not replica by replica.
//!
//! Which replica goes where, and what of the logs is carried, [`oarlock_shard::relocation`] says; here are the files.
//! It must not take up a replica, nor judge damage.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oarlock_codec::Record;
use oarlock_raft::Entry;
use oarlock_shard::relocation::{NewCore, Obstacle, OldCore, records, relocate};
use oarlock_types::CoreId;
use oarlock_wal::layout::{BLOCK_BYTES, VERSION};
use oarlock_wal::{Addition, DamageKind, Owner, Wal, WalConfig};

use super::atomic_file::{replace, seal, sync_directory, unseal};
use super::checkpoint::link;
use super::data_dir::{DataDirError, IDENTITY, make_core_directories, refused};
use super::identity::Identity;
use super::job::space;
use super::layout::{CheckpointName, CoreDir};
use super::lost;
use super::stopped::{self, ReadLogError};

const FOLDER: &str = "relocation";
/// Where this file is, the logs in the folder are the ones that count.
const DECIDED: &str = "decided";
/// Records are written so much at a time: no frame becomes longer, unless one entry alone is.
const PIECE_BYTES: usize = 1 << 20;
/// What a record other than of entries is counted with.
const SMALL_RECORD_BYTES: usize = 256;
/// How often it is said how far the work is.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What has just been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The old logs are read. Nothing is changed yet.
    Read,
    /// All that a core is to have stands in its new directory.
    Written(CoreId),
    /// The new logs count from now on.
    Decided,
    /// A core has its new directory.
    InPlace(CoreId),
    /// The cores that are no more have no directory any more.
    Left,
    /// The identity names the new number of cores.
    Counted,
}

/// Is called behind each step; an error ends the work there, as the end of the process would.
pub type AfterStep<'a> = &'a mut dyn FnMut(Step) -> Result<(), DataDirError>;

/// Whether a relocation was decided and not brought to its end: until then nothing else may use the directory.
#[must_use]
pub fn is_half_done(path: &Path) -> bool {
    path.join(FOLDER).join(DECIDED).exists()
}

/// Ends what an earlier start has decided, or drops what it had not; the identity as it is then.
///
/// # Errors
/// When the system refuses: the next start goes on with it.
pub fn finish(
    path: &Path,
    mut identity: Identity,
    after: AfterStep<'_>,
) -> Result<Identity, DataDirError> {
    let folder = path.join(FOLDER);
    let decided = folder.join(DECIDED);
    let Some(text) = read_if_there(&decided)? else {
        drop_folder(path)?;
        return Ok(identity);
    };
    let cores =
        unseal(&text).and_then(|text| text.strip_prefix("cores = ")?.trim_end().parse().ok());
    let cores: u16 = cores.ok_or(DataDirError::RelocationDamaged { path: decided.clone() })?;
    for core in (0..cores).map(CoreId) {
        put_in_place(path, &folder, core)?;
        after(Step::InPlace(core))?;
    }
    remove_others(path, cores)?;
    sync(&folder)?;
    sync(path)?;
    after(Step::Left)?;
    identity.cores = cores;
    replace(path, IDENTITY, identity.to_text().as_bytes())
        .map_err(refused("write", &path.join(IDENTITY)))?;
    after(Step::Counted)?;
    remove_if_there(&decided)?;
    sync(&folder)?;
    drop_folder(path)?;
    tracing::info!("{}: all replicas are on {cores} cores now", path.display());
    Ok(identity)
}

/// Brings all that the directory holds to `cores` cores, once [`finish`] has ended what was before; the
/// identity as it is then.
///
/// # Errors
/// When a log is not whole, there is no room, or the system refuses. As long as nothing was decided, nothing
/// has changed then.
pub fn carry_out(
    path: &Path,
    identity: Identity,
    cores: u16,
    after: AfterStep<'_>,
) -> Result<Identity, DataDirError> {
    tracing::info!(
        "{}: brings its replicas from {} cores to {cores}",
        path.display(),
        identity.cores
    );
    make_core_directories(path, identity.cores)?;
    check_place(path, identity.cores)?;
    let old = read(path, &identity)?;
    let sizes = Sizes::of(&old);
    let new = relocate(old, identity.incarnation, cores)
        .map_err(|obstacle| told(path, &identity, obstacle))?;
    after(Step::Read)?;
    check_room(path, sizes, cores)?;
    let folder = path.join(FOLDER);
    make_core_directories(&folder, cores)?;
    let mut progress = Progress::new(new.iter().map(|new| new.groups.len()).sum());
    for (core, new) in (0..).map(CoreId).zip(new) {
        let directory = CoreDir::new(&folder, core);
        link_checkpoints(path, &directory, &new)?;
        if !new.lost.is_empty() {
            lost::write(&directory, &new.lost)?;
        }
        if let Some(found_in) = new.unnamed {
            lost::note_unnamed(&directory, found_in)?;
        }
        write_log(&directory, core, &identity, sizes, new, &mut progress)?;
        sync(&directory.checkpoints())?;
        sync(directory.path())?;
        after(Step::Written(core))?;
    }
    sync(&folder)?;
    sync(path)?;
    replace(&folder, DECIDED, seal(&format!("cores = {cores}\n")).as_bytes())
        .map_err(refused("write", &folder.join(DECIDED)))?;
    after(Step::Decided)?;
    finish(path, identity, after)
}

fn read(path: &Path, identity: &Identity) -> Result<Vec<OldCore>, DataDirError> {
    let read = |core| {
        let directory = CoreDir::new(path, core);
        let log = stopped::read_log(&directory, core, identity).map_err(|error| match error {
            ReadLogError::Directory(error) => error,
            ReadLogError::Segment(error) => DataDirError::Disk(error),
        })?;
        let files = directory.checkpoint_list();
        let files = files.map_err(refused("list", &directory.checkpoints()))?;
        Ok(OldCore {
            log,
            had_begun: directory.has_begun(),
            lost: lost::read(&directory)?,
            unnamed: lost::unnamed(&directory, identity.incarnation),
            files: files.into_iter().map(|(name, _)| name.into()).collect(),
        })
    };
    (0..identity.cores).map(CoreId).map(read).collect()
}

/// A directory can be put in the place of another only where both are on one disk.
fn check_place(path: &Path, cores: u16) -> Result<(), DataDirError> {
    let disk = path.metadata().map_err(refused("look at", path))?.dev();
    for core in (0..cores).map(CoreId) {
        let path = CoreDir::new(path, core).path().to_owned();
        let found = path.symlink_metadata().map_err(refused("look at", &path))?;
        if found.is_symlink() || found.dev() != disk {
            return Err(DataDirError::Elsewhere { path });
        }
    }
    Ok(())
}

/// What stands in the way, in words: a start with the old number of cores has to find it first.
fn told(path: &Path, identity: &Identity, obstacle: Obstacle) -> DataDirError {
    let of = |core| CoreDir::new(path, core);
    let not_whole =
        |path: PathBuf, what| DataDirError::DamagedLog { path, what, cores: identity.cores };
    match obstacle {
        Obstacle::Damaged(core, damage) => {
            let path = of(core).segment(damage.segment);
            if let DamageKind::NewerVersion { found } = damage.kind {
                return DataDirError::NewerLog { path, found, known: VERSION };
            }
            not_whole(path, damage.to_string())
        }
        Obstacle::Missing(core) => {
            not_whole(of(core).path().to_owned(), "its log is missing".to_owned())
        }
        Obstacle::LostAnew(core, group) => {
            not_whole(of(core).path().to_owned(), format!("the state of {group} is lost"))
        }
        Obstacle::TwoReplicas(group, cores) => {
            DataDirError::TwoReplicas { path: path.to_owned(), group, cores }
        }
    }
}

/// How much the logs hold, and the length of their segments.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    needed_bytes: u64,
    segment_bytes: u64,
}

impl Sizes {
    fn of(old: &[OldCore]) -> Self {
        let segment_bytes = old.iter().map(|old| old.log.wal.segment_bytes()).max();
        Self {
            needed_bytes: old.iter().map(|old| old.log.wal.needed_bytes()).sum(),
            segment_bytes: segment_bytes.unwrap_or(WalConfig::SEGMENT_BYTES_DEFAULT),
        }
    }
}

/// The new logs stand beside the old ones for a moment.
fn check_room(path: &Path, sizes: Sizes, cores: u16) -> Result<(), DataDirError> {
    let Sizes { needed_bytes: needed, segment_bytes } = sizes;
    // Frames are whole blocks, and each core's last segment is not full.
    let needed_bytes = needed + needed / 8 + 2 * u64::from(cores) * segment_bytes;
    let available = space(path).map_err(refused("ask for the room of", path))?.available_bytes;
    if available < needed_bytes {
        let path = path.to_owned();
        return Err(DataDirError::NoRoom { path, needed_bytes, available_bytes: available });
    }
    Ok(())
}

/// Gives checkpoints their names under a new core.
fn link_checkpoints(path: &Path, to: &CoreDir, new: &NewCore) -> Result<(), DataDirError> {
    for (file, from) in &new.files {
        let name = CheckpointName::from(*file);
        let (from, to) = (CoreDir::new(path, *from).checkpoint(name), to.checkpoint(name));
        link(&from, &to).map_err(refused("make", &to))?;
    }
    Ok(())
}

fn write_log(
    directory: &CoreDir,
    core: CoreId,
    identity: &Identity,
    Sizes { segment_bytes, .. }: Sizes,
    new: NewCore,
    progress: &mut Progress,
) -> Result<(), DataDirError> {
    let Identity { cluster, node, disk, .. } = *identity;
    let owner = Owner { cluster, node, disk, core };
    // What stood in a segment fits into one.
    let frame_bytes_max = usize::try_from(segment_bytes).unwrap_or(usize::MAX) - BLOCK_BYTES;
    let mut wal = Wal::new(WalConfig { owner, segment_bytes, frame_bytes_max });
    let (mut piece, mut bytes) = (Vec::new(), 0);
    for (group, found) in new.groups {
        for record in records(group, found, PIECE_BYTES) {
            bytes += match &record {
                Record::Entries { entries, .. } => entries.iter().map(Entry::size_bytes).sum(),
                Record::Create { .. }
                | Record::HardState { .. }
                | Record::Checkpoint { .. }
                | Record::Destroy { .. } => SMALL_RECORD_BYTES,
            };
            piece.push(Addition::Append(record));
            if bytes >= PIECE_BYTES {
                stopped::add(directory, core, identity, &mut wal, &piece)?;
                (bytes, piece) = (0, Vec::new());
            }
        }
        progress.one_more();
    }
    Ok(stopped::add(directory, core, identity, &mut wal, &piece)?)
}

/// Puts a core's new directory in the place of the old one, if it is not there yet.
fn put_in_place(path: &Path, folder: &Path, core: CoreId) -> Result<(), DataDirError> {
    let (new, old) = (CoreDir::new(folder, core), CoreDir::new(path, core));
    if new.path().exists() {
        remove_if_there(old.path())?;
        fs::rename(new.path(), old.path()).map_err(refused("rename", new.path()))?;
    }
    // The mark beside the directory is the old log's.
    let mark = old.begun_beside();
    if old.begun().exists() {
        fs::write(&mark, "").map_err(refused("write", &mark))
    } else {
        remove_if_there(&mark)
    }
}

/// Removes the directories of cores that there are no more, and the marks beside them.
fn remove_others(path: &Path, cores: u16) -> Result<(), DataDirError> {
    let list = || path.read_dir()?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    for found in list().map_err(refused("list", path))? {
        if core_of(&found).is_some_and(|core| core >= cores) {
            remove_if_there(&found)?;
        }
    }
    Ok(())
}

/// The core that a directory, or the mark beside it, is of.
fn core_of(path: &Path) -> Option<u16> {
    let name = path.file_name()?.to_str()?.strip_prefix("core-")?;
    let core = name.strip_suffix(".begun").unwrap_or(name).parse().ok()?;
    let directory = CoreDir::new(path.parent()?, CoreId(core));
    let is_one = |name: PathBuf| name == path;
    (is_one(directory.path().to_owned()) || is_one(directory.begun_beside())).then_some(core)
}

/// Gives back the room of what was begun, unless it is decided already. What stays, the next start drops.
pub fn give_back(path: &Path) {
    if !is_half_done(path) {
        let _ = drop_folder(path);
    }
}

fn drop_folder(path: &Path) -> Result<(), DataDirError> {
    let folder = path.join(FOLDER);
    if folder.exists() {
        remove_if_there(&folder)?;
        sync(path)?;
    }
    Ok(())
}

fn read_if_there(path: &Path) -> Result<Option<String>, DataDirError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(refused("read", path)(error)),
    }
}

/// Removes a file, or a directory with all that is in it.
fn remove_if_there(path: &Path) -> Result<(), DataDirError> {
    let is_directory = path.symlink_metadata().is_ok_and(|found| found.is_dir());
    let removed = if is_directory { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(refused("remove", path)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn sync(directory: &Path) -> Result<(), DataDirError> {
    sync_directory(directory).map_err(refused("sync", directory))
}

/// Says now and then how far the work is.
#[derive(Debug)]
struct Progress {
    done: usize,
    all: usize,
    told: Instant,
}

impl Progress {
    fn new(all: usize) -> Self {
        Self { done: 0, all, told: Instant::now() }
    }

    fn one_more(&mut self) {
        self.done += 1;
        if self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            tracing::info!("{} of {} replicas are written", self.done, self.all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_is_no_room_for_both_nothing_is_begun() {
        let sizes = |needed_bytes| Sizes { needed_bytes, segment_bytes: 4096 };
        check_room(Path::new("/"), sizes(0), 3).unwrap();
        let error = check_room(Path::new("/"), sizes(1 << 60), 3).unwrap_err().to_string();
        assert!(error.contains("MiB are free: free some, or start the node with"), "{error}");
    }

    #[test]
    fn only_what_is_of_a_core_is_taken_for_it() {
        let core = |name: &str| core_of(&Path::new("/data").join(name));
        assert_eq!((core("core-12"), core("core-3.begun")), (Some(12), Some(3)));
        for name in ["core-", "core-012", "core-+1", "core-1.old", "core-1.begun.tmp", "identity"] {
            assert_eq!(core(name), None, "{name}");
        }
    }
}
