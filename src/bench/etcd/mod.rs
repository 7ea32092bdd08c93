//! Carries a workload to etcd, as [`super::driver`] does to servers of the Redis protocol: the same
//! schedule, intended times, limits in flight and figures. One per driver thread, on a runtime of
//! that thread; each client is a connection of its own.

mod api;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use rustix::fd::OwnedFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use slab::Slab;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use super::connection::InFlight;
use super::course::{Course, ERROR_REST_NS};
use super::driver::{DriverOptions, Pace, Shared};
use super::report::Measured;
use super::workload::{Outcome, Workload};
use api::{Kv, Request, Response};

/// How often at least the wish to stop is looked for.
const SCAN_INTERVAL_NS: u64 = 20_000_000;

/// Whether etcd answers there.
///
/// # Errors
/// If it does not in time.
pub fn greet(address: SocketAddr, within: Duration) -> io::Result<()> {
    runtime()?.block_on(async {
        let asked = async {
            let kv = Kv::connect(address).await.map_err(io::Error::other)?;
            match kv.call(Request::Get { key: Bytes::from_static(b"\0") }).await {
                Response::Failed(text) => Err(io::Error::other(text)),
                Response::Written | Response::Found(_) | Response::Missing => Ok(()),
            }
        };
        timeout(within, asked).await?
    })
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Runs a workload to its end and returns it with what was measured.
///
/// # Errors
/// If etcd is not there at the start. Connections that break are made anew, their operations counted
/// as errors.
pub fn drive<W: Workload>(
    options: DriverOptions,
    workload: W,
    shared: &Shared,
) -> io::Result<(W, Measured)> {
    // The kernel's default slack of 50 µs would make every send late by as much.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    runtime()?.block_on(async {
        let mut driver = Driver::connect(options, workload).await?;
        driver.run(shared).await?;
        Ok((driver.workload, driver.course.measured))
    })
}

/// An operation that has ended: its place among those in flight, and how; `None`: not in time.
type Done = (usize, Option<Response>);

struct Client {
    kv: Kv,
    in_flight: usize,
    rest_until_ns: u64,
}

struct Driver<W: Workload> {
    clients: Vec<Client>,
    cursor: usize,
    in_flight: Slab<(usize, InFlight<W::Token>)>,
    exhausted: bool,
    command: Vec<u8>,
    done: UnboundedReceiver<Done>,
    on_done: UnboundedSender<Done>,
    alarm: Alarm,
    workload: W,
    course: Course,
    options: DriverOptions,
}

impl<W: Workload> Driver<W> {
    async fn connect(options: DriverOptions, workload: W) -> io::Result<Self> {
        let mut clients = Vec::new();
        for address in &options.connections {
            let connected = timeout(options.timeout, Kv::connect(*address)).await?;
            let kv = connected.map_err(io::Error::other)?;
            clients.push(Client { kv, in_flight: 0, rest_until_ns: 0 });
        }
        let (on_done, done) = unbounded_channel();
        Ok(Self {
            clients,
            cursor: 0,
            in_flight: Slab::new(),
            exhausted: false,
            command: Vec::new(),
            done,
            on_done,
            alarm: Alarm::new()?,
            workload,
            course: Course::new(&options),
            options,
        })
    }

    async fn run(&mut self, shared: &Shared) -> io::Result<()> {
        loop {
            let now_ns = self.course.now_ns();
            let sending = self.course.advance(now_ns, shared.stop.load(Ordering::Relaxed));
            if self.course.is_drained(now_ns, self.in_flight.len()) {
                break;
            }
            self.issue(now_ns, sending);
            if self.course.ends_with(now_ns, self.exhausted, self.in_flight.len()) {
                break;
            }
            self.wait().await?;
            self.course.publish(shared);
        }
        let now_ns = self.course.now_ns();
        for (_, op) in std::mem::take(&mut self.in_flight) {
            self.course.lost("timeout", now_ns);
            self.workload.complete(op.1.token, &Outcome::Unknown);
        }
        self.course.finish();
        Ok(())
    }

    fn issue(&mut self, now_ns: u64, sending: bool) {
        self.exhausted = false;
        match self.course.pace {
            Pace::Open(_) => {
                while let Some(&due_ns) = self.course.backlog.front() {
                    let Some(client) = self.next_with_room(now_ns) else { break };
                    if !self.send(client, due_ns, now_ns) {
                        break;
                    }
                    self.course.backlog.pop_front();
                }
                self.course.note_backlog();
            }
            Pace::Closed => {
                while sending && !self.exhausted {
                    let Some(client) = self.next_with_room(now_ns) else { break };
                    self.send(client, now_ns, now_ns);
                }
            }
        }
    }

    fn next_with_room(&mut self, now_ns: u64) -> Option<usize> {
        let pipeline = self.options.pipeline;
        let has_room =
            |client: &Client| client.in_flight < pipeline && client.rest_until_ns <= now_ns;
        let count = self.clients.len();
        let order = (0..count).map(|step| (self.cursor + step) % count);
        let found = order.into_iter().find(|at| has_room(&self.clients[*at]))?;
        self.cursor = (found + 1) % count;
        Some(found)
    }

    /// Sends the workload's next command; false if there is none.
    fn send(&mut self, client: usize, intended_ns: u64, now_ns: u64) -> bool {
        self.command.clear();
        let Some((class, token)) = self.workload.next(&mut self.command) else {
            self.exhausted = true;
            return false;
        };
        let Some(request) = Request::of(&self.command) else {
            self.course.measured.error("not_for_etcd");
            self.workload.complete(token, &Outcome::Unsent);
            return true;
        };
        let op = InFlight { intended_ns, sent_ns: now_ns, class, token };
        let at = self.in_flight.insert((client, op));
        self.clients[client].in_flight += 1;
        let (kv, on_done) = (self.clients[client].kv.clone(), self.on_done.clone());
        let within = self.options.timeout;
        tokio::spawn(async move {
            let answered = timeout(within, kv.call(request)).await.ok();
            // Whoever has stopped listening has counted the operation already.
            let _ = on_done.send((at, answered));
        });
        self.course.sent(intended_ns, now_ns);
        true
    }

    /// Waits until an operation ends or the next is due.
    async fn wait(&mut self) -> io::Result<()> {
        let now_ns = self.course.now_ns();
        let mut wake_ns = now_ns + SCAN_INTERVAL_NS;
        match (self.course.drain_until_ns, &self.course.pace) {
            (Some(deadline), _) => wake_ns = wake_ns.min(deadline),
            (None, Pace::Open(schedule)) => {
                wake_ns = wake_ns.min(schedule.due_ns()).min(self.course.window_ns.end);
            }
            (None, Pace::Closed) => {
                wake_ns = wake_ns.min(self.course.window_ns.end);
                let rests = self.clients.iter().map(|client| client.rest_until_ns);
                let next = rests.filter(|rest| *rest > now_ns).min();
                wake_ns = next.map_or(wake_ns, |next| wake_ns.min(next));
            }
        }
        self.alarm.set(Duration::from_nanos(wake_ns.saturating_sub(now_ns)))?;
        tokio::select! {
            done = self.done.recv() => {
                let mut next = done;
                while let Some(done) = next {
                    self.complete(done);
                    next = self.done.try_recv().ok();
                }
            }
            rung = self.alarm.rung() => rung?,
        }
        Ok(())
    }

    fn complete(&mut self, (at, response): Done) {
        let now_ns = self.course.now_ns();
        let (client, op) = self.in_flight.remove(at);
        let client = &mut self.clients[client];
        client.in_flight -= 1;
        let Some(response) = response else {
            self.course.lost("timeout", now_ns);
            self.workload.complete(op.token, &Outcome::Unknown);
            return;
        };
        let reply = response.as_reply();
        let failed = self.course.answered(&op, &reply, now_ns);
        if failed && self.course.is_closed() {
            client.rest_until_ns = now_ns + ERROR_REST_NS;
        }
        self.workload.complete(op.token, &Outcome::Reply(reply));
    }
}

/// A timer that is exact, as the runtime's own, which goes by milliseconds, is not.
struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    // What replaces it asks for a promise that an owned descriptor keeps anyway.
    #[allow(deprecated, reason = "its successor is not safe to call; this is, with an OwnedFd")]
    fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self(AsyncFd::with_interest(timer, Interest::READABLE)?))
    }

    /// Rings after that time, instead of when it was to ring.
    fn set(&self, after: Duration) -> io::Result<()> {
        // Nothing at all would disarm it.
        let after = after.max(Duration::from_nanos(1));
        let value = Timespec::try_from(after).map_err(io::Error::other)?;
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    async fn rung(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            let read = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut [0; 8])?));
            if let Ok(read) = read {
                return read.map(drop);
            }
        }
    }
}
