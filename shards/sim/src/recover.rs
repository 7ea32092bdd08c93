//! Brings a core's shard back from its disk, as production does: the log is read, checkpoints are
//! loaded, replicas are taken up or, at the formation, made. A replica whose log or checkpoint is
//! damaged is not taken up. Once per core and start.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use oarlock_raft::{Configuration, SnapshotMeta};
use oarlock_shard::{CheckpointFile, ReplicaSeed, Shard, ShardConfig, SharedSupport};
use oarlock_store::{Loader, Store};
use oarlock_types::{CoreAddr, GroupId, Mono, Random, RangeEpoch, WallMs};
use oarlock_wal::{Affected, Recovered, RecoveredGroup, Recovery};

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
    pub(crate) seed: u64,
    pub(crate) now: Mono,
}

/// A core brought back, and what was wrong with its disk, in words.
pub(crate) struct Back {
    pub(crate) shard: Shard,
    pub(crate) told: Vec<String>,
}

pub(crate) fn recover(parts: &Parts<'_>, disk: &mut Disk) -> Back {
    let Parts { config, addr, .. } = *parts;
    let mut recovery = Recovery::new(disk.config);
    for (id, bytes) in &disk.segments {
        recovery.feed(*id, bytes);
    }
    let recovered = recovery.finish();
    let mut told: Vec<String> = recovered.damage.iter().map(ToString::to_string).collect();
    let held: Vec<GroupId> =
        config.group_ids().filter(|group| config.replicas_of(*group).contains(&addr)).collect();
    let destroyed = lost_groups(disk, &recovered, &held);
    let mut random = Random::new(parts.seed);
    let mut shard = new_shard(parts, recovered.wal, random.next_u64());
    for group in destroyed {
        shard.forget_replica(group);
    }
    let spread = SPREAD_PER_GROUP.saturating_mul(u32::try_from(held.len()).unwrap_or(u32::MAX));
    let known: BTreeSet<GroupId> = recovered.groups.keys().copied().collect();
    for (group, found) in recovered.groups {
        if disk.lost.contains(&group) {
            continue;
        }
        let wait = config.limits.support_duration + random.between(Duration::ZERO, spread * 2);
        let load = |checkpoint: &SnapshotMeta, loader| load(disk, group, checkpoint, loader);
        match ReplicaSeed::recovered(group, found, &config.limits, wait, load) {
            Ok(seed) => shard.add_replica(seed, false),
            Err(reason) => told.push(format!("{group} is not served: {reason}")),
        }
    }
    for group in held {
        if !known.contains(&group) && !disk.lost.contains(&group) {
            let replicas = config.replicas_of(group);
            let is_first = replicas.first() == Some(&addr);
            let base = if is_first { FIRST_ELECTION } else { OTHER_ELECTION + spread };
            let wait = base + random.between(Duration::ZERO, FIRST_ELECTION + spread);
            let voters = Configuration::simple(replicas.iter().map(|replica| replica.node));
            let epoch = RangeEpoch(1);
            let seed = ReplicaSeed::fresh(group, epoch, voters, &config.limits, wait);
            shard.add_replica(seed, true);
        }
    }
    shard.sweep_checkpoints(disk.files.keys().copied());
    Back { shard, told }
}

fn new_shard(parts: &Parts<'_>, wal: oarlock_wal::Wal, seed: u64) -> Shard {
    let limits = &parts.config.limits;
    let drift = limits.support_duration * limits.drift_per_mille_max / 1000;
    let boot_wait = limits.support_duration + drift;
    let config = ShardConfig {
        addr: parts.addr,
        limits: Rc::new(limits.clone()),
        seed,
        support: SharedSupport::clone(&parts.support),
        may_vote_from: if parts.is_new { Mono(0) } else { parts.now + boot_wait },
    };
    let mut shard = Shard::new(config, wal);
    shard.observe();
    shard.begin_turn(parts.now, WallMs(0));
    shard
}

/// Notes the groups whose replica may have lost a part of its log; gives those that the log shall
/// forget.
fn lost_groups(disk: &mut Disk, recovered: &Recovered, held: &[GroupId]) -> Vec<GroupId> {
    let is_log_missing = recovered.segments.is_empty() && disk.begun;
    let mut destroyed = Vec::new();
    match damaged_groups(recovered) {
        Some(damaged) if !is_log_missing => {
            disk.lost.extend(damaged.iter().copied());
            destroyed.extend(damaged);
        }
        Some(_) | None => {
            disk.lost.extend(recovered.groups.keys().copied());
            disk.lost.extend(held.iter().copied());
        }
    }
    let suspect = |group: &GroupId| {
        !recovered.groups.contains_key(group) && recovered.suspicion.of_unlisted(*group)
    };
    disk.lost.extend(held.iter().copied().filter(suspect));
    destroyed
}

/// The groups that damage concerns; `None` where it may concern any.
fn damaged_groups(recovered: &Recovered) -> Option<BTreeSet<GroupId>> {
    let is_damaged = |(group, found): (&GroupId, &RecoveredGroup)| found.damaged.then_some(*group);
    let mut damaged: BTreeSet<GroupId> = recovered.groups.iter().filter_map(is_damaged).collect();
    for damage in &recovered.damage {
        match &damage.affected {
            Affected::All => return None,
            Affected::Groups(groups) => damaged.extend(groups.iter().copied()),
        }
    }
    Some(damaged)
}

fn load(
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
