//! A run second by second: when answers and errors came, and how long the operations took that were
//! due in each second. One per driver; joined at the end.

use hdrhistogram::Histogram;
use serde_json::{Value, json};

const SECOND_NS: u64 = 1_000_000_000;

/// Two digits, so that an hour of seconds takes tens of megabytes and not hundreds.
const DIGITS: u8 = 2;

/// What belongs to one second.
#[derive(Clone, Debug)]
pub struct Second {
    /// Answers without an error that arrived in it.
    pub answered: u64,
    /// Errors that were told in it.
    pub errors: u64,
    /// Times, in nanoseconds, of the operations that were due in it, whenever they were answered.
    pub latency: Histogram<u64>,
}

impl Default for Second {
    fn default() -> Self {
        let latency = Histogram::new(DIGITS).expect("invariant: a valid number of digits");
        Self { answered: 0, errors: 0, latency }
    }
}

impl Second {
    /// A percentile in microseconds; nothing if no operation was due.
    #[must_use]
    pub fn quantile_us(&self, quantile: f64) -> Option<f64> {
        let ns = self.latency.value_at_quantile(quantile).min(self.latency.max());
        (!self.latency.is_empty()).then(|| (ns as f64 / 100.0).round() / 10.0)
    }
}

/// The seconds of a measured window, from its start.
#[derive(Clone, Debug, Default)]
pub struct Series(pub Vec<Second>);

impl Series {
    fn at(&mut self, ns: u64) -> &mut Second {
        let at = usize::try_from(ns / SECOND_NS).expect("invariant: usize has 64 bits");
        if at >= self.0.len() {
            self.0.resize_with(at + 1, Second::default);
        }
        &mut self.0[at]
    }

    /// An answer arrived, so long after the window's start.
    pub fn answered(&mut self, at_ns: u64) {
        self.at(at_ns).answered += 1;
    }

    /// An error was told, so long after the window's start.
    pub fn error(&mut self, at_ns: u64) {
        self.at(at_ns).errors += 1;
    }

    /// An operation that was due so long after the window's start took so long.
    pub fn latency(&mut self, due_ns: u64, latency_ns: u64) {
        let hour_ns = 3600 * SECOND_NS;
        let latency = &mut self.at(due_ns).latency;
        latency.record(latency_ns.clamp(1, hour_ns)).expect("invariant: it grows as it must");
    }

    /// Adds another driver's seconds.
    pub fn merge(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize_with(other.0.len(), Second::default);
        }
        for (own, other) in self.0.iter_mut().zip(&other.0) {
            own.answered += other.answered;
            own.errors += other.errors;
            own.latency.add(&other.latency).expect("invariant: both grow as they must");
        }
    }

    /// One object a second; a window of `window_s` may end in the middle of its last.
    #[must_use]
    pub fn json(&self, window_s: f64) -> Value {
        let rows = self.0.iter().enumerate().map(|(at, second)| {
            let length_s = length_s(at, window_s);
            json!({
                "second": at,
                "length_s": length_s,
                "ops": second.answered,
                "rate_ops_s": rate(second.answered, length_s),
                "errors": second.errors,
                "p50_us": second.quantile_us(0.5),
                "p90_us": second.quantile_us(0.9),
                "p99_us": second.quantile_us(0.99),
                "p999_us": second.quantile_us(0.999),
                "max_us": second.quantile_us(1.0),
            })
        });
        rows.collect()
    }
}

/// How much of second number `at` a window covers.
#[must_use]
pub fn length_s(at: usize, window_s: f64) -> f64 {
    let left = window_s - at as f64;
    if left > 0.0 { (left.min(1.0) * 1000.0).round() / 1000.0 } else { 0.0 }
}

fn rate(answered: u64, length_s: f64) -> f64 {
    if length_s > 0.0 { (answered as f64 / length_s * 10.0).round() / 10.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_has_its_own_figures() {
        let mut series = Series::default();
        for op in 0..100 {
            series.answered(op * 1_000_000);
            series.latency(op * 1_000_000, 1_000_000);
        }
        series.error(2 * SECOND_NS + 1);
        series.answered(2 * SECOND_NS + 2);
        series.latency(2 * SECOND_NS, 5_000_000);
        let json = series.json(2.5);
        assert_eq!(json.as_array().unwrap().len(), 3);
        assert_eq!((&json[0]["ops"], &json[0]["rate_ops_s"]), (&100.into(), &100.0.into()));
        let p99 = json[0]["p99_us"].as_f64().unwrap();
        assert!((990.0..=1010.0).contains(&p99), "{p99}");
        assert_eq!((&json[1]["ops"], &json[1]["p50_us"]), (&0.into(), &Value::Null));
        assert_eq!((&json[2]["errors"], &json[2]["length_s"]), (&1.into(), &0.5.into()));
        assert_eq!(json[2]["rate_ops_s"], 2.0);
    }

    #[test]
    fn drivers_seconds_add_up_whoever_ran_longer() {
        let (mut short, mut long) = (Series::default(), Series::default());
        short.answered(0);
        short.latency(0, 1_000);
        long.answered(0);
        long.latency(0, 3_600_000_000_000_000);
        long.error(SECOND_NS);
        short.merge(&long);
        assert_eq!((short.0.len(), short.0[0].answered, short.0[1].errors), (2, 2, 1));
        assert_eq!(short.0[0].latency.len(), 2);
        let max_us = short.0[0].quantile_us(1.0).unwrap();
        assert!((3.59e9..3.64e9).contains(&max_us), "over an hour counts as an hour: {max_us}");
    }
}
