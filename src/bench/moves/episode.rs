//! One change of the map under load, and what writes saw of it: from a while before it, when all was quiet, until a
//! while behind it. All episodes of one kind of change give its figures.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::bench::paced::{Paced, Write, histogram, ms};

/// Connections are made, and the first writes of each are not looked at.
const WARMUP: Duration = Duration::from_millis(300);

/// One change under load.
pub(super) struct Episode {
    writes: Vec<Write>,
    /// Before the change.
    quiet: Range<Instant>,
    /// From the order of the change until some time behind its end.
    around: Range<Instant>,
    took: Duration,
}

impl Episode {
    /// Makes a change while `load` is written. Writes are watched for `watch` before it and behind it.
    pub(super) fn run(
        load: &Paced<'_>,
        watch: Duration,
        change: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Self> {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| load.run(&|_| !stop.load(Ordering::Relaxed)));
            std::thread::sleep(WARMUP + watch);
            let ordered = Instant::now();
            let changed = change();
            let took = ordered.elapsed();
            std::thread::sleep(watch);
            let around = ordered..Instant::now();
            stop.store(true, Ordering::Relaxed);
            let writes = writer.join().map_err(|_| io::Error::other("a writer panicked"))??;
            changed?;
            Ok(Self { writes, quiet: ordered - watch..ordered, around, took })
        })
    }

    fn change(&self) -> Change {
        let (began, gap) = longest_gap(&self.writes, &self.around);
        let slowest = self.within(&self.around, true).map(Write::latency).max();
        let ms = |time: Duration| (time.as_secs_f64() * 1e5).round() / 100.0;
        Change {
            took_ms: ms(self.took),
            gap_ms: ms(gap),
            gap_began_ms: ms(began - self.around.start),
            max_ms: ms(slowest.unwrap_or_default()),
        }
    }

    /// The writes that were under way in a window and answered in it or, if `to_the_end`, at any time behind it.
    fn within(&self, window: &Range<Instant>, to_the_end: bool) -> impl Iterator<Item = &Write> {
        self.writes.iter().filter(move |write| {
            let is_in_time = write.answered < window.end || to_the_end;
            write.refusal.is_none()
                && is_in_time
                && write.due < window.end
                && write.answered >= window.start
        })
    }
}

/// What writes saw in some windows of time.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Seen {
    /// How many were answered.
    pub writes: u64,
    /// Time of a write from when it was due, the median.
    pub p50_ms: f64,
    /// Its 99th percentile.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// The longest time without an answer in a window: the median over windows.
    pub gap_p50_ms: f64,
    /// The 99th percentile over windows.
    pub gap_p99_ms: f64,
    /// The longest of all.
    pub gap_max_ms: f64,
}

/// The figures of one kind of change.
#[derive(Clone, Debug, Serialize)]
pub struct Changes {
    /// What it is.
    pub name: String,
    /// What it should keep to.
    pub goal: String,
    /// How often it was made.
    pub times: usize,
    /// From the order to the end of a change, the median.
    pub took_p50_ms: f64,
    /// The longest.
    pub took_max_ms: f64,
    /// Before the changes.
    pub quiet: Seen,
    /// From the order of each until some time behind its end.
    pub around: Seen,
    /// Writes that were not carried out, by what they were answered.
    pub refused: BTreeMap<String, u64>,
    /// Each change by itself, in their order.
    pub each: Vec<Change>,
}

/// One change.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Change {
    /// From the order to its end.
    pub took_ms: f64,
    /// The longest time without an answer from the order on.
    pub gap_ms: f64,
    /// When that began, from the order.
    pub gap_began_ms: f64,
    /// The slowest write.
    pub max_ms: f64,
}

impl Changes {
    pub(super) fn new(name: String, goal: &str, episodes: &[Episode]) -> Self {
        let took = histogram(episodes.iter().map(|episode| episode.took));
        let mut refused = BTreeMap::new();
        let writes = episodes.iter().flat_map(|episode| &episode.writes);
        for refusal in writes.filter_map(|write| write.refusal.as_ref()) {
            *refused.entry(refusal.clone()).or_default() += 1;
        }
        let windows = |window: fn(&Episode) -> &Range<Instant>, to_the_end: bool| {
            let seen = |episode| Episode::within(episode, window(episode), to_the_end);
            let latencies = histogram(episodes.iter().flat_map(seen).map(Write::latency));
            let gap = |episode: &Episode| longest_gap(&episode.writes, window(episode)).1;
            let gaps = histogram(episodes.iter().map(gap));
            Seen {
                writes: latencies.len(),
                p50_ms: ms(&latencies, 0.5),
                p99_ms: ms(&latencies, 0.99),
                max_ms: ms(&latencies, 1.0),
                gap_p50_ms: ms(&gaps, 0.5),
                gap_p99_ms: ms(&gaps, 0.99),
                gap_max_ms: ms(&gaps, 1.0),
            }
        };
        Self {
            name,
            goal: goal.to_owned(),
            times: episodes.len(),
            took_p50_ms: ms(&took, 0.5),
            took_max_ms: ms(&took, 1.0),
            quiet: windows(|episode| &episode.quiet, false),
            around: windows(|episode| &episode.around, true),
            refused,
            each: episodes.iter().map(Episode::change).collect(),
        }
    }
}

/// When the longest time within a window without a write that was carried out began, and how long it was; `writes` are
/// in the order of their answers.
fn longest_gap(writes: &[Write], window: &Range<Instant>) -> (Instant, Duration) {
    let answers = writes.iter().filter(|write| write.refusal.is_none()).map(|write| write.answered);
    let mut last = window.start;
    let mut longest = (last, Duration::ZERO);
    for answered in answers.filter(|answered| window.contains(answered)).chain([window.end]) {
        if answered - last > longest.1 {
            longest = (last, answered - last);
        }
        last = answered;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    /// An episode of 100 ms before and 100 ms behind an order, with a write each 10 ms that takes 1 ms; those of 100
    /// to 130 ms are held until 145 ms, and one is refused.
    fn episode(start: Instant) -> Episode {
        let write = |n: u64| {
            let due = n * 10;
            let answered = if (100..=130).contains(&due) { 145 } else { due + 1 };
            let refusal = (n == 18).then(|| "error \"BUSY\"".to_owned());
            Write { due: at(start, due), answered: at(start, answered), refusal }
        };
        Episode {
            writes: (0..21).map(write).collect(),
            quiet: start..at(start, 100),
            around: at(start, 100)..at(start, 200),
            took: Duration::from_millis(7),
        }
    }

    #[test]
    fn what_a_change_delays_is_told_apart_from_quiet() {
        let start = Instant::now();
        let changes = Changes::new("change".to_owned(), "none", &[episode(start), episode(start)]);
        // Times of a histogram have three digits.
        let near = |found: [f64; 3], wanted: [f64; 3]| {
            let pairs = found.iter().zip(wanted);
            assert!(pairs.into_iter().all(|(found, wanted)| (found / wanted - 1.0).abs() < 0.002));
        };
        assert_eq!(changes.times, 2);
        near([changes.took_p50_ms, changes.took_max_ms, 1.0], [7.0, 7.0, 1.0]);
        assert_eq!(changes.refused, BTreeMap::from([("error \"BUSY\"".to_owned(), 2)]));
        let (quiet, around) = (changes.quiet, changes.around);
        assert_eq!((quiet.writes, around.writes), (20, 18));
        // From the answer to the one before it, or the window's bounds.
        near([quiet.p50_ms, quiet.max_ms, quiet.gap_max_ms], [1.0, 1.0, 10.0]);
        near([around.max_ms, around.gap_p50_ms, around.gap_p99_ms], [45.0; 3]);
        let change = changes.each[1];
        assert_eq!((change.took_ms, change.max_ms), (7.0, 45.0));
        assert_eq!((change.gap_ms, change.gap_began_ms), (45.0, 0.0));
    }

    #[test]
    fn a_change_that_nothing_was_answered_in_is_one_long_gap() {
        let start = Instant::now();
        assert_eq!(longest_gap(&[], &(start..at(start, 80))), (start, Duration::from_millis(80)));
    }

    #[test]
    fn a_change_that_fails_fails_the_episode() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = [listener.local_addr().unwrap()];
        // Without keys there is nothing to write.
        let load = Paced { addresses: &addresses, keys: &[], value: b"", rate: 1 };
        let failed = Episode::run(&load, Duration::ZERO, || Err(io::Error::other("refused")));
        assert_eq!(failed.err().unwrap().to_string(), "refused");
    }
}
