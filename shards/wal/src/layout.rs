//! Where each byte of a segment stands. Pure functions; no state, no policy.
//!
//! A segment is one block of header, then frames, each from a block boundary. A frame is cut into
//! sectors of 512 bytes, the unit that a disk writes as a whole. The first eight bytes of each
//! sector are its **stamp**, a hash of (salt, LSN, sector number); head and payload flow through
//! the rest. What was on the disk before (zeros, or a frame of the segment's former life under
//! another salt) does not carry the stamp, so a sector that a torn write left out shows itself,
//! and a sector that is there but does not add up to the checksum has changed *after* it was
//! written. That is how a torn tail is told from a flipped bit in a durable last frame.
//!
//! The owner (cluster, node, disk, core) is hashed into each head's checksum: a frame of another
//! core's log is never taken for one of this log, whatever the file's header says.

use oarlock_types::{ClusterId, CoreId, DiskId, Guard, Lsn, NodeId, SegmentId};

/// Frames start at multiples of this.
pub const BLOCK_BYTES: usize = 4096;
/// The unit that a disk writes as a whole.
pub const SECTOR_BYTES: usize = 512;
/// The version of segments and frames that this build writes.
pub const VERSION: u16 = 1;

const STAMP_BYTES: usize = 8;
const HEAD_BYTES: usize = 48;
const ROOM_BYTES: usize = SECTOR_BYTES - STAMP_BYTES;
const SEGMENT_MAGIC: [u8; 8] = *b"OARLOCKW";
const FRAME_MAGIC: [u8; 4] = *b"OARW";
const SEGMENT_HEAD_BYTES: usize = 76;

/// Whose log it is. Stands in each segment's header and in each frame's checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// Its data directory.
    pub disk: DiskId,
    /// The core.
    pub core: CoreId,
}

impl Owner {
    fn seed(&self) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.cluster.get().to_le_bytes());
        crc.update(&self.node.get().to_le_bytes());
        crc.update(&self.disk.get().to_le_bytes());
        crc.update(&self.core.get().to_le_bytes());
        crc.finalize()
    }
}

/// What makes a frame one of this segment in its present life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameKey {
    /// The segment, whose id is the salt.
    pub segment: SegmentId,
    seed: u32,
}

impl FrameKey {
    /// The key of `owner`'s segment.
    #[must_use]
    pub fn new(owner: &Owner, segment: SegmentId) -> Self {
        Self { segment, seed: owner.seed() }
    }
}

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Whose log.
    pub owner: Owner,
    /// The segment's id in its present life.
    pub segment: SegmentId,
    /// The file's length.
    pub segment_bytes: u64,
}

/// Why a segment's header can not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// No header, or bits of it changed.
    Invalid,
    /// A newer build wrote it.
    NewerVersion(u16),
}

/// The block that opens a segment. It must be durable before the file gets its name.
#[must_use]
pub fn segment_header(header: &SegmentHeader) -> Vec<u8> {
    let mut block = vec![0; BLOCK_BYTES];
    block[0..8].copy_from_slice(&SEGMENT_MAGIC);
    block[8..10].copy_from_slice(&VERSION.to_le_bytes());
    block[10..12].copy_from_slice(&header.owner.core.get().to_le_bytes());
    block[16..32].copy_from_slice(&header.owner.cluster.get().to_le_bytes());
    block[32..40].copy_from_slice(&header.owner.node.get().to_le_bytes());
    block[40..56].copy_from_slice(&header.owner.disk.get().to_le_bytes());
    block[56..64].copy_from_slice(&header.segment.get().to_le_bytes());
    block[64..72].copy_from_slice(&header.segment_bytes.to_le_bytes());
    let crc = crc32fast::hash(&block[..72]);
    block[72..SEGMENT_HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
    block
}

/// Reads a segment's header from its first bytes.
///
/// # Errors
/// When there is none that this build can read.
pub fn read_segment_header(bytes: &[u8]) -> Result<SegmentHeader, HeaderError> {
    let head = bytes.first_chunk::<SEGMENT_HEAD_BYTES>().ok_or(HeaderError::Invalid)?;
    if head[0..8] != SEGMENT_MAGIC {
        return Err(HeaderError::Invalid);
    }
    // Only a version that the checksum vouches for is one: flipped bits must not look like it.
    let version = u16_at(head, 8);
    if version == 0 || crc32fast::hash(&head[..72]) != u32_at(head, 72) {
        return Err(HeaderError::Invalid);
    }
    if version > VERSION {
        return Err(HeaderError::NewerVersion(version));
    }
    Ok(SegmentHeader {
        owner: Owner {
            cluster: ClusterId(u128_at(head, 16)),
            node: NodeId(u64_at(head, 32)),
            disk: DiskId(u128_at(head, 40)),
            core: CoreId(u16_at(head, 10)),
        },
        segment: SegmentId(u64_at(head, 56)),
        segment_bytes: u64_at(head, 64),
    })
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// Its place in the log.
    pub lsn: Lsn,
    /// The oldest segment that is needed once this frame is durable.
    pub oldest: SegmentId,
    /// The length of its row of records.
    pub payload_bytes: usize,
    /// How many records it holds.
    pub records_count: u32,
    payload_crc: u32,
}

impl FrameHead {
    /// The length of the whole frame on disk.
    #[must_use]
    pub const fn frame_bytes(&self) -> usize {
        frame_bytes(self.payload_bytes)
    }
}

/// The length on disk of a frame with so much payload.
#[must_use]
pub const fn frame_bytes(payload_bytes: usize) -> usize {
    sectors(payload_bytes).div_ceil(BLOCK_BYTES / SECTOR_BYTES) * BLOCK_BYTES
}

/// The most payload that a frame of so many bytes (a multiple of the block) can hold.
#[must_use]
pub const fn payload_capacity(frame_bytes: usize) -> usize {
    frame_bytes / SECTOR_BYTES * ROOM_BYTES - HEAD_BYTES
}

const fn sectors(payload_bytes: usize) -> usize {
    payload_bytes.saturating_add(HEAD_BYTES).div_ceil(ROOM_BYTES)
}

/// A sector's stamp. SplitMix64's finalizer spreads the three numbers over all bits, so that two
/// stamps differ in about 32 of them.
fn stamp(segment: SegmentId, lsn: Lsn, sector: usize) -> u64 {
    let mut z = segment
        .get()
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .wrapping_add(lsn.get())
        .wrapping_mul(0xD6E8_FEB8_6659_FD93)
        .wrapping_add(sector as u64 + 1);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Writes a frame over the start of `out` and returns its length. Every byte of it is written.
pub fn write_frame(
    key: FrameKey,
    lsn: Lsn,
    oldest: SegmentId,
    records_count: u32,
    payload: &[u8],
    out: &mut [u8],
) -> usize {
    let bytes = frame_bytes(payload.len());
    let payload_bytes = u32::try_from(payload.len())
        .expect("invariant: a frame is at most frame_bytes_max long, far below 4 GiB");
    let mut head = [0; HEAD_BYTES];
    head[0..4].copy_from_slice(&FRAME_MAGIC);
    head[4..6].copy_from_slice(&VERSION.to_le_bytes());
    head[8..16].copy_from_slice(&key.segment.get().to_le_bytes());
    head[16..24].copy_from_slice(&lsn.get().to_le_bytes());
    head[24..32].copy_from_slice(&oldest.get().to_le_bytes());
    head[32..36].copy_from_slice(&payload_bytes.to_le_bytes());
    head[36..40].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
    head[40..44].copy_from_slice(&records_count.to_le_bytes());
    let crc = head_crc(key, &head);
    head[44..48].copy_from_slice(&crc.to_le_bytes());
    let (first, mut rest) = payload.split_at(payload.len().min(ROOM_BYTES - HEAD_BYTES));
    for (number, sector) in out[..bytes].chunks_exact_mut(SECTOR_BYTES).enumerate() {
        let (stamped, room) = sector.split_at_mut(STAMP_BYTES);
        stamped.copy_from_slice(&stamp(key.segment, lsn, number).to_le_bytes());
        if number == 0 {
            room[..HEAD_BYTES].copy_from_slice(&head);
            room[HEAD_BYTES..HEAD_BYTES + first.len()].copy_from_slice(first);
            room[HEAD_BYTES + first.len()..].fill(0);
        } else {
            let (now, later) = rest.split_at(rest.len().min(ROOM_BYTES));
            room[..now.len()].copy_from_slice(now);
            room[now.len()..].fill(0);
            rest = later;
        }
    }
    bytes
}

fn head_crc(key: FrameKey, head: &[u8; HEAD_BYTES]) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(key.seed);
    crc.update(&head[..44]);
    crc.finalize()
}

/// Reads the head of a frame of `key`'s segment at the start of `bytes`, of whatever LSN.
#[must_use]
pub fn read_head(key: FrameKey, bytes: &[u8]) -> Option<FrameHead> {
    let head = head_bytes(bytes)?;
    // Most blocks that a scan looks at fail here, without the price of a checksum.
    if head[0..4] != FRAME_MAGIC {
        return None;
    }
    parse_head(key, head)
}

/// The place and version of the first frame of `key`'s segment that a newer build wrote. Head,
/// checksum and stamp of the first sector keep their places in every version.
#[must_use]
pub fn newer_frame(key: FrameKey, bytes: &[u8]) -> Option<(usize, u16)> {
    (BLOCK_BYTES..bytes.len()).step_by(BLOCK_BYTES).find_map(|at| {
        let rest = &bytes[at..];
        let head = head_bytes(rest)?;
        let version = u16_at(head, 4);
        let is_newer = head[0..4] == FRAME_MAGIC
            && version > VERSION
            && u64_at(head, 8) == key.segment.get()
            && head_crc(key, head) == u32_at(head, 44)
            && stamps(key, Lsn(u64_at(head, 16)), SECTOR_BYTES, rest).first;
        is_newer.then_some((at, version))
    })
}

fn head_bytes(bytes: &[u8]) -> Option<&[u8; HEAD_BYTES]> {
    bytes.get(STAMP_BYTES..)?.first_chunk::<HEAD_BYTES>()
}

fn parse_head(key: FrameKey, head: &[u8; HEAD_BYTES]) -> Option<FrameHead> {
    let valid = head[0..4] == FRAME_MAGIC
        && u16_at(head, 4) == VERSION
        && u16_at(head, 6) == 0
        && (u64_at(head, 8) == key.segment.get() || !Guard::FrameNamesItsSegment.is_on())
        && head_crc(key, head) == u32_at(head, 44);
    valid.then(|| FrameHead {
        lsn: Lsn(u64_at(head, 16)),
        oldest: SegmentId(u64_at(head, 24)),
        payload_bytes: u32_at(head, 32) as usize,
        payload_crc: u32_at(head, 36),
        records_count: u32_at(head, 40),
    })
}

/// Looks for the one flipped bit that would make the head valid, of frame `lsn` if that is known.
/// A checksum of 32 bits over 44 bytes tells single flips apart without doubt.
#[must_use]
pub fn repair_head(key: FrameKey, lsn: Option<Lsn>, bytes: &[u8]) -> Option<FrameHead> {
    let mut head = *head_bytes(bytes)?;
    for bit in 0..HEAD_BYTES * 8 {
        head[bit / 8] ^= 1 << (bit % 8);
        if let Some(found) = parse_head(key, &head)
            && lsn.is_none_or(|lsn| found.lsn == lsn)
        {
            return Some(found);
        }
        head[bit / 8] ^= 1 << (bit % 8);
    }
    None
}

/// Gathers a frame's payload into `payload`; whether it is the one that was written. `bytes` may
/// end before the frame does: then it is not.
pub fn read_payload(head: &FrameHead, bytes: &[u8], payload: &mut Vec<u8>) -> bool {
    payload.clear();
    let Some(frame) = bytes.get(..head.frame_bytes()) else { return false };
    payload.reserve(head.payload_bytes);
    for (number, sector) in frame.chunks_exact(SECTOR_BYTES).enumerate() {
        let from = if number == 0 { STAMP_BYTES + HEAD_BYTES } else { STAMP_BYTES };
        let want = (head.payload_bytes - payload.len()).min(SECTOR_BYTES - from);
        payload.extend_from_slice(&sector[from..from + want]);
    }
    crc32fast::hash(payload) == head.payload_crc
}

/// Which sectors of frame `lsn` stand at the start of `bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamps {
    /// The first is there.
    pub first: bool,
    /// All of them are there.
    pub all: bool,
    /// At least one is there.
    pub any: bool,
}

/// Compares the stamps of a frame of `frame_bytes` bytes. A stamp that differs in at most two bits
/// is there: bits of it flipped.
#[must_use]
pub fn stamps(key: FrameKey, lsn: Lsn, frame_bytes: usize, bytes: &[u8]) -> Stamps {
    let is_there = |number: usize| {
        let found = bytes.get(number * SECTOR_BYTES..).and_then(<[u8]>::first_chunk::<STAMP_BYTES>);
        found.is_some_and(|found| {
            let differing = u64::from_le_bytes(*found) ^ stamp(key.segment, lsn, number);
            differing.count_ones() <= 2
        })
    };
    let mut wanted = 0..frame_bytes / SECTOR_BYTES;
    let (all, any) = (wanted.clone().all(is_there), wanted.any(is_there));
    Stamps { first: is_there(0), all, any }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from(u64_at(bytes, at)) | u128::from(u64_at(bytes, at + 8)) << 64
}
