//! A core's errands to the disk worker: checkpoints, old log, and segments for the log.
//!
//! One per core. It keeps nobody waiting: what the worker's queue does not take now is offered
//! again with the next turn.

use std::collections::VecDeque;
use std::time::Duration;

use oarlock_cluster::MapCopy;
use oarlock_shard::{FileDone, FileJob, JobToken};
use oarlock_types::{CoreId, FastMap, FeatureLevel, Mono};
use oarlock_wal::Wal;

use super::log_writer::LogWriter;
use crate::disk::job::{DiskDone, DiskError, DiskJob, DiskOutcome, DiskRequest};
use crate::disk::layout::CheckpointName;
use crate::disk::worker::DiskHandle;

/// How often a core looks how much room its file system has.
const SPACE_INTERVAL: Duration = Duration::from_millis(500);

/// What a job of the worker is for.
#[derive(Debug)]
enum Errand {
    Shard(JobToken),
    Segment,
    Space,
    /// The copy of the map, of this level.
    Map(DurableCopy),
    Nobody,
}

/// The errands of one core.
#[derive(Debug)]
pub struct Files {
    core: CoreId,
    worker: DiskHandle,
    reserve_bytes: u64,
    next: u64,
    errands: FastMap<u64, Errand>,
    unsubmitted: VecDeque<DiskRequest>,
    /// The file system has less room than the reserve.
    is_low: bool,
    /// A segment could not be made for lack of room.
    is_stuck: bool,
    /// It is time to try again to make one.
    is_retry_due: bool,
    space_asked_at: Mono,
    durable: Option<DurableCopy>,
}

/// What stands in the newest copy of the map that is durable.
#[derive(Clone, Copy, Debug)]
pub struct DurableCopy {
    /// The cluster's feature level.
    pub level: FeatureLevel,
    /// How many nodes have joined.
    pub members: usize,
}

impl Files {
    /// Errands of this core; writes stop when less than `reserve_bytes` are left on the disk.
    #[must_use]
    pub fn new(core: CoreId, worker: DiskHandle, reserve_bytes: u64) -> Self {
        Self {
            core,
            worker,
            reserve_bytes,
            next: 0,
            errands: FastMap::default(),
            unsubmitted: VecDeque::new(),
            is_low: false,
            is_stuck: false,
            is_retry_due: false,
            space_asked_at: Mono(0),
            durable: None,
        }
    }

    /// Whether clients' writes are to be refused.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        self.is_low || self.is_stuck
    }

    /// Starts a job of the shard.
    pub fn start(&mut self, token: JobToken, job: FileJob) {
        let (errand, job) = match job {
            FileJob::Append { file, offset_bytes, data } => {
                let name = CheckpointName::from(file);
                let data = data.into();
                (Errand::Shard(token), DiskJob::CheckpointAppend { name, offset_bytes, data })
            }
            FileJob::Finish { file } => {
                (Errand::Shard(token), DiskJob::CheckpointSeal { name: CheckpointName::from(file) })
            }
            FileJob::Read { file, offset_bytes, len_bytes } => {
                let name = CheckpointName::from(file);
                let job = DiskJob::CheckpointRead { name, offset_bytes, len: len_bytes };
                (Errand::Shard(token), job)
            }
            FileJob::Adopt { file, from } => {
                let name = CheckpointName::from(file);
                (Errand::Shard(token), DiskJob::CheckpointAdopt { name, from })
            }
            FileJob::Delete { file } => {
                (Errand::Nobody, DiskJob::CheckpointDelete { name: CheckpointName::from(file) })
            }
            FileJob::ReadFrames(span) => {
                let (segment, offset_bytes, len) = (span.segment, span.offset, span.len);
                (Errand::Shard(token), DiskJob::ReadWal { segment, offset_bytes, len })
            }
        };
        self.submit(errand, job);
    }

    fn submit(&mut self, errand: Errand, job: DiskJob) {
        self.next += 1;
        self.errands.insert(self.next, errand);
        let request = DiskRequest { core: self.core, token: self.next, job };
        self.unsubmitted.push_back(request);
        self.offer();
    }

    fn offer(&mut self) {
        while let Some(request) = self.unsubmitted.pop_front() {
            if let Err(request) = self.worker.submit(request) {
                self.unsubmitted.push_front(request);
                return;
            }
        }
    }

    /// Writes the node's copy of the map.
    pub fn copy_map(&mut self, copy: MapCopy) {
        let (level, members) = (copy.level, copy.members.len());
        self.submit(Errand::Map(DurableCopy { level, members }), DiskJob::CopyMap(Box::new(copy)));
    }

    /// The newest copy of the map that is durable, if one was written since the start.
    #[must_use]
    pub fn durable_copy(&self) -> Option<DurableCopy> {
        self.durable
    }

    /// Sees to it that the log has segments and that the room on the disk is known.
    pub fn upkeep(&mut self, now: Mono, log: &mut LogWriter, wal: &mut Wal) {
        self.offer();
        // What could not be made for lack of room is tried again with each look at the room.
        if (!self.is_stuck || std::mem::take(&mut self.is_retry_due))
            && let Some(job) = log.next_to_prepare(wal)
        {
            self.submit(Errand::Segment, job);
        }
        while let Some(segment) = wal.retire() {
            self.submit(Errand::Nobody, DiskJob::RecycleSegment { segment });
        }
        if now.since(self.space_asked_at) >= SPACE_INTERVAL {
            self.space_asked_at = now;
            self.is_retry_due = true;
            self.submit(Errand::Space, DiskJob::FreeSpace);
        }
    }

    /// Takes an answer of the worker: the shard's is given back, the others are seen to.
    pub fn done(
        &mut self,
        done: DiskDone,
        log: &mut LogWriter,
        wal: &mut Wal,
    ) -> Option<(JobToken, FileDone)> {
        let errand = self.errands.remove(&done.token)?;
        if let Err(error) = &done.result {
            self.complain(error);
        }
        match (errand, done.result) {
            (Errand::Shard(token), Ok(outcome)) => Some((token, shard_outcome(outcome))),
            (Errand::Shard(token), Err(_)) => Some((token, FileDone::Failed)),
            (Errand::Segment, Ok(DiskOutcome::Segment(file))) => {
                log.prepared(wal, file);
                self.is_stuck = false;
                None
            }
            (Errand::Segment, Ok(_) | Err(_)) => {
                log.not_prepared();
                self.is_stuck = true;
                None
            }
            (Errand::Space, Ok(DiskOutcome::Space(space))) => {
                self.room(space.available_bytes);
                None
            }
            // They are written in the order in which they were taken.
            (Errand::Map(copy), Ok(_)) => {
                self.durable = Some(copy);
                None
            }
            (Errand::Space | Errand::Map(_) | Errand::Nobody, Ok(_) | Err(_)) => None,
        }
    }

    fn room(&mut self, available_bytes: u64) {
        let is_low = available_bytes < self.reserve_bytes;
        let core = self.core;
        if is_low && !self.is_low {
            tracing::error!(
                "{core}: the disk is nearly full ({available_bytes} bytes are left, \
                 disk_reserve_bytes is {}): writes are refused until space is freed; reads go on",
                self.reserve_bytes
            );
        } else if !is_low && self.is_low {
            tracing::info!("{core}: the disk has room again: writes are taken again");
        }
        self.is_low = is_low;
    }

    fn complain(&self, error: &DiskError) {
        // A full disk is told once, with the room that is left.
        if !(self.is_low && matches!(error, DiskError::DiskFull { .. })) {
            tracing::error!("{}: {error}", self.core);
        }
    }
}

fn shard_outcome(outcome: DiskOutcome) -> FileDone {
    match outcome {
        DiskOutcome::Bytes { data } => FileDone::Read(data),
        DiskOutcome::Appended { .. }
        | DiskOutcome::Finished { .. }
        | DiskOutcome::Adopted
        | DiskOutcome::Deleted
        | DiskOutcome::Recycled => FileDone::Written,
        DiskOutcome::Segment(_)
        | DiskOutcome::Checkpoints(_)
        | DiskOutcome::Space(_)
        | DiskOutcome::MapCopied => FileDone::Failed,
    }
}
