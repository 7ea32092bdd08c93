//! Reads what a stopped survivor has from its data directory. It changes nothing there.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oarlock_cluster::MapCopy;
use oarlock_cluster::levels::{self, NotUnderstood};
use oarlock_cluster::map_store;
use oarlock_codec::{SplitEntry, commands};
use oarlock_raft::{Context, Group, GroupConfig, LogPosition, Payload, SnapshotMeta};
use oarlock_shard::losses::{Evidence, Losses, Lost, claim_logged, give_up};
use oarlock_shard::moves::Departed;
use oarlock_shard::rebuild::Origin;
use oarlock_shard::support_table::TableConfig;
use oarlock_shard::{Homes, ReplicaSeed, SupportTable};
use oarlock_store::{Absorb, Batch, Command, Loader, Store};
use oarlock_types::{
    CoreAddr, CoreId, FeatureLevel, FeatureLevels, GroupId, Incarnation, Index, Limits, Mono,
    NodeId, RangeDescriptor, RangeEpoch, SharedLimits, Term, WallMs,
};
use oarlock_wal::{DamageKind, Recovered, RecoveredGroup, layout};

use super::state::{Cut, KnownPeer, MetaState, NodeState, ReplicaKind, ReplicaState};
use crate::disk::data_dir::DataDirError;
use crate::disk::identity::Identity;
use crate::disk::layout::CoreDir;
use crate::disk::map_copy::CopyError;
use crate::disk::peers::PeerDisks;
use crate::disk::stopped::{self, ReadLogError};
use crate::disk::{lost, map_copy};
use crate::node::recover::{CheckpointError, load_checkpoint};

/// Why a survivor's state cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DataDirError),
    /// A log cannot be read.
    #[error(transparent)]
    Log(#[from] ReadLogError),
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
    /// The cluster is at a level that this build does not understand.
    #[error(transparent)]
    Level(#[from] NotUnderstood),
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
    /// An entry is not what this build writes.
    #[error(
        "an entry of the log of {group} cannot be read ({reason}): use the build that wrote it"
    )]
    Entry {
        /// The group.
        group: GroupId,
        /// Why.
        reason: String,
    },
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
    let mut state = NodeState {
        cluster: identity.cluster,
        node: identity.node,
        disk: identity.disk,
        incarnation: identity.incarnation,
        has_unnamed_losses: false,
        peers: peers(path)?,
        map_version: copy.as_ref().map_or(0, |copy| copy.map.version()),
        level: FeatureLevel::FIRST,
        joined: Vec::new(),
        meta: None,
        replicas: Vec::new(),
        ranges: Vec::new(),
    };
    if let Some(MapCopy { map, members, level }) = copy {
        levels::check(level, FeatureLevels::BUILD)?;
        state.level = level;
        let ranges = map.group(GroupId::META).into_iter().chain(map.ranges());
        state.ranges.extend(ranges.map(|range| range.to_descriptor()));
        state.joined = members;
    }
    for (core, directory, recovered, lost) in read_cores(path, identity)? {
        state.has_unnamed_losses |= lost::has_unnamed(&directory);
        let (mut bases, groups) = (Vec::new(), recovered.groups);
        // Also those of which the log says nothing any more.
        let unnamed = lost.keys().filter(|group| !groups.contains_key(group));
        let nothing = RecoveredGroup::default();
        state.replicas.extend(unnamed.map(|group| lost_replica(*group, core, &nothing)));
        for (group, found) in groups {
            bases.extend(Origin::from_details(&found.details).base);
            let addr = CoreAddr::new(identity.node, core);
            let seen = if lost.contains_key(&group) {
                lost_replica(group, core, &found)
            } else {
                let load =
                    |meta: &SnapshotMeta, loader| load_checkpoint(&directory, group, meta, loader);
                replica(group, addr, found, load, &mut state)?
            };
            state.replicas.push(seen);
        }
        // What a cut made proves that the cut had committed.
        for base in bases {
            let cut = state.replicas.iter_mut().filter(|replica| replica.group == base.parent);
            cut.for_each(|replica| replica.committed = replica.committed.max(base.index));
        }
    }
    state.replicas.sort_by_key(|replica| (replica.group, replica.core));
    Ok(state)
}

/// Reads the logs of all cores, without what another core has by now.
fn read_cores(
    path: &Path,
    identity: &Identity,
) -> Result<Vec<(CoreId, CoreDir, Recovered, Lost)>, CollectError> {
    let homes = Homes::new(identity.cores);
    let mut cores = Vec::new();
    for core in (0..identity.cores).map(CoreId) {
        let directory = CoreDir::new(path, core);
        let (recovered, lost) = read_core(&directory, core, identity)?;
        claim_logged(&homes, core, &recovered, &lost).map_err(|(group, other)| {
            let path = path.to_owned();
            DataDirError::TwoReplicas { path, group, cores: [other, core] }
        })?;
        cores.push((core, directory, recovered, lost));
    }
    for (core, _, recovered, lost) in &mut cores {
        give_up(&homes, *core, recovered, lost);
    }
    Ok(cores)
}

/// Reads a core's log, and which of its replicas are lost.
pub(super) fn read_core(
    directory: &CoreDir,
    core: CoreId,
    identity: &Identity,
) -> Result<(Recovered, Lost), CollectError> {
    let recovered = stopped::read_log(directory, core, identity)?;
    for damage in &recovered.damage {
        if let DamageKind::NewerVersion { found } = damage.kind {
            return Err(CollectError::NewerVersion {
                path: directory.segment(damage.segment),
                found,
            });
        }
        if let DamageKind::UnknownRecord { .. } = damage.kind {
            let path = directory.segment(damage.segment);
            return Err(CollectError::UnknownRecord { path, found: damage.kind.to_string() });
        }
    }
    let before = lost::read(directory)?;
    let losses = Losses::judge(&Evidence {
        recovered: &recovered,
        held: &[],
        had_begun: directory.has_begun(),
        before: &before,
        incarnation: identity.incarnation.next(),
    });
    let is_unrecorded = losses.has_unnamed && !lost::has_unnamed(directory);
    if !losses.news.is_empty() || is_unrecorded {
        return Err(CollectError::Unrecorded { path: directory.path().to_owned() });
    }
    Ok((recovered, losses.lost))
}

/// The neighbours that a batch brings into a range, each of which raises its version, if it takes it.
fn absorbed(batch: &Batch) -> impl Iterator<Item = &Absorb> {
    let commands = batch.requests.iter().flat_map(|request| &request.commands);
    commands.filter_map(|command| if let Command::Absorb(it) = command { Some(it) } else { None })
}

fn peers(path: &Path) -> Result<Vec<KnownPeer>, DataDirError> {
    let known = PeerDisks::open(path)?;
    Ok(known.iter().map(|(node, disk)| KnownPeer { node, disk }).collect())
}

fn lost_replica(group: GroupId, core: CoreId, found: &RecoveredGroup) -> ReplicaState {
    let checkpoint = found.checkpoint.as_ref();
    ReplicaState {
        kind: ReplicaKind::Lost,
        term: found.hard_state.term,
        committed: checkpoint.map_or(Index(0), |meta| meta.position.index),
        members: checkpoint.map_or(&found.configuration, |meta| &meta.configuration).clone(),
        ..nothing(group, core)
    }
}

fn nothing(group: GroupId, core: CoreId) -> ReplicaState {
    ReplicaState {
        group,
        core,
        kind: ReplicaKind::Absent,
        term: Term(0),
        last: LogPosition::default(),
        committed: Index(0),
        reached: LogPosition::default(),
        votes_from: Index(0),
        configured: Index(0),
        is_electable: false,
        epoch: RangeEpoch(0),
        stamp: WallMs(0),
        members: oarlock_raft::Configuration::default(),
        cuts: Vec::new(),
    }
}

/// What the log gives back of a group that is not lost, and what the meta group's says of the map.
fn replica(
    group: GroupId,
    addr: CoreAddr,
    found: RecoveredGroup,
    load: impl FnOnce(&SnapshotMeta, Loader) -> Result<Store, CheckpointError>,
    state: &mut NodeState,
) -> Result<ReplicaState, CollectError> {
    if Departed::of(&found).is_some() {
        return Ok(bare(group, addr, found));
    }
    let as_lost = lost_replica(group, addr.core, &found);
    let origin = Origin::from_details(&found.details);
    let limits = Limits::default();
    let seed = ReplicaSeed::recovered(group, found, &limits, Duration::ZERO, None, load);
    let Ok(ReplicaSeed { restored, mut store, .. }) = seed else { return Ok(as_lost) };
    let applied = restored.checkpoint.configuration.clone();
    let raft = raft(group, addr, restored);
    let mut seen = described(&raft, &origin, addr.core);
    seen.is_electable |= applied.is_voter(addr.node);
    seen.stamp = store.stamp();
    let bounds = store.bounds().epoch;
    seen.epoch = if bounds > RangeEpoch(0) { bounds } else { origin.epoch };
    let mut index = raft.commit().next();
    while let Some(entry) = raft.entry(index) {
        let unread =
            |reason: &dyn ToString| CollectError::Entry { group, reason: reason.to_string() };
        match &entry.payload {
            payload @ (Payload::Commands(_) | Payload::Packed(_)) => {
                let batch = commands::batch(payload).map_err(|error| unread(&error))?;
                seen.stamp = seen.stamp.max(batch.stamp);
                for absorb in absorbed(&batch) {
                    seen.epoch = seen.epoch.max(absorb.frozen).next();
                }
                if group == GroupId::META {
                    store.apply(index, batch, &mut Vec::new());
                }
            }
            Payload::Split(bytes) => {
                let cut = SplitEntry::decode(bytes);
                let cut = cut.ok_or_else(|| unread(&"it is no cut of a range"))?;
                seen.cuts.push(Cut { child: cut.child, index });
                if seen.epoch > RangeEpoch(0) {
                    seen.epoch = seen.epoch.next();
                }
            }
            Payload::Merge(_) if seen.epoch > RangeEpoch(0) => seen.epoch = seen.epoch.next(),
            Payload::Noop | Payload::Config(_) | Payload::Merge(_) => {}
        }
        index = index.next();
    }
    if group == GroupId::META {
        take_map(&store, state);
    }
    Ok(seen)
}

/// What is there without its checkpoint: its end, its terms, its members.
pub(super) fn bare(group: GroupId, addr: CoreAddr, found: RecoveredGroup) -> ReplicaState {
    if let Some(Departed { hard_state, last, .. }) = Departed::of(&found) {
        let (kind, term) = (ReplicaKind::Ended, hard_state.term);
        return ReplicaState { kind, term, last, reached: last, ..nothing(group, addr.core) };
    }
    let origin = Origin::from_details(&found.details);
    let limits = Limits::default();
    let empty = |_: &SnapshotMeta, _| Ok(Store::new(oarlock_shard::Shard::store_limits(&limits)));
    let seed: Result<ReplicaSeed, std::convert::Infallible> =
        ReplicaSeed::recovered(group, found, &limits, Duration::ZERO, None, empty);
    let Ok(ReplicaSeed { restored, .. }) = seed;
    described(&raft(group, addr, restored), &origin, addr.core)
}

/// The replica as Raft takes it up.
fn raft(group: GroupId, addr: CoreAddr, restored: oarlock_raft::Restored) -> Group {
    let table = SupportTable::new(&TableConfig {
        node: addr.node,
        incarnation: Incarnation(1),
        cores: addr.core.get() + 1,
        cores_max: addr.core.get() + 1,
        origin: Mono(0),
        peers: &[],
    });
    let support = table.view(addr.core, Mono(0));
    let ctx = Context { now: Mono(0), support: &support, may_vote: false };
    let config = GroupConfig {
        group,
        node: addr.node,
        core: addr.core,
        seed: 0,
        limits: SharedLimits::new(Limits::default()),
    };
    Group::new(config, restored, &ctx)
}

fn described(raft: &Group, origin: &Origin, core: CoreId) -> ReplicaState {
    let left = origin.left.unwrap_or_default();
    let node: NodeId = raft.node();
    ReplicaState {
        kind: ReplicaKind::Whole,
        term: raft.term(),
        last: raft.last(),
        committed: raft.commit(),
        reached: raft.last().max(left),
        votes_from: origin.rebuilt.map_or(Index(0), |rebuilt| rebuilt.votes_from),
        configured: raft.configured(),
        is_electable: raft.configuration().is_voter(node),
        members: raft.configuration().clone(),
        ..nothing(raft.id(), core)
    }
}

/// What the meta group's keys say: of each range and node the newest of that and what is known already.
fn take_map(store: &Store, state: &mut NodeState) {
    let mut from = Some(map_store::first());
    while let Some(key) = from.take() {
        let reply = store.read(&map_store::read_all(key), WallMs(0));
        let Ok((news, next)) = map_store::all(&reply) else { break };
        state.level = state.level.max(news.level.unwrap_or_default());
        state.ranges.extend(news.ranges);
        state.joined.extend(news.members);
        from = next;
    }
    let newest = |range: &RangeDescriptor| (range.epoch, range.configured);
    state.ranges.sort_by_key(|range| (range.group, Reverse(newest(range))));
    state.ranges.dedup_by_key(|range| range.group);
    state.joined.sort_by_key(|member| member.entry.id);
    state.joined.dedup_by_key(|member| member.entry.id);
    let heights = map_store::heights(&store.read(&map_store::read_heights(), WallMs(0)));
    state.meta = heights.map(|(map_version, groups)| MetaState { map_version, groups });
}
