//! A log in memory and batches for it: what benches and counts of instructions measure.

use bytes::Bytes;
use oarlock_raft::{Entry, LogPosition, Payload};
use oarlock_types::{FeatureLevel, GroupId, Index, Term};
use oarlock_wal::{Owner, Wal, WalConfig};

/// A log as a node has it.
pub(crate) fn config() -> WalConfig {
    WalConfig { owner: Owner::default(), segment_bytes: 64 << 20, frame_bytes_max: 8 << 20 }
}

/// 64 entries of 100 bytes.
pub(crate) fn entries(first: u64) -> Vec<Entry> {
    let at = |index| LogPosition { term: Term(3), index: Index(index) };
    let payload = || Payload::Packed(Bytes::from(vec![7; 100]));
    (first..first + 64).map(|index| Entry { at: at(index), payload: payload() }).collect()
}

/// A log whose next segments are there.
pub(crate) fn prepared() -> Wal {
    let mut wal = Wal::new(config());
    wal.set_feature_level(FeatureLevel::MAX);
    while let Some(id) = wal.next_segment_wanted() {
        wal.segment_prepared(id);
    }
    wal
}

/// A turn's batch: becomes a frame in `out`, is written, and is durable.
pub(crate) fn write(wal: &mut Wal, entries: &[Entry], out: &mut [u8]) {
    wal.append_entries(GroupId(1), entries);
    let write = wal.seal(out).expect("a segment is prepared");
    wal.durable(write.lsn);
    if let Some(id) = wal.next_segment_wanted() {
        wal.segment_prepared(id);
    }
}
