//! What each stage took, and what clients saw meanwhile: as a table, and as JSON. Pure.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::bench::series::Series;
use crate::cli::table::render;

/// One stage, in time since the load began.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    /// What happens in it.
    pub(super) name: String,
    /// When it began.
    pub(super) from: Duration,
    /// When it ended.
    pub(super) to: Duration,
}

/// A stage, with what clients saw in its time.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    stage: Stage,
    rate_ops_s: f64,
    errors: u64,
    p99: Duration,
    pause: Duration,
}

impl Seen {
    /// From the seconds in which there was some of the stage, and the longest time for which a probed key
    /// took no write.
    pub(super) fn new(stage: Stage, series: &Series, pause: Duration) -> Self {
        let second = |time: Duration| usize::try_from(time.as_secs()).unwrap_or(usize::MAX);
        let from = second(stage.from).min(series.0.len());
        let to = second(stage.to + Duration::from_millis(999)).clamp(from, series.0.len());
        let seconds = &series.0[from..to];
        let mut latency = Histogram::<u64>::new(2).expect("invariant: a valid number of digits");
        for second in seconds {
            latency.add(&second.latency).expect("invariant: it grows as it must");
        }
        let answered: u64 = seconds.iter().map(|second| second.answered).sum();
        Self {
            stage,
            rate_ops_s: answered as f64 / seconds.len().max(1) as f64,
            errors: seconds.iter().map(|second| second.errors).sum(),
            p99: Duration::from_nanos(latency.value_at_quantile(0.99).min(latency.max())),
            pause,
        }
    }

    fn took(&self) -> Duration {
        self.stage.to.saturating_sub(self.stage.from)
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.stage.name.clone(),
            format!("{:.1} s", self.took().as_secs_f64()),
            format!("{:.0}", self.rate_ops_s),
            self.errors.to_string(),
            format!("{:.1} ms", ms(self.p99)),
            format!("{:.0} ms", ms(self.pause)),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "stage": self.stage.name,
            "took_ms": ms(self.took()),
            "rate_ops_s": self.rate_ops_s,
            "errors": self.errors,
            "p99_ms": ms(self.p99),
            "write_pause_max_ms": ms(self.pause),
        })
    }
}

/// For people.
pub(super) fn table(stages: &[Seen]) -> String {
    let headers = ["stage", "took", "operations/s", "errors", "p99", "longest pause of writes"];
    render(&headers, &stages.iter().map(Seen::cells).collect::<Vec<_>>())
}

/// For machines.
pub(super) fn json(stages: &[Seen]) -> Value {
    stages.iter().map(Seen::json).collect()
}

fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e5).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_has_the_seconds_that_it_touches() {
        let mut series = Series::default();
        for (second, latency_ms) in [(0, 900), (1, 10), (2, 20), (3, 800)] {
            let at_ns = second * 1_000_000_000;
            series.answered(at_ns);
            series.latency(at_ns, latency_ms * 1_000_000);
        }
        series.answered(1_500_000_000);
        series.error(2_500_000_000);
        let name = "calm".to_owned();
        let stage =
            Stage { name, from: Duration::from_millis(1_200), to: Duration::from_millis(2_700) };
        let seen = Seen::new(stage, &series, Duration::from_millis(40));
        let text = table(std::slice::from_ref(&seen));
        let expected = "\
stage  took   operations/s  errors  p99      longest pause of writes
calm   1.5 s             2       1  20.1 ms                    40 ms
";
        assert_eq!(text, expected);
        assert_eq!(json(&[seen])[0]["write_pause_max_ms"], 40.0);
    }

    #[test]
    fn a_stage_of_which_nothing_was_measured_is_zero() {
        let late = Duration::from_secs(9);
        let stage = Stage { name: String::new(), from: late, to: late };
        let seen = Seen::new(stage, &Series::default(), Duration::ZERO);
        assert_eq!((seen.rate_ops_s, seen.p99), (0.0, Duration::ZERO));
    }
}
