//! Probing writers: one thread per range, which writes to it again and again and remembers when
//! it was acknowledged. From that follows for how long writes to the range failed.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::bench::client::{Answer, Client};
use crate::bench::keys::Naming;
use crate::bench::ledger::{Ledger, WriteOutcome};

/// How often a range is written to: the resolution of what is measured.
pub(super) const PERIOD: Duration = Duration::from_millis(10);
/// A node may keep a write until its range has a leader again; a prober asks anew meanwhile.
const PATIENCE: Duration = Duration::from_millis(250);
const VALUE_BYTES: usize = 64;

/// What one prober found.
pub(super) struct Probed {
    /// Its writes, to be read back like all others.
    pub(super) ledger: Ledger,
    /// When each was acknowledged, in microseconds since the probers' start.
    pub(super) acked_us: Vec<u64>,
}

impl Probed {
    /// For how long no write was acknowledged around this time: the longest distance between two
    /// acknowledgements of which the second came after it.
    pub(super) fn gap(&self, around_us: u64) -> Duration {
        let pairs = self.acked_us.windows(2).filter(|pair| pair[1] > around_us);
        Duration::from_micros(pairs.map(|pair| pair[1] - pair[0]).max().unwrap_or(0))
    }
}

/// Probers at work.
pub(super) struct Probers {
    start: Instant,
    stop: Arc<AtomicBool>,
    last_acked_us: Vec<Arc<AtomicU64>>,
    threads: Vec<JoinHandle<Probed>>,
}

impl Probers {
    /// Starts one per key, asking these nodes in turn.
    pub(super) fn start(keys: Vec<Vec<u8>>, nodes: &[SocketAddr]) -> io::Result<Self> {
        let mut probers = Self {
            start: Instant::now(),
            stop: Arc::new(AtomicBool::new(false)),
            last_acked_us: Vec::new(),
            threads: Vec::new(),
        };
        for (number, key) in keys.into_iter().enumerate() {
            let last = Arc::new(AtomicU64::new(0));
            probers.last_acked_us.push(Arc::clone(&last));
            let prober = Prober {
                start: probers.start,
                stop: Arc::clone(&probers.stop),
                last_acked_us: last,
                nodes: nodes.to_vec(),
                turn: number,
                probed: Probed {
                    ledger: Ledger::new(Naming::Listed(vec![key]), 0, 1, VALUE_BYTES),
                    acked_us: Vec::new(),
                },
            };
            let thread = std::thread::Builder::new().name("prober".to_owned());
            probers.threads.push(thread.spawn(move || prober.run())?);
        }
        Ok(probers)
    }

    /// Microseconds since the start.
    pub(super) fn now_us(&self) -> u64 {
        micros(self.start.elapsed())
    }

    /// How many ranges acknowledged a write after this time.
    pub(super) fn acked_after(&self, us: u64) -> usize {
        self.last_acked_us.iter().filter(|last| last.load(Ordering::Relaxed) > us).count()
    }

    /// Ends them and gives what they found.
    pub(super) fn finish(self) -> io::Result<Vec<Probed>> {
        self.stop.store(true, Ordering::Relaxed);
        let joined = self.threads.into_iter().map(JoinHandle::join);
        joined.collect::<Result<_, _>>().map_err(|_| io::Error::other("a prober panicked"))
    }
}

struct Prober {
    start: Instant,
    stop: Arc<AtomicBool>,
    last_acked_us: Arc<AtomicU64>,
    nodes: Vec<SocketAddr>,
    turn: usize,
    probed: Probed,
}

impl Prober {
    fn run(mut self) -> Probed {
        let mut client = None;
        while !self.stop.load(Ordering::Relaxed) {
            let asked = Instant::now();
            client = self.write(client);
            if client.is_none() {
                self.turn += 1;
            }
            std::thread::sleep(PERIOD.saturating_sub(asked.elapsed()));
        }
        self.probed
    }

    /// One write; gives the connection back if it is still good.
    fn write(&mut self, client: Option<Client>) -> Option<Client> {
        let node = self.nodes[self.turn % self.nodes.len()];
        let mut client = client.or_else(|| Client::connect(node, PATIENCE).ok())?;
        let ledger = &mut self.probed.ledger;
        let version = ledger.begin(0)?;
        let mut key = Vec::new();
        ledger.key(0, &mut key);
        let answer = client.call(&[b"SET", &key, &ledger.value(version)]);
        let (outcome, client) = match &answer {
            Ok(Answer::Error(_)) => {
                let kind = answer.as_ref().ok().and_then(Answer::error_kind).unwrap_or_default();
                (WriteOutcome::of_error(kind), Some(client))
            }
            Ok(answer) if answer.is_ok() => (WriteOutcome::Acknowledged, Some(client)),
            Ok(_) | Err(_) => (WriteOutcome::Unknown, None),
        };
        ledger.end(version, outcome);
        if outcome == WriteOutcome::Acknowledged {
            let now_us = micros(self.start.elapsed());
            self.probed.acked_us.push(now_us);
            self.last_acked_us.store(now_us, Ordering::Relaxed);
        }
        client
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_the_longest_silence_that_ends_after_the_fault() {
        let ledger = Ledger::new(Naming::Spread, 0, 1, VALUE_BYTES);
        let acked_us = vec![0, 900_000, 910_000, 921_000, 1_500_000, 1_510_000];
        let probed = Probed { ledger, acked_us };
        // Killed at 920 ms; one reply was still on its way.
        assert_eq!(probed.gap(920_000), Duration::from_millis(579));
        assert_eq!(probed.gap(2_000_000), Duration::ZERO);
    }
}
