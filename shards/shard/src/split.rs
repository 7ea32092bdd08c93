//! Ranges that are cut in two: the entry, the replica that it makes here, and what has to outlive a
//! crash. `docs/decisions/0010-how-ranges-split-and-move.md` argues why it is safe.
//!
//! The new range's state is in no file at first: it is what the entry makes of the cut range. So the
//! cut range keeps its log from before the entry on until the new one's first checkpoint is durable,
//! and a restart makes the state again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use bytes::Bytes;
use oarlock_codec::{Record, Refusal, SplitEntry};
use oarlock_raft::{
    ChangeError, Configuration, Entry, HardState, LogPosition, Payload, Restored, SPLIT_BASE,
    SnapshotMeta,
};
use oarlock_store::Store;
use oarlock_types::{
    CoreAddr, FeatureLevel, GroupId, Guard, Incarnation, Index, NodeId, RangeBounds, Term,
};

use crate::homes::Homes;
use crate::moves::Departed;
use crate::output::{Split, Wanted};
use crate::rebuild::SplitBase;
use crate::requests::not_known;
use crate::seed::ReplicaSeed;
use crate::shard::Shard;

/// Why a range is not cut. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SplitError {
    /// The range has no replica here.
    NoSuchGroup,
    /// The key is not within the range, or its first: one side would hold nothing.
    OutOfRange(RangeBounds),
    /// The new group's id is taken.
    Taken,
    /// The group can not change now.
    Change(ChangeError),
    /// The range is being brought into its neighbour.
    Frozen,
}

impl fmt::Display for SplitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchGroup => f.write_str("the range has no replica here"),
            Self::OutOfRange(bounds) => {
                let start = bounds.start.escape_ascii();
                write!(f, "the key must lie in the range behind its first key \"{start}\"")?;
                match &bounds.end {
                    Some(end) => write!(f, " and before \"{}\"", end.escape_ascii()),
                    None => Ok(()),
                }
            }
            Self::Taken => f.write_str("the new range's group exists already"),
            Self::Change(error) => error.fmt(f),
            Self::Frozen => f.write_str("the range is being merged into its neighbour"),
        }
    }
}

/// Of what entries cut off that are in a core's log, the state will be made there: whoever is told of such a range by
/// others first makes no replica on another core, where that state never came.
pub(crate) fn claim_cut(homes: &Homes, own: CoreAddr, entries: &[Entry]) {
    for entry in entries {
        if let Payload::Split(bytes) = &entry.payload
            && let Some(split) = SplitEntry::decode(bytes)
        {
            // Another core's, if it has a replica.
            let _ = homes.claim_new(split.child, own.core, split.life_of(own.node));
        }
    }
}

/// A new range whose replica here is to be made.
#[derive(Debug)]
struct Birth {
    parent: GroupId,
    at: LogPosition,
    entry: SplitEntry,
    store: Store,
}

/// What splits leave to be done on one core.
#[derive(Debug, Default)]
pub(crate) struct Splits {
    born: VecDeque<Birth>,
    /// Replicas whose state is in no checkpoint yet, behind the groups whose logs make it.
    unsaved: BTreeSet<(GroupId, GroupId)>,
    /// Restored replicas that wait for the cut range to make their state.
    waiting: BTreeMap<GroupId, (SplitBase, ReplicaSeed)>,
}

impl Splits {
    /// Whether the log of this group is all that makes another one's state.
    pub(crate) fn needs_log_of(&self, group: GroupId) -> bool {
        let unsaved = self.unsaved.range((group, GroupId(0))..).next();
        let is_unsaved = unsaved.is_some_and(|(parent, _)| *parent == group)
            || self.born.iter().any(|birth| birth.parent == group);
        is_unsaved && Guard::LogKeepsSplit.is_on()
    }

    /// A group's state stands in no checkpoint yet.
    pub(crate) fn made(&mut self, group: GroupId, base: SplitBase) {
        self.unsaved.insert((base.parent, group));
    }

    /// A group's state stands in a checkpoint.
    pub(crate) fn saved(&mut self, group: GroupId) {
        self.unsaved.retain(|(_, child)| *child != group);
    }

    /// A restored replica waits for its state.
    pub(crate) fn wait(&mut self, base: SplitBase, seed: ReplicaSeed) {
        self.waiting.insert(seed.group, (base, seed));
    }

    pub(crate) fn unsaved_count(&self) -> usize {
        self.unsaved.len()
    }

    fn is_waiting(&self, group: GroupId) -> bool {
        self.waiting.contains_key(&group)
    }
}

impl Shard {
    /// Cuts a range in two at a key, which becomes the first of a new range of the group `child`. That
    /// group has its replicas on the same cores, and this node leads it. Comes to pass when the entry
    /// that is proposed here is applied: [`crate::Output::splits`] tells.
    ///
    /// # Errors
    /// When the replica here does not lead, or the range can not be cut there or now.
    pub fn split(
        &mut self,
        group: GroupId,
        at: Bytes,
        child: GroupId,
    ) -> Result<LogPosition, SplitError> {
        let replica = self.replicas.get(&group).ok_or(SplitError::NoSuchGroup)?;
        let bounds = replica.store.bounds();
        if !bounds.can_split_at(&at) {
            return Err(SplitError::OutOfRange(bounds.clone()));
        }
        if replica.store.frozen().is_some() {
            return Err(SplitError::Frozen);
        }
        if self.knows_replica(child) {
            return Err(SplitError::Taken);
        }
        let configuration = replica.raft.configuration().clone();
        let lives = self.lives_of(&configuration);
        let entry = SplitEntry { at, child, leader: self.addr.node, configuration, lives };
        let proposed =
            self.with_group(group, |raft, ctx, out| raft.propose_split(ctx, entry.encode(), out));
        proposed.ok_or(SplitError::NoSuchGroup)?.map_err(SplitError::Change)
    }

    /// The lives of the members' nodes that are known to have begun.
    fn lives_of(&self, members: &Configuration) -> Vec<(NodeId, Incarnation)> {
        if self.feature_level() < FeatureLevel::SPLIT_LIVES {
            return Vec::new();
        }
        let life = |node: NodeId| match node {
            own if own == self.addr.node => (own, self.support.incarnation()),
            other => (other, self.support.peer_incarnation(other)),
        };
        members.members().map(life).filter(|(_, life)| *life > Incarnation(0)).collect()
    }

    /// Whether there is a replica of the group here, or was one that is lost or waits for its state.
    pub(crate) fn knows_replica(&self, group: GroupId) -> bool {
        self.has_replica(group)
            || self.is_lost(group)
            || self.splits.is_waiting(group)
            || self.is_under_way(group)
    }

    /// The store is cut; what is left to be done waits until the whole step's entries are applied.
    pub(crate) fn cut(&mut self, group: GroupId, at: LogPosition, bytes: &Bytes) {
        self.abandon_checkpoint(group);
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        let Some(entry) = SplitEntry::decode(bytes) else {
            not_known(group, at, "a cut");
        };
        replica.store.pass(at.index);
        let store = replica.store.split_off(&entry.at, SPLIT_BASE.index);
        if let Some(load) = &mut replica.load {
            load.begin_anew(self.now);
        }
        self.refuse_queued(group);
        self.splits.born.push_back(Birth { parent: group, at, entry, store });
    }

    /// What was accepted by other bounds than the range has now is routed anew.
    pub(crate) fn refuse_queued(&mut self, group: GroupId) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        let queued = std::mem::take(&mut replica.queued);
        for write in queued {
            self.admission.release(1, write.bytes);
            self.lanes_closed.extend(write.lane.map(|lane| (lane, self.now)));
            self.out.replies.push((write.token, Err(Refusal::StaleEpoch)));
        }
    }

    /// Makes the replicas of ranges that entries have cut off.
    pub(crate) fn carry_out_splits(&mut self) {
        while let Some(birth) = self.splits.born.pop_front() {
            let Some(parent) = self.replicas.get(&birth.parent) else { continue };
            let leads = parent.raft.is_leader() && parent.raft.term() == birth.at.term;
            self.out.splits.push(Split {
                parent: (birth.parent, parent.store.bounds().clone()),
                child: (birth.entry.child, birth.store.bounds().clone()),
                members: birth.entry.configuration.clone(),
                leads,
            });
            self.cut_done(birth.entry.child);
            // What was cut off counts where it begins.
            self.count_keys(birth.parent);
            // The new leader's first message finds replicas only where this one came before it.
            self.with_group(birth.parent, |raft, ctx, out| raft.tell_commit(ctx, out));
            self.place(birth, leads);
        }
    }

    fn place(&mut self, birth: Birth, leads: bool) {
        let Birth { parent, at, entry, store } = birth;
        let child = entry.child;
        let base = SplitBase { parent, index: at.index };
        if let Some((_, seed)) = self.splits.waiting.remove(&child) {
            self.take_up(ReplicaSeed { store, ..seed }, false);
        } else if self.replicas.get(&child).is_some_and(|replica| replica.is_blank()) {
            self.install_base(child, base, store, entry.configuration);
        } else if self.knows_replica(child)
            || self.departed.get(&child).is_some_and(|departed| !departed.held_nothing())
            || !self.homes.claim_new(child, self.addr.core, entry.life_of(self.addr.node))
        {
            // It has more than this already, is to be rebuilt, has been here and left, another core was
            // asked for it first, or it may be one that is lost.
            self.graveyard.push(store);
        } else {
            let checkpoint = base_meta(entry.configuration);
            let first = HardState { term: SPLIT_BASE.term, vote: Some(entry.leader) };
            // One that was made by another's word may have ended while nobody knew of the range yet. What it was to get
            // may be nowhere but here by now.
            let hard_state = votes_as(self.departed.remove(&child), first);
            self.log_base(child, base, hard_state, &checkpoint);
            let restored = Restored {
                hard_state,
                checkpoint,
                log_start: SPLIT_BASE.index.next(),
                entries: Vec::new(),
                first_election_delay: self.limits.election_delay_max,
            };
            let (base, left, rebuilt) = (Some(base), None, None);
            let seed =
                ReplicaSeed { group: child, restored, store, base, left, residence: 0, rebuilt };
            self.take_up(seed, false);
            if hard_state != first {
                return;
            }
            self.with_group(child, |raft, ctx, out| {
                if entry.leader != raft.node() {
                    raft.announce(entry.leader, out);
                } else if leads {
                    raft.lead_first_term(ctx, out);
                }
            });
        }
    }

    /// What a replica begins with whose state a split made.
    fn log_base(
        &mut self,
        group: GroupId,
        base: SplitBase,
        hard_state: HardState,
        meta: &SnapshotMeta,
    ) {
        let configuration = meta.configuration.clone();
        let details = crate::rebuild::Origin::split(base).to_details();
        self.log(&Record::Create { group, configuration, details });
        self.log(&Record::HardState { group, hard_state });
        let keep_from = Index(u64::MAX);
        self.log(&Record::Checkpoint { group, meta: meta.clone(), keep_from });
    }

    /// A replica that was made by its leader's word, and holds nothing yet, gets its state from here and
    /// not from the leader.
    fn install_base(
        &mut self,
        group: GroupId,
        base: SplitBase,
        store: Store,
        members: Configuration,
    ) {
        self.drop_incoming(group);
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        let hard_state = replica.raft.hard_state();
        let meta = base_meta(members);
        self.graveyard.push(std::mem::replace(&mut replica.store, store));
        replica.applied = SPLIT_BASE.index;
        replica.checkpoint = meta.clone();
        replica.base = Some(base);
        self.log_base(group, base, hard_state, &meta);
        self.splits.made(group, base);
        let installed =
            self.with_group(group, |raft, ctx, out| raft.snapshot_installed(ctx, meta, out));
        assert_eq!(installed, Some(true), "invariant: it held nothing");
    }

    /// Saves states that only a cut range's log can make, so that this log can be let go of.
    pub(crate) fn save_split_states(&mut self) {
        let unsaved: Vec<GroupId> = self.splits.unsaved.iter().map(|(_, child)| *child).collect();
        for child in unsaved {
            self.start_checkpoint(child);
        }
    }

    /// Makes a replica of a group that has none here, by the word of another: it holds nothing and
    /// votes for nobody else in that one's term. To be called for what [`crate::Output::wanted`]
    /// names, if nothing that this core has lost may have been of that group. One that was here before
    /// votes as that one would. `formed` are the bounds
    /// with which the cluster was formed, if the range was there then.
    pub fn create(&mut self, wanted: &Wanted, formed: Option<RangeBounds>) {
        let Wanted { group, from, term } = *wanted;
        // Another core may have it by now.
        let is_elsewhere = self.homes.core_of(group).is_some_and(|home| home != self.addr.core);
        if self.knows_replica(group) || is_elsewhere {
            return;
        }
        let (nobody, delay) = (Configuration::default(), self.limits.election_delay_max);
        let bounds = formed.unwrap_or_default();
        let mut seed = ReplicaSeed::fresh(group, bounds, nobody, &self.limits, delay);
        let before = self.departed.remove(&group);
        seed.left = before.map(|before| before.last);
        seed.residence = before.map_or(0, |before| before.residence);
        seed.rebuilt = before.and_then(|before| before.rebuilt);
        let asked = HardState { term, vote: Some(from) };
        let hard_state = votes_as(before, asked);
        seed.restored.hard_state = hard_state;
        self.add_replica(seed, true);
        self.log(&Record::HardState { group, hard_state });
    }

    /// Makes the states again that no checkpoint holds: that a replica was made by a split proves that the
    /// split had committed, so the cut range applies up to it. To be called at the start, when all other
    /// replicas are taken up, and those that are lost are noted. Gives those whose cut range is not
    /// served, with their members: they are lost like it.
    pub fn restore_split_states(&mut self) -> Vec<(GroupId, Configuration)> {
        let mut waiting = usize::MAX;
        // One that was cut itself must be made before those that it makes.
        while self.splits.waiting.len() < waiting {
            waiting = self.splits.waiting.len();
            let bases: Vec<SplitBase> =
                self.splits.waiting.values().map(|(base, _)| *base).collect();
            for SplitBase { parent, index } in bases {
                self.with_group(parent, |raft, ctx, out| raft.was_committed(ctx, index, out));
            }
        }
        let unmade = std::mem::take(&mut self.splits.waiting).into_iter();
        unmade.map(|(group, (_, seed))| (group, seed.restored.checkpoint.configuration)).collect()
    }

    /// Another replica's word that one is to be made here.
    pub(crate) fn want_replica(&mut self, group: GroupId, from: NodeId, term: Term) {
        if !self.knows_replica(group) {
            self.out.wanted.push(Wanted { group, from, term });
        }
    }
}

/// How one votes that is made with such a vote, and that may have been here before: that one's newer vote stands.
fn votes_as(before: Option<Departed>, asked: HardState) -> HardState {
    let known = before.map(|before| before.hard_state);
    known.filter(|known| known.term >= asked.term).unwrap_or(asked)
}

/// What the checkpoint would say that a new range begins with.
fn base_meta(configuration: Configuration) -> SnapshotMeta {
    let (position, configuration_index) = (SPLIT_BASE, SPLIT_BASE.index);
    SnapshotMeta { position, configuration, configuration_index, size_bytes: 0 }
}
