//! What openraft is told about this rival's data.

use std::io::Cursor;

use bytes::Bytes;

openraft::declare_raft_types!(
    /// An entry is a batch of writes, its outcome is nothing, a snapshot is bytes in memory.
    pub Types:
        D = Bytes,
        R = (),
        NodeId = u64,
        Node = openraft::EmptyNode,
        SnapshotData = Cursor<Vec<u8>>,
);
