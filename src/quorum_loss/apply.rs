//! Carries a plan out on a stopped survivor: first all of it is checked, then written. What is cut short,
//! and what was done already, is done again without harm.

use std::path::{Path, PathBuf};

use oarlock_raft::LogPosition;
use oarlock_survivors::apply::wanted;
use oarlock_survivors::plan::{Plan, Survived};
use oarlock_types::{CoreAddr, CoreId, DiskId, GroupId, Incarnation, NodeId};
use oarlock_wal::{Addition, Wal};

use super::collect::{self, CollectError};
use crate::disk::data_dir::{DataDirError, lock_stopped};
use crate::disk::identity::Identity;
use crate::disk::job::DiskError;
use crate::disk::layout::CoreDir;
use crate::disk::peers::PeerDisks;
use crate::disk::stopped;

/// Why a plan is not carried out. Nothing was changed, unless a disk refused a write.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DataDirError),
    /// Its logs cannot be read.
    #[error(transparent)]
    Collect(#[from] CollectError),
    /// A disk refuses.
    #[error("{0}; apply the plan again once that is mended: what is done already stays done")]
    Disk(#[from] DiskError),
    /// It is another cluster's.
    #[error(
        "{path} belongs to {found}, and the plan is for {planned}: apply it to that cluster's nodes only",
        path = path.display()
    )]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: oarlock_types::ClusterId,
        /// Whose the plan is.
        planned: oarlock_types::ClusterId,
    },
    /// The plan does not know it.
    #[error(
        "{path} belongs to {node}, which is no survivor by the plan: make a new plan with it",
        path = path.display()
    )]
    NotPlanned {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        node: NodeId,
    },
    /// It was made anew.
    #[error(
        "{path} is another data directory of {node} than the one that the plan saw: apply the plan to \
         that one, or make a new plan",
        path = path.display()
    )]
    OtherDisk {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        node: NodeId,
    },
    /// The node was started since.
    #[error(
        "{node} was started since the plan was made ({found} times in all, {planned} then): if the plan was \
         applied before that, all is done; otherwise make a new plan",
        found = found.get(),
        planned = planned.get()
    )]
    Started {
        /// The node.
        node: NodeId,
        /// How often by now.
        found: Incarnation,
        /// How often when the plan was made.
        planned: Incarnation,
    },
    /// What it has of a group is not what the plan saw.
    #[error(
        "{group} on {node}: the plan saw a log up to {planned}, and it is {found} now: make a new plan"
    )]
    Changed {
        /// The node.
        node: NodeId,
        /// The group.
        group: GroupId,
        /// What the plan saw.
        planned: LogPosition,
        /// What is there.
        found: String,
    },
}

/// A plan that was checked against a directory, which stays locked.
#[derive(Debug)]
pub struct Prepared {
    path: PathBuf,
    identity: Identity,
    cores: Vec<Core>,
    refused: Vec<NodeId>,
    _lock: std::fs::File,
}

#[derive(Debug)]
struct Core {
    core: CoreId,
    wal: Wal,
    /// For each group.
    additions: Vec<Vec<Addition>>,
}

/// Checks a plan against a stopped node's directory.
///
/// # Errors
/// When the node runs, or is not as the plan saw it.
pub fn prepare(plan: &Plan, path: &Path) -> Result<Prepared, ApplyError> {
    let (identity, lock) = lock_stopped(path)?;
    check_identity(plan, path, &identity)?;
    let mut cores = Vec::new();
    for core in (0..identity.cores).map(CoreId) {
        let (recovered, _) = collect::read_core(&CoreDir::new(path, core), core, &identity)?;
        let mut groups = recovered.groups;
        let mut additions = Vec::new();
        for group in &plan.groups {
            let here = |there: &&Survived| there.node == identity.node && there.core == core;
            for survived in group.replicas.iter().filter(here) {
                let found = groups.remove(&group.group);
                let wanted = wanted(group, survived, CoreAddr::new(identity.node, core), found);
                let wanted = wanted.map_err(|found| ApplyError::Changed {
                    node: identity.node,
                    group: group.group,
                    planned: survived.last,
                    found,
                })?;
                additions.extend(Some(wanted).filter(|wanted| !wanted.is_empty()));
            }
        }
        cores.push(Core { core, wal: recovered.wal, additions });
    }
    let known = PeerDisks::open(path)?;
    let refused = plan.given_up.iter().copied();
    let refused = refused.filter(|node| known.known_disk(*node) != Some(DiskId::NONE)).collect();
    Ok(Prepared { path: path.to_owned(), identity, cores, refused, _lock: lock })
}

fn check_identity(plan: &Plan, path: &Path, identity: &Identity) -> Result<(), ApplyError> {
    let (path, node) = (path.to_owned(), identity.node);
    if identity.cluster != plan.cluster {
        let (found, planned) = (identity.cluster, plan.cluster);
        return Err(ApplyError::OtherCluster { path, found, planned });
    }
    let Some(survivor) = plan.survivor(node) else {
        return Err(ApplyError::NotPlanned { path, node });
    };
    if identity.disk != survivor.disk {
        return Err(ApplyError::OtherDisk { path, node });
    }
    let (found, planned) = (identity.incarnation, survivor.incarnation);
    if found == planned { Ok(()) } else { Err(ApplyError::Started { node, found, planned }) }
}

impl Prepared {
    /// The node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.identity.node
    }

    /// Whether the plan was carried out here already.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.refused.is_empty() && self.cores.iter().all(|core| core.additions.is_empty())
    }

    /// Writes all that is left, durably; how many groups that concerned.
    ///
    /// # Errors
    /// When a disk refuses: the rest is left to another attempt.
    pub fn carry_out(self) -> Result<usize, ApplyError> {
        let mut known = PeerDisks::open(&self.path)?;
        for node in &self.refused {
            known.remember_disk(*node, DiskId::NONE)?;
        }
        let mut count = 0;
        for Core { core, mut wal, additions } in self.cores {
            let directory = CoreDir::new(&self.path, core);
            for group in additions {
                stopped::add(&directory, core, &self.identity, &mut wal, &group)?;
                count += 1;
            }
        }
        Ok(count)
    }
}
