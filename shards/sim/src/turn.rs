//! Drives a core through one turn, as production's driver does: all that is ready is stepped
//! through the shard, then the effects are carried out once, in the same order. A process may die
//! before, between and after any of them.

use std::collections::BTreeMap;

use oarlock_codec::{Frame, GroupMessage, frame};
use oarlock_shard::homes::NoHome;
use oarlock_shard::moves::{Departure, MoveStep};
use oarlock_shard::rebuild::RebuildStage;
use oarlock_shard::{Output, Shard, Split, Wanted};
use oarlock_types::{GroupId, Mono, NodeId, WallMs};

use crate::config::Config;
use crate::disk::{Disk, Writing};
use crate::node::{Ask, Core, Job};
use crate::oracle::Oracle;
use crate::trace::What;
use crate::words;
use crate::world::{BEAT_US, Event, World};

const TICK_US: u64 = 10_000;
const SPACE_INTERVAL_US: u64 = 500_000;
/// Most messages of one frame between nodes, as production has it.
const MESSAGES_PER_FRAME: usize = 256;

/// What a turn came to.
struct Turned {
    output: Output,
    writing: Option<Writing>,
    jobs: Vec<Job>,
}

impl Core {
    fn step(&mut self, config: &Config, disk: &Disk, mono: Mono, wall: WallMs) -> Vec<Job> {
        let mut jobs = Vec::new();
        self.shard.begin_turn(mono, wall);
        if let Some(driving) = &mut self.driving {
            driving.depart(&mut self.shard, mono);
        }
        for (node, up) in self.links.drain(..) {
            self.shard.link(node, up);
            if !up && let Some(driving) = &mut self.driving {
                driving.router.link_down(node);
            }
        }
        for arrived in self.frames.drain(..) {
            let messages = match decode(&arrived.bytes, config) {
                Frame::Messages(messages) => messages,
                other @ (Frame::Forward(_)
                | Frame::ForwardReply(_)
                | Frame::Handshake(_)
                | Frame::HandshakeReply(_)
                | Frame::Pulse(_)
                | Frame::LinkProbe(_)) => {
                    self.forwards.push((arrived.from, other));
                    continue;
                }
            };
            let is_own = |message: &GroupMessage| {
                self.homes.core_of(message.group).is_none_or(|core| core == self.id)
            };
            let (own, strays): (Vec<_>, Vec<_>) = messages.into_iter().partition(is_own);
            let from = arrived.from.0;
            self.shard.messages(from, own);
            self.strays.extend(strays.into_iter().map(|message| (from, message)));
        }
        for (from, message) in self.posted.drain(..) {
            self.shard.messages(from, vec![message]);
        }
        for (from, told) in self.letters.drain(..) {
            self.shard.hand_over(from, told);
        }
        if let Some(driving) = &mut self.driving {
            driving.take_frames(&mut self.shard, self.forwards.drain(..));
            driving.begin(&mut self.shard, mono);
        }
        for ask in std::mem::take(&mut self.asks) {
            self.ask(config, mono, ask);
        }
        for (token, done) in self.done.drain(..) {
            self.shard.file_done(token, done);
        }
        for (segment, made) in self.prepared.drain(..) {
            self.awaited = None;
            self.is_stuck_full = !made;
            if made {
                self.shard.wal().segment_prepared(segment);
            }
        }
        if let Some(lsn) = self.durable.take() {
            self.in_flight = false;
            self.progress.wal_counter += 1;
            self.progress.wal_busy = false;
            self.shard.wal_durable(lsn);
        }
        if mono.0.saturating_sub(self.ticked_at.0) >= TICK_US {
            self.ticked_at = mono;
            self.tick(disk, mono, &mut jobs);
        }
        if let Some(driving) = &mut self.driving {
            driving.keep_map(mono);
        }
        jobs
    }

    fn ask(&mut self, config: &Config, now: Mono, ask: Ask) {
        match ask {
            Ask::Request { token, group, epoch, lane, request } => {
                self.shard.request_in_lane(token, group, epoch, lane, request);
            }
            Ask::Transfer(group, to) => {
                let result = self.shard.transfer(group, to);
                self.granted.push(format!("{group} hands over: {result:?}"));
            }
            Ask::Members { group, voters, learners } => {
                let result = self.shard.change_configuration(group, voters, learners);
                self.granted.push(format!("{group} changes members: {result:?}"));
            }
            Ask::Create(wanted) => {
                if self.shard.has_replica(wanted.group) {
                    return;
                }
                self.shard.create(&wanted, config.formed(wanted.group));
                if let Some(driving) = &mut self.driving {
                    driving.made(wanted.group, now);
                }
            }
            Ask::Split { group, at, child } => {
                let result = self.shard.split(group, at, child);
                self.granted.push(format!("{group} is cut, {child}: {result:?}"));
            }
            Ask::CutSoon(group, at) => self.shard.cut_soon(group, at),
            Ask::Place { group, voters } => match self.shard.place_voters(group, &voters) {
                Ok(MoveStep::Done) => self.placed.push(group),
                step => self.granted.push(format!("{group} is to have {voters:?}: {step:?}")),
            },
            Ask::Destroy(group, configured) => {
                if self.shard.destroy(group, configured) == Departure::Ended {
                    self.destroyed.push(group);
                    self.granted.push(format!("{group} has no replica here any more"));
                }
            }
            Ask::Answer { group, epoch, outcome } => {
                self.shard.merge_answered(group, epoch, &outcome);
            }
            Ask::End(group) => {
                if self.shard.end(group) == Departure::Ended {
                    self.destroyed.push(group);
                    self.granted.push(format!("{group} was taken, and ends here"));
                }
            }
            Ask::MoveCore(group, to) => {
                let result = self.shard.move_to_core(group, to);
                self.granted.push(format!("{group} is to go to {to}: {result:?}"));
            }
            Ask::Rebuild(group) => {
                let result = self.shard.rebuild(group);
                self.granted.push(format!("{group} is rebuilt: {result:?}"));
            }
        }
    }

    fn tick(&mut self, disk: &Disk, mono: Mono, jobs: &mut Vec<Job>) {
        let is_space_due = mono.0.saturating_sub(self.space_asked_at.0) >= SPACE_INTERVAL_US;
        // What could not be made for lack of room is tried again with each look at the room.
        if (!self.is_stuck_full || is_space_due)
            && self.awaited.is_none()
            && let Some(segment) = self.shard.wal().next_segment_wanted()
        {
            self.awaited = Some(segment);
            jobs.push(Job::Prepare(segment));
        }
        while let Some(segment) = self.shard.wal().retire() {
            jobs.push(Job::Recycle(segment));
        }
        if is_space_due {
            self.space_asked_at = mono;
            self.is_low = disk.trouble.full;
        }
        self.shard.set_disk_full(self.is_low || self.is_stuck_full);
        if let Some(driving) = &self.driving {
            self.shard.set_feature_level(driving.level());
        }
        self.shard.tick();
        if let Some(driving) = &mut self.driving {
            driving.tick(&mut self.shard, mono);
        }
    }

    fn finish(&mut self, life: u64, now: Mono, jobs: Vec<Job>) -> Turned {
        let mut output = std::mem::take(&mut self.output);
        self.shard.finish_turn(&mut output);
        if let Some(driving) = &mut self.driving {
            driving.finish(&mut self.shard, &mut output, now);
        }
        let mut writing = None;
        if !self.in_flight
            && let Some(length) = self.shard.wal().next_frame_bytes()
        {
            let mut bytes = vec![0; length];
            if let Some(frame) = self.shard.wal().seal(&mut bytes) {
                self.in_flight = true;
                self.progress.wal_busy = true;
                writing = Some(Writing { frame, bytes, life });
            }
        }
        Turned { output, writing, jobs }
    }
}

impl World {
    pub(crate) fn turn(&mut self, n: usize, c: usize) {
        let now = self.now;
        let node = &mut self.nodes[n];
        let runs = node.runs() && node.stuck[c] == 0;
        let (mono, wall) = (node.clock.mono(now), node.clock.wall(now));
        let (life, disk) = (node.life, &node.disks[c]);
        let Some(process) = &mut node.process else { return };
        let core = &mut process.cores[c];
        core.turn_at = u64::MAX;
        if !runs {
            return; // what wakes it again gives it a turn
        }
        core.progress.loop_counter += 1;
        let jobs = core.step(&self.config, disk, mono, wall);
        let turned = core.finish(life, mono, jobs);
        let wants_more = core.shard.next_deadline() <= mono;
        let placed = std::mem::take(&mut core.placed);
        let destroyed = std::mem::take(&mut core.destroyed);
        let granted = std::mem::take(&mut core.granted);
        for text in granted {
            self.tell(NodeId(n as u64 + 1), || text);
        }
        placed.iter().for_each(|group| self.placing.done(*group));
        self.post_strays(n, c);
        self.note_destroyed(n, &destroyed);
        self.note_splits(n, &turned.output.splits);
        self.note_settled(n, c, &turned.output.settled);
        let led = |(group, leader): &(GroupId, Option<NodeId>)| {
            (*leader == Some(NodeId(n as u64 + 1))).then_some(*group)
        };
        let leads = turned.output.leaders.iter().filter_map(led);
        let told = turned.output.reshaped.iter().chain(&turned.output.settled).copied();
        let reshaped: Vec<GroupId> = told.chain(leads).collect();
        self.note_reshaped(n, c, &reshaped);
        self.look(n, c);
        self.carry_out(n, c, turned);
        self.wake_at(n, c, now + BEAT_US);
        if wants_more {
            self.wake(n, c);
        }
    }

    /// Hands messages to the cores that have their groups' replicas.
    fn post_strays(&mut self, n: usize, c: usize) {
        let Some(process) = &mut self.nodes[n].process else { return };
        let mut woken = Vec::new();
        for (from, message) in std::mem::take(&mut process.cores[c].strays) {
            let home = process.homes.core_of(message.group);
            let home = usize::from(home.expect("invariant: it is another core's").get());
            process.cores[home].posted.push((from, message));
            woken.push(home);
        }
        woken.dedup();
        woken.into_iter().for_each(|home| self.wake(n, home));
    }

    /// Another node wants a replica here: one core makes it, unless one has it or may have lost it.
    fn find_home(&mut self, n: usize, wanted: Wanted) {
        let node = &mut self.nodes[n];
        let Some(process) = &node.process else { return };
        match process.homes.claim_any(wanted.group) {
            Ok(_) | Err(NoHome::Taken(_)) => {
                let (id, _) = (node.id, node.placed.insert(wanted.group));
                self.ask(id, wanted.group, Ask::Create(wanted));
            }
            Err(NoHome::MayBeLost) => {}
        }
    }

    /// Replicas of new ranges are made here.
    fn note_splits(&mut self, n: usize, splits: &[Split]) {
        for split in splits {
            let (parent, child) = (split.parent.0, split.child.0);
            self.nodes[n].placed.insert(child);
            let (is_new, taken) = self.ranges.note(split);
            self.note_taken(n, parent, &taken);
            if is_new {
                self.oracle.form_by_split(child, split.members.clone());
                let id = self.nodes[n].id;
                self.tell(id, || format!("{parent} is cut: {child} has {:?}", split.child.1));
            }
        }
    }

    /// Shows the oracle what the turn touched.
    fn look(&mut self, n: usize, c: usize) {
        let node = &mut self.nodes[n];
        let (id, addr) = (node.id, node.addr(c));
        let Some(process) = &mut node.process else { return };
        let core = &mut process.cores[c];
        let mut touched = std::mem::take(&mut core.touched);
        core.shard.take_touched(&mut touched);
        touched.sort_unstable();
        touched.dedup();
        for group in touched.drain(..) {
            let Some(raft) = core.shard.raft(group) else { continue };
            let Some(applied) = core.shard.applied_state(group) else { continue };
            if self.oracle.is_lost(id, group) && !node.is_outcast {
                came_back(&mut self.oracle, id, group, &core.shard);
            }
            if let Err(breach) = self.oracle.look(self.now, (id, group), raft, applied) {
                panic!("{breach} (at {} us)", self.now);
            }
            self.trace.replica(self.now, addr, group, raft);
        }
        core.touched = touched;
    }

    /// Counts an effect; true if the process dies instead.
    pub(crate) fn dies(&mut self, n: usize) -> bool {
        match &mut self.nodes[n].crash_after {
            Some((0, by_power_loss)) => {
                let by_power_loss = *by_power_loss;
                self.nodes[n].crash_after = None;
                self.end(n, by_power_loss, "dies between two effects");
                true
            }
            Some((left, _)) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    fn carry_out(&mut self, n: usize, c: usize, turned: Turned) {
        let Turned { mut output, writing, jobs } = turned;
        if let Some(writing) = writing {
            if self.dies(n) {
                return;
            }
            self.write(n, c, writing);
        }
        if self.dies(n) {
            return;
        }
        for job in jobs {
            self.start_job(n, c, job);
        }
        for (token, job) in output.file_jobs.drain(..) {
            if self.dies(n) {
                return;
            }
            self.start_job(n, c, Job::Shard(token, job));
        }
        let id = self.nodes[n].id;
        for (token, outcome) in output.replies.drain(..) {
            if self.dies(n) {
                return;
            }
            self.reply(id, token, outcome);
        }
        self.deliver(n, c);
        output.leaders.clear();
        output.splits.clear();
        output.settled.clear();
        output.reshaped.clear();
        for merging in output.merges.drain(..) {
            self.ask_neighbour(n, merging);
        }
        for wanted in output.wanted.drain(..) {
            self.find_home(n, wanted);
        }
        for (to, told) in output.hand_overs.drain(..) {
            if self.dies(n) {
                return;
            }
            self.post_hand_over(n, c, to, told);
        }
        for group in output.arrived.drain(..) {
            self.tell(id, || format!("{group} is on its core c{c} now"));
        }
        for (group, to, why) in output.stayed.drain(..) {
            self.tell(id, || format!("{group} does not go to {to} for now: {why}"));
        }
        for group in output.unreadable.drain(..) {
            self.tell(id, || format!("cannot read back its log of {group}, and writes it anew"));
        }
        let mut parcels: BTreeMap<NodeId, Vec<GroupMessage>> = BTreeMap::new();
        for (to, message) in output.messages.drain(..) {
            parcels.entry(to).or_default().push(message);
        }
        for (to, messages) in parcels {
            let mut rest = messages;
            while !rest.is_empty() {
                let later = rest.split_off(frame_length(&rest, &self.config));
                if self.dies(n) {
                    return;
                }
                self.send(n, c, to, &rest);
                rest = later;
            }
        }
        if let Some(process) = &mut self.nodes[n].process {
            process.cores[c].output = output;
        }
    }

    fn send(&mut self, n: usize, c: usize, to: NodeId, messages: &[GroupMessage]) {
        let from = self.nodes[n].addr(c);
        let first = self.next_message + 1;
        let count = messages.len() as u64;
        self.next_message += count;
        self.figures.messages += count;
        for (message, number) in messages.iter().zip(first..) {
            let GroupMessage { group, message } = message;
            if let Err(breach) = self.oracle.hear(from.node, to, *group, message) {
                panic!("{breach} (at {} us)", self.now);
            }
            self.trace.push(self.now, || What::Sent {
                message: number,
                from,
                to,
                group: *group,
                term: message.term,
                kind: words::kind_of(&message.body),
                text: words::text_of(&message.body),
            });
        }
        let mut bytes = Vec::new();
        frame::encode(&messages.to_vec(), &mut bytes);
        self.send_frame(from, to, first, count, bytes);
    }

    /// Gives a core a turn soon: something has come for it.
    pub(crate) fn wake(&mut self, n: usize, c: usize) {
        let at = self.now + 2 + self.node_random.below(30);
        self.wake_at(n, c, at);
    }

    pub(crate) fn wake_at(&mut self, n: usize, c: usize, at: u64) {
        let node = &mut self.nodes[n];
        let life = node.life;
        let Some(process) = &mut node.process else { return };
        let core = &mut process.cores[c];
        if at < core.turn_at {
            core.turn_at = at;
            self.at(at, Event::Turn { n, c, life });
        }
    }

    /// Asks a core for something, as an operator or a scenario does.
    pub(crate) fn ask(&mut self, node: NodeId, group: GroupId, ask: Ask) {
        let n = self.place(node);
        let c = usize::from(self.nodes[n].home(&self.config, group).core.get());
        if let Some(process) = &mut self.nodes[n].process {
            process.cores[c].asks.push(ask);
            self.wake(n, c);
        }
    }
}

/// A replica that was lost is there again: only as one that was rebuilt.
pub(crate) fn came_back(oracle: &mut Oracle, node: NodeId, group: GroupId, shard: &Shard) {
    let joins = (group, RebuildStage::Joining);
    let is_rebuilt = shard.rebuild_stages().any(|stage| stage == joins);
    assert!(is_rebuilt, "what was lost comes back only rebuilt: {node} {group} did not");
    oracle.replica_rebuilt(node, group);
}

/// What a frame says.
fn decode(bytes: &[u8], config: &Config) -> Frame {
    let header = frame::decode_header(bytes, config.limits.frame_bytes_max);
    let header = header.ok().flatten().expect("a frame of ours has a header");
    let decoded = frame::decode(&header, &bytes[frame::Header::BYTES..]);
    decoded.unwrap_or_else(|error| panic!("a frame of ours: {error}"))
}

/// How many of the messages go into the next frame.
fn frame_length(messages: &[GroupMessage], config: &Config) -> usize {
    let mut bytes = 0;
    let fit = messages.iter().take(MESSAGES_PER_FRAME).take_while(|message| {
        let fits = bytes < config.limits.frame_bytes_max / 8;
        bytes += message.message.size_bytes();
        fits
    });
    fit.count().max(1)
}
