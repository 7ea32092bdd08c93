//! From all runs to what is told: medians, ratios of two systems in the same round, and whether the
//! targets are met. Pure.

use serde::{Deserialize, Serialize};

use super::generator::{Figure, Figures};
use super::load::Load;
use super::system::System;

/// One run of one load on one system.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// From 1.
    pub round: u32,
    /// The load.
    pub load: Load,
    /// The system.
    pub system: System,
    /// What was measured; nothing if it failed.
    pub figures: Figures,
    /// Latency by percentile.
    pub curve: Vec<(f64, f64)>,
    /// Why it failed.
    pub error: Option<String>,
}

/// The middle of several values, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Half are not over it, half not under it.
    pub median: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
    /// How many.
    pub count: usize,
}

impl Spread {
    /// Of nothing there is none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let count = values.len();
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = count / 2;
        let median = if count.is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Some(Self { median, min, max, count })
    }
}

/// All runs.
#[derive(Clone, Copy, Debug)]
pub struct Summary<'a>(pub &'a [Run]);

/// A server that answers less than this of what is due does not sustain it.
const SUSTAINED: f64 = 0.95;

/// Whether what is due is answered, without an error.
pub fn keeps_up(due: f64, answered: Option<f64>, errors: Option<f64>) -> bool {
    answered.is_some_and(|answered| answered >= due * SUSTAINED) && errors == Some(0.0)
}

impl<'a> Summary<'a> {
    /// The runs of a load on a system.
    pub fn runs(self, load: Load, system: System) -> impl Iterator<Item = &'a Run> {
        self.0.iter().filter(move |run| run.load == load && run.system == system)
    }

    /// A figure over all rounds.
    pub fn spread(self, load: Load, system: System, figure: Figure) -> Option<Spread> {
        Spread::of(self.runs(load, system).filter_map(|run| run.figures.get(&figure).copied()))
    }

    /// How many times the other's one's figure is, over the rounds that have both.
    pub fn ratio(self, load: Load, figure: Figure, one: System, other: System) -> Option<Spread> {
        let ratios = self.runs(load, one).filter_map(|run| {
            let mut others = self.runs(load, other).filter(|other| other.round == run.round);
            let (one, other) = (run.figures.get(&figure)?, others.next()?.figures.get(&figure)?);
            (*other > 0.0).then(|| one / other)
        });
        Spread::of(ratios)
    }

    /// Whether a system answers what an open loop's load has due, without errors, in most rounds.
    pub fn sustains(self, load: Load, system: System) -> bool {
        let Some(due) = load.rate() else { return true };
        let median = |figure| self.spread(load, system, figure).map(|spread| spread.median);
        keeps_up(due, median(Figure::Rate), median(Figure::Errors))
    }
}

/// Which systems a target is set against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Against {
    /// Each rival must be beaten so: the best of them decides.
    Best,
    /// The same, of those that sustain the load.
    BestThatSustains,
    /// This one.
    One(System),
    /// None: the figure is a ratio itself.
    Itself,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    AtMost,
    Below,
    AtLeast,
}

struct Target {
    text: &'static str,
    load: Load,
    figure: Figure,
    against: Against,
    wanted: Wanted,
    limit: f64,
}

const fn target(
    text: &'static str,
    (load, figure): (Load, Figure),
    against: Against,
    (wanted, limit): (Wanted, f64),
) -> Target {
    Target { text, load, figure, against, wanted, limit }
}

use Against::{Best, BestThatSustains, Itself, One};
use Wanted::{AtLeast, AtMost, Below};

const TARGETS: [Target; 12] = [
    target("p99 at 5k writes/s", (Load::Open5k, Figure::P99Us), Best, (AtMost, 0.5)),
    target("p99 at 20k writes/s", (Load::Open20k, Figure::P99Us), BestThatSustains, (AtMost, 0.25)),
    target(
        "p99.9 at 20k writes/s",
        (Load::Open20k, Figure::P999Us),
        BestThatSustains,
        (AtMost, 0.25),
    ),
    target(
        "highest rate with p99 under 5 ms",
        (Load::HighestRate, Figure::HighestRate),
        Best,
        (AtLeast, 3.0),
    ),
    target("writes/s of 64 connections", (Load::Closed64, Figure::Rate), Best, (AtLeast, 2.5)),
    target("writes/s of 256 connections", (Load::Closed256, Figure::Rate), Best, (AtLeast, 2.5)),
    target("p50 at 5k writes/s", (Load::Open5k, Figure::P50Us), One(System::Floor), (AtMost, 1.3)),
    target(
        "servers' CPU per write at 20k writes/s",
        (Load::Open20k, Figure::CpuUs),
        BestThatSustains,
        (AtMost, 0.5),
    ),
    target(
        "bytes that the disk wrote per byte of user data, 64 connections",
        (Load::Closed64, Figure::DiskPerByte),
        One(System::RaftRs),
        (Below, 1.0),
    ),
    target(
        "p99 of reads to p50 of the writes beside them",
        (Load::Mixed, Figure::ReadsToWrites),
        Itself,
        (AtMost, 1.0),
    ),
    target(
        "p99 of writes while a node comes back, to before",
        (Load::NodeReturn, Figure::ReturnToBefore),
        Itself,
        (AtMost, 2.0),
    ),
    target(
        "generator's CPU as a share of the servers', 5k writes/s (an aim of the method)",
        (Load::Open5k, Figure::GeneratorShare),
        Itself,
        (AtMost, 0.25),
    ),
];

/// Whether a target is met.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// What is aimed at.
    pub target: String,
    /// How Oarlock was sent to.
    pub system: System,
    /// What it was set against.
    pub against: String,
    /// What is wanted of the value.
    pub wanted: String,
    /// What was measured.
    pub value: Option<Spread>,
    /// What the floor comes to in Oarlock's place.
    #[serde(default)]
    pub floor: Option<Spread>,
    /// Whether it is what is wanted; nothing if it could not be measured.
    pub is_met: Option<bool>,
}

/// All targets, for both ways to send to Oarlock, as far as there are runs of both.
pub fn verdicts(summary: Summary<'_>) -> Vec<Verdict> {
    let systems = [System::OarlockAny, System::OarlockMap];
    let ways = |target: &'static Target| {
        systems.into_iter().filter(|system| target.load.is_for(*system)).map(move |s| (target, s))
    };
    TARGETS.iter().flat_map(ways).map(|(target, system)| target.judge(summary, system)).collect()
}

impl Target {
    fn judge(&self, summary: Summary<'_>, system: System) -> Verdict {
        let Measured { value, floor, against } = self.measured(summary, system);
        // Who does not keep up has no latency to be proud of.
        let keeps_up = summary.sustains(self.load, system);
        Verdict {
            target: self.text.to_owned(),
            system,
            against: if value.is_some() && !keeps_up {
                format!("{against}; Oarlock does not sustain it")
            } else {
                against
            },
            wanted: match self.wanted {
                AtMost => format!("≤ {}", self.limit),
                Below => format!("< {}", self.limit),
                AtLeast => format!("≥ {}", self.limit),
            },
            value,
            floor,
            is_met: value.map(|value| keeps_up && self.holds(value.median)),
        }
    }

    fn holds(&self, value: f64) -> bool {
        match self.wanted {
            AtMost => value <= self.limit,
            Below => value < self.limit,
            AtLeast => value >= self.limit,
        }
    }

    fn has_rivals(&self, summary: Summary<'_>) -> bool {
        let mut rivals = System::RIVALS.into_iter();
        rivals.any(|rival| summary.runs(self.load, rival).next().is_some())
    }

    /// The value and what it is set against: of several rivals, the one that makes it look worst.
    fn measured(&self, summary: Summary<'_>, system: System) -> Measured {
        let without =
            |value, against: &str| Measured { value, floor: None, against: against.into() };
        let rivals: Vec<System> = match self.against {
            Itself => return without(summary.spread(self.load, system, self.figure), "itself"),
            One(rival) => vec![rival],
            Best => System::RIVALS.to_vec(),
            BestThatSustains => {
                let sustains = |rival: &System| summary.sustains(self.load, *rival);
                System::RIVALS.into_iter().filter(sustains).collect()
            }
        };
        let of = |one, rival| summary.ratio(self.load, self.figure, one, rival);
        let ratios = rivals.into_iter().filter_map(|rival| Some((of(system, rival)?, rival)));
        let by_median =
            |a: &(Spread, System), b: &(Spread, System)| a.0.median.total_cmp(&b.0.median);
        let worst = match self.wanted {
            AtMost | Below => ratios.max_by(by_median),
            AtLeast => ratios.min_by(by_median),
        };
        match worst {
            Some((ratio, System::Floor)) => without(Some(ratio), System::Floor.name()),
            Some((ratio, rival)) => Measured {
                value: Some(ratio),
                floor: of(System::Floor, rival),
                against: rival.name().to_owned(),
            },
            None if self.against == BestThatSustains && self.has_rivals(summary) => {
                without(None, "no rival sustains it")
            }
            None => without(None, "not measured"),
        }
    }
}

struct Measured {
    value: Option<Spread>,
    floor: Option<Spread>,
    against: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(round: u32, load: Load, system: System, figures: &[(Figure, f64)]) -> Run {
        let figures = figures.iter().copied().collect();
        Run { round, load, system, figures, curve: Vec::new(), error: None }
    }

    #[test]
    fn the_median_is_the_middle() {
        let of = |values: &[f64]| Spread::of(values.iter().copied());
        assert_eq!(of(&[]), None);
        let one = Spread { median: 2.0, min: 2.0, max: 2.0, count: 1 };
        assert_eq!(of(&[2.0]), Some(one));
        let three = Spread { median: 3.0, min: 1.0, max: 90.0, count: 3 };
        assert_eq!(of(&[90.0, 1.0, 3.0]), Some(three));
        assert_eq!(of(&[4.0, 1.0, 2.0, 100.0]).unwrap().median, 3.0);
    }

    /// Ratios of medians would say 1; each round says something else.
    #[test]
    fn ratios_are_taken_within_a_round() {
        let mut runs = Vec::new();
        for (round, own, other) in [(1, 100.0, 200.0), (2, 200.0, 400.0), (3, 400.0, 100.0)] {
            runs.push(run(round, Load::Open5k, System::OarlockAny, &[(Figure::P99Us, own)]));
            runs.push(run(round, Load::Open5k, System::RaftRs, &[(Figure::P99Us, other)]));
        }
        // A round that one of the two missed does not count.
        runs.push(run(4, Load::Open5k, System::OarlockAny, &[(Figure::P99Us, 1e9)]));
        runs.push(run(5, Load::Open5k, System::OarlockAny, &[(Figure::P99Us, 1e9)]));
        runs.push(run(5, Load::Open5k, System::RaftRs, &[(Figure::P99Us, 0.0)]));
        let summary = Summary(&runs);
        let ratio = |one, other| summary.ratio(Load::Open5k, Figure::P99Us, one, other);
        let expected = Spread { median: 0.5, min: 0.5, max: 4.0, count: 3 };
        assert_eq!(ratio(System::OarlockAny, System::RaftRs), Some(expected));
        assert_eq!(ratio(System::OarlockAny, System::Etcd), None);
    }

    fn verdict(runs: &[Run], text: &str, system: System) -> Verdict {
        let all = verdicts(Summary(runs));
        all.into_iter().find(|v| v.target == text && v.system == system).unwrap()
    }

    #[test]
    fn the_rival_that_is_nearest_decides() {
        let p99 = |system, us| {
            let figures = [(Figure::P99Us, us), (Figure::Rate, 5_000.0), (Figure::Errors, 0.0)];
            run(1, Load::Open5k, system, &figures)
        };
        let mut runs = vec![
            p99(System::OarlockAny, 600.0),
            p99(System::RaftRs, 1_200.0),
            p99(System::Etcd, 9_000.0),
            // Neither the floor nor a process without a quorum is a rival.
            p99(System::Floor, 300.0),
            p99(System::Redis, 200.0),
        ];
        let found = verdict(&runs, "p99 at 5k writes/s", System::OarlockAny);
        assert_eq!((found.value.unwrap().median, found.against.as_str()), (0.5, "raft-rs"));
        assert_eq!(found.floor.unwrap().median, 0.25);
        assert_eq!((found.is_met, found.wanted.as_str()), (Some(true), "≤ 0.5"));
        runs[1].figures.insert(Figure::P99Us, 1_100.0);
        assert_eq!(verdict(&runs, &found.target, System::OarlockAny).is_met, Some(false));
        let map = verdict(&runs, &found.target, System::OarlockMap);
        assert_eq!((map.value, map.is_met), (None, None), "it was not run");
    }

    #[test]
    fn more_is_better_where_rates_are_told() {
        let rate = |system, rate| run(1, Load::Closed64, system, &[(Figure::Rate, rate)]);
        let runs = [
            rate(System::OarlockAny, 50_000.0),
            rate(System::RaftRs, 25_000.0),
            rate(System::Etcd, 5_000.0),
        ];
        let found = verdict(&runs, "writes/s of 64 connections", System::OarlockAny);
        assert_eq!((found.value.unwrap().median, found.is_met), (2.0, Some(false)));
        assert_eq!(found.against, "raft-rs");
    }

    #[test]
    fn who_does_not_sustain_a_load_is_not_compared_with() {
        let at = |system, rate, errors, p99| {
            let figures = [(Figure::Rate, rate), (Figure::Errors, errors), (Figure::P99Us, p99)];
            run(1, Load::Open20k, system, &figures)
        };
        let mut runs = vec![
            at(System::OarlockAny, 20_000.0, 0.0, 1_000.0),
            at(System::RaftRs, 19_500.0, 0.0, 5_000.0),
            at(System::Etcd, 20_000.0, 3.0, 10.0),
            at(System::Openraft, 6_000.0, 0.0, 10.0),
        ];
        let found = verdict(&runs, "p99 at 20k writes/s", System::OarlockAny);
        assert_eq!((found.against.as_str(), found.is_met), ("raft-rs", Some(true)));
        runs[0].figures.insert(Figure::Rate, 10_000.0);
        let slow = verdict(&runs, &found.target, System::OarlockAny);
        assert_eq!(slow.is_met, Some(false), "{}", slow.against);
        runs.remove(1);
        let alone = verdict(&runs, &found.target, System::OarlockAny);
        assert_eq!((alone.is_met, alone.against.as_str()), (None, "no rival sustains it"));
    }

    #[test]
    fn what_is_a_ratio_itself_needs_nobody_else() {
        let figures =
            [(Figure::ReadsToWrites, 0.8), (Figure::Rate, 25_000.0), (Figure::Errors, 0.0)];
        let back = [(Figure::ReturnToBefore, 2.1)];
        let runs = [
            run(1, Load::Mixed, System::OarlockMap, &figures),
            run(1, Load::NodeReturn, System::OarlockAny, &back),
        ];
        let reads = "p99 of reads to p50 of the writes beside them";
        assert_eq!(verdict(&runs, reads, System::OarlockMap).is_met, Some(true));
        let back = "p99 of writes while a node comes back, to before";
        assert_eq!(verdict(&runs, back, System::OarlockAny).is_met, Some(false));
        let rows = verdicts(Summary(&runs));
        assert_eq!(rows.len(), 2 * TARGETS.len() - 1, "only one way to send is killed under");
    }
}
