//! How the map stands in the meta group's keys, and the requests that read and write it there. Pure.
//!
//! - `range/<group>`: each range's descriptor.
//! - `member/<node>`: each node that has joined since the cluster was formed.
//! - `map/level`: the cluster's feature level, if it is not the first.
//! - `map/version`: the map's version. Every change raises it by one; where it stands, the whole map does.
//! - `map/groups`: the largest id that any group was given, once ranges have been cut.
//! - `map/change/<version>`: the descriptors, nodes and level that the change to that version wrote, a line
//!   each; those of the newest [`CHANGES_KEPT`] versions.

use bytes::Bytes;
use oarlock_store::{Command, Reply, Request, Watch};
use oarlock_types::range_map::Range;
use oarlock_types::{FeatureLevel, GroupId, NodeId, RangeDescriptor, RangeMap};

use crate::levels;
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
const LEVEL: Bytes = Bytes::from_static(b"map/level");
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

fn level_pair(level: Option<FeatureLevel>) -> Option<(Bytes, Bytes)> {
    level.map(|level| (LEVEL, levels::write(level).into()))
}

fn change_key(version: u64) -> Bytes {
    Bytes::from(format!("map/change/{version}"))
}

/// Writes a whole map where none is: all its ranges, then its version. Each request is made when it is to be sent:
/// every node that may have to write a map would else hold all of its text.
#[derive(Debug)]
pub struct Formation {
    map: RangeMap,
    /// The first key of the next range; `None`: all are written.
    next: Option<Bytes>,
    /// There is nothing left to be written.
    is_done: bool,
}

impl Formation {
    /// Nothing of it is written yet.
    #[must_use]
    pub fn new(map: &RangeMap) -> Self {
        Self { map: map.clone(), next: Some(Bytes::new()), is_done: false }
    }

    /// The next request, as often as it is asked for.
    #[must_use]
    pub fn request(&self) -> Option<Request> {
        if self.is_done {
            return None;
        }
        let pair = |range: Range<'_>| (range_key(range.group), range_text::write(&range).into());
        let mut pairs: Vec<(Bytes, Bytes)> = self.piece().map(pair).collect();
        if pairs.is_empty() {
            pairs.push((VERSION, Bytes::from(self.map.version().to_string())));
        }
        Some(Request {
            // An absent key has version 0: a map that is there is left alone.
            watches: vec![Watch { key: VERSION, version: 0 }],
            transaction: true,
            commands: vec![Command::MSet { pairs }],
            ..Request::default()
        })
    }

    /// What it asks for is done.
    pub fn go_on(&mut self) {
        self.is_done = self.next.is_none();
        let end = self.piece().last().and_then(|range| range.end);
        self.next = end.map(Bytes::copy_from_slice);
    }

    fn piece(&self) -> impl Iterator<Item = Range<'_>> {
        let first = self.next.as_ref().and_then(|key| self.map.find(key));
        let next = |range: &Range<'_>| range.end.and_then(|key| self.map.find(key));
        std::iter::successors(first, next).take(RANGES_PER_WRITE)
    }
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

/// What stands in the meta group is of another shape than this build knows: what, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Odd(pub String);

impl Odd {
    fn shape() -> Self {
        Self("an answer of another shape".to_owned())
    }

    fn line(line: &[u8]) -> Self {
        Self(format!("`{}`", line.escape_ascii()))
    }
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
    /// The change behind them says what this build does not know.
    pub odd: Option<Odd>,
}

/// What is new in a map, or a part of all that it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Descriptors.
    pub ranges: Vec<RangeDescriptor>,
    /// Nodes that have joined.
    pub members: Vec<Member>,
    /// The cluster's feature level, if it is said.
    pub level: Option<FeatureLevel>,
}

impl News {
    /// Takes in what a line says. A line of a kind that is not known is not passed over: what it says may be
    /// what a key's range is by now.
    fn take(&mut self, line: &[u8]) -> Result<(), Odd> {
        if let Some(range) = range_text::read(line) {
            self.ranges.push(range);
        } else if let Some(member) = members::read(line) {
            self.members.push(member);
        } else {
            self.level = Some(levels::read(line).ok_or_else(|| Odd::line(line))?);
        }
        Ok(())
    }
}

/// Reads the answer to [`read_changes`].
///
/// # Errors
/// What this build does not know.
pub fn changes(reply: &Reply) -> Result<Changes, Odd> {
    let Reply::Array(replies) = reply else { return Err(Odd::shape()) };
    let [version, Reply::Int(base), Reply::Array(changes)] = replies.as_slice() else {
        return Err(Odd::shape());
    };
    let version = if let Reply::Bulk(text) = version {
        Some(number(text).ok_or_else(|| Odd::line(text))?)
    } else {
        None
    };
    let change = |reply: &Reply| {
        let Reply::Bulk(text) = reply else { return None };
        let mut news = News::default();
        let taken = text.split(|byte| *byte == b'\n').try_for_each(|line| news.take(line));
        Some(taken.map(|()| news))
    };
    let base = u64::try_from(*base).map_err(|_| Odd::shape())?;
    let mut found = Changes { version, base, changes: Vec::new(), odd: None };
    for news in changes.iter().map_while(change) {
        match news {
            Ok(news) => found.changes.push(news),
            Err(odd) => {
                found.odd = Some(odd);
                break;
            }
        }
    }
    Ok(found)
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
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
        number(text)
    });
    Some((numbers.next()??, GroupId(numbers.next()?.unwrap_or(0))))
}

/// Makes the map's version, and the largest id that was given out, what is said here, and writes these nodes
/// and the cluster's level: after a loss of the newest changes nobody must take a version for one that he has
/// read, nor an id that a group has, no node that is there may be forgotten, and the level must not fall.
#[must_use]
pub fn write_heights(
    version: u64,
    groups: GroupId,
    joined: &[Member],
    level: FeatureLevel,
) -> Request {
    let text = |number: u64| Bytes::from(number.to_string());
    let mut pairs = vec![(VERSION, text(version)), (GROUPS, text(groups.get()))];
    let member = |member: &Member| (member_key(member.entry.id), members::write(member).into());
    pairs.extend(joined.iter().map(member));
    pairs.extend(level_pair(Some(level).filter(|level| *level > FeatureLevel::FIRST)));
    Request::one(Command::MSet { pairs })
}

/// Reads level, nodes and ranges from a key on, in the order of their keys there.
#[must_use]
pub fn read_all(from: Bytes) -> Request {
    let end = Some(RANGES_END);
    let limit = RANGES_PER_READ;
    Request::one(Command::Scan { start: from, end, limit, reverse: false, values: true })
}

/// The first key that [`read_all`] is to be asked for. Keys of other kinds stand between the level, the nodes
/// and the ranges, as what the operator has nodes do.
#[must_use]
pub fn first() -> Bytes {
    LEVEL
}

/// Reads the answer to [`read_all`]: what was found, and the key to go on from, if there may be more.
///
/// # Errors
/// What this build does not know.
pub fn all(reply: &Reply) -> Result<(News, Option<Bytes>), Odd> {
    let Reply::Array(entries) = reply else { return Err(Odd::shape()) };
    let mut news = News::default();
    let mut next = None;
    for pair in entries.chunks_exact(2) {
        let [Reply::Bulk(key), Reply::Bulk(text)] = pair else { return Err(Odd::shape()) };
        next = Some(Bytes::from([key.as_ref(), b"\0"].concat()));
        if *key == LEVEL || [MEMBERS, RANGES].iter().any(|of| key.starts_with(of.as_bytes())) {
            news.take(text)?;
        }
    }
    Ok((news, next))
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
    /// The feature level to which the cluster is raised.
    pub level: Option<FeatureLevel>,
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
    let mut pairs: Vec<(Bytes, Bytes)> =
        ranges.chain(joined).chain(level_pair(change.level)).collect();
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
