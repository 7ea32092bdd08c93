//! The watchdog: a thread that wakes a task on every executor each beat, and the counters by which
//! others see whether a core moves. It must not do a core's work. One per process.
//!
//! Why it must be: glommio looks whether to preempt before it runs the first task of a round. When
//! its preempt timer has fired by then, which a busy machine makes likely, it runs none, takes that
//! for idleness and parks, with tasks ready and nobody to wake it. A waker used from another thread
//! ends that park.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use oarlock_types::CoreId;

use crate::abort::AbortOnPanic;

/// How often each executor is woken.
pub const BEAT: Duration = Duration::from_millis(10);

/// What one core has done, counted by itself and read by others. Only ever grows.
#[derive(Debug)]
pub struct CoreProgress {
    beats: AtomicU64,
    /// The waker of the attending task: a queue of one, emptied by each beat, so that wakes of a
    /// stuck executor do not pile up.
    waker: ArrayQueue<std::task::Waker>,
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
    fn new() -> Self {
        Self {
            beats: AtomicU64::new(0),
            waker: ArrayQueue::new(1),
            turns: AtomicU64::new(0),
            wal_submitted: AtomicU64::new(0),
            wal_completed: AtomicU64::new(0),
        }
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

    /// Calls `on_beat` at each beat, for ever. A task on the core's executor must await it.
    pub async fn attend(&self, mut on_beat: impl FnMut()) {
        let mut seen = self.beats.load(Ordering::Acquire);
        loop {
            seen = poll_fn(|context| {
                // The waker is left before the look, so that a beat in between finds it.
                self.waker.force_push(context.waker().clone());
                let beats = self.beats.load(Ordering::SeqCst);
                if beats == seen { Poll::Pending } else { Poll::Ready(beats) }
            })
            .await;
            on_beat();
        }
    }

    fn beat(&self) {
        self.beats.fetch_add(1, Ordering::SeqCst);
        if let Some(waker) = self.waker.pop() {
            waker.wake();
        }
    }
}

/// The watchdog's thread. Dropping it ends the thread.
#[derive(Debug)]
pub struct Watchdog {
    cores: Arc<[CoreProgress]>,
    is_stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts it for that many cores.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(cores: u16) -> io::Result<Self> {
        let cores: Arc<[CoreProgress]> = (0..cores).map(|_| CoreProgress::new()).collect();
        let is_stopped = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new().name("watchdog".to_owned()).spawn({
            let (cores, is_stopped) = (Arc::clone(&cores), Arc::clone(&is_stopped));
            move || {
                let _guard = AbortOnPanic::new("watchdog");
                while !is_stopped.load(Ordering::Acquire) {
                    std::thread::park_timeout(BEAT);
                    cores.iter().for_each(CoreProgress::beat);
                }
            }
        })?;
        Ok(Self { cores, is_stopped, thread: Some(thread) })
    }

    /// The counters of every core, in the order of their numbers.
    #[must_use]
    pub fn progress(&self) -> Arc<[CoreProgress]> {
        Arc::clone(&self.cores)
    }
}

/// The counters of one core, shared with other threads.
#[must_use]
pub fn of_core(cores: &[CoreProgress], core: CoreId) -> &CoreProgress {
    &cores[usize::from(core.get())]
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn every_core_is_woken_at_each_beat() {
        let watchdog = Watchdog::start(2).unwrap();
        let (beaten, beats) = mpsc::channel();
        for core in [0, 1].map(CoreId) {
            let (cores, beaten) = (watchdog.progress(), beaten.clone());
            std::thread::spawn(move || {
                let progress = of_core(&cores, core);
                futures_lite::future::block_on(progress.attend(|| beaten.send(core).unwrap_or(())));
            });
        }
        let mut seen = [0; 2];
        while seen.iter().any(|&count| count < 20) {
            let core = beats.recv_timeout(Duration::from_secs(30)).expect("the beat goes on");
            seen[usize::from(core.get())] += 1;
        }
    }

    #[test]
    fn a_wal_moves_when_it_completes_or_has_nothing_to_complete() {
        let progress = CoreProgress::new();
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
