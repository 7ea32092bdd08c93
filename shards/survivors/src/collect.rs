//! What a stopped survivor has, told from its logs as they were read.

use std::cmp::Reverse;
use std::time::Duration;

use oarlock_cluster::MapCopy;
use oarlock_cluster::levels::{self, NotUnderstood};
use oarlock_cluster::map_store;
use oarlock_cluster::members::Member;
use oarlock_codec::{SplitEntry, commands};
use oarlock_raft::{Context, Group, GroupConfig, LogPosition, Payload, SnapshotMeta};
use oarlock_shard::losses::{Evidence, Losses, Lost, claim_logged, doubt, give_up, note_hiding};
use oarlock_shard::moves::Departed;
use oarlock_shard::rebuild::Origin;
use oarlock_shard::support_table::TableConfig;
use oarlock_shard::{Homes, ReplicaSeed, SupportTable};
use oarlock_store::{Absorb, Batch, Command, Loader, Store};
use oarlock_types::{
    ClusterId, CoreAddr, CoreId, FeatureLevel, FeatureLevels, GroupId, Incarnation, Index, Limits,
    Mono, NodeId, RangeDescriptor, RangeEpoch, SegmentId, SharedLimits, Term, WallMs,
};
use oarlock_wal::{DamageKind, Recovered, RecoveredGroup};

use crate::plan::Survivor;
use crate::state::{Cut, KnownPeer, MetaState, NodeState, ReplicaKind, ReplicaState};

/// What a survivor has beside its logs.
#[derive(Debug)]
pub struct Beside {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Who it is.
    pub survivor: Survivor,
    /// What it is in the map, if it has joined: the meta group may have lost that, and its own copy not have it yet.
    pub own: Option<Member>,
    /// The disks of the other nodes, as it last saw them.
    pub peers: Vec<KnownPeer>,
    /// Its copy of the map, if it has one.
    pub copy: Option<MapCopy>,
}

/// A core's log.
#[derive(Debug)]
pub struct CoreLog {
    /// The core.
    pub core: CoreId,
    /// What the log gives back.
    pub recovered: Recovered,
    /// The replicas that it has lost, as [`lost`] says.
    pub lost: Lost,
    /// It may have lost replicas that nobody can name.
    pub has_unnamed_losses: bool,
}

/// What starts have written down of a core's losses.
#[derive(Clone, Copy, Debug)]
pub struct Noted<'a> {
    /// The log had begun.
    pub had_begun: bool,
    /// The replicas that are lost.
    pub lost: &'a Lost,
    /// Some may be of which nothing is known.
    pub has_unnamed: bool,
    /// The node's last life.
    pub incarnation: Incarnation,
}

/// Why a log says nothing that can be relied on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogFault {
    /// A newer build wrote it.
    NewerVersion {
        /// Where.
        segment: SegmentId,
        /// Its version.
        found: u16,
    },
    /// A newer build wrote a record.
    UnknownRecord {
        /// Where.
        segment: SegmentId,
        /// What is there.
        found: String,
    },
    /// It is damaged, and no start has written down what that costs.
    Unrecorded,
}

/// Why a survivor's state cannot be told from logs that can be relied on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CollectFault {
    /// Two cores have a replica of one group, and neither gave it up.
    #[error("{group} has a replica on {} and on {}", cores[0], cores[1])]
    TwoReplicas {
        /// The group.
        group: GroupId,
        /// The cores.
        cores: [CoreId; 2],
    },
    /// The cluster is at a level that this build does not understand.
    #[error(transparent)]
    Level(#[from] NotUnderstood),
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

/// Which replicas of a core are lost.
///
/// # Errors
/// When the log is a newer build's, or damaged and nobody has written down what that costs.
pub fn lost(recovered: &Recovered, noted: &Noted<'_>) -> Result<Lost, LogFault> {
    for damage in &recovered.damage {
        let segment = damage.segment;
        if let DamageKind::NewerVersion { found } = damage.kind {
            return Err(LogFault::NewerVersion { segment, found });
        }
        if let DamageKind::UnknownRecord { .. } = damage.kind {
            return Err(LogFault::UnknownRecord { segment, found: damage.kind.to_string() });
        }
    }
    let losses = Losses::judge(&Evidence {
        recovered,
        held: &[],
        had_begun: noted.had_begun,
        before: noted.lost,
        incarnation: noted.incarnation.next(),
    });
    let is_unrecorded = losses.has_unnamed && !noted.has_unnamed;
    if losses.news.is_empty() && !is_unrecorded {
        Ok(losses.lost)
    } else {
        Err(LogFault::Unrecorded)
    }
}

/// All that a survivor has, by the logs of all of its cores; `load` reads a checkpoint of a core's group.
///
/// # Errors
/// When two cores have the same replica, or a newer build wrote something.
pub fn collect<E>(
    beside: Beside,
    mut cores: Vec<CoreLog>,
    load: impl Fn(CoreId, GroupId, &SnapshotMeta, Loader) -> Result<Store, E>,
) -> Result<NodeState, CollectFault> {
    give_up_what_others_have(&mut cores, beside.survivor.incarnation.next())?;
    let Beside { cluster, survivor, own, peers, copy } = beside;
    let Survivor { node, disk, incarnation } = survivor;
    let mut state = NodeState {
        cluster,
        node,
        disk,
        incarnation,
        has_unnamed_losses: false,
        peers,
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
    if let Some(own) = own.filter(|_| state.joined.iter().all(|known| known.entry.id != node)) {
        state.joined.push(own);
    }
    for CoreLog { core, recovered, lost, has_unnamed_losses } in cores {
        state.has_unnamed_losses |= has_unnamed_losses;
        let (mut bases, groups) = (Vec::new(), recovered.groups);
        // Also those of which the log says nothing any more.
        let unnamed = lost.keys().filter(|group| !groups.contains_key(group));
        let nothing = RecoveredGroup::default();
        state.replicas.extend(unnamed.map(|group| lost_replica(*group, core, &nothing)));
        for (group, found) in groups {
            bases.extend(Origin::from_details(&found.details).base);
            let seen = if lost.contains_key(&group) {
                lost_replica(group, core, &found)
            } else {
                let load = |meta: &SnapshotMeta, loader| load(core, group, meta, loader);
                replica(group, CoreAddr::new(node, core), found, load, &mut state)?
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

/// Takes out of each log what another core has by now.
fn give_up_what_others_have(
    cores: &mut [CoreLog],
    incarnation: Incarnation,
) -> Result<(), CollectFault> {
    let count = u16::try_from(cores.len()).expect("invariant: cores have 16-bit numbers");
    let homes = Homes::new(count);
    for CoreLog { core, recovered, lost, has_unnamed_losses } in &*cores {
        // Of a log that is gone that much is written down.
        note_hiding(&homes, *core, recovered, *has_unnamed_losses);
        claim_logged(&homes, *core, recovered, lost)
            .map_err(|(group, other)| CollectFault::TwoReplicas { group, cores: [other, *core] })?;
    }
    for CoreLog { core, recovered, lost, has_unnamed_losses } in cores {
        give_up(&homes, *core, recovered, lost);
        if *has_unnamed_losses {
            doubt(&homes, *core, recovered, lost, incarnation);
        }
    }
    Ok(())
}

/// The neighbours that a batch brings into a range, each of which raises its version, if it takes it.
fn absorbed(batch: &Batch) -> impl Iterator<Item = &Absorb> {
    let commands = batch.requests.iter().flat_map(|request| &request.commands);
    commands.filter_map(|command| if let Command::Absorb(it) = command { Some(it) } else { None })
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
        taken: Vec::new(),
    }
}

/// What the log gives back of a group that is not lost, and what the meta group's says of the map.
fn replica<E>(
    group: GroupId,
    addr: CoreAddr,
    found: RecoveredGroup,
    load: impl FnOnce(&SnapshotMeta, Loader) -> Result<Store, E>,
    state: &mut NodeState,
) -> Result<ReplicaState, CollectFault> {
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
    seen.taken = store.taken_groups().collect();
    let mut index = raft.commit().next();
    while let Some(entry) = raft.entry(index) {
        let unread =
            |reason: &dyn ToString| CollectFault::Entry { group, reason: reason.to_string() };
        match &entry.payload {
            payload @ (Payload::Commands(_) | Payload::Packed(_)) => {
                let batch = commands::batch(payload).map_err(|error| unread(&error))?;
                seen.stamp = seen.stamp.max(batch.stamp);
                for absorb in absorbed(&batch) {
                    if seen.epoch == absorb.epoch {
                        seen.taken.push(absorb.group);
                    }
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
pub(crate) fn bare(group: GroupId, addr: CoreAddr, found: RecoveredGroup) -> ReplicaState {
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
