//! How many bytes of replicas each node has room for, as it stands in the meta group's keys: `capacity/<node>`.
//! Each node writes its own when it has started. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use oarlock_store::{Command, Expiry, Reply, Request, SetCondition};
use oarlock_types::NodeId;

/// What the keys of all capacities begin with.
const CAPACITIES: &str = "capacity/";
/// The first key behind those of all nodes.
const CAPACITIES_END: Bytes = Bytes::from_static(b"capacity0");
/// More nodes than a cluster has.
const NODES_MAX: u32 = 10_000;
/// What a node counts with while none has told: only what they have in parts of each other matters.
const UNTOLD_BYTES: u64 = 1 << 50;

/// Writes down how much room a node has.
#[must_use]
pub fn write(node: NodeId, bytes: u64) -> Request {
    Request::one(Command::Set {
        key: format!("{CAPACITIES}{}", node.get()).into(),
        value: bytes.to_string().into(),
        condition: SetCondition::Always,
        expiry: Expiry::None,
        get: false,
    })
}

/// Reads all.
#[must_use]
pub fn all() -> Command {
    let (start, end) = (Bytes::from_static(CAPACITIES.as_bytes()), Some(CAPACITIES_END));
    Command::Scan { start, end, limit: NODES_MAX, reverse: false, values: true }
}

/// What [`all`] found; what this build does not know of is passed over.
#[must_use]
pub fn found(reply: &Reply) -> BTreeMap<NodeId, u64> {
    let Reply::Array(entries) = reply else { return BTreeMap::new() };
    let capacity = |pair: &[Reply]| {
        let [Reply::Bulk(key), Reply::Bulk(value)] = pair else { return None };
        read(key, value)
    };
    entries.chunks_exact(2).filter_map(capacity).collect()
}

/// The node and its capacity that a key and its value stand for.
#[must_use]
pub fn read(key: &[u8], value: &[u8]) -> Option<(NodeId, u64)> {
    let node = std::str::from_utf8(key).ok()?.strip_prefix(CAPACITIES)?.parse().ok()?;
    Some((NodeId(node), std::str::from_utf8(value).ok()?.parse().ok()?))
}

/// What a node counts with. One that has not told, as of an older build, is like the mean of the others: it
/// must neither draw all replicas nor be emptied.
#[must_use]
pub fn of(known: &BTreeMap<NodeId, u64>, node: NodeId) -> u64 {
    let mean = || {
        let sum: u128 = known.values().map(|bytes| u128::from(*bytes)).sum();
        sum.checked_div(known.len() as u128).map_or(UNTOLD_BYTES, |mean| {
            u64::try_from(mean).expect("invariant: a mean is no larger than the largest")
        })
    };
    known.get(&node).copied().unwrap_or_else(mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found_and_what_is_odd_passed_over() {
        let entry = |request: Request| match request.commands.as_slice() {
            [Command::Set { key, value, .. }] => {
                [Reply::Bulk(key.clone()), Reply::Bulk(value.clone())]
            }
            other => panic!("{other:?}"),
        };
        let odd = |key: &'static [u8], value: &'static [u8]| {
            [key, value].map(|text| Reply::Bulk(Bytes::from_static(text)))
        };
        let entries = [
            entry(write(NodeId(7), 1 << 40)),
            entry(write(NodeId(12), u64::MAX)),
            odd(b"capacity/3", b"what a later version adds"),
            odd(b"capacity/x", b"5"),
        ];
        assert_eq!(entries[0], odd(b"capacity/7", b"1099511627776"));
        let known = BTreeMap::from([(NodeId(7), 1 << 40), (NodeId(12), u64::MAX)]);
        assert_eq!(found(&Reply::Array(entries.concat())), known);
        assert_eq!(found(&Reply::Nil), BTreeMap::new());
    }

    #[test]
    fn who_has_not_told_is_like_the_others() {
        let known = BTreeMap::from([(NodeId(1), 10), (NodeId(2), 20)]);
        assert_eq!([1, 2, 3].map(|node| of(&known, NodeId(node))), [10, 20, 15]);
        let all_alike = BTreeMap::new();
        assert_eq!(of(&all_alike, NodeId(1)), of(&all_alike, NodeId(2)));
        assert!(of(&all_alike, NodeId(1)) > 0);
        let huge = BTreeMap::from([(NodeId(1), u64::MAX), (NodeId(2), u64::MAX)]);
        assert_eq!(of(&huge, NodeId(3)), u64::MAX);
    }
}
