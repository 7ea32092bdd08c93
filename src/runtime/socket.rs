//! TCP sockets of one thread. The ring says when a socket may have something; then it is read or
//! written by a plain call, straight from and to the task's buffers.
//!
//! The watch tells each change once. So what it said is kept until a call finds nothing left: a
//! read that would block or that filled less than its buffer, a write that would block. The end
//! of a connection is said once, too, and kept for good.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncWrite, FutureExt};

use super::current;
use super::ring::Ring;
use super::timer::{Sleep, sleep};

/// A watched socket and what is known of it.
pub(super) struct Readiness {
    socket: Socket,
    token: Cell<Option<usize>>,
    can_read: Cell<bool>,
    can_write: Cell<bool>,
    /// The peer sends no more, or the socket has failed: every call returns at once.
    has_ended: Cell<bool>,
    is_forgotten: Cell<bool>,
    reader: Cell<Option<Waker>>,
    writer: Cell<Option<Waker>>,
}

enum Socket {
    Stream(std::net::TcpStream),
    Listener(std::net::TcpListener),
}

impl Readiness {
    fn watched(socket: Socket, ring: &Ring) -> io::Result<Rc<Self>> {
        match &socket {
            Socket::Stream(stream) => stream.set_nonblocking(true)?,
            Socket::Listener(listener) => listener.set_nonblocking(true)?,
        }
        let this = Rc::new(Self {
            socket,
            token: Cell::new(None),
            // Until a call says otherwise: the first look costs nothing more.
            can_read: Cell::new(true),
            can_write: Cell::new(true),
            has_ended: Cell::new(false),
            is_forgotten: Cell::new(false),
            reader: Cell::default(),
            writer: Cell::default(),
        });
        this.set_token(ring.watch(Rc::clone(&this)));
        Ok(this)
    }

    pub(super) fn fd(&self) -> i32 {
        match &self.socket {
            Socket::Stream(stream) => stream.as_raw_fd(),
            Socket::Listener(listener) => listener.as_raw_fd(),
        }
    }

    pub(super) fn set_token(&self, token: usize) {
        self.token.set(Some(token));
    }

    pub(super) fn is_forgotten(&self) -> bool {
        self.is_forgotten.get()
    }

    /// The watch says what there is: the events of poll, or an error.
    pub(super) fn became(&self, events: i32) {
        let has = |mask: i16| events < 0 || events & i32::from(mask) != 0;
        if has(libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) {
            self.has_ended.set(true);
        }
        if has(libc::POLLIN | libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) {
            self.can_read.set(true);
            wake(&self.reader);
        }
        if has(libc::POLLOUT | libc::POLLHUP | libc::POLLERR) {
            self.can_write.set(true);
            wake(&self.writer);
        }
    }

    pub(super) fn take_wakers(&self) -> impl Iterator<Item = Waker> {
        self.reader.take().into_iter().chain(self.writer.take())
    }

    fn forget(&self, ring: &Ring) {
        self.is_forgotten.set(true);
        if let Some(token) = self.token.take() {
            ring.forget(token);
        }
    }

    /// Calls `act` while `flag` says that it may get something; else leaves the waker.
    fn poll<T>(
        flag: &Cell<bool>,
        waker: &Cell<Option<Waker>>,
        context: &Context<'_>,
        mut act: impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        while flag.get() {
            match act() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => flag.set(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return Poll::Ready(done),
            }
        }
        waker.set(Some(context.waker().clone()));
        Poll::Pending
    }
}

fn wake(waker: &Cell<Option<Waker>>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// A TCP connection. Dropping it closes the connection.
pub struct TcpStream {
    readiness: Rc<Readiness>,
    ring: Rc<Ring>,
    write_timeout: Option<Duration>,
    /// Runs while a write makes no progress.
    stalled: Option<Sleep>,
}

impl TcpStream {
    /// Takes over a connection, or one that is being made: the first write then waits for it.
    ///
    /// # Errors
    /// When the socket cannot be made non-blocking.
    ///
    /// # Panics
    /// When the thread runs no runtime.
    pub fn new(stream: impl Into<std::net::TcpStream>) -> io::Result<Self> {
        let ring = Rc::clone(&current().ring);
        let readiness = Readiness::watched(Socket::Stream(stream.into()), &ring)?;
        Ok(Self { readiness, ring, write_timeout: None, stalled: None })
    }

    /// Lets a write fail that makes no progress for so long.
    pub fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.write_timeout = timeout;
    }

    /// The other end's address.
    ///
    /// # Errors
    /// Such as that the connection has ended.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream().peer_addr()
    }

    /// This end's address.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream().local_addr()
    }

    /// Another handle of the same connection, such as for a task that only writes. The connection
    /// is closed when all have gone.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn duplicate(&self) -> io::Result<std::net::TcpStream> {
        self.stream().try_clone()
    }

    fn stream(&self) -> &std::net::TcpStream {
        match &self.readiness.socket {
            Socket::Stream(stream) => stream,
            Socket::Listener(_) => unreachable!("a stream is made of a stream"),
        }
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        self.readiness.forget(&self.ring);
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let readiness = &*self.readiness;
        let read = Readiness::poll(&readiness.can_read, &readiness.reader, context, || {
            self.stream().read(buffer)
        });
        if let Poll::Ready(Ok(count)) = read
            && count < buffer.len()
            && !readiness.has_ended.get()
        {
            // All there was; what comes now is told anew.
            readiness.can_read.set(false);
        }
        read
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let readiness = Rc::clone(&self.readiness);
        let written = Readiness::poll(&readiness.can_write, &readiness.writer, context, || {
            match self.stream().write(bytes) {
                // The connection is still being made.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                    Err(io::ErrorKind::WouldBlock.into())
                }
                done => done,
            }
        });
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let Some(timeout) = self.write_timeout else { return Poll::Pending };
        let stalled = self.stalled.get_or_insert_with(|| sleep(timeout));
        stalled.poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream().shutdown(std::net::Shutdown::Write))
    }
}

/// A listening socket. Dropping it closes the port.
pub struct TcpListener {
    readiness: Rc<Readiness>,
    ring: Rc<Ring>,
}

impl TcpListener {
    /// Takes over a listening socket.
    ///
    /// # Errors
    /// When it cannot be made non-blocking.
    ///
    /// # Panics
    /// When the thread runs no runtime.
    pub fn new(listener: impl Into<std::net::TcpListener>) -> io::Result<Self> {
        let ring = Rc::clone(&current().ring);
        let readiness = Readiness::watched(Socket::Listener(listener.into()), &ring)?;
        Ok(Self { readiness, ring })
    }

    /// The next connection. Safe to drop half-way.
    ///
    /// # Errors
    /// Such as that the process has no descriptor left. The listener goes on.
    pub async fn accept(&self) -> io::Result<TcpStream> {
        let Socket::Listener(listener) = &self.readiness.socket else {
            unreachable!("a listener is made of a listener")
        };
        let readiness = &*self.readiness;
        let accepted = std::future::poll_fn(|context| {
            Readiness::poll(&readiness.can_read, &readiness.reader, context, || listener.accept())
        });
        TcpStream::new(accepted.await?.0)
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.readiness.socket {
            Socket::Listener(listener) => listener.local_addr(),
            Socket::Stream(_) => unreachable!("a listener is made of a listener"),
        }
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        self.readiness.forget(&self.ring);
    }
}

impl std::fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TcpStream").field(self.stream()).finish()
    }
}

impl std::fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TcpListener").field(&self.readiness.fd()).finish()
    }
}
