//! Which ranges should be cut in two, and where: by size, by the number of keys, by load. One per core.
//!
//! It only says so; whoever asks gives the new range its id and calls [`Shard::split`].
//!
//! **By load.** The keys of a sample say where the load has its middle. A cut is due only if each side would
//! have at least a quarter of what makes a range be split: so every cut takes load away that is worth
//! a range, and a constant load comes to rest with at most so many times more ranges than its multiple of
//! the threshold. A cut that this allows is taken even if one key has most of the load: what stands beside a
//! hot key is cut off on either side while it is itself worth a range, so that it can be moved elsewhere; then
//! the key is alone, or nearly, and nothing more is cut. To isolate it further would leave it as hot as before,
//! for the price of two ranges that nobody needs. It is told instead ([`Shard::hot_keys`]).
//!
//! **By size.** The way to the middle is walked in slices, a range at a time.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use oarlock_store::{SplitPoint, Store};
use oarlock_types::{GroupId, Mono};

use crate::load::{Middle, RangeLoad, RequestRates, float, whole};
use crate::replica::Replica;
use crate::shard::Shard;

/// Each side of a cut by load gets at least this part of the load at which a range is split. As large as what
/// placement would merge again, and no larger, since what can not be cut for this stays hot.
const LOAD_OF_A_SIDE: f64 = 0.25;
/// And at least this part of the samples: of fewer one can not say that they are there.
const SAMPLES_OF_A_SIDE: f64 = 0.05;
/// A key with this part of the load at which a range is split is hot.
const LOAD_OF_A_HOT_KEY: f64 = 0.5;
/// A split that was due and did not come to pass is due again after this.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// Splits that are due at a time: each cut takes about a millisecond, and the rest is due a second later.
const DUE_MAX: usize = 4;
/// Ranges with load that are looked at in one call: 0.25 to 0.55 ms, where ten thousand have some.
const WARM_PER_CALL: usize = 1024;
/// Other ranges that are looked at in one call for their size alone, since they do not grow: 12 to 23 µs.
const COLD_PER_CALL: usize = 256;
/// Keys that one tick walks over on its way to the middle of a range: 0.15 to 0.35 ms in one of 131,072 keys,
/// up to 0.7 ms in one of a million.
const KEYS_PER_TICK: usize = 8192;

/// When a range is split. What it reaches one of is split; `u64::MAX` turns that reason off.
///
/// Placement merges what is below a quarter of its own thresholds, which are the same by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitSettings {
    /// Bytes of keys and values, as of [`Store::size_bytes`].
    pub bytes: u64,
    /// Keys.
    pub keys: u64,
    /// Requests per second, reads and writes.
    pub requests_per_s: u64,
    /// So long the load of a range is watched before it is split for it, and again after each split.
    pub load_rest: Duration,
}

impl Default for SplitSettings {
    /// - 64 MiB, as CockroachDB had it at first and TiKV nearly (96 MiB). Those who keep ranges on disk have gone
    ///   to 512 and 256 MiB to have fewer of them. Here an idle range costs nothing, while a range in
    ///   memory is cut, checkpointed and sent to a new replica as a whole.
    /// - 131,072 keys: the cut walks over half of them, in 1.3 ms, and everything on the core waits for it. TiKV
    ///   takes 960,000, and does not walk.
    /// - 20,000 requests per second. CockroachDB takes 2,500 or a quarter to a half of a CPU, TiKV 3,000 reads or
    ///   a quarter of its readers' CPUs. A part of a core is what is meant, and requests are cheaper here: three
    ///   nodes and their clients together take 40 µs for a write (`docs/BENCHMARKS.md`: 44,000 to 56,000 a
    ///   second on two CPUs), a leader's core about a third of that, so 20,000 are a quarter of a core.
    /// - 10 s, as both of them watch. After two half lives three quarters of the rate are of that time alone.
    fn default() -> Self {
        Self {
            bytes: 64 << 20,
            keys: 128 << 10,
            requests_per_s: 20_000,
            load_rest: Duration::from_secs(10),
        }
    }
}

/// Why a range should be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitReason {
    /// It has too many bytes.
    Size,
    /// It has too many keys.
    Keys,
    /// It gets too many requests.
    Load,
}

impl fmt::Display for SplitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Size => "size",
            Self::Keys => "keys",
            Self::Load => "load",
        })
    }
}

/// A range that should be split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueSplit {
    /// Its group.
    pub group: GroupId,
    /// The first key of the right half.
    pub at: Bytes,
    /// Why.
    pub reason: SplitReason,
}

/// A key that is as loaded by itself as a range that should be split soon. No split makes it less so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotKey {
    /// The group of its range.
    pub group: GroupId,
    /// The key.
    pub key: Bytes,
    /// Its share of the range's requests, in percent.
    pub share_percent: u64,
    /// Requests per second that name it.
    pub requests_per_s: u64,
}

/// The loads of a core, as far as they are not with its replicas.
#[derive(Debug, Default)]
pub(crate) struct Loads {
    /// Groups whose replicas have a load, and perhaps some that had one. A group that comes back before it is
    /// found to have gone stands here twice, and is looked at twice.
    warm: Vec<GroupId>,
    /// Where looking goes on.
    next_warm: usize,
    next_cold: GroupId,
    /// Groups whose middle is searched for; the first one is at it.
    searching: VecDeque<GroupId>,
}

impl Loads {
    /// The load of a replica that is asked something.
    #[cold]
    pub(crate) fn begin(&mut self, group: GroupId, now: Mono) -> Box<RangeLoad> {
        self.warm.push(group);
        Box::new(RangeLoad::new(now))
    }
}

/// What looking at a range led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    /// Its middle is to be found.
    Large,
    Due(Bytes, SplitReason),
}

impl RangeLoad {
    /// Whether and where the range should be split.
    pub(crate) fn look(
        &mut self,
        group: GroupId,
        store: &Store,
        now: Mono,
        settings: &SplitSettings,
    ) -> Found {
        let by_load = self.cut_by_load(group, store, now, settings);
        if self.rests_until > now {
            return Found::Nothing;
        }
        let due = match (by_load, excess(store, settings)) {
            (Some(at), _) => (at, SplitReason::Load),
            (None, None) => {
                self.middle = Middle::Unknown;
                return Found::Nothing;
            }
            (None, Some(reason)) => match std::mem::replace(&mut self.middle, Middle::Unknown) {
                Middle::At(at) if store.bounds().can_split_at(&at) => (at, reason),
                Middle::At(_) | Middle::Unknown => {
                    let search = match reason {
                        SplitReason::Keys => store.split_search_by_keys(),
                        SplitReason::Size | SplitReason::Load => store.split_search(),
                    };
                    self.middle = Middle::Searching(search);
                    return Found::Large;
                }
                Middle::Searching(search) => {
                    self.middle = Middle::Searching(search);
                    return Found::Nothing;
                }
            },
        };
        self.rests_until = now + ASK_AGAIN;
        Found::Due(due.0, due.1)
    }

    fn cut_by_load(
        &mut self,
        group: GroupId,
        store: &Store,
        now: Mono,
        settings: &SplitSettings,
    ) -> Option<Bytes> {
        let distribution = self.distribution(now, settings)?;
        let (per_s, most) = (self.per_s(), float(settings.requests_per_s));
        let (key, share) = distribution.hottest;
        let requests_per_s = whole(share * per_s);
        let share_percent = whole(share * 100.0);
        let is_hot = share * per_s >= LOAD_OF_A_HOT_KEY * most;
        self.hot_key = is_hot.then_some(HotKey { group, key, share_percent, requests_per_s });
        let (at, smaller) = distribution.best_cut?;
        let is_due = per_s >= most
            && smaller * per_s >= LOAD_OF_A_SIDE * most
            && smaller >= SAMPLES_OF_A_SIDE
            && store.bounds().can_split_at(&at);
        is_due.then_some(at)
    }

    /// Walks on to the middle of the range; true while there is more to walk.
    fn search(&mut self, store: &Store) -> bool {
        let Middle::Searching(search) = &mut self.middle else { return false };
        match store.split_search_next(search, KEYS_PER_TICK) {
            SplitPoint::More => return true,
            SplitPoint::At(at) => self.middle = Middle::At(at),
            SplitPoint::None => self.middle = Middle::Unknown,
        }
        false
    }
}

/// By what measure a range is too large.
fn excess(store: &Store, settings: &SplitSettings) -> Option<SplitReason> {
    if store.len() < 2 {
        None
    } else if store.size_bytes() >= settings.bytes {
        Some(SplitReason::Size)
    } else if store.len() as u64 >= settings.keys {
        Some(SplitReason::Keys)
    } else {
        None
    }
}

impl Shard {
    /// The ranges led here that should be split now, in order of nothing. To be called about once a second:
    /// this is also when rates are brought up to date. What is due and does not come to pass is due again ten
    /// seconds later.
    ///
    /// Idle ranges cost nothing but a look at their size now and then: of ten thousand, all within forty calls.
    pub fn due_splits(&mut self, settings: &SplitSettings) -> Vec<DueSplit> {
        self.warm_large(settings);
        let mut due = Vec::new();
        for _ in 0..self.loads.warm.len().min(WARM_PER_CALL) {
            if due.len() == DUE_MAX {
                break;
            }
            let place =
                if self.loads.next_warm < self.loads.warm.len() { self.loads.next_warm } else { 0 };
            let group = self.loads.warm[place];
            self.loads.next_warm = place;
            match self.look_at(group, settings) {
                None => drop(self.loads.warm.swap_remove(place)),
                Some(found) => {
                    self.note_changed(group);
                    self.loads.next_warm += 1;
                    match found {
                        Found::Nothing => {}
                        Found::Large => self.loads.searching.push_back(group),
                        Found::Due(at, reason) => due.push(DueSplit { group, at, reason }),
                    }
                }
            }
        }
        due
    }

    /// Keys that are so hot that no split helps, as [`Shard::due_splits`] last found them.
    #[must_use]
    pub fn hot_keys(&self) -> Vec<HotKey> {
        let loads =
            self.loads.warm.iter().filter_map(|group| self.replicas.get(group)?.load.as_ref());
        loads.filter_map(|load| load.hot_key.clone()).collect()
    }

    /// Ranges of which a load is kept: those that were asked something of late.
    #[must_use]
    pub fn loads_count(&self) -> usize {
        self.loads.warm.len()
    }

    /// How many requests a range led here gets.
    #[must_use]
    pub fn request_rates(&self, group: GroupId) -> RequestRates {
        let load = self.replicas.get(&group).and_then(|replica| replica.load.as_ref());
        load.map_or(RequestRates::default(), |load| load.rates())
    }

    /// `None` if there is no load to be looked at any more.
    fn look_at(&mut self, group: GroupId, settings: &SplitSettings) -> Option<Found> {
        let replica = self.replicas.get_mut(&group)?;
        let load = replica.load.as_mut()?;
        if !replica.raft.is_leader() {
            replica.load = None;
            return None;
        }
        load.fold(self.now);
        if load.is_cold(self.now) && excess(&replica.store, settings).is_none() {
            replica.load = None;
            return None;
        }
        if group == GroupId::META {
            return Some(Found::Nothing);
        }
        load.sample_if_busy(group, self.now, settings);
        // What is under way must end first, and a new range's first checkpoint needs room.
        if replica.raft.is_splitting() || self.disk_full {
            return Some(Found::Nothing);
        }
        Some(load.look(group, &replica.store, self.now, settings))
    }

    /// Gives a load to some ranges that are too large and have none, so that they are looked at.
    fn warm_large(&mut self, settings: &SplitSettings) {
        let from = self.ids.partition_point(|group| *group < self.loads.next_cold);
        let end = self.ids.len().min(from + COLD_PER_CALL);
        self.loads.next_cold = self.ids.get(end).copied().unwrap_or(GroupId(0));
        for place in from..end {
            let group = self.ids[place];
            let Some(replica) = self.replicas.get_mut(&group) else { continue };
            let is_large = |r: &Replica| r.raft.is_leader() && excess(&r.store, settings).is_some();
            if replica.load.is_none() && is_large(replica) && group != GroupId::META {
                replica.load = Some(self.loads.begin(group, self.now));
            }
        }
    }

    /// Goes on with the walk to the middle of a range, if there is one. To be called at each tick.
    pub(crate) fn search_middle(&mut self) {
        let Some(group) = self.loads.searching.front() else { return };
        let replica = self.replicas.get_mut(group);
        let goes_on = replica.is_some_and(|replica| {
            let store = &replica.store;
            replica.load.as_mut().is_some_and(|load| load.search(store))
        });
        if !goes_on {
            self.loads.searching.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
