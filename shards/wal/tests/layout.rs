//! Frames at the edges of what they hold, and what is made of one whose bits have changed.

use oarlock_types::{ClusterId, CoreId, DiskId, Lsn, NodeId, SegmentId};
use oarlock_wal::layout::{self, BLOCK_BYTES, FrameKey, SECTOR_BYTES};
use oarlock_wal::{Owner, Recovery, Wal, WalConfig};

const OWNER: Owner =
    Owner { cluster: ClusterId(7), node: NodeId(1), disk: DiskId(9), core: CoreId(2) };
const LSN: Lsn = Lsn(5);
/// Where a head stands in its frame, behind the first sector's stamp.
const HEAD: std::ops::Range<usize> = 8..56;

fn key() -> FrameKey {
    FrameKey::new(&OWNER, SegmentId(3))
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0xEE; layout::frame_bytes(payload.len())];
    let bytes = layout::write_frame(key(), LSN, SegmentId(1), 1, payload, &mut out);
    assert_eq!(bytes, out.len());
    out
}

#[test]
fn a_frame_holds_exactly_its_capacity() {
    for blocks in 1..40 {
        let bytes = blocks * BLOCK_BYTES;
        let capacity = layout::payload_capacity(bytes);
        assert_eq!(layout::frame_bytes(capacity), bytes);
        assert_eq!(layout::frame_bytes(capacity + 1), bytes + BLOCK_BYTES);
    }
}

#[test]
fn what_is_written_is_read_whatever_its_length() {
    for length in (0..2000).chain(4000..4100).chain(12_000..12_200) {
        let payload: Vec<u8> = (0..=250).cycle().take(length).collect();
        let written = frame(&payload);
        let head = layout::read_head(key(), &written).expect("a head");
        let mut read = Vec::new();
        assert!(layout::read_payload(&head, &written, &mut read), "{length} bytes");
        assert_eq!(read, payload);
        assert_eq!((head.payload_bytes, head.frame_bytes()), (length, written.len()));
        let end = written.len() - 1;
        assert!(!layout::read_payload(&head, &written[..end], &mut read), "it ends too early");
    }
}

#[test]
fn each_single_wrong_bit_of_a_head_is_put_right() {
    let sound = frame(b"a record");
    let head = layout::read_head(key(), &sound);
    for at in HEAD {
        for bit in 0..8 {
            let mut bytes = sound.clone();
            bytes[at] ^= 1 << bit;
            assert_eq!(layout::read_head(key(), &bytes), None, "bit {bit} of byte {at}");
            assert_eq!(layout::repair_head(key(), None, &bytes), head, "bit {bit} of byte {at}");
            assert_eq!(layout::repair_head(key(), Some(LSN), &bytes), head);
            assert_eq!(layout::repair_head(key(), Some(LSN.next()), &bytes), None);
            let other = if at == HEAD.start { at + 1 } else { HEAD.start };
            bytes[other] ^= 1;
            assert_eq!(layout::repair_head(key(), None, &bytes), None, "two are too many");
        }
    }
}

/// A stamp that is off by two bits is there, one that is off by three is another's.
#[test]
fn stamps_forgive_two_bits() {
    let sound = frame(&[7; 1000]);
    let of = |bytes: &[u8]| {
        let found = layout::stamps(key(), LSN, sound.len(), bytes);
        (found.first, found.all, found.any)
    };
    assert_eq!(of(&sound), (true, true, true));
    for (sector, three) in [(0, (false, false, true)), (2, (true, false, true))] {
        let mut bytes = sound.clone();
        bytes[sector * SECTOR_BYTES] ^= 0b11;
        assert_eq!(of(&bytes), (true, true, true));
        bytes[sector * SECTOR_BYTES] ^= 0b100;
        assert_eq!(of(&bytes), three);
    }
    // Only the last sector landed; none did; the file ends in the middle.
    let last = sound.len() - SECTOR_BYTES;
    let mut bytes = vec![0; sound.len()];
    bytes[last..].copy_from_slice(&sound[last..]);
    assert_eq!(of(&bytes), (false, false, true));
    assert_eq!(of(&vec![0; sound.len()]), (false, false, false));
    assert_eq!(of(&sound[..last]), (true, false, true));
    assert_eq!(of(&[]), (false, false, false));
}

/// A value may hold bytes of a log, heads of later frames among them. Where the write of such a value
/// is cut short they are not taken for frames that prove it to have been durable.
#[test]
fn a_value_that_looks_like_frames_is_none() {
    let config = WalConfig { owner: OWNER, segment_bytes: 64 << 10, frame_bytes_max: 48 << 10 };
    let later = {
        let mut out = vec![0; BLOCK_BYTES];
        let key = FrameKey::new(&OWNER, SegmentId(1));
        layout::write_frame(key, Lsn(9), SegmentId(1), 1, b"", &mut out);
        out[HEAD].to_vec()
    };
    let mut heads_seen = 0;
    for shift in 0..later.len() {
        let mut wal = Wal::new(config);
        let group = oarlock_types::GroupId(1);
        let value: Vec<u8> =
            vec![0; shift].into_iter().chain(later.iter().copied().cycle().take(40_000)).collect();
        let payload = oarlock_raft::Payload::Commands(value.into());
        let at = oarlock_raft::LogPosition {
            term: oarlock_types::Term(1),
            index: oarlock_types::Index(1),
        };
        let mut file = vec![0; 64 << 10];
        file[..BLOCK_BYTES].copy_from_slice(&config.segment_header(SegmentId(1)));
        wal.segment_prepared(SegmentId(1));
        wal.append_entries(group, &[oarlock_raft::Entry { at, payload }]);
        let mut out = vec![0; config.frame_bytes_max];
        let write = wal.seal(&mut out).expect("a frame");
        let key = FrameKey::new(&OWNER, SegmentId(1));
        for block in out[..write.len].chunks(BLOCK_BYTES).skip(1) {
            heads_seen += usize::from(layout::read_head(key, block).is_some());
        }
        // All but one sector landed.
        let missing = 3 * SECTOR_BYTES..4 * SECTOR_BYTES;
        out[missing].fill(0);
        file[BLOCK_BYTES..BLOCK_BYTES + write.len].copy_from_slice(&out[..write.len]);
        let mut recovery = Recovery::new(config);
        recovery.feed(SegmentId(1), &file);
        let recovered = recovery.finish();
        assert_eq!(recovered.damage, [], "shifted by {shift}");
        assert_eq!(recovered.torn, Some((SegmentId(1), BLOCK_BYTES as u64)));
    }
    assert!(heads_seen > 0, "some block begins with such a head");
}

#[test]
fn sizes_that_do_not_fit_each_other_are_refused() {
    let block = BLOCK_BYTES as u64;
    let fits = |segment_bytes: u64, frame_bytes_max: usize| {
        let config = WalConfig { owner: OWNER, segment_bytes, frame_bytes_max };
        std::panic::catch_unwind(|| Wal::new(config)).is_ok()
    };
    assert!(fits(2 * block, BLOCK_BYTES), "a header and a frame");
    assert!(!fits(block, BLOCK_BYTES) && !fits(2 * block, 2 * BLOCK_BYTES), "no room for a frame");
    assert!(!fits(2 * block + 512, BLOCK_BYTES) && !fits(4 * block, BLOCK_BYTES + 512));
    assert!(!fits(2 * block, 0), "a frame without room");
    let most = u64::from(u32::MAX) * block;
    assert!(
        fits(most, BLOCK_BYTES) && !fits(most + block, BLOCK_BYTES),
        "more blocks than counted"
    );
}
