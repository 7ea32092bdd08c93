//! What is known of the ranges, and a plan made of it: with a hundred thousand ranges all of this is gone through
//! beside the core that wants the plan. It goes there and comes back; what is told meanwhile waits for the next time.
//!
//! It decides nothing: `shards/placement` does.

use std::collections::BTreeMap;
use std::time::Duration;

use oarlock_placement::{
    LoadSample, Node, Plan, Range, Replica, ReplicaRole, Settings, Task, View, plan,
};
use oarlock_store::RangeReport;
use oarlock_types::{GroupId, Mono, NodeId, RangeEpoch, WallMs, range_map};

use crate::SharedMap;
use crate::rules::RuleSet;
use crate::wishes::Wishes;

/// What one plan is made of, but for what is known already.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) now: Mono,
    pub(super) map: SharedMap,
    pub(super) nodes: Vec<Node>,
    pub(super) settings: Settings,
    pub(super) wishes: Wishes,
    pub(super) under_way: Vec<Task>,
    /// Voters of a range for which no rule says it.
    pub(super) replicas: u8,
    /// How long ranges stay what they are before they are merged.
    pub(super) merge_rest: Duration,
    /// What was told of ranges since the plan before.
    pub(super) reports: Vec<RangeReport>,
    /// Ranges that must not be merged before such a time.
    pub(super) refused: Vec<(GroupId, Mono)>,
    /// It waits no longer for those of whom nothing was told.
    pub(super) is_late: bool,
}

/// What is known of the ranges, and what is to be planned of it, on whatever thread has the time.
#[derive(Debug, Default)]
pub struct Planning {
    pub(super) name: u64,
    pub(super) asked: Asked,
    reports: BTreeMap<GroupId, RangeReport>,
    /// Since when ranges are as they are, by their epochs, as far as this planner has seen.
    shaped: BTreeMap<GroupId, (RangeEpoch, Mono)>,
    /// When the next of them will have stayed so for long enough to be merged.
    pub(super) rested_at: Option<Mono>,
    /// What was made; `None`: too little is known yet.
    pub(super) made: Option<Made>,
}

/// A view with its plan.
#[derive(Debug, Default)]
pub struct Made {
    pub(super) view: View,
    pub(super) plan: Plan,
}

impl Planning {
    /// Makes the plan.
    pub fn make(&mut self) {
        self.take_reports();
        self.made = (self.asked.is_late || self.are_all_told()).then(|| {
            self.note_shapes();
            let view = self.look();
            Made { plan: plan(&view), view }
        });
        self.asked = Asked::default();
    }

    fn take_reports(&mut self) {
        for report in std::mem::take(&mut self.asked.reports) {
            let known = self.reports.entry(GroupId(report.group)).or_default();
            if known.term <= report.term {
                *known = report;
            }
        }
    }

    /// A leader that is not known of would count as none.
    fn are_all_told(&self) -> bool {
        let is_told = |range: range_map::Range<'_>| self.reports.contains_key(&range.group);
        self.reports.len() >= self.asked.map.len() && self.ranges().all(is_told)
    }

    fn ranges(&self) -> impl Iterator<Item = range_map::Range<'_>> {
        let map = &self.asked.map;
        map.group(GroupId::META).into_iter().chain(map.ranges())
    }

    /// Ranges that are merged or cut again at once would never come to rest.
    fn note_shapes(&mut self) {
        let now = self.asked.now;
        let mut before = std::mem::take(&mut self.shaped);
        for (group, until) in std::mem::take(&mut self.asked.refused) {
            before.get_mut(&group).into_iter().for_each(|(_, since)| *since = until);
        }
        let since = |range: range_map::Range<'_>| {
            let known = before.remove(&range.group).filter(|(epoch, _)| *epoch == range.epoch);
            (range.group, known.unwrap_or((range.epoch, now)))
        };
        self.shaped = self.asked.map.ranges().map(since).collect();
        let rested = self.shaped.values().map(|(_, since)| *since + self.asked.merge_rest);
        self.rested_at = rested.filter(|at| *at > now).min();
    }

    fn look(&mut self) -> View {
        View {
            now: WallMs(self.asked.now.0 / 1000),
            settings: std::mem::take(&mut self.asked.settings),
            nodes: std::mem::take(&mut self.asked.nodes),
            ranges: self.ranges().map(|range| self.range(&range)).collect(),
            under_way: std::mem::take(&mut self.asked.under_way),
        }
    }

    fn range(&self, range: &range_map::Range<'_>) -> Range {
        let report = self.reports.get(&range.group);
        let leader = report.map(|report| NodeId(report.leader));
        let caught_up =
            |node: NodeId| report.is_some_and(|report| !report.lagging.contains(&node.get()));
        let replica = |at: &oarlock_types::CoreAddr| {
            let learns = self.learns(range, at.node);
            let role = if learns { ReplicaRole::Learner } else { ReplicaRole::Voter };
            Replica { at: *at, role, caught_up: caught_up(at.node) }
        };
        // The meta group's own keys are not people's.
        let Asked { wishes, replicas, .. } = &self.asked;
        let keys = if range.group == GroupId::META { &RuleSet::default() } else { &wishes.rules };
        let ruled = keys.of_range(range.start, range.end, *replicas);
        Range {
            group: range.group,
            epoch: range.epoch,
            replicas: range.replicas.iter().map(replica).collect(),
            leader: leader.filter(|leader| range.core_on(*leader).is_some()),
            bytes: report.map_or(0, |report| report.bytes),
            keys: report.map_or(0, |report| report.keys),
            writes_per_s: report.map_or(0, |report| report.writes_per_s),
            reads_per_s: report.map_or(0, |report| report.reads_per_s),
            sample: LoadSample::Unknown,
            last_split: self.shaped.get(&range.group).map(|(_, since)| WallMs(since.0 / 1000)),
            rules: ruled.rules,
            rules_of: ruled.span,
            border: ruled.border.map(|key| key.to_vec()),
        }
    }

    /// Whether a member of a range only learns, as far as it was told of the members that it has.
    pub(super) fn learns(&self, range: &range_map::Range<'_>, node: NodeId) -> bool {
        let report = self.reports.get(&range.group);
        report.is_some_and(|report| report.learns(node.get(), range.configured.get()))
    }
}

#[cfg(test)]
mod tests {
    use oarlock_types::RangeMap;

    use super::*;

    #[test]
    fn an_old_leaders_word_does_not_count() {
        let mut planning = Planning::default();
        let mut leader = |term, leader| {
            planning.asked.reports =
                vec![RangeReport { group: 7, term, leader, ..RangeReport::default() }];
            planning.make();
            planning.reports[&GroupId(7)].leader
        };
        assert_eq!(leader(5, 2), 2);
        assert_eq!(leader(4, 3), 2);
        assert_eq!(leader(6, 3), 3);
    }

    /// A merge that was refused is not planned again before its time, unless the range is another one by then.
    #[test]
    fn what_was_refused_rests() {
        let at = |second: u64| Mono(second * 1_000_000);
        let map = RangeMap::formation(&[(NodeId(1), 1)], &[bytes::Bytes::from_static(b"m")], 1);
        let map = SharedMap::new(map.unwrap());
        let right = map.ranges().nth(1).unwrap().group;
        let mut planning = Planning::default();
        let mut shaped = |now: u64, refused: Vec<(GroupId, Mono)>| {
            let merge_rest = Duration::from_secs(10);
            planning.asked = Asked {
                now: at(now),
                map: SharedMap::clone(&map),
                refused,
                merge_rest,
                is_late: true,
                ..Asked::default()
            };
            planning.make();
            let made = planning.made.take().unwrap();
            let since = made.view.ranges.iter().find(|range| range.group == right);
            (since.unwrap().last_split.unwrap(), planning.rested_at)
        };
        assert_eq!(shaped(1, Vec::new()), (WallMs(1000), Some(at(11))));
        assert_eq!(shaped(5, vec![(right, at(605))]), (WallMs(605_000), Some(at(11))));
        assert_eq!(shaped(12, Vec::new()), (WallMs(605_000), Some(at(615))));
    }
}
