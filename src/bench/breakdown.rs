//! Where the time of writes went on the servers, stage by stage: what `OARLOCK STAGES` of all nodes
//! counted between two moments.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use serde_json::{Map, Value, json};

use super::client::{Answer, Client};
use super::cluster_map;
use super::report::Latencies;
use crate::node::stages::Stage;

/// How long a node may take to answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// What the nodes have counted up to a moment, or between two.
#[derive(Clone, Debug)]
pub struct Breakdown {
    stages: Vec<(String, Histogram<u64>)>,
    /// Requests that nodes sent on to other nodes.
    forwarded: u64,
    /// Requests that leaders answered.
    answered: u64,
}

/// The nodes of a cluster, to be asked.
#[derive(Debug)]
pub struct Nodes(Vec<Client>);

impl Nodes {
    /// Finds all nodes by asking one.
    ///
    /// # Errors
    /// If it is no Oarlock node, or one of those that it names does not answer.
    pub fn find(address: SocketAddr) -> io::Result<Self> {
        let nodes = cluster_map::status(&mut Client::connect(address, TIMEOUT)?)?.nodes;
        let addresses = nodes.iter().filter_map(cluster_map::client_address);
        let connect = |address: SocketAddr| {
            Client::connect(address, TIMEOUT).map_err(|error| {
                let why = format!("{address}, a node of the cluster, does not answer ({error})");
                io::Error::new(error.kind(), why)
            })
        };
        Ok(Self(addresses.map(connect).collect::<io::Result<_>>()?))
    }

    /// What they have counted up to now.
    ///
    /// # Errors
    /// If one does not answer, or not so.
    pub fn ask(&mut self) -> io::Result<Breakdown> {
        let mut all: Option<Breakdown> = None;
        for client in &mut self.0 {
            let of_node = Breakdown::ask(client)?;
            match &mut all {
                Some(all) => all.add(&of_node)?,
                None => all = Some(of_node),
            }
        }
        all.ok_or_else(|| io::Error::other("the cluster names no node"))
    }
}

impl Breakdown {
    /// What one node has counted up to now.
    pub(crate) fn ask(client: &mut Client) -> io::Result<Self> {
        let answer = client.call(&[b"OARLOCK", b"STAGES"])?;
        let counters = cluster_map::counters(client)?;
        let stages = stages(&answer).ok_or_else(|| {
            io::Error::other(format!("the server answered OARLOCK STAGES with {answer}"))
        })?;
        Ok(Self {
            stages,
            forwarded: counters.requests_forwarded,
            answered: counters.requests_answered,
        })
    }

    /// Adds another node's.
    pub(crate) fn add(&mut self, other: &Self) -> io::Result<()> {
        for ((name, own), (other_name, others)) in self.stages.iter_mut().zip(&other.stages) {
            if name != other_name || own.add(others).is_err() {
                return Err(io::Error::other("the nodes are of different versions"));
            }
        }
        self.forwarded += other.forwarded;
        self.answered += other.answered;
        Ok(())
    }

    /// What was counted since `before`.
    ///
    /// # Errors
    /// If a node was started anew in between: it has forgotten what it had counted.
    pub fn since(&self, before: &Self) -> io::Result<Self> {
        let restarted = || io::Error::other("a node was started anew during the run: no breakdown");
        let mut since = self.clone();
        for ((_, own), (_, earlier)) in since.stages.iter_mut().zip(&before.stages) {
            own.subtract(earlier).map_err(|_| restarted())?;
        }
        since.forwarded = self.forwarded.checked_sub(before.forwarded).ok_or_else(restarted)?;
        since.answered = self.answered.checked_sub(before.answered).ok_or_else(restarted)?;
        Ok(since)
    }

    /// How long writes took on the servers, in microseconds: so many of all took at most so long.
    /// Nothing if there were none.
    pub(crate) fn write_us(&self, quantile: f64) -> Option<u64> {
        let total = self.stage(Stage::Total)?;
        Some(total.value_at_quantile(quantile).min(total.max()))
    }

    fn stage(&self, stage: Stage) -> Option<&Histogram<u64>> {
        let (_, histogram) = self.stages.iter().find(|(name, _)| name == stage.name())?;
        (!histogram.is_empty()).then_some(histogram)
    }

    /// The share of the requests that went from node to node, 0 to 1.
    #[must_use]
    pub fn forwarded_share(&self) -> f64 {
        if self.answered == 0 { 0.0 } else { self.forwarded as f64 / self.answered as f64 }
    }

    /// What a stage adds to the mean write, in microseconds.
    fn contribution(&self, stage: Stage) -> f64 {
        let share = if stage == Stage::Total {
            0.0
        } else if stage == Stage::Network {
            // A write whose range another node leads goes there and back.
            self.forwarded_share().min(1.0)
        } else {
            1.0
        };
        self.stage(stage).map_or(0.0, |histogram| histogram.mean() * share)
    }

    /// What all stages add up to in the mean write, in microseconds.
    fn together(&self) -> f64 {
        Stage::ALL.iter().map(|stage| self.contribution(*stage)).sum()
    }

    /// For machines: each stage's figures, in microseconds, beside what the clients saw of their
    /// writes. The parts of the mean write add up to what the stages take `together`.
    #[must_use]
    pub fn json(&self, writes: &Latencies) -> Value {
        let tenths = |us: f64| (us * 10.0).round() / 10.0;
        let stages = self.stages.iter().map(|(name, histogram)| {
            let at = |quantile| histogram.value_at_quantile(quantile).min(histogram.max());
            let stage = Stage::ALL.iter().find(|stage| stage.name() == name);
            let figures = json!({
                "count": histogram.len(),
                "mean": tenths(histogram.mean()),
                "part_of_mean_write": stage.map(|stage| tenths(self.contribution(*stage))),
                "p50": at(0.5),
                "p99": at(0.99),
                "p999": at(0.999),
                "max": histogram.max(),
            });
            (name.clone(), figures)
        });
        json!({
            "stages_us": stages.collect::<Map<_, _>>(),
            "together_mean_us": tenths(self.together()),
            "clients_write_mean_us": tenths(writes.mean_us()),
            "forwarded_share": self.forwarded_share(),
        })
    }

    /// For people: a line for each stage, beside what the clients saw of their writes.
    #[must_use]
    pub fn text(&self, writes: &Latencies) -> String {
        let mut out = String::new();
        let mut line = |text: std::fmt::Arguments<'_>| {
            writeln!(out, "{text}").expect("invariant: writing to a string does not fail");
        };
        line(format_args!(
            "{:<26}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}",
            "stages of a write in µs", "p50", "p99", "p99.9", "max", "mean", "share"
        ));
        let whole = self.together();
        for stage in Stage::ALL {
            let Some(histogram) = self.stage(*stage) else { continue };
            let at = |quantile| histogram.value_at_quantile(quantile).min(histogram.max());
            let (mean, part) = (histogram.mean(), self.contribution(*stage));
            let share = 100.0 * part / whole.max(1e-9);
            let share =
                if *stage == Stage::Total { String::new() } else { format!("{share:.0} %") };
            line(format_args!(
                "  {:<24}{:>9}{:>9}{:>9}{:>9}{mean:>9.0}{share:>9}",
                stage.name(),
                at(0.5),
                at(0.99),
                at(0.999),
                histogram.max()
            ));
        }
        let forwarded = 100.0 * self.forwarded_share();
        line(format_args!(
            "  together {whole:.0} µs of the mean write; clients saw {:.0} µs. {forwarded:.0} % of the \
             requests went from node to node",
            writes.mean_us()
        ));
        out
    }
}

/// Pairs of names and histograms.
fn stages(answer: &Answer) -> Option<Vec<(String, Histogram<u64>)>> {
    let Answer::Array(items) = answer else { return None };
    let mut deserializer = Deserializer::new();
    let mut pair = |pair: &[Answer]| match pair {
        [Answer::Bulk(name), Answer::Bulk(bytes)] => {
            let histogram = deserializer.deserialize(&mut bytes.as_slice()).ok()?;
            Some((String::from_utf8_lossy(name).into_owned(), histogram))
        }
        _ => None,
    };
    items.chunks(2).map(&mut pair).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use oarlock_types::Mono;

    use super::*;
    use crate::node::stages::Stages;

    fn breakdown(times: &[(Stage, u64)], forwarded: u64) -> Breakdown {
        let mut kept = Stages::default();
        for (stage, us) in times {
            kept.record(*stage, Mono(1000), Mono(1000 + us));
        }
        let oarlock_store::Reply::Array(items) = kept.reply() else { panic!("not an array") };
        let answers = items.into_iter().map(|item| {
            let oarlock_store::Reply::Bulk(bytes) = item else { panic!("{item:?}") };
            Answer::Bulk(bytes.to_vec())
        });
        let stages =
            stages(&Answer::Array(answers.collect())).expect("pairs of a name and a histogram");
        Breakdown { stages, forwarded, answered: 10 }
    }

    /// A mean write of 100 µs, 20 of them on the way between nodes, and what all of it took.
    pub(crate) fn sample() -> Breakdown {
        use Stage::{Network, Parse, Total, WalWrite};
        breakdown(&[(Parse, 10), (WalWrite, 70), (Network, 40), (Total, 105)], 5)
    }

    #[test]
    fn what_a_node_answers_is_read_back_and_earlier_counts_are_taken_off() {
        let before = breakdown(&[(Stage::Parse, 50), (Stage::Commit, 9)], 1);
        let mut after = breakdown(&[(Stage::Parse, 50), (Stage::Parse, 2), (Stage::Commit, 9)], 5);
        after.answered = 14;
        let since = after.since(&before).unwrap();
        assert_eq!(since.stage(Stage::Parse).map(|all| (all.len(), all.max())), Some((1, 2)));
        assert!(since.stage(Stage::Commit).is_none());
        assert_eq!(since.forwarded_share(), 1.0);
        assert_eq!((since.write_us(0.99), sample().write_us(0.99)), (None, Some(105)));
        let error = before.since(&after).unwrap_err().to_string();
        assert!(error.contains("started anew"), "{error}");
    }

    #[test]
    fn shares_are_of_the_sum_and_the_way_between_nodes_counts_for_those_that_took_it() {
        let all = sample();
        let text = all.text(&Latencies::default());
        let share = |name: &str| {
            let line = text.lines().find(|line| line.trim_start().starts_with(name)).unwrap();
            line.split_whitespace().rev().nth(1).unwrap().to_owned()
        };
        assert_eq!(
            (share("parse"), share("wal_write"), share("network")),
            ("10".into(), "70".into(), "20".into())
        );
        assert!(text.contains("together 100 µs of the mean write"), "{text}");
        let mut writes = Latencies::default();
        writes.record_ns(120_000);
        let json = all.json(&writes);
        assert_eq!(json["stages_us"]["wal_write"]["p99"], 70);
        let part = |name: &str| &json["stages_us"][name]["part_of_mean_write"];
        assert_eq!((part("wal_write"), part("network")), (&70.0.into(), &20.0.into()));
        assert_eq!(part("total"), 0.0, "it is the others");
        assert_eq!(
            (&json["together_mean_us"], &json["forwarded_share"]),
            (&100.0.into(), &0.5.into())
        );
        let clients = json["clients_write_mean_us"].as_f64().unwrap();
        assert!((119.0..121.0).contains(&clients), "{clients}");
    }

    #[test]
    fn another_servers_answer_is_told() {
        assert!(stages(&Answer::Error("ERR unknown command".into())).is_none());
        assert!(stages(&Answer::Array(vec![Answer::Bulk(b"parse".to_vec())])).is_none());
        let wrong = vec![Answer::Bulk(b"parse".to_vec()), Answer::Bulk(b"nonsense".to_vec())];
        assert!(stages(&Answer::Array(wrong)).is_none());
    }
}
