//! What happens to requests when the map changes.
//!
//! Promise: writes of one connection that name the same key take effect in the order of submission,
//! whatever ranges the key goes through.
//! - A lane whose group has other keys than before is **outdated**: nothing more is sent in it.
//! - While a connection has an outdated lane with writes under way, its new writes are **held**, and so are
//!   those of the lane that come back. The client waits for no longer than it must anyway: replies leave in
//!   the order of the commands.
//! - Once all are back, what is held goes on in the order of submission, each to the lane of the range that
//!   has its keys by now.
//! - A write whose range is not known is held until it is.
//!
//! Reads keep no order: one that was refused, or waits, is found anew before it is sent again.

use oarlock_codec::Refusal;
use oarlock_types::{GroupId, Guard, RangeMap};

use super::{ConnectionId, Lane, LaneKey, Retry, Router};
use crate::SharedMap;
use crate::locate::{Place, locate};

/// Stands for the group of what has none by now: no range has it. A connection's lane of this group holds
/// its writes.
pub(super) const UNKNOWN: GroupId = GroupId(u64::MAX);

fn bounds(map: &RangeMap, group: GroupId) -> Option<(&[u8], Option<&[u8]>)> {
    map.group(group).map(|range| (range.start, range.end))
}

impl Router {
    /// Routes by another map from now on.
    pub fn install(&mut self, map: SharedMap) {
        let old = std::mem::replace(&mut self.map, map);
        self.installed += 1;
        let mut lanes: Vec<LaneKey> = self.lanes.keys().copied().collect();
        lanes.sort_unstable();
        lanes.retain(|(_, group)| {
            *group == UNKNOWN || bounds(&old, *group) != bounds(&self.map, *group)
        });
        for key in &lanes {
            let Some(lane) = self.lanes.get_mut(key) else { continue };
            if lane.under_way > 0 && !lane.is_outdated {
                (lane.is_outdated, lane.is_stalled) = (true, true);
                self.outdated.push(*key);
            } else if lane.under_way == 0 && key.1 != UNKNOWN {
                self.hold_lane(*key);
            }
        }
        for (connection, _) in lanes {
            self.go_on(connection);
        }
        // What waits for a newer map need not wait any longer.
        self.bounced.iter_mut().for_each(|(at, _)| *at = self.now);
        self.is_retry_due = true;
    }

    /// Whether a range has refused what the map says, since this was asked last.
    pub fn take_is_map_old(&mut self) -> bool {
        std::mem::take(&mut self.is_map_old)
    }

    /// Whether a connection's new writes are held.
    pub(super) fn is_held(&self, connection: ConnectionId) -> bool {
        self.outdated.iter().any(|(of, _)| *of == connection)
    }

    /// All writes of a lane that were under way are back.
    pub(super) fn lane_is_back(&mut self, key: LaneKey) {
        if self.lanes.get(&key).is_some_and(|lane| lane.is_outdated) {
            self.hold_lane(key);
            self.go_on(key.0);
        } else {
            self.retry_later(Retry::Lane(key));
        }
    }

    /// A lane is empty.
    pub(super) fn end_lane(&mut self, key: LaneKey) {
        let Some(lane) = self.lanes.remove(&key) else { return };
        if lane.is_outdated {
            self.outdated.retain(|outdated| *outdated != key);
            self.go_on(key.0);
        }
    }

    /// Holds the writes of a lane of which nothing is under way.
    fn hold_lane(&mut self, key: LaneKey) {
        let Some(lane) = self.lanes.remove(&key) else { return };
        debug_assert_eq!(lane.under_way, 0, "invariant: a lane is given up when all are back");
        self.outdated.retain(|outdated| *outdated != key);
        for id in lane.waiting {
            self.put((key.0, UNKNOWN), id);
        }
    }

    /// Puts a write that is not under way into its place in a lane.
    fn put(&mut self, to: LaneKey, id: u64) {
        let Some(routed) = self.routed.get_mut(&id) else { return };
        (routed.group, routed.lane) = (to.1, Some(to));
        let lane = self.lanes.entry(to).or_insert_with(Lane::empty);
        lane.put(id);
        lane.is_stalled |= to.1 == UNKNOWN;
    }

    /// Lets what is held of a connection go on, unless it has writes under way by an older map.
    pub(super) fn go_on(&mut self, connection: ConnectionId) {
        if self.is_held(connection) {
            return;
        }
        let Some(held) = self.lanes.remove(&(connection, UNKNOWN)) else { return };
        let mut touched: Vec<LaneKey> = Vec::new();
        for id in held.waiting {
            let Some(routed) = self.routed.get_mut(&id) else { continue };
            let group = match locate(&self.map, &routed.request) {
                Some(Place::In(range)) => range.group,
                Some(Place::Unknown) | None => UNKNOWN,
                Some(Place::Apart) => {
                    routed.lane = None;
                    self.done(id, Err(Refusal::StaleEpoch));
                    continue;
                }
            };
            let to = (connection, group);
            self.put(to, id);
            if !touched.contains(&to) {
                touched.push(to);
            }
        }
        for lane in touched {
            if lane.1 == UNKNOWN {
                self.wait(UNKNOWN, Retry::Lane(lane));
            } else if self.lanes.get(&lane).is_some_and(|lane| !lane.is_stalled) {
                self.send_lane(lane);
            }
        }
    }

    /// Finds the range of a request without a lane before it is sent, if the map is another one than
    /// when it was found last; false if the request has ended, because what it names is not in one range
    /// any more. Sent by an old finding with a new epoch it would be answered wrongly.
    pub(super) fn find_anew(&mut self, id: u64) -> bool {
        let Some(routed) = self.routed.get_mut(&id) else { return false };
        // The meta group's keys are its own: a range that has keys of such names is not asked.
        let is_named = routed.group == GroupId::META && Guard::MetaIsNamed.is_on();
        if routed.found_in == self.installed || is_named {
            return true;
        }
        routed.found_in = self.installed;
        match locate(&self.map, &routed.request) {
            Some(Place::In(range)) => {
                (routed.group, routed.epoch) = (range.group, Some(range.epoch));
                return true;
            }
            Some(Place::Unknown) => {
                (routed.group, routed.epoch) = (UNKNOWN, None);
                return true;
            }
            Some(Place::Apart) => {}
            // It names only its group: what keys that had, whoever asked must see to.
            None => {
                let now = self.map.group(routed.group).map(|range| range.epoch);
                if now == routed.epoch {
                    return true;
                }
            }
        }
        self.done(id, Err(Refusal::StaleEpoch));
        false
    }
}
