//! Reads what a stopped survivor has from its data directory. It changes nothing there.

use std::path::{Path, PathBuf};

use oarlock_raft::SnapshotMeta;
use oarlock_shard::losses::Lost;
use oarlock_store::Loader;
use oarlock_survivors::collect::{Beside, CollectFault, CoreLog, LogFault, Noted};
use oarlock_survivors::plan::Survivor;
use oarlock_survivors::state::{KnownPeer, NodeState};
use oarlock_types::{CoreId, GroupId};
use oarlock_wal::{Recovered, layout};

use crate::disk::data_dir::DataDirError;
use crate::disk::identity::Identity;
use crate::disk::layout::CoreDir;
use crate::disk::map_copy::CopyError;
use crate::disk::peers::PeerDisks;
use crate::disk::stopped::{self, ReadLogError};
use crate::disk::{lost, map_copy};
use crate::node::join::{self, JoinError};
use crate::node::recover::load_checkpoint;

/// Why a survivor's state cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DataDirError),
    /// A log cannot be read.
    #[error(transparent)]
    Log(#[from] ReadLogError),
    /// What it was told when it joined cannot be read.
    #[error(transparent)]
    Joined(#[from] JoinError),
    /// A newer build wrote it.
    #[error(
        "{path} was written in format {found}, and this build reads up to {known}: use the newer \
         build",
        path = path.display(),
        known = layout::VERSION
    )]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u16,
    },
    /// The copy of the map is a newer build's.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// A newer build wrote a record.
    #[error("{path}: {found}", path = path.display())]
    UnknownRecord {
        /// The file.
        path: PathBuf,
        /// What is there.
        found: String,
    },
    /// A log is damaged, and no start has written down what that costs.
    #[error(
        "the log in {path} is damaged, and no start has written down which replicas that costs: start \
         the node, stop it once it serves, and try again",
        path = path.display()
    )]
    Unrecorded {
        /// The core's directory.
        path: PathBuf,
    },
    /// What the logs say is not what this build writes.
    #[error(transparent)]
    Content(CollectFault),
}

/// Reads all that a node has whose directory is locked.
///
/// # Errors
/// When a file cannot be read, or a log is damaged and nobody has written down what that costs.
pub fn collect(path: &Path, identity: &Identity) -> Result<NodeState, CollectError> {
    let copy = match map_copy::read(path) {
        Err(error @ CopyError::NotUnderstood { .. }) => return Err(error.into()),
        Err(CopyError::Read { .. } | CopyError::Damaged { .. }) => None,
        Ok(copy) => copy,
    };
    let Identity { cluster, node, disk, incarnation, .. } = *identity;
    let survivor = Survivor { node, disk, incarnation };
    let own = join::own_member(path)?;
    let beside = Beside { cluster, survivor, own, peers: peers(path)?, copy };
    let mut cores = Vec::new();
    for core in (0..identity.cores).map(CoreId) {
        let directory = CoreDir::new(path, core);
        let (recovered, lost) = read_core(&directory, core, identity)?;
        let has_unnamed_losses = lost::has_unnamed(&directory);
        cores.push(CoreLog { core, recovered, lost, has_unnamed_losses });
    }
    let load = |core, group: GroupId, meta: &SnapshotMeta, loader: Loader| {
        load_checkpoint(&CoreDir::new(path, core), group, meta, loader)
    };
    oarlock_survivors::collect::collect(beside, cores, load).map_err(|fault| match fault {
        CollectFault::TwoReplicas { group, cores } => {
            DataDirError::TwoReplicas { path: path.to_owned(), group, cores }.into()
        }
        fault @ (CollectFault::Level(_) | CollectFault::Entry { .. }) => {
            CollectError::Content(fault)
        }
    })
}

/// Reads a core's log, and which of its replicas are lost.
pub(super) fn read_core(
    directory: &CoreDir,
    core: CoreId,
    identity: &Identity,
) -> Result<(Recovered, Lost), CollectError> {
    let recovered = stopped::read_log(directory, core, identity)?;
    let before = lost::read(directory)?;
    let noted = Noted {
        had_begun: directory.has_begun(),
        lost: &before,
        has_unnamed: lost::has_unnamed(directory),
        incarnation: identity.incarnation,
    };
    let lost = oarlock_survivors::collect::lost(&recovered, &noted);
    let lost = lost.map_err(|fault| match fault {
        LogFault::NewerVersion { segment, found } => {
            CollectError::NewerVersion { path: directory.segment(segment), found }
        }
        LogFault::UnknownRecord { segment, found } => {
            CollectError::UnknownRecord { path: directory.segment(segment), found }
        }
        LogFault::Unrecorded => CollectError::Unrecorded { path: directory.path().to_owned() },
    })?;
    Ok((recovered, lost))
}

fn peers(path: &Path) -> Result<Vec<KnownPeer>, DataDirError> {
    let known = PeerDisks::open(path)?;
    Ok(known.iter().map(|(node, disk)| KnownPeer { node, disk }).collect())
}
