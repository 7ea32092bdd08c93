//! The pulses' rules in small, for random schedules: support that lapses for good, epochs, leases
//! from the send time, the wait after a start. One per test.
//!
//! A node of one core stands for its core; time is the same everywhere.

use std::collections::BTreeMap;
use std::time::Duration;

use oarlock_raft::{Grant, Received};
use oarlock_types::{Incarnation, Mono, NodeId, Random, SupportEpoch};

use super::Cluster;

pub const SUPPORT: Duration = Duration::from_millis(750);
pub const INTERVAL: Duration = Duration::from_millis(50);
/// What is taken off a lease for drift.
const DRIFT: Duration = Duration::from_millis(15);

/// Support that a node grants to another, and the pulse that it answers.
#[derive(Clone, Copy, Debug)]
struct Promise {
    grant: Grant,
    sequence: u64,
    until: Mono,
}

/// A pulse under way.
#[derive(Clone, Debug)]
struct Pulse {
    from: NodeId,
    to: NodeId,
    incarnation: u64,
    sequence: u64,
    promise: Option<Promise>,
    arrives: Mono,
}

/// One node's books.
#[derive(Debug, Default)]
struct Books {
    lapses: u64,
    sequence: u64,
    sent: BTreeMap<u64, Mono>,
    known: BTreeMap<NodeId, u64>,
    promises: BTreeMap<NodeId, Promise>,
    started: Mono,
    next_pulse: Mono,
}

#[derive(Debug, Default)]
pub struct Pulses {
    books: BTreeMap<NodeId, Books>,
    air: Vec<Pulse>,
}

impl Pulses {
    /// A node has started: it has forgotten what it promised and what it was promised.
    pub fn restart(&mut self, id: NodeId, now: Mono, delay: Duration) {
        let books = Books { started: now, next_pulse: now + delay, ..Books::default() };
        self.books.insert(id, books);
    }

    /// The end of the wait after a start.
    pub fn may_vote(&self, id: NodeId, now: Mono) -> bool {
        self.books[&id].started + SUPPORT <= now
    }

    /// Sends and takes the pulses that are due, with loss and delay, and tells whoever's promises
    /// changed. `cut` says which ways are cut for pulses; `linked` whether the data link is up.
    pub fn run(
        &mut self,
        cluster: &mut Cluster,
        random: &mut Random,
        cut: &dyn Fn(NodeId, NodeId) -> bool,
        loss_percent: u64,
    ) {
        let now = cluster.now;
        let ids: Vec<NodeId> = cluster.nodes.keys().copied().collect();
        for from in &ids {
            if cluster.node(*from).group.is_none() {
                continue;
            }
            let incarnation = cluster.node(*from).promises.incarnation;
            let books = self.books.get_mut(from).expect("known");
            if books.next_pulse > now {
                continue;
            }
            books.next_pulse = now + INTERVAL;
            books.sequence += 1;
            books.sent.insert(books.sequence, now);
            for to in ids.iter().filter(|to| *to != from) {
                if cut(*from, *to) || random.below(100) < loss_percent {
                    continue;
                }
                let most = if random.below(50) == 0 { 900_000 } else { 3_000 };
                let delay = Duration::from_micros(random.below(most));
                let promise = books.promises.get(to).filter(|p| p.until > now).copied();
                let sequence = books.sequence;
                let arrives = now + delay;
                let (from, to) = (*from, *to);
                self.air.push(Pulse { from, to, incarnation, sequence, promise, arrives });
            }
        }
        let due: Vec<Pulse> = self.air.iter().filter(|p| p.arrives <= now).cloned().collect();
        self.air.retain(|p| p.arrives > now);
        for pulse in due {
            if cluster.node(pulse.to).group.is_some() {
                self.take(cluster, &pulse);
            }
        }
        self.publish(cluster);
    }

    fn take(&mut self, cluster: &mut Cluster, pulse: &Pulse) {
        let now = cluster.now;
        let own = cluster.node(pulse.to).promises.incarnation;
        let books = self.books.get_mut(&pulse.to).expect("known");
        let known = books.known.entry(pulse.from).or_insert(0);
        if pulse.incarnation < *known {
            return;
        }
        *known = pulse.incarnation;
        let grant = Grant { epoch: SupportEpoch(0), incarnation: Incarnation(pulse.incarnation) };
        let current = books
            .promises
            .get(&pulse.from)
            .filter(|p| p.until > now && p.grant.incarnation == grant.incarnation);
        let promise = match current {
            Some(p) if pulse.sequence > p.sequence => {
                Promise { sequence: pulse.sequence, until: now + SUPPORT, ..*p }
            }
            Some(p) => *p,
            None => {
                books.lapses += 1;
                let epoch = SupportEpoch(own * 1_000_000 + books.lapses);
                let (sequence, until) = (pulse.sequence, now + SUPPORT);
                Promise { grant: Grant { epoch, ..grant }, sequence, until }
            }
        };
        books.promises.insert(pulse.from, promise);
        // What the sender promises to us counts from when we sent what it answers.
        let Some(theirs) = pulse.promise.filter(|p| p.grant.incarnation.0 == own) else { return };
        let Some(sent) = books.sent.get(&theirs.sequence) else { return };
        let until = *sent + (SUPPORT - DRIFT);
        let received = &mut cluster.nodes.get_mut(&pulse.to).expect("known").promises.received;
        let newer = received
            .get(&pulse.from)
            .is_none_or(|r| (r.epoch, r.until) < (theirs.grant.epoch, until));
        if newer && until > now {
            let kept = Received { epoch: theirs.grant.epoch, until };
            let before = received.insert(pulse.from, kept);
            if before.is_none_or(|b| b.epoch != kept.epoch) {
                cluster.support_changed(pulse.to);
            }
        }
    }

    /// Shows each replica the promises that hold at this moment.
    fn publish(&mut self, cluster: &mut Cluster) {
        let now = cluster.now;
        for (id, books) in &self.books {
            let node = cluster.nodes.get_mut(id).expect("known");
            let granted: BTreeMap<NodeId, Grant> = books
                .promises
                .iter()
                .filter(|(_, p)| p.until > now)
                .map(|(of, p)| (*of, p.grant))
                .collect();
            let before = node.promises.received.len();
            node.promises.received.retain(|_, r| r.until > now);
            let lapsed = node.promises.received.len() != before;
            node.may_vote = books.started + SUPPORT <= now;
            if node.promises.granted != granted || lapsed {
                node.promises.granted = granted;
                cluster.support_changed(*id);
            }
        }
    }
}
