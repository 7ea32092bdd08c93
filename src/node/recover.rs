//! Brings a core's shard back from its disk: the log is read, checkpoints are loaded, replicas are
//! taken up or, at the formation of the cluster, made. Once per core and start; it may block.
//!
//! A replica whose log or checkpoint is damaged is not taken up: it might vote or acknowledge
//! against what it has forgotten. Its peers go on without it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use oarlock_raft::{Configuration, SnapshotMeta};
use oarlock_shard::losses::{
    Evidence, Losses, Lost, claim_cuts, claim_logged, doubt, give_up, may_hide, may_hide_group,
    note_hiding,
};
use oarlock_shard::moves::Departed;
use oarlock_shard::rebuild::LostReplica;
use oarlock_shard::{CheckpointFile, ReplicaSeed, Shard, ShardConfig, SharedHomes, SharedSupport};
use oarlock_store::checkpoint::VERSION as CHECKPOINT_VERSION;
use oarlock_store::{LoadError, Loader, Store};
use oarlock_types::range_map::Range;
use oarlock_types::{
    CoreAddr, FeatureLevels, GroupId, Incarnation, Limits, Mono, NodeId, Random, RangeMap,
    SharedLimits,
};
use oarlock_wal::{DamageKind, Recovered, Recovery, Wal, WalConfig, layout};

use crate::disk::buffer::AlignedBytes;
use crate::disk::data_dir::{DataDirError, SegmentReads};
use crate::disk::job::DiskError;
use crate::disk::layout::CoreDir;
use crate::disk::lost;
use crate::disk::segments::newest_marked;

/// Bytes of a checkpoint that are read at once.
const READ_BYTES: usize = 256 << 10;
/// The first leader of a group stands for election about this soon after the formation.
const FIRST_ELECTION: Duration = Duration::from_millis(50);
/// The others leave it so much time before they do.
const OTHER_ELECTION: Duration = Duration::from_millis(1000);
/// Elections of many groups are spread by so much for each.
const SPREAD_PER_GROUP: Duration = Duration::from_micros(40);

/// What a core is brought back with.
#[derive(Clone)]
pub struct RecoverParts {
    /// The core.
    pub addr: CoreAddr,
    /// Its directory.
    pub directory: CoreDir,
    /// Its log's sizes and owner.
    pub wal: WalConfig,
    /// This is the very first start of the data directory.
    pub is_new: bool,
    /// Bounds.
    pub limits: Limits,
    /// The ranges at the cluster's formation.
    pub formation: Arc<RangeMap>,
    /// The ranges as the node knows them. A replica that is here since the formation and that the log
    /// does not know is made.
    pub map: Arc<RangeMap>,
    /// Which core of the node has what.
    pub homes: SharedHomes,
    /// Where each core waits for the others: once it has said what its log has, and once it knows what is
    /// lost. Before both nothing is made or taken up.
    pub all_cores: Arc<Barrier>,
    /// The node's support.
    pub support: SharedSupport,
    /// Decides every random choice of the core.
    pub seed: u64,
    /// Now.
    pub now: Mono,
    /// This life of the node.
    pub incarnation: Incarnation,
}

/// Why a core can not be brought back at all.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The directory can not be read.
    #[error(transparent)]
    Directory(#[from] DataDirError),
    /// A segment can not be read.
    #[error(transparent)]
    Segment(#[from] DiskError),
    /// A newer build has written here. Nothing is wrong with it, and nothing is touched.
    #[error(
        "{path} was written in format {found}, and this build reads up to {known}: start the newer \
         build again",
        path = path.display()
    )]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u16,
        /// The newest that this build reads.
        known: u16,
    },
    /// The same, of a record.
    #[error(
        "frame {lsn} in {path} has a record that this build does not know, which understands feature {}: start the \
         newer build again",
        FeatureLevels::BUILD,
        path = path.display()
    )]
    UnknownRecord {
        /// The file.
        path: PathBuf,
        /// The frame.
        lsn: u64,
    },
}

/// Why a checkpoint can not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// It is not what was written.
    #[error("{path} is damaged: {source}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: LoadError,
    },
}

/// Reads the core's disk and makes its shard.
///
/// # Errors
/// When the directory can not be read. Damage is no error: it is logged, and the replicas that it
/// concerns are left out.
pub fn recover(parts: &RecoverParts) -> Result<Shard, RecoverError> {
    let mut recovered = read_log(parts)?;
    let lost_before = lost::read(&parts.directory)?;
    claim(parts, &recovered, &lost_before)?;
    let (lost, destroyed) = lost_groups(parts, &mut recovered, lost_before)?;
    parts.all_cores.wait();
    claim_cuts(&parts.homes, parts.addr, &recovered, &lost);
    parts.all_cores.wait();
    let held = held_by_map(parts);
    let Recovered { wal, groups, .. } = recovered;
    let mut random = Random::new(parts.seed);
    let mut shard = new_shard(parts, wal, random.next_u64());
    for group in destroyed {
        shard.forget_replica(group);
    }
    let spread = SPREAD_PER_GROUP.saturating_mul(u32::try_from(held.len()).unwrap_or(u32::MAX));
    let known: BTreeSet<GroupId> = groups.keys().copied().collect();
    let mut restored = 0;
    // Each with its members, if the log knows them.
    let mut unserved: BTreeMap<GroupId, Configuration> =
        lost.keys().map(|group| (*group, Configuration::default())).collect();
    for (group, found) in groups {
        if let Some(members) = unserved.get_mut(&group) {
            *members = found.configuration;
            continue;
        }
        if let Some(departed) = Departed::of(&found) {
            shard.note_departed(group, departed);
            continue;
        }
        let members = found.configuration.clone();
        let wait = parts.limits.support_duration + random.between(Duration::ZERO, spread * 2);
        let load =
            |meta: &SnapshotMeta, loader| load_checkpoint(&parts.directory, group, meta, loader);
        let formed = parts.formation.group(group).map(|range| range.bounds());
        match ReplicaSeed::recovered(group, found, &parts.limits, wait, formed, load) {
            Ok(seed) => {
                shard.add_replica(seed, false);
                restored += 1;
            }
            Err(CheckpointError::Damaged { path, source: LoadError::Version { found } })
                if found > CHECKPOINT_VERSION =>
            {
                return Err(RecoverError::NewerVersion { path, found, known: CHECKPOINT_VERSION });
            }
            Err(error) => {
                tracing::error!(
                    "{}: {error}: its replica of {group} is not served; the other replicas go on",
                    parts.addr
                );
                unserved.insert(group, members);
            }
        }
    }
    // A group of the formation that the log does not know has never spoken: it is made now.
    let is_known = |group| known.contains(&group) || lost.contains_key(&group);
    for range in held.iter().filter(|range| !is_known(range.group) && is_as_formed(parts, range)) {
        let wait = first_election(range, parts.addr.node, spread, &mut random);
        shard.add_replica(create(parts, range, wait), true);
    }
    note_lost(parts, &mut shard, &unserved);
    tracing::info!("{}: {restored} replicas restored, {} in all", parts.addr, shard.counts().0);
    Ok(shard)
}

/// What the map has on this core and no other has claimed. It may know the node with more cores than it has.
fn held_by_map(parts: &RecoverParts) -> Vec<Range<'_>> {
    let CoreAddr { node, core: own } = parts.addr;
    let is_due = |range: &Range<'_>| {
        range.core_on(node).is_some_and(|core| core.get() % parts.support.cores() == own.get())
    };
    let ranges = parts.map.groups_of(node).filter(is_due);
    ranges.filter(|range| parts.homes.claim(range.group, own)).collect()
}

/// Whether nothing has become of a range since the formation. On which core of a node a replica is means nothing.
fn is_as_formed(parts: &RecoverParts, range: &Range<'_>) -> bool {
    let nodes = |range: &Range<'_>| range.replicas.iter().map(|at| at.node).collect::<Vec<_>>();
    parts.formation.group(range.group).is_some_and(|formed| {
        (formed.bounds(), formed.configured) == (range.bounds(), range.configured)
            && nodes(&formed) == nodes(range)
    })
}

/// Says which replicas the core's log has, and waits until all cores have.
fn claim(parts: &RecoverParts, recovered: &Recovered, lost: &Lost) -> Result<(), RecoverError> {
    let core = parts.addr.core;
    let claimed = claim_logged(&parts.homes, core, recovered, lost);
    note_hiding(&parts.homes, core, recovered, parts.directory.has_begun());
    parts.all_cores.wait();
    claimed.map_err(|(group, other)| {
        let own = parts.directory.path();
        let path = own.parent().unwrap_or(own).to_owned();
        DataDirError::TwoReplicas { path, group, cores: [other, core] }.into()
    })
}

/// Tells the shard which replicas it does not serve, and which files it has.
fn note_lost(parts: &RecoverParts, shard: &mut Shard, unserved: &BTreeMap<GroupId, Configuration>) {
    let files = checkpoint_files(parts);
    for (group, members) in unserved {
        shard.note_lost(lost_replica(parts, *group, members, &files));
    }
    for (group, members) in shard.restore_split_states() {
        tell_lost(parts, "not served, since the range that it was cut from is not, is", &[group]);
        shard.note_lost(lost_replica(parts, group, &members, &files));
    }
    shard.sweep_checkpoints(files);
}

fn lost_replica(
    parts: &RecoverParts,
    group: GroupId,
    members: &Configuration,
    files: &[CheckpointFile],
) -> LostReplica {
    let formed = parts.formation.group(group).map(|range| range.bounds());
    let known = parts.map.group(group);
    let known = known.iter().flat_map(|range| range.replicas).map(|replica| replica.node);
    let mut peers: Vec<NodeId> = known.chain(members.members()).collect();
    peers.sort_unstable();
    peers.dedup();
    peers.retain(|peer| *peer != parts.addr.node);
    let files = files.iter().copied().filter(|file| file.group == group);
    LostReplica { group, formed, peers, files: files.collect() }
}

fn checkpoint_files(parts: &RecoverParts) -> Vec<CheckpointFile> {
    let found = parts.directory.checkpoint_list().unwrap_or_else(|error| {
        tracing::warn!(
            "{}: cannot list {}: {error}: old checkpoints may be left there",
            parts.addr,
            parts.directory.checkpoints().display()
        );
        Vec::new()
    });
    found.into_iter().map(|(name, _)| name.into()).collect()
}

fn new_shard(parts: &RecoverParts, wal: Wal, seed: u64) -> Shard {
    let drift = parts.limits.support_duration * parts.limits.drift_per_mille_max / 1000;
    let boot_wait = parts.limits.support_duration + drift;
    let config = ShardConfig {
        addr: parts.addr,
        limits: SharedLimits::new(parts.limits.clone()),
        seed,
        support: Arc::clone(&parts.support),
        homes: SharedHomes::clone(&parts.homes),
        may_vote_from: if parts.is_new { Mono(0) } else { parts.now + boot_wait },
    };
    let mut shard = Shard::new(config, wal);
    shard.begin_turn(parts.now, oarlock_types::WallMs(0));
    shard
}

fn read_log(parts: &RecoverParts) -> Result<Recovered, RecoverError> {
    let mut recovery = Recovery::new(parts.wal);
    if let Some(newest) = newest_marked(&parts.directory) {
        recovery.expect_up_to(newest);
    }
    let mut reads = SegmentReads::new(&parts.directory)?;
    let mut bytes = AlignedBytes::default();
    while let Some((segment, _)) = reads.next_into(&mut bytes)? {
        recovery.feed(segment, bytes.as_slice());
    }
    let recovered = recovery.finish();
    if let Some((segment, offset)) = recovered.torn {
        tracing::info!("{}: a write of {segment} was cut short at byte {offset}", parts.addr);
    }
    for damage in &recovered.damage {
        let path = parts.directory.segment(damage.segment);
        if let DamageKind::NewerVersion { found } = damage.kind {
            return Err(RecoverError::NewerVersion { path, found, known: layout::VERSION });
        }
        if let DamageKind::UnknownRecord { lsn } = damage.kind {
            return Err(RecoverError::UnknownRecord { path, lsn: lsn.get() });
        }
        tracing::error!("{}: {}: {damage}", parts.addr, path.display());
    }
    Ok(recovered)
}

/// Writes down that replicas may be lost of which nothing is known, if this start has found so. The last life that did.
fn note_unnamed(parts: &RecoverParts, is_found: bool) -> Result<Option<Incarnation>, RecoverError> {
    let life = parts.incarnation;
    let before = lost::unnamed(&parts.directory, life);
    let found_in = if is_found { Some(life) } else { before };
    if found_in == Some(life) {
        lost::note_unnamed(&parts.directory, life)?;
    }
    Ok(found_in)
}

/// The groups whose replica here may have lost a part of its log, now or at an earlier start, and
/// those of them that the log shall forget. They are written down before the log goes on.
fn lost_groups(
    parts: &RecoverParts,
    recovered: &mut Recovered,
    lost_before: Lost,
) -> Result<(Lost, Vec<GroupId>), RecoverError> {
    let mut before = lost_before.clone();
    let given_up = give_up(&parts.homes, parts.addr.core, recovered, &mut before);
    for group in &given_up {
        tracing::warn!("{}: {group} is forgotten here: another core has it by now", parts.addr);
    }
    if lost::has_unnamed(&parts.directory) {
        doubt(&parts.homes, parts.addr.core, recovered, &mut before, parts.incarnation);
    }
    let had_begun = parts.directory.has_begun();
    let mut held: Vec<GroupId> = Vec::new();
    if may_hide(recovered, had_begun) {
        // The map may have a replica on another core than the one that made it.
        let by_map = parts.map.groups_of(parts.addr.node).map(|range| range.group);
        let hidden = by_map.filter(|group| may_hide_group(recovered, had_begun, *group));
        held.extend(hidden.filter(|group| parts.homes.claim_lost(*group, parts.addr.core)));
    }
    let losses = Losses::judge(&Evidence {
        recovered,
        held: &held,
        had_begun,
        before: &before,
        incarnation: parts.incarnation,
    });
    if !losses.known.is_empty() {
        tell_lost(parts, "damage was found at an earlier start, and not served are", &losses.known);
    }
    if let Some(found_in) = note_unnamed(parts, losses.has_unnamed)? {
        parts.homes.note_unknown_losses(found_in);
    }
    if losses.is_log_missing {
        tracing::error!(
            "{}: {} holds no log although it had one: put the files back, or remove this node and \
             add it as a new one",
            parts.addr,
            parts.directory.path().display()
        );
    }
    if !losses.news.is_empty() {
        tell_lost(parts, "not served from this log are", &losses.news);
    }
    if losses.lost != lost_before {
        lost::write(&parts.directory, &losses.lost)?;
    }
    Ok((losses.lost, [losses.destroyed, given_up].concat()))
}

fn tell_lost(parts: &RecoverParts, what: &str, groups: &[GroupId]) {
    let names: Vec<String> = groups.iter().map(ToString::to_string).collect();
    let file = lost::path(&parts.directory);
    tracing::error!("{}: {what} {} (kept in {})", parts.addr, names.join(" "), file.display());
}

/// Loads the checkpoint of a group that the log names.
///
/// # Errors
/// When it cannot be read, or is not whole.
pub fn load_checkpoint(
    directory: &CoreDir,
    group: GroupId,
    meta: &SnapshotMeta,
    loader: Loader,
) -> Result<Store, CheckpointError> {
    let path = directory.checkpoint(CheckpointFile { group, position: meta.position }.into());
    load_file(&path, meta.size_bytes, loader)
}

fn load_file(path: &Path, size_bytes: u64, mut loader: Loader) -> Result<Store, CheckpointError> {
    let unread = |source| CheckpointError::Read { path: path.to_owned(), source };
    let damaged = |source| CheckpointError::Damaged { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(unread)?.take(size_bytes);
    let mut bytes = vec![0; READ_BYTES];
    loop {
        let count = file.read(&mut bytes).map_err(unread)?;
        if count == 0 {
            return loader.finish().map_err(damaged);
        }
        loader.feed(&bytes[..count]).map_err(damaged)?;
    }
}

fn create(parts: &RecoverParts, range: &Range<'_>, wait: Duration) -> ReplicaSeed {
    let voters = Configuration::simple(range.replicas.iter().map(|replica| replica.node));
    ReplicaSeed::fresh(range.group, range.bounds(), voters, &parts.limits, wait)
}

/// The first of a range's replicas stands for election first, so that leaders are spread.
fn first_election(
    range: &Range<'_>,
    node: NodeId,
    spread: Duration,
    random: &mut Random,
) -> Duration {
    let is_first = range.replicas.first().is_some_and(|replica| replica.node == node);
    let base = if is_first { FIRST_ELECTION } else { OTHER_ELECTION + spread };
    base + random.between(Duration::ZERO, FIRST_ELECTION + spread)
}
