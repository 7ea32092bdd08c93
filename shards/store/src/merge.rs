//! Brings a range into its left neighbour. The one that ends is frozen first, so that what it holds is final;
//! then all of that goes into an entry of the neighbour's log.
//! `docs/decisions/0016-how-ranges-merge.md` argues why it is safe.
//!
//! Nothing here may decide whether to merge, or ask the neighbour: the shard does.

use std::collections::BTreeSet;

use bytes::Bytes;
use oarlock_types::{GroupId, Guard, Index, RangeEpoch, WallMs};

use crate::checkpoint::{Checkpoint, CheckpointProgress};
use crate::command::Absorb;
use crate::load::Loader;
use crate::once::OnceRecord;
use crate::reply::Reply;
use crate::store::Store;

/// Which neighbour a frozen range is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// The neighbour's first key.
    pub into_start: Bytes,
    /// The neighbour's version: in another one it does not take the range.
    pub into_epoch: RangeEpoch,
}

/// A range that was taken: its group, and its version while it was frozen.
pub(crate) type Taken = (GroupId, RangeEpoch);

/// What merges have left of a range, or begun.
#[derive(Clone, Debug, Default)]
pub(crate) struct Merges {
    /// It is to be brought into its neighbour.
    pub(crate) frozen: Option<Frozen>,
    /// The ranges that it has taken, and those that it was cut from before.
    pub(crate) taken: BTreeSet<Taken>,
}

impl Store {
    pub(crate) fn taken(&self) -> impl Iterator<Item = &Taken> {
        self.merges.iter().flat_map(|merges| &merges.taken)
    }

    /// For which neighbour the range is frozen, if it is: it serves nothing, and does not change.
    #[must_use]
    pub fn frozen(&self) -> Option<&Frozen> {
        self.merges.as_ref()?.frozen.as_ref()
    }

    /// Freezes the range by entry `index`, if its version is `epoch`: it gets the next one.
    pub fn freeze(&mut self, index: Index, epoch: RangeEpoch, frozen: Frozen) {
        self.pass(index);
        if self.bounds.epoch == epoch && self.frozen().is_none() {
            self.bounds.epoch = epoch.next();
            self.merges.get_or_insert_default().frozen = Some(frozen);
        }
    }

    /// Lets the range serve again by entry `index`, if its version is still `epoch`: it gets the next one.
    pub fn thaw(&mut self, index: Index, epoch: RangeEpoch) {
        self.pass(index);
        if let Some(merges) = self.merges.as_mut().filter(|merges| merges.frozen.is_some())
            && self.bounds.epoch == epoch
        {
            self.bounds.epoch = epoch.next();
            merges.frozen = None;
        }
    }

    /// All that the range holds, as a checkpoint.
    #[must_use]
    pub fn contents(&self) -> Bytes {
        let mut bytes = Vec::new();
        let mut checkpoint = Checkpoint::new(self);
        while checkpoint.slice(self, usize::MAX, &mut bytes) == CheckpointProgress::More {}
        bytes.into()
    }

    /// The groups of the ranges that this one has taken.
    pub fn taken_groups(&self) -> impl Iterator<Item = GroupId> {
        self.taken().map(|(group, _)| *group)
    }

    /// Takes over all that the range behind this one holds: 1 now or if it was taken before, 0 if this
    /// version of the range does not take it, and so no later one will.
    ///
    /// The keys get new versions, so that a checkpoint under way knows them for new; a client that watches
    /// one sees it change. Of `ONCE` ids that both have one stays; the others count as young.
    pub(crate) fn absorb(&mut self, absorb: &Absorb) -> Reply {
        let taken = (absorb.group, absorb.frozen);
        let has = |merges: &Merges| merges.taken.contains(&taken);
        if self.merges.as_deref().is_some_and(has) && Guard::MergeIsRemembered.is_on() {
            return Reply::Int(1);
        }
        let is_asked = self.bounds.epoch == absorb.epoch && self.frozen().is_none();
        let mut loader = Loader::new(self.limits);
        let right = loader.feed(&absorb.contents).and_then(|()| loader.finish());
        let is_next = |right: &Self| self.bounds.end.as_ref() == Some(&right.bounds.start);
        let Some(right) = right.ok().filter(|right| is_asked && is_next(right)) else {
            return Reply::Int(0);
        };
        self.join(right);
        self.merges.get_or_insert_default().taken.insert(taken);
        Reply::Int(1)
    }

    fn join(&mut self, mut right: Self) {
        self.stamp = self.stamp.max(right.stamp);
        self.revision = self.revision.max(right.revision);
        self.bounds.join(right.bounds);
        while let Some((key, slot)) = right.map.pop_first() {
            self.put(key.to_bytes(), slot.value, slot.expires);
        }
        let at: WallMs = self.stamp;
        while let Some((_, OnceRecord { id, reply, .. })) = right.once.pop_first() {
            if self.once.get(&id).is_none() {
                self.once.push(OnceRecord { id, at, reply });
            }
        }
        if let Some(mut merges) = right.merges {
            self.merges.get_or_insert_default().taken.append(&mut merges.taken);
        }
    }
}
