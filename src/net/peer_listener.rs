//! Answers the handshakes of peers that dial in, and hands each accepted connection to the core
//! that it asked for.
//!
//! One per node, on a plain thread of its own, so that no core's trouble keeps peers from reaching
//! the others. It must not read a byte behind the handshake. Connections that say nothing, or
//! nonsense, cost a bounded number of small buffers for a bounded time, and the oldest gives way.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use oarlock_codec::{FrameError, Handshake, HandshakeReply, Header, frame};
use oarlock_types::CoreAddr;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::net::handshake::{AcceptError, HANDSHAKE_BYTES_MAX, PeerBook};
use crate::net::link_log::RepeatedLog;
use crate::net::link_reader::AcceptedLink;

/// How long accepting pauses when the system gives no descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The listener's bounds.
#[derive(Clone, Debug)]
pub struct ListenerLimits {
    /// Handshakes that may be under way; beyond it the oldest is dropped.
    pub handshakes_max: usize,
    /// How long one may take.
    pub handshake_timeout: Duration,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self { handshakes_max: 64, handshake_timeout: Duration::from_secs(2) }
    }
}

/// The peer port could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for peers on {protocol} {addr}: {source}")]
pub struct PeerBindError {
    /// TCP for links, UDP for pulses.
    pub protocol: &'static str,
    /// Where.
    pub addr: SocketAddr,
    /// The system's answer.
    pub source: io::Error,
}

/// Binds a node's peer port: TCP for links and UDP, with the same number, for pulses.
///
/// # Errors
/// When either is taken or not to be had.
pub fn bind_peer_port(addr: SocketAddr) -> Result<(TcpListener, UdpSocket), PeerBindError> {
    let listener = TcpListener::bind(addr).map_err(|source| PeerBindError {
        protocol: "TCP",
        addr,
        source,
    })?;
    let port = listener.local_addr().map_or(addr.port(), |local| local.port());
    let addr = SocketAddr::new(addr.ip(), port);
    let socket =
        UdpSocket::bind(addr).map_err(|source| PeerBindError { protocol: "UDP", addr, source })?;
    Ok((listener, socket))
}

/// The listener's thread. Dropping it ends the thread and closes the port.
#[derive(Debug)]
pub struct PeerListener {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl PeerListener {
    /// Starts it. `deliver` is called for each accepted connection; one that it drops is dialled
    /// again by the peer.
    ///
    /// # Errors
    /// When the system gives no thread or descriptor.
    pub fn start(
        listener: TcpListener,
        book: Arc<PeerBook>,
        limits: ListenerLimits,
        deliver: impl FnMut(AcceptedLink) + Send + 'static,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let stop = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        let door = Door {
            listener,
            stop: Arc::clone(&stop),
            book,
            limits,
            deliver,
            callers: VecDeque::new(),
            accept_after: None,
            log: RepeatedLog::default(),
        };
        let thread = std::thread::Builder::new()
            .name("peer-listener".to_owned())
            .spawn(move || door.attend())?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for PeerListener {
    fn drop(&mut self) {
        // An eventfd takes one more unless it is near overflow, and then it is readable anyway.
        let _ = rustix::io::write(&*self.stop, &1_u64.to_le_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A connection whose handshake is under way.
struct Caller {
    stream: TcpStream,
    addr: SocketAddr,
    bytes: Vec<u8>,
    deadline: Instant,
}

#[derive(Debug, thiserror::Error)]
enum CallerError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it closed the connection in the middle of its handshake")]
    Closed,
    #[error("it did not finish its handshake in time")]
    Silent,
    #[error("too many handshakes are under way, and this is the oldest")]
    Crowded,
    #[error("{0}")]
    Frame(#[from] FrameError),
}

impl Caller {
    /// Reads on; the handshake once it is whole, `None` while it is not.
    fn read(&mut self) -> Result<Option<Handshake>, CallerError> {
        loop {
            let header = frame::decode_header(&self.bytes, HANDSHAKE_BYTES_MAX)?;
            let wanted = header.map_or(Header::BYTES, |header| header.frame_bytes());
            if let (Some(header), true) = (header, self.bytes.len() == wanted) {
                return Ok(Some(frame::decode_payload(&header, &self.bytes[Header::BYTES..])?));
            }
            let mut chunk = [0; HANDSHAKE_BYTES_MAX];
            match self.stream.read(&mut chunk[..wanted - self.bytes.len()]) {
                Ok(0) => return Err(CallerError::Closed),
                Ok(read) => self.bytes.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends the answer. It fits into an empty socket buffer, so this never waits.
    fn answer(&mut self, reply: &HandshakeReply) -> io::Result<()> {
        let mut bytes = Vec::new();
        frame::encode(reply, &mut bytes);
        self.stream.write_all(&bytes)
    }
}

struct Door<F> {
    listener: TcpListener,
    stop: Arc<OwnedFd>,
    book: Arc<PeerBook>,
    limits: ListenerLimits,
    deliver: F,
    /// In the order in which they came, so the oldest deadline is in front.
    callers: VecDeque<Caller>,
    /// Set while accepting pauses.
    accept_after: Option<Instant>,
    log: RepeatedLog,
}

impl<F: FnMut(AcceptedLink)> Door<F> {
    fn attend(mut self) {
        loop {
            let Some(ready) = self.wait() else { return };
            let now = Instant::now();
            if self.accept_after.is_some_and(|after| after <= now) {
                self.accept_after = None;
            }
            let callers = std::mem::take(&mut self.callers);
            for (mut caller, ready) in callers.into_iter().zip(ready) {
                let outcome = if ready { caller.read() } else { Ok(None) };
                match outcome {
                    Ok(Some(hello)) => self.decide(caller, &hello),
                    Ok(None) if caller.deadline <= now => {
                        self.turn_away(&caller, &CallerError::Silent);
                    }
                    Ok(None) => self.callers.push_back(caller),
                    Err(error) => self.turn_away(&caller, &error),
                }
            }
            if self.accept_after.is_none() {
                self.accept(now);
            }
        }
    }

    /// Waits for something to happen; which callers have sent something, `None` to stop.
    fn wait(&mut self) -> Option<Vec<bool>> {
        let deadline = self.callers.front().map(|caller| caller.deadline);
        let until = [deadline, self.accept_after].into_iter().flatten().min();
        let timeout = until.map(|until| {
            // One millisecond more, so that a wait never ends just before its deadline.
            let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 })
        });
        let accepting =
            if self.accept_after.is_none() { PollFlags::IN } else { PollFlags::empty() };
        let mut polled =
            vec![PollFd::new(&*self.stop, PollFlags::IN), PollFd::new(&self.listener, accepting)];
        polled.extend(self.callers.iter().map(|c| PollFd::new(&c.stream, PollFlags::IN)));
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) => (),
            Err(rustix::io::Errno::INTR) => return Some(vec![false; self.callers.len()]),
            Err(error) => {
                tracing::error!("the peer listener cannot wait and ends: {error}");
                return None;
            }
        }
        let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        (!ready[0]).then(|| ready[2..].to_vec())
    }

    /// Takes in all that wait, up to the bound per round.
    fn accept(&mut self, now: Instant) {
        for _ in 0..self.limits.handshakes_max {
            let (stream, addr) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The caller has gone already.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    self.log.warn(&format!("cannot accept peers for a moment: {error}"));
                    self.accept_after = Some(now + ACCEPT_PAUSE);
                    return;
                }
            };
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            if self.callers.len() >= self.limits.handshakes_max
                && let Some(oldest) = self.callers.pop_front()
            {
                self.turn_away(&oldest, &CallerError::Crowded);
            }
            let deadline = now + self.limits.handshake_timeout;
            self.callers.push_back(Caller { stream, addr, bytes: Vec::new(), deadline });
        }
    }

    fn decide(&mut self, mut caller: Caller, hello: &Handshake) {
        let (reply, refusal) = match self.book.judge_dialler(hello) {
            Ok(reply) => (Some(reply), None),
            Err(AcceptError::Refused(why)) => {
                (Some(HandshakeReply::Refused(why)), Some(AcceptError::Refused(why)))
            }
            Err(why @ AcceptError::BadCore { .. }) => (None, Some(why)),
        };
        let answered = reply.map_or(Ok(()), |reply| caller.answer(&reply));
        match (refusal, answered) {
            (Some(why), _) => self.log.warn(&format!(
                "refused a link from {} ({}): this node says: {why}",
                hello.from,
                caller.addr.ip(),
            )),
            (None, Err(error)) => self.turn_away(&caller, &error.into()),
            (None, Ok(())) => (self.deliver)(AcceptedLink {
                from: CoreAddr::new(hello.from, hello.from_core),
                incarnation: hello.incarnation,
                to_core: hello.to_core,
                stream: caller.stream,
            }),
        }
    }

    fn turn_away(&mut self, caller: &Caller, error: &CallerError) {
        // Ports differ with every attempt; the line must not.
        let line = format!("dropped a connection from {}: {error}", caller.addr.ip());
        self.log.warn(&line);
    }
}
