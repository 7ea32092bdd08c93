//! Brings a core's shard back from its disk, as production does: the log is read, checkpoints are
//! loaded, replicas are taken up or, at the formation, made. A replica whose log or checkpoint is
//! damaged is not taken up. Once per core and start.

use std::collections::BTreeSet;
use std::time::Duration;

use oarlock_raft::{Configuration, SnapshotMeta};
use oarlock_shard::losses::{
    Evidence, Losses, claim_cuts, claim_logged, doubt, give_up, may_hide, may_hide_group,
    note_hiding,
};
use oarlock_shard::moves::Departed;
use oarlock_shard::rebuild::LostReplica;
use oarlock_shard::{CheckpointFile, ReplicaSeed, Shard, ShardConfig, SharedHomes, SharedSupport};
use oarlock_store::{Loader, Store};
use oarlock_types::range_map::Range;
use oarlock_types::{
    CoreAddr, CoreId, FeatureLevel, GroupId, Incarnation, Mono, Random, RangeMap, SharedLimits,
    WallMs,
};
use oarlock_wal::{Recovered, Recovery};

use crate::config::Config;
use crate::disk::Disk;

const FIRST_ELECTION: Duration = Duration::from_millis(50);
const OTHER_ELECTION: Duration = Duration::from_millis(1000);
const SPREAD_PER_GROUP: Duration = Duration::from_micros(100);

/// What a core is brought back with.
pub(crate) struct Parts<'a> {
    pub(crate) config: &'a Config,
    pub(crate) addr: CoreAddr,
    /// This is the very first start of the data directory.
    pub(crate) is_new: bool,
    pub(crate) support: SharedSupport,
    pub(crate) homes: SharedHomes,
    pub(crate) seed: u64,
    pub(crate) now: Mono,
    /// This life of the node.
    pub(crate) incarnation: Incarnation,
    /// The map as the node knows it, if the cluster keeps one.
    pub(crate) map: Option<&'a RangeMap>,
}

/// A core's log as it was read, and what follows from it.
pub(crate) struct Logged {
    recovered: Recovered,
    destroyed: Vec<GroupId>,
}

/// A core brought back, and what was wrong with its disk, in words.
pub(crate) struct Back {
    pub(crate) shard: Shard,
    pub(crate) told: Vec<String>,
}

/// Reads a core's log and says which replicas are there: the first step of all cores.
pub(crate) fn read_log(parts: &Parts<'_>, disk: &Disk) -> Logged {
    let recovered = read(disk);
    let claimed = claim_logged(&parts.homes, parts.addr.core, &recovered, &disk.lost);
    if let Err((group, core)) = claimed {
        panic!("a group has one replica on a node: {group} is on {} and on {core}", parts.addr);
    }
    note_hiding(&parts.homes, parts.addr.core, &recovered, disk.begun.is_some());
    Logged { recovered, destroyed: Vec::new() }
}

/// What a core's log gives back.
pub(crate) fn read(disk: &Disk) -> Recovered {
    let mut recovery = Recovery::new(disk.config);
    if let Some(newest) = disk.begun {
        recovery.expect_up_to(newest);
    }
    for (id, bytes) in &disk.segments {
        recovery.feed(*id, bytes);
    }
    recovery.finish()
}

/// Judges what is lost: the second step of all cores. What the map has on the node and no log shows may have
/// been in any that is damaged.
pub(crate) fn judge_losses(
    parts: &Parts<'_>,
    disk: &mut Disk,
    logged: &mut Logged,
    by_map: &BTreeSet<GroupId>,
) {
    let (core, had_begun) = (parts.addr.core, disk.begun.is_some());
    let given_up = give_up(&parts.homes, core, &mut logged.recovered, &mut disk.lost);
    if disk.unnamed_losses.is_some() {
        doubt(&parts.homes, core, &logged.recovered, &mut disk.lost, parts.incarnation);
    }
    let mut held: Vec<GroupId> = Vec::new();
    if may_hide(&logged.recovered, had_begun) {
        let may_be = |group: &&GroupId| may_hide_group(&logged.recovered, had_begun, **group);
        let hidden = by_map.iter().filter(may_be);
        held.extend(hidden.filter(|group| parts.homes.claim_lost(**group, core)));
    }
    let losses = Losses::judge(&Evidence {
        recovered: &logged.recovered,
        held: &held,
        had_begun,
        before: &disk.lost,
        incarnation: parts.incarnation,
    });
    disk.lost = losses.lost;
    if losses.has_unnamed {
        disk.unnamed_losses = Some(parts.incarnation);
    }
    if let Some(found_in) = disk.unnamed_losses {
        parts.homes.note_unknown_losses(found_in);
    }
    logged.destroyed = [losses.destroyed, given_up].concat();
}

/// Says what the core's log will make again: the third step of all cores.
pub(crate) fn claim_cut_off(parts: &Parts<'_>, disk: &Disk, logged: &Logged) {
    claim_cuts(&parts.homes, parts.addr, &logged.recovered, &disk.lost);
}

/// Takes up what the core has: its last step.
pub(crate) fn recover(
    parts: &Parts<'_>,
    disk: &mut Disk,
    logged: Logged,
    by_map: &BTreeSet<GroupId>,
) -> Back {
    let Parts { config, addr, .. } = *parts;
    let Logged { recovered, destroyed } = logged;
    let home = |group: GroupId| match parts.map.and_then(|map| map.group(group)) {
        Some(range) => range.core_on(addr.node),
        None => Some(config.core_of(group)),
    };
    // The map may know the node with more cores than it has.
    let is_own = |core: CoreId| core.get() % parts.support.cores() == addr.core.get();
    let by_map = by_map.iter().copied().filter(|group| home(*group).is_some_and(is_own));
    let held: BTreeSet<GroupId> =
        by_map.filter(|group| parts.homes.claim(*group, addr.core)).collect();
    let mut told: Vec<String> = recovered.damage.iter().map(ToString::to_string).collect();
    let mut random = Random::new(parts.seed);
    let mut shard = new_shard(parts, recovered.wal, random.next_u64());
    for group in destroyed {
        shard.forget_replica(group);
    }
    let is_here = |at: &CoreAddr| at.node == addr.node && is_own(at.core);
    let is_ours = |group: &GroupId| {
        config.replicas_of(*group).iter().any(is_here) && is_as_formed(parts, *group)
    };
    let ours: Vec<GroupId> = config.formed_ids().filter(is_ours).collect();
    let spread = SPREAD_PER_GROUP.saturating_mul(u32::try_from(ours.len()).unwrap_or(u32::MAX));
    let known: BTreeSet<GroupId> = recovered.groups.keys().copied().collect();
    let mut unserved: BTreeSet<GroupId> = disk.lost.keys().copied().collect();
    for (group, found) in recovered.groups {
        if disk.lost.contains_key(&group) {
            continue;
        }
        if let Some(departed) = Departed::of(&found) {
            shard.note_departed(group, departed);
            continue;
        }
        let wait = config.limits.support_duration + random.between(Duration::ZERO, spread * 2);
        let load = |checkpoint: &SnapshotMeta, loader| load(disk, group, checkpoint, loader);
        let formed = config.formed(group);
        match ReplicaSeed::recovered(group, found, &config.limits, wait, formed, load) {
            Ok(seed) => shard.add_replica(seed, false),
            Err(reason) => {
                told.push(format!("{group} is not served: {reason}"));
                unserved.insert(group);
            }
        }
    }
    for group in ours {
        if held.contains(&group) && !known.contains(&group) && !disk.lost.contains_key(&group) {
            shard.add_replica(form(parts, group, spread, &mut random), true);
        }
    }
    let mut lose = |shard: &mut Shard, group| {
        shard.note_lost(lost_replica(config, addr, disk, group));
        told.push(format!("{group} is lost on {addr}"));
    };
    for group in unserved {
        lose(&mut shard, group);
    }
    let unmade: Vec<GroupId> =
        shard.restore_split_states().into_iter().map(|(group, _)| group).collect();
    for group in &unmade {
        lose(&mut shard, *group);
    }
    disk.unmade.extend(unmade);
    shard.sweep_checkpoints(disk.files.keys().copied());
    Back { shard, told }
}

fn lost_replica(config: &Config, addr: CoreAddr, disk: &Disk, group: GroupId) -> LostReplica {
    // Members may have moved anywhere since the formation.
    let peers = config.node_ids().filter(|node| *node != addr.node).collect();
    let files = disk.files.keys().copied().filter(|file| file.group == group).collect();
    LostReplica { group, formed: config.formed(group), peers, files }
}

/// A replica of the formation.
fn form(parts: &Parts<'_>, group: GroupId, spread: Duration, random: &mut Random) -> ReplicaSeed {
    let replicas = parts.config.replicas_of(group);
    let is_first = replicas.first().is_some_and(|first| first.node == parts.addr.node);
    let base = if is_first { FIRST_ELECTION } else { OTHER_ELECTION + spread };
    let wait = base + random.between(Duration::ZERO, FIRST_ELECTION + spread);
    let voters = Configuration::simple(replicas.iter().map(|replica| replica.node));
    let bounds = parts.config.formed(group).unwrap_or_default();
    ReplicaSeed::fresh(group, bounds, voters, &parts.config.limits, wait)
}

/// Whether nothing has become of a range since the formation, by the node's map if it has one.
fn is_as_formed(parts: &Parts<'_>, group: GroupId) -> bool {
    let Some(map) = parts.map else { return true };
    let formed = parts.config.cluster.as_ref().and_then(|cluster| cluster.formation.group(group));
    let nodes = |range: &Range<'_>| range.replicas.iter().map(|at| at.node).collect::<Vec<_>>();
    map.group(group).zip(formed).is_some_and(|(range, formed)| {
        (formed.bounds(), formed.configured) == (range.bounds(), range.configured)
            && nodes(&formed) == nodes(&range)
    })
}

fn new_shard(parts: &Parts<'_>, wal: oarlock_wal::Wal, seed: u64) -> Shard {
    let limits = &parts.config.limits;
    let drift = limits.support_duration * limits.drift_per_mille_max / 1000;
    let boot_wait = limits.support_duration + drift;
    let config = ShardConfig {
        addr: parts.addr,
        limits: SharedLimits::new(limits.clone()),
        seed,
        support: SharedSupport::clone(&parts.support),
        homes: SharedHomes::clone(&parts.homes),
        may_vote_from: if parts.is_new { Mono(0) } else { parts.now + boot_wait },
    };
    let mut shard = Shard::new(config, wal);
    shard.observe();
    // Nodes hear of a level at different times, and logs hold what was written at each. Where several disks may be
    // spoiled a range can lose its quorum by being cut below the level at which splits name lives, as operators are told.
    let spoils = parts.config.spoils_by_members;
    let oldest = if spoils { FeatureLevel::SPLIT_LIVES } else { FeatureLevel::MERGES };
    let is_told = !seed.is_multiple_of(4);
    let drawn = if is_told { FeatureLevel::MAX } else { oldest };
    shard.set_feature_level(if parts.map.is_some() { parts.support.level() } else { drawn });
    shard.begin_turn(parts.now, WallMs(0));
    shard
}

/// Reads a checkpoint.
pub(crate) fn load(
    disk: &Disk,
    group: GroupId,
    checkpoint: &SnapshotMeta,
    mut loader: Loader,
) -> Result<Store, String> {
    let file = CheckpointFile { group, position: checkpoint.position };
    let bytes = disk.files.get(&file).ok_or("its checkpoint is not there")?;
    let size = usize::try_from(checkpoint.size_bytes).expect("invariant: it fits");
    loader.feed(&bytes[..size.min(bytes.len())]).map_err(|error| error.to_string())?;
    loader.finish().map_err(|error| error.to_string())
}
