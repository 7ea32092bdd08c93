//! What a run measured: counts, errors by kind, latency distributions; as JSON for machines and
//! lines for people. Each driver fills its own [`Measured`]; they are merged at the end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::series::Series;
use super::usage::Used;

/// A distribution of times. Recorded in nanoseconds, told in microseconds.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        let hour_ns = 3_600_000_000_000;
        Self(Histogram::new_with_bounds(1, hour_ns, 3).expect("invariant: constant, valid bounds"))
    }
}

impl Latencies {
    /// Adds one time. Over an hour counts as an hour.
    pub fn record_ns(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// Adds all of another's times.
    pub fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("invariant: both have the same bounds");
    }

    /// How many times were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The mean in microseconds.
    #[must_use]
    pub fn mean_us(&self) -> f64 {
        self.0.mean() / 1000.0
    }

    /// A quantile in microseconds, to a tenth; 1 is the longest.
    #[must_use]
    pub fn quantile_us(&self, quantile: f64) -> f64 {
        tenths_us(self.0.value_at_quantile(quantile).min(self.0.max()))
    }

    /// The whole distribution as points of a curve, `[percentile, microseconds]`: ever denser
    /// towards 100, where the tail is.
    #[must_use]
    pub fn points(&self) -> Vec<(f64, f64)> {
        let points = self.0.iter_quantiles(5);
        points
            .map(|p| {
                (
                    p.quantile_iterated_to() * 100.0,
                    tenths_us(p.value_iterated_to().min(self.0.max())),
                )
            })
            .collect()
    }

    /// The percentiles that reports name.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let at = |quantile| tenths_us(self.0.value_at_quantile(quantile));
        if self.0.is_empty() {
            return Summary::default();
        }
        Summary {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: tenths_us(self.0.max()),
        }
    }
}

fn tenths_us(ns: u64) -> f64 {
    (ns as f64 / 100.0).round() / 10.0
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Summary {
    /// Half are at most this.
    pub p50: f64,
    /// 90 % are at most this.
    pub p90: f64,
    /// 99 % are at most this.
    pub p99: f64,
    /// 99.9 % are at most this.
    pub p999: f64,
    /// 99.99 % are at most this.
    pub p9999: f64,
    /// The longest.
    pub max: f64,
}

/// What drivers count and time. Latencies run from the intended send time to the reply.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Operations whose intended time lies in the measured window and that were answered without
    /// an error.
    pub ops: u64,
    /// Of all answers without an error, those that arrived in the window.
    pub answered_in_window: u64,
    /// What went wrong in the whole run, by kind: the first word of an error reply, or
    /// `connection_lost`, `timeout`, `unsent`.
    pub errors: BTreeMap<String, u64>,
    /// All operations of the window.
    pub latency: Latencies,
    /// Its reads.
    pub reads: Latencies,
    /// Its writes.
    pub writes: Latencies,
    /// How late the generator noticed that an operation was due: its own fault, not the server's.
    pub generator_late: Latencies,
    /// From the intended time to the moment when the bytes were handed to the kernel: the
    /// generator's lateness, and the wait for a connection with room.
    pub send_late: Latencies,
    /// Most operations that were due and waited for a connection with room.
    pub backlog_max: u64,
    /// Connections that were made anew.
    pub reconnects: u64,
    /// The window's length in seconds.
    pub window_s: f64,
    /// The window second by second; empty if it had no end in time.
    pub series: Series,
    /// What was used in the window, if that was asked for.
    pub used: Option<Used>,
}

impl Measured {
    /// Joins what another driver measured at the same time.
    pub fn merge(&mut self, other: &Self) {
        self.ops += other.ops;
        self.answered_in_window += other.answered_in_window;
        for (kind, count) in &other.errors {
            *self.errors.entry(kind.clone()).or_default() += count;
        }
        self.latency.merge(&other.latency);
        self.reads.merge(&other.reads);
        self.writes.merge(&other.writes);
        self.generator_late.merge(&other.generator_late);
        self.send_late.merge(&other.send_late);
        self.backlog_max += other.backlog_max;
        self.reconnects += other.reconnects;
        self.window_s = self.window_s.max(other.window_s);
        self.series.merge(&other.series);
    }

    /// Counts one error.
    pub fn error(&mut self, kind: &str) {
        if let Some(count) = self.errors.get_mut(kind) {
            *count += 1;
        } else {
            self.errors.insert(kind.to_owned(), 1);
        }
    }

    /// All errors.
    #[must_use]
    pub fn errors_total(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Answers per second of the window.
    #[must_use]
    pub fn rate_ops_s(&self) -> f64 {
        if self.window_s > 0.0 {
            (self.answered_in_window as f64 / self.window_s * 10.0).round() / 10.0
        } else {
            0.0
        }
    }

    /// The figures for machines. `ops`, `errors`, `rate_ops_s` and `latency_us` are stable.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut all = json!({
            "ops": self.ops,
            "errors": self.errors_total(),
            "errors_by_kind": self.errors,
            "rate_ops_s": self.rate_ops_s(),
            "latency_us": self.latency.summary(),
            "read_latency_us": self.reads.summary(),
            "write_latency_us": self.writes.summary(),
            "reads": self.reads.count(),
            "writes": self.writes.count(),
            "generator_late_us": self.generator_late.summary(),
            "send_late_us": self.send_late.summary(),
            "backlog_max": self.backlog_max,
            "reconnects": self.reconnects,
            "window_s": self.window_s,
        });
        if let Some(used) = &self.used {
            all["used"] = used.json();
            let per_op = |sum: f64| (self.answered_in_window > 0).then(|| self.per_op(sum));
            let servers = used.servers();
            all["used"]["generator_cpu_us_per_op"] = json!(per_op(used.generator.cpu_s * 1e6));
            all["used"]["servers_cpu_us_per_op"] = json!(per_op(servers.cpu_s * 1e6));
            all["used"]["servers_written_bytes_per_op"] =
                json!(per_op(servers.written_bytes as f64));
            all["used"]["loopback_bytes_per_op"] = json!(per_op(used.loopback.bytes as f64));
            let disk = used.disk_written_bytes;
            all["used"]["disk_written_bytes_per_op"] =
                json!(disk.and_then(|bytes| per_op(bytes as f64)));
        }
        all
    }

    fn per_op(&self, sum: f64) -> f64 {
        (sum / self.answered_in_window as f64 * 100.0).round() / 100.0
    }

    /// The figures for people, several lines.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        let seconds = Duration::from_secs_f64(self.window_s);
        line(
            &mut out,
            format_args!(
                "{} operations in {seconds:.1?}: {:.0} per second, {} errors",
                self.ops,
                self.rate_ops_s(),
                self.errors_total()
            ),
        );
        for (kind, count) in &self.errors {
            line(&mut out, format_args!("  error {kind}: {count}"));
        }
        line(
            &mut out,
            format_args!(
                "{:<26}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}",
                "latency in µs", "p50", "p90", "p99", "p99.9", "p99.99", "max"
            ),
        );
        let mut row = |name: &str, latencies: &Latencies| {
            if latencies.count() > 0 {
                let s = latencies.summary();
                line(
                    &mut out,
                    format_args!(
                        "  {name:<24}{:>9.0}{:>9.0}{:>9.0}{:>9.0}{:>9.0}{:>9.0}",
                        s.p50, s.p90, s.p99, s.p999, s.p9999, s.max
                    ),
                );
            }
        };
        row("all", &self.latency);
        row("reads", &self.reads);
        row("writes", &self.writes);
        row("generator was late by", &self.generator_late);
        if let Some(used) = self.used.as_ref().filter(|_| self.answered_in_window > 0) {
            let servers = used.servers();
            line(
                &mut out,
                format_args!(
                    "{} processes: {:.1} µs of CPU and {:.0} bytes written per operation, {:.0} MiB of memory; \
                     the generator: {:.1} µs; loopback: {:.0} bytes per operation",
                    used.processes.len(),
                    self.per_op(servers.cpu_s * 1e6),
                    self.per_op(servers.written_bytes as f64),
                    servers.resident_bytes as f64 / f64::from(1 << 20),
                    self.per_op(used.generator.cpu_s * 1e6),
                    self.per_op(used.loopback.bytes as f64),
                ),
            );
        }
        out
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("invariant: writing to a string does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_told_in_microseconds() {
        let mut latencies = Latencies::default();
        for us in 1..=10_000u64 {
            latencies.record_ns(us * 1000);
        }
        let summary = latencies.summary();
        for (got, want) in [
            (summary.p50, 5_000.0),
            (summary.p90, 9_000.0),
            (summary.p99, 9_900.0),
            (summary.p999, 9_990.0),
            (summary.p9999, 9_999.0),
            (summary.max, 10_000.0),
        ] {
            assert!((got / want - 1.0f64).abs() < 0.002, "{got} should be {want}");
        }
    }

    #[test]
    fn json_has_the_stable_fields() {
        let mut measured =
            Measured { ops: 4, answered_in_window: 4, window_s: 2.0, ..Default::default() };
        measured.latency.record_ns(1_500);
        measured.error("BUSY");
        measured.error("BUSY");
        let json = measured.json();
        assert_eq!(json["ops"], 4);
        assert_eq!(json["errors"], 2);
        assert_eq!(json["errors_by_kind"]["BUSY"], 2);
        assert_eq!(json["rate_ops_s"], 2.0);
        for percentile in ["p50", "p90", "p99", "p999", "p9999", "max"] {
            assert_eq!(json["latency_us"][percentile], 1.5, "{percentile}");
        }
    }

    #[test]
    fn nothing_measured_is_zero_and_not_an_error() {
        let measured = Measured::default();
        assert_eq!(measured.json()["latency_us"]["p99"], 0.0);
        assert_eq!(measured.rate_ops_s(), 0.0);
        assert!(measured.text().contains("0 operations"));
    }

    #[test]
    fn what_processes_used_is_told_per_operation() {
        use super::super::usage::{Loopback, Usage};
        let mut measured =
            Measured { answered_in_window: 1000, window_s: 1.0, ..Default::default() };
        assert_eq!(measured.json().get("used"), None);
        let resident_bytes = 3 << 20;
        let usage = |cpu_s, written_bytes| Usage { cpu_s, written_bytes, resident_bytes };
        let processes = vec![(7, usage(0.1, 4096)), (8, usage(0.2, 8192))];
        let generator = usage(0.03, 0);
        let loopback = Loopback { bytes: 5000, packets: 9 };
        let disk_written_bytes = Some(4096);
        measured.used = Some(Used { generator, processes, disk_written_bytes, loopback });
        let used = &measured.json()["used"];
        assert_eq!(used["servers_cpu_us_per_op"], 300.0);
        assert_eq!(used["servers_written_bytes_per_op"], 12.29);
        assert_eq!(used["generator_cpu_us_per_op"], 30.0);
        assert_eq!(
            (&used["loopback_bytes_per_op"], &used["loopback_packets"]),
            (&5.0.into(), &9.into())
        );
        let text = measured.text();
        let told = "2 processes: 300.0 µs of CPU and 12 bytes written per operation, 6 MiB of memory; the \
                    generator: 30.0 µs; loopback: 5 bytes per operation";
        assert!(text.contains(told), "{text}");
        measured.answered_in_window = 0;
        assert!(measured.json()["used"]["servers_cpu_us_per_op"].is_null());
    }

    #[test]
    fn merging_adds_counts_and_joins_distributions() {
        let mut a = Measured { ops: 1, window_s: 1.0, ..Default::default() };
        a.latency.record_ns(1_000);
        a.error("timeout");
        let mut b = Measured { ops: 2, window_s: 1.0, ..Default::default() };
        b.latency.record_ns(9_000);
        b.error("timeout");
        a.merge(&b);
        assert_eq!((a.ops, a.errors["timeout"], a.latency.count()), (3, 2, 2));
        assert_eq!(a.latency.summary().max, 9.0);
    }
}
