//! How long the stages of a write take: one distribution per stage and core.
//!
//! One write of `SAMPLED` is timed, on the core that has its connection and on the core that
//! leads its range, each by its own count. It must never be read to decide anything.
//!
//! Follows one write: [`Stage::Parse`] and [`Stage::Reply`] are timed by the connection's core,
//! [`Stage::Inbox`] to [`Stage::Apply`] by the leader's, [`Stage::Network`] by whoever sends to another
//! node. Clocks of two nodes are never compared.

use std::time::Duration;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2Serializer};
use oarlock_store::Reply;
use oarlock_types::{FastMap, Lsn, Mono, NodeId};

/// One write of so many is timed.
const SAMPLED: u64 = 16;
/// Writes that are timed at once; beyond that none is begun.
const TIMED_MAX: usize = 256;
/// How often at most the way to a peer and back is timed: only while there is something to send.
const PROBE_INTERVAL: Duration = Duration::from_millis(10);
/// Longest time that is told apart: a minute.
const LONGEST_US: u64 = 60_000_000;

macro_rules! stages {
    ($($(#[$meta:meta])* $stage:ident = $name:literal),* $(,)?) => {
        /// A stage of a write.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Stage {
            $($(#[$meta])* $stage,)*
        }

        impl Stage {
            /// All of them, in a write's order.
            pub const ALL: &[Self] = &[$(Self::$stage),*];

            /// Its name for whoever asks.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$stage => $name,)*
                }
            }
        }
    };
}

stages! {
    /// From the read that brought the command to its request being handed on.
    Parse = "parse",
    /// Until a turn of the leader's core takes it: from the handing on, if the leader is of this
    /// node, else from the arrival of the frame that brought it.
    Inbox = "inbox",
    /// Until the entry is in the log in memory and on its way to the followers.
    Propose = "propose",
    /// Until its frame is sealed and handed to the disk: the write before it has to end.
    WalWait = "wal_wait",
    /// Until the core has heard that the frame is durable.
    WalWrite = "wal_write",
    /// From then until the turn that learns that a quorum has it; nothing, if followers were first.
    Commit = "commit",
    /// That turn, until the outcome is handed back: the store, and what else the turn has to do.
    Apply = "apply",
    /// From the outcome at the connection's core to its bytes in the socket.
    Reply = "reply",
    /// From the read that brought the command to the reply's bytes in the socket: all of it.
    Total = "total",
    /// A frame's way to the core of another node and an answer's way back, without a disk.
    Network = "network",
}

/// The distributions of one core, in microseconds.
#[derive(Debug)]
pub struct Stages {
    histograms: Vec<Histogram<u64>>,
    /// Writes of this core's connections, counted up to the next that is timed.
    seen: u64,
}

impl Default for Stages {
    fn default() -> Self {
        let empty = || {
            Histogram::new_with_bounds(1, LONGEST_US, 2).expect("invariant: constant, valid bounds")
        };
        Self { histograms: Stage::ALL.iter().map(|_| empty()).collect(), seen: 0 }
    }
}

impl Stages {
    /// Adds one time.
    pub fn record(&mut self, stage: Stage, from: Mono, to: Mono) {
        self.histograms[stage as usize].saturating_record(to.0.saturating_sub(from.0));
    }

    /// Whether the next write of a connection is to be timed.
    pub fn is_next_timed(&mut self) -> bool {
        self.seen += 1;
        self.seen.is_multiple_of(SAMPLED)
    }

    /// The distributions, each with its stage.
    pub fn iter(&self) -> impl Iterator<Item = (Stage, &Histogram<u64>)> {
        Stage::ALL.iter().copied().zip(&self.histograms)
    }

    /// Adds another core's.
    pub fn merge(&mut self, other: &Self) {
        for (own, others) in self.histograms.iter_mut().zip(&other.histograms) {
            own.add(others).expect("invariant: all have the same bounds");
        }
    }

    /// The answer to `OARLOCK STAGES`: each stage's name, and its distribution in `HdrHistogram`'s V2
    /// encoding, which its readers in all languages know.
    #[must_use]
    pub fn reply(&self) -> Reply {
        let mut serializer = V2Serializer::new();
        let pairs = self.iter().flat_map(|(stage, histogram)| {
            let mut bytes = Vec::new();
            let written = serializer.serialize(histogram, &mut bytes);
            written.expect("invariant: writing to memory does not fail");
            [Reply::Bulk(stage.name().into()), Reply::Bulk(bytes.into())]
        });
        Reply::Array(pairs.collect())
    }

    /// A copy for another core to read.
    #[must_use]
    pub fn copied(&self) -> Self {
        Self { histograms: self.histograms.clone(), seen: 0 }
    }
}

/// A write that the leader's core times.
#[derive(Clone, Copy, Debug)]
struct Proposal {
    token: u64,
    /// The turn that took it.
    taken: Mono,
    /// When its entry was in the log, and the newest record then; none: its turn is not over.
    logged: Option<(Mono, Lsn)>,
    submitted: Option<Mono>,
    durable: Option<Mono>,
}

/// The writes that the leader's core times, from the turn that takes them to their outcome.
#[derive(Debug, Default)]
pub struct Proposals {
    under_way: Vec<Proposal>,
    /// Writes that other nodes forwarded, counted up to the next that is timed.
    seen: u64,
    /// When the way to each peer was timed last.
    probed: FastMap<NodeId, Mono>,
}

impl Proposals {
    /// Whether the next forwarded write is to be timed.
    pub fn is_next_timed(&mut self) -> bool {
        self.seen += 1;
        self.seen.is_multiple_of(SAMPLED)
    }

    /// Whether the way to a peer should be timed now.
    pub fn is_probe_due(&mut self, node: NodeId, now: Mono) -> bool {
        let last = self.probed.entry(node).or_default();
        let is_due = now.since(*last) >= PROBE_INTERVAL;
        if is_due {
            *last = now;
        }
        is_due
    }

    /// Whether any write is being timed: else nobody need read a clock.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Whether this write is being timed.
    #[must_use]
    pub fn is_timed(&self, token: u64) -> bool {
        self.under_way.iter().any(|proposal| proposal.token == token)
    }

    /// A turn took a write that had waited for it since `waiting_since`.
    pub fn taken(&mut self, stages: &mut Stages, token: u64, waiting_since: Mono, now: Mono) {
        if self.under_way.len() < TIMED_MAX {
            stages.record(Stage::Inbox, waiting_since, now);
            let proposal =
                Proposal { token, taken: now, logged: None, submitted: None, durable: None };
            self.under_way.push(proposal);
        }
    }

    /// The turn has proposed what it took; `newest` is the newest record of the log.
    pub fn logged(&mut self, stages: &mut Stages, newest: Lsn, now: Mono) {
        for proposal in self.under_way.iter_mut().filter(|p| p.logged.is_none()) {
            stages.record(Stage::Propose, proposal.taken, now);
            proposal.logged = Some((now, newest));
        }
    }

    /// All records up to `lsn` were handed to the disk.
    pub fn submitted(&mut self, stages: &mut Stages, lsn: Lsn, now: Mono) {
        for proposal in self.under_way.iter_mut().filter(|p| p.submitted.is_none()) {
            if let Some((logged, _)) = proposal.logged.filter(|(_, at)| *at <= lsn) {
                stages.record(Stage::WalWait, logged, now);
                proposal.submitted = Some(now);
            }
        }
    }

    /// All records up to `lsn` are durable.
    pub fn durable(&mut self, stages: &mut Stages, lsn: Lsn, now: Mono) {
        for proposal in self.under_way.iter_mut().filter(|p| p.durable.is_none()) {
            let Some(submitted) = proposal.submitted else { continue };
            if proposal.logged.is_some_and(|(_, at)| at <= lsn) {
                stages.record(Stage::WalWrite, submitted, now);
                proposal.durable = Some(now);
            }
        }
    }

    /// A request has its outcome, in the turn that began at `turn`. One that was refused tells
    /// nothing.
    pub fn settled(
        &mut self,
        stages: &mut Stages,
        token: u64,
        is_done: bool,
        turn: Mono,
        now: Mono,
    ) {
        let Some(place) = self.under_way.iter().position(|p| p.token == token) else { return };
        let proposal = self.under_way.swap_remove(place);
        if is_done && let Some((logged, _)) = proposal.logged {
            // Two followers may be a quorum before the own disk is.
            let from = proposal.durable.unwrap_or(logged);
            stages.record(Stage::Commit, from, turn);
            stages.record(Stage::Apply, turn, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn max_of(stages: &Stages, stage: Stage) -> (u64, u64) {
        let (_, histogram) =
            stages.iter().find(|(of, _)| *of == stage).expect("each stage is there");
        (histogram.len(), histogram.max())
    }

    #[test]
    fn each_stage_of_a_write_gets_its_own_time() {
        let (mut stages, mut proposals) = (Stages::default(), Proposals::default());
        proposals.taken(&mut stages, 7, Mono(100), Mono(103));
        proposals.logged(&mut stages, Lsn(5), Mono(108));
        // A frame that ends before the record, and the end of one, say nothing of it.
        proposals.submitted(&mut stages, Lsn(4), Mono(109));
        proposals.durable(&mut stages, Lsn(4), Mono(110));
        proposals.submitted(&mut stages, Lsn(5), Mono(115));
        proposals.durable(&mut stages, Lsn(5), Mono(125));
        proposals.settled(&mut stages, 8, true, Mono(126), Mono(126));
        assert!(!proposals.is_empty(), "another one's outcome");
        proposals.settled(&mut stages, 7, true, Mono(138), Mono(152));
        assert!(proposals.is_empty());
        for (stage, took) in [
            (Stage::Inbox, 3),
            (Stage::Propose, 5),
            (Stage::WalWait, 7),
            (Stage::WalWrite, 10),
            (Stage::Commit, 13),
            (Stage::Apply, 14),
        ] {
            assert_eq!(max_of(&stages, stage), (1, took), "{}", stage.name());
        }
        for stage in [Stage::Parse, Stage::Reply, Stage::Total, Stage::Network] {
            assert_eq!(max_of(&stages, stage).0, 0, "{}", stage.name());
        }
    }

    #[test]
    fn followers_that_are_first_leave_no_wait_for_them() {
        let (mut stages, mut proposals) = (Stages::default(), Proposals::default());
        proposals.taken(&mut stages, 1, Mono(0), Mono(10));
        proposals.logged(&mut stages, Lsn(1), Mono(20));
        proposals.submitted(&mut stages, Lsn(1), Mono(20));
        proposals.durable(&mut stages, Lsn(1), Mono(50));
        // The turn that heard of the own disk had begun before it heard.
        proposals.settled(&mut stages, 1, true, Mono(48), Mono(55));
        assert_eq!(max_of(&stages, Stage::Commit), (1, 0));
        assert_eq!(max_of(&stages, Stage::Apply), (1, 7));
    }

    #[test]
    fn what_is_refused_tells_nothing_and_what_waits_is_bounded() {
        let (mut stages, mut proposals) = (Stages::default(), Proposals::default());
        for token in 0..2 * TIMED_MAX as u64 {
            proposals.taken(&mut stages, token, Mono(0), Mono(1));
        }
        assert_eq!(max_of(&stages, Stage::Inbox).0, TIMED_MAX as u64);
        for token in 0..2 * TIMED_MAX as u64 {
            proposals.settled(&mut stages, token, false, Mono(2), Mono(3));
        }
        assert!(proposals.is_empty());
        assert_eq!(max_of(&stages, Stage::Commit).0, 0);
    }

    #[test]
    fn one_write_of_so_many_is_timed_and_one_probe_in_an_interval() {
        let mut stages = Stages::default();
        let timed = (0..10 * SAMPLED).filter(|_| stages.is_next_timed()).count();
        assert_eq!(timed, 10);
        let mut proposals = Proposals::default();
        let interval = u64::try_from(PROBE_INTERVAL.as_micros()).expect("short");
        let due = [1, 1 + interval / 2, 1 + interval, 2 + interval]
            .map(|at| proposals.is_probe_due(NodeId(2), Mono(at + interval)));
        assert_eq!(due, [true, false, true, false]);
    }
}
