//! A replica that goes to another core of its node: as it is, in memory, with all that it has promised. What is
//! on its disk, and when it may go, is decided elsewhere. One per group.

use oarlock_types::{CoreId, Index};

use crate::group::{Group, Role};
use crate::{Context, Effects, Entry, SnapshotMeta};

impl Group {
    /// Keeps the entries from `index` on in memory, as far as there is room for them: as many bytes as a log
    /// may have that is not compacted. `None`: only those that it needs itself.
    pub fn keep_entries_from(&mut self, index: Option<Index>) {
        self.kept_from = index;
    }

    pub(crate) fn kept_bytes_max(&self) -> usize {
        usize::try_from(self.limits.compact_log_bytes_min).unwrap_or(usize::MAX)
    }

    /// Whether all of the log behind `index` is in memory.
    #[must_use]
    pub fn has_entries_behind(&self, index: Index) -> bool {
        self.log.cached_first() <= index.next()
    }

    /// The log behind `index`, which is in memory.
    #[must_use]
    pub fn entries_behind(&self, index: Index) -> Vec<Entry> {
        assert!(self.has_entries_behind(index), "invariant: nothing of it was let go of");
        let behind = index.next().get()..=self.log.last().index.get();
        behind.filter_map(|index| self.log.get(Index(index)).cloned()).collect()
    }

    /// Whether it follows, or waits for a leader.
    #[must_use]
    pub fn is_follower(&self) -> bool {
        matches!(self.role, Role::Follower(_))
    }

    /// Whether it may go: it follows, and all that it has said or will say is on its disk. Who stands for election,
    /// or leads, counts on promises that others made to its core; who leads alone counts on none, and may resign.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        let is_durable = self.log.durable() == self.log.last().index;
        let is_free = self.is_follower() || self.leads_alone();
        is_free && is_durable && self.hard == self.durable_hard
    }

    /// Whether it leads, and nobody else could.
    #[must_use]
    pub fn leads_alone(&self) -> bool {
        let configuration = self.configuration();
        self.is_leader() && configuration.voters == [self.node] && !configuration.is_joint()
    }

    /// Leads no more, though nobody else could: it stands for election again.
    pub fn resign(&mut self, ctx: &Context<'_>, out: &mut Effects) {
        if self.is_leader() {
            self.become_follower(ctx, self.hard.term, None, out);
        }
        self.finish(ctx, std::time::Duration::ZERO);
    }

    /// It is on this core from now on, whose log has it from its checkpoint on. What it is bound to is its
    /// node's promise, and holds on.
    pub fn moved(&mut self, core: CoreId, checkpoint: SnapshotMeta) {
        assert!(
            self.is_at_rest() && !self.is_leader(),
            "invariant: whoever goes has nothing under way"
        );
        self.core = core;
        self.kept_from = None;
        // Its links are others.
        self.down.clear();
        let keep_from = checkpoint.position.index.next();
        self.compact(checkpoint, keep_from);
        self.evict();
    }
}
