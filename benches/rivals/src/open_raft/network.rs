//! openraft's calls between nodes, over the links that all groups share, in a binary form.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use openraft::error::{InstallSnapshotError, RPCError, RaftError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, Raft};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::types::Types;
use crate::shared::mesh::{Mesh, NodeId};
use crate::shared::router::BACKEND;

/// A call; its answer has the next kind.
pub const CALL: u8 = BACKEND;
/// An answer to a call.
pub const ANSWER: u8 = BACKEND + 1;

const APPEND: u8 = 0;
const VOTE: u8 = 1;
const SNAPSHOT: u8 = 2;
const RETRY_AFTER: Duration = Duration::from_millis(100);

type Fault<E> = RPCError<u64, EmptyNode, E>;

/// The calls of a node that are not answered yet.
#[derive(Debug)]
pub struct Calls {
    mesh: Arc<Mesh>,
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, (NodeId, oneshot::Sender<Bytes>)>>,
}

impl Calls {
    /// Calls over these links.
    pub fn new(mesh: Arc<Mesh>) -> Self {
        Self { mesh, next: AtomicU64::new(0), waiting: Mutex::default() }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, (NodeId, oneshot::Sender<Bytes>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer has come.
    pub fn answered(&self, mut content: Bytes) {
        let Ok(number) = content.try_get_u64_le() else { return };
        if let Some((_, told)) = self.waiting().remove(&number) {
            // Who asked may have given up meanwhile.
            let _ = told.send(content);
        }
    }

    /// A peer is gone: what it was asked is not answered any more.
    pub fn lost(&self, peer: NodeId) {
        self.waiting().retain(|_, (node, _)| *node != peer);
    }

    async fn call<Q, A>(&self, to: NodeId, group: u64, kind: u8, ask: &Q) -> Result<A, Unreachable>
    where
        Q: Serialize,
        A: DeserializeOwned,
    {
        let fault = |text: String| Unreachable::new(&io::Error::other(text));
        let ask = postcard::to_stdvec(ask).map_err(|error| fault(error.to_string()))?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (told, answer) = oneshot::channel();
        self.waiting().insert(number, (to, told));
        let waiting = Waiting { calls: self, number };
        let sent = self.mesh.send(to, CALL, |out| {
            out.put_u64_le(number);
            out.put_u64_le(group);
            out.put_u8(kind);
            out.put_slice(&ask);
        });
        if !sent {
            return Err(fault("not linked".to_owned()));
        }
        let answer = answer.await.map_err(|_| fault("the link is lost".to_owned()))?;
        drop(waiting);
        let answer: Option<A> =
            postcard::from_bytes(&answer).map_err(|error| fault(error.to_string()))?;
        answer.ok_or_else(|| fault("the peer refused".to_owned()))
    }
}

/// Forgets a call that nobody waits for any more.
struct Waiting<'a> {
    calls: &'a Calls,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.calls.waiting().remove(&self.number);
    }
}

/// Answers a peer's call.
pub async fn serve(groups: Arc<Vec<Raft<Types>>>, mesh: Arc<Mesh>, from: NodeId, call: Bytes) {
    let mut call = call;
    let Ok((number, group)) = call.try_get_u64_le().and_then(|n| Ok((n, call.try_get_u64_le()?)))
    else {
        return;
    };
    let Ok(kind) = call.try_get_u8() else { return };
    let Some(raft) = usize::try_from(group).ok().and_then(|at| groups.get(at)) else { return };
    let answer = match kind {
        APPEND => match postcard::from_bytes(&call) {
            Ok(ask) => encode(raft.append_entries(ask).await.ok()),
            Err(_) => return,
        },
        VOTE => match postcard::from_bytes(&call) {
            Ok(ask) => encode(raft.vote(ask).await.ok()),
            Err(_) => return,
        },
        SNAPSHOT => match postcard::from_bytes(&call) {
            Ok(ask) => encode(raft.install_snapshot(ask).await.ok()),
            Err(_) => return,
        },
        _ => return,
    };
    mesh.send(from, ANSWER, |out| {
        out.put_u64_le(number);
        out.put_slice(&answer);
    });
}

fn encode(answer: Option<impl Serialize>) -> Vec<u8> {
    postcard::to_stdvec(&answer).expect("an answer can be encoded")
}

/// The links as one group sees them.
#[derive(Clone)]
pub struct Network {
    /// The node's calls.
    pub calls: Arc<Calls>,
    /// The group.
    pub group: u64,
}

/// The link of one group to one node.
pub struct Link {
    network: Network,
    target: NodeId,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: NodeId, _: &EmptyNode) -> Link {
        Link { network: self.clone(), target }
    }
}

impl Link {
    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        kind: u8,
        ask: &Q,
    ) -> Result<A, Unreachable> {
        self.network.calls.call(self.target, self.network.group, kind, ask).await
    }
}

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        ask: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Fault<RaftError<u64>>> {
        Ok(self.call(APPEND, &ask).await?)
    }

    async fn install_snapshot(
        &mut self,
        ask: InstallSnapshotRequest<Types>,
        _: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Fault<RaftError<u64, InstallSnapshotError>>> {
        Ok(self.call(SNAPSHOT, &ask).await?)
    }

    async fn vote(
        &mut self,
        ask: VoteRequest<u64>,
        _: RPCOption,
    ) -> Result<VoteResponse<u64>, Fault<RaftError<u64>>> {
        Ok(self.call(VOTE, &ask).await?)
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(RETRY_AFTER))
    }
}
