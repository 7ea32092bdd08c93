//! A cluster of the production `Shard`, `SupportTable` and `PulseAgent` in memory: nodes of several
//! cores, their disks as bytes, the network between them, and a clock that the test moves. It does
//! what the driver of a core does and decides nothing. One per test.

#![allow(dead_code, unreachable_pub, reason = "each test is a crate that uses its part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub mod disk;
pub mod node;
pub mod show;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use oarlock_codec::{GroupMessage, Lane};
use oarlock_shard::homes::NoHome;
use oarlock_shard::split::SplitError;
use oarlock_shard::status::ReplicaStatus;
use oarlock_shard::support_table::LinkToken;
use oarlock_shard::{Outcome, Output};
use oarlock_store::Request;
use oarlock_types::{
    CoreAddr, CoreId, FeatureLevel, GroupId, Limits, NodeId, Pulse, Random, RangeEpoch,
    SharedLimits, WallMs,
};

use node::{Ask, Node, Plan, Range, Writing};

/// What is on its way between nodes.
#[derive(Clone, Debug)]
pub enum Letter {
    Pulse(Pulse),
    /// From a core to the same core of another node.
    Messages(CoreAddr, NodeId, Vec<GroupMessage>),
}

/// How the network and the disks behave; thousandths and microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub loss: u64,
    pub twice: u64,
    pub late: u64,
    pub delay_us: u64,
    pub late_us: u64,
    pub wal_us: u64,
    pub file_us: u64,
}

/// Everything takes a step, nothing is lost.
pub const CALM: Weather =
    Weather { loss: 0, twice: 0, late: 0, delay_us: 0, late_us: 0, wal_us: 0, file_us: 0 };

pub struct World {
    pub plan: Plan,
    pub real: u64,
    pub nodes: Vec<Node>,
    pub random: Random,
    pub weather: Weather,
    wire: BTreeMap<(u64, u64), Letter>,
    sent: u64,
    /// Data links that are up, dialler first, with the marks of both ends for each core.
    links: BTreeMap<(NodeId, NodeId), Vec<(LinkToken, LinkToken)>>,
    /// Data links that must not come up.
    pub cut: BTreeSet<(NodeId, NodeId)>,
    /// Between whom no pulse arrives.
    pub deaf: BTreeSet<(NodeId, NodeId)>,
    /// Messages from one to another that are to be lost.
    pub drop: BTreeMap<(NodeId, NodeId), u64>,
    pub outcomes: BTreeMap<u64, Outcome>,
    next_token: u64,
    /// What happened, in words, where the test wants it told.
    pub trace: show::Trace,
    pub messages_sent: u64,
    pub pulses_sent: u64,
}

/// A plan of `nodes` × `cores` with groups on all of them (on the first five at most), first
/// leaders going round.
pub fn plan(nodes: u64, cores: u16, groups: u64, limits: Limits) -> Plan {
    let ids: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
    let copies = nodes.min(5);
    let range = |group: u64| {
        let number = group - 1;
        let core = CoreId(u16::try_from(number % u64::from(cores)).unwrap());
        let first = number / u64::from(cores);
        let place = |copy: u64| CoreAddr::new(NodeId((first + copy) % nodes + 1), core);
        let replicas = (0..copies).map(place).collect();
        Range { group: GroupId(group), replicas, is_formed: true }
    };
    Plan {
        nodes: ids,
        cores,
        ranges: (1..=groups).map(range).collect(),
        limits: SharedLimits::new(limits),
        segment_bytes: 1 << 20,
        frame_bytes_max: 256 << 10,
        level: FeatureLevel::FIRST,
    }
}

impl World {
    pub fn new(plan: Plan, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut nodes: Vec<Node> = plan.nodes.iter().map(|id| Node::new(*id, &plan)).collect();
        for node in &mut nodes {
            node.start(&plan, 0, &mut random);
        }
        Self {
            plan,
            real: 0,
            nodes,
            random,
            weather: CALM,
            wire: BTreeMap::new(),
            sent: 0,
            links: BTreeMap::new(),
            cut: BTreeSet::new(),
            deaf: BTreeSet::new(),
            drop: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            next_token: 0,
            trace: show::Trace::default(),
            messages_sent: 0,
            pulses_sent: 0,
        }
    }

    pub fn place(&self, node: NodeId) -> usize {
        self.plan.nodes.iter().position(|n| *n == node).expect("a node of the plan")
    }

    pub fn node(&mut self, node: NodeId) -> &mut Node {
        let place = self.place(node);
        &mut self.nodes[place]
    }

    pub fn range(&self, group: GroupId) -> &Range {
        let found = self.plan.ranges.iter().find(|range| range.group == group);
        found.expect("a group of the plan")
    }

    /// The core number of a group: the same on every node.
    pub fn core_of(&self, group: GroupId) -> CoreId {
        self.range(group).replicas[0].core
    }

    fn chance(&mut self, per_mille: u64) -> bool {
        per_mille > 0 && self.random.below(1000) < per_mille
    }

    // ---- time ----

    /// Lets time pass until `real`, a millisecond a step.
    pub fn run_until(&mut self, real: u64) {
        while self.real < real {
            self.step(1000);
        }
    }

    pub fn run_ms(&mut self, ms: u64) {
        self.run_until(self.real + ms * 1000);
    }

    /// Runs until `done` holds; false if that takes longer than `ms_max`.
    pub fn run_while(&mut self, ms_max: u64, mut waits: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.real + ms_max * 1000;
        while waits(self) {
            if self.real >= end {
                return false;
            }
            self.step(1000);
        }
        true
    }

    /// One step: what is due arrives, disks go on, every core with a reason runs a turn.
    pub fn step(&mut self, us: u64) {
        self.real += us;
        self.mend_links();
        self.deliver();
        for n in 0..self.nodes.len() {
            if self.nodes[n].paused || self.nodes[n].life.is_none() {
                continue;
            }
            self.run_pulses(n);
            for c in 0..usize::from(self.plan.cores) {
                self.run_disk(n, c);
                self.run_core(n, c);
            }
        }
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.wire.first_entry() {
            if entry.key().0 > self.real {
                return;
            }
            match entry.remove() {
                Letter::Pulse(pulse) => {
                    if let Some(life) = &mut self.node(pulse.to).life {
                        life.pulses.push(pulse);
                    }
                }
                Letter::Messages(from, to, messages) => {
                    let core = usize::from(from.core.get());
                    if let Some(life) = &mut self.node(to).life {
                        life.cores[core].letters.push((from, messages));
                    }
                }
            }
        }
    }

    // ---- the network ----

    fn send(&mut self, from: NodeId, to: NodeId, letter: &Letter) {
        let Weather { loss, twice, late, delay_us, late_us, .. } = self.weather;
        if self.chance(loss) {
            return;
        }
        for _ in 0..if self.chance(twice) { 2 } else { 1 } {
            let most = if self.chance(late) { late_us } else { delay_us };
            let arrives = self.real + 1 + self.random.below(most);
            self.sent += 1;
            self.wire.insert((arrives, self.sent), letter.clone());
        }
        debug_assert_ne!(from, to);
    }

    fn send_messages(&mut self, from: CoreAddr, messages: Vec<(NodeId, GroupMessage)>) {
        let mut parcels: BTreeMap<NodeId, Vec<GroupMessage>> = BTreeMap::new();
        for (to, message) in messages {
            self.messages_sent += 1;
            let lost = match self.drop.get_mut(&(from.node, to)) {
                Some(left) if *left > 0 => {
                    *left -= 1;
                    true
                }
                Some(_) | None => !self.links.contains_key(&(from.node, to)),
            };
            self.trace.message(from.node, to, &message, lost);
            if !lost {
                parcels.entry(to).or_default().push(message);
            }
        }
        for (to, messages) in parcels {
            self.send(from.node, to, &Letter::Messages(from, to, messages));
        }
    }

    /// Links come up where nothing forbids it: both ends learn of each other by the handshake.
    fn mend_links(&mut self) {
        let ids = self.plan.nodes.clone();
        for (a, from) in ids.iter().enumerate() {
            for (b, to) in ids.iter().enumerate() {
                let key = (*from, *to);
                if a == b || self.links.contains_key(&key) || self.cut.contains(&key) {
                    continue;
                }
                let (one, two) = (&self.nodes[a], &self.nodes[b]);
                let (Some(dialler), Some(other)) = (&one.life, &two.life) else { continue };
                if one.paused || two.paused {
                    continue;
                }
                dialler.table.learn_incarnation(*to, two.incarnation);
                other.table.learn_incarnation(*from, one.incarnation);
                let mark = |core| {
                    let out = dialler.table.outgoing_up(*to, core, two.incarnation);
                    (out, other.table.incoming_up(CoreAddr::new(*from, core), one.incarnation))
                };
                let marks = (0..self.plan.cores).map(CoreId).map(mark).collect();
                self.links.insert(key, marks);
                self.link_event(*from, *to, true);
            }
        }
    }

    fn link_event(&mut self, from: NodeId, to: NodeId, up: bool) {
        if let Some(life) = &mut self.node(from).life {
            for core in &mut life.cores {
                core.links.push((to, up));
            }
        }
    }

    /// Breaks the link that `from` dialled, with all that is on its way over it.
    pub fn break_link(&mut self, from: NodeId, to: NodeId) {
        let Some(marks) = self.links.remove(&(from, to)) else { return };
        self.wire.retain(|_, letter| match letter {
            Letter::Messages(sender, receiver, _) => (sender.node, *receiver) != (from, to),
            Letter::Pulse(_) => true,
        });
        for (core, (out, into)) in (0..).map(CoreId).zip(marks) {
            if let Some(life) = &self.node(from).life {
                life.table.outgoing_down(to, core, out);
            }
            if let Some(life) = &self.node(to).life {
                life.table.incoming_down(CoreAddr::new(from, core), into);
            }
        }
        self.link_event(from, to, false);
    }

    /// Cuts two nodes apart, pulses and all.
    pub fn separate(&mut self, a: NodeId, b: NodeId) {
        for (from, to) in [(a, b), (b, a)] {
            self.cut.insert((from, to));
            self.deaf.insert((from, to));
            self.break_link(from, to);
        }
    }

    pub fn join(&mut self, a: NodeId, b: NodeId) {
        for key in [(a, b), (b, a)] {
            self.cut.remove(&key);
            self.deaf.remove(&key);
        }
    }

    fn run_pulses(&mut self, n: usize) {
        let real = self.real;
        let node = &mut self.nodes[n];
        let now = node.now(real);
        let Some(life) = &mut node.life else { return };
        for pulse in std::mem::take(&mut life.pulses) {
            life.agent.on_pulse(now, &life.table, &pulse);
        }
        for (core, faults) in life.cores.iter_mut().zip(&node.faults) {
            core.progress.loop_counter += u64::from(!faults.stuck);
        }
        let progress: Vec<_> = life.cores.iter().map(|core| core.progress).collect();
        let mut out = Vec::new();
        life.agent.tick(now, &life.table, &progress, &mut out);
        for pulse in out {
            self.pulses_sent += 1;
            if !self.deaf.contains(&(pulse.from, pulse.to)) {
                self.send(pulse.from, pulse.to, &Letter::Pulse(pulse));
            }
        }
    }

    // ---- a core ----

    fn run_disk(&mut self, n: usize, c: usize) {
        let node = &mut self.nodes[n];
        let (disk, faults) = (&mut node.disks[c], &mut node.faults[c]);
        let Some(life) = &mut node.life else { return };
        let core = &mut life.cores[c];
        if !faults.wal_held
            && let Some(writing) = core.writing.take_if(|writing| writing.done_at <= self.real)
        {
            if std::mem::take(&mut faults.wal_fails) {
                // As the driver does: the log is told, and the process stops before the turn ends.
                core.shard.wal().fail();
                let id = node.id;
                self.trace.line(format!("{id} stops: a write of its log failed"));
                self.crash(id, usize::MAX);
                return;
            }
            disk.write(&writing.frame, &writing.bytes, writing.bytes.len());
            core.durable = Some(writing.frame.lsn);
            core.progress.wal_counter += 1;
            core.progress.wal_busy = false;
        }
        while !faults.files_held && core.jobs.front().is_some_and(|job| job.2 <= self.real) {
            let Some((token, job, _)) = core.jobs.pop_front() else { break };
            let addr = CoreAddr::new(node.id, CoreId(u16::try_from(c).unwrap()));
            self.trace.job(addr, &job, disk.fails);
            core.done.extend(disk.carry_out(job).map(|done| (token, done)));
        }
    }

    fn run_core(&mut self, n: usize, c: usize) {
        let real = self.real;
        let node = &mut self.nodes[n];
        let now = node.now(real);
        let (disk, faults, id) = (&mut node.disks[c], node.faults[c], node.id);
        let is_unnamed = node.unnamed.is_some();
        let Some(life) = &mut node.life else { return };
        let core = &mut life.cores[c];
        if faults.stuck || !core.wants_turn(now) {
            return;
        }
        let shard = &mut core.shard;
        shard.begin_turn(now, WallMs(1_000_000 + real / 1000));
        for (node, up) in core.links.drain(..) {
            shard.link(node, up);
        }
        for (from, messages) in core.letters.drain(..) {
            shard.messages(from, messages);
        }
        for Ask { token, group, epoch, lane, request } in core.asks.drain(..) {
            let lane = lane.map(|lane| (CoreAddr::new(id, CoreId(0)), lane));
            shard.request_in_lane(token, group, epoch, lane, request);
        }
        for (token, done) in core.done.drain(..) {
            shard.file_done(token, done);
        }
        if let Some(lsn) = core.durable.take() {
            shard.wal_durable(lsn);
        }
        if now.since(core.ticked_at) >= node::TICK {
            core.ticked_at = now;
            disk.serve(shard.wal());
            shard.set_disk_full(faults.disk_full);
            shard.tick();
        }
        let mut output = std::mem::take(&mut core.output);
        shard.finish_turn(&mut output);
        let addr = CoreAddr::new(id, CoreId(u16::try_from(c).unwrap()));
        if core.writing.is_none()
            && let Some(length) = shard.wal().next_frame_bytes()
        {
            let mut bytes = vec![0; length];
            if let Some(frame) = shard.wal().seal(&mut bytes) {
                self.trace.frame(addr, &disk.records(frame.segment, &bytes));
                let done_at = real + 1 + self.random.below(self.weather.wal_us);
                core.writing = Some(Writing { frame, bytes, done_at });
                core.progress.wal_busy = true;
            }
        }
        for (token, job) in output.file_jobs.drain(..) {
            let done_at = real + 1 + self.random.below(self.weather.file_us);
            core.jobs.push_back((token, job, done_at));
        }
        for (token, outcome) in output.replies.drain(..) {
            self.trace.outcome(token, &outcome);
            let before = self.outcomes.insert(token, outcome);
            assert!(before.is_none(), "#{token} is answered twice");
        }
        note(&mut self.trace, &mut self.plan, addr, &mut output);
        let may_be_lost = |group| core.homes.claim_any(group) == Err(NoHome::MayBeLost);
        for wanted in output.wanted.drain(..) {
            if is_unnamed && may_be_lost(wanted.group) {
                continue;
            }
            shard.create(&wanted, self.plan.formed(wanted.group));
        }
        let messages: Vec<_> = output.messages.drain(..).collect();
        core.output = output;
        self.send_messages(addr, messages);
    }

    // ---- what a test does ----

    /// Hands a request to the group's core on `node`; its outcome comes under the token.
    pub fn ask(&mut self, node: NodeId, group: GroupId, epoch: u64, request: Request) -> u64 {
        self.ask_in_lane(node, group, epoch, None, request)
    }

    /// As `ask`, of a connection whose writes keep their order.
    pub fn ask_in_lane(
        &mut self,
        node: NodeId,
        group: GroupId,
        epoch: u64,
        lane: Option<Lane>,
        request: Request,
    ) -> u64 {
        self.next_token += 1;
        let token = self.next_token;
        let found = self.plan.ranges.iter().find(|range| range.group == group);
        let core = found.map_or(0, |range| usize::from(range.replicas[0].core.get()));
        let life = self.node(node).life.as_mut().expect("the node is up");
        life.cores[core].asks.push(Ask { token, group, epoch: RangeEpoch(epoch), lane, request });
        token
    }

    /// Cuts a range at a key, by the word of whoever leads it.
    pub fn split(
        &mut self,
        id: NodeId,
        group: GroupId,
        at: Bytes,
        child: GroupId,
    ) -> Result<(), SplitError> {
        let (core, replicas) = (self.core_of(group), self.range(group).replicas.clone());
        let life = self.node(id).life.as_mut().expect("the node is up");
        life.cores[usize::from(core.get())].shard.split(group, at, child)?;
        if !self.plan.has(child) {
            self.plan.ranges.push(Range { group: child, replicas, is_formed: false });
        }
        Ok(())
    }

    /// Power is lost: of a frame that is being written only the first `torn` bytes arrive; what was
    /// not finished is gone.
    pub fn crash(&mut self, id: NodeId, torn: usize) {
        for other in self.plan.nodes.clone() {
            self.break_link(id, other);
            self.break_link(other, id);
        }
        let node = self.node(id);
        let Some(life) = node.life.take() else { return };
        for (core, disk) in life.cores.into_iter().zip(&mut node.disks) {
            if let Some(Writing { frame, bytes, .. }) = core.writing
                && torn != usize::MAX
            {
                disk.write(&frame, &bytes, torn.min(bytes.len()));
            }
        }
        for faults in &mut node.faults {
            *faults = node::Faults::default();
        }
        node.paused = false;
    }

    pub fn restart(&mut self, id: NodeId) {
        let (real, place) = (self.real, self.place(id));
        let mut random = Random::new(self.random.next_u64());
        self.nodes[place].start(&self.plan, real, &mut random);
    }

    /// The state of a group's replica as that node's clock stands now; `None` while it is down.
    pub fn status(&mut self, id: NodeId, group: GroupId) -> Option<ReplicaStatus> {
        let core = self.core_of(group);
        let all = self.statuses(id, core);
        all.into_iter().find(|status| status.group == group)
    }

    /// All replicas of a core as its node's clock stands now: it looks, and does nothing.
    pub fn statuses(&mut self, id: NodeId, core: CoreId) -> Vec<ReplicaStatus> {
        let real = self.real;
        let node = self.node(id);
        let now = node.now(real);
        let Some(life) = &mut node.life else { return Vec::new() };
        let shard = &mut life.cores[usize::from(core.get())].shard;
        shard.begin_turn(now, WallMs(1_000_000 + real / 1000));
        shard.status()
    }

    /// Who leads a group, in the highest term in which somebody does.
    pub fn leader(&mut self, group: GroupId) -> Option<NodeId> {
        let ids = self.plan.nodes.clone();
        let all = ids.into_iter().filter_map(|id| Some((id, self.status(id, group)?)));
        let leaders = all.filter(|(_, status)| status.role == "leader");
        leaders.max_by_key(|(_, status)| status.term).map(|(id, _)| id)
    }
}

/// Tells what came of a turn; what a split has made belongs to the plan.
fn note(trace: &mut show::Trace, plan: &mut Plan, addr: CoreAddr, output: &mut Output) {
    for group in output.unreadable.drain(..) {
        trace.line(format!("{addr} {group} can not be read back from the log"));
    }
    output.settled.clear();
    for split in output.splits.drain(..) {
        trace.split(addr, &split);
        plan.note_split(&split);
    }
    if std::mem::take(&mut output.wants_ids) {
        trace.wants_ids(addr);
    }
    output.leaders.drain(..).for_each(|(group, leader)| trace.leader(addr, group, leader));
}
