//! How the map stands in the meta group's keys, and the requests that read and write it there. Pure.
//!
//! - `range/<group>`: each range's descriptor.
//! - `member/<node>`: each node that has joined since the cluster was formed.
//! - `map/version`: the map's version. Every change raises it by one; where it stands, the whole map does.
//! - `map/groups`: the largest id that any group was given, once ranges have been cut.
//! - `map/change/<version>`: the descriptors and nodes that the change to that version wrote, a line each;
//!   those of the newest [`CHANGES_KEPT`] versions.

use bytes::Bytes;
use oarlock_store::{Command, Reply, Request, Watch};
use oarlock_types::range_map::Range;
use oarlock_types::{GroupId, NodeId, RangeDescriptor, RangeMap};

use super::duties;
use crate::members::{self, Member};
use crate::range_text;

/// Changes that are kept: who is further behind reads all ranges.
pub const CHANGES_KEPT: u64 = 10_000;
/// Changes that one request reads.
const CHANGES_PER_READ: u64 = 64;
/// Ranges that one request writes at the formation: far below what an entry may hold.
const RANGES_PER_WRITE: usize = 256;
/// Ranges that one request reads.
const RANGES_PER_READ: u32 = 2048;
/// What a text of a change may take, so that an entry holds it twice.
pub const CHANGE_BYTES_MAX: usize = 512 << 10;

/// Ids that one request takes.
pub const IDS_PER_TAKE: u64 = 16;

const GROUPS: Bytes = Bytes::from_static(b"map/groups");
const VERSION: Bytes = Bytes::from_static(b"map/version");
const RANGES: &str = "range/";
const MEMBERS: &str = "member/";
/// The first key behind those of all nodes and ranges.
const RANGES_END: Bytes = Bytes::from_static(b"range0");

fn range_key(group: GroupId) -> Bytes {
    Bytes::from(format!("{RANGES}{}", group.get()))
}

fn member_key(node: NodeId) -> Bytes {
    Bytes::from(format!("{MEMBERS}{}", node.get()))
}

fn change_key(version: u64) -> Bytes {
    Bytes::from(format!("map/change/{version}"))
}

/// Writes a map where none is: all its ranges, then its version.
pub fn write_formation(map: &RangeMap) -> impl Iterator<Item = Request> {
    let pair = |range: Range<'_>| (range_key(range.group), range_text::write(&range).into());
    let pairs: Vec<(Bytes, Bytes)> = map.ranges().map(pair).collect();
    let pieces: Vec<Vec<(Bytes, Bytes)>> =
        pairs.chunks(RANGES_PER_WRITE).map(<[_]>::to_vec).collect();
    let version = vec![(VERSION, Bytes::from(map.version().to_string()))];
    pieces.into_iter().chain([version]).map(|pairs| Request {
        // An absent key has version 0: a map that is there is left alone.
        watches: vec![Watch { key: VERSION, version: 0 }],
        transaction: true,
        commands: vec![Command::MSet { pairs }],
        ..Request::default()
    })
}

/// Reads the map's version and the changes behind `after`.
#[must_use]
pub fn read_changes(after: u64) -> Request {
    let keys = (after + 1..=after.saturating_add(CHANGES_PER_READ)).map(change_key).collect();
    let commands = vec![
        Command::Get { key: VERSION },
        Command::Version { key: VERSION },
        Command::MGet { keys },
    ];
    Request { transaction: true, commands, ..Request::default() }
}

/// What [`read_changes`] found.
#[derive(Debug, PartialEq, Eq)]
pub struct Changes {
    /// The map's version; `None`: the meta group has no map yet.
    pub version: Option<u64>,
    /// What a change must watch to follow this very version.
    pub base: u64,
    /// The changes that follow each other without a gap.
    pub changes: Vec<News>,
}

/// What is new in a map, or a part of all that it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Descriptors.
    pub ranges: Vec<RangeDescriptor>,
    /// Nodes that have joined.
    pub members: Vec<Member>,
}

impl News {
    /// Takes in what a line says; `None` if it says nothing that is known.
    fn take(&mut self, line: &[u8]) -> Option<()> {
        if let Some(range) = range_text::read(line) {
            self.ranges.push(range);
        } else {
            self.members.push(members::read(line)?);
        }
        Some(())
    }
}

/// Reads the answer to [`read_changes`]; `None` if it is of another shape.
#[must_use]
pub fn changes(reply: &Reply) -> Option<Changes> {
    let Reply::Array(replies) = reply else { return None };
    let [version, Reply::Int(base), Reply::Array(changes)] = replies.as_slice() else {
        return None;
    };
    let version = if let Reply::Bulk(text) = version {
        Some(std::str::from_utf8(text).ok()?.parse().ok()?)
    } else {
        None
    };
    let change = |reply: &Reply| {
        let Reply::Bulk(text) = reply else { return None };
        let mut news = News::default();
        text.split(|byte| *byte == b'\n').try_for_each(|line| news.take(line))?;
        Some(news)
    };
    let changes = changes.iter().map_while(change).collect();
    Some(Changes { version, base: u64::try_from(*base).ok()?, changes })
}

/// Takes [`IDS_PER_TAKE`] ids for new groups. Where none were taken before they begin behind `formed`, the
/// largest that the cluster was formed with.
#[must_use]
pub fn take_ids(formed: GroupId) -> Request {
    let first = Bytes::from(formed.get().to_string());
    let delta = i64::try_from(IDS_PER_TAKE).expect("invariant: a small number");
    let commands =
        vec![Command::SetNx { key: GROUPS, value: first }, Command::IncrBy { key: GROUPS, delta }];
    Request { transaction: true, commands, ..Request::default() }
}

/// Reads the answer to [`take_ids`]; `None` if it is of another shape.
#[must_use]
pub fn ids(reply: &Reply) -> Option<impl Iterator<Item = GroupId> + use<>> {
    let Reply::Array(replies) = reply else { return None };
    let [_, Reply::Int(last)] = replies.as_slice() else { return None };
    let last = u64::try_from(*last).ok()?;
    let first = last.checked_sub(IDS_PER_TAKE)? + 1;
    Some((first..=last).map(GroupId))
}

/// Reads how far the map's versions and the groups' ids have come.
#[must_use]
pub fn read_heights() -> Request {
    let commands = vec![Command::Get { key: VERSION }, Command::Get { key: GROUPS }];
    Request { transaction: true, commands, ..Request::default() }
}

/// Reads the answer to [`read_heights`]: the map's version, and the largest id that was given out, zero where
/// none was. `None` if there is no map.
#[must_use]
pub fn heights(reply: &Reply) -> Option<(u64, GroupId)> {
    let Reply::Array(replies) = reply else { return None };
    let mut numbers = replies.iter().map(|reply| {
        let Reply::Bulk(text) = reply else { return None };
        std::str::from_utf8(text).ok()?.parse().ok()
    });
    Some((numbers.next()??, GroupId(numbers.next()?.unwrap_or(0))))
}

/// Makes the map's version, and the largest id that was given out, what is said here, and writes these nodes:
/// after a loss of the newest changes nobody must take a version for one that he has read, nor an id that a group
/// has, and no node that is there may be forgotten.
#[must_use]
pub fn write_heights(version: u64, groups: GroupId, joined: &[Member]) -> Request {
    let text = |number: u64| Bytes::from(number.to_string());
    let mut pairs = vec![(VERSION, text(version)), (GROUPS, text(groups.get()))];
    let member = |member: &Member| (member_key(member.entry.id), members::write(member).into());
    pairs.extend(joined.iter().map(member));
    Request::one(Command::MSet { pairs })
}

/// Reads nodes and ranges from a key on, in the order of their keys there.
#[must_use]
pub fn read_all(from: Bytes) -> Request {
    let end = Some(RANGES_END);
    let limit = RANGES_PER_READ;
    Request::one(Command::Scan { start: from, end, limit, reverse: false, values: true })
}

/// The first key that [`read_all`] is to be asked for. What the operator has nodes do stands between the
/// nodes and the ranges.
#[must_use]
pub fn first() -> Bytes {
    Bytes::from_static(MEMBERS.as_bytes())
}

/// Reads the answer to [`read_all`]: what was found, and the key to go on from, if there may be more.
/// `None` if it is of another shape.
#[must_use]
pub fn all(reply: &Reply) -> Option<(News, Option<Bytes>)> {
    let Reply::Array(entries) = reply else { return None };
    let mut news = News::default();
    let mut next = None;
    for pair in entries.chunks_exact(2) {
        let [Reply::Bulk(key), Reply::Bulk(text)] = pair else { return None };
        next = Some(Bytes::from([key.as_ref(), b"\0"].concat()));
        if !key.starts_with(duties::NODES.as_bytes()) && news.take(text).is_none() {
            tracing::error!("{} in the meta group is no range: passed over", key.escape_ascii());
        }
    }
    Some((news, next))
}

/// What a change writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// New descriptors.
    pub ranges: Vec<RangeDescriptor>,
    /// Groups that are no more.
    pub gone: Vec<GroupId>,
    /// Nodes that join.
    pub members: Vec<Member>,
}

/// Writes a change that makes `version` of the map, if the map is still as [`Changes::base`] says. It
/// is done as a whole, or not at all (the reply is nil). No descriptor may be longer than
/// `value_bytes_max`; a change that is as a whole is read by reading all ranges.
#[must_use]
pub fn write_change(change: &Change, version: u64, base: u64, value_bytes_max: usize) -> Request {
    let ranges = change.ranges.iter();
    let ranges = ranges.map(|at| (range_key(at.group), range_text::write(&at.as_range()).into()));
    let joined = change.members.iter();
    let joined = joined.map(|member| (member_key(member.entry.id), members::write(member).into()));
    let mut pairs: Vec<(Bytes, Bytes)> = ranges.chain(joined).collect();
    let texts: Vec<Bytes> = pairs.iter().map(|(_, text)| text.clone()).collect();
    let text = texts.join(&b'\n');
    if text.len() <= value_bytes_max {
        pairs.push((change_key(version), Bytes::from(text)));
    }
    pairs.push((VERSION, Bytes::from(version.to_string())));
    let old = version.checked_sub(CHANGES_KEPT).map(change_key);
    let keys = change.gone.iter().map(|group| range_key(*group)).chain(old).collect();
    Request {
        watches: vec![Watch { key: VERSION, version: base }],
        transaction: true,
        commands: vec![Command::MSet { pairs }, Command::Del { keys }],
        ..Request::default()
    }
}

/// About what a descriptor takes in a change.
#[must_use]
pub fn size_bytes(range: &RangeDescriptor) -> usize {
    let keys = range.start.len() + range.end.as_ref().map_or(0, Bytes::len);
    80 + 2 * keys + 24 * range.replicas.len()
}
