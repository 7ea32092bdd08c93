//! Making checkpoints: a group whose log has outgrown its state writes that state to a file, slice
//! by slice while it serves, and then lets go of its log.

use std::time::Duration;

use oarlock_codec::Record;
use oarlock_raft::SnapshotMeta;
use oarlock_store::CheckpointProgress;
use oarlock_types::{GroupId, Guard, Index};

use crate::files::Purpose;
use crate::output::{CheckpointFile, FileDone, FileJob};
use crate::replica::Replica;
use crate::shard::Shard;

/// Checkpoints that one core makes at once; more would only compete for one disk.
const MAKING_MAX: usize = 2;
/// Bytes of one slice: about 50 µs of a turn by the store's own measurement.
const SLICE_BYTES: usize = 64 << 10;
/// A slice ends behind the key that fills it: a quarter more, so that its buffer seldom grows.
const SLICE_ROOM_BYTES: usize = 80 << 10;

/// How much longer than usual a log may grow while a follower receives the newest checkpoint.
const SENDING_LOG_FACTOR: u64 = 4;

/// After a checkpoint failed, the group's next one waits so long, and twice as long each time.
pub(crate) const CHECKPOINT_WAIT_MIN: Duration = Duration::from_secs(1);
const CHECKPOINT_WAIT_MAX: Duration = Duration::from_secs(60);

/// A mark in the log that something waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mark {
    /// A checkpoint that this replica made.
    Made(GroupId),
    /// A checkpoint that came from the leader.
    Received(GroupId),
    /// What a rebuilt replica begins with.
    Begun(GroupId),
    /// The end of a replica, which had this checkpoint.
    Departed(CheckpointFile),
    /// A whole replica that came from another core.
    Arrived(GroupId),
    /// The end of one here that another core's log has.
    Forgotten(GroupId),
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
        if self.wal.group_log_bytes(group) <= self.log_bytes_max(replica) {
            return;
        }
        if !self.waits_for_receiver(group, replica) {
            self.start_checkpoint(group);
        }
    }

    fn log_bytes_max(&self, replica: &Replica) -> u64 {
        self.limits.compact_log_bytes_min.max(replica.store.size_bytes())
    }

    /// A new checkpoint takes away the one that is being sent and the log behind it: a follower
    /// that needs longer than the log takes to grow would begin anew for ever.
    pub(crate) fn waits_for_receiver(&self, group: GroupId, replica: &Replica) -> bool {
        let log_bytes_max = self.log_bytes_max(replica).saturating_mul(SENDING_LOG_FACTOR);
        replica.is_sending_checkpoint() && self.wal.group_log_bytes(group) <= log_bytes_max
    }

    pub(crate) fn start_checkpoint(&mut self, group: GroupId) {
        if !self.replicas.get(&group).is_some_and(|replica| replica.raft.knows_members()) {
            return; // it would name others
        }
        let tail_bytes = self.limits.compact_tail_bytes;
        self.start_checkpoint_with(group, tail_bytes);
    }

    pub(crate) fn start_checkpoint_with(&mut self, group: GroupId, tail_bytes: u64) {
        if self.splits.needs_log_of(group) {
            return;
        }
        let busy = self.files.making >= MAKING_MAX;
        self.drop_overtaken(group);
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        let mut meta = replica.raft.applied_meta();
        meta.size_bytes = 0;
        let position = meta.position;
        // What a split made is in no file, though nothing has been applied to it yet.
        let is_saved = replica.base.is_none();
        let nothing_new = is_saved && position.index <= replica.checkpoint.position.index;
        let rests = replica.rests_from_checkpoints(self.now);
        if busy || rests || nothing_new || replica.making.is_some() || replica.incoming.is_some() {
            return;
        }
        assert_eq!(replica.applied, position.index, "invariant: the store is what the meta says");
        let keep_from = self.wal.tail_start(group, position.index, tail_bytes);
        replica.store.checkpoint_begin();
        let making = Making { meta, keep_from, whole: false, marked: false };
        replica.making = Some(Box::new(making));
        self.files.making += 1;
        self.files.unmade.push_back(group);
    }

    /// Makes the slices that the budget allows: checkpoints at the disk's full speed are felt by whoever writes to the
    /// log meanwhile.
    pub(crate) fn feed_checkpoints(&mut self) {
        while !self.files.unmade.is_empty()
            && self.files.checkpoint_budget.allows(self.now)
            && let Some(group) = self.files.unmade.pop_front()
        {
            self.make_slice(group);
        }
    }

    fn make_slice(&mut self, group: GroupId) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        let Some(making) = replica.making.as_mut() else { return };
        let file = CheckpointFile { group, position: making.meta.position };
        if making.whole {
            self.start_job(Purpose::MakeFinish(file), FileJob::Finish { file });
            return;
        }
        let mut data = Vec::with_capacity(SLICE_ROOM_BYTES);
        let progress = replica.store.checkpoint_next(SLICE_BYTES, &mut data);
        making.whole = matches!(progress, CheckpointProgress::Done);
        let offset_bytes = making.meta.size_bytes;
        making.meta.size_bytes += data.len() as u64;
        self.files.checkpoint_budget.take(data.len() as u64);
        let job = FileJob::Append { file, offset_bytes, data };
        self.start_job(Purpose::MakeSlice(file), job);
    }

    pub(crate) fn make_slice_written(&mut self, group: GroupId, done: &FileDone) {
        match done {
            FileDone::Written => self.files.unmade.push_back(group),
            FileDone::Read(_) | FileDone::Failed => self.checkpoint_failed(group),
        }
    }

    /// The disk did not take it. It would hardly take the next one at once, and every attempt begins
    /// anew: the log may grow meanwhile.
    fn checkpoint_failed(&mut self, group: GroupId) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        let rest = replica.checkpoint_rest.get_or_insert_default();
        rest.lasts = (rest.lasts * 2).clamp(CHECKPOINT_WAIT_MIN, CHECKPOINT_WAIT_MAX);
        rest.until = self.now + rest.lasts;
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
                if Guard::MarkBeforeLettingGo.is_on() {
                    self.after_durable.marks.push_back((lsn, Mark::Made(group)));
                } else {
                    self.made(group);
                }
            }
            FileDone::Read(_) | FileDone::Failed => self.checkpoint_failed(group),
        }
    }

    /// The mark of a checkpoint is durable: from now on a restart begins with it.
    pub(crate) fn made(&mut self, group: GroupId) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        let Some(making) = replica.making.take() else { return };
        self.files.making -= 1;
        let now = self.now;
        replica.checkpoint_rest.take_if(|rest| rest.until <= now);
        replica.checkpoint_rest.iter_mut().for_each(|rest| rest.lasts = Duration::ZERO);
        replica.raft.compact(making.meta.clone(), making.keep_from);
        self.replace_checkpoint(group, making.meta);
    }

    /// A restart begins with this checkpoint, whose mark is in the log, and no longer with the one before.
    pub(crate) fn replace_checkpoint(&mut self, group: GroupId, meta: SnapshotMeta) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        let position = meta.position;
        let old = std::mem::replace(&mut replica.checkpoint, meta).position;
        // What a split made was in no file.
        let was_in_file = replica.base.take().is_none() && old.index > Index(0);
        self.splits.saved(group);
        if was_in_file && old != position {
            self.delete(CheckpointFile { group, position: old });
        }
    }

    /// Gives a checkpoint up: it failed, or one from the leader replaces the state under it.
    pub(crate) fn abandon_checkpoint(&mut self, group: GroupId) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        let Some(making) = replica.making.take_if(|making| !making.marked) else { return };
        replica.store.checkpoint_abort();
        self.files.making -= 1;
        self.files.unmade.retain(|unmade| *unmade != group);
        self.delete(CheckpointFile { group, position: making.meta.position });
    }
}
