//! Sends this core's frames to one peer, and dials again whenever the connection is lost.
//!
//! One per own core and peer. Frames of a turn gather in a buffer and leave with one write; what
//! gathers meanwhile leaves with the next. It must not look into a frame, nor keep what a broken
//! connection may have lost: Raft sends again what matters. A peer that takes too little costs
//! bounded memory: beyond the bound the connection is reset and the groups probe anew.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_lite::future::or;
use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use oarlock_codec::{Framed, Handshake, HandshakeReply, Header, frame};
use oarlock_shard::support_table::{LinkToken, SupportTable};
use oarlock_types::{CoreId, Incarnation, NodeId, Random};
use socket2::{Domain, Protocol, Socket, Type};

use crate::net::handshake::{DialError, HANDSHAKE_BYTES_MAX, PeerBook};
use crate::net::link_hub::{LinkEvent, LinkHub};
use crate::net::link_log::RepeatedLog;
use crate::net::link_reader;
use crate::runtime::{self, TcpStream, sleep};

/// A buffer that has grown beyond this is given back once it is empty.
const BUFFER_BYTES_KEPT: usize = 1 << 20;
/// Written at one go before other tasks get their turn.
const WRITE_BYTES_MAX: usize = 1 << 20;
/// How often a task that waits to dial looks whether the peer has come back by itself.
const BACKOFF_SLICE: Duration = Duration::from_millis(50);

/// The bounds of a link.
#[derive(Clone, Debug)]
pub struct LinkLimits {
    /// Bytes that wait to be written before the connection is reset.
    pub queue_bytes_max: usize,
    /// Largest frame, header included, that is sent or taken.
    pub frame_bytes_max: usize,
    /// How long connecting and the handshake together may take.
    pub connect_timeout: Duration,
    /// How long a write may make no progress.
    pub write_timeout: Duration,
    /// The first wait after a lost connection, give or take a half.
    pub backoff_min: Duration,
    /// The longest wait, give or take a half.
    pub backoff_max: Duration,
}

impl Default for LinkLimits {
    fn default() -> Self {
        Self {
            queue_bytes_max: 16 << 20,
            frame_bytes_max: 8 << 20,
            connect_timeout: Duration::from_secs(2),
            write_timeout: Duration::from_secs(2),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
        }
    }
}

/// Where a link leads.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// The own core, on whose executor the link lives.
    pub core: CoreId,
    /// The peer.
    pub peer: NodeId,
    /// Its address.
    pub addr: SocketAddr,
    /// The bounds.
    pub limits: LinkLimits,
    /// The seed of the waits' jitter.
    pub seed: u64,
}

/// Why an established connection ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the link is no longer wanted")]
    Unwanted,
    #[error("more than {0} bytes waited for it")]
    Overflow(usize),
    #[error("the peer has been started again")]
    NewIncarnation,
    #[error("the peer closed it")]
    Closed,
    #[error("the peer sent where it only receives")]
    Unexpected,
    #[error("{0}")]
    Io(#[from] io::Error),
}

#[derive(Debug)]
struct Shared {
    config: LinkConfig,
    /// The peer's incarnation while the link is up.
    up: Cell<Option<Incarnation>>,
    /// Frames that gather for the next write.
    gathering: RefCell<Vec<u8>>,
    /// Bytes handed to the present write and not yet taken by the socket.
    writing_bytes: Cell<usize>,
    has_overflowed: Cell<bool>,
    is_unwanted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Shared {
    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// The driver's end of a link. Dropping it closes the link.
#[derive(Debug)]
pub struct PeerLink {
    shared: Rc<Shared>,
}

impl Drop for PeerLink {
    fn drop(&mut self) {
        self.shared.is_unwanted.set(true);
        self.shared.wake();
    }
}

impl PeerLink {
    /// Starts the link's task on the present executor. It dials until the link is dropped; the
    /// hub tells when it comes up and goes down.
    #[must_use]
    pub fn open(config: LinkConfig, book: Arc<PeerBook>, hub: Rc<LinkHub>) -> Self {
        let shared = Rc::new(Shared {
            config,
            up: Cell::new(None),
            gathering: RefCell::default(),
            writing_bytes: Cell::new(0),
            has_overflowed: Cell::new(false),
            is_unwanted: Cell::new(false),
            waker: RefCell::default(),
        });
        runtime::spawn(keep_up(Rc::clone(&shared), book, hub)).detach();
        Self { shared }
    }

    /// Puts a frame into the next write; the write happens once the caller's turn ends. False if
    /// it was dropped: the link is down, or full and now reset, or the frame exceeds its bound.
    pub fn send<T: Framed>(&self, value: &T) -> bool {
        let shared = &*self.shared;
        if shared.up.get().is_none() || shared.has_overflowed.get() {
            return false;
        }
        let mut gathering = shared.gathering.borrow_mut();
        let start = gathering.len();
        let bytes = frame::encode(value, &mut gathering);
        let limits = &shared.config.limits;
        if bytes > limits.frame_bytes_max {
            gathering.truncate(start);
            let (peer, bytes_max) = (shared.config.peer, limits.frame_bytes_max);
            tracing::error!("a frame of {bytes} bytes for {peer} is over {bytes_max}; dropped");
            return false;
        }
        if gathering.len() + shared.writing_bytes.get() > limits.queue_bytes_max {
            gathering.clear();
            shared.has_overflowed.set(true);
        }
        drop(gathering);
        if start == 0 || shared.has_overflowed.get() {
            shared.wake();
        }
        !shared.has_overflowed.get()
    }

    /// The peer's incarnation while the link is up.
    #[must_use]
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.shared.up.get()
    }

    /// Whom the link leads to.
    #[must_use]
    pub fn peer(&self) -> NodeId {
        self.shared.config.peer
    }

    /// Bytes that wait to be written.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.shared.gathering.borrow().len() + self.shared.writing_bytes.get()
    }
}

/// The link counts as up while this lives, however its task ends.
struct Up<'a> {
    shared: &'a Shared,
    table: &'a SupportTable,
    hub: &'a LinkHub,
    token: LinkToken,
}

impl<'a> Up<'a> {
    fn new(
        shared: &'a Shared,
        table: &'a SupportTable,
        hub: &'a LinkHub,
        incarnation: Incarnation,
    ) -> Self {
        let (node, core) = (shared.config.peer, shared.config.core);
        let token = table.outgoing_up(node, core, incarnation);
        shared.has_overflowed.set(false);
        shared.up.set(Some(incarnation));
        hub.event(LinkEvent::OutgoingUp { node, incarnation });
        Self { shared, table, hub, token }
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        let (node, core) = (self.shared.config.peer, self.shared.config.core);
        self.table.outgoing_down(node, core, self.token);
        self.shared.up.set(None);
        self.shared.writing_bytes.set(0);
        *self.shared.gathering.borrow_mut() = Vec::new();
        self.hub.event(LinkEvent::OutgoingDown { node });
    }
}

async fn keep_up(shared: Rc<Shared>, book: Arc<PeerBook>, hub: Rc<LinkHub>) {
    let config = &shared.config;
    let (peer, addr, core) = (config.peer, config.addr, config.core);
    let mut random = Random::new(config.seed);
    let mut log = RepeatedLog::default();
    let mut backoff = config.limits.backoff_min;
    while !shared.is_unwanted.get() {
        let mut seen = book.table().peer_incarnation(peer);
        let started = Instant::now();
        match dial(config, &book).await {
            Ok((stream, incarnation)) => {
                (seen, log) = (incarnation, RepeatedLog::default());
                tracing::info!("link {core} to {peer} at {addr} is up, incarnation {incarnation}");
                let up = Up::new(&shared, book.table(), &hub, incarnation);
                let broken = pump(stream, &shared, book.table(), incarnation).await;
                drop(up);
                match broken {
                    Broken::Unwanted => return,
                    Broken::Overflow(_)
                    | Broken::NewIncarnation
                    | Broken::Closed
                    | Broken::Unexpected
                    | Broken::Io(_) => {
                        hub.warn(&format!("link to {peer} at {addr} lost: {broken}"))
                    }
                }
                // A link that breaks as soon as it stands is not to be dialled in a hot loop.
                if started.elapsed() > config.limits.backoff_max {
                    backoff = config.limits.backoff_min;
                }
            }
            // The right core is known now.
            Err(DialError::OtherCore { .. }) => backoff = config.limits.backoff_min,
            Err(error) => log.warn(&error.to_string()),
        }
        let wait = random.between(backoff / 2, backoff * 3 / 2);
        backoff = (backoff * 2).min(config.limits.backoff_max);
        rest(&shared, book.table(), seen, wait).await;
    }
}

/// Waits before the next attempt, but not when the peer shows itself in a newer incarnation.
async fn rest(shared: &Shared, table: &SupportTable, seen: Incarnation, wait: Duration) {
    let end = Instant::now() + wait;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let is_back = table.peer_incarnation(shared.config.peer) > seen;
        if left.is_zero() || shared.is_unwanted.get() || is_back {
            return;
        }
        sleep(left.min(BACKOFF_SLICE)).await;
    }
}

async fn dial(config: &LinkConfig, book: &PeerBook) -> Result<(TcpStream, Incarnation), DialError> {
    let (peer, addr) = (config.peer, config.addr);
    let hello = book.greeting(config.core, peer);
    let greet = async {
        let unreachable = |source| DialError::Unreachable { peer, addr, source };
        let mut stream = connect(addr).map_err(unreachable)?;
        stream.set_write_timeout(Some(config.limits.write_timeout));
        let reply = exchange(&mut stream, &hello).await.map_err(|error| match error {
            Exchange::Io(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
                DialError::HungUp { peer, addr }
            }
            Exchange::Io(source) => unreachable(source),
            Exchange::Frame(source) => DialError::Frame { peer, addr, source },
        })?;
        let incarnation = book.judge_answer(&hello, addr, &reply)?;
        Ok((stream, incarnation))
    };
    let silence = async {
        sleep(config.limits.connect_timeout).await;
        Err(DialError::Silent { peer, addr })
    };
    or(greet, silence).await
}

/// Begins to connect. The first write waits until the connection stands, or learns why it cannot.
fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    link_reader::prepare(&socket)?;
    match socket.connect(&addr.into()) {
        Ok(()) => (),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => (),
        Err(error) => return Err(error),
    }
    TcpStream::new(socket)
}

enum Exchange {
    Io(io::Error),
    Frame(oarlock_codec::FrameError),
}

async fn exchange(stream: &mut TcpStream, hello: &Handshake) -> Result<HandshakeReply, Exchange> {
    let mut bytes = Vec::new();
    frame::encode(hello, &mut bytes);
    stream.write_all(&bytes).await.map_err(Exchange::Io)?;
    // Exactly one frame is read: only it belongs to the handshake.
    let mut head = [0; Header::BYTES];
    stream.read_exact(&mut head).await.map_err(Exchange::Io)?;
    let header = frame::decode_header(&head, HANDSHAKE_BYTES_MAX)
        .map_err(Exchange::Frame)?
        .expect("invariant: a whole header was read");
    let mut payload = vec![0; header.payload_bytes];
    stream.read_exact(&mut payload).await.map_err(Exchange::Io)?;
    frame::decode_payload(&header, &payload).map_err(Exchange::Frame)
}

/// Writes what gathers until the connection breaks, and says why it did.
async fn pump(
    mut stream: TcpStream,
    shared: &Shared,
    table: &SupportTable,
    incarnation: Incarnation,
) -> Broken {
    let mut writing = Vec::new();
    let mut written = 0;
    poll_fn(|context| {
        if shared.is_unwanted.get() {
            return Poll::Ready(Broken::Unwanted);
        }
        if shared.has_overflowed.get() {
            return Poll::Ready(Broken::Overflow(shared.config.limits.queue_bytes_max));
        }
        if table.peer_incarnation(shared.config.peer) != incarnation {
            return Poll::Ready(Broken::NewIncarnation);
        }
        // Left before the looks below, so that a frame in between finds it.
        *shared.waker.borrow_mut() = Some(context.waker().clone());
        if let Poll::Ready(broken) = poll_end(&mut stream, context) {
            return Poll::Ready(broken);
        }
        poll_write(&mut stream, context, shared, &mut writing, &mut written)
    })
    .await
}

/// The peer never sends here: that the connection has become readable means that it has ended.
fn poll_end(stream: &mut TcpStream, context: &mut Context<'_>) -> Poll<Broken> {
    let mut byte = [0; 1];
    Pin::new(stream).poll_read(context, &mut byte).map(|read| match read {
        Ok(0) => Broken::Closed,
        Ok(_) => Broken::Unexpected,
        Err(error) => error.into(),
    })
}

fn poll_write(
    stream: &mut TcpStream,
    context: &mut Context<'_>,
    shared: &Shared,
    writing: &mut Vec<u8>,
    written: &mut usize,
) -> Poll<Broken> {
    let mut at_this_go = 0;
    loop {
        if *written == writing.len() {
            writing.clear();
            writing.shrink_to(BUFFER_BYTES_KEPT);
            *written = 0;
            std::mem::swap(writing, &mut shared.gathering.borrow_mut());
            shared.writing_bytes.set(writing.len());
        }
        if writing.is_empty() {
            return Poll::Pending;
        }
        if at_this_go >= WRITE_BYTES_MAX {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        match Pin::new(&mut *stream).poll_write(context, &writing[*written..]) {
            Poll::Ready(Ok(0)) => return Poll::Ready(Broken::Closed),
            Poll::Ready(Ok(bytes)) => {
                *written += bytes;
                at_this_go += bytes;
                shared.writing_bytes.set(writing.len() - *written);
            }
            Poll::Ready(Err(error)) => return Poll::Ready(error.into()),
            Poll::Pending => return Poll::Pending,
        }
    }
}
