//! One group on raft-rs: its node, its state, and who waits for what. It touches no socket; what it
//! wants written goes into the batch that all groups share.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType, Message};
use raft::{Config, RawNode, ReadOnlyOption, StateRole};
use raft_engine::LogBatch;
use slog::Logger;

use super::storage::{GroupStorage, Place, write_place};
use crate::shared::router::Replier;
use crate::shared::session::{Command, Reply};
use crate::shared::state::{State, kept, push_write, save_snapshot};

/// Bytes of writes that share an entry.
const ENTRY_BYTES: usize = 128 << 10;
/// A node that lags by no more may take over.
const LAG_MAX: u64 = 1_000;

/// What a pass over a group has to do with the world.
#[derive(Default)]
pub struct Work {
    /// What is to be written, of all groups.
    pub batch: LogBatch,
    /// What waits for that write: group, number, and messages that must not go before.
    pub ready: Vec<(u64, u64, Vec<Message>)>,
    /// Messages that may go now.
    pub messages: Vec<(u64, Message)>,
}

type Reads = Vec<(Bytes, Replier)>;

/// One group.
pub struct Group {
    /// Its number, from 0.
    pub id: u64,
    own: u64,
    /// The node that should lead it, so that leaders are spread.
    preferred: u64,
    /// The consensus.
    pub node: RawNode<GroupStorage>,
    state: State,
    applied: Place,
    snapshot_every: u64,
    snapshotting: bool,
    /// Readies that the disk has not confirmed yet.
    in_flight: usize,
    gathered: Vec<u8>,
    gathered_by: Vec<Replier>,
    proposed: VecDeque<(Place, Vec<Replier>)>,
    reads: Reads,
    reads_asked: BTreeMap<u64, Reads>,
    reads_allowed: VecDeque<(u64, Reads)>,
    read_number: u64,
}

impl Group {
    /// The group as its storage was found.
    pub fn new(
        id: u64,
        own: u64,
        storage: GroupStorage,
        state: State,
        snapshot_every: u64,
    ) -> Self {
        let preferred = id % 3 + 1;
        // Who should lead stands first, the others later.
        let (min, max) = if preferred == own { (10, 13) } else { (20, 40) };
        let applied = storage.snapshot;
        let config = Config {
            id: own,
            election_tick: 10,
            heartbeat_tick: 2,
            min_election_tick: min,
            max_election_tick: max,
            applied: applied.index,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 1024,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::LeaseBased,
            skip_bcast_commit: true,
            batch_append: true,
            max_committed_size_per_ready: 16 << 20,
            ..Config::default()
        };
        let logger = Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, storage, &logger).expect("a group's settings are valid");
        Self {
            id,
            own,
            preferred,
            node,
            state,
            applied,
            snapshot_every,
            snapshotting: false,
            in_flight: 0,
            gathered: Vec::new(),
            gathered_by: Vec::new(),
            proposed: VecDeque::new(),
            reads: Vec::new(),
            reads_asked: BTreeMap::new(),
            reads_allowed: VecDeque::new(),
            read_number: 0,
        }
    }

    fn leads(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// Who answers for this group: a leader that has not applied an entry of its term does not yet.
    pub fn leader(&self) -> u64 {
        let raft = &self.node.raft;
        if self.leads() && self.applied.term != raft.term { 0 } else { raft.leader_id }
    }

    /// Gathers a command for the next pass.
    pub fn take(&mut self, command: Command, reply: Replier) {
        if !self.leads() {
            return reply.answer(Reply::Error("MOVED another node leads the group".to_owned()));
        }
        match command {
            Command::Get { key } => self.reads.push((key, reply)),
            Command::Set { key, value } => {
                push_write(&mut self.gathered, &key, &value);
                self.gathered_by.push(reply);
                if self.gathered.len() >= ENTRY_BYTES {
                    self.propose();
                }
            }
        }
    }

    fn propose(&mut self) {
        if self.gathered_by.is_empty() {
            return;
        }
        let data = std::mem::take(&mut self.gathered);
        let waiting = std::mem::take(&mut self.gathered_by);
        // raft-rs would send a follower's proposal on to the leader, and nobody would hear of it.
        if !self.leads() {
            return;
        }
        if self.node.propose(Vec::new(), data).is_err() {
            for reply in waiting {
                reply.answer(Reply::Error("CLUSTERDOWN the group refused".to_owned()));
            }
            return;
        }
        let raft = &self.node.raft;
        let place = Place { index: raft.raft_log.last_index(), term: raft.term };
        self.proposed.push_back((place, waiting));
    }

    fn ask_reads(&mut self) {
        if self.reads.is_empty() {
            return;
        }
        self.read_number += 1;
        let reads = std::mem::take(&mut self.reads);
        if !self.leads() {
            return;
        }
        self.reads_asked.insert(self.read_number, reads);
        self.node.read_index(self.read_number.to_le_bytes().to_vec());
    }

    /// Lets a preferred leader that is up to date take over.
    pub fn hand_over(&mut self) {
        if !self.leads() || self.own == self.preferred {
            return;
        }
        let raft = &self.node.raft;
        let last = raft.raft_log.last_index();
        let fit = raft
            .prs()
            .get(self.preferred)
            .is_some_and(|peer| peer.recent_active && peer.matched + LAG_MAX > last);
        if fit {
            self.node.transfer_leader(self.preferred);
        }
    }

    /// Does all that can be done before the disk or a peer says more.
    pub fn pass(&mut self, work: &mut Work) {
        self.propose();
        self.ask_reads();
        while self.node.has_ready() {
            self.pass_once(work);
        }
        let durable = self.node.raft.raft_log.persisted;
        self.node.mut_store().trim_cache(durable);
    }

    fn pass_once(&mut self, work: &mut Work) {
        let mut ready = self.node.ready();
        work.messages.extend(ready.take_messages().into_iter().map(|message| (self.id, message)));
        if !ready.snapshot().is_empty() {
            let hard_state = self.node.raft.hard_state();
            let store = self.node.mut_store();
            let installed = store.install(ready.snapshot(), &hard_state, &mut work.batch);
            self.state = installed.expect("a snapshot can be kept");
            self.applied = self.node.store().snapshot;
            eprintln!("group {} took a leader's snapshot up to {}", self.id, self.applied.index);
        }
        if ready.must_sync() {
            let hard_state = self.node.raft.hard_state();
            let store = self.node.mut_store();
            store.append(ready.take_entries(), &mut work.batch);
            store.put_hard_state(&hard_state, &mut work.batch);
        }
        let left = ready.ss().is_some_and(|soft| soft.raft_state != StateRole::Leader);
        if left {
            self.proposed.clear();
            self.reads_asked.clear();
            self.reads_allowed.clear();
        }
        for state in ready.take_read_states() {
            let number = state.request_ctx.try_into().map_or(0, u64::from_le_bytes);
            if let Some(reads) = self.reads_asked.remove(&number) {
                self.reads_allowed.push_back((state.index, reads));
            }
        }
        for entry in ready.take_committed_entries() {
            self.apply(entry);
        }
        self.answer_reads();
        let (number, waits) = (ready.number(), ready.must_sync() || self.in_flight > 0);
        let messages = ready.take_persisted_messages();
        self.node.advance_append_async(ready);
        self.report_applied();
        if waits {
            self.in_flight += 1;
            work.ready.push((self.id, number, messages));
        } else {
            self.node.on_persist_ready(number);
            work.messages.extend(messages.into_iter().map(|message| (self.id, message)));
        }
    }

    /// The disk has what a pass wanted written.
    pub fn durable(&mut self, number: u64) {
        self.in_flight -= 1;
        self.node.on_persist_ready(number);
        self.report_applied();
    }

    /// A leader's snapshot is applied at once, but raft-rs wants to hear so only when it has heard
    /// that it is durable.
    fn report_applied(&mut self) {
        if self.applied.index <= self.node.raft.raft_log.persisted {
            self.node.advance_apply_to(self.applied.index);
        }
    }

    fn apply(&mut self, entry: Entry) {
        self.applied = Place { index: entry.index, term: entry.term };
        debug_assert_eq!(entry.get_entry_type(), EntryType::EntryNormal, "nobody changes members");
        self.state.apply(entry.data);
        while self.proposed.front().is_some_and(|(place, _)| place.index <= self.applied.index) {
            let Some((place, waiting)) = self.proposed.pop_front() else { break };
            // Of another term it is another's entry: who waits is told so as this is dropped.
            if place == self.applied {
                for reply in waiting {
                    reply.answer(Reply::Ok);
                }
            }
        }
    }

    fn answer_reads(&mut self) {
        while self.reads_allowed.front().is_some_and(|(index, _)| *index <= self.applied.index) {
            let Some((_, reads)) = self.reads_allowed.pop_front() else { break };
            for (key, reply) in reads {
                reply.answer(self.state.get(&key).map_or(Reply::Nil, Reply::Value));
            }
        }
    }

    /// A job that puts a snapshot on disk and says up to where, if it is time for one.
    pub fn snapshot_job(&mut self) -> Option<impl FnOnce() -> Place + Send + use<>> {
        let since = self.applied.index - self.node.store().snapshot.index;
        if self.snapshotting || since < self.snapshot_every {
            return None;
        }
        self.snapshotting = true;
        let (state, place) = (self.state.clone(), self.applied);
        let file = self.node.store().snapshot_file();
        Some(move || {
            save_snapshot(&file, &write_place(place), &state.encode())
                .expect("a snapshot can be kept");
            place
        })
    }

    /// The snapshot is on disk.
    pub fn snapshot_done(&mut self, place: Place, batch: &mut LogBatch) {
        self.snapshotting = false;
        let store = self.node.mut_store();
        if place.index > store.snapshot.index {
            store.snapshot = place;
            store.compact(place.index.saturating_sub(kept(self.snapshot_every)), batch);
        }
    }
}
