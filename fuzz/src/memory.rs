//! How much memory a piece of work reserves at most. Counts for the whole process, so one target
//! runs at a time: [`alone`] sees to that.

use std::sync::{Mutex, MutexGuard, PoisonError};

use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// What the process may reserve by itself meanwhile: a line of a test's report.
const SLACK_BYTES: usize = 16 << 10;

/// Holds every other run back for as long as it lives.
pub fn alone() -> MutexGuard<'static, ()> {
    static RUNNING: Mutex<()> = Mutex::new(());
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does `work`.
///
/// # Panics
/// When it held more than `bytes_max` at any time beside what was held before it.
pub fn bounded<T>(bytes_max: usize, work: impl FnOnce() -> T) -> T {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    let result = work();
    let peak = ALLOCATOR.peak_usage().saturating_sub(before);
    assert!(peak <= bytes_max + SLACK_BYTES, "{peak} bytes were held where {bytes_max} are enough");
    result
}
