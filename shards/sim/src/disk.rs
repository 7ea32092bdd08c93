//! One core's disk: segments of the log, checkpoints, and what each kind of end leaves of them. It
//! outlives the processes that write it. It decides nothing; the world says what goes wrong.

use std::collections::{BTreeMap, BTreeSet};

use oarlock_shard::losses::Lost;
use oarlock_shard::{CheckpointFile, FileDone, FileJob};
use oarlock_types::{GroupId, Incarnation, SegmentId};
use oarlock_wal::{FrameWrite, WalConfig};

use crate::random::Stream;

/// What a disk writes as a whole.
const SECTOR_BYTES: usize = 512;
/// Segments out of use that are kept, as production keeps them.
const SPARES_MAX: usize = 2;

/// A frame on its way to the disk.
#[derive(Debug)]
pub(crate) struct Writing {
    pub(crate) frame: FrameWrite,
    pub(crate) bytes: Vec<u8>,
    /// The process that wrote it.
    pub(crate) life: u64,
}

/// What the disk does wrong at present.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DiskTrouble {
    /// Writes of the log end no earlier than this.
    pub(crate) wal_stalled_until: u64,
    /// Jobs end no earlier than this.
    pub(crate) files_stalled_until: u64,
    /// Writes take so many times as long.
    pub(crate) slowness: u64,
    /// The next write of the log fails.
    pub(crate) wal_fails: bool,
    /// File jobs fail.
    pub(crate) files_fail: bool,
    /// There is no room.
    pub(crate) full: bool,
}

/// The disk of one core.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) config: WalConfig,
    pub(crate) segments: BTreeMap<SegmentId, Vec<u8>>,
    spares: Vec<Vec<u8>>,
    /// Finished checkpoints.
    pub(crate) files: BTreeMap<CheckpointFile, Vec<u8>>,
    /// Unfinished ones: a restart does not find them.
    parts: BTreeMap<CheckpointFile, Vec<u8>>,
    /// Checkpoints removed of late: a power loss may bring them back.
    removed: Vec<(CheckpointFile, Vec<u8>)>,
    /// The log has begun, and up to here its segments were prepared: what of that is missing is lost.
    pub(crate) begun: Option<SegmentId>,
    /// The replicas here that have lost a part of their log.
    pub(crate) lost: Lost,
    /// Replicas here that were lost with the range that they were cut from, until that serves again: their own
    /// part of the log is whole.
    pub(crate) unmade: BTreeSet<GroupId>,
    /// It may have lost replicas that nobody can name, as this life of its node was the last to find.
    pub(crate) unnamed_losses: Option<Incarnation>,
    /// Frames on their way, by their number; of a process that has ended, too: until they have
    /// landed the next one does not start.
    pub(crate) writes: BTreeMap<u64, Writing>,
    pub(crate) trouble: DiskTrouble,
}

impl Disk {
    pub(crate) fn new(config: WalConfig) -> Self {
        Self {
            config,
            segments: BTreeMap::new(),
            spares: Vec::new(),
            files: BTreeMap::new(),
            parts: BTreeMap::new(),
            removed: Vec::new(),
            begun: None,
            lost: Lost::new(),
            unmade: BTreeSet::new(),
            unnamed_losses: None,
            writes: BTreeMap::new(),
            trouble: DiskTrouble::default(),
        }
    }

    /// Makes a segment, of recycled bytes where there are any; false if there is no room.
    pub(crate) fn prepare(&mut self, id: SegmentId) -> bool {
        let spare = self.spares.pop();
        if spare.is_none() && self.trouble.full {
            return false;
        }
        let length = usize::try_from(self.config.segment_bytes).expect("invariant: it fits");
        let mut bytes = spare.unwrap_or_else(|| vec![0; length]);
        let header = self.config.segment_header(id);
        bytes[..header.len()].copy_from_slice(&header);
        self.segments.insert(id, bytes);
        self.begun = Some(id);
        true
    }

    /// Takes a segment out of use.
    pub(crate) fn recycle(&mut self, id: SegmentId) {
        let bytes = self.segments.remove(&id);
        if self.spares.len() < SPARES_MAX {
            self.spares.extend(bytes);
        }
    }

    /// The frame is on the disk, whole. Gives it back, if a power loss has not taken it.
    pub(crate) fn land(&mut self, number: u64) -> Option<Writing> {
        let writing = self.writes.remove(&number)?;
        self.put(&writing, |_| true);
        Some(writing)
    }

    /// Some sectors of the frames on their way arrive, the others never do.
    pub(crate) fn tear(&mut self, random: &mut Stream) {
        for writing in std::mem::take(&mut self.writes).into_values() {
            let sectors = writing.bytes.len() / SECTOR_BYTES;
            match random.below(4) {
                // Cut at a block's boundary, at a sector's, or with holes.
                0 => {
                    let blocks = random.within(0, (sectors / 8) as u64);
                    self.put(&writing, |sector| (sector / 8) as u64 <= blocks && blocks > 0);
                }
                1 => {
                    let until = random.place(sectors + 1);
                    self.put(&writing, |sector| sector < until);
                }
                2 => {
                    let pattern: Vec<bool> = (0..sectors).map(|_| random.per_mille(500)).collect();
                    self.put(&writing, |sector| pattern[sector]);
                }
                _ => {}
            }
        }
    }

    fn put(&mut self, writing: &Writing, arrives: impl Fn(usize) -> bool) {
        // A segment that was recycled or lost meanwhile takes nothing any more.
        let Some(segment) = self.segments.get_mut(&writing.frame.segment) else { return };
        let start = usize::try_from(writing.frame.offset).expect("invariant: it fits");
        for (number, sector) in writing.bytes.chunks(SECTOR_BYTES).enumerate() {
            let at = start + number * SECTOR_BYTES;
            if arrives(number)
                && let Some(place) = segment.get_mut(at..at + sector.len())
            {
                place.copy_from_slice(sector);
            }
        }
    }

    /// The process is gone: unfinished checkpoints are never found again.
    pub(crate) fn abandon_parts(&mut self) {
        self.parts.clear();
    }

    /// Power is lost: frames on their way are torn, and a removal may not have reached the disk.
    pub(crate) fn lose_power(&mut self, random: &mut Stream) {
        self.tear(random);
        for (file, bytes) in std::mem::take(&mut self.removed) {
            if random.per_mille(300) {
                self.files.insert(file, bytes);
            }
        }
    }

    /// Does a job; `None` where nobody is told.
    pub(crate) fn carry_out(&mut self, job: FileJob) -> Option<FileDone> {
        if let FileJob::Delete { file } = job {
            self.parts.remove(&file);
            if let Some(bytes) = self.files.remove(&file) {
                self.removed.push((file, bytes));
                let surplus = self.removed.len().saturating_sub(4);
                self.removed.drain(..surplus);
            }
            return None;
        }
        let writes = matches!(job, FileJob::Append { .. } | FileJob::Finish { .. });
        if self.trouble.files_fail || (self.trouble.full && writes) {
            return Some(FileDone::Failed);
        }
        Some(match job {
            FileJob::Append { file, offset_bytes, data } => self.append(file, offset_bytes, data),
            FileJob::Finish { file } => {
                // One without data is a checkpoint too.
                let bytes = self.parts.remove(&file).unwrap_or_default();
                self.files.insert(file, bytes);
                FileDone::Written
            }
            FileJob::Read { file, offset_bytes, len_bytes } => {
                piece(self.files.get(&file), offset_bytes, len_bytes)
            }
            FileJob::ReadFrames(span) => {
                piece(self.segments.get(&span.segment), span.offset, span.len)
            }
            FileJob::Delete { .. } | FileJob::Adopt { .. } => {
                return None;
            }
        })
    }

    fn append(&mut self, file: CheckpointFile, offset_bytes: u64, data: Vec<u8>) -> FileDone {
        if offset_bytes == 0 {
            self.parts.insert(file, data);
            return FileDone::Written;
        }
        match self.parts.get_mut(&file) {
            Some(part) if part.len() as u64 == offset_bytes => {
                part.extend(data);
                FileDone::Written
            }
            Some(_) | None => FileDone::Failed,
        }
    }

    /// Flips one bit of what the log or a checkpoint holds; says where.
    pub(crate) fn flip(&mut self, random: &mut Stream) -> Option<String> {
        let in_file = random.per_mille(250) && !self.files.is_empty();
        if in_file {
            let place = random.place(self.files.len());
            let (file, bytes) = self.files.iter_mut().nth(place)?;
            if bytes.is_empty() {
                return None;
            }
            let at = random.place(bytes.len());
            bytes[at] ^= 1 << random.below(8);
            return Some(format!("byte {at} of the checkpoint of {}", file.group));
        }
        let place = random.place(self.segments.len());
        let (id, bytes) = self.segments.iter_mut().nth(place)?;
        let used = bytes.iter().rposition(|byte| *byte != 0)? + 1;
        let at = random.place(used);
        bytes[at] ^= 1 << random.below(8);
        Some(format!("byte {at} of {id}"))
    }

    /// Takes a file away; says which.
    pub(crate) fn drop_file(&mut self, random: &mut Stream) -> Option<String> {
        if random.per_mille(400) && !self.files.is_empty() {
            let place = random.place(self.files.len());
            let file = *self.files.keys().nth(place)?;
            self.files.remove(&file);
            return Some(format!("the checkpoint of {}", file.group));
        }
        let place = random.place(self.segments.len());
        let id = *self.segments.keys().nth(place)?;
        self.segments.remove(&id);
        Some(id.to_string())
    }

    /// Puts the contents of an older checkpoint into the place of a newer one; says whose.
    pub(crate) fn age_file(&mut self) -> Option<String> {
        for (old, bytes) in self.removed.iter().rev() {
            let of =
                |file: &&CheckpointFile| file.group == old.group && file.position > old.position;
            if let Some(newer) = self.files.keys().rfind(of).copied() {
                self.files.insert(newer, bytes.clone());
                return Some(format!("the checkpoint of {}", newer.group));
            }
        }
        None
    }

    /// All that the log and the checkpoints held is gone; only the mark that there was something
    /// is left.
    pub(crate) fn lose_all(&mut self) -> Option<String> {
        self.segments.clear();
        self.spares.clear();
        self.files.clear();
        self.parts.clear();
        self.removed.clear();
        self.writes.clear();
        self.begun.map(|_| "all of its files".to_owned())
    }

    /// Exchanges the contents of two segments; says which.
    pub(crate) fn swap_files(&mut self, random: &mut Stream) -> Option<String> {
        let ids: Vec<SegmentId> = self.segments.keys().copied().collect();
        let (one, two) = (*ids.get(random.place(ids.len()))?, *ids.get(random.place(ids.len()))?);
        if one == two {
            return None;
        }
        let (a, b) = (self.segments.remove(&one)?, self.segments.remove(&two)?);
        self.segments.insert(one, b);
        self.segments.insert(two, a);
        Some(format!("{one} and {two}"))
    }
}

fn piece(bytes: Option<&Vec<u8>>, offset_bytes: u64, len_bytes: usize) -> FileDone {
    let from = usize::try_from(offset_bytes).expect("invariant: it fits");
    match bytes.and_then(|bytes| bytes.get(from..)) {
        Some(rest) => FileDone::Read(rest[..len_bytes.min(rest.len())].to_vec().into()),
        None => FileDone::Failed,
    }
}
