//! File jobs under way, and whom their answers are for. One per core.

use std::collections::{BTreeMap, VecDeque};

use oarlock_raft::{LogRead, SnapshotRead};
use oarlock_types::{GroupId, Limits, Mono};
use oarlock_wal::{EntriesRead, FrameSpan};

use crate::output::{CheckpointFile, FileDone, FileJob, JobToken};
use crate::shard::Shard;

/// What the answer to a job is for.
#[derive(Debug)]
pub(crate) enum Purpose {
    /// A slice of a checkpoint that is being made was written.
    MakeSlice(CheckpointFile),
    /// A checkpoint that was made has its name.
    MakeFinish(CheckpointFile),
    /// A piece of a received checkpoint was written.
    ReceivePiece(CheckpointFile),
    /// A received checkpoint has its name.
    ReceiveFinish(CheckpointFile),
    /// A piece of a received checkpoint, to be loaded.
    Load(CheckpointFile),
    /// A piece for a follower.
    Send(GroupId, SnapshotRead),
    /// A frame of the log for a follower.
    Log(GroupId, Box<LogReading>),
    /// A frame whose live records are to be written anew.
    Rewrite(FrameSpan),
}

/// A read of old entries that spans several frames.
#[derive(Debug)]
pub(crate) struct LogReading {
    pub(crate) wanted: LogRead,
    pub(crate) current: EntriesRead,
    pub(crate) rest: VecDeque<EntriesRead>,
    pub(crate) entries: Vec<oarlock_raft::Entry>,
}

/// Jobs under way and the budget of what is sent as snapshots.
#[derive(Debug)]
pub(crate) struct Files {
    next: u64,
    under_way: BTreeMap<JobToken, Purpose>,
    /// Checkpoints that this core makes at once.
    pub(crate) making: usize,
    /// Pieces that wait for the sending budget.
    pub(crate) unsent: VecDeque<(GroupId, SnapshotRead)>,
    /// Bytes that may be sent now.
    pub(crate) budget_bytes: u64,
    pub(crate) budget_at: Mono,
    pub(crate) bytes_per_s_max: u64,
}

impl Files {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            next: 0,
            under_way: BTreeMap::new(),
            making: 0,
            unsent: VecDeque::new(),
            budget_bytes: limits.snapshot_chunk_bytes as u64,
            budget_at: Mono(0),
            bytes_per_s_max: limits.snapshot_bytes_per_s_max,
        }
    }
}

impl Files {
    /// Whether frames are being read to be written anew.
    pub(crate) fn is_rewriting(&self) -> bool {
        self.under_way.values().any(|purpose| matches!(purpose, Purpose::Rewrite(_)))
    }

    /// Jobs that are not answered yet.
    pub(crate) fn under_way_count(&self) -> usize {
        self.under_way.len()
    }
}

impl Shard {
    pub(crate) fn start_job(&mut self, purpose: Purpose, job: FileJob) {
        self.files.next += 1;
        let token = JobToken(self.files.next);
        self.files.under_way.insert(token, purpose);
        self.out.file_jobs.push((token, job));
    }

    /// Removes a file. Answers to jobs on it are no longer for anybody.
    pub(crate) fn delete(&mut self, file: CheckpointFile) {
        self.files.under_way.retain(|_, purpose| match purpose {
            Purpose::MakeSlice(of)
            | Purpose::MakeFinish(of)
            | Purpose::ReceivePiece(of)
            | Purpose::ReceiveFinish(of)
            | Purpose::Load(of) => *of != file,
            Purpose::Send(..) | Purpose::Log(..) | Purpose::Rewrite(_) => true,
        });
        self.files.next += 1;
        let token = JobToken(self.files.next);
        self.out.file_jobs.push((token, FileJob::Delete { file }));
    }

    /// Removes those of the checkpoints found on the disk that no replica here goes by: a crash came
    /// between a file and its mark, or between a mark and the removal of the file before. For
    /// recovery, once all replicas are taken up. Files of groups without one are left alone.
    pub fn sweep_checkpoints(&mut self, found: impl IntoIterator<Item = CheckpointFile>) {
        for file in found {
            let replica = self.replicas.get(&file.group);
            if replica.is_some_and(|replica| replica.checkpoint.position != file.position) {
                self.delete(file);
            }
        }
    }

    /// A file job ended.
    pub fn file_done(&mut self, token: JobToken, done: FileDone) {
        let Some(purpose) = self.files.under_way.remove(&token) else { return };
        match purpose {
            Purpose::MakeSlice(file) => self.make_slice_written(file.group, &done),
            Purpose::MakeFinish(file) => self.make_finished(file.group, &done),
            Purpose::ReceivePiece(file) => self.piece_written(file.group, &done),
            Purpose::ReceiveFinish(file) => self.receive_finished(file.group, &done),
            Purpose::Load(file) => self.load_piece(file.group, done),
            Purpose::Send(group, wanted) => self.send_piece(group, wanted, done),
            Purpose::Log(group, reading) => self.frame_read(group, *reading, done),
            Purpose::Rewrite(span) => self.frame_to_rewrite(span, &done),
        }
    }

    /// Old entries that Raft no longer holds in memory, for a follower that is behind.
    pub(crate) fn read_log(&mut self, group: GroupId, wanted: LogRead) {
        let mut places: VecDeque<EntriesRead> =
            self.wal.locate(group, wanted.from, wanted.to).into_iter().collect();
        match places.pop_front() {
            Some(current) => {
                let reading = LogReading { wanted, current, rest: places, entries: Vec::new() };
                self.start_job(
                    Purpose::Log(group, Box::new(reading)),
                    FileJob::ReadFrames(current.span),
                );
            }
            None => self.log_read_failed(group, wanted),
        }
    }

    fn frame_read(&mut self, group: GroupId, mut reading: LogReading, done: FileDone) {
        let found = match done {
            FileDone::Read(bytes) => self.wal.entries_of(&reading.current, &bytes).ok(),
            FileDone::Written | FileDone::Failed => None,
        };
        match (found, reading.rest.pop_front()) {
            (Some(entries), next) => {
                for entry in entries {
                    let cut = reading.entries.partition_point(|e| e.at.index < entry.at.index);
                    reading.entries.truncate(cut);
                    reading.entries.push(entry);
                }
                let bytes: usize =
                    reading.entries.iter().map(oarlock_raft::Entry::size_bytes).sum();
                match next {
                    Some(next) if bytes < self.limits.append_bytes_max => {
                        reading.current = next;
                        let purpose = Purpose::Log(group, Box::new(reading));
                        self.start_job(purpose, FileJob::ReadFrames(next.span));
                    }
                    Some(_) | None => self.log_read_done(group, reading.wanted, reading.entries),
                }
            }
            (None, _) => self.log_read_failed(group, reading.wanted),
        }
    }

    fn log_read_done(
        &mut self,
        group: GroupId,
        wanted: LogRead,
        entries: Vec<oarlock_raft::Entry>,
    ) {
        self.with_group(group, |raft, ctx, out| raft.log_read(ctx, wanted.to_node, entries, out));
    }

    fn log_read_failed(&mut self, group: GroupId, wanted: LogRead) {
        self.with_group(group, |raft, ctx, out| raft.log_read_failed(ctx, wanted.to_node, out));
    }
}
