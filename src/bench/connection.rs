//! One connection of a driver: non-blocking, pipelined, made anew when it breaks. It owns its
//! buffers and the order of what is in flight; it decides neither what is sent nor when.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use rustix::event::epoll;
use socket2::{Domain, Protocol, Socket, Type};

use super::resp::{self, Reply};
use super::workload::Class;

/// An operation that was sent and not yet answered.
#[derive(Clone, Debug)]
pub struct InFlight<T> {
    /// When it should have been sent, in nanoseconds since the driver's start.
    pub intended_ns: u64,
    /// When it was handed to the connection.
    pub sent_ns: u64,
    /// Read or write.
    pub class: Class,
    /// The workload's mark.
    pub token: T,
}

#[derive(Debug)]
enum Link {
    Down { retry_at_ns: u64 },
    Connecting { stream: TcpStream, since_ns: u64 },
    Up(TcpStream),
}

/// A connection to one address, for ever.
#[derive(Debug)]
pub struct Connection<T> {
    address: SocketAddr,
    link: Link,
    out: Vec<u8>,
    out_sent: usize,
    wants_write: bool,
    input: Vec<u8>,
    in_flight: VecDeque<InFlight<T>>,
    backoff_ns: u64,
    /// Not to be given anything before this time: an error reply must not make a busy loop.
    pub hold_until_ns: u64,
    /// How often it was made.
    pub connects: u64,
}

const BACKOFF_MIN_NS: u64 = 10_000_000;
const BACKOFF_MAX_NS: u64 = 1_000_000_000;
const CONNECT_TIMEOUT_NS: u64 = 2_000_000_000;

impl<T> Connection<T> {
    /// Not connected yet; [`Connection::maintain`] connects.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            link: Link::Down { retry_at_ns: 0 },
            out: Vec::new(),
            out_sent: 0,
            wants_write: false,
            input: Vec::new(),
            in_flight: VecDeque::new(),
            backoff_ns: BACKOFF_MIN_NS,
            hold_until_ns: 0,
            connects: 0,
        }
    }

    /// Whether it is connected and may be given an operation.
    #[must_use]
    pub fn is_open(&self, now_ns: u64) -> bool {
        matches!(self.link, Link::Up(_)) && self.hold_until_ns <= now_ns
    }

    /// Operations in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// When the oldest operation in flight was sent.
    #[must_use]
    pub fn oldest_sent_ns(&self) -> Option<u64> {
        self.in_flight.front().map(|op| op.sent_ns)
    }

    /// When [`Connection::maintain`] has something to do.
    #[must_use]
    pub fn maintain_at_ns(&self) -> Option<u64> {
        match &self.link {
            Link::Down { retry_at_ns } => Some(*retry_at_ns),
            Link::Connecting { since_ns, .. } => Some(since_ns + CONNECT_TIMEOUT_NS),
            Link::Up(_) => None,
        }
    }

    /// Where a command is to be written; [`Connection::push`] must follow.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// The command that was just written into the buffer is in flight from now on.
    pub fn push(&mut self, op: InFlight<T>) {
        self.in_flight.push_back(op);
    }

    /// Starts a connection when it is time, or gives up one that does not come about.
    ///
    /// # Errors
    /// If the epoll itself fails. A refused connection is no error, it is tried again.
    pub fn maintain(
        &mut self,
        epoll: impl rustix::fd::AsFd,
        id: u64,
        now_ns: u64,
    ) -> io::Result<()> {
        match &self.link {
            Link::Up(_) => return Ok(()),
            Link::Connecting { since_ns, .. } => {
                if now_ns >= since_ns + CONNECT_TIMEOUT_NS {
                    self.down(now_ns);
                }
                return Ok(());
            }
            Link::Down { retry_at_ns } => {
                if now_ns < *retry_at_ns {
                    return Ok(());
                }
            }
        }
        match start_connecting(self.address) {
            Ok(stream) => {
                let interest = epoll::EventFlags::IN | epoll::EventFlags::OUT;
                epoll::add(epoll, &stream, epoll::EventData::new_u64(id), interest)?;
                self.wants_write = true;
                self.link = Link::Connecting { stream, since_ns: now_ns };
            }
            Err(_) => self.down(now_ns),
        }
        Ok(())
    }

    fn down(&mut self, now_ns: u64) {
        self.link = Link::Down { retry_at_ns: now_ns + self.backoff_ns };
        self.backoff_ns = (self.backoff_ns * 2).min(BACKOFF_MAX_NS);
    }

    /// Ends the connection and hands out what was in flight: nobody knows what became of it.
    pub fn break_off(&mut self, now_ns: u64) -> VecDeque<InFlight<T>> {
        self.out.clear();
        self.out_sent = 0;
        self.input.clear();
        self.down(now_ns);
        std::mem::take(&mut self.in_flight)
    }

    /// The socket can be written: the connection came about, or there is room for more bytes.
    ///
    /// # Errors
    /// If the connection broke.
    pub fn on_writable(&mut self, epoll: impl rustix::fd::AsFd, id: u64) -> io::Result<()> {
        let link = std::mem::replace(&mut self.link, Link::Down { retry_at_ns: 0 });
        self.link = match link {
            Link::Connecting { stream, .. } => {
                if let Some(error) = stream.take_error()? {
                    return Err(error);
                }
                self.connects += 1;
                Link::Up(stream)
            }
            Link::Up(_) | Link::Down { .. } => link,
        };
        self.flush(epoll, id)
    }

    /// Writes as much of the buffer as the kernel takes, and asks to be told when it takes more.
    ///
    /// # Errors
    /// If the connection broke.
    pub fn flush(&mut self, epoll: impl rustix::fd::AsFd, id: u64) -> io::Result<()> {
        let Link::Up(stream) = &mut self.link else { return Ok(()) };
        while self.out_sent < self.out.len() {
            match stream.write(&self.out[self.out_sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.out_sent += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let unsent = self.out_sent < self.out.len();
        if !unsent {
            self.out.clear();
            self.out_sent = 0;
        }
        if unsent != self.wants_write {
            let out = if unsent { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
            let interest = epoll::EventFlags::IN | out;
            epoll::modify(epoll, stream, epoll::EventData::new_u64(id), interest)?;
            self.wants_write = unsent;
        }
        Ok(())
    }

    /// Reads what has arrived and hands out each reply with its operation, in order.
    ///
    /// # Errors
    /// If the connection broke, ended, or the server said what is no reply.
    pub fn on_readable(
        &mut self,
        scratch: &mut [u8],
        mut on_reply: impl FnMut(InFlight<T>, Reply<'_>) -> u64,
    ) -> io::Result<()> {
        let Link::Up(stream) = &mut self.link else { return Ok(()) };
        let read = match stream.read(scratch) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.backoff_ns = BACKOFF_MIN_NS;
        self.input.extend_from_slice(&scratch[..read]);
        let mut used = 0;
        while let Some((reply, length)) =
            resp::parse(&self.input[used..]).map_err(io::Error::other)?
        {
            used += length;
            let Some(op) = self.in_flight.pop_front() else {
                return Err(io::Error::other("the server answered what was not asked"));
            };
            self.hold_until_ns = on_reply(op, reply);
        }
        if used == self.input.len() {
            self.input.clear();
        } else {
            self.input.drain(..used);
        }
        Ok(())
    }
}

fn start_connecting(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error)
            if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    Ok(socket.into())
}
