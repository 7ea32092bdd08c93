//! The log of one core as it runs: records in, frames out, and what of it is durable. One per
//! core. Decides where each frame goes; never touches a disk, and never writes a byte twice.

use std::collections::VecDeque;

use oarlock_codec::Record;
use oarlock_codec::record;
use oarlock_raft::Entry;
use oarlock_types::{FeatureLevel, GroupId, Guard, Index, Lsn, SegmentId};

use crate::index::{LogIndex, Note, What};
use crate::layout::{self, BLOCK_BYTES, FrameKey, Owner, SegmentHeader};
use crate::segments::Segments;

/// A tail reaches back so many segments at most.
const TAIL_SEGMENTS_COUNT: usize = 4;
/// What an archived entry takes beyond `Entry::size_bytes`, at most.
const ENTRY_EXTRA_BYTES: usize = 64;

/// The sizes of a log, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalConfig {
    /// Stands in every segment: a file of another node or core is recognised.
    pub owner: Owner,
    /// The length of a segment file, a multiple of the block.
    pub segment_bytes: u64,
    /// The longest frame, a multiple of the block: the size of the buffer that is written from.
    pub frame_bytes_max: usize,
}

impl WalConfig {
    /// Segments of 64 MiB.
    pub const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;

    /// The block that opens segment `id`. It must be durable before the file gets its name.
    #[must_use]
    pub fn segment_header(&self, id: SegmentId) -> Vec<u8> {
        let (owner, segment_bytes) = (self.owner, self.segment_bytes);
        layout::segment_header(&SegmentHeader { owner, segment: id, segment_bytes })
    }

    pub(crate) fn check(&self) {
        let block = BLOCK_BYTES as u64;
        let frame = self.frame_bytes_max as u64;
        assert!(
            self.segment_bytes.is_multiple_of(block) && frame.is_multiple_of(block) && frame > 0,
            "segments and frames are whole blocks"
        );
        assert!(self.segment_bytes >= frame + block, "a segment holds its header and one frame");
        assert!(self.segment_bytes / block <= u64::from(u32::MAX), "blocks are counted in 32 bits");
    }

    pub(crate) fn key(&self, segment: SegmentId) -> FrameKey {
        FrameKey::new(&self.owner, segment)
    }
}

/// A record that is to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addition {
    /// It holds from then on.
    Append(Record),
    /// It says more of what holds already, and makes nothing void that stands before it.
    Restate(Record),
}

/// A frame that is to be written, in one write, exactly there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameWrite {
    /// The segment.
    pub segment: SegmentId,
    /// Where, in bytes from the start of the file; a multiple of the block.
    pub offset: u64,
    /// How much of the buffer; a multiple of the block.
    pub len: usize,
    /// Its place in the log; to be named to [`Wal::durable`].
    pub lsn: Lsn,
}

/// A frame that waits for its turn. Its LSN is fixed, its place is not.
#[derive(Debug)]
pub(crate) struct Pending {
    lsn: Lsn,
    payload: Vec<u8>,
    pub(crate) notes: Vec<Note>,
}

/// The log of one core.
#[derive(Debug)]
pub struct Wal {
    pub(crate) config: WalConfig,
    pub(crate) segments: Segments,
    pub(crate) index: LogIndex,
    pub(crate) queue: VecDeque<Pending>,
    prepared: VecDeque<SegmentId>,
    next_segment: SegmentId,
    next_lsn: Lsn,
    in_flight: Option<Lsn>,
    pub(crate) durable: Lsn,
    failed: bool,
    /// Entries are written packed.
    packed: bool,
    /// The newest segment of before the restart. It is not written any more: a write of the former
    /// process may have left bytes there, or may still land.
    recovered_head: Option<SegmentId>,
    /// The buffers of the last frame written, kept for the next.
    spare: Option<Pending>,
}

impl Wal {
    /// A new log. Its first segment is wanted at once.
    ///
    /// # Panics
    /// When the sizes do not fit each other.
    #[must_use]
    pub fn new(config: WalConfig) -> Self {
        Self::resume(config, Segments::default(), LogIndex::default(), SegmentId(1), Lsn(0))
    }

    pub(crate) fn resume(
        config: WalConfig,
        segments: Segments,
        index: LogIndex,
        next_segment: SegmentId,
        durable: Lsn,
    ) -> Self {
        config.check();
        let recovered_head = segments.head().map(|(segment, _)| segment);
        Self {
            config,
            segments,
            index,
            queue: VecDeque::new(),
            prepared: VecDeque::new(),
            next_segment,
            next_lsn: durable.next(),
            in_flight: None,
            durable,
            failed: false,
            packed: false,
            recovered_head,
            spare: None,
        }
    }

    /// Takes over segments that were prepared before a restart and never written.
    pub(crate) fn adopt(&mut self, prepared: impl Iterator<Item = SegmentId>) {
        self.prepared.extend(prepared);
    }

    /// The cluster is at this feature level, by which records are written. All that there are can be read.
    pub fn set_feature_level(&mut self, level: FeatureLevel) {
        self.packed = level >= FeatureLevel::PACKED;
    }

    /// Queues a record; returns the frame that it will ride in (the last one, if its entries are
    /// split over several). Records reach the disk in the order of these calls.
    ///
    /// # Panics
    /// When a single entry does not fit into a frame: admission must have refused it.
    pub fn append(&mut self, record: &Record) -> Lsn {
        match record {
            Record::Entries { group, entries } => self.append_entries(*group, entries),
            Record::HardState { .. }
            | Record::Checkpoint { .. }
            | Record::Create { .. }
            | Record::Destroy { .. } => self.queue_record(record, false),
        }
    }

    /// Queues what is true of a group already, for a copy on the disk that can no longer be read.
    /// Unlike [`Wal::append`] of a creation it makes nothing that stands before it void.
    pub fn restate(&mut self, record: &Record) -> Lsn {
        self.queue_record(record, true)
    }

    /// Queues what a tool adds to the log of a node that does not run.
    ///
    /// # Panics
    /// As [`Wal::append`].
    pub fn add(&mut self, addition: &Addition) -> Lsn {
        match addition {
            Addition::Append(record) => self.append(record),
            Addition::Restate(record) => self.restate(record),
        }
    }

    /// Queues entries without taking them; as [`Wal::append`] with [`Record::Entries`].
    ///
    /// # Panics
    /// As [`Wal::append`].
    pub fn append_entries(&mut self, group: GroupId, entries: &[Entry]) -> Lsn {
        self.queue_entries(group, entries, false)
    }

    pub(crate) fn queue_record(&mut self, record: &Record, moved: bool) -> Lsn {
        if let Record::Entries { group, entries } = record {
            return self.queue_entries(*group, entries, moved);
        }
        let note = note_of(record, moved, 0);
        self.queue_bytes(note, |out| record::encode(record, moved, out))
    }

    pub(crate) fn queue_entries(&mut self, group: GroupId, entries: &[Entry], moved: bool) -> Lsn {
        debug_assert!(entries.windows(2).all(|two| two[0].at.index.next() == two[1].at.index));
        let room = layout::payload_capacity(self.config.frame_bytes_max) - 2 * record::HEAD_BYTES;
        let mut rest = entries;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fit = rest.iter().take_while(|entry| {
                bytes += entry.size_bytes() + ENTRY_EXTRA_BYTES;
                bytes <= room
            });
            let (now, later) = rest.split_at(fit.count().max(1));
            let (first, last) = (now[0].at.index, now[now.len() - 1].at.index);
            let note = Note { group, moved, what: What::Entries { first, last, bytes: 0 } };
            let packed = self.packed;
            self.queue_bytes(note, |out| record::encode_entries(group, now, packed, moved, out));
            rest = later;
        }
        self.queue.back().map_or(self.durable, |open| open.lsn)
    }

    fn queue_bytes(&mut self, mut note: Note, encode: impl FnOnce(&mut Vec<u8>)) -> Lsn {
        if self.queue.is_empty() {
            self.open_frame();
        }
        let open = self.queue.back_mut().expect("invariant: a frame was opened");
        let start = open.payload.len();
        encode(&mut open.payload);
        let bytes = open.payload.len() - start;
        if let What::Entries { bytes: counted, .. } = &mut note.what {
            *counted = bytes as u64;
        }
        let capacity = layout::payload_capacity(self.config.frame_bytes_max);
        assert!(bytes <= capacity, "a record of {bytes} bytes does not fit a frame ({capacity})");
        if open.payload.len() > capacity {
            let tail = open.payload.split_off(start);
            self.open_frame();
            let open = self.queue.back_mut().expect("invariant: a frame was opened");
            open.payload.extend_from_slice(&tail);
        }
        let open = self.queue.back_mut().expect("invariant: a frame was opened");
        open.notes.push(note);
        open.lsn
    }

    fn open_frame(&mut self) {
        let empty = Pending { lsn: Lsn(0), payload: Vec::new(), notes: Vec::new() };
        let mut frame = self.spare.take().unwrap_or(empty);
        frame.lsn = self.next_lsn;
        self.next_lsn = self.next_lsn.next();
        self.queue.push_back(frame);
    }

    /// Whether records wait for a frame.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        !self.queue.is_empty()
    }

    /// How long the next frame will be, if there is one to be sealed.
    #[must_use]
    pub fn next_frame_bytes(&self) -> Option<usize> {
        let frame = self.queue.front().filter(|_| !self.failed && self.in_flight.is_none())?;
        Some(layout::frame_bytes(frame.payload.len()))
    }

    /// Writes the next frame over the start of `out`, which is at least
    /// [`Wal::next_frame_bytes`] long.
    /// `None` if nothing waits, a write is in flight, no segment is prepared, or a write failed.
    pub fn seal(&mut self, out: &mut [u8]) -> Option<FrameWrite> {
        if self.failed || self.in_flight.is_some() {
            return None;
        }
        let bytes = layout::frame_bytes(self.queue.front()?.payload.len());
        let blocks = u32::try_from(bytes / BLOCK_BYTES)
            .expect("invariant: the configuration bounds a segment's blocks");
        let lsn = self.queue.front()?.lsn;
        let (segment, start) = match self.open_head() {
            Some((segment, start)) if self.blocks_left(start) >= u64::from(blocks) => {
                (segment, start)
            }
            Some(_) | None => {
                let segment = self.prepared.pop_front()?;
                self.segments.begin(segment, lsn);
                (segment, 1)
            }
        };
        let mut frame = self.queue.pop_front()?;
        self.segments.push_frame(lsn, start, blocks);
        for note in &frame.notes {
            self.index.apply(note, lsn, &mut self.segments);
        }
        let oldest = self.segments.oldest_needed().unwrap_or(segment);
        let records_count = u32::try_from(frame.notes.len())
            .expect("invariant: a record takes more than one byte of a bounded frame");
        let key = self.config.key(segment);
        layout::write_frame(key, lsn, oldest, records_count, &frame.payload, out);
        frame.payload.clear();
        frame.notes.clear();
        self.spare = Some(frame);
        self.in_flight = Some(lsn);
        let offset = u64::from(start) * BLOCK_BYTES as u64;
        Some(FrameWrite { segment, offset, len: bytes, lsn })
    }

    /// The write in flight is durable.
    ///
    /// # Panics
    /// When `lsn` is not the frame that is in flight: completions were mixed up.
    pub fn durable(&mut self, lsn: Lsn) {
        assert_eq!(self.in_flight, Some(lsn), "a completion is of the frame in flight");
        self.in_flight = None;
        self.durable = lsn;
    }

    /// The write in flight failed, or the log can not go on for another reason. Final: what the
    /// disk holds now is not known, and no frame is given out again.
    pub fn fail(&mut self) {
        self.failed = true;
    }

    /// Whether [`Wal::fail`] was called.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.failed
    }

    /// The newest durable frame; zero if there is none.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        self.durable
    }

    /// The frame that is being written.
    #[must_use]
    pub fn in_flight(&self) -> Option<Lsn> {
        self.in_flight
    }

    /// The segment to make ready next: a file of zeros, or a retired one, with
    /// [`WalConfig::segment_header`] as its first block. The same until it is prepared. It is wanted once half
    /// of the one before it is used, so that a log that is seldom written has no room that it does not need.
    #[must_use]
    pub fn next_segment_wanted(&self) -> Option<SegmentId> {
        if self.failed || !self.prepared.is_empty() {
            return None;
        }
        let left = self.open_head().map_or(0, |(_, start)| self.blocks_left(start));
        let half = self.config.segment_bytes / BLOCK_BYTES as u64 / 2;
        let frame = self.queue.front().map_or(0, |frame| layout::frame_bytes(frame.payload.len()));
        let is_short = left <= half || left < (frame / BLOCK_BYTES) as u64;
        is_short.then_some(self.next_segment)
    }

    /// The segment that is being written, and the block at which the next frame begins.
    fn open_head(&self) -> Option<(SegmentId, u32)> {
        let is_closed =
            |segment| self.recovered_head == Some(segment) && Guard::RecoveredHeadIsClosed.is_on();
        self.segments.head().filter(|(segment, _)| !is_closed(*segment))
    }

    /// How many blocks of a segment there are from `start` on.
    fn blocks_left(&self, start: u32) -> u64 {
        (self.config.segment_bytes / BLOCK_BYTES as u64).saturating_sub(u64::from(start))
    }

    /// Segments that stand ready, in order of use: after a restart, those that were made and never
    /// written.
    pub fn prepared(&self) -> impl Iterator<Item = SegmentId> + '_ {
        self.prepared.iter().copied()
    }

    /// Segment `id` stands ready under its name.
    ///
    /// # Panics
    /// When it is not the one that was wanted: segments are used in order.
    pub fn segment_prepared(&mut self, id: SegmentId) {
        assert_eq!(id, self.next_segment, "segments are prepared in order");
        self.next_segment = id.next();
        self.prepared.push_back(id);
    }

    /// Takes the oldest segment out of the log if nothing in it is needed, and that durably. Its
    /// file may be recycled or removed.
    pub fn retire(&mut self) -> Option<SegmentId> {
        self.segments.retire(self.durable)
    }

    /// Segments that hold, or held, frames.
    #[must_use]
    pub fn segments_count(&self) -> usize {
        self.segments.count()
    }

    /// The length of a segment file.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.config.segment_bytes
    }

    /// Bytes of the segments that hold, or held, frames.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.segments.count() as u64 * self.config.segment_bytes
    }

    /// Where `group`'s log should begin for about the last `bytes` of its entries up to `end` to
    /// stay in it, as far as they are in one of the newest few segments: a tail must not keep old
    /// ones. One past `end` if none of them is.
    #[must_use]
    pub fn tail_start(&self, group: GroupId, end: Index, bytes: u64) -> Index {
        let since = self.segments.newest(TAIL_SEGMENTS_COUNT);
        let group = self.index.groups.get(&group);
        group.map_or(end.next(), |group| group.tail_start(end, bytes, since))
    }

    /// About how many bytes all groups together have written since the oldest frame that holds
    /// entries of `group`; 0 if none does.
    #[must_use]
    pub fn reach_bytes(&self, group: GroupId) -> u64 {
        let oldest = self.index.groups.get(&group).map(|group| group.oldest);
        let Some(oldest) = oldest.filter(|lsn| *lsn != Lsn(0)) else { return 0 };
        let per_segment = self.config.segment_bytes / BLOCK_BYTES as u64;
        self.segments.blocks_since(oldest, per_segment) * BLOCK_BYTES as u64
    }

    /// Bytes of `group`'s entries in the log behind its newest checkpoint.
    #[must_use]
    pub fn group_log_bytes(&self, group: GroupId) -> u64 {
        self.index.groups.get(&group).map_or(0, |group| group.log_bytes)
    }

    /// The first and last index of `group`'s entries in the log, as far as they are in frames.
    #[must_use]
    pub fn group_log_range(&self, group: GroupId) -> Option<(Index, Index)> {
        let runs = &self.index.groups.get(&group)?.runs;
        Some((runs.first()?.first, runs.last()?.last))
    }
}

/// What the index has to know of a record of `bytes` bytes.
pub(crate) fn note_of(record: &Record, moved: bool, bytes: u64) -> Note {
    let what = match record {
        Record::Entries { entries, .. } => What::Entries {
            first: entries.first().map_or(Index(0), |entry| entry.at.index),
            last: entries.last().map_or(Index(0), |entry| entry.at.index),
            bytes,
        },
        Record::HardState { .. } => What::HardState,
        Record::Checkpoint { meta, keep_from, .. } => {
            What::Checkpoint { index: meta.position.index, keep_from: *keep_from }
        }
        Record::Create { .. } => What::Create,
        Record::Destroy { .. } => What::Destroy,
    };
    Note { group: record.group(), moved, what }
}
