//! The loop that carries a workload over many connections: one per thread. Operations are sent
//! when they are due (open loop) or when a connection has room (closed loop); an operation that
//! is due while no connection has room waits in a queue and keeps its intended time, so that no
//! stall of the server hides in the figures. It waits in `epoll` alone.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::epoll;
use rustix::fd::OwnedFd;
use rustix::time::Timespec;

use super::connection::{Connection, InFlight};
use super::course::{Course, ERROR_REST_NS, nanos};
use super::report::Measured;
use super::routes::{Routes, Starts};
use super::schedule::Schedule;
use super::workload::{Outcome, Workload};

/// What sets the pace.
#[derive(Clone, Debug)]
pub enum Pace {
    /// Each client keeps its pipeline full.
    Closed,
    /// A schedule, whatever the server does.
    Open(Schedule),
}

/// How one driver drives.
#[derive(Clone, Debug)]
pub struct DriverOptions {
    /// The address of each connection: one for each client, or with `routes` each client's to every
    /// address of theirs in turn.
    pub connections: Vec<SocketAddr>,
    /// Which of its connections a client's operation takes.
    pub routes: Option<Arc<Routes>>,
    /// Most operations of one client in flight.
    pub pipeline: usize,
    /// What sets the pace.
    pub pace: Pace,
    /// Operations intended before this are not measured.
    pub warmup: Duration,
    /// The measured window after the warm-up. `None`: until the workload has no more.
    pub window: Option<Duration>,
    /// A connection whose oldest operation is older is broken off.
    pub timeout: Duration,
}

/// What drivers and the thread that waits for them share.
#[derive(Debug, Default)]
pub struct Shared {
    /// Set to end the run early: nothing new is sent, what is in flight is waited for.
    pub stop: AtomicBool,
    /// Operations that ended without an error so far.
    pub completed: AtomicU64,
    /// Errors so far.
    pub errors: AtomicU64,
}

/// Runs a workload to its end and returns it with what was measured.
///
/// # Errors
/// If `epoll` fails. Connections that break are made anew, their operations counted as errors.
pub fn drive<W: Workload>(
    options: DriverOptions,
    workload: W,
    shared: &Shared,
) -> io::Result<(W, Measured)> {
    let mut driver = Driver::new(options, workload)?;
    driver.run(shared)?;
    let mut measured = driver.course.measured;
    measured.reconnects = driver.connections.iter().map(|c| c.connects.saturating_sub(1)).sum();
    Ok((driver.workload, measured))
}

struct Driver<W: Workload> {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    scratch: Vec<u8>,
    connections: Vec<Connection<W::Token>>,
    /// Connections of one client, which follow each other.
    lanes: usize,
    /// A command whose connection is not chosen yet.
    command: Vec<u8>,
    /// Connections with bytes to write in this pass.
    touched: Vec<usize>,
    /// Connections that may have room: those that had an event, and at each scan all.
    ready: Vec<usize>,
    cursor: usize,
    exhausted: bool,
    workload: W,
    course: Course,
    options: DriverOptions,
    /// The newest routes, as of the last scan.
    starts: Option<Arc<Starts>>,
    next_scan_ns: u64,
}

const EVENTS_MAX: usize = 512;
const SCRATCH_BYTES: usize = 128 << 10;
const SCAN_INTERVAL_NS: u64 = 20_000_000;

impl<W: Workload> Driver<W> {
    fn new(options: DriverOptions, workload: W) -> io::Result<Self> {
        // The kernel's default slack of 50 µs would make every send late by as much.
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(EVENTS_MAX),
            scratch: vec![0; SCRATCH_BYTES],
            connections: options
                .connections
                .iter()
                .map(|address| Connection::new(*address))
                .collect(),
            lanes: options.routes.as_ref().map_or(1, |routes| routes.addresses().len()),
            command: Vec::new(),
            touched: Vec::new(),
            ready: Vec::new(),
            cursor: 0,
            exhausted: false,
            workload,
            course: Course::new(&options),
            starts: None,
            next_scan_ns: 0,
            options,
        })
    }

    fn run(&mut self, shared: &Shared) -> io::Result<()> {
        loop {
            let now_ns = self.course.now_ns();
            let stopping = shared.stop.load(Ordering::Relaxed);
            self.scan(now_ns)?;
            let sending = self.course.advance(now_ns, stopping);
            if self.course.is_drained(now_ns, self.in_flight()) {
                break;
            }
            self.issue(now_ns, sending);
            if self.course.ends_with(now_ns, self.exhausted, self.in_flight()) {
                break;
            }
            self.flush()?;
            self.wait()?;
            self.course.publish(shared);
        }
        let now_ns = self.course.now_ns();
        for at in 0..self.connections.len() {
            self.break_off(at, "timeout", now_ns);
        }
        self.course.finish();
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.connections.iter().map(Connection::in_flight).sum()
    }

    fn issue(&mut self, now_ns: u64, sending: bool) {
        self.exhausted = false;
        match self.course.pace {
            Pace::Open(_) => {
                self.ready.clear();
                while !self.exhausted {
                    let Some(&due_ns) = self.course.backlog.front() else { break };
                    let Some(client) = self.next_with_room(now_ns) else { break };
                    if self.send(client, due_ns, now_ns) {
                        self.course.backlog.pop_front();
                    }
                }
                self.course.note_backlog();
            }
            Pace::Closed => {
                let mut ready = std::mem::take(&mut self.ready);
                for at in ready.drain(..) {
                    let client = at / self.lanes;
                    while sending && !self.exhausted && self.has_room(client, now_ns) {
                        self.send(client, now_ns, now_ns);
                    }
                }
                self.ready = ready;
            }
        }
    }

    fn next_with_room(&mut self, now_ns: u64) -> Option<usize> {
        let count = self.connections.len() / self.lanes;
        for _ in 0..count {
            let client = self.cursor;
            self.cursor = (self.cursor + 1) % count;
            if self.has_room(client, now_ns) {
                return Some(client);
            }
        }
        None
    }

    fn of_client(&self, client: usize) -> std::ops::Range<usize> {
        client * self.lanes..(client + 1) * self.lanes
    }

    fn has_room(&self, client: usize, now_ns: u64) -> bool {
        let own = &self.connections[self.of_client(client)];
        let in_flight: usize = own.iter().map(Connection::in_flight).sum();
        in_flight < self.options.pipeline && own.iter().any(|c| c.is_open(now_ns))
    }

    /// Writes the workload's next command into the buffer of one of a client's connections; false if
    /// there is none.
    fn send(&mut self, client: usize, intended_ns: u64, now_ns: u64) -> bool {
        self.command.clear();
        let Some((class, token)) = self.workload.next(&mut self.command) else {
            self.exhausted = true;
            return false;
        };
        let own = self.of_client(client);
        let lane = self.starts.as_ref().map_or(0, |s| s.place(self.workload.key()));
        let is_open = |at: &usize| self.connections[*at].is_open(now_ns);
        // Where the leader cannot be reached, any node forwards.
        let at = Some(own.start + lane).filter(is_open).or_else(|| own.clone().find(is_open));
        let at = at.expect("invariant: a client with room has an open connection");
        let connection = &mut self.connections[at];
        connection.buffer().extend_from_slice(&self.command);
        connection.push(InFlight { intended_ns, sent_ns: now_ns, class, token });
        if self.touched.last() != Some(&at) {
            self.touched.push(at);
        }
        self.course.sent(intended_ns, now_ns);
        true
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut touched = std::mem::take(&mut self.touched);
        for at in touched.drain(..) {
            if self.connections[at].flush(&self.epoll, at as u64).is_err() {
                self.break_off(at, "connection_lost", self.course.now_ns());
            }
        }
        self.touched = touched;
        Ok(())
    }

    /// Reconnects, times out, takes newer routes; a few times per interval, not once per operation.
    fn scan(&mut self, now_ns: u64) -> io::Result<()> {
        if now_ns < self.next_scan_ns {
            return Ok(());
        }
        self.next_scan_ns = now_ns + SCAN_INTERVAL_NS;
        self.starts = self.options.routes.as_ref().map(|routes| routes.current());
        let timeout_ns = nanos(self.options.timeout);
        for at in 0..self.connections.len() {
            self.connections[at].maintain(&self.epoll, at as u64, now_ns)?;
            let oldest = self.connections[at].oldest_sent_ns();
            if oldest.is_some_and(|sent_ns| now_ns.saturating_sub(sent_ns) > timeout_ns) {
                self.break_off(at, "timeout", now_ns);
            }
            self.ready.push(at);
            if let Some(maintain_at) = self.connections[at].maintain_at_ns() {
                self.next_scan_ns = self.next_scan_ns.min(maintain_at.max(now_ns + 1_000_000));
            }
        }
        Ok(())
    }

    fn wait(&mut self) -> io::Result<()> {
        let mut wake_ns = self.next_scan_ns;
        match &self.course.pace {
            Pace::Open(schedule) => wake_ns = wake_ns.min(schedule.due_ns()),
            Pace::Closed => {}
        }
        match self.course.drain_until_ns {
            None => wake_ns = wake_ns.min(self.course.window_ns.end),
            // The schedule goes on, but nothing of it is sent any more.
            Some(deadline) => wake_ns = self.next_scan_ns.min(deadline),
        }
        let wait = Duration::from_nanos(wake_ns.saturating_sub(self.course.now_ns()));
        let timeout = Timespec::try_from(wait).expect("invariant: a scan interval at most");
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout))
        {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let now_ns = self.course.now_ns();
        for event in &events {
            let at = usize::try_from(event.data.u64()).expect("invariant: a connection's number");
            let flags = event.flags;
            self.ready.push(at);
            if self.handle(at, flags, now_ns).is_err() {
                self.break_off(at, "connection_lost", now_ns);
            }
        }
        self.events = events;
        Ok(())
    }

    fn handle(&mut self, at: usize, flags: epoll::EventFlags, now_ns: u64) -> io::Result<()> {
        let connection = &mut self.connections[at];
        let broken = epoll::EventFlags::ERR | epoll::EventFlags::HUP;
        if flags.intersects(epoll::EventFlags::OUT | broken) {
            connection.on_writable(&self.epoll, at as u64)?;
        }
        if !flags.intersects(epoll::EventFlags::IN | broken) {
            return Ok(());
        }
        let closed = self.course.is_closed();
        let (course, workload) = (&mut self.course, &mut self.workload);
        connection.on_readable(&mut self.scratch, |op, reply| {
            let failed = course.answered(&op, &reply, now_ns);
            workload.complete(op.token, &Outcome::Reply(reply));
            if failed && closed { now_ns + ERROR_REST_NS } else { 0 }
        })
    }

    fn break_off(&mut self, at: usize, kind: &str, now_ns: u64) {
        for op in self.connections[at].break_off(now_ns) {
            self.course.lost(kind, now_ns);
            self.workload.complete(op.token, &Outcome::Unknown);
        }
    }
}

#[cfg(test)]
mod tests;
