//! The course of one driver's run, whatever protocol carries it: what is due and waits, when the
//! measured window begins and ends, and what is counted of each operation. One per driver.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::connection::InFlight;
use super::driver::{DriverOptions, Pace, Shared};
use super::report::Measured;
use super::resp::Reply;
use super::series::Series;
use super::workload::Class;

/// A closed-loop client rests this long after an error reply.
pub(super) const ERROR_REST_NS: u64 = 1_000_000;

/// How far a run is.
pub(super) struct Course {
    pub(super) pace: Pace,
    pub(super) window_ns: Range<u64>,
    /// What is due and waits for a connection with room.
    pub(super) backlog: VecDeque<u64>,
    pub(super) measured: Measured,
    /// When what is in flight is given up; none: operations are still sent.
    pub(super) drain_until_ns: Option<u64>,
    completed: u64,
    start: Instant,
    timeout_ns: u64,
    /// Whether there is a window whose seconds are told apart.
    has_window: bool,
}

impl Course {
    /// The course begins now.
    pub(super) fn new(options: &DriverOptions) -> Self {
        let warmup_ns = nanos(options.warmup);
        let end_ns = options.window.map_or(u64::MAX, |window| warmup_ns + nanos(window));
        Self {
            pace: options.pace.clone(),
            window_ns: warmup_ns..end_ns,
            backlog: VecDeque::new(),
            measured: Measured::default(),
            drain_until_ns: None,
            completed: 0,
            start: Instant::now(),
            timeout_ns: nanos(options.timeout),
            has_window: options.window.is_some(),
        }
    }

    /// Since the course began.
    pub(super) fn now_ns(&self) -> u64 {
        nanos(self.start.elapsed())
    }

    /// Whether operations are only sent as others end.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.pace, Pace::Closed)
    }

    /// Goes on to `now_ns`, with what has become due; whether operations are still sent.
    pub(super) fn advance(&mut self, now_ns: u64, stopping: bool) -> bool {
        let sending = !stopping && now_ns < self.window_ns.end;
        if stopping {
            // Whoever stops a run early does not want what is still queued.
            self.backlog.clear();
            self.window_ns.end = self.window_ns.end.min(now_ns);
        } else {
            self.notice_due(now_ns);
        }
        if !sending {
            self.drain_until_ns.get_or_insert(now_ns + self.timeout_ns);
        }
        sending
    }

    /// Moves what has become due from the schedule to the backlog, until the window's end.
    fn notice_due(&mut self, now_ns: u64) {
        let Pace::Open(schedule) = &mut self.pace else { return };
        while schedule.due_ns() <= now_ns && schedule.due_ns() < self.window_ns.end {
            let due_ns = schedule.due_ns();
            if self.window_ns.contains(&due_ns) {
                self.measured.generator_late.record_ns(now_ns - due_ns);
            }
            self.backlog.push_back(due_ns);
            schedule.advance();
        }
    }

    /// Whether nothing more is waited for.
    pub(super) fn is_drained(&self, now_ns: u64, in_flight: usize) -> bool {
        let is_idle = self.backlog.is_empty() && in_flight == 0;
        self.drain_until_ns.is_some_and(|deadline| now_ns >= deadline || is_idle)
    }

    /// Whether a run without an end in time has come to it: the workload has no more.
    pub(super) fn ends_with(&mut self, now_ns: u64, exhausted: bool, in_flight: usize) -> bool {
        let is_end = exhausted && in_flight == 0 && !self.has_window;
        if is_end {
            self.window_ns.end = now_ns;
        }
        is_end
    }

    /// Notes how much waits for a connection with room.
    pub(super) fn note_backlog(&mut self) {
        self.measured.backlog_max = self.measured.backlog_max.max(self.backlog.len() as u64);
    }

    /// Notes that an operation was handed over.
    pub(super) fn sent(&mut self, intended_ns: u64, now_ns: u64) {
        if self.window_ns.contains(&intended_ns) {
            self.measured.send_late.record_ns(now_ns - intended_ns);
        }
    }

    /// Counts and times one answer; true if it was an error.
    pub(super) fn answered<T>(&mut self, op: &InFlight<T>, reply: &Reply<'_>, now_ns: u64) -> bool {
        let failed = record(&mut self.measured, &self.window_ns, op, reply, now_ns);
        if self.has_window {
            let series = &mut self.measured.series;
            tell_apart(series, &self.window_ns, op.intended_ns, now_ns, failed);
        }
        self.completed += u64::from(!failed);
        failed
    }

    /// Counts an operation that will have no answer.
    pub(super) fn lost(&mut self, kind: &str, now_ns: u64) {
        self.measured.error(kind);
        if self.has_window && self.window_ns.contains(&now_ns) {
            self.measured.series.error(now_ns - self.window_ns.start);
        }
    }

    /// Tells whoever waits for the driver how far it is.
    pub(super) fn publish(&self, shared: &Shared) {
        shared.completed.store(self.completed, Ordering::Relaxed);
        shared.errors.store(self.measured.errors_total(), Ordering::Relaxed);
    }

    /// Counts what never left, and how long the window was.
    pub(super) fn finish(&mut self) {
        for _ in 0..self.backlog.len() {
            self.measured.error("unsent");
        }
        let window = self.window_ns.end.saturating_sub(self.window_ns.start);
        self.measured.window_s = window as f64 / 1e9;
    }
}

/// Counts and times one answer; true if it was an error.
fn record<T>(
    measured: &mut Measured,
    window: &std::ops::Range<u64>,
    op: &InFlight<T>,
    reply: &Reply<'_>,
    now_ns: u64,
) -> bool {
    if let Some(kind) = reply.error_kind() {
        measured.error(kind);
        return true;
    }
    if window.contains(&now_ns) {
        measured.answered_in_window += 1;
    }
    if window.contains(&op.intended_ns) {
        let latency_ns = now_ns.saturating_sub(op.intended_ns);
        measured.ops += 1;
        measured.latency.record_ns(latency_ns);
        match op.class {
            Class::Read => measured.reads.record_ns(latency_ns),
            Class::Write => measured.writes.record_ns(latency_ns),
        }
    }
    false
}

/// Puts one answer into the seconds that it belongs to.
fn tell_apart(
    series: &mut Series,
    window: &std::ops::Range<u64>,
    intended_ns: u64,
    now_ns: u64,
    failed: bool,
) {
    if window.contains(&now_ns) {
        let at_ns = now_ns - window.start;
        if failed { series.error(at_ns) } else { series.answered(at_ns) }
    }
    if !failed && window.contains(&intended_ns) {
        series.latency(intended_ns - window.start, now_ns.saturating_sub(intended_ns));
    }
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
