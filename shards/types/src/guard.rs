//! The guards of the engine that a test can remove, to show that the simulator then finds the bug
//! that the guard keeps away.
//!
//! A guard is a condition in production code: `... && Guard::X.is_on()`. It is always on, a constant
//! that costs nothing, unless the feature `removed-guards` is enabled, which the simulator's tests
//! alone do. With it a test takes one guard away, on its own thread. A guard decides nothing, and
//! nothing in production can take one away. `docs/TESTING.md` says what finds each.

/// A guard. Each says what it keeps true; numbers are of the edge cases that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guard {
    // ---- elections ----
    /// A candidate whose log lacks something gets no vote. (10)
    NewestLogWins,
    /// A replica votes for one candidate in a term. (12)
    OneVoteATerm,
    /// A vote, or any answer in a term, is said once that term and vote are on disk. (12, 14)
    VoteIsOnDisk,
    /// A candidate asks for votes once its own is on disk. (12, 14)
    OwnVoteIsOnDisk,
    /// No term is begun before others say that they would vote. (8, 9)
    PreVote,
    /// Who has no vote does not stand for election. (6)
    LearnersDoNotStand,
    /// A replica that has ended and is made again votes as if it still had its log. (7)
    DepartedRemember,
    /// Who was voted out by an entry that nobody else has stands all the same. (5)
    RemovedLeaderStands,
    /// A leader that no quorum supports steps down. (8)
    QuorumOrStepDown,
    // ---- replication ----
    /// A leader commits by an entry of its own term. (1)
    CommitsOwnTerm,
    /// A leader counts itself up to what is on its own disk. (14)
    OwnWriteIsOnDisk,
    /// A follower acknowledges what is on its disk. (12)
    AckIsOnDisk,
    /// An append of an older term is refused. (10)
    OldTermIsRefused,
    /// An append is taken where the entry before it is the same. (10)
    LogsMatchBefore,
    /// A log is cut where it differs, and only there. (10)
    CutAtConflictOnly,
    /// A follower commits no further than the append has proven its log to match. (10)
    OnlyTheProvenCommits,
    // ---- membership ----
    /// A change of members waits for the end of the one before. (3, 5)
    OneChangeAtATime,
    /// A joint configuration decides by both majorities. (2, 4)
    JointNeedsBoth,
    /// A leader leaves a joint configuration once that has committed. (5)
    JointIsLeft,
    /// A checkpoint from the leader brings the members along. (24)
    SnapshotSetsMembers,
    /// A rebuilt replica makes no checkpoint before it knows the members of that time. (24)
    CheckpointKnowsMembers,
    /// A rebuilt replica asks those to take it in whom it was told of. (7)
    ToldMembersAreAsked,
    // ---- support and leases ----
    /// A replica that is bound to a leader votes for no other. (21, 29)
    BoundVotesNot,
    /// A former leader frees those whom it bound. (29)
    FormerLeaderReleases,
    /// A release frees from bindings of its term or older. (29)
    ReleaseNamesTerm,
    /// A lease counts followers that are bound under the very support that is granted. (21, 29)
    LeaseCountsTheBound,
    /// Support that lapsed comes back under a higher epoch. (29)
    LapseIsForGood,
    /// A lease is shorter than the support by what clocks may drift. (21)
    LeaseAllowsForDrift,
    /// A lease runs from the time at which the pulse was sent. (21, 29)
    LeaseRunsFromSending,
    /// A restarted node waits its forgotten promises out. (22)
    RestartedWaits,
    /// A transfer ends the lease before the successor is told. (22)
    TransferEndsLease,
    /// A core whose loop or log is stuck is not alive. (19)
    StuckCoreIsDead,
    /// Support is extended while data flows, not pulses alone. (29)
    SupportNeedsLinks,
    // ---- reads ----
    /// A read barrier waits for a commit in the leader's own term. (20)
    BarrierAfterOwnTerm,
    /// A lease is none before a commit in the leader's own term. (20)
    LeaseAfterOwnTerm,
    /// A read barrier is answered by a quorum. (20, 21)
    BarrierNeedsQuorum,
    // ---- the log on disk ----
    /// A write that a crash cut short is no damage. (17)
    TornTailIsCut,
    /// The last frame, once whole and changed since, is told as damage. (17)
    DamagedTailIsTold,
    /// A frame behind a damaged one proves that it was durable. (17)
    LaterFrameProvesEarlier,
    /// Segments that were prepared are missed though none is left behind them. (17)
    NewestSegmentIsMissed,
    /// A frame of a recycled segment's former life is none of this one. (18)
    FrameNamesItsSegment,
    /// A segment is given away once what made it needless is durable. (18)
    RetiredOnceDurable,
    /// A process starts once the writes of the one before have landed. (18)
    LockOutlivesProcess,
    /// The segment that a former process may still write to is written no more. (18)
    RecoveredHeadIsClosed,
    // ---- checkpoints and snapshots ----
    /// The old checkpoint and log go once the new one's mark is durable. (18)
    MarkBeforeLettingGo,
    /// A received checkpoint is in place, and said to be, once its mark is durable. (24)
    MarkBeforeInstall,
    /// A checkpoint is of the state that its index says. (15)
    CheckpointIsOfState,
    /// A checkpoint is loaded if its checksums hold. (17)
    CheckpointIsChecked,
    // ---- requests ----
    /// A request with an id is carried out once. (30)
    OnceIsOnce,
    /// What waits for an entry is answered by that very entry. (30)
    ReplyIsOfItsEntry,
    /// A write whose fate can not be told is said to be open, not refused. (30)
    OpenFateIsUnknown,
    /// A write that follows a refused one of its connection is refused, too. (30)
    LaneKeepsOrder,
    /// A request that was routed by another version of the range is refused. (23)
    EpochIsChecked,
    // ---- ranges ----
    /// Nothing is proposed behind a split before it is applied. (23)
    SplitHoldsProposals,
    /// What a split made is on disk before the log lets go of the split. (24)
    LogKeepsSplit,
    /// A replica is on the core whose log has it, whatever the map says. (12)
    LogsClaimFirst,
    /// Of two logs that show a replica the one to which it came last is right. (12, 18)
    LaterResidenceCounts,
    /// A replica of which a part has come from another core is none. (12, 18)
    PartCountsNot,
    /// The old core's log forgets a replica once the new one's has it on disk. (12, 18)
    OldForgetsLast,
    /// A replica says nothing on its new core before the old one's log has forgotten it. (12, 18)
    NewSpeaksLast,
    /// Only logs that are whole are written anew for another number of cores. (17)
    WholeLogsAreCarried,
    /// With another number of cores, what a split made stays with the log of the range that was cut, until a
    /// checkpoint holds it. (24)
    CutStaysWithRange,
    /// A range that is frozen for its neighbour serves nothing. (26)
    FrozenServesNothing,
    /// What a neighbour has taken is remembered: asked again, it says so. (26)
    MergeIsRemembered,
    /// What is asked of the meta group goes to it, whatever range has keys of such names. (23)
    MetaIsNamed,
    /// A node knows those that have joined once its copy of the map on disk does. (22)
    PeersAreRemembered,
    /// An outcome goes back to the life of a node that asked. (30)
    OutcomeIsOfItsLife,
    // ---- going on after the loss of a quorum ----
    /// A group goes on in a term that no election among the lost has come to. (7)
    TermIsFarAhead,
    /// Survivors but the chosen one vote once they have come to the entry from which their group goes on. (7)
    SurvivorsStandBack,
    /// The members that a group goes on with are newer than those that the map knows.
    MembersAreNewerThanMap,
}

#[cfg(not(feature = "removed-guards"))]
impl Guard {
    /// True: without the feature `removed-guards` nothing takes a guard away.
    #[inline(always)]
    #[must_use]
    pub const fn is_on(self) -> bool {
        true
    }
}

#[cfg(feature = "removed-guards")]
mod removed {
    use std::cell::RefCell;

    use super::Guard;

    thread_local! {
        static REMOVED: RefCell<Vec<Guard>> = const { RefCell::new(Vec::new()) };
    }

    /// Puts the guard back, though a panic may have ended what was run.
    struct Back;

    impl Drop for Back {
        fn drop(&mut self) {
            REMOVED.with_borrow_mut(Vec::pop);
        }
    }

    impl Guard {
        /// Whether the guard is there: always, but within [`Guard::removed`].
        #[inline]
        #[must_use]
        pub fn is_on(self) -> bool {
            REMOVED.with_borrow(|removed| !removed.contains(&self))
        }

        /// Runs something without this guard, on this thread; without others, too, if it is run
        /// so itself.
        pub fn removed<R>(self, run: impl FnOnce() -> R) -> R {
            let _back = Back;
            REMOVED.with_borrow_mut(|removed| removed.push(self));
            run()
        }
    }
}
