//! What the ranges of a core have to tell the map once they were cut, have taken another, or have other members. Pure.

use oarlock_raft::{Configuration, SPLIT_BASE};
use oarlock_shard::{Shard, Split};
use oarlock_types::{CoreAddr, GroupId, Index, RangeBounds, RangeDescriptor, RangeMap};

/// A core's ranges, beside what is known of them.
#[derive(Clone, Copy, Debug)]
pub struct RangeNews<'a> {
    /// The core.
    pub at: CoreAddr,
    /// Its ranges.
    pub shard: &'a Shard,
    /// The map by which the node routes.
    pub map: &'a RangeMap,
    /// What of it the meta group has; `None`: all of it.
    pub confirmed: Option<&'a RangeMap>,
}

impl RangeNews<'_> {
    /// The whole change that a cut has made here.
    #[must_use]
    pub fn of_split(&self, split: &Split) -> Vec<RangeDescriptor> {
        let Split { parent, child, members, .. } = split;
        // Members may have begun to change since: then whoever leads tells of it when they have.
        let (configured, now) = match self.shard.range(parent.0) {
            Some((_, configured, now)) => (configured, now),
            None => (Index(0), members),
        };
        let left = self.places(parent.0, now);
        let right = self.places(parent.0, members);
        vec![
            RangeDescriptor::of_bounds(parent.0, parent.1.clone(), configured, left),
            RangeDescriptor::of_bounds(child.0, child.1.clone(), SPLIT_BASE.index, right),
        ]
    }

    /// What a range says of itself, if that is news; `propose`: it is to see to it that the meta group has it.
    #[must_use]
    pub fn of_range(&self, group: GroupId, propose: bool) -> Option<Vec<RangeDescriptor>> {
        let (bounds, configured, members) = self.shard.range(group)?;
        self.is_news(group, bounds, configured, propose).then(|| {
            let replicas = self.places(group, members);
            vec![RangeDescriptor::of_bounds(group, bounds.clone(), configured, replicas)]
        })
    }

    /// Whether it is news to this node, or, for who is to see to it that the meta group has it, to that: what the
    /// leader before told this node alone may have ended with it.
    fn is_news(
        &self,
        group: GroupId,
        bounds: &RangeBounds,
        configured: Index,
        propose: bool,
    ) -> bool {
        let map = self.confirmed.filter(|_| propose).unwrap_or(self.map);
        match map.group(group) {
            Some(known) => (known.epoch, known.configured) < (bounds.epoch, configured),
            None => map.epoch(&bounds.start) < bounds.epoch,
        }
    }

    /// Where the members of a group are: where they were heard from, or else where the map has them, or else
    /// on the core of the same number as here.
    fn places(&self, group: GroupId, members: &Configuration) -> Vec<CoreAddr> {
        let known = self.map.group(group);
        let place = |node| {
            let known = known.and_then(|range| range.core_on(node));
            let own = (node == self.at.node).then_some(self.at.core);
            let heard = own.or_else(|| self.shard.core_of_member(group, node));
            CoreAddr::new(node, heard.or(known).unwrap_or(self.at.core))
        };
        members.members().map(place).collect()
    }
}
