//! Ranges that are brought into the neighbour before them: from the order to the end of their replicas.
//! `docs/decisions/0016-how-ranges-merge.md` argues why it is safe.
//!
//! A merge has no state but what the stores hold: whoever leads the range that is frozen asks its neighbour
//! until it has an answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use oarlock_codec::{MergeEntry, Refusal};
use oarlock_raft::{ChangeError, LogPosition};
use oarlock_store::{Absorb, Command, ErrorReply, Frozen, Reply, Request, Store};
use oarlock_types::{FeatureLevel, GroupId, Guard, Mono, RangeBounds, RangeEpoch};

use crate::Outcome;
use crate::output::Merging;
use crate::replica::Replica;
use crate::requests::not_known;
use crate::shard::Shard;

/// A neighbour that has answered, but did not decide, is asked again so much later.
const REST: Duration = Duration::from_millis(500);
/// An answer is waited for so long.
const PATIENCE: Duration = Duration::from_secs(5);

/// What merges leave to be done on one core.
#[derive(Debug, Default)]
pub(crate) struct Merges {
    /// Replicas whose range is frozen.
    frozen: BTreeSet<GroupId>,
    /// When the neighbours of those that are led here are to be asked again.
    asked: BTreeMap<GroupId, Mono>,
    /// Who ordered merges, and hears what came of them.
    orders: BTreeMap<GroupId, u64>,
}

impl Shard {
    /// Whether a range may go into a neighbour: all that it holds fits an entry as a longest value does, with
    /// room for what is under way.
    fn is_small(&self, store: &Store) -> bool {
        let most = self.limits.value_bytes_max / 2;
        store.size_bytes() + store.once_bytes() <= most as u64 && store.contents().len() <= most
    }

    /// Freezes a range for its neighbour. The reply comes once that has answered.
    pub(crate) fn merge_order(
        &mut self,
        token: u64,
        group: GroupId,
        start: &Bytes,
        (into_start, into_epoch): (&Bytes, RangeEpoch),
    ) -> Result<(), Refusal> {
        let replica = self.replicas.get(&group).ok_or(Refusal::NoSuchGroup)?;
        let bounds = replica.store.bounds();
        let refusal = if self.feature_level() < FeatureLevel::MERGES {
            Some(ErrorReply::LevelTooLow)
        } else if *start != bounds.start || into_start >= start || group == GroupId::META {
            Some(ErrorReply::NothingToMerge)
        } else if !self.is_small(&replica.store) {
            Some(ErrorReply::TooLargeToMerge)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.out.replies.push((token, Ok(Reply::Error(refusal))));
            return Ok(());
        }
        let (epoch, into_start) = (bounds.epoch, into_start.clone());
        match self.propose_merge(group, &MergeEntry::Freeze { epoch, into_start, into_epoch }) {
            Some(Ok(_)) => {
                let before = self.merges.orders.insert(group, token);
                self.out.replies.extend(before.map(|token| (token, Err(Refusal::Unknown))));
            }
            Some(Err(ChangeError::NotLeader { leader })) => {
                return Err(Refusal::NotLeader { leader });
            }
            Some(Err(_)) | None => {
                let reply = Reply::Error(ErrorReply::RangeIsChanging);
                self.out.replies.push((token, Ok(reply)));
            }
        }
        Ok(())
    }

    fn propose_merge(
        &mut self,
        group: GroupId,
        step: &MergeEntry,
    ) -> Option<Result<LogPosition, ChangeError>> {
        let step = step.encode();
        self.with_group(group, |raft, ctx, out| raft.propose_merge(ctx, step, out))
    }

    /// Carries out a committed step of a merge.
    pub(crate) fn apply_merge(&mut self, group: GroupId, at: LogPosition, bytes: &Bytes) {
        let Some(step) = MergeEntry::decode(bytes) else {
            not_known(group, at, "a step of a merge");
        };
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        match step {
            MergeEntry::Freeze { epoch, into_start, into_epoch } => {
                let frozen = Frozen { into_start, into_epoch };
                replica.store.freeze(at.index, epoch, frozen);
            }
            MergeEntry::Thaw { epoch } => replica.store.thaw(at.index, epoch),
        }
        self.refuse_queued(group);
        self.note_frozen(group);
        if !self.merges.frozen.contains(&group) {
            self.out.reshaped.push(group);
            let reply = Reply::Error(ErrorReply::RangeIsChanging);
            let token = self.merges.orders.remove(&group);
            self.out.replies.extend(token.map(|token| (token, Ok(reply))));
        }
    }

    /// Notes whether a replica's range is frozen.
    pub(crate) fn note_frozen(&mut self, group: GroupId) {
        let is_frozen = self.replicas.get(&group).is_some_and(|r| r.store.frozen().is_some());
        if is_frozen {
            self.merges.frozen.insert(group);
        } else if self.merges.frozen.remove(&group) {
            self.merges.asked.remove(&group);
        }
        self.count_keys(group);
    }

    /// Asks the neighbours of frozen ranges that are led here.
    pub(crate) fn push_merges(&mut self) {
        let due = |group: &GroupId| {
            let rests = self.merges.asked.get(group).is_some_and(|again| self.now < *again);
            !rests && self.replicas.get(group).is_some_and(|replica| replica.raft.leads_on())
        };
        let due: Vec<GroupId> = self.merges.frozen.iter().copied().filter(due).collect();
        for group in due {
            self.merges.asked.insert(group, self.now + PATIENCE);
            self.ask_neighbour(group);
        }
        let leads = |group: &GroupId| self.replicas.get(group).is_some_and(|r| r.raft.is_leader());
        let lost = self.merges.orders.extract_if(.., |group, _| !leads(group));
        self.out.replies.extend(lost.map(|(_, token)| (token, Err(Refusal::Unknown))));
    }

    fn ask_neighbour(&mut self, group: GroupId) {
        let Some(replica) = self.replicas.get(&group) else { return };
        let Some(frozen) = replica.store.frozen() else { return };
        let (epoch, into_start) = (replica.store.bounds().epoch, frozen.into_start.clone());
        let contents = replica.store.contents();
        // What was under way when it was ordered has made it too large. What it holds is final, so nobody
        // has asked the neighbour or ever will.
        if contents.len() > self.limits.value_bytes_max {
            let _ = self.propose_merge(group, &MergeEntry::Thaw { epoch });
            return;
        }
        let (start, into_epoch) = (into_start.clone(), frozen.into_epoch);
        let absorb = Absorb { start, epoch: into_epoch, group, frozen: epoch, contents };
        let request = Request::one(Command::Absorb(absorb));
        self.out.merges.push(Merging { group, epoch, into_start, request });
    }

    /// A neighbour has answered what [`crate::Output::merges`] asked. `epoch` is the version in which the
    /// range was frozen then. Without a clear answer it is asked again.
    pub fn merge_answered(&mut self, group: GroupId, epoch: RangeEpoch, outcome: &Outcome) {
        let is_asking = |replica: &Replica| {
            replica.store.bounds().epoch == epoch && replica.store.frozen().is_some()
        };
        if !self.replicas.get(&group).is_some_and(|replica| is_asking(replica)) {
            return;
        }
        self.merges.asked.insert(group, self.now + REST);
        match outcome {
            Ok(Reply::Int(1)) => {
                let token = self.merges.orders.remove(&group);
                self.out.replies.extend(token.map(|token| (token, Ok(Reply::Ok))));
            }
            // Whatever becomes of this proposal: whoever leads asks until one is applied.
            Ok(Reply::Int(0)) => {
                let _ = self.propose_merge(group, &MergeEntry::Thaw { epoch });
            }
            Ok(_) | Err(_) => {}
        }
    }

    /// The keys of a range, and its version, as the replica here has them; version zero if it holds nothing.
    #[must_use]
    pub fn bounds(&self, group: GroupId) -> Option<&RangeBounds> {
        self.replicas.get(&group).map(|replica| replica.store.bounds())
    }
}

/// Whether a replica serves: one that is frozen for its neighbour does not.
pub(crate) fn serves(store: &Store) -> bool {
    store.frozen().is_none() || !Guard::FrozenServesNothing.is_on()
}
