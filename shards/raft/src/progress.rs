//! What a leader knows of one follower: how far it has come and what is on its way to it.
//! One per follower and leader, gone with the leader's term.
//!
//! It keeps the window and decides nothing about commits, leases or elections.

use std::collections::VecDeque;
use std::time::Duration;

use oarlock_types::{Incarnation, Index, Limits, Mono, NodeId, SupportEpoch};

use crate::LogPosition;

/// How a leader replicates to one follower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgressState {
    /// The follower's log is not known to match: one message at a time, from `next`.
    Probe {
        /// The probe is on its way.
        sent: bool,
    },
    /// The logs match: entries are sent as they come, up to the window.
    Replicate,
    /// The follower needs a checkpoint first.
    Snapshot(Box<SnapshotSend>),
}

/// A checkpoint on its way to one follower, one piece at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotSend {
    /// Which checkpoint.
    pub position: LogPosition,
    /// Its length, once the shard has told it.
    pub size_bytes: Option<u64>,
    /// Where the piece on its way starts; `None` for the offer.
    pub offset_bytes: Option<u64>,
    /// The shard is reading it; else the follower's answer is awaited.
    pub reading: bool,
}

/// One follower, as its leader sees it.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) node: NodeId,
    /// The logs are known to agree, and the follower to have it on disk, up to here.
    pub(crate) matched: Index,
    /// The next entry to send.
    pub(crate) next: Index,
    pub(crate) state: ProgressState,
    /// Under what the follower's last answer in this term was bound.
    pub(crate) bound: Option<(SupportEpoch, Incarnation)>,
    /// The newest read barrier that the follower has answered.
    pub(crate) read_acked: u64,
    /// The newest commit index that the follower can know.
    pub(crate) commit_sent: Index,
    /// The data link is up.
    pub(crate) reachable: bool,
    /// Entries are being read from the WAL for this follower.
    pub(crate) log_read: bool,
    /// An empty append that carries this barrier awaits its answer.
    pub(crate) ping: Option<u64>,
    /// When the follower last answered, or was first asked since.
    pub(crate) active_at: Mono,
    /// The last index and the bytes of each append on its way.
    inflight: VecDeque<(Index, u32)>,
    inflight_bytes: usize,
}

impl Progress {
    pub(crate) fn new(node: NodeId, next: Index, reachable: bool) -> Self {
        Self {
            node,
            matched: Index(0),
            next,
            state: ProgressState::Probe { sent: false },
            bound: None,
            read_acked: 0,
            commit_sent: Index(0),
            reachable,
            log_read: false,
            ping: None,
            active_at: Mono(0),
            inflight: VecDeque::new(),
            inflight_bytes: 0,
        }
    }

    /// Whether an answer is awaited that a lost message would keep away for ever.
    pub(crate) fn is_waiting(&self) -> bool {
        self.ping.is_some()
            || match &self.state {
                ProgressState::Probe { sent } => *sent,
                ProgressState::Replicate => !self.inflight.is_empty(),
                ProgressState::Snapshot(send) => !send.reading,
            }
    }

    /// When to ask again; never while nothing is awaited or the link is down.
    pub(crate) fn retry_at(&self, interval: Duration) -> Mono {
        if self.reachable && self.is_waiting() { self.active_at + interval } else { Mono::NEVER }
    }

    /// Called before a message that awaits an answer is sent.
    pub(crate) fn asked(&mut self, now: Mono) {
        if !self.is_waiting() {
            self.active_at = now;
        }
    }

    pub(crate) fn window_open(&self, limits: &Limits) -> bool {
        self.inflight.len() < limits.inflight_messages_max
            && self.inflight_bytes < limits.inflight_bytes_max
    }

    pub(crate) fn sent(&mut self, last: Index, bytes: usize) {
        self.inflight.push_back((last, u32::try_from(bytes).unwrap_or(u32::MAX)));
        self.inflight_bytes += usize::try_from(u32::try_from(bytes).unwrap_or(u32::MAX))
            .expect("invariant: usize holds 32 bits");
        self.next = last.next();
    }

    /// The follower has `index`: whatever ends there or before has arrived.
    pub(crate) fn free_upto(&mut self, index: Index) {
        while self.inflight.front().is_some_and(|(last, _)| *last <= index) {
            let (_, bytes) = self.inflight.pop_front().expect("invariant: there is a front");
            self.inflight_bytes -= usize::try_from(bytes).expect("invariant: usize holds 32 bits");
        }
    }

    /// The group falls quiet: gives back the room of the window if nothing is in it.
    pub(crate) fn rest(&mut self) {
        if self.inflight.is_empty() {
            self.inflight = VecDeque::new();
        }
    }

    /// Starts over at `next`: what is on its way is forgotten.
    pub(crate) fn probe_from(&mut self, next: Index) {
        self.state = ProgressState::Probe { sent: false };
        self.next = next.max(self.matched.next());
        self.inflight.clear();
        self.inflight_bytes = 0;
        self.log_read = false;
    }

    pub(crate) fn replicate(&mut self) {
        self.state = ProgressState::Replicate;
        self.next = self.matched.next();
        self.inflight.clear();
        self.inflight_bytes = 0;
    }

    pub(crate) fn has_inflight(&self) -> bool {
        !self.inflight.is_empty()
    }

    /// The link is down: nothing is awaited, and the next message will be a probe.
    pub(crate) fn pause(&mut self) {
        match &mut self.state {
            ProgressState::Probe { .. } | ProgressState::Replicate => {
                self.probe_from(self.matched.next());
            }
            ProgressState::Snapshot(_) => {}
        }
    }

    /// Whether the follower could know a newer commit index than it was sent.
    pub(crate) fn needs_notice(&self, commit: Index) -> bool {
        self.reachable
            && self.state == ProgressState::Replicate
            && commit.min(self.matched) > self.commit_sent
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.inflight.capacity() * size_of::<(Index, u32)>()
    }

    pub(crate) fn check_invariants(&self) {
        assert!(self.next > self.matched, "next lies behind what matches");
        let bytes: u64 = self.inflight.iter().map(|(_, b)| u64::from(*b)).sum();
        assert_eq!(bytes, self.inflight_bytes as u64, "the window's bytes are counted");
        if self.state != ProgressState::Replicate {
            assert!(self.inflight.is_empty(), "only replication has a window");
        }
    }
}
