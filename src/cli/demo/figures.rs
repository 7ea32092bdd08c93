//! All figures of a demo, as JSON. Whatever stage it got to, what was measured is told.

use std::time::Duration;

use serde_json::{Value, json};

use crate::bench::cluster_map::Counters;
use crate::bench::report::Measured;

/// What the stages measured so far.
#[derive(Default)]
pub(super) struct Figures {
    /// Whether all went well.
    pub(super) ok: bool,
    /// From the first process's start until every range had a leader.
    pub(super) start: Duration,
    /// Undisturbed load.
    pub(super) load: Option<Measured>,
    /// What the nodes counted meanwhile.
    pub(super) counters: Counters,
    /// For how long writes to each affected range failed, sorted.
    pub(super) failover: Vec<Duration>,
    /// The load while a node was down and came back.
    pub(super) fault_load: Option<Measured>,
    /// From the killed node's restart until it had all that was committed at that time.
    pub(super) catch_up: Duration,
    /// Acknowledged writes in all.
    pub(super) acknowledged: u64,
    /// Keys that were read back.
    pub(super) keys_read_back: u64,
    /// What was found wrong.
    pub(super) violations: u64,
}

impl Figures {
    /// The middle of the fail-over times.
    pub(super) fn failover_p50(&self) -> Duration {
        self.failover.get(self.failover.len() / 2).copied().unwrap_or_default()
    }

    /// The longest of them.
    pub(super) fn failover_max(&self) -> Duration {
        self.failover.last().copied().unwrap_or_default()
    }

    /// Client writes per durable flush of any node: every write is flushed on each replica, so
    /// that without batching three replicas give a third.
    pub(super) fn writes_per_flush(&self) -> f64 {
        if self.counters.wal_frames == 0 {
            return 0.0;
        }
        self.counters.writes_acknowledged as f64 / self.counters.wal_frames as f64
    }

    /// All of them.
    pub(super) fn json(&self) -> Value {
        let ms = |duration: Duration| (duration.as_secs_f64() * 1e5).round() / 100.0;
        json!({
            "ok": self.ok,
            "start_ms": ms(self.start),
            "load": self.load.as_ref().map(Measured::json),
            "wal_frames": self.counters.wal_frames,
            "wal_bytes": self.counters.wal_bytes,
            "writes_acknowledged": self.counters.writes_acknowledged,
            "writes_per_flush": self.writes_per_flush(),
            "failover_ms": {
                "ranges": self.failover.len(),
                "p50": ms(self.failover_p50()),
                "max": ms(self.failover_max()),
            },
            "fault_load": self.fault_load.as_ref().map(Measured::json),
            "catch_up_ms": ms(self.catch_up),
            "acknowledged": self.acknowledged,
            "keys_read_back": self.keys_read_back,
            "violations": self.violations,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_measured_is_zero() {
        let json = Figures::default().json();
        assert_eq!(json["ok"], false);
        assert_eq!(json["failover_ms"]["max"], 0.0);
        assert_eq!(json["writes_per_flush"], 0.0);
    }

    #[test]
    fn percentiles_are_over_ranges() {
        let failover = [10, 20, 30, 40, 500].map(Duration::from_millis).to_vec();
        let figures = Figures { failover, ..Figures::default() };
        assert_eq!(figures.json()["failover_ms"]["p50"], 30.0);
        assert_eq!(figures.json()["failover_ms"]["max"], 500.0);
    }
}
