//! Which range a request is for, by the keys that it names. Pure.

use bytes::Bytes;
use oarlock_store::{Command, Request};
use oarlock_types::RangeMap;
use oarlock_types::range_map::Range;

/// What a map says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'m> {
    /// All that it names is in this range.
    In(Range<'m>),
    /// The range of its first key is not known.
    Unknown,
    /// What it names is not in one range.
    Apart,
}

/// Where a request belongs; `None` if it names no key.
#[must_use]
pub fn locate<'m>(map: &'m RangeMap, request: &Request) -> Option<Place<'m>> {
    let mut first = None;
    let mut is_apart = false;
    let mut visit = |key: &Bytes| match first {
        None => first = Some(map.find(key)),
        Some(Some(range)) => is_apart |= !Range::contains(&range, key),
        Some(None) => {}
    };
    request.watches.iter().for_each(|watch| visit(&watch.key));
    for command in &request.commands {
        if let Command::Scan { start, .. } = command {
            visit(start);
        }
        command.keys().iter().for_each(&mut visit);
    }
    let Some(range) = first? else { return Some(Place::Unknown) };
    let reaches_out = |command: &Command| {
        let Command::Scan { end, .. } = command else { return false };
        range.end.is_some_and(|last| end.as_ref().is_none_or(|end| last < end.as_ref()))
    };
    is_apart |= request.commands.iter().any(reaches_out);
    Some(if is_apart { Place::Apart } else { Place::In(range) })
}

#[cfg(test)]
mod tests {
    use oarlock_store::Watch;
    use oarlock_types::{CoreAddr, CoreId, GroupId, Index, NodeId, RangeDescriptor, RangeEpoch};

    use super::*;

    /// Ranges before `h` (1) and from `p` on (3); nobody knows what is between.
    fn map() -> RangeMap {
        let key = |key: &'static str| Bytes::from_static(key.as_bytes());
        let range = |group, start, end: Option<&'static str>| RangeDescriptor {
            group: GroupId(group),
            epoch: RangeEpoch(2),
            configured: Index(0),
            start: key(start),
            end: end.map(key),
            replicas: vec![CoreAddr::new(NodeId(1), CoreId(0))],
        };
        let mut map = RangeMap::default();
        map.apply(2, &[range(1, "", Some("h")), range(3, "p", None)]);
        map
    }

    fn keys(keys: &[&str]) -> Request {
        let keys = keys.iter().map(|key| Bytes::copy_from_slice(key.as_bytes())).collect();
        Request::one(Command::MGet { keys })
    }

    fn group(request: &Request) -> Option<Result<u64, &'static str>> {
        locate(&map(), request).map(|place| match place {
            Place::In(range) => Ok(range.group.get()),
            Place::Unknown => Err("unknown"),
            Place::Apart => Err("apart"),
        })
    }

    #[test]
    fn a_request_is_in_a_range_if_all_its_keys_are() {
        assert_eq!(group(&keys(&["a", "g"])), Some(Ok(1)));
        assert_eq!(group(&keys(&["z"])), Some(Ok(3)));
        assert_eq!(group(&keys(&["a", "z"])), Some(Err("apart")));
        assert_eq!(group(&keys(&["a", "k"])), Some(Err("apart")));
        assert_eq!(group(&keys(&["k", "a"])), Some(Err("unknown")));
        let watch = Watch { key: Bytes::from_static(b"z"), version: 1 };
        let watched = Request { watches: vec![watch], ..keys(&["a"]) };
        assert_eq!(group(&watched), Some(Err("apart")));
        assert_eq!(group(&Request::one(Command::Count)), None);
    }

    #[test]
    fn a_scan_is_in_a_range_if_it_ends_there() {
        let scan = |start: &'static str, end: Option<&'static str>| {
            let key = |key: &'static str| Bytes::from_static(key.as_bytes());
            let (start, end) = (key(start), end.map(key));
            let scan = Command::Scan { start, end, limit: 1, reverse: false, values: false };
            group(&Request::one(scan))
        };
        assert_eq!(scan("a", Some("h")), Some(Ok(1)));
        assert_eq!(scan("a", Some("i")), Some(Err("apart")));
        assert_eq!(scan("a", None), Some(Err("apart")));
        assert_eq!(scan("k", Some("l")), Some(Err("unknown")));
        assert_eq!(scan("q", None), Some(Ok(3)));
        assert_eq!(scan("q", Some("r")), Some(Ok(3)));
    }
}
