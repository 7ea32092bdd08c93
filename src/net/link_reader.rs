//! Receives the frames of one accepted connection on the core that owns it.
//!
//! One task per connection. It validates every frame before anybody sees it; a damaged one ends
//! the connection with one line in the log. It must not look at what a frame means, and it reads
//! no further while the core's hub is full.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::AsyncReadExt;
use oarlock_codec::{Decoder, Frame, FrameError};
use oarlock_shard::support_table::{LinkToken, SupportTable};
use oarlock_types::{CoreAddr, CoreId, Incarnation};
use socket2::{Socket, TcpKeepalive};

use crate::net::link_hub::{Incoming, LinkEvent, LinkHub};
use crate::node::clock::Clock;
use crate::runtime::TcpStream;

const READ_BYTES: usize = 128 << 10;
/// A peer whose host has vanished is noticed after three of these, even on a silent link.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(3);

/// A connection whose handshake was accepted, on its way to the core that it asked for.
#[derive(Debug)]
pub struct AcceptedLink {
    /// Who dialled.
    pub from: CoreAddr,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Which of our cores it asked for.
    pub to_core: CoreId,
    /// The connection; nothing after the handshake has been read.
    pub stream: std::net::TcpStream,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("the peer closed the connection")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("a frame that opens or answers a link came in its middle")]
    OutOfPlace,
    #[error("the peer has been started again since")]
    OldIncarnation,
}

/// Sets up a socket of a peer link: no delay, and a dead host is noticed.
pub(crate) fn prepare(socket: &Socket) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_INTERVAL)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(3);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
    socket.set_nonblocking(true)
}

/// The link counts as up while this lives, however its task ends.
struct Up<'a> {
    table: &'a SupportTable,
    hub: &'a LinkHub,
    from: CoreAddr,
    token: LinkToken,
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        self.table.incoming_down(self.from, self.token);
        self.hub.event(LinkEvent::IncomingDown { from: self.from });
    }
}

/// Receives until the connection ends, then returns. Dropping the future closes the connection.
/// Must run on the executor of the core that the link is for.
pub async fn read_link(
    link: AcceptedLink,
    table: Arc<SupportTable>,
    hub: Rc<LinkHub>,
    frame_bytes_max: usize,
) {
    let (from, incarnation) = (link.from, link.incarnation);
    let token = table.incoming_up(from, incarnation);
    hub.event(LinkEvent::IncomingUp { from, incarnation });
    let _up = Up { table: &table, hub: &hub, from, token };
    match receive(link, &table, &hub, frame_bytes_max).await {
        ReadError::Closed => tracing::info!("link from {from} closed"),
        error @ (ReadError::Io(_)
        | ReadError::Frame(_)
        | ReadError::OutOfPlace
        | ReadError::OldIncarnation) => hub.warn(&format!("link from {from} dropped: {error}")),
    }
}

async fn receive(
    link: AcceptedLink,
    table: &SupportTable,
    hub: &LinkHub,
    frame_bytes_max: usize,
) -> ReadError {
    let socket = Socket::from(link.stream);
    if let Err(error) = prepare(&socket) {
        return error.into();
    }
    let mut stream = match TcpStream::new(socket) {
        Ok(stream) => stream,
        Err(error) => return error.into(),
    };
    let mut decoder = Decoder::new(frame_bytes_max);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = match stream.read(&mut buffer).await {
            Ok(0) => return ReadError::Closed,
            Ok(read) => read,
            Err(error) => return error.into(),
        };
        if table.peer_incarnation(link.from.node) != link.incarnation {
            return ReadError::OldIncarnation;
        }
        decoder.push(&buffer[..read]);
        if let Err(error) = pass_on(&mut decoder, &link.from, link.incarnation, hub) {
            return error;
        }
        hub.room().await;
        if read == buffer.len() {
            // There is more: others have their turn first.
            futures_lite::future::yield_now().await;
        }
    }
}

fn pass_on(
    decoder: &mut Decoder,
    from: &CoreAddr,
    incarnation: Incarnation,
    hub: &LinkHub,
) -> Result<(), ReadError> {
    let came = Clock.mono();
    loop {
        let before = decoder.buffered_bytes();
        let Some(frame) = decoder.next_frame()? else { return Ok(()) };
        match frame {
            Frame::Messages(_)
            | Frame::Forward(_)
            | Frame::ForwardReply(_)
            | Frame::LinkProbe(_) => {
                let bytes = before - decoder.buffered_bytes();
                hub.push(Incoming { from: *from, incarnation, frame, came }, bytes);
            }
            Frame::Handshake(_) | Frame::HandshakeReply(_) | Frame::Pulse(_) => {
                return Err(ReadError::OutOfPlace);
            }
        }
    }
}
