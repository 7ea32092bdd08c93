//! The end of replicas that are no members any more, or whose range another one has taken, by the map. One
//! per core.

use std::time::Duration;

use oarlock_shard::Shard;
use oarlock_shard::moves::Departure;
use oarlock_types::{CoreAddr, GroupId, Mono, RangeMap};

/// Replicas that one tick looks at: a map changes seldom, a core may hold thousands.
const LOOKS_PER_TICK: usize = 128;
/// When what could not be ended is tried again.
const LATER: Duration = Duration::from_secs(1);
/// One that was made so shortly ago joins its group: the map does not have it yet.
const YOUNG: Duration = Duration::from_secs(5);

/// Replicas that are to be looked at.
#[derive(Debug, Default)]
pub struct Departures {
    /// The map has changed since `groups` were found.
    is_due: bool,
    groups: Vec<GroupId>,
    /// Those that could not be ended yet.
    later: Vec<GroupId>,
    later_at: Mono,
    /// Those that were made shortly ago.
    made: Vec<(GroupId, Mono)>,
}

impl Departures {
    /// The map has changed.
    pub fn look(&mut self) {
        self.is_due = true;
    }

    /// A replica was just made, perhaps of a group that is no more.
    pub fn made(&mut self, group: GroupId, now: Mono) {
        self.made.push((group, now));
        self.later.push(group);
    }

    /// Looks at some replicas, and ends those that the map says are on other nodes.
    pub fn go_on(&mut self, map: &RangeMap, shard: &mut Shard, own: CoreAddr, now: Mono) {
        if self.groups.is_empty() && std::mem::take(&mut self.is_due) {
            self.later.clear();
            self.groups = shard.groups().to_vec();
        } else if self.groups.is_empty() && now.since(self.later_at) >= LATER {
            self.later_at = now;
            self.groups = std::mem::take(&mut self.later);
        }
        self.made.retain(|(_, at)| now.since(*at) < YOUNG);
        let left = self.groups.len().saturating_sub(LOOKS_PER_TICK);
        for group in self.groups.split_off(left) {
            let is_young = self.made.iter().any(|(made, _)| *made == group);
            let Some(range) = map.group(group) else {
                match end_unknown(map, shard, group, is_young) {
                    Some(Departure::Ended) => {
                        tracing::info!("{own}: {group} was merged into its neighbour, and ends");
                    }
                    Some(Departure::Later) => self.later.push(group),
                    Some(Departure::Stays) | None => {}
                }
                continue;
            };
            if range.core_on(own.node).is_some() {
                continue;
            }
            if is_young {
                self.later.push(group);
                continue;
            }
            match shard.destroy(group, range.configured) {
                Departure::Ended => {
                    tracing::info!("{own}: {group} is on other nodes now, and ends here");
                }
                Departure::Later => self.later.push(group),
                Departure::Stays => {}
            }
        }
    }
}

/// Ends a replica of a group that the map does not have, if its range was taken. One that still holds nothing
/// may be of a group that is no more, or new: it is made again if somebody asks for it.
fn end_unknown(
    map: &RangeMap,
    shard: &mut Shard,
    group: GroupId,
    is_young: bool,
) -> Option<Departure> {
    let bounds = shard.bounds(group)?;
    if bounds.epoch.get() == 0 {
        // What it is receiving may be of a leader that has ended: then nothing more comes.
        return Some(if is_young { Departure::Later } else { shard.end(group) });
    }
    let is_taken = map.owner(&bounds.start).is_some_and(|(_, epoch)| epoch > bounds.epoch);
    is_taken.then(|| shard.end(group))
}
