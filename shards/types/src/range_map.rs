//! Which range owns a key, and where its replicas live. Every node keeps a copy; the meta group
//! holds the original.
//!
//! What is known of a range is a [`RangeDescriptor`] of an epoch. Whatever changes hands gets a higher
//! epoch than it had: both halves of a split have one more than their parent, what a merge makes one
//! more than the higher of its halves, a range whose replicas move one more than before. So of two
//! different descriptors that cover a key one is newer, and a map is made of what was heard in any
//! order: for each key the newest descriptor counts; a descriptor of which any key has a newer one is
//! gone as a whole; keys for which only such are known are a **hole** until the range that owns them
//! is heard of.
//!
//! A map is a sorted row of packed chunks (`chunk`), each of which maps share: a clone costs a
//! pointer for each, and a change packs those anew that it touches.

mod chunk;
mod groups;
mod keys;

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};

use crate::{CoreAddr, CoreId, GroupId, Index, NodeId, RangeBounds, RangeEpoch};
use chunk::{Chunk, Owner, Piece};
use groups::Groups;
use keys::Keys;

/// Parts of a map that maps share, on whatever core they are.
#[allow(clippy::disallowed_types, reason = "what is shared never changes: it is only replaced")]
type Shared<T> = std::sync::Arc<T>;

/// A range as the map knows it.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct RangeDescriptor {
    /// The group that owns it.
    pub group: GroupId,
    /// Raised by every change of bounds.
    pub epoch: RangeEpoch,
    /// Where its group's log says who its members are: of two descriptors of one epoch the one with the
    /// higher index is the newer.
    pub configured: Index,
    /// The first key.
    pub start: Bytes,
    /// The first key behind it; `None` for the last range.
    pub end: Option<Bytes>,
    /// Where its replicas are. The first is the one that should lead when the cluster is formed.
    pub replicas: Vec<CoreAddr>,
}

/// The first keys of all of `ranges` ranges but the first, evenly over the first two bytes; over three, if there
/// are more than 65,536. At most 2^24 ranges can be told apart so; more are taken as that many.
#[must_use]
pub fn split_points(ranges: u32) -> Vec<Vec<u8>> {
    let ranges = ranges.min(1 << 24);
    let bytes = if ranges <= 1 << 16 { 2 } else { 3 };
    let point = |i: u32| {
        let place = (u64::from(i) << (8 * bytes)) / u64::from(ranges);
        place.to_be_bytes()[8 - bytes..].to_vec()
    };
    (1..ranges).map(point).collect()
}

impl RangeDescriptor {
    /// The descriptor of a range with these bounds and replicas.
    #[must_use]
    pub fn of_bounds(
        group: GroupId,
        bounds: RangeBounds,
        configured: Index,
        replicas: Vec<CoreAddr>,
    ) -> Self {
        let RangeBounds { epoch, start, end } = bounds;
        Self { group, epoch, configured, start, end, replicas }
    }

    /// The core of a node that has the replica, if that node has one.
    #[must_use]
    pub fn core_on(&self, node: NodeId) -> Option<CoreId> {
        core_on(&self.replicas, node)
    }

    /// What a map that has it shows of it.
    #[must_use]
    pub fn as_range(&self) -> Range<'_> {
        Range {
            group: self.group,
            epoch: self.epoch,
            configured: self.configured,
            start: &self.start,
            end: self.end.as_deref(),
            replicas: &self.replicas,
        }
    }

    fn piece(&self) -> Piece<'_> {
        let Self { group, epoch, configured, .. } = *self;
        Piece { start: &self.start, group, epoch, configured, replicas: &self.replicas }
    }

    fn version(&self) -> (RangeEpoch, Index) {
        (self.epoch, self.configured)
    }
}

/// A range in a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range<'a> {
    /// The group that owns it.
    pub group: GroupId,
    /// Raised by every change of bounds.
    pub epoch: RangeEpoch,
    /// Where its group's log says who its members are.
    pub configured: Index,
    /// The first key.
    pub start: &'a [u8],
    /// The first key behind it; `None` for the last range.
    pub end: Option<&'a [u8]>,
    /// Where its replicas are.
    pub replicas: &'a [CoreAddr],
}

impl Range<'_> {
    /// Its keys.
    #[must_use]
    pub fn bounds(&self) -> RangeBounds {
        let (start, end) =
            (Bytes::copy_from_slice(self.start), self.end.map(Bytes::copy_from_slice));
        RangeBounds { epoch: self.epoch, start, end }
    }

    /// The core of a node that has the replica, if that node has one.
    #[must_use]
    pub fn core_on(&self, node: NodeId) -> Option<CoreId> {
        core_on(self.replicas, node)
    }

    /// Whether a key is its own.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start <= key && self.end.is_none_or(|end| key < end)
    }

    /// A descriptor of its own.
    #[must_use]
    pub fn to_descriptor(&self) -> RangeDescriptor {
        RangeDescriptor {
            group: self.group,
            epoch: self.epoch,
            configured: self.configured,
            start: Bytes::copy_from_slice(self.start),
            end: self.end.map(Bytes::copy_from_slice),
            replicas: self.replicas.to_vec(),
        }
    }
}

fn core_on(replicas: &[CoreAddr], node: NodeId) -> Option<CoreId> {
    replicas.iter().find(|replica| replica.node == node).map(|replica| replica.core)
}

/// What is known of the whole keyspace, and the meta group beside it. A clone is cheap.
#[derive(Clone, Debug, Default)]
pub struct RangeMap {
    version: u64,
    /// The first keys of the chunks behind the first one, whose first key is empty: the chunks cover all
    /// keys.
    starts: Keys,
    chunks: Vec<Shared<Chunk>>,
    groups: Groups,
    meta: Option<RangeDescriptor>,
    ranges: usize,
    holes: usize,
}

/// Why descriptors do not make a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapError {
    /// There is no range at all.
    Empty,
    /// The first range does not start at the empty key, or the last one has an end.
    Uncovered,
    /// Two neighbours do not meet at one key.
    Seam(GroupId, GroupId),
    /// A group stands twice.
    Twice(GroupId),
}

impl RangeMap {
    /// A map of these ranges, which must cover the keyspace once.
    ///
    /// # Errors
    /// Says which ranges do not fit.
    pub fn new(
        version: u64,
        mut ranges: Vec<RangeDescriptor>,
        meta: RangeDescriptor,
    ) -> Result<Self, MapError> {
        ranges.sort_by(|a, b| a.start.cmp(&b.start));
        let (first, last) = match (ranges.first(), ranges.last()) {
            (Some(first), Some(last)) => (first, last),
            (None, _) | (_, None) => return Err(MapError::Empty),
        };
        if !first.start.is_empty() || last.end.is_some() {
            return Err(MapError::Uncovered);
        }
        for pair in ranges.windows(2) {
            if pair[0].end.as_ref() != Some(&pair[1].start) || pair[0].start >= pair[1].start {
                return Err(MapError::Seam(pair[0].group, pair[1].group));
            }
        }
        let mut groups = Groups::default();
        for range in &ranges {
            if range.group == meta.group || groups.start(range.group).is_some() {
                return Err(MapError::Twice(range.group));
            }
            groups.set(range.group, Some(&range.start));
        }
        let pieces: Vec<Piece<'_>> = ranges.iter().map(RangeDescriptor::piece).collect();
        let mut map = Self { version, groups, meta: Some(meta), ..Self::default() };
        map.chunks = Chunk::pack(&pieces, None).collect();
        map.ranges = pieces.len();
        map.index_chunks();
        Ok(map)
    }

    /// The map of a cluster at its formation: `split_points` cut the keyspace, range *i* is group
    /// *i + 1*, replicas go round the nodes, each on the same core number of every node where it
    /// has that many, and first leaders go round them too.
    ///
    /// # Errors
    /// The split points are not strictly ascending.
    ///
    /// # Panics
    /// If there is no node, or one without cores: the configuration was checked.
    pub fn formation(
        nodes: &[(NodeId, u16)],
        split_points: &[Bytes],
        replication_factor: usize,
    ) -> Result<Self, MapError> {
        assert!(!nodes.is_empty(), "a cluster has nodes");
        let cores_max = nodes.iter().map(|(_, cores)| usize::from(*cores)).max().unwrap_or(1);
        let factor = replication_factor.min(nodes.len());
        let place = |first: usize, core: usize, copies: usize| {
            let at = |copy: usize| {
                let (node, cores) = nodes[(first + copy) % nodes.len()];
                let core = core % usize::from(cores);
                CoreAddr::new(node, CoreId(u16::try_from(core).unwrap_or(0)))
            };
            (0..copies).map(at).collect::<Vec<_>>()
        };
        let describe = |number: usize| RangeDescriptor {
            group: GroupId(number as u64 + 1),
            epoch: RangeEpoch(1),
            configured: Index(0),
            start: if number == 0 { Bytes::new() } else { split_points[number - 1].clone() },
            end: split_points.get(number).cloned(),
            replicas: place(number / cores_max, number % cores_max, factor),
        };
        let ranges = (0..=split_points.len()).map(describe).collect();
        let meta = RangeDescriptor {
            group: GroupId::META,
            epoch: RangeEpoch(1),
            configured: Index(0),
            start: Bytes::new(),
            end: None,
            replicas: place(0, 0, nodes.len().min(5)),
        };
        Self::new(1, ranges, meta)
    }

    /// The version of the newest whole change that it holds.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many ranges are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges
    }

    /// Whether no range is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges == 0
    }

    /// Whether the range of every key is known.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.ranges > 0 && self.holes == 0
    }

    /// The ranges that are known, in the order of their keys.
    pub fn ranges(&self) -> impl Iterator<Item = Range<'_>> {
        let places = |at: usize| (0..self.chunks[at].owners.len()).map(move |place| (at, place));
        (0..self.chunks.len()).flat_map(places).filter_map(|(at, place)| self.range(at, place))
    }

    /// The range that owns a key; `None` while it is not known.
    #[must_use]
    pub fn find(&self, key: &[u8]) -> Option<Range<'_>> {
        let at = self.chunk_of(key)?;
        self.range(at, self.chunks[at].starts.at_or_before(key))
    }

    /// The group that owns a key, and its range's epoch: all of [`RangeMap::find`] that most need.
    #[must_use]
    pub fn owner(&self, key: &[u8]) -> Option<(GroupId, RangeEpoch)> {
        let chunk = &self.chunks[self.chunk_of(key)?];
        let owner = chunk.owners[chunk.starts.at_or_before(key)];
        (!owner.is_hole()).then_some((owner.group, owner.epoch))
    }

    /// The bounds of the range, or of the hole, in which a key lies.
    #[must_use]
    pub fn bounds(&self, key: &[u8]) -> (&[u8], Option<&[u8]>) {
        let at = self.chunk_of(key);
        at.map_or((&[], None), |at| self.bounds_at(at, self.chunks[at].starts.at_or_before(key)))
    }

    /// Those in which the last key before `end` lies (the last key of all, if there is no end).
    #[must_use]
    pub fn bounds_before(&self, end: Option<&[u8]>) -> (&[u8], Option<&[u8]>) {
        let last = self.chunks.len().checked_sub(1);
        let Some(at) = end.map_or(last, |end| self.chunk_before(end)) else { return (&[], None) };
        let chunk = &self.chunks[at];
        self.bounds_at(at, end.map_or(chunk.owners.len() - 1, |end| chunk.starts.before(end)))
    }

    /// The newest epoch that was heard of for a key: of its range, or of what made the hole.
    #[must_use]
    pub fn epoch(&self, key: &[u8]) -> RangeEpoch {
        let Some(at) = self.chunk_of(key) else { return RangeEpoch(0) };
        let chunk = &self.chunks[at];
        chunk.owners[chunk.starts.at_or_before(key)].epoch
    }

    /// The range, or the meta group, of that id.
    #[must_use]
    pub fn group(&self, group: GroupId) -> Option<Range<'_>> {
        if group == GroupId::META {
            return self.meta.as_ref().map(RangeDescriptor::as_range);
        }
        self.find(self.groups.start(group)?)
    }

    /// The groups that have a replica on any core of a node, the meta group included.
    pub fn groups_of(&self, node: NodeId) -> impl Iterator<Item = Range<'_>> {
        let all = self.meta.iter().map(RangeDescriptor::as_range).chain(self.ranges());
        all.filter(move |range| range.core_on(node).is_some())
    }

    /// Takes a whole change: ranges that are new or have a higher epoch, with the version that the
    /// change has made.
    pub fn apply(&mut self, version: u64, changed: &[RangeDescriptor]) {
        for range in changed {
            self.learn(range);
        }
        self.version = self.version.max(version);
    }

    /// Takes a single range's word of itself; whether anything was new. Old news and what is no range
    /// (it ends before it starts, or nobody has it) change nothing.
    pub fn learn(&mut self, new: &RangeDescriptor) -> bool {
        let is_range = new.end.as_ref().is_none_or(|end| new.start < *end);
        if !is_range || new.replicas.is_empty() {
            return false;
        }
        if new.group == GroupId::META {
            let is_newer = self.meta.as_ref().is_none_or(|meta| meta.version() < new.version());
            if is_newer {
                self.meta = Some(new.clone());
            }
            return is_newer;
        }
        if self.chunks.is_empty() {
            let nothing = [Piece::hole(&[], RangeEpoch(0))];
            self.chunks = Chunk::pack(&nothing, None).collect();
            self.holes = 1;
            self.index_chunks();
        }
        if let Some(known) = self.group(new.group).filter(|known| known.epoch == new.epoch) {
            return known.configured < new.configured && self.change_replicas(new);
        }
        // The descriptors of a group all begin at one key; should one not, the newest counts alone.
        let elsewhere = self.group(new.group).filter(|known| known.start != new.start);
        match elsewhere.map(|known| known.to_descriptor()) {
            Some(known) if known.epoch >= new.epoch => self.lay(new, false),
            Some(known) => {
                self.void(&known);
                self.lay(new, true);
                true
            }
            None => self.lay(new, true),
        }
    }

    /// What it takes in memory, were it alone.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        // Each chunk stands beside its counts.
        let chunks = self.chunks.iter().map(|chunk| chunk.memory_bytes() + 16);
        size_of::<Self>()
            + self.starts.memory_bytes()
            + self.chunks.capacity() * size_of::<Shared<Chunk>>()
            + chunks.sum::<usize>()
            + self.groups.memory_bytes()
    }

    fn index_chunks(&mut self) {
        let starts: Vec<&[u8]> = self.chunks.iter().skip(1).map(|chunk| chunk.start()).collect();
        self.starts = Keys::new(starts.iter().copied(), starts.last().copied());
    }

    fn chunk_of(&self, key: &[u8]) -> Option<usize> {
        let last = self.chunks.len().checked_sub(1)?;
        Some(if last == 0 || key < self.starts.get(0) {
            0
        } else if key >= self.starts.get(last - 1) {
            last
        } else {
            self.starts.at_or_before(key) + 1
        })
    }

    /// The chunk of the last key before one; the first if there is none.
    fn chunk_before(&self, key: &[u8]) -> Option<usize> {
        let at = self.chunk_of(key)?;
        Some(if self.chunks[at].start() == key { at.saturating_sub(1) } else { at })
    }

    fn range(&self, at: usize, place: usize) -> Option<Range<'_>> {
        let owner = self.chunks[at].owners[place];
        let (start, end) = self.bounds_at(at, place);
        let Owner { group, epoch, configured, .. } = owner;
        let replicas = self.chunks[at].replicas(place);
        (!owner.is_hole()).then_some(Range { group, epoch, configured, start, end, replicas })
    }

    fn bounds_at(&self, at: usize, place: usize) -> (&[u8], Option<&[u8]>) {
        let chunk = &self.chunks[at];
        let is_last = place + 1 == chunk.owners.len();
        let end = if is_last {
            (at + 1 < self.chunks.len()).then(|| self.starts.get(at))
        } else {
            Some(chunk.starts.get(place + 1))
        };
        (chunk.starts.get(place), end)
    }

    /// Gives a range that is known other replicas.
    fn change_replicas(&mut self, new: &RangeDescriptor) -> bool {
        let Some(at) = self.group(new.group).and_then(|known| self.chunk_of(known.start)) else {
            return false;
        };
        let chunk = Shared::clone(&self.chunks[at]);
        let changed = |piece: Piece<'_>| piece.group == new.group;
        let (configured, replicas) = (new.configured, new.replicas.as_slice());
        let pieces = chunk.pieces();
        let pieces: Vec<Piece<'_>> = pieces
            .map(|p| if changed(p) { Piece { configured, replicas, ..p } } else { p })
            .collect();
        self.replace(at..at + 1, &pieces);
        true
    }

    /// Makes a hole of a range that is known.
    fn void(&mut self, known: &RangeDescriptor) {
        let Some(at) = self.chunk_of(&known.start) else { return };
        let chunk = Shared::clone(&self.chunks[at]);
        let hollow = |piece: Piece<'_>| piece.group == known.group;
        let pieces: Vec<Piece<'_>> = chunk
            .pieces()
            .map(|p| if hollow(p) { Piece::hole(p.start, p.epoch) } else { p })
            .collect();
        self.replace(at..at + 1, &pieces);
        self.groups.set(known.group, None);
    }

    /// Lays a descriptor over what is known. It counts as a range only if it `may_live` and no key of it
    /// has a newer one; else it is only known that older ones are gone.
    fn lay(&mut self, new: &RangeDescriptor, may_live: bool) -> bool {
        let end = new.end.as_deref();
        let Some(first) = self.chunk_of(&new.start) else { return false };
        let last = end.and_then(|end| self.chunk_before(end)).unwrap_or(self.chunks.len() - 1);
        let chunks: Vec<Shared<Chunk>> = self.chunks[first..=last].to_vec();
        let old: Vec<Piece<'_>> = chunks.iter().flat_map(|chunk| chunk.pieces()).collect();
        let behind = self.chunks.get(last + 1).map(Shared::clone);
        let ends = old.iter().skip(1).map(|piece| Some(piece.start));
        let ends = ends.chain([behind.as_ref().map(|chunk| chunk.start())]);
        let overlaps = |piece: &Piece<'_>, piece_end: Option<&[u8]>| {
            end.is_none_or(|end| piece.start < end)
                && piece_end.is_none_or(|end| new.start.as_ref() < end)
        };
        let overlapped = || old.iter().zip(ends.clone()).filter(|(piece, e)| overlaps(piece, *e));
        if overlapped().all(|(piece, _)| piece.epoch >= new.epoch) {
            return false;
        }
        let lives = may_live && overlapped().all(|(piece, _)| piece.epoch < new.epoch);
        let mut pieces: Vec<Piece<'_>> = Vec::with_capacity(old.len() + 2);
        let mut gone = Vec::new();
        for (piece, piece_end) in old.iter().zip(ends.clone()) {
            if !overlaps(piece, piece_end) || piece.epoch >= new.epoch {
                pieces.push(*piece);
                continue;
            }
            if !piece.is_hole() {
                gone.push(piece.group);
            }
            if piece.start < new.start.as_ref() {
                pieces.push(Piece::hole(piece.start, piece.epoch));
            }
            let start = piece.start.max(new.start.as_ref());
            if !lives {
                pieces.push(Piece::hole(start, new.epoch));
            } else if start == new.start.as_ref() {
                pieces.push(new.piece());
            }
            if let Some(end) = end
                && piece_end.is_none_or(|piece_end| end < piece_end)
            {
                pieces.push(Piece::hole(end, piece.epoch));
            }
        }
        self.replace(first..last + 1, &pieces);
        for group in gone {
            self.groups.set(group, None);
        }
        if lives {
            self.groups.set(new.group, Some(&new.start));
        }
        true
    }

    /// Puts pieces into the place of chunks that cover the same keys.
    fn replace(&mut self, at: std::ops::Range<usize>, pieces: &[Piece<'_>]) {
        let known = |chunks: &[Shared<Chunk>]| {
            let owners = chunks.iter().flat_map(|chunk| &chunk.owners);
            owners.fold((0, 0), |(ranges, holes), owner| {
                if owner.is_hole() { (ranges, holes + 1) } else { (ranges + 1, holes) }
            })
        };
        let before = known(&self.chunks[at.clone()]);
        let behind = self.chunks.get(at.end).map(Shared::clone);
        let end = behind.as_ref().map(|chunk| chunk.start());
        let chunks: Vec<Shared<Chunk>> = Chunk::pack(pieces, end).collect();
        let after = known(&chunks);
        self.ranges = self.ranges + after.0 - before.0;
        self.holes = self.holes + after.1 - before.1;
        // One chunk in the place of one begins where that one did.
        let is_same_row = at.len() == 1 && chunks.len() == 1;
        self.chunks.splice(at, chunks);
        if !is_same_row {
            self.index_chunks();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One boundary after each `256 / ranges` first bytes.
    fn even_split_points(ranges: u16) -> Vec<Bytes> {
        (1..ranges).map(|i| Bytes::from(vec![u8::try_from(i * 256 / ranges).unwrap()])).collect()
    }

    fn three() -> Vec<(NodeId, u16)> {
        (1..=3).map(|n| (NodeId(n), 2)).collect()
    }

    #[test]
    fn every_key_has_one_range() {
        let map = RangeMap::formation(&three(), &even_split_points(64), 3).unwrap();
        assert_eq!(map.len(), 64);
        for key in [&b""[..], b"\0", b"a", b"\x04\0", b"\x03\xff\xff", b"\xff\xff\xff"] {
            let range = map.find(key).unwrap();
            assert!(range.contains(key));
            assert_eq!(map.group(range.group), Some(range));
        }
    }

    #[test]
    fn replicas_share_a_core_number_and_first_leaders_go_round() {
        let map = RangeMap::formation(&three(), &even_split_points(12), 3).unwrap();
        let mut firsts = std::collections::BTreeMap::<CoreAddr, u32>::new();
        for range in map.ranges() {
            assert_eq!(range.replicas.len(), 3);
            assert!(range.replicas.iter().all(|r| r.core == range.replicas[0].core));
            *firsts.entry(range.replicas[0]).or_default() += 1;
        }
        assert_eq!(firsts.len(), 6);
        assert!(firsts.values().all(|count| *count == 2));
    }

    #[test]
    fn more_nodes_than_copies_share_the_ranges() {
        let nodes: Vec<_> = (1..=5).map(|n| (NodeId(n), 1)).collect();
        let map = RangeMap::formation(&nodes, &even_split_points(10), 3).unwrap();
        for (node, _) in nodes {
            let held = map.groups_of(node).count();
            assert_eq!(held, 7, "six of thirty replicas and the meta group");
        }
    }

    #[test]
    fn a_gap_is_refused() {
        let map = RangeMap::formation(&three(), &even_split_points(3), 3).unwrap();
        let meta = map.group(GroupId::META).unwrap().to_descriptor();
        let mut ranges: Vec<_> = map.ranges().map(|range| range.to_descriptor()).collect();
        ranges.remove(1);
        assert_eq!(
            RangeMap::new(2, ranges, meta).unwrap_err(),
            MapError::Seam(GroupId(1), GroupId(3))
        );
    }
}
