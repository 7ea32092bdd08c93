//! The bytes of an entry that cuts a range in two, which Raft carries and does not look into.

use bytes::Bytes;
use oarlock_raft::Configuration;
use oarlock_types::{GroupId, NodeId};
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
        let mut bytes = Vec::new();
        archive::append(self, &mut bytes);
        bytes.into()
    }

    /// What an entry's bytes say; `None` if they are no split.
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
}
