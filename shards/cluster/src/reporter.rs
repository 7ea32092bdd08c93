//! Tells the group that placement rests on how the ranges are that a core leads: only what has changed since
//! it was told, and all of it again when somebody else leads that group. One per core.
//!
//! Each second it looks at some ranges, a few at a time: the core serves them, too.

use std::time::Duration;

use oarlock_shard::{Outcome, Shard, SplitSettings};
use oarlock_store::{Command, Order, RangeReport, Reply, Request};
use oarlock_types::{FastMap, GroupId, Mono};

/// Ranges of one report.
const RANGES_MAX: usize = 2048;
/// It begins to look so often.
const ROUND: Duration = Duration::from_secs(1);
/// Of those that have changed, and of the others, so many are looked at in one turn.
const LOOKS_PER_TURN: usize = 128;
/// A change below these is not told: of size, of the number of keys, of a rate. Less where ranges are cut for
/// little: what placement merges by, far below that, must be told all the same.
const BYTES_MIN: u64 = 1 << 20;
const KEYS_MIN: u64 = 1000;
const RATE_MIN: u64 = 500;
/// So small a part of what a range is cut for.
const PART: u64 = 40;

/// When nothing has changed for so long, it looks whether those who were told still lead.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// What was told.
#[derive(Debug)]
pub struct Reporter {
    steps: Steps,
    told: FastMap<GroupId, RangeReport>,
    /// What this round has found.
    found: Vec<RangeReport>,
    round: Round,
    /// What is being told, if anything is.
    telling: Option<Vec<RangeReport>>,
    told_at: Mono,
    /// The term of whoever was told.
    term: i64,
}

/// How many are still to be looked at.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    begun: Mono,
    changed_left: usize,
    looks_left: usize,
}

impl Round {
    fn is_over(&self) -> bool {
        self.changed_left + self.looks_left == 0
    }
}

/// Changes below these are not told.
#[derive(Clone, Copy, Debug)]
struct Steps {
    bytes: u64,
    keys: u64,
    rate: u64,
}

impl Steps {
    fn of(splits: &SplitSettings) -> Self {
        Self {
            bytes: BYTES_MIN.min(splits.bytes / PART),
            keys: KEYS_MIN.min(splits.keys / PART),
            rate: RATE_MIN.min(splits.requests_per_s / PART),
        }
    }

    fn is_news(self, told: &RangeReport, now: &RangeReport) -> bool {
        let grown = told.bytes.abs_diff(now.bytes);
        told.term != now.term
            || told.lagging != now.lagging
            || grown > self.bytes.max(told.bytes / 10)
            || told.keys.abs_diff(now.keys) > told.keys / 10 + self.keys
            || told.writes_per_s.abs_diff(now.writes_per_s) > told.writes_per_s / 4 + self.rate
            || told.reads_per_s.abs_diff(now.reads_per_s) > told.reads_per_s / 4 + self.rate
    }
}

impl Reporter {
    /// One that has told nothing, of ranges that are cut for this.
    #[must_use]
    pub fn new(splits: &SplitSettings) -> Self {
        Self {
            steps: Steps::of(splits),
            told: FastMap::default(),
            found: Vec::new(),
            round: Round::default(),
            telling: None,
            told_at: Mono(0),
            term: 0,
        }
    }

    /// Looks at some ranges. Gives what is to be told now, if a round has ended, there is anything to tell, and nothing is
    /// being told. To be called at each tick.
    pub fn next(&mut self, shard: &mut Shard, now: Mono) -> Option<Request> {
        if self.round.is_over() && now.since(self.round.begun) >= ROUND {
            // What has changed is looked at when it can be told, all others in haste until all were told.
            let changed_left = if self.telling.is_none() { RANGES_MAX } else { 0 };
            let looks_left = shard.looks_per_s(self.untold(shard) > 0);
            self.round = Round { begun: now, changed_left, looks_left };
        }
        if !self.look(shard) || self.telling.is_some() {
            return None;
        }
        // What was seen twice is told once, as it was last.
        let mut ranges = std::mem::take(&mut self.found);
        ranges.reverse();
        ranges.sort_by_key(|report| report.group);
        ranges.dedup_by_key(|report| report.group);
        let is_look_due = !self.told.is_empty() && now.since(self.told_at) >= LOOK_INTERVAL;
        if ranges.is_empty() && !is_look_due {
            return None;
        }
        self.told_at = now;
        self.telling = Some(ranges.clone());
        Some(Request::one(Command::Order(Order::Report { ranges })))
    }

    /// Whether this has ended a round.
    fn look(&mut self, shard: &mut Shard) -> bool {
        let Self { steps, told, found, round, telling, .. } = self;
        let (changed, looks) =
            (round.changed_left.min(LOOKS_PER_TURN), round.looks_left.min(LOOKS_PER_TURN));
        if round.is_over() {
            return false;
        }
        let see = |group: GroupId, report: Option<RangeReport>| match report {
            None => drop(told.remove(&group)),
            Some(report) if found.len() < RANGES_MAX && telling.is_none() => {
                if told.get(&group).is_none_or(|told| steps.is_news(told, &report)) {
                    found.push(report);
                }
            }
            Some(_) => {} // its turn comes again
        };
        let seen = shard.survey(changed, looks, see);
        // Fewer than it might: there are no more.
        round.changed_left = if seen.0 < changed { 0 } else { round.changed_left - changed };
        round.looks_left = if seen.1 < looks { 0 } else { round.looks_left - looks };
        round.is_over()
    }

    /// Ranges led here of which nothing was told yet.
    #[must_use]
    pub fn untold(&self, shard: &Shard) -> usize {
        shard.counts().1.saturating_sub(self.told.len())
    }

    /// What became of it.
    pub fn outcome(&mut self, outcome: &Outcome) {
        let Some(telling) = self.telling.take() else { return };
        let Ok(Reply::Int(term)) = outcome else {
            // They may have changed: what was told of them before counts no more.
            telling.iter().for_each(|report| drop(self.told.remove(&GroupId(report.group))));
            return;
        };
        if self.term != *term {
            self.term = *term;
            self.told.clear();
        }
        self.told.extend(telling.into_iter().map(|report| (GroupId(report.group), report)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_changes_are_not_told() {
        let told = RangeReport { term: 3, bytes: 100 << 20, keys: 50_000, ..Default::default() };
        let change = |change: fn(&mut RangeReport)| {
            let mut now = told.clone();
            change(&mut now);
            Steps::of(&SplitSettings::default()).is_news(&told, &now)
        };
        assert!(!change(|now| now.bytes += 5 << 20));
        assert!(change(|now| now.bytes += 11 << 20));
        assert!(!change(|now| now.keys += 5_000));
        assert!(change(|now| now.keys -= 7_000));
        assert!(!change(|now| now.reads_per_s += 400));
        assert!(change(|now| now.writes_per_s += 600));
        assert!(change(|now| now.term += 1));
        assert!(change(|now| now.lagging.push(4)));
    }

    #[test]
    fn where_ranges_are_small_so_are_the_changes_that_are_told() {
        let small = SplitSettings { keys: 200, bytes: 4000, ..SplitSettings::default() };
        let told = RangeReport { keys: 10, bytes: 500, ..Default::default() };
        let is_news = |keys, bytes| {
            let now = RangeReport { keys, bytes, ..told.clone() };
            Steps::of(&small).is_news(&told, &now)
        };
        assert!(!is_news(16, 600));
        assert!(is_news(17, 600), "placement merges up to 50 of 200");
        assert!(is_news(16, 601));
    }
}
