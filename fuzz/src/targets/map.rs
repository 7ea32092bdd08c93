//! A node's copy of the map, and the text of a range: what lay on its disk, and what the meta group
//! holds.
//!
//! What holds: a copy is refused, or it is a whole map that is written as it was read, whichever key it is
//! asked for; one that changed on the disk is refused; memory is a few times what was read.

use bytes::Bytes;
use oarlock::disk::atomic_file::seal;
use oarlock::disk::map_copy;
use oarlock_cluster::members::Member;
use oarlock_cluster::{MapCopy, NodeEntry, range_text};
use oarlock_types::range_map::Range;
use oarlock_types::{DiskId, FeatureLevel, GroupId, NodeId, RangeEpoch, RangeMap};

use crate::memory;
use crate::source::Source;
use crate::targets::outcome;

pub(super) const WORDS: &[&[u8]] = &[
    b"oarlock map 1\n",
    b"version = ",
    b"{\"group\":0,\"epoch\":1,\"start\":\"\",\"end\":null,\"replicas\":[[1,0]]}\n",
    b"{\"group\":1,\"epoch\":2,\"start\":\"\",\"end\":\"6d\",\"replicas\":[[1,0],[2,1]]}\n",
    b"{\"group\":2,\"epoch\":2,\"start\":\"6d\",\"end\":null,\"replicas\":[[1,0],[2,1]]}\n",
    b"{\"node\":{\"id\":4,\"peer_address\":\"10.0.0.4:1\",\"client_address\":\"10.0.0.4:2\",\"cores\":2},\"disk\":\"0000000000000000000000000000000c\"}\n",
    b"\"end\":null",
    b"\"end\":\"ff\"",
    b"\"start\":\"\"",
    b"[1,0],",
    b"[18446744073709551615,65535]",
    b"[[[[",
    b"-1",
    b"1e9",
    b"\\u0036",
    b"\n",
];

/// A parsed text is at most so many times as long as the text, while it grows.
const TEXT_FACTOR: usize = 64;

pub(super) fn run(input: &[u8]) -> u64 {
    let mut source = Source::new(input);
    match source.byte() % 4 {
        0 => outcome(&copy(source.rest()).map(|copy| copy.map.len())),
        1 => sealed(source),
        2 => damaged(source),
        _ => line(source.rest()),
    }
}

/// Reads a copy; what it says is written and read again.
fn copy(bytes: &[u8]) -> Option<MapCopy> {
    // A file that is no text is refused before it is read.
    let text = std::str::from_utf8(bytes).ok()?;
    let copy = memory::bounded(bytes.len() * TEXT_FACTOR, || map_copy::parse(text).ok())?;
    let map = &copy.map;
    assert!(map.is_whole(), "a key has no range");
    for range in map.ranges() {
        assert_eq!(map.find(range.start), Some(range), "another range has its first key");
        assert_eq!(map.group(range.group), Some(range), "another range has its group");
    }
    let ids = copy.members.windows(2).map(|pair| (pair[0].entry.id, pair[1].entry.id));
    assert!(ids.into_iter().all(|(one, next)| one < next), "nodes are found by their ids");
    let again = map_copy::text(&copy);
    let read = map_copy::parse(&again).expect("what was written can be read");
    assert_eq!(read.map.version(), map.version());
    assert_eq!(map_copy::text(&read), again, "it is not read as it is written");
    Some(copy)
}

/// Any lines behind a right checksum: what a bug would write. The first two may be right ones.
fn sealed(mut source: Source<'_>) -> u64 {
    let mut body = if source.byte().is_multiple_of(4) {
        String::new()
    } else {
        format!("oarlock map 1\nversion = {}\n", source.short())
    };
    body.push_str(&String::from_utf8_lossy(source.rest()));
    outcome(&copy(seal(&body).as_bytes()).map(|copy| copy.map.len()))
}

/// A sound copy that changed on the disk.
fn damaged(mut source: Source<'_>) -> u64 {
    let map = sample(&mut source);
    let members = (4..4 + u64::from(source.byte() % 3)).map(member).collect();
    let level = FeatureLevel(1 + u16::from(source.byte() % 3));
    let sound = map_copy::text(&MapCopy { map: map.clone(), members, level });
    let mut bytes = sound.clone().into_bytes();
    source.damage(&mut bytes);
    let read = copy(&bytes);
    assert_eq!(read.is_some(), bytes == sound.as_bytes(), "{}", bytes.escape_ascii());
    outcome(&(map.len(), read.is_some()))
}

fn member(id: u64) -> Member {
    let entry = NodeEntry {
        id: NodeId(id),
        peer_address: ([10, 0, 0, 1], 16379).into(),
        client_address: ([10, 0, 0, 1], 6379).into(),
        cores: 2,
        core_ports: Vec::new(),
        zone: String::new(),
    };
    Member { entry, disk: DiskId(u128::from(id)) }
}

/// A map after some splits.
fn sample(source: &mut Source<'_>) -> RangeMap {
    let nodes = [1, 2, 3].map(|node| (NodeId(node), 1 + u16::from(source.byte() % 3)));
    let mut points: Vec<Bytes> = (0..source.byte() % 8)
        .map(|_| Bytes::copy_from_slice(&source.long().to_be_bytes()))
        .collect();
    points.sort();
    points.dedup();
    let mut map = RangeMap::formation(&nodes, &points, 3).expect("the points ascend");
    for number in 0..u64::from(source.byte() % 4) {
        let at = Bytes::copy_from_slice(&source.short().to_be_bytes());
        let whole = map.find(&at).map(|range: Range<'_>| range.to_descriptor());
        let Some(mut left) = whole.filter(|range| range.start < at) else { continue };
        left.epoch = RangeEpoch(left.epoch.get() + 1);
        let mut right = left.clone();
        right.group = GroupId(100 + number);
        (left.end, right.start) = (Some(at.clone()), at);
        map.apply(map.version() + 1, &[left, right]);
    }
    map
}

/// A range's text, as it stands in the meta group.
fn line(bytes: &[u8]) -> u64 {
    let read = memory::bounded(bytes.len() * TEXT_FACTOR, || range_text::read(bytes));
    let Some(range) = read else { return 1 };
    let again = range_text::write(&range.as_range());
    let twice = range_text::read(again.as_bytes());
    assert_eq!(twice.as_ref(), Some(&range), "it is not read as it is written");
    outcome(&(range.start.len(), range.end.is_some(), range.replicas.len()))
}
