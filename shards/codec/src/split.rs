//! The bytes of entries that cut a range in two or bring it into its neighbour, which Raft carries and does
//! not look into.

#![allow(missing_docs, reason = "rkyv gives the fields that it derives no documentation")]

use bytes::Bytes;
use oarlock_raft::Configuration;
use oarlock_types::{GroupId, Incarnation, NodeId, RangeEpoch};
use rkyv::{Archive, Deserialize, Serialize};

use crate::archive;

/// What an entry that cuts a range says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitEntry {
    /// The first key of the new range.
    pub at: Bytes,
    /// The group that owns it.
    pub child: GroupId,
    /// Who proposed the entry, and leads the new group's first term if it still leads the cut one.
    pub leader: NodeId,
    /// The members of both.
    pub configuration: Configuration,
    /// Members' nodes, each in a life that it had begun before the entry was proposed, and so before there was a
    /// replica of the new group anywhere. From [`oarlock_types::FeatureLevel::SPLIT_LIVES`] on.
    pub lives: Vec<(NodeId, Incarnation)>,
}

/// What stands in the entry of a split that names no lives.
#[derive(Archive, Serialize, Deserialize)]
struct Cut {
    at: Bytes,
    child: GroupId,
    leader: NodeId,
    configuration: Configuration,
}

/// And of one that does. [`WITH_LIVES`] stands behind it.
#[derive(Archive, Serialize, Deserialize)]
struct CutWithLives {
    cut: Cut,
    lives: Vec<(NodeId, Incarnation)>,
}

/// Tells the two apart: the length of an archive alone is a multiple of its alignment, with one byte more it is not.
const WITH_LIVES: u8 = 1;
const _: () = assert!(align_of::<ArchivedCut>() > 1);

impl SplitEntry {
    /// As bytes, for an entry of the cut range's log.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let Self { at, child, leader, configuration, lives } = self.clone();
        let cut = Cut { at, child, leader, configuration };
        if lives.is_empty() {
            return archive::encode(&cut);
        }
        let archive = archive::encode(&CutWithLives { cut, lives });
        [&archive[..], &[WITH_LIVES]].concat().into()
    }

    /// What an entry's bytes say; `None` if they are no split.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (cut, lives) = match bytes.split_last() {
            Some((form, archive)) if !bytes.len().is_multiple_of(align_of::<ArchivedCut>()) => {
                let known = archive::read(archive).filter(|_| *form == WITH_LIVES);
                let CutWithLives { cut, lives } = known?;
                (cut, lives)
            }
            _ => (archive::read(bytes)?, Vec::new()),
        };
        let Cut { at, child, leader, configuration } = cut;
        Some(Self { at, child, leader, configuration, lives })
    }

    /// A life of a node that began before there was a replica of the new group anywhere; the zeroth if none is known.
    #[must_use]
    pub fn life_of(&self, node: NodeId) -> Incarnation {
        let known = self.lives.iter().find(|(known, _)| *known == node);
        known.map_or(Incarnation(0), |(_, life)| *life)
    }
}

/// A step of bringing a range into its left neighbour, in the log of the range that ends.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum MergeEntry {
    /// From here on the range serves nothing: what it holds is for its neighbour.
    Freeze {
        /// The range's version: in another one the entry does nothing.
        epoch: RangeEpoch,
        /// The neighbour's first key.
        into_start: Bytes,
        /// The neighbour's version: in another one it does not take the range.
        into_epoch: RangeEpoch,
    },
    /// The neighbour will never take what was frozen: the range serves again.
    Thaw {
        /// The frozen range's version.
        epoch: RangeEpoch,
    },
}

impl MergeEntry {
    /// As bytes, for an entry of the range's log.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        archive::encode(self)
    }

    /// What an entry's bytes say; `None` if they are no such step.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        archive::read(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_is_read_as_it_was_written_wherever_it_stands_in_memory() {
        for lives in [Vec::new(), vec![(NodeId(2), Incarnation(7)), (NodeId(5), Incarnation(1))]] {
            let split = split(lives);
            let bytes = split.encode();
            for shift in 0..16 {
                let moved = [&vec![0; shift], &bytes[..]].concat();
                assert_eq!(SplitEntry::decode(&moved[shift..]), Some(split.clone()));
            }
            for end in 0..bytes.len() {
                assert_ne!(SplitEntry::decode(&bytes[..end]), Some(split.clone()));
            }
        }
    }

    fn split(lives: Vec<(NodeId, Incarnation)>) -> SplitEntry {
        SplitEntry {
            at: Bytes::from_static(b"middle"),
            child: GroupId(77),
            leader: NodeId(2),
            configuration: Configuration::simple((1..=5).map(NodeId)),
            lives,
        }
    }

    #[test]
    fn who_is_not_named_is_in_the_zeroth_life_and_an_unknown_form_is_no_split() {
        let split = split(vec![(NodeId(2), Incarnation(7))]);
        let lives = [1, 2].map(|node| split.life_of(NodeId(node)).get());
        assert_eq!(lives, [0, 7]);
        let mut bytes = split.encode().to_vec();
        *bytes.last_mut().unwrap() = WITH_LIVES + 1;
        assert_eq!(SplitEntry::decode(&bytes), None);
        assert_eq!(SplitEntry::decode(b""), None);
    }

    #[test]
    fn a_step_of_a_merge_is_read_as_it_was_written() {
        let (epoch, into_epoch) = (RangeEpoch(3), RangeEpoch(9));
        let into_start = Bytes::from_static(b"left");
        for step in
            [MergeEntry::Freeze { epoch, into_start, into_epoch }, MergeEntry::Thaw { epoch }]
        {
            assert_eq!(MergeEntry::decode(&step.encode()), Some(step));
        }
        assert_eq!(MergeEntry::decode(b"nothing"), None);
    }
}
