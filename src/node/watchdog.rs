//! The counters by which others see whether a core moves, and the watchdog, which says so in the
//! log when one does not. It must not do a core's work, nor wake it: a core that is stuck loses its
//! support through its pulses, and its groups fail over. One per process, on the pulse thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oarlock_types::{CoreId, Mono};

/// How often a core takes a turn though nothing has come in, while requests or groups of it wait
/// for something.
pub const BEAT: Duration = Duration::from_millis(10);
/// How often it does when nothing waits: often enough to move between any two pulses.
pub const IDLE_BEAT: Duration = Duration::from_millis(25);
/// How long a core may take no turn, or its log complete no write, before the log tells.
pub const STUCK_AFTER: Duration = Duration::from_secs(1);

/// What one core has done, counted by itself and read by others. Only ever grows.
#[derive(Debug, Default)]
pub struct CoreProgress {
    turns: AtomicU64,
    wal_submitted: AtomicU64,
    wal_completed: AtomicU64,
}

/// A reading of a core's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgressSample {
    /// Turns that its loop took.
    pub turns: u64,
    /// WAL writes that it handed to the kernel.
    pub wal_submitted: u64,
    /// WAL writes of which it learned the outcome.
    pub wal_completed: u64,
}

impl ProgressSample {
    /// Whether the core's loop took a turn since `earlier`.
    #[must_use]
    pub fn loop_moved_since(self, earlier: Self) -> bool {
        self.turns != earlier.turns
    }

    /// Whether the core's WAL completed a write since `earlier`, or has nothing to complete.
    #[must_use]
    pub fn wal_moved_since(self, earlier: Self) -> bool {
        self.wal_completed != earlier.wal_completed || self.wal_completed == self.wal_submitted
    }
}

impl CoreProgress {
    /// The counters of that many cores, at zero.
    #[must_use]
    pub fn of_cores(cores: u16) -> Arc<[Self]> {
        (0..cores).map(|_| Self::default()).collect()
    }

    /// The core's loop took a turn.
    pub fn count_turn(&self) {
        self.turns.fetch_add(1, Ordering::Relaxed);
    }

    /// The core handed a WAL write to the kernel.
    pub fn count_wal_submitted(&self) {
        self.wal_submitted.fetch_add(1, Ordering::Relaxed);
    }

    /// The core learned the outcome of a WAL write.
    pub fn count_wal_completed(&self) {
        self.wal_completed.fetch_add(1, Ordering::Relaxed);
    }

    /// The counters now. Completions are read first, so that a reading never shows more of them
    /// than submissions.
    #[must_use]
    pub fn sample(&self) -> ProgressSample {
        let wal_completed = self.wal_completed.load(Ordering::Acquire);
        ProgressSample {
            turns: self.turns.load(Ordering::Relaxed),
            wal_submitted: self.wal_submitted.load(Ordering::Acquire),
            wal_completed,
        }
    }
}

/// What is known of one core's halt.
#[derive(Clone, Copy, Debug)]
struct Seen {
    sample: ProgressSample,
    /// When it last moved.
    moved: Mono,
    is_reported: bool,
}

/// What [`Watchdog::look`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A core has taken no turn for so long.
    LoopStuck(CoreId, Duration),
    /// The log of a core has completed no write for so long.
    LogStuck(CoreId, Duration),
    /// A core that was stuck for so long moves again.
    Recovered(CoreId, Duration),
}

impl Finding {
    /// Writes it into the log.
    pub fn log(self) {
        match self {
            Self::LoopStuck(core, time) => tracing::error!(
                "{core} has taken no turn for {time:?}: its CPU is taken by something else, or a \
                 turn blocks; its groups fail over to other nodes"
            ),
            Self::LogStuck(core, time) => tracing::error!(
                "the disk has not completed a write of {core}'s log for {time:?}: look at it \
                 (dmesg, iostat); the core's groups fail over to other nodes"
            ),
            Self::Recovered(core, time) => {
                tracing::warn!("{core} moves again after {time:?}");
            }
        }
    }
}

/// Notices cores that have stopped. It is asked to look now and then.
#[derive(Debug)]
pub struct Watchdog {
    cores: Arc<[CoreProgress]>,
    seen: Vec<Seen>,
}

impl Watchdog {
    /// A watchdog over these cores, which are taken to move at `now`.
    #[must_use]
    pub fn new(cores: Arc<[CoreProgress]>, now: Mono) -> Self {
        let seen =
            |core: &CoreProgress| Seen { sample: core.sample(), moved: now, is_reported: false };
        let seen = cores.iter().map(seen).collect();
        Self { cores, seen }
    }

    /// Looks at every core; what is new of any goes to `report`, each halt once.
    pub fn look(&mut self, now: Mono, mut report: impl FnMut(Finding)) {
        for ((number, core), seen) in (0..).zip(self.cores.iter()).zip(&mut self.seen) {
            let (sample, core) = (core.sample(), CoreId(number));
            let loop_moved = sample.loop_moved_since(seen.sample);
            let halted = now.since(seen.moved);
            if loop_moved && sample.wal_moved_since(seen.sample) {
                if seen.is_reported {
                    report(Finding::Recovered(core, halted));
                }
                *seen = Seen { sample, moved: now, is_reported: false };
            } else if halted >= STUCK_AFTER && !seen.is_reported {
                seen.is_reported = true;
                report(if loop_moved {
                    Finding::LogStuck(core, halted)
                } else {
                    Finding::LoopStuck(core, halted)
                });
            }
        }
    }
}

/// The counters of one core, shared with other threads.
#[must_use]
pub fn of_core(cores: &[CoreProgress], core: CoreId) -> &CoreProgress {
    &cores[usize::from(core.get())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Mono {
        Mono(millis * 1000)
    }

    fn look(watchdog: &mut Watchdog, millis: u64) -> Vec<Finding> {
        let mut found = Vec::new();
        watchdog.look(at(millis), |finding| found.push(finding));
        found
    }

    #[test]
    fn a_halt_is_told_once_and_its_end_too() {
        let cores = CoreProgress::of_cores(2);
        let mut watchdog = Watchdog::new(Arc::clone(&cores), at(0));
        for millis in (50..=2000).step_by(50) {
            cores[0].count_turn();
            let told = look(&mut watchdog, millis);
            let stuck = Finding::LoopStuck(CoreId(1), Duration::from_secs(1));
            assert_eq!(told, if millis == 1000 { vec![stuck] } else { vec![] }, "at {millis}");
        }
        cores[0].count_turn();
        cores[1].count_turn();
        let told = look(&mut watchdog, 2050);
        assert_eq!(told, [Finding::Recovered(CoreId(1), Duration::from_millis(2050))]);
    }

    #[test]
    fn a_log_that_waits_for_the_disk_is_a_halt_although_turns_go_on() {
        let cores = CoreProgress::of_cores(1);
        let mut watchdog = Watchdog::new(Arc::clone(&cores), at(0));
        cores[0].count_turn();
        assert_eq!(look(&mut watchdog, 50), []);
        cores[0].count_wal_submitted();
        cores[0].count_turn();
        let told = look(&mut watchdog, 1100);
        assert_eq!(told, [Finding::LogStuck(CoreId(0), Duration::from_millis(1050))]);
    }

    #[test]
    fn a_wal_moves_when_it_completes_or_has_nothing_to_complete() {
        let progress = CoreProgress::default();
        let idle = progress.sample();
        assert!(
            progress.sample().wal_moved_since(idle) && !progress.sample().loop_moved_since(idle)
        );
        progress.count_turn();
        progress.count_wal_submitted();
        let stuck = progress.sample();
        assert!(stuck.loop_moved_since(idle));
        assert!(!progress.sample().wal_moved_since(stuck), "a write is in flight");
        progress.count_wal_completed();
        assert!(progress.sample().wal_moved_since(stuck));
    }
}
