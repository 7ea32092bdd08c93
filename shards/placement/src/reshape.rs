//! Splits of ranges that are large or loaded, merges of neighbours that are small and cold.
//!
//! What a split makes is far from what a merge takes, by size, load and time, so that neither undoes
//! the other. The right one of two goes into the left one, wherever their replicas are.

use std::fmt;

use oarlock_types::GroupId;

use crate::model::Model;
use crate::plan::Planner;
use crate::task::{Action, Bytes, Obstacle, Reason, Spell, SplitAt};
use crate::view::{LoadSample, Range};

/// Why two neighbours are not merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Apart {
    /// Nothing is merged in this cluster.
    Never,
    /// One of them is the meta group, or is split or merged just now.
    Busy,
    /// Their rules differ.
    Rules,
    /// One was split, and its parts stay for so many milliseconds more.
    Recent(u64),
    /// Together they have so many bytes and keys.
    Size(u64, u64),
    /// Together they have so many requests per second.
    Load(u64),
    /// Replicas of one are out of order, or nobody leads it.
    Unsound,
    /// The right one has so many bytes: more than go into an entry of the left one's log.
    TooLarge(u64),
    /// The cluster has no more ranges than its cores keep busy.
    Few,
}

impl Model<'_> {
    /// Whether the range is as large as to be split, and what forbids it.
    pub(crate) fn split_step(&self, at: usize) -> Option<(Reason, Result<SplitAt, Obstacle>)> {
        let (range, settings) = (self.range(at), self.settings);
        if range.group == GroupId::META || !settings.plans_splits {
            return None;
        }
        if range.bytes >= settings.split_bytes || range.keys >= settings.split_keys {
            let step =
                if range.keys < 2 { Err(Obstacle::SingleKey) } else { Ok(SplitAt::HalfOfBytes) };
            return Some((Reason::Size(range.bytes, range.keys), step));
        }
        let rested = self.since_split(range) >= settings.split_rest_ms;
        let load = range.load_per_s();
        // Where a single core is, two ranges are no faster than one.
        let cores: usize =
            self.nodes.iter().filter(|node| node.serves()).map(|node| node.cores.len()).sum();
        if load < settings.split_load_per_s || !rested || cores < 2 {
            return None;
        }
        match range.sample {
            LoadSample::Unknown => None,
            // Requests for keys that are not there.
            LoadSample::SplitPoint if range.keys < 2 => {
                Some((Reason::Load(load), Err(Obstacle::SingleKey)))
            }
            LoadSample::SplitPoint => Some((Reason::Load(load), Ok(SplitAt::HalfOfLoad))),
            LoadSample::HotKey => Some((Reason::Load(load), Err(Obstacle::HotKey))),
        }
    }

    fn since_split(&self, range: &Range) -> u64 {
        range.last_split.map_or(u64::MAX, |last| self.view.now.0.saturating_sub(last.0))
    }

    fn is_in_order(&self, at: usize) -> bool {
        self.is_healthy(at) && self.needs(at).is_empty()
    }

    /// Why two neighbours stay apart, the number of ranges aside.
    pub(crate) fn apart(&self, left: usize, right: usize) -> Option<Apart> {
        let (settings, (a, b)) = (self.settings, (self.range(left), self.range(right)));
        let part = |limit: u64| u128::from(limit) * u128::from(settings.merge_percent) / 100;
        let bytes = a.bytes.saturating_add(b.bytes);
        let keys = a.keys.saturating_add(b.keys);
        let load = a.load_per_s().saturating_add(b.load_per_s());
        let rest = self.since_split(a).min(self.since_split(b));
        let sound = |at: usize| self.locked[at] || self.is_in_order(at);
        if !settings.plans_merges {
            Some(Apart::Never)
        } else if u128::from(bytes) > part(settings.split_bytes)
            || u128::from(keys) > part(settings.split_keys)
        {
            Some(Apart::Size(bytes, keys))
        } else if b.bytes > settings.merge_bytes_max {
            Some(Apart::TooLarge(b.bytes))
        } else if u128::from(load) > part(settings.split_load_per_s) {
            Some(Apart::Load(load))
        } else if a.rules != b.rules {
            Some(Apart::Rules)
        } else if rest < settings.merge_rest_ms {
            Some(Apart::Recent(settings.merge_rest_ms - rest))
        } else if self.is_reshaped(a.group) || self.is_reshaped(b.group) {
            Some(Apart::Busy)
        } else if !sound(left) || !sound(right) {
            Some(Apart::Unsound)
        } else {
            None
        }
    }

    fn is_reshaped(&self, group: GroupId) -> bool {
        let reshapes = self
            .view
            .under_way
            .iter()
            .filter(|task| matches!(task.action, Action::Split(_) | Action::Merge { .. }));
        let mut groups = reshapes.flat_map(|task| match task.action {
            Action::Merge { right, .. } => [task.group, right],
            Action::Add { .. }
            | Action::Replace { .. }
            | Action::Remove { .. }
            | Action::Transfer { .. }
            | Action::MoveCore { .. }
            | Action::Split(_) => [task.group, task.group],
        });
        group == GroupId::META || groups.any(|busy| busy == group)
    }

    /// How many ranges are more than the cores that are up keep busy.
    pub(crate) fn ranges_to_spare(&self) -> usize {
        let cores: usize =
            self.nodes.iter().filter(|node| node.serves()).map(|node| node.cores.len()).sum();
        let ranges = self.view.ranges.iter().filter(|range| range.group != GroupId::META).count();
        let merging = self.view.under_way.iter();
        let merging = merging.filter(|task| matches!(task.action, Action::Merge { .. })).count();
        let least = cores.saturating_mul(self.settings.ranges_per_core_min).max(1);
        ranges.saturating_sub(merging).saturating_sub(least)
    }

    /// The pairs of neighbours to merge now, in the order of their keys, none overlapping.
    pub(crate) fn pairs(&self) -> Vec<(usize, usize)> {
        let most = self.ranges_to_spare().min(self.settings.reshapes_max);
        let mut pairs = Vec::new();
        let mut left: Option<usize> = None;
        for at in 0..self.view.ranges.len() {
            if pairs.len() >= most {
                break;
            }
            if self.range(at).group == GroupId::META {
                continue;
            }
            match left {
                Some(before) if self.apart(before, at).is_none() => {
                    pairs.push((before, at));
                    left = None;
                }
                Some(_) | None => left = Some(at),
            }
        }
        pairs
    }
}

impl Planner<'_> {
    /// Splits what is large or loaded.
    pub(crate) fn split(&mut self) {
        for at in 0..self.model.locked.len() {
            let model = &self.model;
            if model.locked[at] || model.leader(at).is_none() || !model.quorum(at).holds() {
                continue;
            }
            match model.split_step(at) {
                None => {}
                Some((reason, Ok(place))) if self.has_slot(Action::Split(place)) => {
                    self.add(at, Action::Split(place), reason);
                }
                Some((_, Ok(_))) => {}
                Some((reason, Err(obstacle))) => self.block(at, reason, obstacle),
            }
        }
    }

    /// Merges what is small and cold.
    pub(crate) fn merge(&mut self) {
        for (left, right) in self.model.pairs() {
            let model = &self.model;
            if model.locked[left] || model.locked[right] {
                continue;
            }
            let (a, b) = (model.range(left), model.range(right));
            let (bytes, load) = (a.bytes + b.bytes, a.load_per_s() + b.load_per_s());
            let action = Action::Merge { right: b.group, right_epoch: b.epoch };
            let reason = Reason::Small(b.group, bytes, load);
            if self.has_slot(action) {
                self.add(left, action, reason);
                // Nothing else is done with it meanwhile.
                self.model.locked[right] = true;
            }
        }
    }
}

impl fmt::Display for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => write!(f, "merges are not planned"),
            Self::Busy => write!(f, "one of them is being split or merged"),
            Self::Rules => write!(f, "their rules differ"),
            Self::Recent(ms) => write!(f, "a split is too recent for {} more", Spell(*ms)),
            Self::Size(bytes, keys) => write!(f, "together {} and {keys} keys", Bytes(*bytes)),
            Self::Load(load) => write!(f, "together {load} requests/s"),
            Self::Unsound => write!(f, "replicas are out of order"),
            Self::TooLarge(bytes) => {
                write!(f, "the right one has {}, too many for an entry", Bytes(*bytes))
            }
            Self::Few => write!(f, "the cores need that many ranges"),
        }
    }
}
