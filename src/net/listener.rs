//! Gives sessions their sockets: accepts clients on a core, moves their bytes, ends what must end.
//!
//! One [`Clients`] per core; each core has its own listening socket on the same port, and the kernel
//! spreads connections over them. One task per connection reads, hands over and writes; the core's
//! driver brings outcomes by [`Clients::complete`], which wakes the task, so that all replies of one
//! turn leave in one write. No borrow is held while a task waits.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncWrite};
use oarlock_types::{CoreId, FastMap, Mono};

use super::commands::ClientFilter;
use super::session::{
    Backend, ClientLimits, ClientRecord, ConnectionId, CoreState, Host, Outcome, Session, Ticket,
    Timed,
};
use crate::runtime::{self, TcpListener, TcpStream};

/// Bytes read from a connection at once, into a buffer that the core's connections share.
const READ_BYTES: usize = 64 << 10;
/// Reads and writes of one connection before others have their turn.
const ROUNDS_MAX: u32 = 4;
/// An output buffer that grew beyond this is given back once it is empty.
const OUTPUT_KEPT_BYTES: usize = 64 << 10;
/// Bits of a connection's number below those of its core's.
const CORE_SHIFT: u32 = 40;
/// How long a core waits after it failed to accept, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
const TOO_MANY: &[u8] = b"-ERR max number of clients reached\r\n";

/// The client connections of one core.
pub struct Clients {
    backend: Rc<RefCell<dyn Backend>>,
    core: RefCell<CoreState>,
    table: RefCell<FastMap<ConnectionId, Rc<Connection>>>,
    next: Cell<u64>,
    /// Connections of the whole node.
    connected: Arc<AtomicUsize>,
    read_buffer: RefCell<Vec<u8>>,
}

/// What a connection's task and the core's driver share.
struct Connection {
    session: RefCell<Session>,
    /// Wakes the task.
    waker: Cell<Option<Waker>>,
    active: Cell<Mono>,
    /// A write that is timed, and has its outcome.
    timed: Cell<Option<Timed>>,
    /// The task is to end at once.
    killed: Cell<bool>,
}

impl Clients {
    /// A core without connections. `connected` counts those of the whole node; `seed` tells the
    /// core's scan cursors from those of other cores and nodes.
    #[must_use]
    pub fn new(
        core: CoreId,
        limits: ClientLimits,
        backend: Rc<RefCell<dyn Backend>>,
        connected: Arc<AtomicUsize>,
        seed: u64,
    ) -> Rc<Self> {
        Rc::new(Self {
            backend,
            core: RefCell::new(CoreState::new(limits, seed)),
            table: RefCell::default(),
            next: Cell::new(u64::from(core.get()) << CORE_SHIFT | 1),
            connected,
            read_buffer: RefCell::new(vec![0; READ_BYTES]),
        })
    }

    /// Brings a request's outcome to its connection, if that is still there. The reply of a `timed`
    /// one is told to the backend when it has left.
    ///
    /// # Panics
    /// If called from within [`Backend::submit`] or [`Backend::submit_to`].
    pub fn complete(
        &self,
        backend: &mut dyn Backend,
        connection: ConnectionId,
        ticket: Ticket,
        outcome: Outcome,
        timed: Option<Timed>,
    ) {
        let Some(connection) = self.table.borrow().get(&connection).cloned() else { return };
        let mut host = Host { core: &mut self.core.borrow_mut(), backend };
        connection.session.borrow_mut().complete(ticket, outcome, &mut host);
        if timed.is_some() {
            connection.timed.set(timed);
        }
        connection.wake();
    }

    /// The lines of `CLIENT LIST` about this core's connections.
    pub fn list(&self, filter: &ClientFilter, asker: ConnectionId, now: Mono) -> String {
        let mut text = String::new();
        for (id, record) in self.core.borrow().select(filter, asker) {
            record.describe(id, now, &mut text);
        }
        text
    }

    /// Ends connections of this core; how many. The one that asked goes after its answer.
    pub fn kill(&self, filter: &ClientFilter, asker: ConnectionId) -> u64 {
        let mut killed = 0;
        for (id, _) in self.core.borrow().select(filter, asker) {
            let Some(connection) = self.table.borrow().get(&id).cloned() else { continue };
            if id == asker {
                connection.session.borrow_mut().close();
            } else {
                connection.kill();
            }
            killed += 1;
        }
        killed
    }

    /// Connections of this core.
    #[must_use]
    pub fn count(&self) -> usize {
        self.table.borrow().len()
    }

    /// Ends all connections of this core, such as at shutdown.
    pub fn close_all(&self) {
        #[allow(clippy::iter_over_hash_type, reason = "each is ended, in whatever order")]
        for connection in self.table.borrow().values() {
            connection.kill();
        }
    }

    /// Accepts clients for ever. To be run as a task of its own on this core's executor.
    pub async fn accept(self: Rc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok(stream) => self.welcome(stream),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a client; trying again");
                    runtime::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn limits(&self) -> Rc<ClientLimits> {
        Rc::clone(&self.core.borrow().limits)
    }

    /// Makes a session for a client, unless there are too many.
    fn welcome(self: &Rc<Self>, mut stream: TcpStream) {
        let place = Place::take(&self.connected);
        if place.before >= self.limits().clients_max {
            let mut context = Context::from_waker(Waker::noop());
            // The one write that a fresh socket takes at once; whether it arrives is the client's
            // concern.
            let _ = Pin::new(&mut stream).poll_write(&mut context, TOO_MANY);
            return;
        }
        let address = |found: io::Result<SocketAddr>| {
            found.map_or_else(|_| "?".to_owned(), |address| address.to_string())
        };
        let now = self.backend.borrow().now();
        let record = ClientRecord {
            address: address(stream.peer_addr()),
            local_address: address(stream.local_addr()),
            connected: now,
            ..ClientRecord::default()
        };
        let id = ConnectionId(self.next.get());
        self.next.set(id.0 + 1);
        let connection = Rc::new(Connection {
            session: RefCell::new(Session::open(id, record, &mut self.core.borrow_mut())),
            waker: Cell::new(None),
            active: Cell::new(now),
            timed: Cell::new(None),
            killed: Cell::new(false),
        });
        self.table.borrow_mut().insert(id, Rc::clone(&connection));
        let clients = Rc::clone(self);
        runtime::spawn(async move {
            let _place = place;
            Task {
                clients: &clients,
                connection: &connection,
                stream,
                output: Vec::new(),
                sent: 0,
            }
            .run()
            .await;
            clients.table.borrow_mut().remove(&id);
            clients.core.borrow_mut().forget(id);
        })
        .detach();
    }

    /// Ends connections that have been silent for too long, for ever; nothing if none may be. To be
    /// run as a task of its own beside [`Clients::accept`].
    pub async fn sweep(self: Rc<Self>) {
        let Some(timeout) = self.limits().idle_timeout else { return };
        loop {
            runtime::sleep(SWEEP_INTERVAL).await;
            let now = self.backend.borrow().now();
            #[allow(clippy::iter_over_hash_type, reason = "each is looked at, in whatever order")]
            for connection in self.table.borrow().values() {
                if now.since(connection.active.get()) > timeout {
                    connection.kill();
                }
            }
        }
    }
}

impl Connection {
    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn kill(&self) {
        self.killed.set(true);
        self.wake();
    }
}

/// One of the node's places for clients, given back when dropped.
struct Place {
    connected: Arc<AtomicUsize>,
    /// How many were taken before.
    before: usize,
}

impl Place {
    fn take(connected: &Arc<AtomicUsize>) -> Self {
        let before = connected.fetch_add(1, Ordering::Relaxed);
        Self { connected: Arc::clone(connected), before }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connected.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a connection's task pauses.
enum Pause {
    /// It has done its share; there may be more.
    Yield,
    /// The connection is over.
    End,
}

/// A connection's task.
struct Task<'a> {
    clients: &'a Clients,
    connection: &'a Connection,
    stream: TcpStream,
    /// Replies that were taken from the session.
    output: Vec<u8>,
    /// How many of their bytes were sent.
    sent: usize,
}

impl Task<'_> {
    async fn run(mut self) {
        while let Pause::Yield = poll_fn(|context| self.poll(context)).await {
            // Others have their turn; the runtime looks at their sockets in between.
            crate::runtime::next_pass().await;
        }
    }

    /// Writes what is ready and reads what has come, until the socket has no more of either.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Pause> {
        self.connection.waker.set(Some(context.waker().clone()));
        for _ in 0..ROUNDS_MAX {
            if self.connection.killed.get() {
                return Poll::Ready(Pause::End);
            }
            let (Ok(wrote), Ok(read)) = (self.write(context), self.read(context)) else {
                return Poll::Ready(Pause::End);
            };
            let session = self.connection.session.borrow();
            if session.is_finished() || session.is_overflowing() {
                return Poll::Ready(Pause::End);
            }
            if !wrote && !read {
                return Poll::Pending;
            }
        }
        Poll::Ready(Pause::Yield)
    }

    /// Sends replies; whether all that there were have gone.
    // WRITE 9/9: all replies of the turn leave in one write.
    fn write(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        if self.sent == self.output.len() {
            let mut session = self.connection.session.borrow_mut();
            if !session.has_output() {
                return Ok(false);
            }
            self.output.clear();
            self.output.shrink_to(OUTPUT_KEPT_BYTES);
            self.output = session.take_output(std::mem::take(&mut self.output));
            self.sent = 0;
        }
        while self.sent < self.output.len() {
            let rest = &self.output[self.sent..];
            match Pin::new(&mut self.stream).poll_write(context, rest) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => {
                    self.sent += count;
                    self.connection.session.borrow_mut().sent(count);
                }
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        if let Some(timed) = self.connection.timed.take() {
            self.clients.backend.borrow_mut().reply_left(timed);
        }
        self.with_session(Session::advance);
        Ok(true)
    }

    /// Reads once, if the session takes more; whether something came.
    // WRITE 1/9: the bytes that a client sent become commands, and those become requests.
    fn read(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        if !self.connection.session.borrow().wants_input() {
            return Ok(false);
        }
        let mut buffer = self.clients.read_buffer.borrow_mut();
        match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(0)) => {
                self.connection.session.borrow_mut().end_of_input();
                Ok(true)
            }
            Poll::Ready(Ok(count)) => {
                let now = self.clients.backend.borrow().now();
                self.connection.active.set(now);
                self.with_session(|session, host| {
                    host.backend.input_came(Some(now));
                    session.receive(&buffer[..count], host);
                    host.backend.input_came(None);
                });
                Ok(true)
            }
        }
    }

    fn with_session(&self, act: impl FnOnce(&mut Session, &mut Host<'_>)) {
        let mut backend = self.clients.backend.borrow_mut();
        let mut host = Host { core: &mut self.clients.core.borrow_mut(), backend: &mut *backend };
        act(&mut self.connection.session.borrow_mut(), &mut host);
    }
}

#[cfg(test)]
mod tests;
