//! The links between nodes: one connection each way between any two, frames batched by whoever
//! writes while the one before is on its way. Nothing is kept for a peer that is not there.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

const READ_BYTES: usize = 256 << 10;
const REDIAL: Duration = Duration::from_millis(50);
/// Bytes before a frame's content: its length and its kind.
const HEAD_BYTES: usize = 5;

/// A node's number, from 1.
pub type NodeId = u64;

/// What a link does for its node.
pub trait Handler: Send + Sync + 'static {
    /// A frame has come.
    fn frame(&self, from: NodeId, kind: u8, content: Bytes);
    /// A connection to or from this peer has ended: what was asked of it may never be answered.
    fn lost(&self, peer: NodeId);
}

#[derive(Debug, Default)]
struct Outbox {
    state: Mutex<OutboxState>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct OutboxState {
    connected: bool,
    bytes: Vec<u8>,
}

impl Outbox {
    fn state(&self) -> std::sync::MutexGuard<'_, OutboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All links of a node.
#[derive(Debug)]
pub struct Mesh {
    peers: BTreeMap<NodeId, (SocketAddr, Arc<Outbox>)>,
}

impl Mesh {
    /// Links to these peers, not yet dialled.
    #[must_use]
    pub fn new(peers: impl IntoIterator<Item = (NodeId, SocketAddr)>) -> Self {
        let peer = |(id, address)| (id, (address, Arc::default()));
        Self { peers: peers.into_iter().map(peer).collect() }
    }

    /// Appends a frame to what goes to a peer; whether the peer is linked.
    pub fn send(&self, to: NodeId, kind: u8, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        let Some((_, outbox)) = self.peers.get(&to) else { return false };
        let mut state = outbox.state();
        if !state.connected {
            return false;
        }
        let start = state.bytes.len();
        state.bytes.extend_from_slice(&[0, 0, 0, 0, kind]);
        write(&mut state.bytes);
        let length = state.bytes.len() - start - HEAD_BYTES;
        let length = u32::try_from(length).expect("invariant: a frame is under 4 GiB");
        state.bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
        if start == 0 {
            outbox.wake.notify_one();
        }
        true
    }

    /// Dials all peers and takes their connections, for as long as the process lives.
    pub fn start(&self, own: NodeId, listener: TcpListener, handler: Arc<dyn Handler>) {
        for (&peer, (address, outbox)) in &self.peers {
            let (address, outbox) = (*address, Arc::clone(outbox));
            let handler = Arc::clone(&handler);
            tokio::spawn(async move {
                loop {
                    let _ = feed(own, address, &outbox).await;
                    {
                        let mut state = outbox.state();
                        state.connected = false;
                        state.bytes.clear();
                    }
                    handler.lost(peer);
                    tokio::time::sleep(REDIAL).await;
                }
            });
        }
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let handler = Arc::clone(&handler);
                tokio::spawn(async move {
                    let mut peer = 0;
                    let _ = read(stream, &mut peer, &*handler).await;
                    handler.lost(peer);
                });
            }
        });
    }
}

/// Connects, and writes what is to be sent until that fails.
async fn feed(own: NodeId, address: SocketAddr, outbox: &Outbox) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&own.to_le_bytes()).await?;
    outbox.state().connected = true;
    let mut bytes = Vec::new();
    let mut ended = [0];
    loop {
        tokio::select! {
            () = outbox.wake.notified() => {}
            // A peer sends nothing on this connection; it can only end.
            _ = stream.read(&mut ended) => return Ok(()),
        }
        std::mem::swap(&mut bytes, &mut outbox.state().bytes);
        stream.write_all(&bytes).await?;
        bytes.clear();
    }
}

async fn read(
    mut stream: TcpStream,
    peer: &mut NodeId,
    handler: &dyn Handler,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let from = stream.read_u64_le().await?;
    *peer = from;
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    loop {
        buffer.reserve(READ_BYTES);
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        while let Some(head) = buffer.get(..HEAD_BYTES) {
            let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
            let kind = head[4];
            if buffer.len() < HEAD_BYTES + length {
                buffer.reserve(HEAD_BYTES + length - buffer.len());
                break;
            }
            buffer.advance(HEAD_BYTES);
            handler.frame(from, kind, buffer.split_to(length).freeze());
        }
    }
}
