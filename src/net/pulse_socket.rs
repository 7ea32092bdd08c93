//! Sends and receives the node's pulses: one plain thread, one UDP socket.
//!
//! One per node. A thread of its own, so that a busy core neither delays nor fakes a sign of life.
//! It must not decide anything: [`PulseAgent`] does, and says when it wants to be called next.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::Duration;

use oarlock_codec::frame;
use oarlock_shard::pulse::{CoreProgress, PulseAgent, PulseConfig, PulseOutcome};
use oarlock_shard::support_table::SupportTable;
use oarlock_types::{Mono, NodeId, Pulse};

use crate::net::link_log::RepeatedLog;
use crate::node::watchdog::{self, Watchdog};

/// The longest datagram that is read.
const DATAGRAM_BYTES_MAX: usize = 16 << 10;
/// The longest wait, so that the thread soon sees that it is to end.
const WAIT_MAX: Duration = Duration::from_millis(50);
const WAIT_MIN: Duration = Duration::from_millis(1);

/// The pulse thread. Dropping it ends the thread: the peers' support then runs out.
#[derive(Debug)]
pub struct PulseThread {
    is_stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread works with.
pub struct PulseParts<C> {
    /// Bound to the node's peer port.
    pub socket: UdpSocket,
    /// Where each peer receives its pulses.
    pub peers: Vec<(NodeId, SocketAddr)>,
    /// Those who join; the table knows them already. Who comes to the address of another takes its place.
    pub joined: Receiver<(NodeId, SocketAddr)>,
    /// The agent's constants.
    pub config: PulseConfig,
    /// The node's table.
    pub table: Arc<SupportTable>,
    /// How far each core has got.
    pub progress: Arc<[watchdog::CoreProgress]>,
    /// The node's monotonic clock, the one that its cores use.
    pub clock: C,
}

impl PulseThread {
    /// Starts it.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(parts: PulseParts<impl Fn() -> Mono + Send + 'static>) -> io::Result<Self> {
        let is_stopped = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new().name("pulse".to_owned()).spawn({
            let is_stopped = Arc::clone(&is_stopped);
            move || Pulsing::new(parts).run(&is_stopped)
        })?;
        Ok(Self { is_stopped, thread: Some(thread) })
    }
}

impl Drop for PulseThread {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Pulsing<C> {
    parts: PulseParts<C>,
    agent: PulseAgent,
    watchdog: Watchdog,
    progress: Vec<CoreProgress>,
    due: Vec<Pulse>,
    bytes: Vec<u8>,
    log: RepeatedLog,
}

impl<C: Fn() -> Mono> Pulsing<C> {
    fn new(parts: PulseParts<C>) -> Self {
        let now = (parts.clock)();
        let agent = PulseAgent::new(parts.config.clone(), &parts.table, now);
        let watchdog = Watchdog::new(Arc::clone(&parts.progress), now);
        Self {
            parts,
            agent,
            watchdog,
            progress: Vec::new(),
            due: Vec::new(),
            bytes: Vec::new(),
            log: RepeatedLog::default(),
        }
    }

    fn run(mut self, is_stopped: &AtomicBool) {
        let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
        while !is_stopped.load(Ordering::Acquire) {
            // Taken before the pulses leave: leases run from it.
            let now = (self.parts.clock)();
            for (node, address) in self.parts.joined.try_iter() {
                self.agent.add_peer(node, now);
                self.parts.peers.retain(|(_, taken)| *taken != address);
                self.parts.peers.push((node, address));
            }
            if self.agent.next_due() <= now {
                self.send_due(now);
                self.watchdog.look(now, watchdog::Finding::log);
            }
            let wait = self.agent.next_due().since((self.parts.clock)());
            let wait = wait.clamp(WAIT_MIN, WAIT_MAX);
            let received = self
                .parts
                .socket
                .set_read_timeout(Some(wait))
                .and_then(|()| self.parts.socket.recv_from(&mut datagram));
            match received {
                Ok((bytes, from)) => self.receive(&datagram[..bytes], from),
                Err(error) if is_timeout(&error) => (),
                Err(error) => {
                    self.log.warn(&format!("cannot receive pulses: {error}"));
                    std::thread::sleep(WAIT_MIN);
                }
            }
        }
    }

    fn send_due(&mut self, now: Mono) {
        self.progress.clear();
        self.progress.extend(self.parts.progress.iter().map(|core| {
            let sample = core.sample();
            CoreProgress {
                loop_counter: sample.turns,
                wal_counter: sample.wal_completed,
                wal_busy: sample.wal_submitted != sample.wal_completed,
            }
        }));
        self.agent.tick(now, &self.parts.table, &self.progress, &mut self.due);
        for pulse in self.due.drain(..) {
            let Some((_, addr)) = self.parts.peers.iter().find(|(node, _)| *node == pulse.to)
            else {
                continue;
            };
            self.bytes.clear();
            frame::encode(&pulse, &mut self.bytes);
            if let Err(error) = self.parts.socket.send_to(&self.bytes, addr) {
                self.log.warn(&format!("cannot send pulses to {} at {addr}: {error}", pulse.to));
            }
        }
    }

    fn receive(&mut self, datagram: &[u8], from: SocketAddr) {
        let pulse: Pulse = match frame::decode_datagram(datagram, DATAGRAM_BYTES_MAX) {
            Ok(pulse) => pulse,
            Err(error) => {
                self.log.warn(&format!("dropped a datagram from {}: {error}", from.ip()));
                return;
            }
        };
        let now = (self.parts.clock)();
        let complaint = match self.agent.on_pulse(now, &self.parts.table, &pulse) {
            PulseOutcome::Accepted | PulseOutcome::Stale => return,
            PulseOutcome::OtherCluster => "it belongs to another cluster",
            PulseOutcome::Stranger => "it is meant for another node or comes from no peer",
            PulseOutcome::Malformed => "its lists do not fit",
            PulseOutcome::OldIncarnation => "its sender has been started again since",
        };
        self.log.warn(&format!(
            "dropped a pulse of {} from {}: {complaint}",
            pulse.from,
            from.ip()
        ));
    }
}

fn is_timeout(error: &io::Error) -> bool {
    let kind = error.kind();
    kind == io::ErrorKind::WouldBlock
        || kind == io::ErrorKind::TimedOut
        || kind == io::ErrorKind::Interrupted
}
