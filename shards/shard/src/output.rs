//! What a turn asks the driver to do, and the words in which the driver answers.

use bytes::Bytes;
use oarlock_codec::{GroupMessage, Refusal};
use oarlock_raft::{Configuration, LogPosition};
use oarlock_store::{Order, Reply, Request};
use oarlock_types::{CoreId, GroupId, NodeId, RangeBounds, RangeEpoch, Term};
use oarlock_wal::FrameSpan;

use crate::hand_over::HandOver;
use crate::stays::Stayed;

/// What became of a request.
pub type Outcome = Result<Reply, Refusal>;

/// The effects of one turn, besides the WAL frame. Reused from turn to turn.
#[derive(Debug, Default)]
pub struct Output {
    /// Requests that are decided, by the token that the driver gave them.
    pub replies: Vec<(u64, Outcome)>,
    /// To be sent with this turn: per node, in order.
    pub messages: Vec<(NodeId, GroupMessage)>,
    /// Work for the disk besides the WAL. Jobs on one file are carried out in order.
    pub file_jobs: Vec<(JobToken, FileJob)>,
    /// Groups whose leader, as this replica knows it, changed: `None` where nobody is known.
    pub leaders: Vec<(GroupId, Option<NodeId>)>,
    /// Groups whose part of the log could not be read back. It is being written anew from memory;
    /// people should hear that the disk changes what it holds.
    pub unreadable: Vec<GroupId>,
    /// Ranges that were cut in two.
    pub splits: Vec<Split>,
    /// What the group that placement rests on was asked: to be answered by the driver.
    pub placement: Vec<(u64, Order)>,
    /// Groups whose members have settled since: [`crate::Shard::range`] tells them.
    pub settled: Vec<GroupId>,
    /// Replicas that others want made here: [`crate::Shard::create`].
    pub wanted: Vec<Wanted>,
    /// What frozen ranges ask their neighbours: to be sent to whoever leads the range that has the key, in
    /// its newest version. [`crate::Shard::merge_answered`] takes the outcome.
    pub merges: Vec<Merging>,
    /// Ranges that have other bounds, or another version, than before, though they were not cut:
    /// [`crate::Shard::range`] tells them.
    pub reshaped: Vec<GroupId>,
    /// Letters to other cores of the node about replicas that go between the two: [`crate::Shard::hand_over`]
    /// takes them there. None may be lost while the process lives.
    pub hand_overs: Vec<(CoreId, HandOver)>,
    /// Replicas that have come from another core, and serve here.
    pub arrived: Vec<GroupId>,
    /// Replicas that were to go to another core and stay for now, and why.
    pub stayed: Vec<(GroupId, CoreId, Stayed)>,
    /// Ranges wait to be cut for ids of new groups: [`crate::Shard::give_ids`].
    pub wants_ids: bool,
}

/// A range that was cut in two. Told by each replica that applies it, also when a restart applies it
/// again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The range that was cut, and what is left of it.
    pub parent: (GroupId, RangeBounds),
    /// The new range.
    pub child: (GroupId, RangeBounds),
    /// The members of the new range, which are those of the cut one when it was cut.
    pub members: Configuration,
    /// This replica led the one and now leads the other.
    pub leads: bool,
}

/// What a frozen range asks the neighbour before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merging {
    /// The group of the range that is frozen.
    pub group: GroupId,
    /// Its version.
    pub epoch: RangeEpoch,
    /// The neighbour's first key.
    pub into_start: Bytes,
    /// What the neighbour is asked.
    pub request: Request,
}

/// A replica that another one wants a member to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The group.
    pub group: GroupId,
    /// Who says so.
    pub from: NodeId,
    /// In which term: the vote in it is given to whom says so.
    pub term: Term,
}

impl Output {
    /// Whether the turn left anything to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.replies.is_empty()
            && self.messages.is_empty()
            && self.file_jobs.is_empty()
            && self.leaders.is_empty()
            && self.unreadable.is_empty()
            && self.splits.is_empty()
            && self.settled.is_empty()
            && self.placement.is_empty()
            && self.merges.is_empty()
            && self.reshaped.is_empty()
            && self.wanted.is_empty()
            && self.hand_overs.is_empty()
            && self.arrived.is_empty()
            && self.stayed.is_empty()
            && !self.wants_ids
    }
}

/// Names a file job until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobToken(pub u64);

/// A checkpoint file of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckpointFile {
    /// Whose.
    pub group: GroupId,
    /// The last entry in it.
    pub position: LogPosition,
}

/// Disk work that does not belong to the WAL's hot path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileJob {
    /// Writes a piece of an unfinished checkpoint. Offset zero begins it anew.
    Append {
        /// Which.
        file: CheckpointFile,
        /// Where the piece goes: always the length so far.
        offset_bytes: u64,
        /// The piece.
        data: Vec<u8>,
    },
    /// Makes an unfinished checkpoint durable under its name.
    Finish {
        /// Which.
        file: CheckpointFile,
    },
    /// Reads a piece of a finished checkpoint. Shorter than asked only at its end.
    Read {
        /// Which.
        file: CheckpointFile,
        /// From here.
        offset_bytes: u64,
        /// So much.
        len_bytes: usize,
    },
    /// Gives a finished checkpoint of another core of the node a second name here, durably.
    Adopt {
        /// Which.
        file: CheckpointFile,
        /// The other core.
        from: CoreId,
    },
    /// Removes a checkpoint, finished or not. Not answered.
    Delete {
        /// Which.
        file: CheckpointFile,
    },
    /// Reads whole frames of the WAL.
    ReadFrames(FrameSpan),
}

/// How a file job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileDone {
    /// Written, or finished, and durable as far as the job promised.
    Written,
    /// What was read.
    Read(bytes::Bytes),
    /// It failed; the driver has said why in the log.
    Failed,
}

#[cfg(test)]
mod tests {
    use oarlock_codec::GroupMessage;
    use oarlock_raft::{Body, Message};
    use oarlock_types::Term;

    use super::*;

    #[test]
    fn an_output_that_leaves_anything_to_do_is_not_empty() {
        let file = CheckpointFile { group: GroupId(1), position: LogPosition::default() };
        let message = Message { term: Term(1), body: Body::ReadIndex { sequence: 1 } };
        let mut outputs: [Output; 5] = std::array::from_fn(|_| Output::default());
        assert!(outputs.iter().all(Output::is_empty));
        outputs[0].replies.push((1, Err(Refusal::Busy)));
        outputs[1].messages.push((NodeId(2), GroupMessage { group: GroupId(1), message }));
        outputs[2].file_jobs.push((JobToken(1), FileJob::Delete { file }));
        outputs[3].leaders.push((GroupId(1), None));
        outputs[4].unreadable.push(GroupId(1));
        assert!(outputs.iter().all(|output| !output.is_empty()));
    }
}
