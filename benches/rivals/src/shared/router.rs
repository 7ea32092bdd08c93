//! Which group a key belongs to and which node answers for it; commands that go to another node and
//! the replies that come back. One per node; the consensus behind it is a [`Backend`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::{Buf, BufMut, Bytes};

use super::mesh::{Handler, Mesh, NodeId};
use super::session::{Command, Reply, Session};

/// As many groups as Oarlock's default benchmark has ranges.
pub const GROUPS: u64 = 64;

const FORWARD: u8 = 0;
const ANSWER: u8 = 1;
/// Frames of this kind and above belong to the backend.
pub const BACKEND: u8 = 2;

/// The consensus of one node: all its groups.
pub trait Backend: Send + Sync + 'static {
    /// Does what is asked if this node leads the group; the reply must not come before the write
    /// is durable on most nodes.
    fn submit(&self, group: u64, command: Command, reply: Replier);
    /// A frame from a peer's backend.
    fn frame(&self, from: NodeId, kind: u8, content: Bytes);
    /// A peer's link has broken.
    fn lost(&self, peer: NodeId);
}

/// The way back to whoever asked. Dropped unused, it says that the fate is unknown.
#[derive(Debug)]
pub struct Replier(Option<Target>);

#[derive(Debug)]
enum Target {
    Client { session: Arc<Session>, number: u64 },
    Peer { mesh: Arc<Mesh>, node: NodeId, number: u64 },
}

impl Replier {
    /// The way back to a client's command.
    #[must_use]
    pub fn client(session: Arc<Session>, number: u64) -> Self {
        Self(Some(Target::Client { session, number }))
    }

    /// Gives the reply.
    pub fn answer(mut self, reply: Reply) {
        self.give(reply);
    }

    fn give(&mut self, reply: Reply) {
        match self.0.take() {
            Some(Target::Client { session, number }) => session.answer(number, reply),
            Some(Target::Peer { mesh, node, number }) => {
                // Without a link the peer has told its client already that the fate is unknown.
                mesh.send(node, ANSWER, |out| write_reply(out, number, &reply));
            }
            None => {}
        }
    }
}

impl Drop for Replier {
    fn drop(&mut self) {
        self.give(Reply::Error("UNKNOWN the group's leader changed".to_owned()));
    }
}

/// Sends each command where it is answered.
pub struct Router {
    own: NodeId,
    mesh: Arc<Mesh>,
    leaders: Vec<AtomicU64>,
    backend: OnceLock<Arc<dyn Backend>>,
    forwarded: Mutex<HashMap<u64, (NodeId, Replier)>>,
    next: AtomicU64,
}

impl Router {
    /// A router that knows no leader yet.
    #[must_use]
    pub fn new(own: NodeId, mesh: Arc<Mesh>) -> Self {
        Self {
            own,
            mesh,
            leaders: (0..GROUPS).map(|_| AtomicU64::new(0)).collect(),
            backend: OnceLock::new(),
            forwarded: Mutex::default(),
            next: AtomicU64::new(1),
        }
    }

    /// Names the backend, once.
    pub fn set_backend(&self, backend: Arc<dyn Backend>) {
        assert!(self.backend.set(backend).is_ok(), "a node has one backend");
    }

    /// Says who leads a group; 0: nobody known.
    pub fn set_leader(&self, group: u64, leader: NodeId) {
        self.leaders[usize::try_from(group).unwrap_or(0)].store(leader, Ordering::Relaxed);
    }

    fn forwarded(&self) -> std::sync::MutexGuard<'_, HashMap<u64, (NodeId, Replier)>> {
        self.forwarded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a client's command answered.
    pub fn route(&self, command: Command, reply: Replier) {
        let group = group_of(&command);
        let leader = self.leaders[usize::try_from(group).unwrap_or(0)].load(Ordering::Relaxed);
        if leader == self.own {
            return self.submit(group, command, reply);
        }
        if leader == 0 {
            return reply.answer(Reply::Error("CLUSTERDOWN no leader is known".to_owned()));
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.forwarded().insert(number, (leader, reply));
        if !self.mesh.send(leader, FORWARD, |out| write_command(out, number, &command)) {
            let waiting = self.forwarded().remove(&number);
            if let Some((_, reply)) = waiting {
                reply.answer(Reply::Error("CLUSTERDOWN the leader is not linked".to_owned()));
            }
        }
    }

    fn submit(&self, group: u64, command: Command, reply: Replier) {
        if let Some(backend) = self.backend.get() {
            backend.submit(group, command, reply);
        }
    }
}

impl Handler for Router {
    fn frame(&self, from: NodeId, kind: u8, content: Bytes) {
        match kind {
            FORWARD => {
                let Some((number, command)) = read_command(content) else { return };
                let mesh = Arc::clone(&self.mesh);
                let reply = Replier(Some(Target::Peer { mesh, node: from, number }));
                self.submit(group_of(&command), command, reply);
            }
            ANSWER => {
                let Some((number, reply)) = read_reply(content) else { return };
                let waiting = self.forwarded().remove(&number);
                if let Some((_, waiting)) = waiting {
                    waiting.answer(reply);
                }
            }
            _ => {
                if let Some(backend) = self.backend.get() {
                    backend.frame(from, kind, content);
                }
            }
        }
    }

    fn lost(&self, peer: NodeId) {
        let gone: Vec<Replier> = {
            let mut forwarded = self.forwarded();
            let of_peer = forwarded.extract_if(|_, (node, _)| *node == peer);
            of_peer.map(|(_, (_, reply))| reply).collect()
        };
        drop(gone);
        if let Some(backend) = self.backend.get() {
            backend.lost(peer);
        }
    }
}

fn group_of(command: &Command) -> u64 {
    let (Command::Get { key } | Command::Set { key, .. }) = command;
    u64::from(crc32fast::hash(key)) % GROUPS
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32_le(u32::try_from(bytes.len()).expect("invariant: the front bounds arguments"));
    out.put_slice(bytes);
}

fn get_bytes(from: &mut Bytes) -> Option<Bytes> {
    let length = from.try_get_u32_le().ok()? as usize;
    (from.len() >= length).then(|| from.split_to(length))
}

fn write_command(out: &mut Vec<u8>, number: u64, command: &Command) {
    out.put_u64_le(number);
    match command {
        Command::Get { key } => {
            out.put_u8(0);
            put_bytes(out, key);
        }
        Command::Set { key, value } => {
            out.put_u8(1);
            put_bytes(out, key);
            put_bytes(out, value);
        }
    }
}

fn read_command(mut from: Bytes) -> Option<(u64, Command)> {
    let number = from.try_get_u64_le().ok()?;
    let is_set = from.try_get_u8().ok()? == 1;
    // Copies, lest a small key keep a whole read buffer alive.
    let key = Bytes::copy_from_slice(&get_bytes(&mut from)?);
    if !is_set {
        return Some((number, Command::Get { key }));
    }
    let value = Bytes::copy_from_slice(&get_bytes(&mut from)?);
    Some((number, Command::Set { key, value }))
}

fn write_reply(out: &mut Vec<u8>, number: u64, reply: &Reply) {
    out.put_u64_le(number);
    let (kind, bytes): (u8, &[u8]) = match reply {
        Reply::Ok => (0, &[]),
        Reply::Nil => (1, &[]),
        Reply::Value(bytes) => (2, bytes),
        Reply::Error(text) => (3, text.as_bytes()),
        Reply::Pong => (4, &[]),
    };
    out.put_u8(kind);
    out.put_slice(bytes);
}

fn read_reply(mut from: Bytes) -> Option<(u64, Reply)> {
    let number = from.try_get_u64_le().ok()?;
    let reply = match from.try_get_u8().ok()? {
        0 => Reply::Ok,
        1 => Reply::Nil,
        2 => Reply::Value(Bytes::copy_from_slice(&from)),
        3 => Reply::Error(String::from_utf8_lossy(&from).into_owned()),
        _ => Reply::Pong,
    };
    Some((number, reply))
}
