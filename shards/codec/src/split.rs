//! The bytes of entries that cut a range in two or bring it into its neighbour, which Raft carries and does
//! not look into.

#![allow(missing_docs, reason = "rkyv gives the fields that it derives no documentation")]

use bytes::Bytes;
use oarlock_raft::Configuration;
use oarlock_types::{GroupId, NodeId, RangeEpoch};
use rkyv::{Archive, Deserialize, Serialize};

use crate::archive;

/// What an entry that cuts a range says.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct SplitEntry {
    /// The first key of the new range.
    pub at: Bytes,
    /// The group that owns it.
    pub child: GroupId,
    /// Who proposed the entry, and leads the new group's first term if it still leads the cut one.
    pub leader: NodeId,
    /// The members of both.
    pub configuration: Configuration,
}

impl SplitEntry {
    /// As bytes, for an entry of the cut range's log.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        archive::encode(self)
    }

    /// What an entry's bytes say; `None` if they are no split.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        archive::read(bytes)
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
        let split = SplitEntry {
            at: Bytes::from_static(b"middle"),
            child: GroupId(77),
            leader: NodeId(2),
            configuration: Configuration::simple((1..=5).map(NodeId)),
        };
        let bytes = split.encode();
        for shift in 0..16 {
            let moved = [&vec![0; shift], &bytes[..]].concat();
            assert_eq!(SplitEntry::decode(&moved[shift..]), Some(split.clone()));
        }
        for end in 0..bytes.len() {
            assert_ne!(SplitEntry::decode(&bytes[..end]), Some(split.clone()));
        }
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
