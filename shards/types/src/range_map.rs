//! Which range owns a key, and where its replicas live. Every node keeps a copy; the meta group
//! holds the original.

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};

use crate::{CoreAddr, CoreId, FastMap, GroupId, NodeId, RangeBounds, RangeEpoch};

/// A range as the map knows it.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct RangeDescriptor {
    /// The group that owns it.
    pub group: GroupId,
    /// Raised by every change of bounds or replicas.
    pub epoch: RangeEpoch,
    /// The first key.
    pub start: Bytes,
    /// The first key behind it; `None` for the last range.
    pub end: Option<Bytes>,
    /// Where its replicas are. The first is the one that should lead when the cluster is formed.
    pub replicas: Vec<CoreAddr>,
}

impl RangeDescriptor {
    /// Its keys.
    #[must_use]
    pub fn bounds(&self) -> RangeBounds {
        let Self { epoch, start, end, .. } = self;
        RangeBounds { epoch: *epoch, start: start.clone(), end: end.clone() }
    }

    /// The core of a node that has the replica, if that node has one.
    #[must_use]
    pub fn core_on(&self, node: NodeId) -> Option<CoreId> {
        self.replicas.iter().find(|replica| replica.node == node).map(|replica| replica.core)
    }
}

/// The whole keyspace, cut into ranges without a gap or an overlap, and the meta group beside it.
#[derive(Clone, Debug, Default)]
pub struct RangeMap {
    version: u64,
    ranges: Vec<RangeDescriptor>,
    meta: Option<RangeDescriptor>,
    places: FastMap<GroupId, usize>,
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
        let mut places = FastMap::default();
        for (place, range) in ranges.iter().enumerate() {
            if range.group == meta.group || places.insert(range.group, place).is_some() {
                return Err(MapError::Twice(range.group));
            }
        }
        Ok(Self { version, ranges, meta: Some(meta), places })
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
            start: if number == 0 { Bytes::new() } else { split_points[number - 1].clone() },
            end: split_points.get(number).cloned(),
            replicas: place(number / cores_max, number % cores_max, factor),
        };
        let ranges = (0..=split_points.len()).map(describe).collect();
        let meta = RangeDescriptor {
            group: GroupId::META,
            epoch: RangeEpoch(1),
            start: Bytes::new(),
            end: None,
            replicas: place(0, 0, nodes.len().min(5)),
        };
        Self::new(1, ranges, meta)
    }

    /// Grows with every change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The ranges in the order of their keys.
    #[must_use]
    pub fn ranges(&self) -> &[RangeDescriptor] {
        &self.ranges
    }

    /// The range that owns a key.
    ///
    /// # Panics
    /// On a map without ranges, which only `default` makes.
    #[must_use]
    pub fn find(&self, key: &[u8]) -> &RangeDescriptor {
        let behind = self.ranges.partition_point(|range| range.start.as_ref() <= key);
        &self.ranges[behind - 1]
    }

    /// The range, or the meta group, of that id.
    #[must_use]
    pub fn group(&self, group: GroupId) -> Option<&RangeDescriptor> {
        if group == GroupId::META {
            return self.meta.as_ref();
        }
        self.places.get(&group).map(|place| &self.ranges[*place])
    }

    /// All groups with a replica on this core, the meta group included.
    pub fn groups_on(&self, addr: CoreAddr) -> impl Iterator<Item = &RangeDescriptor> {
        let all = self.meta.iter().chain(&self.ranges);
        all.filter(move |range| range.replicas.contains(&addr))
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
        assert_eq!(map.ranges().len(), 64);
        for key in [&b""[..], b"\0", b"a", b"\x04\0", b"\x03\xff\xff", b"\xff\xff\xff"] {
            let range = map.find(key);
            assert!(range.start.as_ref() <= key);
            assert!(range.end.as_ref().is_none_or(|end| key < end.as_ref()));
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
            let held = map.groups_on(CoreAddr::new(node, CoreId(0))).count();
            assert_eq!(held, 7, "six of thirty replicas and the meta group");
        }
    }

    #[test]
    fn a_gap_is_refused() {
        let map = RangeMap::formation(&three(), &even_split_points(3), 3).unwrap();
        let meta = map.group(GroupId::META).unwrap().clone();
        let mut ranges = map.ranges().to_vec();
        ranges.remove(1);
        assert_eq!(
            RangeMap::new(2, ranges, meta).unwrap_err(),
            MapError::Seam(GroupId(1), GroupId(3))
        );
    }
}
