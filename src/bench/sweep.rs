//! Latency against load: at which rates a sweep stops, and where the knee is. Pure.

use serde_json::{Value, json};

/// What was found at one rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Operations that were due per second.
    pub offered: f64,
    /// Operations that were answered per second.
    pub achieved: f64,
    /// Of the operations that were due.
    pub p99_us: f64,
    /// How many failed.
    pub errors: u64,
}

/// A server that answers less than this of what is due does not keep up.
const KEEPS_UP: f64 = 0.95;

impl Step {
    /// Whether the server answered what was due.
    #[must_use]
    pub fn keeps_up(&self) -> bool {
        self.errors == 0 && self.achieved >= self.offered * KEEPS_UP
    }
}

/// What the knee is, in words.
#[must_use]
pub fn rule(ratio: f64) -> String {
    format!(
        "the knee is the highest rate before the first at which p99 is over {ratio} times the \
         lowest p99 of the rates up to it, or less than {:.0} % of what is due is answered, or an \
         operation fails",
        KEEPS_UP * 100.0
    )
}

/// The knee's place among steps of rising rates; nothing if already the first is beyond it.
#[must_use]
pub fn knee(steps: &[Step], ratio: f64) -> Option<usize> {
    let mut lowest_us = f64::INFINITY;
    let beyond = steps.iter().position(|step| {
        lowest_us = lowest_us.min(step.p99_us);
        !step.keeps_up() || step.p99_us > lowest_us * ratio
    });
    beyond.unwrap_or(steps.len()).checked_sub(1)
}

/// The document of a whole sweep: `steps` are the documents of its runs.
#[must_use]
pub fn json(found: &[Step], ratio: f64, steps: Vec<Value>) -> Value {
    let knee = knee(found, ratio).map(|at| found[at].offered);
    let is_saturated = found.last().is_some_and(|step| !step.keeps_up());
    json!({"sweep": {
        "rule": rule(ratio),
        "knee_ratio": ratio,
        "knee_rate_ops_s": knee,
        "is_saturated": is_saturated,
        "steps": steps,
    }})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(of: &[(f64, f64, f64)]) -> Vec<Step> {
        of.iter()
            .map(|&(offered, achieved, p99_us)| Step { offered, achieved, p99_us, errors: 0 })
            .collect()
    }

    #[test]
    fn the_knee_is_the_last_rate_before_latency_leaves_the_floor() {
        let found = steps(&[
            (1e3, 1e3, 400.0),
            (2e3, 2e3, 300.0),
            (4e3, 4e3, 800.0),
            (8e3, 8e3, 901.0),
            (16e3, 16e3, 350.0),
        ]);
        assert_eq!(knee(&found, 3.0), Some(2), "a lucky step behind it does not count");
        assert_eq!(knee(&found, 4.0), Some(4));
        assert_eq!(knee(&found, 1.2), Some(1));
    }

    #[test]
    fn a_server_that_does_not_keep_up_is_beyond_its_knee() {
        let mut found = steps(&[(1e3, 1e3, 300.0), (2e3, 1.96e3, 300.0), (4e3, 3.7e3, 300.0)]);
        assert_eq!(knee(&found, 3.0), Some(1));
        found[1].errors = 1;
        assert_eq!(knee(&found, 3.0), Some(0));
        found[0].achieved = 900.0;
        assert_eq!(knee(&found, 3.0), None);
        assert_eq!(knee(&[], 3.0), None);
    }

    #[test]
    fn the_document_says_the_rule_and_the_knee() {
        let found = steps(&[(1e3, 1e3, 300.0), (2e3, 1e3, 9e6)]);
        let json = json(&found, 3.0, vec![Value::Null; 2]);
        assert_eq!(json["sweep"]["knee_rate_ops_s"], 1000.0);
        assert_eq!(json["sweep"]["is_saturated"], true);
        assert!(json["sweep"]["rule"].as_str().unwrap().contains("over 3 times"));
    }
}
