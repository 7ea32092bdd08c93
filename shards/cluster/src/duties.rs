//! What the operator has nodes do, as it stands in the meta group's keys: `node/<id>`. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use oarlock_placement::Duty;
use oarlock_store::{Command, Reply, Request};
use oarlock_types::NodeId;

/// The node is to be emptied.
pub const DRAINING: &[u8] = b"draining";
/// The node never comes back.
pub const REMOVED: &[u8] = b"removed";

/// What the keys of all duties begin with.
const NODES: &str = "node/";
/// The first key behind those of all nodes.
const NODES_END: Bytes = Bytes::from_static(b"node0");
/// More nodes than a cluster has.
const NODES_MAX: u32 = 10_000;

/// Where a node's duty stands; nothing there: it serves.
#[must_use]
pub fn key(node: NodeId) -> Bytes {
    format!("{NODES}{}", node.get()).into()
}

/// Reads all duties.
#[must_use]
pub fn read() -> Request {
    Request::one(all())
}

/// The command of [`read`].
#[must_use]
pub fn all() -> Command {
    let (start, end) = (Bytes::from_static(NODES.as_bytes()), Some(NODES_END));
    Command::Scan { start, end, limit: NODES_MAX, reverse: false, values: true }
}

/// What [`read`] found; what this build does not know of is passed over.
#[must_use]
pub fn found(reply: &Reply) -> BTreeMap<NodeId, Duty> {
    let Reply::Array(entries) = reply else { return BTreeMap::new() };
    let duty = |pair: &[Reply]| {
        let [Reply::Bulk(key), Reply::Bulk(value)] = pair else { return None };
        let node = std::str::from_utf8(key).ok()?.strip_prefix(NODES)?.parse().ok()?;
        let duty = match value.as_ref() {
            DRAINING => Duty::Draining,
            REMOVED => Duty::Removed,
            _ => return None,
        };
        Some((NodeId(node), duty))
    };
    entries.chunks_exact(2).filter_map(duty).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found_and_what_is_odd_passed_over() {
        let entry = |key: Bytes, value: &'static [u8]| {
            [Reply::Bulk(key), Reply::Bulk(Bytes::from_static(value))]
        };
        let entries = [
            entry(key(NodeId(7)), DRAINING),
            entry(key(NodeId(12)), REMOVED),
            entry(key(NodeId(13)), b"what a later version adds"),
            entry(Bytes::from_static(b"node/x"), DRAINING),
        ];
        let duties = [(NodeId(7), Duty::Draining), (NodeId(12), Duty::Removed)];
        assert_eq!(found(&Reply::Array(entries.concat())), BTreeMap::from(duties));
        assert_eq!(found(&Reply::Nil), BTreeMap::new());
    }
}
