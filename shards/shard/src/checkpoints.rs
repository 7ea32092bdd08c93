//! Making checkpoints: a group whose log has outgrown its state writes that state to a file, slice
//! by slice while it serves, and then lets go of its log.

use std::time::Duration;

use oarlock_codec::Record;
use oarlock_raft::SnapshotMeta;
use oarlock_store::CheckpointProgress;
use oarlock_types::{GroupId, Index};
use oarlock_wal::{FrameSpan, Straggler};

use crate::files::Purpose;
use crate::output::{CheckpointFile, FileDone, FileJob};
use crate::rebuild::Origin;
use crate::shard::Shard;

/// Checkpoints that one core makes at once; more would only compete for one disk.
const MAKING_MAX: usize = 2;
/// Bytes of one slice: about 50 µs of a turn by the store's own measurement.
const SLICE_BYTES: usize = 64 << 10;

/// How much longer than usual a log may grow while a follower receives the newest checkpoint.
const SENDING_LOG_FACTOR: u64 = 4;

/// After a checkpoint failed, the group's next one waits so long, and twice as long each time.
const CHECKPOINT_WAIT_MIN: Duration = Duration::from_secs(1);
const CHECKPOINT_WAIT_MAX: Duration = Duration::from_secs(60);

/// A log of so few segments is left as it is.
const SEGMENTS_QUIET: usize = 8;
/// A group with more than this in the oldest segment is checkpointed instead of copied, where that
/// frees most of it.
const REWRITE_BYTES_MAX: u64 = 1 << 20;
/// Reads, of at most about 1 MiB each, that are copied at once: more would hold clients' writes up.
const REWRITE_READS_MAX: usize = 4;

/// A mark in the log that something waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mark {
    /// A checkpoint that this replica made.
    Made(GroupId),
    /// A checkpoint that came from the leader.
    Received(GroupId),
    /// What a rebuilt replica begins with.
    Begun(GroupId),
}

/// A checkpoint that is being made.
#[derive(Debug)]
pub(crate) struct Making {
    meta: SnapshotMeta,
    keep_from: Index,
    whole: bool,
    /// Its mark rides in a frame of the log: it can no longer be given up.
    marked: bool,
}

impl Shard {
    /// Starts a checkpoint if the group's log has outgrown its state: then what compaction writes
    /// stays below what clients wrote, and write amplification under about two.
    pub(crate) fn consider_checkpoint(&mut self, group: GroupId) {
        let Some(replica) = self.replicas.get(&group) else { return };
        let log_bytes = self.wal.group_log_bytes(group);
        let log_bytes_max = self.limits.compact_log_bytes_min.max(replica.store.size_bytes());
        if log_bytes <= log_bytes_max {
            return;
        }
        // A new checkpoint takes away the one that is being sent and the log behind it: a follower
        // that needs longer than the log takes to grow would begin anew for ever.
        let waits = log_bytes <= log_bytes_max.saturating_mul(SENDING_LOG_FACTOR)
            && replica.is_sending_checkpoint();
        if !waits {
            self.start_checkpoint(group);
        }
    }

    pub(crate) fn start_checkpoint(&mut self, group: GroupId) {
        let tail_bytes = self.limits.compact_tail_bytes;
        self.start_checkpoint_with(group, tail_bytes);
    }

    fn start_checkpoint_with(&mut self, group: GroupId, tail_bytes: u64) {
        let busy = self.files.making >= MAKING_MAX;
        self.drop_overtaken(group);
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        let mut meta = replica.raft.applied_meta();
        meta.size_bytes = 0;
        let position = meta.position;
        let nothing_new = position.index <= replica.checkpoint.position.index;
        let rests = self.now < replica.checkpoint_from;
        if busy || rests || nothing_new || replica.making.is_some() || replica.incoming.is_some() {
            return;
        }
        assert_eq!(replica.applied, position.index, "invariant: the store is what the meta says");
        let keep_from = self.wal.tail_start(group, position.index, tail_bytes);
        replica.store.checkpoint_begin();
        let making = Making { meta, keep_from, whole: false, marked: false };
        replica.making = Some(Box::new(making));
        self.files.making += 1;
        self.make_slice(group);
    }

    fn make_slice(&mut self, group: GroupId) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        let Some(making) = replica.making.as_mut() else { return };
        let file = CheckpointFile { group, position: making.meta.position };
        if making.whole {
            self.start_job(Purpose::MakeFinish(file), FileJob::Finish { file });
            return;
        }
        let mut data = Vec::with_capacity(SLICE_BYTES + (SLICE_BYTES >> 2));
        let progress = replica.store.checkpoint_next(SLICE_BYTES, &mut data);
        making.whole = matches!(progress, CheckpointProgress::Done);
        let offset_bytes = making.meta.size_bytes;
        making.meta.size_bytes += data.len() as u64;
        let job = FileJob::Append { file, offset_bytes, data };
        self.start_job(Purpose::MakeSlice(file), job);
    }

    pub(crate) fn make_slice_written(&mut self, group: GroupId, done: &FileDone) {
        match done {
            FileDone::Written => self.make_slice(group),
            FileDone::Read(_) | FileDone::Failed => self.checkpoint_failed(group),
        }
    }

    /// The disk did not take it. It would hardly take the next one at once, and every attempt begins
    /// anew: the log may grow meanwhile.
    fn checkpoint_failed(&mut self, group: GroupId) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        let wait = (replica.checkpoint_wait * 2).clamp(CHECKPOINT_WAIT_MIN, CHECKPOINT_WAIT_MAX);
        replica.checkpoint_wait = wait;
        replica.checkpoint_from = self.now + wait;
        self.abandon_checkpoint(group);
    }

    pub(crate) fn make_finished(&mut self, group: GroupId, done: &FileDone) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        let Some(making) = replica.making.as_mut() else { return };
        let (meta, keep_from) = (making.meta.clone(), making.keep_from);
        match done {
            FileDone::Written => {
                making.marked = true;
                let lsn = self.log(&Record::Checkpoint { group, meta, keep_from });
                self.after_durable.marks.push_back((lsn, Mark::Made(group)));
            }
            FileDone::Read(_) | FileDone::Failed => self.checkpoint_failed(group),
        }
    }

    /// The mark of a checkpoint is durable: from now on a restart begins with it.
    pub(crate) fn made(&mut self, group: GroupId) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        let Some(making) = replica.making.take() else { return };
        self.files.making -= 1;
        replica.checkpoint_wait = Duration::ZERO;
        let old = std::mem::replace(&mut replica.checkpoint, making.meta.clone());
        replica.raft.compact(making.meta, making.keep_from);
        if old.position.index > Index(0) {
            self.delete(CheckpointFile { group, position: old.position });
        }
    }

    /// Gives a checkpoint up: it failed, or one from the leader replaces the state under it.
    pub(crate) fn abandon_checkpoint(&mut self, group: GroupId) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        let Some(making) = replica.making.take_if(|making| !making.marked) else { return };
        replica.store.checkpoint_abort();
        self.files.making -= 1;
        self.delete(CheckpointFile { group, position: making.meta.position });
    }

    /// Keeps the log short. A group that holds much of the oldest segment is checkpointed; when
    /// only a few hold little of it, their live records are written anew at the head.
    pub(crate) fn relieve_oldest_segment(&mut self) {
        if self.wal.segments_count() <= SEGMENTS_QUIET || self.files.is_rewriting() {
            return;
        }
        // A log may be long because much of it is needed. Copying that would free nothing, and
        // would never end.
        let live_bytes: u64 = self.wal.live_bytes().values().sum();
        if live_bytes * 2 > self.wal.size_bytes() {
            return;
        }
        let stragglers = self.wal.stragglers();
        let large = stragglers.iter().filter(|straggler| self.is_better_checkpointed(straggler));
        let large: Vec<GroupId> = large.map(|straggler| straggler.group).collect();
        for group in &large {
            self.start_checkpoint(*group);
        }
        if large.is_empty() {
            for span in self.wal.straggler_reads().into_iter().take(REWRITE_READS_MAX) {
                self.start_job(Purpose::Rewrite(span), FileJob::ReadFrames(span));
            }
        }
    }

    /// Whether a checkpoint frees most of what a group has in the oldest segment. One that would
    /// not (what is there is not applied yet, or is the tail that stays) must not be waited for: no
    /// other group's segment would ever go.
    fn is_better_checkpointed(&self, straggler: &Straggler) -> bool {
        let Some((first, last)) = straggler.entries else { return false };
        let Some(replica) = self.replicas.get(&straggler.group) else { return false };
        let middle = first.get().midpoint(last.get());
        let applied = replica.raft.applied();
        let tail_bytes = self.limits.compact_tail_bytes;
        let keep_from = self.wal.tail_start(straggler.group, applied, tail_bytes);
        straggler.bytes > REWRITE_BYTES_MAX
            && self.now >= replica.checkpoint_from
            && replica.incoming.is_none()
            && replica.raft.commit() > replica.checkpoint.position.index
            && keep_from.get() > middle
    }

    pub(crate) fn frame_to_rewrite(&mut self, span: FrameSpan, done: &FileDone) {
        let rewritten = match done {
            // What is copied is durable where it was: nobody waits for the copy.
            FileDone::Read(bytes) => self.wal.rewrite(&span, bytes).ok(),
            FileDone::Written | FileDone::Failed => None,
        };
        let unreadable = match rewritten {
            Some(rewritten) => rewritten.damaged,
            // Frames that are no longer the oldest were given away meanwhile: that is no damage.
            None if !self.wal.straggler_reads().contains(&span) => Vec::new(),
            None => self.wal.stragglers().into_iter().map(|straggler| straggler.group).collect(),
        };
        for group in unreadable {
            self.restate(group);
        }
    }

    /// A living replica's part of the log can no longer be read back, and a restart would find it
    /// damaged. Everything that it promised is here in memory: it is written anew, and a checkpoint
    /// takes the place of the entries.
    fn restate(&mut self, group: GroupId) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        if replica.making.is_some()
            || replica.incoming.is_some()
            || self.now < replica.checkpoint_from
        {
            return;
        }
        self.out.unreadable.push(group);
        let hard_state = replica.raft.hard_state();
        let meta = replica.raft.applied_meta();
        let configuration = meta.configuration;
        let details = Origin { epoch: replica.epoch, rebuilt: replica.rebuilt }.to_details();
        // The checkpoint that there is holds all: only the entries that stayed behind it go.
        let rest =
            (meta.position == replica.checkpoint.position).then(|| replica.checkpoint.clone());
        self.wal.restate(&Record::Create { group, configuration, details });
        self.newest_lsn = self.wal.restate(&Record::HardState { group, hard_state });
        match rest {
            None => self.start_checkpoint_with(group, 0),
            Some(meta) if meta.position.index > Index(0) => {
                let keep_from = meta.position.index.next();
                self.log(&Record::Checkpoint { group, meta: meta.clone(), keep_from });
                if let Some(replica) = self.replicas.get_mut(&group) {
                    replica.raft.compact(meta, keep_from);
                }
            }
            Some(_) => {}
        }
        // Until that has taken effect nothing is gained by reading those frames again.
        if let Some(replica) = self.replicas.get_mut(&group) {
            replica.checkpoint_from = self.now + CHECKPOINT_WAIT_MIN;
        }
    }
}
