//! Conditions on a run's figures, as `--assert` takes them: `p99<2ms`, `rate>=20k`, `errors==0`.
//! Read before the run, judged after it. Pure.

use std::fmt;
use std::str::FromStr;

use super::report::{Latencies, Measured};

/// Which operations a percentile is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    All,
    Reads,
    Writes,
    GeneratorLate,
}

/// A figure of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Figure {
    /// A quantile in `0..=1` of a distribution; 1 is the longest.
    Quantile(Of, f64),
    Rate,
    Ops,
    Errors,
    /// Errors in a hundred operations.
    ErrorPercent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Less,
    AtMost,
    Greater,
    AtLeast,
    Equal,
}

impl Comparison {
    fn holds(self, figure: f64, bound: f64) -> bool {
        match self {
            Self::Less => figure < bound,
            Self::AtMost => figure <= bound,
            Self::Greater => figure > bound,
            Self::AtLeast => figure >= bound,
            Self::Equal => (figure - bound).abs() < f64::EPSILON,
        }
    }
}

/// One condition.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    text: String,
    figure: Figure,
    comparison: Comparison,
    /// Microseconds for a percentile.
    bound: f64,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl serde::Serialize for Condition {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

/// Why a text is no condition, in words for the one who wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoCondition(String);

fn wrong<T>(text: impl Into<String>) -> Result<T, NoCondition> {
    Err(NoCondition(text.into()))
}

const FIGURES: &str = "p50 to p99.99 or any other percentile, max (each also as reads.p99, \
                       writes.p99, generator-late.p99), rate, ops, errors, error-percent";

impl FromStr for Condition {
    type Err = NoCondition;

    fn from_str(text: &str) -> Result<Self, NoCondition> {
        let text = text.trim();
        let Some(at) = text.find(['<', '>', '=']) else {
            return wrong(format!("\"{text}\" compares nothing: write it as p99<2ms"));
        };
        let (name, rest) = text.split_at(at);
        let comparisons = [
            ("<=", Comparison::AtMost),
            (">=", Comparison::AtLeast),
            ("==", Comparison::Equal),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
            ("=", Comparison::Equal),
        ];
        let found = comparisons.iter().find_map(|(sign, comparison)| {
            rest.strip_prefix(sign).map(|bound| (*comparison, bound.trim()))
        });
        let (comparison, bound) = found.expect("invariant: begins with one of the signs");
        let figure = figure(name.trim())?;
        let bound = match figure {
            Figure::Quantile(..) => time_us(bound)?,
            Figure::Rate | Figure::Ops | Figure::Errors => quantity(bound)?,
            Figure::ErrorPercent => quantity(bound.strip_suffix('%').unwrap_or(bound))?,
        };
        let text = text.split_whitespace().collect();
        Ok(Self { text, figure, comparison, bound })
    }
}

fn figure(name: &str) -> Result<Figure, NoCondition> {
    match name {
        "rate" => return Ok(Figure::Rate),
        "ops" => return Ok(Figure::Ops),
        "errors" => return Ok(Figure::Errors),
        "error-percent" => return Ok(Figure::ErrorPercent),
        _ => {}
    }
    let (of, percentile) = match name.split_once('.') {
        Some(("reads", rest)) => (Of::Reads, rest),
        Some(("writes", rest)) => (Of::Writes, rest),
        Some(("generator-late", rest)) => (Of::GeneratorLate, rest),
        Some(_) | None => (Of::All, name),
    };
    if percentile == "max" {
        return Ok(Figure::Quantile(of, 1.0));
    }
    let digits = percentile.strip_prefix('p').filter(|digits| {
        digits.starts_with(|c: char| c.is_ascii_digit())
            && digits.chars().all(|c| c.is_ascii_digit() || c == '.')
    });
    match digits.and_then(|digits| digits.parse::<f64>().ok()) {
        Some(percent) if percent <= 100.0 => Ok(Figure::Quantile(of, percent / 100.0)),
        Some(_) => wrong(format!("there is no percentile {percentile}: p100 is the last")),
        None => wrong(format!("there is no figure \"{name}\"; there are {FIGURES}")),
    }
}

fn time_us(text: &str) -> Result<f64, NoCondition> {
    let digits = text.trim_end_matches(|c: char| c.is_alphabetic());
    let scale = match &text[digits.len()..] {
        "ns" => 0.001,
        "us" | "µs" | "μs" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "" => return wrong(format!("\"{text}\" is a time without a unit: ns, us, ms or s")),
        unit => return wrong(format!("there is no unit \"{unit}\": a time is in ns, us, ms or s")),
    };
    Ok(number(digits.trim_end())? * scale)
}

fn quantity(text: &str) -> Result<f64, NoCondition> {
    let scaled = [("k", 1e3), ("M", 1e6)]
        .iter()
        .find_map(|(unit, scale)| text.strip_suffix(unit).map(|digits| (digits, *scale)));
    let (digits, scale) = scaled.unwrap_or((text, 1.0));
    Ok(number(digits)? * scale)
}

fn number(text: &str) -> Result<f64, NoCondition> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
        Ok(_) => wrong(format!("\"{text}\" is out of range")),
        Err(_) => wrong(format!("\"{text}\" is not a number")),
    }
}

impl Condition {
    /// What was measured in its place, if the condition does not hold. A percentile of nothing
    /// keeps no condition.
    #[must_use]
    pub fn broken_by(&self, measured: &Measured) -> Option<String> {
        let judge =
            |found: f64, told: String| (!self.comparison.holds(found, self.bound)).then_some(told);
        match self.figure {
            Figure::Quantile(of, quantile) => {
                let latencies = distribution(of, measured);
                if latencies.count() == 0 {
                    return Some("nothing of it was measured".to_owned());
                }
                let us = latencies.quantile_us(quantile);
                judge(us, format!("it was {us} µs"))
            }
            Figure::Rate => {
                judge(measured.rate_ops_s(), format!("it was {}", measured.rate_ops_s()))
            }
            Figure::Ops => judge(measured.ops as f64, format!("there were {}", measured.ops)),
            Figure::Errors => {
                let errors = measured.errors_total();
                judge(errors as f64, format!("there were {errors}"))
            }
            Figure::ErrorPercent => {
                let errors = measured.errors_total() as f64;
                let all = errors + measured.ops as f64;
                if all == 0.0 {
                    return Some("nothing was measured".to_owned());
                }
                let percent = errors * 100.0 / all;
                judge(percent, format!("it was {percent:.4} %"))
            }
        }
    }
}

fn distribution(of: Of, measured: &Measured) -> &Latencies {
    match of {
        Of::All => &measured.latency,
        Of::Reads => &measured.reads,
        Of::Writes => &measured.writes,
        Of::GeneratorLate => &measured.generator_late,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 reads of 1 to 100 ms, 3 errors, 50 per second.
    fn measured() -> Measured {
        let mut measured =
            Measured { ops: 97, answered_in_window: 100, window_s: 2.0, ..Default::default() };
        for ms in 1..=100u64 {
            measured.latency.record_ns(ms * 1_000_000);
            measured.reads.record_ns(ms * 1_000_000);
        }
        for _ in 0..3 {
            measured.error("BUSY");
        }
        measured
    }

    #[test]
    fn conditions_hold_or_not_by_what_was_measured() {
        for (text, holds) in [
            ("p50<51ms", true),
            ("p50<49ms", false),
            (" p99 <= 100 ms ", true),
            ("p99.9<0.2s", true),
            ("max<99000us", false),
            ("max>=99000µs", true),
            ("p10>9ms", true),
            ("reads.p50<51ms", true),
            ("rate>=50", true),
            ("rate>0.05k", false),
            ("ops==97", true),
            ("ops=98", false),
            ("errors<=3", true),
            ("errors==0", false),
            ("error-percent<=3%", true),
            ("error-percent<2.9", false),
        ] {
            let condition: Condition = text.parse().unwrap();
            assert_eq!(condition.broken_by(&measured()).is_none(), holds, "{text}");
        }
    }

    #[test]
    fn a_percentile_of_nothing_keeps_no_condition() {
        let condition: Condition = "writes.p99<1s".parse().unwrap();
        assert_eq!(condition.broken_by(&measured()).unwrap(), "nothing of it was measured");
        let condition: Condition = "error-percent<1".parse().unwrap();
        assert!(condition.broken_by(&Measured::default()).is_some());
    }

    #[test]
    fn what_is_no_condition_is_told_why() {
        for (text, told) in [
            ("p99", "compares nothing"),
            ("", "compares nothing"),
            ("p99<2", "a time without a unit"),
            ("p99<2m", "there is no unit \"m\""),
            ("p99<ms", "\"\" is not a number"),
            ("p101<2ms", "p100 is the last"),
            ("q99<2ms", "there is no figure \"q99\""),
            ("reads<2ms", "there is no figure \"reads\""),
            ("rate<fast", "\"fast\" is not a number"),
            ("rate<-1", "out of range"),
            ("rate<>5", "is not a number"),
            ("pinf<2ms", "there is no figure"),
        ] {
            let error = text.parse::<Condition>().unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
