//! The rival on raft-rs and raft-engine: all groups of a node driven by a task or a few, one pass
//! over what has come, one write for all groups that have something to write.

mod group;
mod storage;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use protobuf::Message as _;
use raft::SnapshotStatus;
use raft::eraftpb::{Message, MessageType};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use self::group::{Group, Work};
use self::storage::{GroupStorage, Place};
use crate::shared::mesh::{Mesh, NodeId};
use crate::shared::router::{BACKEND, Backend, GROUPS, Replier, Router};
use crate::shared::session::Command;
use crate::shared::wal::Wal;

const TICK: Duration = Duration::from_millis(100);
const TICKS_PER_HAND_OVER: u64 = 10;
/// Inputs that one pass takes at most.
const INPUTS_MAX: usize = 4096;

enum Input {
    Command(u64, Command, Replier),
    Message(u64, Message),
    Durable(Vec<(u64, u64, Vec<Message>)>),
    Snapshot(u64, Place),
}

/// The node's groups, as the front sees them.
pub struct RaftRs {
    drivers: Vec<UnboundedSender<Input>>,
}

impl RaftRs {
    /// Opens all groups and starts to drive them, with as many tasks as there are threads.
    ///
    /// # Errors
    /// If the log or a snapshot cannot be read.
    pub fn start(
        own: NodeId,
        folder: &Path,
        threads: usize,
        snapshot_every: u64,
        mesh: &Arc<Mesh>,
        router: &Arc<Router>,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let wal = Wal::open(folder)?;
        let mut drivers = Vec::new();
        for driver in 0..threads as u64 {
            let mut groups = Vec::new();
            for id in (0..GROUPS).filter(|id| id % threads as u64 == driver) {
                let (storage, state) = GroupStorage::open(&wal, folder, id, vec![1, 2, 3])?;
                groups.push(Group::new(id, own, storage, state, snapshot_every));
            }
            let (sender, inputs) = unbounded_channel();
            let driver = Driver {
                groups,
                step: threads as u64,
                dirty: BTreeSet::new(),
                work: Work::default(),
                sender: sender.clone(),
                wal: wal.clone(),
                mesh: Arc::clone(mesh),
                router: Arc::clone(router),
            };
            drivers.push(sender);
            tokio::spawn(driver.run(inputs));
        }
        Ok(Self { drivers })
    }

    fn tell(&self, group: u64, input: Input) {
        let at = usize::try_from(group).unwrap_or(0) % self.drivers.len();
        // A driver ends with its process only.
        let _ = self.drivers[at].send(input);
    }
}

impl Backend for RaftRs {
    fn submit(&self, group: u64, command: Command, reply: Replier) {
        self.tell(group, Input::Command(group, command, reply));
    }

    fn frame(&self, _: NodeId, _: u8, content: Bytes) {
        let Some((head, rest)) = content.split_at_checked(8) else { return };
        let group = head.try_into().map_or(u64::MAX, u64::from_le_bytes);
        let message = Message::parse_from_bytes(rest);
        if let (true, Ok(message)) = (group < GROUPS, message) {
            self.tell(group, Input::Message(group, message));
        }
    }

    fn lost(&self, _: NodeId) {
        // The next message that cannot be sent says so to its group.
    }
}

/// Some of the node's groups: those whose number leaves the same rest.
struct Driver {
    groups: Vec<Group>,
    step: u64,
    /// Places of groups with something to do.
    dirty: BTreeSet<usize>,
    work: Work,
    sender: UnboundedSender<Input>,
    wal: Wal,
    mesh: Arc<Mesh>,
    router: Arc<Router>,
}

impl Driver {
    async fn run(mut self, mut inputs: UnboundedReceiver<Input>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut taken = Vec::new();
        let mut ticked = 0;
        loop {
            tokio::select! {
                biased;
                _ = ticks.tick() => {
                    ticked += 1;
                    self.tick(ticked);
                }
                _ = inputs.recv_many(&mut taken, INPUTS_MAX) => {}
            }
            for input in taken.drain(..) {
                self.take(input);
            }
            self.pass();
        }
    }

    fn tick(&mut self, ticked: u64) {
        for (at, group) in self.groups.iter_mut().enumerate() {
            group.node.tick();
            if ticked.is_multiple_of(TICKS_PER_HAND_OVER) {
                group.hand_over();
            }
            self.dirty.insert(at);
        }
    }

    fn at(&mut self, group: u64) -> &mut Group {
        let at = usize::try_from(group / self.step).unwrap_or(0);
        self.dirty.insert(at);
        &mut self.groups[at]
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Command(group, command, reply) => self.at(group).take(command, reply),
            Input::Message(group, message) => {
                // What raft-rs refuses to take is a message of an old term or to nobody.
                let _ = self.at(group).node.step(message);
            }
            Input::Durable(ready) => {
                for (group, number, messages) in ready {
                    self.at(group).durable(number);
                    self.work.messages.extend(messages.into_iter().map(|message| (group, message)));
                }
            }
            Input::Snapshot(group, place) => {
                let mut batch = std::mem::take(&mut self.work.batch);
                self.at(group).snapshot_done(place, &mut batch);
                self.work.batch = batch;
            }
        }
    }

    fn pass(&mut self) {
        for at in std::mem::take(&mut self.dirty) {
            let group = &mut self.groups[at];
            group.pass(&mut self.work);
            let id = group.id;
            self.router.set_leader(id, group.leader());
            if let Some(job) = group.snapshot_job() {
                let sender = self.sender.clone();
                tokio::task::spawn_blocking(move || sender.send(Input::Snapshot(id, job())));
            }
        }
        // A leader's entries go to the others while its own disk writes.
        for (group, message) in std::mem::take(&mut self.work.messages) {
            self.send(group, &message);
        }
        let ready = std::mem::take(&mut self.work.ready);
        if !self.work.batch.is_empty() || !ready.is_empty() {
            let sender = self.sender.clone();
            let batch = std::mem::take(&mut self.work.batch);
            self.wal.write(batch, move || drop(sender.send(Input::Durable(ready))));
        }
    }

    fn send(&mut self, group: u64, message: &Message) {
        let to = message.to;
        let sent = self.mesh.send(to, BACKEND, |out| {
            out.put_u64_le(group);
            message.write_to_vec(out).expect("a message can be encoded");
        });
        if message.get_msg_type() == MessageType::MsgSnapshot {
            let status = if sent { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
            self.at(group).node.report_snapshot(to, status);
        } else if !sent {
            self.at(group).node.report_unreachable(to);
        }
    }
}
