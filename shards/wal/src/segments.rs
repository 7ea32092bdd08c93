//! The segments of one log, oldest first: which frame stands where, and how much in each is still
//! needed. Knows LSNs and blocks, nothing of groups.

use std::collections::VecDeque;

use oarlock_types::{Guard, Lsn, SegmentId};

use crate::layout::BLOCK_BYTES;

/// One segment that holds, or held, frames.
#[derive(Debug)]
struct Segment {
    id: SegmentId,
    first_lsn: Lsn,
    /// The block at which each frame starts.
    starts: Vec<u32>,
    /// The block behind the last frame.
    end: u32,
    /// References of the index to frames of this segment.
    live: u32,
    /// The frame that took the last reference away.
    dead_since: Lsn,
}

impl Segment {
    fn next_lsn(&self) -> Lsn {
        Lsn(self.first_lsn.get() + self.starts.len() as u64)
    }
}

/// A stretch of whole frames in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameSpan {
    /// The segment.
    pub segment: SegmentId,
    /// Where the first frame starts, in bytes.
    pub offset: u64,
    /// The length of all of them, in bytes.
    pub len: usize,
    /// The first frame.
    pub first_lsn: Lsn,
    /// The last frame.
    pub last_lsn: Lsn,
}

impl FrameSpan {
    /// Whether frame `lsn` is one of them.
    #[must_use]
    pub fn has(&self, lsn: Lsn) -> bool {
        (self.first_lsn..=self.last_lsn).contains(&lsn)
    }

    /// Whether all of `other` are.
    #[must_use]
    pub fn encloses(&self, other: &Self) -> bool {
        self.has(other.first_lsn) && self.has(other.last_lsn)
    }
}

/// All of a log's segments in order of use.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    list: VecDeque<Segment>,
}

impl Segments {
    /// Opens a segment whose first frame will be `first_lsn`.
    pub(crate) fn begin(&mut self, id: SegmentId, first_lsn: Lsn) {
        debug_assert!(self.list.back().is_none_or(|head| head.id < id));
        let end = 1;
        let starts = Vec::new();
        self.list.push_back(Segment { id, first_lsn, starts, end, live: 0, dead_since: Lsn(0) });
    }

    /// Notes that frame `lsn` stands at block `start` of the newest segment. Frames that were lost
    /// in between are taken to stand there too.
    pub(crate) fn push_frame(&mut self, lsn: Lsn, start: u32, blocks: u32) {
        let head = self.list.back_mut().expect("invariant: a frame has a segment");
        if head.starts.is_empty() {
            head.first_lsn = lsn;
        }
        while head.next_lsn() <= lsn {
            head.starts.push(start);
        }
        head.end = start + blocks;
    }

    /// The newest segment and the block behind its last frame.
    pub(crate) fn head(&self) -> Option<(SegmentId, u32)> {
        self.list.back().map(|head| (head.id, head.end))
    }

    pub(crate) fn count(&self) -> usize {
        self.list.len()
    }

    fn position(&self, lsn: Lsn) -> Option<usize> {
        let behind = self.list.partition_point(|segment| segment.first_lsn <= lsn);
        // Segments without frames share their successor's first LSN: step back over them.
        (0..behind).rev().find(|at| !self.list[*at].starts.is_empty())
    }

    /// The segment that holds frame `lsn`.
    pub(crate) fn of(&self, lsn: Lsn) -> Option<SegmentId> {
        self.position(lsn).map(|at| self.list[at].id)
    }

    /// How many blocks the log has grown by since frame `lsn` began, about.
    pub(crate) fn blocks_since(&self, lsn: Lsn, blocks_per_segment: u64) -> u64 {
        let (Some(place), Some(head)) = (self.position(lsn), self.list.back()) else { return 0 };
        let segment = &self.list[place];
        let frame = usize::try_from(lsn.get() - segment.first_lsn.get()).ok();
        let start = frame.and_then(|frame| segment.starts.get(frame)).unwrap_or(&segment.end);
        let segments = (self.list.len() - 1 - place) as u64;
        (segments * blocks_per_segment + u64::from(head.end)).saturating_sub(u64::from(*start))
    }

    /// Counts a reference to a frame.
    pub(crate) fn hold(&mut self, lsn: Lsn) {
        if let Some(at) = self.position(lsn) {
            self.list[at].live += 1;
        }
    }

    /// Takes a reference back, by order of frame `by`.
    pub(crate) fn release(&mut self, lsn: Lsn, by: Lsn) {
        if let Some(at) = self.position(lsn) {
            let segment = &mut self.list[at];
            debug_assert!(segment.live > 0, "a reference is released once");
            segment.live = segment.live.saturating_sub(1);
            segment.dead_since = segment.dead_since.max(by);
        }
    }

    /// The oldest segment that is still needed.
    pub(crate) fn oldest_needed(&self) -> Option<SegmentId> {
        let last = self.list.back()?;
        Some(self.list.iter().find(|segment| segment.live > 0).unwrap_or(last).id)
    }

    /// The first frame of the newest `count` segments.
    pub(crate) fn newest(&self, count: usize) -> Lsn {
        let place = self.list.len().saturating_sub(count);
        self.list.get(place).map_or(Lsn(0), |segment| segment.first_lsn)
    }

    /// The first frame behind the oldest segment, unless that is the one that is being written.
    pub(crate) fn behind_oldest(&self) -> Option<Lsn> {
        self.list.get(1).map(|segment| segment.first_lsn)
    }

    /// Takes out the oldest segment if nothing in it is needed, and durably so: a durable frame
    /// behind it names the oldest segment that the log still needs.
    pub(crate) fn retire(&mut self, durable: Lsn) -> Option<SegmentId> {
        let oldest = self.list.front()?;
        let is_behind = self.of(durable).is_some_and(|segment| segment > oldest.id);
        let is_undone = oldest.dead_since > durable && Guard::RetiredOnceDurable.is_on();
        if oldest.live > 0 || is_undone || !is_behind {
            return None;
        }
        self.list.pop_front().map(|segment| segment.id)
    }

    /// The whole frames `first..=last`, which stand in one segment.
    pub(crate) fn span(&self, first: Lsn, last: Lsn) -> Option<FrameSpan> {
        let segment = &self.list[self.position(first)?];
        let from = usize::try_from(first.get() - segment.first_lsn.get()).ok()?;
        let behind = usize::try_from(last.get() - segment.first_lsn.get()).ok()? + 1;
        let start = *segment.starts.get(from)? as usize;
        let end = segment.starts.get(behind).copied().unwrap_or(segment.end) as usize;
        Some(FrameSpan {
            segment: segment.id,
            offset: (start * BLOCK_BYTES) as u64,
            len: (end - start) * BLOCK_BYTES,
            first_lsn: first,
            last_lsn: last,
        })
    }
}
