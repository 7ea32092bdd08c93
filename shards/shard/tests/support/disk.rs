//! One core's disk in memory: segments of the log, checkpoints, and what a power loss leaves of
//! them. One per core; it outlives the process that writes it.

use std::collections::BTreeMap;

use oarlock_codec::Record;
use oarlock_codec::record::{Records, Step};
use oarlock_shard::{CheckpointFile, FileDone, FileJob};
use oarlock_types::SegmentId;
use oarlock_wal::layout::{self, FrameKey};
use oarlock_wal::{FrameWrite, Recovered, Recovery, Wal, WalConfig};

#[derive(Debug)]
pub struct Disk {
    pub config: WalConfig,
    pub segments: BTreeMap<SegmentId, Vec<u8>>,
    spares: Vec<Vec<u8>>,
    /// Finished checkpoints.
    pub files: BTreeMap<CheckpointFile, Vec<u8>>,
    /// Unfinished ones: a restart does not find them.
    pub parts: BTreeMap<CheckpointFile, Vec<u8>>,
    /// Every file job fails.
    pub fails: bool,
    /// No checkpoint can be written.
    pub appends_fail: bool,
    /// No segment is made ready.
    pub full: bool,
    pub frames_count: u64,
    /// How often frames were read back, for followers and for copying.
    pub frame_reads_count: u64,
    /// Bytes of frames that were written.
    pub frames_bytes: usize,
    /// Bytes of frames that were read back.
    pub frames_read_bytes: usize,
    /// The most segments that there were.
    pub segments_count_max: usize,
}

impl Disk {
    pub fn new(config: WalConfig) -> Self {
        Self {
            config,
            segments: BTreeMap::new(),
            spares: Vec::new(),
            files: BTreeMap::new(),
            parts: BTreeMap::new(),
            fails: false,
            appends_fail: false,
            full: false,
            frames_count: 0,
            frame_reads_count: 0,
            frames_bytes: 0,
            frames_read_bytes: 0,
            segments_count_max: 0,
        }
    }

    /// Makes segments ready, of recycled bytes where there are any, and takes retired ones back.
    pub fn serve(&mut self, wal: &mut Wal) {
        while let Some(id) = wal.retire() {
            self.spares.extend(self.segments.remove(&id));
        }
        while let Some(id) = wal.next_segment_wanted().filter(|_| !self.full) {
            let length = usize::try_from(self.config.segment_bytes).unwrap();
            let mut bytes = self.spares.pop().unwrap_or_else(|| vec![0; length]);
            let header = self.config.segment_header(id);
            bytes[..header.len()].copy_from_slice(&header);
            self.segments.insert(id, bytes);
            wal.segment_prepared(id);
        }
        self.segments_count_max = self.segments_count_max.max(self.segments.len());
    }

    /// Writes the first `len` bytes of a frame: all of it, or what a power loss let through.
    pub fn write(&mut self, write: &FrameWrite, bytes: &[u8], len: usize) {
        let at = usize::try_from(write.offset).unwrap();
        let segment = self.segments.get_mut(&write.segment).expect("a frame goes to a segment");
        segment[at..at + len].copy_from_slice(&bytes[..len]);
        self.frames_count += 1;
        self.frames_bytes += len;
    }

    /// The records of a frame, in order, each with whether it was moved.
    pub fn records(&self, segment: SegmentId, bytes: &[u8]) -> Vec<(Record, bool)> {
        let key = FrameKey::new(&self.config.owner, segment);
        let head = layout::read_head(key, bytes).expect("the log writes what it can read");
        let mut payload = Vec::new();
        assert!(layout::read_payload(&head, bytes, &mut payload));
        let read = |step| match step {
            Step::Record(raw) => (raw.decode().unwrap(), raw.moved),
            Step::Bad { .. } | Step::Unknown { .. } | Step::Lost => {
                panic!("the log writes what it can read")
            }
        };
        Records::new(&payload).map(read).collect()
    }

    pub fn carry_out(&mut self, job: FileJob) -> Option<FileDone> {
        if let FileJob::Delete { file } = job {
            self.files.remove(&file);
            self.parts.remove(&file);
            return None;
        }
        let is_append = matches!(job, FileJob::Append { .. });
        if self.fails || (self.appends_fail && is_append) {
            return Some(FileDone::Failed);
        }
        Some(match job {
            FileJob::Append { file, offset_bytes, data } => self.append(file, offset_bytes, data),
            FileJob::Finish { file } => match self.parts.remove(&file) {
                Some(bytes) => {
                    self.files.insert(file, bytes);
                    FileDone::Written
                }
                None => FileDone::Failed,
            },
            FileJob::Read { file, offset_bytes, len_bytes } => {
                let from = usize::try_from(offset_bytes).unwrap();
                let found = self.files.get(&file).and_then(|bytes| bytes.get(from..));
                match found {
                    Some(rest) => FileDone::Read(rest[..len_bytes.min(rest.len())].to_vec().into()),
                    None => FileDone::Failed,
                }
            }
            FileJob::ReadFrames(span) => {
                self.frame_reads_count += 1;
                self.frames_read_bytes += span.len;
                let from = usize::try_from(span.offset).unwrap();
                match self.segments.get(&span.segment) {
                    Some(bytes) => FileDone::Read(bytes[from..from + span.len].to_vec().into()),
                    None => FileDone::Failed,
                }
            }
            // No replica here goes from core to core: the simulator has those.
            FileJob::Adopt { .. } => FileDone::Failed,
            FileJob::Delete { .. } => return None,
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

    /// Changes a byte of the oldest segment.
    pub fn damage(&mut self, at: usize) {
        let bytes = self.segments.values_mut().next().expect("a segment is there");
        bytes[at] ^= 0xff;
    }

    pub fn recover(&mut self) -> Recovered {
        self.parts.clear();
        let mut recovery = Recovery::new(self.config);
        for (id, bytes) in &self.segments {
            recovery.feed(*id, bytes);
        }
        recovery.finish()
    }
}
