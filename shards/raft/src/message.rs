//! What replicas of a group say to each other. Pure data; the codec gives it bytes.

#![allow(missing_docs, reason = "rkyv derives undocumented fields for struct-like variants")]

use std::fmt;

use bytes::Bytes;
use oarlock_types::{CoreId, Incarnation, Index, NodeId, SupportEpoch, Term};
use rkyv::{Archive, Deserialize, Serialize};

use crate::Configuration;

/// A place in a log: the term and index of an entry. The place before the first entry is zero.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct LogPosition {
    /// The entry's term. Compared first: a later term wins (Raft §5.4.1).
    pub term: Term,
    /// The entry's index.
    pub index: Index,
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

/// One entry of a group's log.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Entry {
    /// Where it stands.
    pub at: LogPosition,
    /// What it says.
    pub payload: Payload,
}

impl Entry {
    /// Bytes that the entry is counted with in windows, caches and logs.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        32 + match &self.payload {
            Payload::Noop => 0,
            Payload::Commands(bytes)
            | Payload::Packed(bytes)
            | Payload::Split(bytes)
            | Payload::Merge(bytes) => bytes.len(),
            Payload::Config(config) => 8 * config.members().count(),
        }
    }
}

/// What an entry says.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Archive,
    Serialize,
    Deserialize,
    serde::Serialize,
    serde::Deserialize,
)]
pub enum Payload {
    /// Opens a term, so that earlier entries can commit (thesis §6.4).
    Noop,
    /// One turn's commands of the group, encoded by the store; Raft does not look inside.
    Commands(Bytes),
    /// A configuration, in force from the moment that it is appended.
    Config(Configuration),
    /// Cuts the range in two, in the shard's words; Raft does not look inside. Nothing is proposed
    /// behind it before it is applied.
    Split(Bytes),
    /// A step of bringing the range into its neighbour, in the shard's words. Nothing is proposed behind it
    /// before it is applied.
    Merge(Bytes),
    /// [`Payload::Commands`] in a shorter form, from [`oarlock_types::FeatureLevel::PACKED`] on.
    Packed(Bytes),
}

/// A message of one group from one replica to another. Sender and receiver stand in the envelope.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Message {
    /// The sender's term; in a pre-vote the term that it would campaign for.
    pub term: Term,
    /// The rest.
    pub body: Body,
}

impl Message {
    /// About how many bytes it takes in a frame.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let payload = match &self.body {
            Body::Append(append) => append.entries.iter().map(Entry::size_bytes).sum(),
            Body::Snapshot(chunk) => chunk.data.len(),
            Body::PreVote(_)
            | Body::PreVoteReply(_)
            | Body::Vote(_)
            | Body::VoteReply(_)
            | Body::AppendReply(_)
            | Body::SnapshotReply { .. }
            | Body::TimeoutNow(_)
            | Body::Release(_)
            | Body::ReleaseReply(_)
            | Body::ReadIndex { .. }
            | Body::ReadIndexReply { .. }
            | Body::Rebuild(_)
            | Body::Absent
            | Body::Create
            | Body::Residence { .. } => 0,
        };
        96 + payload
    }
}

/// The kinds of message.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Body {
    /// Would you vote for me? Changes nothing at the receiver.
    PreVote(VoteRequest),
    /// The answer to a pre-vote.
    PreVoteReply(VoteReply),
    /// Vote for me.
    Vote(VoteRequest),
    /// The answer to a vote.
    VoteReply(VoteReply),
    /// Entries, or none (a probe, a commit notice, a read barrier).
    Append(Append),
    /// The answer to an append.
    AppendReply(AppendReply),
    /// A piece of a checkpoint for a follower whose next entry is compacted away.
    Snapshot(SnapshotChunk),
    /// How much of the checkpoint stands durable at the follower.
    SnapshotReply {
        /// Which checkpoint.
        position: LogPosition,
        /// All bytes before this offset are there.
        received_bytes: u64,
        /// The checkpoint is installed.
        installed: bool,
    },
    /// Leadership transfer: campaign at once, without a pre-vote, with this release.
    TimeoutNow(Release),
    /// Frees bindings to this leader of this term or older. Repeated until acknowledged.
    Release(Release),
    /// The release is known (also the answer of a node that no longer has the replica).
    ReleaseReply(Release),
    /// A follower asks for an index up to which it must apply before it answers reads.
    ReadIndex {
        /// Names the attempt; never used twice by one replica.
        sequence: u64,
    },
    /// The leader's answer, after it has made sure that it still leads.
    ReadIndexReply {
        /// The attempt.
        sequence: u64,
        /// Apply up to here, then answer. `None`: not to be had here now.
        index: Option<Index>,
    },
    /// Of a replica that has lost a part of its log.
    Rebuild(Rebuild),
    /// The answer of a node that has no replica of the group, and never had one.
    Absent,
    /// The answer to that, for a member: begin with nothing, in this term, with your vote given to me.
    Create,
    /// To a member: be on this core of your node. Or its answer: I am on this core. Raft does not look at it.
    Residence {
        /// The core.
        core: CoreId,
        /// Whether it is the answer.
        is_answer: bool,
    },
}

/// What a replica that is being rebuilt, and its leader, say.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Rebuild {
    /// From a replica that has lost a part of its log and says nothing else: take me out.
    Leave {
        /// Names the attempt; never used twice by one replica, and growing.
        attempt: u64,
    },
    /// The leader's answer, in its term: the replica is out by an entry that was appended after it
    /// asked, and that has committed.
    Left {
        /// The attempt.
        attempt: u64,
        /// The entry of the configuration.
        index: Index,
        /// The configuration.
        configuration: Configuration,
    },
    /// From the rebuilt replica: take me in.
    Join,
    /// The answer of a replica that does not lead: those may know who does. The members may all have
    /// changed since the one that asks knew them.
    Members(Configuration),
}

/// Asks for a (pre-)vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct VoteRequest {
    /// The end of the candidate's log.
    pub last: LogPosition,
    /// A transfer's vote carries the old leader's release.
    pub release: Option<Release>,
}

/// Answers a (pre-)vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct VoteReply {
    /// The vote is given for the message's term.
    pub granted: bool,
}

/// Entries that follow `prev`.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Append {
    /// The leader's core, which the follower's node is asked to support.
    pub core: CoreId,
    /// The entry before the first of `entries`.
    pub prev: LogPosition,
    /// What to append.
    pub entries: Vec<Entry>,
    /// The leader's commit index.
    pub commit: Index,
    /// Newest read barrier; the answer echoes it. Zero: none.
    pub read_sequence: u64,
    /// False for a mere commit notice, which is not answered.
    pub wants_reply: bool,
}

/// Answers an append. Leaves only after all that it claims is durable at the follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct AppendReply {
    /// What became of it.
    pub outcome: AppendOutcome,
    /// The support epoch and leader incarnation under which this replica is bound to the leader,
    /// `None` where it is not bound.
    pub bound: Option<(SupportEpoch, Incarnation)>,
    /// The append's read barrier.
    pub read_sequence: u64,
}

/// Whether an append matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum AppendOutcome {
    /// The logs agree up to here, and this replica has it on disk.
    Matched(Index),
    /// `prev` did not match.
    Rejected {
        /// The append's `prev` index, so that an old rejection is recognised.
        prev: Index,
        /// The largest position of this replica's log that may match (thesis §5.3's optimisation).
        hint: LogPosition,
    },
}

/// A leader's word that it no longer counts on bindings of a term or older.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Release {
    /// The former leader.
    pub leader: NodeId,
    /// Its term.
    pub term: Term,
}

/// What a checkpoint holds, without its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct SnapshotMeta {
    /// The last entry that it contains.
    pub position: LogPosition,
    /// The configuration in force at that entry.
    pub configuration: Configuration,
    /// The index of the entry that set that configuration.
    pub configuration_index: Index,
    /// Its whole length in bytes.
    pub size_bytes: u64,
}

/// A piece of a checkpoint. The first of a transfer is empty: an offer, answered with how much
/// the receiver already has.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct SnapshotChunk {
    /// The leader's core.
    pub core: CoreId,
    /// Which checkpoint.
    pub meta: SnapshotMeta,
    /// Where the piece starts.
    pub offset_bytes: u64,
    /// The piece.
    pub data: Bytes,
}
