//! From the bytes of a log's segments back to its state. Lives as long as one start. The segments
//! are fed in order of id; everything that is not as the log left it is told, with its place.
//!
//! How a frame that does not check is judged:
//! - one write is in flight at a time, so a frame with **any** later frame behind it (in its own
//!   segment, or the next LSN but one in a later segment) was durable: it is **corrupt**;
//! - without a later frame it is the last one. Its head is right, or its first sector's stamp is
//!   there: then those sectors were written, and it is **corrupt** if no stamp is missing (a stamp
//!   with up to two wrong bits counts as there), or if the head is not readable; it is **torn** if a
//!   stamp is missing. A torn frame was never reported durable, and is cut;
//! - a head with a single wrong bit is put right;
//! - the last frame before a restart may be cut by that recovery and be complete later (the write
//!   landed late). The next segment then begins with the same LSN, and the earlier frame is void.
//!
//! A frame whose head is right but whose payload is not costs only the groups whose records do
//! not check; anything that leaves the extent open costs all groups of the core, until a later
//! record destroys or creates the group afresh.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use oarlock_codec::record::{Records, Step};
use oarlock_types::{GroupId, Guard, Lsn, SegmentId};

use crate::damage::{Affected, Damage, DamageKind};
use crate::index::LogIndex;
use crate::layout::{self, BLOCK_BYTES, FrameHead, FrameKey, HeaderError};
use crate::replay::{RecoveredGroup, Replay, Suspicion};
use crate::segments::Segments;
use crate::wal::{Wal, WalConfig, note_of};

/// How many LSNs ahead a frame without a head is looked for by its stamps.
const LATER_LSNS: u64 = 8;

/// What a log held.
#[derive(Debug)]
pub struct Recovered {
    /// The log, ready to go on in a new segment.
    pub wal: Wal,
    /// Its groups. Of a damaged one the caller must durably dispose (destroy it, or create it
    /// afresh) before it does anything else with it: once the log goes on, some kinds of damage can
    /// no longer be seen.
    pub groups: BTreeMap<GroupId, RecoveredGroup>,
    /// What was not as it should be. Empty after any crash of a sound disk.
    pub damage: Vec<Damage>,
    /// Where a write was cut short by the last crash; no harm.
    pub torn: Option<(SegmentId, u64)>,
    /// What may have been lost without a trace.
    pub suspicion: Suspicion,
    /// What each segment held.
    pub segments: Vec<SegmentReport>,
}

/// What recovery saw of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentReport {
    /// The segment.
    pub segment: SegmentId,
    /// Frames that are part of the log.
    pub frames_count: u64,
    /// The first and the last of them.
    pub lsns: Option<(Lsn, Lsn)>,
    /// Records in them.
    pub records_count: u64,
    /// Groups with records in them.
    pub groups: BTreeSet<GroupId>,
    /// Bytes from the file's start to behind the last of them.
    pub used_bytes: u64,
}

/// A frame that was found but not taken yet: what follows decides about it.
#[derive(Debug)]
struct Found {
    segment: SegmentId,
    offset: usize,
    lsn: Lsn,
    head: FrameHead,
    payload: Vec<u8>,
    whole: bool,
    repaired: bool,
}

/// How a segment's frames end.
#[derive(Debug)]
enum Tail {
    /// Nothing was written behind the last frame.
    Clean,
    /// A write was cut short.
    Torn,
    /// A frame was written whole and has changed since; with what can be read of it.
    Corrupt(Option<Found>),
}

/// Rebuilds a log from its segments.
#[derive(Debug)]
pub struct Recovery {
    config: WalConfig,
    segments: Segments,
    index: LogIndex,
    replay: Replay,
    damage: Vec<Damage>,
    reports: Vec<SegmentReport>,
    /// The LSN that is due next; unknown before the first frame of a log whose beginning is gone.
    expected: Option<Lsn>,
    /// The last frame of the newest segment with frames.
    held: Option<Found>,
    /// How that segment ends, and where.
    tail: (Tail, SegmentId, usize),
    torn: Option<(SegmentId, u64)>,
    /// Segments of the wrong length whose lost end may have held frames, with their place in
    /// `damage`.
    cut_short: Vec<(SegmentId, usize)>,
    /// The oldest segment that the newest frame needs.
    oldest: Option<SegmentId>,
    /// The first frame that is part of the log, and its segment.
    first_frame: Option<(SegmentId, Lsn)>,
    first: Option<SegmentId>,
    last: Option<SegmentId>,
    /// Segments behind the newest one with frames that were never written.
    unused: Vec<SegmentId>,
    /// The newest segment that was ever prepared, if that is known.
    newest: Option<SegmentId>,
}

impl Recovery {
    /// The recovery of a log of this configuration.
    ///
    /// # Panics
    /// When the sizes do not fit each other.
    #[must_use]
    pub fn new(config: WalConfig) -> Self {
        config.check();
        Self {
            config,
            segments: Segments::default(),
            index: LogIndex::default(),
            replay: Replay::default(),
            damage: Vec::new(),
            reports: Vec::new(),
            expected: None,
            held: None,
            tail: (Tail::Clean, SegmentId(0), 0),
            torn: None,
            cut_short: Vec::new(),
            oldest: None,
            first_frame: None,
            first: None,
            last: None,
            unused: Vec::new(),
            newest: None,
        }
    }

    /// Says that segments up to this one were prepared: what of them is not fed is missing, also behind
    /// the last that is. Nothing in a log tells where it ended once its newest files are gone.
    pub fn expect_up_to(&mut self, newest: SegmentId) {
        self.newest = Some(newest);
    }

    /// Takes the next segment: the id of its file name and the whole file.
    ///
    /// # Panics
    /// When segments do not come in ascending order.
    pub fn feed(&mut self, id: SegmentId, bytes: &[u8]) {
        assert!(self.last.is_none_or(|last| last < id), "segments are fed in order");
        if let Some(last) = self.last {
            self.lose_segments(last.next(), id);
        }
        self.last = Some(id);
        self.first.get_or_insert(id);
        if id == SegmentId(1) {
            self.expected = Some(Lsn(1));
        }
        self.reports.push(SegmentReport {
            segment: id,
            frames_count: 0,
            lsns: None,
            records_count: 0,
            groups: BTreeSet::new(),
            used_bytes: BLOCK_BYTES as u64,
        });
        if self.header(id, bytes) {
            self.frames(id, bytes);
        } else {
            // It is let go of in its turn: else it would be told at every start, and what was created anew
            // since, in a frame that is long gone, be called lost with it.
            self.unused.push(id);
        }
    }

    /// Checks a segment's header; whether its frames are to be read.
    fn header(&mut self, id: SegmentId, bytes: &[u8]) -> bool {
        let mut wanted_bytes = self.config.segment_bytes;
        let fatal = match layout::read_segment_header(bytes) {
            Err(HeaderError::Invalid) => {
                self.lose(id, 0, DamageKind::BadHeader, Affected::Groups(Vec::new()));
                None
            }
            Err(HeaderError::NewerVersion(found)) => Some(DamageKind::NewerVersion { found }),
            Ok(header) if header.owner != self.config.owner => {
                Some(DamageKind::ForeignSegment { owner: header.owner })
            }
            Ok(header) if header.segment != id => {
                Some(DamageKind::WrongSegment { found: header.segment })
            }
            Ok(header) => {
                wanted_bytes = header.segment_bytes;
                None
            }
        };
        if let Some(kind) = fatal {
            self.lose(id, 0, kind, Affected::All);
            return false;
        }
        let found = bytes.len() as u64;
        if found != wanted_bytes {
            let kind = DamageKind::WrongLength { found, expected: wanted_bytes };
            self.lose(id, found, kind, Affected::Groups(Vec::new()));
            self.cut_short.push((id, self.damage.len() - 1));
        }
        true
    }

    fn frames(&mut self, id: SegmentId, bytes: &[u8]) {
        let key = self.config.key(id);
        if let Some((at, found)) = layout::newer_frame(key, bytes) {
            self.lose(id, at as u64, DamageKind::NewerVersion { found }, Affected::All);
            self.unused.push(id);
            return;
        }
        let mut offset = BLOCK_BYTES;
        let mut opened = false;
        let first = bytes.get(offset..).and_then(|rest| {
            layout::read_head(key, rest).or_else(|| layout::repair_head(key, None, rest))
        });
        if let Some(head) = first {
            let is_trusted = self.expected.is_none();
            self.open(id, Some(head.lsn));
            opened = true;
            // Nothing says with which frame the log begins: not with one that has older ones behind it.
            if is_trusted && let Some(expected) = older_frame(key, bytes, head.lsn) {
                let kind = DamageKind::RepeatedFrames { found: head.lsn, expected };
                self.lose(id, offset as u64, kind, Affected::All);
            }
        }
        let tail = loop {
            match self.find(key, bytes, offset) {
                Some(found) if found.whole => {
                    offset += found.head.frame_bytes();
                    self.release_held();
                    self.expected = Some(found.lsn.next());
                    self.held = Some(found);
                }
                other => match self.later_frame(key, bytes, offset, other.as_ref()) {
                    Some((at, lsn)) => {
                        if !opened {
                            self.open(id, None);
                            opened = true;
                        }
                        self.skip(other, (id, offset), (at, lsn));
                        offset = at;
                    }
                    None => break self.judge_tail(key, bytes, offset, other),
                },
            }
        };
        if !opened && matches!(tail, Tail::Clean) {
            self.unused.push(id);
            return;
        }
        if !opened {
            self.open(id, None);
        }
        self.tail = (tail, id, offset);
    }

    /// Begins a segment whose first frame is `first`, if that can be told; what stood undecided at
    /// the end of the one before is decided by it.
    fn open(&mut self, id: SegmentId, first: Option<Lsn>) {
        self.close(first, id);
        for segment in std::mem::take(&mut self.unused).into_iter().chain([id]) {
            self.segments.begin(segment, self.expected.unwrap_or_default());
        }
    }

    /// Decides about the ends of the segments before `until`, given its first LSN.
    fn close(&mut self, next: Option<Lsn>, until: SegmentId) {
        if next.is_some() && self.held.as_ref().map(|held| held.lsn) == next {
            // The recovery before this one did not see this frame: nobody was told that it is
            // durable, and its LSN was given to the next segment's first.
            self.held = None;
            self.expected = next;
        }
        self.release_held();
        let (tail, segment, offset) =
            std::mem::replace(&mut self.tail, (Tail::Clean, SegmentId(0), 0));
        let due = next.is_some() && (next == self.expected || self.expected.is_none());
        let (cut_short, later) = self.cut_short.iter().partition(|(id, _)| *id < until);
        self.cut_short = later;
        if due {
            self.expected = next;
            return;
        }
        match tail {
            Tail::Clean => {}
            Tail::Torn if next.is_none() => self.torn = Some((segment, offset as u64)),
            Tail::Torn => {}
            Tail::Corrupt(Some(found)) => {
                self.expected = Some(found.lsn.next());
                self.take(found);
                // What was lost behind it came later than what it makes.
                if self.damage.iter().any(|d| d.affected == Affected::All && d.segment > segment) {
                    self.replay.damage_all();
                }
            }
            Tail::Corrupt(None) => {
                let lsn = self.expected.unwrap_or_default();
                self.expected = Some(lsn.next());
                self.lose(segment, offset as u64, DamageKind::CorruptFrame { lsn }, Affected::All);
            }
        }
        let cut_short: Vec<(SegmentId, usize)> = cut_short;
        for (_, at) in cut_short {
            self.damage[at].affected = Affected::All;
            self.replay.damage_all();
        }
        let (Some(next), Some(expected)) = (next, self.expected) else { return };
        let (segment, offset) =
            if segment == SegmentId(0) { (until, BLOCK_BYTES) } else { (segment, offset) };
        if next > expected {
            let kind = DamageKind::MissingFrames { from: expected, until: next };
            self.lose(segment, offset as u64, kind, Affected::All);
        } else if next < expected {
            let kind = DamageKind::RepeatedFrames { found: next, expected };
            self.lose(segment, offset as u64, kind, Affected::All);
        }
        self.expected = Some(next);
    }

    /// Passes over what does not check, up to frame `next` at `at`, which proves that it was durable.
    fn skip(
        &mut self,
        lost: Option<Found>,
        (segment, offset): (SegmentId, usize),
        (at, next): (usize, Lsn),
    ) {
        self.release_held();
        let mut end = offset;
        if let Some(lost) = lost {
            self.expected = Some(lost.lsn.next());
            end += lost.head.frame_bytes();
            self.take(lost);
        }
        if self.expected != Some(next) {
            let lsn = self.expected.unwrap_or_default();
            let kind = if lsn.next() == next {
                DamageKind::CorruptFrame { lsn }
            } else {
                DamageKind::MissingFrames { from: lsn, until: next }
            };
            self.lose(segment, offset as u64, kind, Affected::All);
            self.expected = Some(next);
        } else if end < at {
            // Frames stand without gaps: the one before came here from elsewhere, over what was here.
            let kind = DamageKind::MissingFrames { from: Lsn(0), until: next };
            self.lose(segment, end as u64, kind, Affected::All);
        }
    }

    fn release_held(&mut self) {
        if let Some(held) = self.held.take() {
            self.take(held);
        }
    }

    /// Makes a frame part of the log; if its payload does not check, as much of it as does.
    fn take(&mut self, found: Found) {
        let blocks = |bytes: usize| {
            u32::try_from(bytes / BLOCK_BYTES)
                .expect("invariant: the configuration bounds a segment's blocks")
        };
        let bytes = found.head.frame_bytes();
        self.segments.push_frame(found.lsn, blocks(found.offset), blocks(bytes));
        self.oldest = Some(found.head.oldest);
        self.first_frame.get_or_insert((found.segment, found.lsn));
        let mut affected: BTreeSet<GroupId> = BTreeSet::new();
        let (mut lost, mut unknown) = (false, BTreeSet::new());
        let mut records_count = 0;
        let mut groups = BTreeSet::new();
        for step in Records::new(&found.payload) {
            match step {
                Step::Record(raw) => {
                    records_count += 1;
                    groups.insert(raw.group);
                    let Ok(record) = raw.decode() else {
                        unknown.insert(raw.group);
                        continue;
                    };
                    let note = note_of(&record, raw.moved, raw.size_bytes() as u64);
                    self.index.apply(&note, found.lsn, &mut self.segments);
                    self.replay.apply(record, raw.moved);
                }
                Step::Bad { group } => {
                    affected.insert(group);
                    self.replay.damage(group);
                }
                Step::Unknown { group } => {
                    unknown.insert(group);
                }
                Step::Lost => lost = true,
            }
        }
        lost |= !found.whole && affected.is_empty();
        if !unknown.is_empty() {
            unknown.iter().for_each(|group| self.replay.damage(*group));
            let groups = Affected::Groups(unknown.into_iter().collect());
            let kind = DamageKind::UnknownRecord { lsn: found.lsn };
            self.lose(found.segment, found.offset as u64, kind, groups);
        }
        if let Some(report) = self.reports.iter_mut().rfind(|r| r.segment == found.segment) {
            report.frames_count += 1;
            report.lsns = Some((report.lsns.map_or(found.lsn, |(first, _)| first), found.lsn));
            report.records_count += records_count;
            report.groups.extend(groups);
            report.used_bytes = (found.offset + bytes) as u64;
        }
        let at = found.offset as u64;
        if lost || !affected.is_empty() {
            let groups = Affected::Groups(affected.into_iter().collect());
            let affected = if lost { Affected::All } else { groups };
            self.lose(found.segment, at, DamageKind::CorruptFrame { lsn: found.lsn }, affected);
        } else if found.repaired {
            let kind = DamageKind::RepairedFrame { lsn: found.lsn };
            self.lose(found.segment, at, kind, Affected::Groups(Vec::new()));
        }
    }

    fn lose(&mut self, segment: SegmentId, offset: u64, kind: DamageKind, affected: Affected) {
        if affected == Affected::All {
            // What was found before it is older: a later creation must not be undone by it.
            self.release_held();
            self.replay.damage_all();
        }
        self.damage.push(Damage { segment, offset, kind, affected });
    }

    /// All segments of these ids are missing. They are told as one: a file whose name is wrong may be
    /// any number of them ahead.
    fn lose_segments(&mut self, from: SegmentId, until: SegmentId) {
        if from < until {
            let count = until.get() - from.get();
            self.lose(from, 0, DamageKind::MissingSegments { count }, Affected::All);
        }
    }

    /// The log as it was, once the last segment was fed.
    #[must_use]
    pub fn finish(mut self) -> Recovered {
        let cut_short = !self.cut_short.is_empty();
        self.close(None, SegmentId(u64::MAX));
        if let (Some(last), Some(newest)) = (self.last, self.newest)
            && Guard::NewestSegmentIsMissed.is_on()
        {
            self.lose_segments(last.next(), newest.next());
            self.last = Some(last.max(newest));
        }
        if cut_short {
            // One LSN is left out, so that the next recovery sees that something is missing here.
            self.expected = self.expected.map(Lsn::next);
        }
        if let Some(first) = self.first {
            // Without a frame nothing says that the segments before the first were not needed.
            self.lose_segments(self.oldest.unwrap_or(SegmentId(1)), first);
        }
        if let (Some(oldest), Some((first, until))) = (self.oldest, self.first_frame)
            && oldest < first
            && self.first.is_some_and(|there| there <= oldest)
        {
            // A segment that is needed has frames, and this one is there without any.
            let kind = DamageKind::MissingFrames { from: Lsn(0), until };
            self.lose(oldest, BLOCK_BYTES as u64, kind, Affected::All);
        }
        // The newest segment that may have held records of any group: the log goes on behind it.
        let lost = self.damage.iter().filter(|damage| damage.affected == Affected::All);
        let hurt = lost.map(|damage| damage.segment).max();
        let (groups, incomplete, suspicion) = self.replay.finish();
        if !incomplete.is_empty() {
            let (segment, offset) = (self.last.unwrap_or_default(), 0);
            let (kind, affected) = (DamageKind::IncompleteGroup, Affected::Groups(incomplete));
            self.damage.push(Damage { segment, offset, kind, affected });
        }
        let mut unused = VecDeque::from(self.unused);
        let end = self.config.segment_bytes / BLOCK_BYTES as u64;
        let longest = (self.config.frame_bytes_max / BLOCK_BYTES) as u64;
        let next_lsn = self.expected.unwrap_or(Lsn(1));
        if self.segments.head().is_none_or(|(_, used)| u64::from(used) + longest > end)
            && let Some(segment) = unused.pop_front()
        {
            // The last process's write may still be on its way to this segment: it is passed over.
            self.segments.begin(segment, next_lsn);
        }
        while let Some(segment) = unused.pop_front_if(|id| Some(*id) <= hurt) {
            // What would be written here would be called lost at every start: passed over, too.
            self.segments.begin(segment, next_lsn);
        }
        // The last id of all has none behind it; there the next segment is refused as one in use.
        let behind = |last: SegmentId| SegmentId(last.get().saturating_add(1));
        let next_segment = self.last.map_or(SegmentId(1), behind);
        let durable = Lsn(next_lsn.get().saturating_sub(1));
        let mut wal = Wal::resume(self.config, self.segments, self.index, next_segment, durable);
        wal.adopt(unused.into_iter());
        let (damage, torn, segments) = (self.damage, self.torn, self.reports);
        Recovered { wal, groups, damage, torn, suspicion, segments }
    }

    /// Reads the frame at `offset` if a head of this segment and of the LSN that is due (any, if
    /// that is not known) stands there.
    fn find(&self, key: FrameKey, bytes: &[u8], offset: usize) -> Option<Found> {
        let rest = bytes.get(offset..)?;
        let due = |head: &FrameHead| self.expected.is_none_or(|lsn| head.lsn == lsn);
        let head = layout::read_head(key, rest).filter(due);
        let repaired = head.is_none();
        let head = head.or_else(|| layout::repair_head(key, self.expected, rest))?;
        let mut payload = Vec::new();
        let whole = layout::read_payload(&head, rest, &mut payload);
        Some(Found { segment: key.segment, offset, lsn: head.lsn, head, payload, whole, repaired })
    }

    /// The place and LSN of the first frame that proves that what was due at `offset` was durable, of
    /// which `found` can be read.
    fn later_frame(
        &self,
        key: FrameKey,
        bytes: &[u8],
        offset: usize,
        found: Option<&Found>,
    ) -> Option<(usize, Lsn)> {
        if !Guard::LaterFrameProvesEarlier.is_on() {
            return None;
        }
        (offset..bytes.len()).step_by(BLOCK_BYTES).find_map(|at| {
            let rest = &bytes[at..];
            if let Some(head) = layout::read_head(key, rest) {
                let due = found.map(|found| found.lsn.next()).or(self.expected);
                // The very one that is due, but further on, had others before it.
                let later = due.map_or(at > offset, |due| head.lsn >= due);
                // The stamp keeps payload bytes that only look like a head from being taken for one.
                let stamped = layout::stamps(key, head.lsn, layout::SECTOR_BYTES, rest).first;
                return (later && stamped).then_some((at, head.lsn));
            }
            // A head may be gone and other sectors of its block still be there.
            let next = self.expected.filter(|_| at > offset)?.next();
            let near = (next.get()..next.get() + LATER_LSNS).map(Lsn);
            near.into_iter()
                .find(|lsn| layout::stamps(key, *lsn, BLOCK_BYTES, rest).any)
                .map(|lsn| (at, lsn))
        })
    }

    fn judge_tail(&self, key: FrameKey, bytes: &[u8], offset: usize, found: Option<Found>) -> Tail {
        let rest = bytes.get(offset..).unwrap_or_default();
        if let Some(found) = found {
            let stamps = layout::stamps(key, found.lsn, found.head.frame_bytes(), rest);
            let is_corrupt = if stamps.all {
                Guard::DamagedTailIsTold.is_on()
            } else {
                !Guard::TornTailIsCut.is_on()
            };
            return if is_corrupt { Tail::Corrupt(Some(found)) } else { Tail::Torn };
        }
        let Some(lsn) = self.expected else { return Tail::Clean };
        let longest = self.config.frame_bytes_max.min(rest.len());
        let stamps = layout::stamps(key, lsn, longest, rest);
        match (stamps.first, stamps.any) {
            (true, _) if Guard::DamagedTailIsTold.is_on() => Tail::Corrupt(None),
            (true, _) => Tail::Torn,
            (false, true) => Tail::Torn,
            (false, false) => Tail::Clean,
        }
    }
}

/// The LSN of the oldest frame of a segment that is older than `first`, which stands before all others.
fn older_frame(key: FrameKey, bytes: &[u8], first: Lsn) -> Option<Lsn> {
    let blocks = (BLOCK_BYTES..bytes.len()).step_by(BLOCK_BYTES).map(|at| &bytes[at..]);
    let stamped = blocks.filter_map(|rest| {
        let lsn = layout::read_head(key, rest)?.lsn;
        layout::stamps(key, lsn, layout::SECTOR_BYTES, rest).first.then_some(lsn)
    });
    stamped.filter(|lsn| *lsn < first).min()
}
