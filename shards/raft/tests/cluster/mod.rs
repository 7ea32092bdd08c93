//! A cluster of replicas of one group with a network, disks, promises and a clock that the test
//! moves. One per test; it does what a shard does and decides nothing.

#![allow(dead_code, unreachable_pub, reason = "each test is a crate that uses its part")]

pub mod pulses;
pub mod show;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use oarlock_raft::{
    Beginning, Body, Configuration, Context, Durable, Effects, Entry, Grant, Group, GroupConfig,
    HardState, LogPosition, LogRead, Message, Payload, ReadOutcome, Rebuild, Received, Restored,
    SPLIT_BASE, SnapshotChunk, SnapshotMeta, SnapshotRead, SnapshotWrite, Support,
};
use oarlock_types::{
    CoreAddr, CoreId, GroupId, Incarnation, Index, Limits, Mono, NodeId, SharedLimits,
    SupportEpoch, Term,
};

/// What the pulses promise at one node.
#[derive(Clone, Debug, Default)]
pub struct Promises {
    pub incarnation: u64,
    pub granted: BTreeMap<NodeId, Grant>,
    pub received: BTreeMap<NodeId, Received>,
}

impl Support for Promises {
    fn granted(&self, leader: CoreAddr) -> Option<Grant> {
        let found = self.granted.get(&leader.node).copied();
        found.filter(|_| leader.core == core_of(leader.node))
    }
    fn received(&self, node: NodeId) -> Option<Received> {
        self.received.get(&node).copied()
    }
    fn incarnation(&self) -> Incarnation {
        Incarnation(self.incarnation)
    }
}

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub hard: HardState,
    pub checkpoint: SnapshotMeta,
    pub keep_from: Index,
    pub entries: Vec<Entry>,
    pub votes_from: Index,
}

impl Disk {
    fn write(&mut self, batch: &Batch) {
        if let Some(hard) = batch.hard {
            self.hard = hard;
        }
        for entry in &batch.append {
            self.entries.retain(|e| e.at.index < entry.at.index);
            self.entries.push(entry.clone());
        }
    }
}

/// One turn's writes, and the messages that wait for them.
#[derive(Debug)]
pub struct Batch {
    hard: Option<HardState>,
    append: Vec<Entry>,
    held: Vec<(NodeId, Message)>,
}

/// What the shard was asked for and has not given yet.
#[derive(Clone, Debug)]
pub enum Request {
    Log(LogRead),
    Snapshot(SnapshotRead),
    Write(SnapshotWrite),
}

pub struct Node {
    pub id: NodeId,
    /// `None` while the process is down.
    pub group: Option<Group>,
    pub disk: Disk,
    pub wal: VecDeque<Batch>,
    pub promises: Promises,
    pub may_vote: bool,
    pub applied: Vec<Entry>,
    /// The log as it stands in memory, from the first index on that was ever appended here.
    pub mirror: BTreeMap<Index, Entry>,
    pub requests: VecDeque<Request>,
    incoming: Option<(LogPosition, u64)>,
    /// Its log is damaged: it only asks to leave, with the attempt of this number.
    pub lost: Option<u64>,
    attempts: u64,
}

#[derive(Clone, Debug)]
pub struct Letter {
    pub from: NodeId,
    pub to: NodeId,
    pub message: Message,
    /// The sender's life.
    pub incarnation: u64,
}

pub struct Cluster {
    pub now: Mono,
    pub limits: SharedLimits,
    pub nodes: BTreeMap<NodeId, Node>,
    pub network: Vec<Letter>,
    /// Lines that tell what happened.
    pub trace: Vec<String>,
    pub reads: Vec<(NodeId, ReadOutcome)>,
    /// The state that each checkpoint holds.
    checkpoints: BTreeMap<LogPosition, Vec<Entry>>,
    seed: u64,
    next_delay: Duration,
    initial: Configuration,
    effects: Effects,
}

impl Cluster {
    /// Nodes `ids`, each with a replica of a group of `initial`, all supporting each other.
    pub fn new(ids: &[NodeId], initial: Configuration, limits: Limits, seed: u64) -> Self {
        let mut cluster = Self {
            now: Mono::from_ms(1000),
            limits: SharedLimits::new(limits),
            nodes: BTreeMap::new(),
            network: Vec::new(),
            trace: Vec::new(),
            reads: Vec::new(),
            checkpoints: BTreeMap::new(),
            seed,
            next_delay: Duration::from_millis(1000),
            initial,
            effects: Effects::default(),
        };
        for id in ids {
            let checkpoint =
                SnapshotMeta { configuration: cluster.initial.clone(), ..SnapshotMeta::default() };
            let disk = Disk { checkpoint, keep_from: Index(1), ..Disk::default() };
            let mut promises = Promises::default();
            for other in ids.iter().filter(|o| *o != id) {
                promises.granted.insert(*other, grant(1, 1));
                promises.received.insert(*other, received(1));
            }
            let node = Node {
                id: *id,
                group: None,
                disk,
                wal: VecDeque::new(),
                promises,
                may_vote: true,
                applied: Vec::new(),
                mirror: BTreeMap::new(),
                requests: VecDeque::new(),
                incoming: None,
                lost: None,
                attempts: 0,
            };
            cluster.nodes.insert(*id, node);
            cluster.start(*id, true);
        }
        cluster
    }

    /// The group is one that a split has just made, on each node but those that lack it: all have voted
    /// for `leader`, and hold what the split left.
    pub fn make_of_split(&mut self, leader: NodeId, lacking: &[NodeId]) {
        let configuration_index = SPLIT_BASE.index;
        let configuration = self.initial.clone();
        let meta = SnapshotMeta {
            position: SPLIT_BASE,
            configuration,
            configuration_index,
            size_bytes: 10,
        };
        let share = Entry { at: SPLIT_BASE, payload: Payload::Noop };
        self.checkpoints.insert(SPLIT_BASE, vec![share]);
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            self.crash(id);
            let node = self.nodes.get_mut(&id).expect("a known node");
            node.promises.incarnation = 0;
            if !lacking.contains(&id) {
                node.disk.hard = HardState { term: SPLIT_BASE.term, vote: Some(leader) };
                node.disk.checkpoint = meta.clone();
                node.disk.keep_from = SPLIT_BASE.index.next();
                self.start(id, true);
            }
        }
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[&id]
    }

    pub fn group(&self, id: NodeId) -> &Group {
        self.nodes[&id].group.as_ref().expect("the node is up")
    }

    /// Starts the node's process from its disk.
    pub fn start(&mut self, id: NodeId, may_vote: bool) {
        let (limits, now, delay) = (self.limits.clone(), self.now, self.next_delay);
        self.seed += 1;
        let seed = self.seed;
        let node = self.nodes.get_mut(&id).expect("a known node");
        node.promises.incarnation += 1;
        node.may_vote = may_vote;
        let disk = node.disk.clone();
        node.mirror = disk.entries.iter().map(|e| (e.at.index, e.clone())).collect();
        node.applied = self.checkpoints.get(&disk.checkpoint.position).cloned().unwrap_or_default();
        let restored = Restored {
            hard_state: disk.hard,
            checkpoint: disk.checkpoint,
            log_start: disk.keep_from,
            entries: disk.entries,
            first_election_delay: delay,
        };
        let config = GroupConfig { group: GroupId(7), node: id, core: core_of(id), seed, limits };
        let ctx = Context { now, support: &node.promises, may_vote };
        let mut group = Group::new(config, restored, &ctx);
        group.votes_from(disk.votes_from);
        node.group = Some(group);
    }

    /// The node's process ended, and what starts next finds its log damaged.
    pub fn damage(&mut self, id: NodeId) {
        self.crash(id);
        let node = self.nodes.get_mut(&id).expect("a known node");
        node.promises.incarnation += 1;
        node.disk = Disk { keep_from: Index(1), ..Disk::default() };
        node.lost = Some(0);
    }

    /// The damaged replica of `id` asks to leave: anew, or with the attempt that it has made.
    pub fn ask_to_leave(&mut self, id: NodeId, anew: bool) {
        let others: Vec<NodeId> = self.nodes.keys().copied().filter(|other| *other != id).collect();
        let node = self.nodes.get_mut(&id).expect("a known node");
        let Some(lost) = &mut node.lost else { return };
        if anew || *lost == 0 {
            node.attempts += 1;
            *lost = node.attempts;
        }
        let attempt = *lost;
        let incarnation = node.promises.incarnation;
        for to in others {
            let body = Body::Rebuild(Rebuild::Leave { attempt });
            let message = Message { term: Term(0), body };
            self.show_sent(id, to, &message);
            self.network.push(Letter { from: id, to, message, incarnation });
        }
    }

    /// A letter to a damaged replica: the answer to its attempt lets it begin, at its next start.
    fn begin(&mut self, id: NodeId, from: NodeId, message: &Message) {
        let node = self.nodes.get_mut(&id).expect("a known node");
        let Some(attempt) = node.lost else { return };
        let Some(beginning) = Beginning::from_message(from, message, attempt) else { return };
        node.lost = None;
        node.disk.hard = beginning.hard_state;
        node.disk.checkpoint.configuration = beginning.configuration;
        node.disk.votes_from = beginning.votes_from;
        let HardState { term, vote } = beginning.hard_state;
        let vote = vote.map_or("nobody".into(), |node| node.to_string());
        let from = beginning.votes_from.0;
        self.trace.push(format!("{id} begins in term {term}, voted for {vote}, votes from {from}"));
    }

    /// Ends the node's process: what was not flushed is lost, as are messages to it.
    pub fn crash(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("a known node");
        node.group = None;
        node.wal.clear();
        node.requests.clear();
        node.incoming = None;
        self.network.retain(|l| l.to != id);
    }

    /// Of the log of a node that is down all behind `to` is gone, as from a torn tail.
    pub fn tear(&mut self, id: NodeId, to: Index) {
        let node = self.nodes.get_mut(&id).expect("a known node");
        assert!(node.group.is_none(), "{id} is up");
        node.disk.entries.retain(|entry| entry.at.index <= to);
    }

    /// Calls the replica of `id`, then performs its effects.
    pub fn with<T>(
        &mut self,
        id: NodeId,
        f: impl FnOnce(&mut Group, &Context<'_>, &mut Effects) -> T,
    ) -> Option<T> {
        let mut out = std::mem::take(&mut self.effects);
        let node = self.nodes.get_mut(&id).expect("a known node");
        let ctx = Context { now: self.now, support: &node.promises, may_vote: node.may_vote };
        let result = node.group.as_mut().map(|group| f(group, &ctx, &mut out));
        self.perform(id, &mut out);
        out.clear();
        self.effects = out;
        result
    }

    fn perform(&mut self, id: NodeId, out: &mut Effects) {
        self.show_effects(id, out);
        let node = self.nodes.get_mut(&id).expect("a known node");
        let incarnation = node.promises.incarnation;
        for entry in &out.append {
            node.mirror.retain(|index, _| *index < entry.at.index);
            node.mirror.insert(entry.at.index, entry.clone());
        }
        let mut letters: Vec<_> = out.send_now.drain(..).collect();
        let held: Vec<_> = out.send_after_durable.drain(..).collect();
        if out.hard_state.is_some() || !out.append.is_empty() {
            let append = std::mem::take(&mut out.append);
            node.wal.push_back(Batch { hard: out.hard_state, append, held });
        } else if let Some(batch) = node.wal.back_mut() {
            batch.held.extend(held);
        } else {
            letters.extend(held);
        }
        for entry in out.apply.drain(..) {
            let last = node.applied.last().map_or(Index(0), |e| e.at.index);
            assert_eq!(entry.at.index, last.next(), "{id} applies each entry once, in order");
            node.applied.push(entry);
        }
        self.reads.extend(out.reads.iter().map(|r| (id, *r)));
        node.requests.extend(out.log_reads.drain(..).map(Request::Log));
        node.requests.extend(out.snapshot_reads.drain(..).map(Request::Snapshot));
        node.requests.extend(out.snapshot_writes.drain(..).map(Request::Write));
        for (to, message) in letters {
            self.network.push(Letter { from: id, to, message, incarnation });
        }
    }

    /// Makes the oldest unfinished write of `id` durable. False if there is none.
    pub fn flush(&mut self, id: NodeId) -> bool {
        let node = self.nodes.get_mut(&id).expect("a known node");
        let Some(batch) = node.wal.pop_front() else { return false };
        node.disk.write(&batch);
        let incarnation = node.promises.incarnation;
        let last = batch.append.last().map(|e| e.at);
        let durable = Durable { hard_state: batch.hard, last };
        self.show_durable(id, durable);
        for (to, message) in batch.held {
            self.show_sent(id, to, &message);
            self.network.push(Letter { from: id, to, message, incarnation });
        }
        self.with(id, |group, ctx, out| group.durable(ctx, durable, out));
        true
    }

    /// Delivers the letter at `index` of the network.
    pub fn deliver(&mut self, index: usize) {
        let letter = self.network.remove(index);
        let Letter { from, to, message, incarnation } = letter;
        let up = self.nodes.get(&to).is_some_and(|n| n.group.is_some());
        // Frames of an earlier life of the sender are dropped once a newer one is known.
        if up && incarnation == self.nodes[&from].promises.incarnation {
            self.with(to, |group, ctx, out| group.step(ctx, from, message, out));
        } else if incarnation == self.nodes[&from].promises.incarnation {
            self.begin(to, from, &message);
        }
    }

    /// Answers the oldest request of `id`'s replica. False if there is none.
    pub fn serve(&mut self, id: NodeId) -> bool {
        let Some(request) = self.nodes.get_mut(&id).expect("a known node").requests.pop_front()
        else {
            return false;
        };
        match request {
            Request::Log(LogRead { to_node, from, to }) => {
                let range = from..=to;
                let log = &self.nodes[&id].mirror;
                let entries: Vec<_> = log.range(range).map(|(_, e)| e.clone()).collect();
                if entries.first().is_some_and(|e| e.at.index == from) {
                    self.with(id, |g, ctx, out| g.log_read(ctx, to_node, entries, out));
                } else {
                    self.with(id, |g, ctx, out| g.log_read_failed(ctx, to_node, out));
                }
            }
            Request::Snapshot(read) => self.serve_snapshot(id, read),
            Request::Write(write) => self.write_snapshot(id, write),
        }
        true
    }

    fn serve_snapshot(&mut self, id: NodeId, read: SnapshotRead) {
        let SnapshotRead { to_node, position, offset_bytes } = read;
        let meta = self.nodes[&id].disk.checkpoint.clone();
        if meta.position != position {
            self.with(id, |g, ctx, out| g.snapshot_read_failed(ctx, to_node, out));
            return;
        }
        let offset = offset_bytes.unwrap_or(0);
        let left = meta.size_bytes - offset;
        let chunk = self.limits.snapshot_chunk_bytes as u64;
        let length = if offset_bytes.is_none() { 0 } else { left.min(chunk) };
        let data = Bytes::from(vec![0; usize::try_from(length).expect("a chunk is small")]);
        // Which core leads is not what a disk is asked: the replica says it.
        let chunk = SnapshotChunk { core: CoreId(0), meta, offset_bytes: offset, data };
        self.with(id, |g, ctx, out| g.snapshot_read(ctx, to_node, chunk, out));
    }

    fn write_snapshot(&mut self, id: NodeId, write: SnapshotWrite) {
        let SnapshotWrite { from_node, meta, offset_bytes, data } = write;
        let node = self.nodes.get_mut(&id).expect("a known node");
        let position = meta.position;
        let mut got = node.incoming.filter(|(p, _)| *p == position).map_or(0, |(_, got)| got);
        if offset_bytes == got {
            got += data.len() as u64;
        }
        node.incoming = Some((position, got));
        self.with(id, |g, ctx, out| g.snapshot_written(ctx, from_node, position, got, out));
        if got < meta.size_bytes {
            return;
        }
        // The data and the record that names it are durable before the replica is told.
        let state = self.checkpoints[&position].clone();
        while self.flush(id) {}
        let node = self.nodes.get_mut(&id).expect("a known node");
        node.incoming = None;
        let known = node.disk.checkpoint.position.index;
        if position.index > known {
            node.disk.checkpoint = meta.clone();
            node.disk.keep_from = position.index.next();
            node.disk.entries.retain(|e| e.at.index > position.index);
        }
        let installed = self.with(id, |g, ctx, out| g.snapshot_installed(ctx, meta.clone(), out));
        if installed == Some(true) {
            let node = self.nodes.get_mut(&id).expect("a known node");
            node.applied = state;
            node.mirror.clear();
            self.trace.push(format!("{id} installs {position}"));
        } else if position.index > known {
            self.with(id, |g, _, _| g.compact(meta, position.index.next()));
        }
    }

    /// Checkpoints the applied state of `id`, keeping `tail` entries before its end.
    pub fn compact(&mut self, id: NodeId, tail: u64) {
        while self.flush(id) {}
        let mut meta = self.group(id).applied_meta();
        let node = self.nodes.get_mut(&id).expect("a known node");
        meta.size_bytes = 10 * node.applied.len() as u64;
        let first = self.nodes[&id].group.as_ref().expect("up").first_index();
        let keep_from = Index(meta.position.index.next().0.saturating_sub(tail)).max(first);
        let node = self.nodes.get_mut(&id).expect("a known node");
        let state = self.checkpoints.entry(meta.position).or_insert(node.applied.clone());
        assert_eq!(*state, node.applied, "one position, one state");
        node.disk.checkpoint = meta.clone();
        node.disk.keep_from = keep_from;
        node.disk.entries.retain(|e| e.at.index >= keep_from);
        self.with(id, |g, _, _| g.compact(meta, keep_from));
    }

    /// Tells `id` that the pulses' promises have changed.
    pub fn support_changed(&mut self, id: NodeId) {
        self.with(id, |g, ctx, out| g.support_changed(ctx, Duration::ZERO, out));
    }

    /// Delivers, flushes and serves at the nodes `at` until nothing is left to do there.
    pub fn stabilize(&mut self, at: &[NodeId]) {
        for _ in 0..10_000 {
            let letter =
                self.network.iter().position(|l| at.contains(&l.to) && at.contains(&l.from));
            if let Some(index) = letter {
                self.deliver(index);
            } else if !at.iter().any(|id| self.flush(*id)) && !at.iter().any(|id| self.serve(*id)) {
                return;
            }
        }
        panic!("the cluster does not come to rest");
    }

    /// A timer that comes just before its time does nothing.
    pub fn fire_early(&mut self, id: NodeId) {
        let deadline = self.group(id).deadline();
        let early = Mono(deadline.0.saturating_sub(1));
        if deadline == Mono::NEVER || early < self.now {
            return;
        }
        let now = std::mem::replace(&mut self.now, early);
        let told = self.trace.len();
        self.fire(id);
        assert_eq!(self.trace[told..], [""; 0], "{id} does something before its time");
        assert_eq!(self.group(id).deadline(), deadline, "{id} waits for something else");
        self.now = now;
    }

    pub fn fire(&mut self, id: NodeId) {
        self.with(id, |g, ctx, out| g.timer(ctx, out));
    }

    /// The earliest deadline of a living replica.
    pub fn deadline(&self) -> Mono {
        let groups = self.nodes.values().filter_map(|n| n.group.as_ref());
        groups.map(Group::deadline).min().unwrap_or(Mono::NEVER)
    }

    pub fn propose(&mut self, id: NodeId, command: &str) -> Option<String> {
        let command = Payload::Commands(Bytes::copy_from_slice(command.as_bytes()));
        match self.with(id, |g, ctx, out| g.propose(ctx, command, out)) {
            Some(Err(error)) => Some(error.to_string()),
            Some(Ok(_)) => None,
            None => Some("the node is down".into()),
        }
    }
}

/// The core that a node's replica lives on: another one on each node, and none on core 0.
fn core_of(node: NodeId) -> CoreId {
    CoreId(u16::try_from(node.get()).expect("nodes are few"))
}

pub fn grant(epoch: u64, incarnation: u64) -> Grant {
    Grant { epoch: SupportEpoch(epoch), incarnation: Incarnation(incarnation) }
}

pub fn received(epoch: u64) -> Received {
    Received { epoch: SupportEpoch(epoch), until: Mono::NEVER }
}

pub fn payload_text(payload: &Payload) -> String {
    match payload {
        Payload::Noop => "noop".into(),
        Payload::Commands(bytes) | Payload::Packed(bytes) => {
            String::from_utf8_lossy(bytes).into_owned()
        }
        Payload::Merge(bytes) => format!("merge {}", String::from_utf8_lossy(bytes)),
        Payload::Split(bytes) => format!("split {}", String::from_utf8_lossy(bytes)),
        Payload::Config(configuration) => show::configuration(configuration),
    }
}
