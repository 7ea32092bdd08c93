//! Rebuilding replicas that have lost a part of their log, while the node serves its others. One
//! per core. `docs/decisions/0007-rebuilding-a-replica.md` argues why it is safe.
//!
//! A lost replica is not taken up: it says nothing but, once an operator has asked for it, that it
//! wants to leave its group. When the group's leader has answered, what it begins with goes into
//! the log, and only when that is durable it is taken up and asks to join.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use oarlock_codec::{GroupMessage, Record};
use oarlock_raft::{Beginning, Body, LogPosition, Message, Rebuild, Restored};
use oarlock_store::Store;
use oarlock_types::{GroupId, Incarnation, Index, Mono, NodeId, RangeBounds, RangeEpoch, Term};

use crate::checkpoints::Mark;
use crate::output::CheckpointFile;
use crate::seed::ReplicaSeed;
use crate::shard::Shard;

/// How long an answer is waited for before it is asked again.
const ASK_INTERVAL_MS: u64 = 200;

/// A replica that is not taken up, since a part of its log or its checkpoint is lost.
#[derive(Clone, Debug)]
pub struct LostReplica {
    /// Its group.
    pub group: GroupId,
    /// The bounds with which the cluster was formed, if the range was there then.
    pub formed: Option<RangeBounds>,
    /// The nodes of the group's other replicas.
    pub peers: Vec<NodeId>,
    /// What is left of its checkpoints.
    pub files: Vec<CheckpointFile>,
}

/// How far the rebuilding of a replica has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RebuildStage {
    /// It is lost, and nobody has asked to rebuild it.
    Damaged,
    /// The group's leader is asked to take it out.
    Leaving,
    /// What it begins with is on its way to the log.
    Beginning,
    /// It receives the log, and is to become a voter.
    Joining,
}

impl RebuildStage {
    /// Its name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::Leaving => "leaving",
            Self::Beginning => "beginning",
            Self::Joining => "joining",
        }
    }
}

/// Why a replica is not rebuilt. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RebuildError {
    /// The replica is served.
    NotDamaged,
    /// The others could not go on without it.
    TooFewReplicas,
}

impl fmt::Display for RebuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotDamaged => "the replica is not damaged",
            Self::TooFewReplicas => {
                "the range has too few replicas to rebuild one from the others: three are needed, of \
                 which two are sound"
            }
        })
    }
}

/// How a replica came to be, as its creation in the log says: what [`Record::Create`] carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The range's epoch.
    pub epoch: RangeEpoch,
    /// Set if it was rebuilt.
    pub rebuilt: Option<Rebuilt>,
    /// Set if a split made its state, and no checkpoint holds that yet.
    pub base: Option<SplitBase>,
    /// Set if there was one here before: the end of its log.
    pub left: Option<LogPosition>,
    /// How often it has come from another core of its node, since it was made or rebuilt: of two logs that show it
    /// the one with more is right.
    pub residence: u64,
}

/// What makes the state of a replica that a split has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitBase {
    /// The group whose range was cut.
    pub parent: GroupId,
    /// The entry of its log that cut it.
    pub index: Index,
}

/// What a rebuilt replica must not forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// Before its log holds this entry it votes for nobody.
    pub votes_from: Index,
    /// The life of the node in which it was rebuilt: damage that was found later is another.
    pub incarnation: Incarnation,
}

impl Rebuilt {
    /// Whether it was rebuilt after its loss was found, in that life of the node.
    #[must_use]
    pub fn is_after(self, lost_in: Incarnation) -> bool {
        self.incarnation >= lost_in
    }
}

impl Origin {
    /// A replica that was made with its group.
    #[must_use]
    pub fn first(epoch: RangeEpoch) -> Self {
        Self { epoch, rebuilt: None, base: None, left: None, residence: 0 }
    }

    /// A replica that a split made.
    #[must_use]
    pub fn split(base: SplitBase) -> Self {
        Self { base: Some(base), ..Self::first(RangeEpoch(0)) }
    }

    /// As bytes: the epoch; the index and the incarnation of a rebuilt one, else zeros; the group and the
    /// index of a split; the term and the index of the last entry before; how often it came from another core, and
    /// a byte that says whether there was a last entry before. What says nothing to the end is left out.
    #[must_use]
    pub fn to_details(self) -> Bytes {
        let mut bytes = self.epoch.get().to_le_bytes().to_vec();
        if let Some(Rebuilt { votes_from, incarnation }) = self.rebuilt {
            bytes.extend(votes_from.get().to_le_bytes());
            bytes.extend(incarnation.get().to_le_bytes());
        }
        if let Some(SplitBase { parent, index }) = self.base {
            bytes.resize(24, 0);
            bytes.extend(parent.get().to_le_bytes());
            bytes.extend(index.get().to_le_bytes());
        }
        if let Some(LogPosition { term, index }) = self.left {
            bytes.resize(40, 0);
            bytes.extend(term.get().to_le_bytes());
            bytes.extend(index.get().to_le_bytes());
        }
        if self.residence > 0 {
            bytes.resize(56, 0);
            bytes.extend(self.residence.to_le_bytes());
            bytes.push(u8::from(self.left.is_some()));
        }
        bytes.into()
    }

    /// From what a creation carried; the first epoch where there is nothing.
    #[must_use]
    pub fn from_details(details: &[u8]) -> Self {
        let number = |at: usize| {
            let bytes = details.get(at..at + 8)?.try_into().ok()?;
            Some(u64::from_le_bytes(bytes))
        };
        // No life of a node has the number zero.
        let rebuilt = number(8).zip(number(16).filter(|life| *life > 0));
        let rebuilt = rebuilt.map(|(index, incarnation)| Rebuilt {
            votes_from: Index(index),
            incarnation: Incarnation(incarnation),
        });
        // The meta group is never cut.
        let base = number(24).filter(|parent| *parent > 0).zip(number(32));
        let base =
            base.map(|(parent, index)| SplitBase { parent: GroupId(parent), index: Index(index) });
        let has_left = details.get(64).is_none_or(|has| *has == 1);
        let left = number(40).zip(number(48)).filter(|_| has_left);
        let residence = number(56).unwrap_or(0);
        let left = left.map(|(term, index)| LogPosition { term: Term(term), index: Index(index) });
        Self { epoch: RangeEpoch(number(0).unwrap_or(1)), rebuilt, base, left, residence }
    }
}

#[derive(Debug)]
enum Stage {
    Damaged,
    Leaving { attempt: u64 },
    Beginning { beginning: Beginning },
}

/// The rebuilding of one core's replicas.
#[derive(Debug, Default)]
pub(crate) struct Rebuilding {
    lost: BTreeMap<GroupId, (LostReplica, Stage)>,
    /// Rebuilt replicas that are no voters yet.
    joining: BTreeSet<GroupId>,
    attempts: u64,
    asked_at: Mono,
}

impl Shard {
    /// Notes a replica that is lost, at the start.
    pub fn note_lost(&mut self, lost: LostReplica) {
        debug_assert!(!self.has_replica(lost.group), "invariant: a lost replica is not taken up");
        self.rebuilding.lost.insert(lost.group, (lost, Stage::Damaged));
    }

    pub(crate) fn is_lost(&self, group: GroupId) -> bool {
        self.rebuilding.lost.contains_key(&group)
    }

    /// The replicas of this core that are lost or being rebuilt.
    pub fn rebuild_stages(&self) -> impl Iterator<Item = (GroupId, RebuildStage)> + '_ {
        let lost = self.rebuilding.lost.iter().map(|(group, (_, stage))| {
            let stage = match stage {
                Stage::Damaged => RebuildStage::Damaged,
                Stage::Leaving { .. } => RebuildStage::Leaving,
                Stage::Beginning { .. } => RebuildStage::Beginning,
            };
            (*group, stage)
        });
        let joining = self.rebuilding.joining.iter();
        lost.chain(joining.map(|group| (*group, RebuildStage::Joining)))
    }

    /// Begins to rebuild a replica of this core; `None`: there is none of this group. One that is
    /// being rebuilt already goes on.
    pub fn rebuild(&mut self, group: GroupId) -> Option<Result<(), RebuildError>> {
        if self.has_replica(group) {
            let is_joining = self.rebuilding.joining.contains(&group);
            return Some(if is_joining { Ok(()) } else { Err(RebuildError::NotDamaged) });
        }
        let incarnation = self.support.incarnation();
        let (lost, stage) = self.rebuilding.lost.get_mut(&group)?;
        if lost.peers.len() < 2 {
            return Some(Err(RebuildError::TooFewReplicas));
        }
        if matches!(stage, Stage::Damaged) {
            self.rebuilding.attempts += 1;
            // No two lives of a node have an attempt in common.
            let attempt = incarnation.get() << 32 | self.rebuilding.attempts;
            *stage = Stage::Leaving { attempt };
            self.rebuilding.asked_at = Mono(0);
        }
        Some(Ok(()))
    }

    /// Whether a rebuilt replica is on its way to be a voter.
    pub(crate) fn is_joining(&self, group: GroupId) -> bool {
        self.rebuilding.joining.contains(&group)
    }

    /// A rebuilt replica has come to its end: it asks nobody any more.
    pub(crate) fn forget_joining(&mut self, group: GroupId) {
        self.rebuilding.joining.remove(&group);
    }

    /// Asks again for what has not come to pass yet.
    pub(crate) fn push_rebuilding(&mut self) {
        let waits_ms = self.now.since(self.rebuilding.asked_at).as_millis();
        if waits_ms < u128::from(ASK_INTERVAL_MS) {
            return;
        }
        self.rebuilding.asked_at = self.now;
        for (lost, stage) in self.rebuilding.lost.values() {
            let Stage::Leaving { attempt } = stage else { continue };
            let body = Body::Rebuild(Rebuild::Leave { attempt: *attempt });
            // It has no term any more, and claims none.
            let message = Message { term: Term(0), body };
            let asked = GroupMessage { group: lost.group, message };
            self.out.messages.extend(lost.peers.iter().map(|node| (*node, asked.clone())));
        }
        for group in self.rebuilding.joining.clone() {
            if self.replicas.get(&group).is_some_and(|r| r.raft.is_settled_voter()) {
                self.rebuilding.joining.remove(&group);
            } else {
                self.with_group(group, |raft, ctx, out| raft.ask_to_join(ctx, out));
            }
        }
    }

    /// A message to a group without a replica here: it may be the word that a lost one has left, or
    /// who else may know its leader.
    pub(crate) fn message_to_lost(&mut self, from: NodeId, group: GroupId, message: &Message) {
        let incarnation = self.support.incarnation();
        let Some((lost, stage)) = self.rebuilding.lost.get_mut(&group) else { return };
        let Stage::Leaving { attempt } = stage else { return };
        if let Body::Rebuild(Rebuild::Members(told)) = &message.body {
            let known: BTreeSet<NodeId> =
                lost.peers.iter().copied().chain(told.members()).collect();
            lost.peers = known.into_iter().filter(|node| *node != self.support.node()).collect();
        }
        let Some(beginning) = Beginning::from_message(from, message, *attempt) else { return };
        let rebuilt = Rebuilt { votes_from: beginning.votes_from, incarnation };
        let epoch = lost.formed.as_ref().map_or(RangeEpoch(0), |bounds| bounds.epoch);
        let origin = Origin { rebuilt: Some(rebuilt), ..Origin::first(epoch) };
        let (configuration, details) = (beginning.configuration.clone(), origin.to_details());
        let hard_state = beginning.hard_state;
        *stage = Stage::Beginning { beginning };
        // The creation makes void whatever the log still holds of the former life.
        self.log(&Record::Create { group, configuration, details });
        let lsn = self.log(&Record::HardState { group, hard_state });
        self.after_durable.marks.push_back((lsn, Mark::Begun(group)));
    }

    /// What a rebuilt replica begins with is durable: it is taken up, empty.
    pub(crate) fn begun(&mut self, group: GroupId) {
        let Some((lost, stage)) = self.rebuilding.lost.remove(&group) else { return };
        let Stage::Beginning { beginning } = stage else { return };
        for file in lost.files {
            self.delete(file);
        }
        let restored = Restored {
            hard_state: beginning.hard_state,
            checkpoint: Self::fresh_checkpoint(beginning.configuration),
            log_start: Index(1),
            entries: Vec::new(),
            first_election_delay: self.limits.support_duration,
        };
        let mut store = Store::new(Self::store_limits(&self.limits));
        store.set_bounds(lost.formed.unwrap_or_default());
        let (votes_from, incarnation) = (beginning.votes_from, self.support.incarnation());
        let rebuilt = Some(Rebuilt { votes_from, incarnation });
        let (base, left) = (None, None);
        let seed = ReplicaSeed { group, restored, store, base, left, residence: 0, rebuilt };
        self.add_replica(seed, false);
    }

    /// A replica that is taken up had been rebuilt, as its creation says. One that has ended since, and was made
    /// again, joins by its leader's word.
    pub(crate) fn note_rebuilt(&mut self, group: GroupId, rebuilt: Rebuilt) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        replica.raft.votes_from(rebuilt.votes_from);
        if replica.past().left.is_none() {
            self.rebuilding.joining.insert(group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_reads_back_as_it_was_written() {
        let first = Origin::first(RangeEpoch(7));
        let rebuilt = Rebuilt { votes_from: Index(9), incarnation: Incarnation(3) };
        let base = Some(SplitBase { parent: GroupId(5), index: Index(77) });
        let rebuilt = Some(rebuilt);
        let left = Some(LogPosition { term: Term(4), index: Index(81) });
        let others = [
            Origin { rebuilt, ..first },
            Origin { base, ..first },
            Origin { rebuilt, base, ..first },
            Origin { left, ..first },
            Origin { rebuilt, base, left, ..first },
            Origin { residence: 3, ..first },
            Origin { residence: 1, left, ..first },
            Origin { residence: 1, left: Some(LogPosition::default()), ..first },
            Origin { rebuilt, base, left, residence: u64::MAX, ..first },
        ];
        for origin in [first].into_iter().chain(others) {
            assert_eq!(Origin::from_details(&origin.to_details()), origin);
        }
        assert_eq!(Origin::from_details(b""), Origin::first(RangeEpoch(1)));
    }
}
