//! Puts the cluster's map into the meta group when the cluster is formed, once and for all nodes.
//!
//! One per core; it has work only on the core of the meta group's leader. It must not change a map
//! that is there: every key is written only if it is absent.
//!
//! In the meta group's keyspace `range/<group>` holds each range's descriptor, and `map/version`,
//! written last, the map's version: where it stands, the whole map does.

use std::collections::VecDeque;

use bytes::Bytes;
use oarlock_shard::Outcome;
use oarlock_store::{Command, Request};
use oarlock_types::{CoreAddr, GroupId, RangeDescriptor, RangeMap};

/// Descriptors in one write: far below what an entry may hold.
const RANGES_PER_WRITE: usize = 256;

/// What is left to be written.
#[derive(Debug)]
pub struct MapKeeper {
    writes: VecDeque<Request>,
    is_waiting: bool,
}

impl MapKeeper {
    /// The map's first writer on this core; without work if the meta group has no replica here.
    #[must_use]
    pub fn new(map: &RangeMap, addr: CoreAddr) -> Self {
        let has_meta = map.group(GroupId::META).is_some_and(|meta| meta.replicas.contains(&addr));
        let mut writes = VecDeque::new();
        if has_meta {
            writes.push_back(Request::one(Command::Get { key: version_key() }));
            writes.extend(map.ranges().chunks(RANGES_PER_WRITE).map(write_ranges));
            let value = Bytes::from(map.version().to_string());
            writes.push_back(Request::one(Command::SetNx { key: version_key(), value }));
        }
        Self { writes, is_waiting: false }
    }

    /// The next request to the meta group, if this node leads it and none is under way.
    pub fn next_request(&mut self, leads: bool) -> Option<Request> {
        if !leads || self.is_waiting {
            return None;
        }
        let next = self.writes.front().cloned();
        self.is_waiting = next.is_some();
        next
    }

    /// The outcome of the last request. What failed is tried again by whoever leads then.
    pub fn outcome(&mut self, outcome: &Outcome) {
        self.is_waiting = false;
        match outcome {
            // Somebody has written the map already.
            Ok(oarlock_store::Reply::Bulk(_)) => self.writes.clear(),
            Ok(_) => {
                self.writes.pop_front();
            }
            Err(_) => {}
        }
    }
}

fn version_key() -> Bytes {
    Bytes::from_static(b"map/version")
}

/// Writes each descriptor unless it is there.
fn write_ranges(ranges: &[RangeDescriptor]) -> Request {
    let set = |range: &RangeDescriptor| Command::SetNx {
        key: Bytes::from(format!("range/{}", range.group.get())),
        value: text(range).into(),
    };
    Request { transaction: true, commands: ranges.iter().map(set).collect(), ..Request::default() }
}

/// A descriptor as JSON: few, read by people too, and open to what later versions add.
fn text(range: &RangeDescriptor) -> String {
    let hex = |key: &Bytes| key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let replicas = range.replicas.iter().map(|at| [at.node.get(), u64::from(at.core.get())]);
    serde_json::json!({
        "group": range.group.get(),
        "epoch": range.epoch.get(),
        "start": hex(&range.start),
        "end": range.end.as_ref().map(hex),
        "replicas": replicas.collect::<Vec<_>>(),
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use oarlock_store::Reply;
    use oarlock_types::{CoreId, NodeId};

    use super::*;

    fn keeper(ranges: u32) -> MapKeeper {
        let points: Vec<Bytes> =
            crate::config::split_points(ranges).into_iter().map(Bytes::from).collect();
        let map = RangeMap::formation(&[(NodeId(1), 2)], &points, 1).unwrap();
        MapKeeper::new(&map, CoreAddr::new(NodeId(1), CoreId(0)))
    }

    #[test]
    fn the_version_is_written_last_and_only_after_all_ranges() {
        let mut keeper = keeper(300);
        assert_eq!(keeper.next_request(false), None, "only the leader writes");
        let mut writes = Vec::new();
        while let Some(request) = keeper.next_request(true) {
            assert_eq!(keeper.next_request(true), None, "one at a time");
            keeper.outcome(&Ok(if request.is_read() { Reply::Nil } else { Reply::Int(1) }));
            writes.push(request);
        }
        let sizes: Vec<usize> = writes.iter().map(|request| request.commands.len()).collect();
        assert_eq!(sizes, [1, 256, 44, 1]);
        assert_eq!(writes[3].commands[0], {
            let value = Bytes::from_static(b"1");
            Command::SetNx { key: version_key(), value }
        });
    }

    #[test]
    fn a_map_that_is_there_is_left_alone() {
        let mut keeper = keeper(3);
        assert!(keeper.next_request(true).is_some());
        keeper.outcome(&Ok(Reply::Bulk(Bytes::from_static(b"1"))));
        assert_eq!(keeper.next_request(true), None);
    }

    #[test]
    fn what_failed_is_tried_again() {
        let mut keeper = keeper(3);
        let first = keeper.next_request(true);
        keeper.outcome(&Err(oarlock_codec::Refusal::NoQuorum));
        assert_eq!(keeper.next_request(true), first);
    }

    #[test]
    fn a_core_without_the_meta_group_has_nothing_to_write() {
        let points: Vec<Bytes> = Vec::new();
        let map = RangeMap::formation(&[(NodeId(1), 2)], &points, 1).unwrap();
        let mut keeper = MapKeeper::new(&map, CoreAddr::new(NodeId(1), CoreId(1)));
        assert_eq!(keeper.next_request(true), None);
    }
}
