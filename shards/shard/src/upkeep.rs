//! What a core does a few times a second whether anything happens or not. Its cost does not grow
//! with the number of idle groups.

use std::collections::VecDeque;
use std::time::Duration;

use oarlock_types::{GroupId, Lsn, Mono};

use crate::replica::Replica;
use crate::shard::Shard;
use crate::support_changes::SupportChange;
use crate::walk::{LOOKS, Walk, looks_in_haste};

const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes freed per turn of a store that was replaced.
const FREE_BYTES_PER_TURN: u64 = 192 << 10;

/// Ranges that one tick rids of expired keys: thousands that hold some are not all seen to at once.
const EXPIRED_RANGES_PER_TICK: usize = 8;

/// Messages and acknowledgements for which there is room whatever happens.
const ROOM_KEPT: usize = 4096;

/// State of the upkeep.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    changes: Vec<SupportChange>,
    /// Groups led here that hold expired keys.
    expired: VecDeque<GroupId>,
    swept_at: Mono,
    walk: Walk,
    /// The newest durable frame when the log was last looked at.
    pub(crate) relieved_at: Lsn,
}

impl Shard {
    /// To be called about every pulse interval: looks at what the pulses changed.
    pub fn tick(&mut self) {
        let mut changes = std::mem::take(&mut self.upkeep.changes);
        self.tracker.poll(&self.support, self.now, &mut changes);
        if !changes.is_empty() {
            self.support_changed(&changes);
        }
        changes.clear();
        self.upkeep.changes = changes;
        self.push_rebuilding();
        self.save_split_states();
        self.push_moves();
        self.push_merges();
        if self.now.since(self.upkeep.swept_at) >= SWEEP_INTERVAL {
            self.upkeep.swept_at = self.now;
            self.sweep();
        }
        self.remove_expired();
        self.search_middle();
        self.relieve_log();
    }

    fn sweep(&mut self) {
        // Once a second is often enough to find them; those that are known are seen to at each tick.
        let looks_for_expired = self.upkeep.expired.is_empty();
        let is_pressing = self.admission.count() > 0 || self.keys_led().1 > 0;
        let looks = if is_pressing { looks_in_haste(self.ids.len()) } else { LOOKS };
        for place in self.upkeep.walk.next(&self.ids, looks) {
            let group = self.ids[place];
            self.expire_outcomes(group);
            if looks_for_expired && self.holds_expired(group) {
                self.upkeep.expired.push_back(group);
            }
        }
        self.forget_closed_lanes();
        self.expire_orders();
        self.give_back_room();
    }

    /// Gives back what buffers have taken for a turn of very many messages, as when all groups elect leaders.
    fn give_back_room(&mut self) {
        let after = &mut self.after_durable;
        after.messages.shrink_to(ROOM_KEPT);
        after.acks.shrink_to(ROOM_KEPT);
        self.out.messages.shrink_to(ROOM_KEPT);
        self.out.leaders.shrink_to(ROOM_KEPT);
    }

    fn holds_expired(&self, group: GroupId) -> bool {
        let replica = self.replicas.get(&group);
        let may_change = |r: &Replica| r.raft.is_leader() && r.store.frozen().is_none();
        replica.is_some_and(|r| may_change(r) && r.store.has_expired(self.wall))
    }

    /// Proposes entries without a request: the store removes what has expired with any entry, but
    /// an idle range has none.
    fn remove_expired(&mut self) {
        if self.disk_full {
            return;
        }
        for _ in 0..EXPIRED_RANGES_PER_TICK.min(self.upkeep.expired.len()) {
            let Some(group) = self.upkeep.expired.pop_front() else { return };
            if !self.holds_expired(group) {
                continue;
            }
            // What is under way removes some already; the rest is seen to when it is applied.
            let is_idle = |r: &Replica| r.pending.is_empty() && r.queued.is_empty();
            if self.replicas.get(&group).is_some_and(|replica| is_idle(replica)) {
                self.propose_empty(group);
            }
            self.upkeep.expired.push_back(group);
        }
    }

    pub(crate) fn free_slice(&mut self) {
        if let Some(store) = self.graveyard.last_mut()
            && store.drop_slice(FREE_BYTES_PER_TURN)
        {
            self.graveyard.pop();
        }
    }
}
