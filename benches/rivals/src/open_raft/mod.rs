//! The rival on openraft: 64 groups of a node on one log, writes to a group gathered into batches
//! while the batches before them are on their way.

mod log;
mod machine;
mod network;
mod types;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use openraft::{Config, Raft, SnapshotPolicy};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::log::GroupLog;
use self::machine::Machine;
use self::network::{Calls, Network};
use self::types::Types;
use crate::shared::mesh::{Mesh, NodeId};
use crate::shared::router::{Backend, GROUPS, Replier, Router};
use crate::shared::session::{Command, Reply};
use crate::shared::state::{kept, push_write};
use crate::shared::wal::Wal;

/// Batches of a group that may be on their way at once.
const IN_FLIGHT: usize = 2;
const BATCH_MAX: usize = 1024;

type Group = Raft<Types>;
type Asked = (Command, Replier);

/// The node's groups, as the front sees them.
pub struct OpenRaft {
    groups: OnceLock<Arc<Vec<Group>>>,
    queues: OnceLock<Vec<UnboundedSender<Asked>>>,
    calls: Arc<Calls>,
    mesh: Arc<Mesh>,
}

impl OpenRaft {
    /// Groups that are not open yet; frames that come before are lost, as on a link that breaks.
    pub fn new(mesh: &Arc<Mesh>) -> Self {
        let calls = Arc::new(Calls::new(Arc::clone(mesh)));
        let mesh = Arc::clone(mesh);
        Self { groups: OnceLock::new(), queues: OnceLock::new(), calls, mesh }
    }

    /// Opens all groups; each is founded by the node that should lead it.
    ///
    /// # Errors
    /// If the log or a snapshot cannot be read.
    pub async fn start(
        &self,
        own: NodeId,
        folder: &Path,
        snapshot_every: u64,
        router: &Arc<Router>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let wal = Wal::open(folder).map_err(|error| error.to_string())?;
        let (mut groups, mut queues) = (Vec::new(), Vec::new());
        for id in 0..GROUPS {
            let machine = Machine::open(folder, id)?;
            let network = Network { calls: Arc::clone(&self.calls), group: id };
            let config = Arc::new(config(own == preferred(id), snapshot_every).validate()?);
            let log = GroupLog::open(&wal, id)?;
            let group = Group::new(own, config, network, log, machine.clone()).await?;
            let (queue, asked) = unbounded_channel();
            tokio::spawn(drive(group.clone(), machine, asked));
            tokio::spawn(watch(id, group.clone(), Arc::clone(router)));
            groups.push(group);
            queues.push(queue);
        }
        let groups = self.groups.get_or_init(|| Arc::new(groups));
        self.queues.get_or_init(|| queues);
        for (id, group) in (0..).zip(groups.iter()) {
            if own == preferred(id) && !group.is_initialized().await? {
                group.initialize(BTreeSet::from([1, 2, 3])).await?;
            }
        }
        Ok(())
    }
}

fn preferred(group: u64) -> NodeId {
    group % 3 + 1
}

fn config(preferred: bool, snapshot_every: u64) -> Config {
    // Who should lead stands first, the others later.
    let (election_timeout_min, election_timeout_max) =
        if preferred { (1_000, 1_300) } else { (2_000, 4_000) };
    Config {
        heartbeat_interval: 200,
        election_timeout_min,
        election_timeout_max,
        install_snapshot_timeout: 5_000,
        max_payload_entries: 300,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(snapshot_every),
        max_in_snapshot_log_to_keep: kept(snapshot_every),
        purge_batch_size: 256.min(snapshot_every),
        ..Config::default()
    }
}

/// Tells the router who leads a group.
async fn watch(id: u64, group: Group, router: Arc<Router>) {
    let mut metrics = group.server_metrics();
    loop {
        let leader = metrics.borrow_and_update().current_leader.unwrap_or(0);
        router.set_leader(id, leader);
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// Batches what a group is asked: openraft syncs once for each proposal, so many writes share one.
async fn drive(group: Group, machine: Machine, mut asked: UnboundedReceiver<Asked>) {
    let permits = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut taken = Vec::new();
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        if asked.recv_many(&mut taken, BATCH_MAX).await == 0 {
            return;
        }
        let (mut data, mut writers, mut reads) = (Vec::new(), Vec::new(), Vec::new());
        for (command, reply) in taken.drain(..) {
            match command {
                Command::Set { key, value } => {
                    push_write(&mut data, &key, &value);
                    writers.push(reply);
                }
                Command::Get { key } => reads.push((key, reply)),
            }
        }
        if !reads.is_empty() {
            tokio::spawn(read(group.clone(), machine.clone(), reads));
        }
        if !writers.is_empty() {
            tokio::spawn(write(group.clone(), data.into(), writers, permit));
        }
    }
}

async fn write(group: Group, data: Bytes, writers: Vec<Replier>, _permit: OwnedSemaphorePermit) {
    // After an error the writers are dropped, which says that the fate is unknown.
    if group.client_write(data).await.is_ok() {
        for reply in writers {
            reply.answer(Reply::Ok);
        }
    }
}

/// One round of heartbeats allows all reads that came before it.
async fn read(group: Group, machine: Machine, reads: Vec<(Bytes, Replier)>) {
    if group.ensure_linearizable().await.is_ok() {
        for (key, reply) in reads {
            reply.answer(machine.get(&key).map_or(Reply::Nil, Reply::Value));
        }
    }
}

impl Backend for OpenRaft {
    fn submit(&self, group: u64, command: Command, reply: Replier) {
        let at = usize::try_from(group).unwrap_or(usize::MAX);
        // Without a queue the group is not open yet, and the reply's end says so.
        if let Some(queue) = self.queues.get().and_then(|queues| queues.get(at)) {
            let _ = queue.send((command, reply));
        }
    }

    fn frame(&self, from: NodeId, kind: u8, content: Bytes) {
        match (kind, self.groups.get()) {
            (network::CALL, Some(groups)) => {
                let (groups, mesh) = (Arc::clone(groups), Arc::clone(&self.mesh));
                tokio::spawn(network::serve(groups, mesh, from, content));
            }
            (network::ANSWER, _) => self.calls.answered(content),
            _ => {}
        }
    }

    fn lost(&self, peer: NodeId) {
        self.calls.lost(peer);
    }
}
