//! The world: virtual time, its events, and everything that they happen to. One per run; one seed
//! decides all of it.
//!
//! An event is taken, carried out whole, and may bring about later ones; two at the same time
//! happen in the order in which they were brought about. The parts stand in their own files: `turn`
//! drives cores, `processes` starts and ends them, `links` is the network, `worker` the disks,
//! `trouble` the faults, `asking` the clients' way, `settle` the end of a run.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use oarlock_raft::Configuration;
use oarlock_shard::Outcome;
use oarlock_types::{CoreAddr, GroupId, NodeId};

use crate::clients::{Clients, Sending};
use crate::config::{Config, Weather};
use crate::core_changes::CoreChanges;
use crate::joining::Joining;
use crate::letters::Admission;
use crate::links::Network;
use crate::merging::Question;
use crate::node::Node;
use crate::oracle::Oracle;
use crate::placing::Placing;
use crate::pulses::Datagram;
use crate::quorum_loss::Recovery;
use crate::random::Stream;
use crate::ranges::Ranges;
use crate::trace::{Trace, What};

/// How often a core runs a turn though nothing happens, as production's watchdog has it.
pub(crate) const BEAT_US: u64 = 10_000;

/// What may happen.
#[derive(Debug)]
pub(crate) enum Event {
    Turn { n: usize, c: usize, life: u64 },
    PulseDue { n: usize, life: u64 },
    Pulse { to: usize, pulse: Datagram },
    Dial { from: CoreAddr, to: NodeId, life: u64 },
    Greet { from: CoreAddr, to: CoreAddr, life: u64 },
    Answer { conn: u64 },
    Frame { conn: u64, first: u64, count: u64, bytes: Vec<u8> },
    CloseOut { conn: u64 },
    CloseIn { conn: u64 },
    KeepAlive { conn: u64 },
    WalLands { n: usize, c: usize, write: u64 },
    WorkerDone { n: usize, life: u64 },
    ClientActs { client: usize },
    Request { n: usize, sending: Box<Sending> },
    Hear { token: u64, from: NodeId, outcome: Box<Outcome> },
    FaultBegins { place: usize },
    FaultEnds { place: usize },
    Start { n: usize, life: u64 },
    Rebuild { n: usize, life: u64 },
    Place,
    JoinAsks { joiner: usize },
    Admitted { joiner: usize, admission: Box<Admission> },
    OperatorAsks,
    GoOn { seed: u64 },
}

#[derive(Debug)]
struct Entry {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Events.
    pub events: u64,
    /// Virtual microseconds.
    pub virtual_us: u64,
    /// Client operations that were answered.
    pub answered: u64,
    /// Client operations of unknown outcome.
    pub unknown: u64,
    /// Elections won.
    pub elections: u64,
    /// Entries committed.
    pub entries: u64,
    /// Faults that began.
    pub faults: u64,
    /// Messages between replicas that were sent.
    pub messages: u64,
    /// Folds what happened, in order: equal in two runs of one seed.
    pub digest: u64,
}

/// The world.
#[derive(Debug)]
pub struct World {
    /// What the run is made of.
    pub config: Config,
    pub(crate) now: u64,
    queue: BinaryHeap<Reverse<Entry>>,
    order: u64,
    pub(crate) weather: Weather,
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: Network,
    pub(crate) clients: Clients,
    /// Which range has which keys, by the newest word.
    pub ranges: Ranges,
    pub(crate) oracle: Oracle,
    pub(crate) placing: Placing,
    pub(crate) joining: Joining,
    pub(crate) recovery: Recovery,
    /// What happened, if the run is traced.
    pub trace: Trace,
    /// Chance of the network, the disks, and the nodes.
    pub(crate) net_random: Stream,
    pub(crate) disk_random: Stream,
    pub(crate) node_random: Stream,
    /// Chance of starts with another number of cores.
    pub(crate) core_random: Stream,
    pub(crate) core_changes: CoreChanges,
    pub(crate) figures: Figures,
    pub(crate) next_write: u64,
    pub(crate) next_message: u64,
    /// Where each token's request is: the node and the life of its process.
    pub(crate) asked: BTreeMap<u64, (usize, u64)>,
    /// Outcomes of requests that a scenario or the end of a run asked for itself.
    pub(crate) outcomes: BTreeMap<u64, Outcome>,
    pub(crate) next_probe: u64,
    pub(crate) are_faults_over: bool,
    /// What frozen ranges have asked and not heard yet, by token.
    pub(crate) questions: BTreeMap<u64, Question>,
    pub(crate) next_merge: u64,
}

impl World {
    /// A world at its beginning: every node starts for the first time.
    #[must_use]
    pub fn new(seed: u64, config: Config) -> Self {
        Self::traced(seed, config, false)
    }

    /// The same, with a trace if it is wanted.
    #[must_use]
    pub fn traced(seed: u64, config: Config, trace: bool) -> Self {
        let clients = Clients::new(&config, seed);
        let nodes = config.node_ids().map(|id| Node::new(id, &config)).collect();
        let mut world = Self {
            now: 0,
            queue: BinaryHeap::new(),
            order: 0,
            weather: config.weather,
            nodes,
            network: Network::default(),
            clients,
            ranges: Ranges::new(&config),
            oracle: Oracle::default(),
            placing: Placing::default(),
            joining: Joining::default(),
            recovery: Recovery::default(),
            trace: Trace::new(trace),
            net_random: Stream::new(seed, 4),
            disk_random: Stream::new(seed, 5),
            node_random: Stream::new(seed, 6),
            core_random: Stream::new(seed, 42),
            core_changes: CoreChanges::default(),
            figures: Figures::default(),
            next_write: 0,
            next_message: 0,
            asked: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            next_probe: 1 << 62,
            are_faults_over: false,
            questions: BTreeMap::new(),
            next_merge: 0,
            config,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        self.oracle.keeps_payloads = self.config.loses_quorum;
        for group in self.config.formed_ids() {
            let nodes = self.config.replicas_of(group).into_iter().map(|replica| replica.node);
            self.oracle.form(group, Configuration::simple(nodes));
        }
        for n in 0..self.nodes.len() {
            self.start(n);
        }
        for client in 0..self.clients.all.len() {
            let at = self.clients.all[client].acts_at;
            self.at(at, Event::ClientActs { client });
        }
        for place in 0..self.config.faults.len() {
            let at = self.config.faults[place].at_us;
            self.at(at, Event::FaultBegins { place });
        }
    }

    /// Virtual microseconds since the beginning.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.now
    }

    /// What the run has done so far.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures {
            virtual_us: self.now,
            answered: self.clients.answered,
            unknown: self.clients.unknown,
            elections: self.oracle.elections,
            entries: self.oracle.entries_committed,
            ..self.figures
        }
    }

    pub(crate) fn at(&mut self, at: u64, event: Event) {
        self.order += 1;
        let at = at.max(self.now);
        self.queue.push(Reverse(Entry { at, order: self.order, event }));
    }

    pub(crate) fn place(&self, node: NodeId) -> usize {
        usize::try_from(node.get() - 1).expect("invariant: few nodes")
    }

    pub(crate) fn tell(&mut self, node: NodeId, text: impl FnOnce() -> String) {
        self.trace.push(self.now, || What::Node { node, text: text() });
    }

    /// Lets so much virtual time pass.
    ///
    /// # Panics
    /// When a property does not hold, or the production code finds itself in contradiction.
    pub fn run_for(&mut self, us: u64) {
        self.run_until(self.now + us);
    }

    /// Lets virtual time pass until then.
    ///
    /// # Panics
    /// As [`World::run_for`].
    pub fn run_until(&mut self, until: u64) {
        while let Some(Reverse(entry)) = self.queue.peek() {
            if entry.at > until {
                break;
            }
            self.step();
        }
        self.now = self.now.max(until);
    }

    /// Runs until `done` holds, which is asked every millisecond; false if that takes longer than
    /// `us_max`.
    ///
    /// # Panics
    /// As [`World::run_for`].
    pub fn run_till(&mut self, us_max: u64, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + us_max;
        while !done(self) {
            if self.now >= end {
                return false;
            }
            self.run_for(1000);
        }
        true
    }

    fn step(&mut self) {
        let Some(Reverse(Entry { at, event, .. })) = self.queue.pop() else { return };
        self.now = at;
        self.figures.events += 1;
        for part in [at, self.next_message, self.order] {
            let digest = self.figures.digest.rotate_left(7) ^ part;
            self.figures.digest = digest.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
        match event {
            Event::Turn { n, c, life } => {
                let node = &self.nodes[n];
                let is_due = node.life == life
                    && node.process.as_ref().is_some_and(|p| p.cores[c].turn_at == at);
                if is_due {
                    self.turn(n, c);
                }
            }
            Event::PulseDue { n, life } if self.nodes[n].life == life => self.pulse_due(n),
            Event::PulseDue { .. } => {}
            Event::Pulse { to, pulse } => self.pulse_arrives(to, pulse),
            Event::Dial { from, to, life } => self.dial(from, to, life),
            Event::Greet { from, to, life } => self.greet(from, to, life),
            Event::Answer { conn } => self.answered(conn),
            Event::Frame { conn, first, count, bytes } => {
                self.frame_arrives(conn, first, count, bytes);
            }
            Event::CloseOut { conn } => self.close_out(conn),
            Event::CloseIn { conn } => self.close_in(conn),
            Event::KeepAlive { conn } => self.keep_alive(conn),
            Event::WalLands { n, c, write } => self.wal_lands(n, c, write),
            Event::WorkerDone { n, life } if self.nodes[n].life == life => self.worker_done(n),
            Event::WorkerDone { .. } => {}
            Event::ClientActs { client } => self.client_acts(client),
            Event::Request { n, sending } => self.request_arrives(n, *sending),
            Event::Hear { token, from, outcome } => self.hear(token, from, *outcome),
            Event::FaultBegins { place } => self.fault_begins(place),
            Event::FaultEnds { place } => self.fault_ends(place),
            Event::Start { n, life } if self.nodes[n].life == life => self.start(n),
            Event::Start { .. } => {}
            Event::Rebuild { n, life } if self.nodes[n].life == life => self.rebuild(n),
            Event::Rebuild { .. } => {}
            Event::Place => self.go_on_placing(),
            Event::JoinAsks { joiner } => self.join_asks(joiner),
            Event::Admitted { joiner, admission } => self.admitted(joiner, *admission),
            Event::OperatorAsks => self.operator_asks(),
            Event::GoOn { seed } => self.go_on_from_survivors(seed),
        }
        self.check_leases();
        if let Some(most) = self.config.elections_max {
            let elections = self.oracle.elections;
            assert!(elections <= most, "no more elections than wished: {elections} are won");
        }
    }

    /// From the moment that a new leader exists no older one holds a lease. Asked at every event
    /// while more than one replica of a group thinks that it leads.
    fn check_leases(&mut self) {
        if self.oracle.contested.is_empty() || self.config.is_outside_model() {
            return;
        }
        let groups: Vec<GroupId> = self.oracle.contested.iter().copied().collect();
        for group in groups {
            let newest = self.oracle.newest_term(group);
            for node in &self.nodes {
                let Some(core) = node.core(&self.config, group) else { continue };
                let shard = &core.shard;
                let holds = shard.holds_lease(group, node.clock.mono(self.now));
                let term = shard.raft(group).map(|raft| raft.term()).unwrap_or_default();
                assert!(
                    !holds || term == newest,
                    "at most one lease: {} holds a lease of {group} in term {term} at {} us, \
                     although {newest} has a leader",
                    node.id,
                    self.now
                );
            }
        }
    }

    /// The time that a way over the network takes.
    pub(crate) fn way_us(&mut self, from: NodeId, to: NodeId) -> u64 {
        let Weather { delay_min_us, delay_spread_us, slow_per_mille, slow_us, .. } = self.weather;
        let random = &mut self.net_random;
        let mut us = delay_min_us + random.below(delay_spread_us);
        if random.per_mille(slow_per_mille) {
            us += random.below(slow_us);
        }
        us + self.network.slow.get(&(from, to)).copied().unwrap_or(0)
    }
}
