//! What a replica begins its life on a core with: nothing, or what the log gives back.
//!
//! It reads no file: whoever does hands in how the checkpoint's store is loaded.

use std::time::Duration;

use oarlock_raft::{Configuration, HardState, Restored, SnapshotMeta};
use oarlock_store::{Loader, Store};
use oarlock_types::{GroupId, Index, Limits, RangeEpoch};
use oarlock_wal::RecoveredGroup;

use crate::rebuild::Origin;
use crate::shard::Shard;

/// A replica to be taken up, new or from the log.
#[derive(Debug)]
pub struct ReplicaSeed {
    /// Its group.
    pub group: GroupId,
    /// The range's epoch.
    pub epoch: RangeEpoch,
    /// What Raft remembers.
    pub restored: Restored,
    /// The state at the checkpoint that `restored` names.
    pub store: Store,
}

impl ReplicaSeed {
    /// A replica that has never spoken.
    #[must_use]
    pub fn fresh(
        group: GroupId,
        epoch: RangeEpoch,
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
        Self { group, epoch, restored, store: Store::new(Shard::store_limits(limits)) }
    }

    /// A replica as the log gives it back; `load` feeds its checkpoint, if it has one.
    ///
    /// # Errors
    /// What `load` says: the checkpoint is not there, or not whole.
    pub fn recovered<E>(
        group: GroupId,
        found: RecoveredGroup,
        limits: &Limits,
        first_election_delay: Duration,
        load: impl FnOnce(&SnapshotMeta, Loader) -> Result<Store, E>,
    ) -> Result<Self, E> {
        let epoch = Origin::from_details(&found.details).epoch;
        let fresh = || Shard::fresh_checkpoint(found.configuration.clone());
        let checkpoint = found.checkpoint.clone().unwrap_or_else(fresh);
        let end = checkpoint.position.index;
        let store = if end > Index(0) {
            load(&checkpoint, Loader::ending_with(Shard::store_limits(limits), end))?
        } else {
            Store::new(Shard::store_limits(limits))
        };
        let restored = Restored {
            hard_state: found.hard_state,
            checkpoint,
            log_start: found.log_start,
            entries: found.entries,
            first_election_delay,
        };
        Ok(Self { group, epoch, restored, store })
    }
}
