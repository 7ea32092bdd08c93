//! File jobs under way, and whom their answers are for. One per core.

use std::collections::{BTreeMap, VecDeque};

use oarlock_raft::SnapshotRead;
use oarlock_types::{CoreId, GroupId, Limits, Mono};
use oarlock_wal::FrameSpan;

use crate::hand_over::HandOver;
use crate::log_reads::LogReads;
use crate::output::{CheckpointFile, FileDone, FileJob, JobToken};
use crate::shard::Shard;

/// So many times as much may be done in the background as is written meanwhile, besides what time brings: whoever is
/// behind must come nearer while clients write, also where two of five replicas are behind at once, and a log must
/// be let go of sooner than it grows.
const BACKGROUND_TO_WRITTEN: u64 = 4;
/// A core ticks about so often: budgets that are used up wait for that at most.
const BURSTS_PER_S: u64 = 20;

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
    /// A piece for a follower.
    Send(GroupId, SnapshotRead),
    /// Frames of the log for followers.
    Log(FrameSpan),
    /// A frame whose live records are to be written anew.
    Rewrite(FrameSpan),
    /// A checkpoint of another core gets a second name here: that core's attempt.
    Adopt(CheckpointFile, CoreId, u32),
}

/// So many bytes per second, in bursts of what a tick's time brings. A little more may be taken than
/// there is: then it is owed.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes_per_s: u64,
    bytes: i64,
    at: Mono,
}

impl Budget {
    pub(crate) fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s, bytes: 0, at: Mono(0) }
    }

    /// Whether anything may be taken now.
    pub(crate) fn allows(&mut self, now: Mono) -> bool {
        let elapsed_us = u64::try_from(now.since(self.at).as_micros()).unwrap_or(u64::MAX);
        let earned = elapsed_us.saturating_mul(self.bytes_per_s) / 1_000_000;
        // The time that has not made a byte yet counts on.
        if earned > 0 {
            self.at = now;
            self.earn(earned);
        }
        self.bytes > 0
    }

    fn earn(&mut self, bytes: u64) {
        let most = self.bytes_per_s / BURSTS_PER_S;
        self.bytes = self.bytes.saturating_add_unsigned(bytes).min(most.cast_signed());
    }

    pub(crate) fn take(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub_unsigned(bytes);
    }
}

/// Jobs under way, and the budgets of checkpoints, and of what is sent to followers that are behind.
#[derive(Debug)]
pub(crate) struct Files {
    next: u64,
    under_way: BTreeMap<JobToken, Purpose>,
    /// Checkpoints that this core makes at once.
    pub(crate) making: usize,
    /// Those of them whose next slice waits for their budget.
    pub(crate) unmade: VecDeque<GroupId>,
    pub(crate) checkpoint_budget: Budget,
    /// Pieces that wait for the sending budget.
    pub(crate) unsent: VecDeque<(GroupId, SnapshotRead)>,
    pub(crate) snapshot_budget: Budget,
    pub(crate) log_reads: LogReads,
    pub(crate) log_budget: Budget,
}

impl Files {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            next: 0,
            under_way: BTreeMap::new(),
            making: 0,
            unmade: VecDeque::new(),
            checkpoint_budget: Budget::new(limits.snapshot_bytes_per_s_max),
            unsent: VecDeque::new(),
            snapshot_budget: Budget::new(limits.snapshot_bytes_per_s_max),
            log_reads: LogReads::default(),
            log_budget: Budget::new(limits.snapshot_bytes_per_s_max),
        }
    }

    /// A leader here has proposed so much: followers that are behind may be sent more.
    pub(crate) fn proposed(&mut self, bytes: usize) {
        self.log_budget.earn(BACKGROUND_TO_WRITTEN * bytes as u64);
    }

    /// So much went into the log here: checkpoints may be made faster.
    pub(crate) fn appended(&mut self, bytes: usize) {
        self.checkpoint_budget.earn(BACKGROUND_TO_WRITTEN * bytes as u64);
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
            | Purpose::ReceiveFinish(of) => *of != file,
            Purpose::Send(..) | Purpose::Log(..) | Purpose::Rewrite(_) | Purpose::Adopt(..) => true,
        });
        self.files.next += 1;
        let token = JobToken(self.files.next);
        self.out.file_jobs.push((token, FileJob::Delete { file }));
    }

    /// Removes those of the checkpoints found on the disk that no replica here goes by: a crash came
    /// between a file and its mark, or between a mark and the removal of the file before. For
    /// recovery, once all replicas are taken up. Files of groups without one are left alone, unless another core
    /// has the replica.
    pub fn sweep_checkpoints(&mut self, found: impl IntoIterator<Item = CheckpointFile>) {
        for file in found {
            let is_needless = match self.replicas.get(&file.group) {
                Some(replica) => replica.checkpoint.position != file.position,
                None => self.homes.core_of(file.group).is_some_and(|home| home != self.addr.core),
            };
            if is_needless {
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
            Purpose::Send(group, wanted) => self.send_piece(group, wanted, done),
            Purpose::Log(span) => self.frames_read(&span, done),
            Purpose::Rewrite(span) => self.frame_to_rewrite(span, &done),
            Purpose::Adopt(file, from, attempt) => {
                let is_lent = done == FileDone::Written;
                self.out.hand_overs.push((from, HandOver::Lent { file, attempt, is_lent }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_brings_so_much_in_a_second_and_a_burst_at_most() {
        let mut budget = Budget::new(1000);
        let burst = 50;
        assert!(!budget.allows(Mono(0)), "nothing has been earned");
        assert!(budget.allows(Mono::from_ms(1)), "a byte a millisecond");
        budget.take(1);
        assert!(!budget.allows(Mono::from_ms(1)));
        for second in 1..4 {
            let now = Mono::from_ms(second * 1000);
            assert!(budget.allows(now));
            budget.take(burst - 1);
            assert!(budget.allows(now), "to the last byte of a burst");
            budget.take(1);
            assert!(!budget.allows(now));
        }
    }

    #[test]
    fn what_was_taken_too_much_is_owed() {
        let mut budget = Budget::new(1000);
        assert!(budget.allows(Mono::from_ms(10)));
        budget.take(10 + 20);
        assert!(!budget.allows(Mono::from_ms(30)), "it is even");
        assert!(budget.allows(Mono::from_ms(31)));
    }

    #[test]
    fn proposals_let_old_entries_go_faster_but_in_no_larger_bursts() {
        let limits = Limits { snapshot_bytes_per_s_max: 1000, ..Limits::default() };
        let mut files = Files::new(&limits);
        files.proposed(5);
        files.log_budget.take(20);
        assert!(!files.log_budget.allows(Mono(0)), "four times as much, and it was taken");
        files.proposed(1000);
        files.log_budget.take(50);
        assert!(!files.log_budget.allows(Mono(0)), "a burst at most");
        assert!(!files.snapshot_budget.allows(Mono(0)), "snapshots have nothing of it");
    }

    #[test]
    fn looking_often_costs_nothing() {
        let mut budget = Budget::new(1000);
        let earned = (1..10).find(|half| budget.allows(Mono(half * 500)));
        assert_eq!(earned, Some(2), "two halves of a millisecond are one");
    }
}
