//! Keeping the log short. Every group lets go of its oldest entries before they are a whole log
//! old: by a checkpoint where that is no larger than the log it frees, by giving up the tail that
//! stayed behind the last one, or by writing the few live records of the oldest segment anew at the
//! head. How far back a group may reach is drawn from its id, so that the checkpoints of many busy
//! groups spread over time instead of meeting at each segment's end.

use std::hash::BuildHasher;

use oarlock_codec::Record;
use oarlock_types::map::FastState;
use oarlock_types::{GroupId, Index};
use oarlock_wal::{FrameSpan, Straggler};

use crate::checkpoints::CHECKPOINT_WAIT_MIN;
use crate::files::Purpose;
use crate::output::{FileDone, FileJob};
use crate::replica::Replica;
use crate::shard::Shard;

/// A log of so few segments needs no relief; a group's entries are let go of when they reach back
/// half so many to so many.
const SEGMENTS_QUIET: usize = 8;
/// The log is looked at again when it has grown by so many frames.
const FRAMES_PER_LOOK: u64 = 256;
/// A checkpoint of less than this is not made for the log's sake: files have their price, too.
const CHEAP_LOG_BYTES_MIN: u64 = 64 << 10;
/// A group with more than this in the oldest segment is checkpointed instead of copied, whatever
/// the size of its state.
const REWRITE_BYTES_MAX: u64 = 1 << 20;
/// Reads, of at most about 1 MiB each, that are copied at once: more would hold clients' writes up.
const REWRITE_READS_MAX: usize = 4;

impl Shard {
    /// To be called at each tick; does little unless the log has grown or is long.
    pub(crate) fn relieve_log(&mut self) {
        let is_long = self.wal.segments_count() > SEGMENTS_QUIET;
        let durable = self.wal.durable_lsn();
        let grown = durable.get() - self.upkeep.relieved_at.get();
        if !is_long && grown < FRAMES_PER_LOOK {
            return;
        }
        self.upkeep.relieved_at = durable;
        if self.wal.segments_count() > SEGMENTS_QUIET / 2 {
            self.let_go_of_old_entries();
        }
        if is_long && !self.files.is_rewriting() {
            self.relieve_oldest_segment();
        }
    }

    fn let_go_of_old_entries(&mut self) {
        for place in 0..self.ids.len() {
            let group = self.ids[place];
            if self.wal.reach_bytes(group) <= reach_bytes_max(group, self.wal.segment_bytes()) {
                continue;
            }
            self.trim_tail(group);
            let Some(replica) = self.replicas.get(&group) else { continue };
            if self.is_cheap(group, replica) && !self.waits_for_receiver(group, replica) {
                self.start_checkpoint(group);
            }
        }
    }

    fn is_cheap(&self, group: GroupId, replica: &Replica) -> bool {
        self.wal.group_log_bytes(group) >= replica.store.size_bytes().max(CHEAP_LOG_BYTES_MIN)
    }

    /// Lets go of entries that stayed behind the newest checkpoint and have grown old.
    fn trim_tail(&mut self, group: GroupId) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        let Some((first, _)) = self.wal.group_log_range(group) else { return };
        // While a newer one is under way, the old one must not be named again.
        if replica.making.is_some() || replica.incoming.is_some() {
            return;
        }
        let meta = replica.checkpoint.clone();
        let end = meta.position.index;
        let keep_from = self.wal.tail_start(group, end, self.limits.compact_tail_bytes);
        if keep_from <= first {
            return; // also where there is no checkpoint yet
        }
        replica.raft.compact(meta.clone(), keep_from);
        self.log(&Record::Checkpoint { group, meta, keep_from });
    }

    fn relieve_oldest_segment(&mut self) {
        // A log may be long because much of it is needed. Copying that would free nothing, and
        // would never end.
        if self.wal.needed_bytes() * 2 > self.wal.size_bytes() {
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
        (self.is_cheap(straggler.group, replica) || straggler.bytes > REWRITE_BYTES_MAX)
            && !replica.rests_from_checkpoints(self.now)
            && replica.incoming.is_none()
            && replica.raft.knows_members()
            && !self.waits_for_receiver(straggler.group, replica)
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
        if let Some(departed) = self.departed.get(&group).copied() {
            self.out.unreadable.push(group);
            self.log_departed(group, departed);
        }
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        if replica.making.is_some()
            || replica.incoming.is_some()
            || self.splits.needs_log_of(group)
            || replica.rests_from_checkpoints(self.now)
            // A checkpoint would name the members of another time.
            || !replica.raft.knows_members()
        {
            return;
        }
        self.out.unreadable.push(group);
        let hard_state = replica.raft.hard_state();
        // A restart before the next checkpoint may yet read all entries, from those members on.
        let configuration = replica.checkpoint.configuration.clone();
        let details = replica.origin().to_details();
        // The checkpoint that there is holds all: only the entries that stayed behind it go.
        let is_saved = replica.raft.applied_meta().position == replica.checkpoint.position;
        let rest = is_saved.then(|| replica.checkpoint.clone());
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
            replica.checkpoint_rest.get_or_insert_default().until = self.now + CHECKPOINT_WAIT_MIN;
        }
    }
}

/// How far back a group's entries may reach.
fn reach_bytes_max(group: GroupId, segment_bytes: u64) -> u64 {
    let half_bytes = SEGMENTS_QUIET as u64 / 2 * segment_bytes;
    let drawn = FastState.hash_one(group) >> 48;
    half_bytes + (half_bytes >> 16) * drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups reach back half a quiet log to a whole one, each its own part of it.
    #[test]
    fn groups_reach_back_differently_far() {
        let segment_bytes = 64 << 20;
        let (least, most) = (4 * segment_bytes, 8 * segment_bytes);
        let mut tenths = [0; 10];
        for group in (1..=1000).map(GroupId) {
            let bytes = reach_bytes_max(group, segment_bytes);
            assert!((least..most).contains(&bytes), "{group}: {bytes}");
            let tenth = usize::try_from((bytes - least) * 10 / (most - least)).expect("below ten");
            tenths[tenth] += 1;
        }
        assert!(tenths.iter().all(|count| (50..200).contains(count)), "{tenths:?}");
    }
}
