//! Probing writers: they write to each range again and again and remember when it acknowledged.
//! From that follows for how long writes to the range failed.
//!
//! However many ranges there are, so many writes a second and so many connections at once are all
//! that the cluster sees of it. What grows with the ranges is the time between two writes to one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::bench::client::{Answer, Client};
use crate::bench::keys::Naming;
use crate::bench::ledger::{Ledger, WriteOutcome};

/// How often a range is written to at most: the resolution of what is measured.
const PERIOD_MIN: Duration = Duration::from_millis(10);
/// Writes a second to all ranges together, at most.
const WRITES_PER_S_MAX: u32 = 3000;
/// Writers, each with a connection of its own. One that waits for a range without a leader probes no
/// other meanwhile.
const PROBERS_MAX: usize = 256;
/// A node may keep a write until its range has a leader again; a prober asks anew meanwhile.
const PATIENCE: Duration = Duration::from_millis(250);
const VALUE_BYTES: usize = 64;
/// A prober needs little of its stack.
const STACK_BYTES: usize = 256 << 10;

/// How often each of so many ranges is written to.
pub(super) fn period(ranges: usize) -> Duration {
    let ranges = u32::try_from(ranges).unwrap_or(u32::MAX);
    PERIOD_MIN.max(Duration::from_secs(1) * ranges / WRITES_PER_S_MAX)
}

/// What the probers found.
pub(super) struct Probed {
    /// The writes, one key a range, to be read back like all others.
    pub(super) ledger: Ledger,
    /// Of each range, when writes were acknowledged, in microseconds since the probers' start.
    acked_us: Vec<Vec<u64>>,
    /// When the probers ended.
    ended_us: u64,
}

impl Probed {
    /// For how long no range acknowledged a write around this time, shortest first: the longest
    /// distance between two acknowledgements of which the second came after it.
    pub(super) fn gaps(&self, around_us: u64) -> Vec<Duration> {
        let gap = |acked_us: &Vec<u64>| {
            let pairs = acked_us.windows(2).filter(|pair| pair[1] > around_us);
            Duration::from_micros(pairs.map(|pair| pair[1] - pair[0]).max().unwrap_or(0))
        };
        let mut gaps: Vec<Duration> = self.acked_us.iter().map(gap).collect();
        gaps.sort_unstable();
        gaps
    }

    /// The longest time for which a key took no write, of all such times of which the middle lies between
    /// these: what begins with a fault begins with the last write before it.
    pub(super) fn pause(&self, from_us: u64, to_us: u64) -> Duration {
        let pause = |acked_us: &Vec<u64>| {
            let last_us = std::iter::once(0).chain(acked_us.iter().copied());
            let next_us = acked_us.iter().copied().chain([self.ended_us]);
            let pauses = last_us.zip(next_us).filter(|(last_us, next_us)| {
                (from_us..to_us).contains(&last_us.midpoint(*next_us))
            });
            pauses.map(|(last_us, next_us)| next_us.saturating_sub(last_us)).max().unwrap_or(0)
        };
        Duration::from_micros(self.acked_us.iter().map(pause).max().unwrap_or(0))
    }
}

/// A range's next write: when, and the range's number.
type Due = Reverse<(Instant, usize)>;

/// What the probers share.
struct Shared {
    start: Instant,
    period: Duration,
    stop: AtomicBool,
    nodes: Vec<SocketAddr>,
    due: Mutex<BinaryHeap<Due>>,
    probed: Mutex<Probed>,
    last_acked_us: Vec<AtomicU64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Probers at work.
pub(super) struct Probers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Probers {
    /// Starts them on one key of each range, each to be written to so often, asking these nodes in turn.
    pub(super) fn start(
        keys: Vec<Vec<u8>>,
        nodes: &[SocketAddr],
        period: Duration,
    ) -> io::Result<Self> {
        let start = Instant::now();
        let ranges = keys.len();
        let count = u32::try_from(ranges).unwrap_or(u32::MAX);
        // The first writes are spread over a period, and so are all that follow.
        let due = (0..count).map(|number| start + period * number / count).zip(0..).map(Reverse);
        let probed = Probed {
            acked_us: vec![Vec::new(); keys.len()],
            ledger: Ledger::new(Naming::Listed(keys), 0, ranges, VALUE_BYTES),
            ended_us: 0,
        };
        let shared = Arc::new(Shared {
            start,
            period,
            stop: AtomicBool::new(false),
            nodes: nodes.to_vec(),
            due: Mutex::new(due.collect()),
            probed: Mutex::new(probed),
            last_acked_us: (0..ranges).map(|_| AtomicU64::new(0)).collect(),
        });
        let mut probers = Self { shared, threads: Vec::new() };
        for turn in 0..ranges.min(PROBERS_MAX) {
            let shared = Arc::clone(&probers.shared);
            let thread = std::thread::Builder::new().name("prober".to_owned());
            let thread = thread.stack_size(STACK_BYTES);
            probers
                .threads
                .push(thread.spawn(move || Prober { shared, turn, client: None }.run())?);
        }
        Ok(probers)
    }

    /// Microseconds since the start.
    pub(super) fn now_us(&self) -> u64 {
        micros(self.shared.start.elapsed())
    }

    /// How many ranges acknowledged a write after this time.
    pub(super) fn acked_after(&self, us: u64) -> usize {
        let last = self.shared.last_acked_us.iter();
        last.filter(|last| last.load(Ordering::Relaxed) > us).count()
    }

    /// Ends them and gives what they found.
    pub(super) fn finish(self) -> io::Result<Probed> {
        let ended_us = self.now_us();
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| io::Error::other("a prober panicked"))?;
        }
        let shared = Arc::into_inner(self.shared).expect("invariant: the probers have ended");
        let probed = shared.probed.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Probed { ended_us, ..probed })
    }
}

/// One writer. It takes the range whose write is due first, whichever that is.
struct Prober {
    shared: Arc<Shared>,
    turn: usize,
    client: Option<Client>,
}

impl Prober {
    fn run(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            // There are no more probers than ranges, and each takes but one.
            let Some(Reverse((at, range))) = lock(&self.shared.due).pop() else { return };
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            let asked = Instant::now();
            self.client = self.write(range);
            if self.client.is_none() {
                self.turn += 1;
            }
            lock(&self.shared.due).push(Reverse((asked + self.shared.period, range)));
        }
    }

    /// One write; gives the connection back if it is still good.
    fn write(&mut self, range: usize) -> Option<Client> {
        let node = self.shared.nodes[self.turn % self.shared.nodes.len()];
        let mut client = match self.client.take() {
            Some(client) => client,
            None => Client::connect(node, PATIENCE).ok()?,
        };
        let (version, key, value) = {
            let ledger = &mut lock(&self.shared.probed).ledger;
            let version = ledger.begin(range)?;
            let mut key = Vec::new();
            ledger.key(range, &mut key);
            (version, key, ledger.value(version))
        };
        let answer = client.call(&[b"SET", &key, &value]);
        let (outcome, client) = match &answer {
            Ok(Answer::Error(_)) => {
                let kind = answer.as_ref().ok().and_then(Answer::error_kind).unwrap_or_default();
                (WriteOutcome::of_error(kind), Some(client))
            }
            Ok(answer) if answer.is_ok() => (WriteOutcome::Acknowledged, Some(client)),
            Ok(_) | Err(_) => (WriteOutcome::Unknown, None),
        };
        let now_us = micros(self.shared.start.elapsed());
        let mut probed = lock(&self.shared.probed);
        probed.ledger.end(version, outcome);
        if outcome == WriteOutcome::Acknowledged {
            probed.acked_us[range].push(now_us);
            self.shared.last_acked_us[range].store(now_us, Ordering::Relaxed);
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
        let probed =
            Probed { ledger, acked_us: vec![acked_us, vec![915_000, 955_000]], ended_us: 0 };
        // Killed at 920 ms; one reply was still on its way.
        assert_eq!(probed.gaps(920_000), [40, 579].map(Duration::from_millis));
        assert_eq!(probed.gaps(2_000_000), [Duration::ZERO; 2]);
    }

    #[test]
    fn a_pause_belongs_to_where_its_middle_is() {
        let ledger = Ledger::new(Naming::Spread, 0, 1, VALUE_BYTES);
        let acked_us = vec![vec![10_000, 50_000, 90_000], vec![20_000, 120_000]];
        let probed = Probed { ledger, acked_us, ended_us: 300_000 };
        let pause = |from_us, to_us| probed.pause(from_us, to_us).as_millis();
        assert_eq!([pause(0, 25_000), pause(25_000, 65_000), pause(65_000, 90_000)], [20, 40, 100]);
        // Both were silent at the end, the first one for longer.
        assert_eq!(pause(130_000, 300_000), 210);
    }

    #[test]
    fn the_rate_is_bounded_however_many_ranges_there_are() {
        assert_eq!(period(1), PERIOD_MIN);
        assert_eq!(period(30), PERIOD_MIN);
        for ranges in [31, 3338, 65_536] {
            let per_second = ranges as f64 / period(ranges).as_secs_f64();
            assert!(per_second <= f64::from(WRITES_PER_S_MAX) * 1.001, "{ranges}: {per_second}");
        }
    }
}
