//! What a replica begins its life on a core with: nothing, or what the log gives back.
//!
//! It reads no file: whoever does hands in how the checkpoint's store is loaded.

use std::time::Duration;

use oarlock_raft::{Configuration, HardState, LogPosition, Restored, SPLIT_BASE, SnapshotMeta};
use oarlock_store::{Loader, Store};
use oarlock_types::{GroupId, Index, Limits, RangeBounds};
use oarlock_wal::RecoveredGroup;

use crate::rebuild::{Origin, Rebuilt, SplitBase};
use crate::shard::Shard;

/// What makes the state of a replica that the log gives back, if no checkpoint holds it: such a one needs the
/// cut range's log on the same core.
#[must_use]
pub fn base_of(found: &RecoveredGroup) -> Option<SplitBase> {
    let base = Origin::from_details(&found.details).base;
    let is_in_file = |meta: &SnapshotMeta| meta.position > SPLIT_BASE || meta.size_bytes > 0;
    base.filter(|_| !found.checkpoint.as_ref().is_some_and(is_in_file))
}

/// A replica to be taken up, new or from the log.
#[derive(Debug)]
pub struct ReplicaSeed {
    /// Its group.
    pub group: GroupId,
    /// What Raft remembers.
    pub restored: Restored,
    /// The state at the checkpoint that `restored` names.
    pub store: Store,
    /// Set if the state is what a split leaves it, and is on this disk only as the range that was cut.
    pub base: Option<SplitBase>,
    /// Set if there was a replica here before: the end of its log.
    pub left: Option<LogPosition>,
    /// How often it has come from another core.
    pub residence: u64,
    /// Set if it was rebuilt.
    pub rebuilt: Option<Rebuilt>,
}

impl ReplicaSeed {
    /// A replica that has never spoken.
    #[must_use]
    pub fn fresh(
        group: GroupId,
        bounds: RangeBounds,
        configuration: Configuration,
        limits: &Limits,
        first_election_delay: Duration,
    ) -> Self {
        let restored = Restored {
            hard_state: HardState::default(),
            checkpoint: Shard::fresh_checkpoint(configuration),
            log_start: Index(1),
            entries: Vec::new(),
            first_election_delay,
        };
        let mut store = Store::new(Shard::store_limits(limits));
        store.set_bounds(bounds);
        Self { group, restored, store, base: None, left: None, residence: 0, rebuilt: None }
    }

    /// A replica as the log gives it back; `load` feeds its checkpoint, if it has one. `formed` are the
    /// bounds with which the cluster was formed, if the range was there then.
    ///
    /// # Errors
    /// What `load` says: the checkpoint is not there, or not whole.
    pub fn recovered<E>(
        group: GroupId,
        found: RecoveredGroup,
        limits: &Limits,
        first_election_delay: Duration,
        formed: Option<RangeBounds>,
        load: impl FnOnce(&SnapshotMeta, Loader) -> Result<Store, E>,
    ) -> Result<Self, E> {
        let base = base_of(&found);
        let fresh = || Shard::fresh_checkpoint(found.configuration.clone());
        let checkpoint = found.checkpoint.clone().unwrap_or_else(fresh);
        let end = checkpoint.position.index;
        let mut store = if end > Index(0) && base.is_none() {
            load(&checkpoint, Loader::ending_with(Shard::store_limits(limits), end))?
        } else {
            Store::new(Shard::store_limits(limits))
        };
        if base.is_none() && store.bounds() == &RangeBounds::default() {
            store.set_bounds(formed.unwrap_or_default());
        }
        let restored = Restored {
            hard_state: found.hard_state,
            checkpoint,
            log_start: found.log_start,
            entries: found.entries,
            first_election_delay,
        };
        let Origin { left, residence, rebuilt, .. } = Origin::from_details(&found.details);
        Ok(Self { group, restored, store, base, left, residence, rebuilt })
    }
}
