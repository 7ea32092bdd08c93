//! `oarlock bench sweep`: runs at rising rates until the server no longer keeps up, and the knee.

use std::io;

use clap::Args;

use super::load::{self, LoadArgs, positive};
use super::{write_file, write_json};
use crate::bench::sweep::{self, Step};
use crate::bench::{export, page};
use crate::cli::exit::Exit;
use crate::cli::table;

/// How a sweep goes; each step is a run with an open loop.
#[derive(Args, Clone, Debug)]
pub struct SweepArgs {
    /// The first step's operations per second.
    #[arg(long, value_name = "OPS", default_value_t = 1000.0, value_parser = positive)]
    from: f64,
    /// No step has more operations per second than this. Without it, steps end when the server no
    /// longer keeps up.
    #[arg(long, value_name = "OPS", value_parser = positive)]
    to: Option<f64>,
    /// How many times a step's rate the next one's is.
    #[arg(long, default_value_t = 1.5, value_parser = over_one)]
    factor: f64,
    /// Beyond the knee, p99 is over so many times the lowest p99.
    #[arg(long, default_value_t = 3.0, value_parser = over_one)]
    knee_ratio: f64,
    #[command(flatten)]
    load: LoadArgs,
}

fn over_one(text: &str) -> Result<f64, String> {
    positive(text).and_then(|n| if n >= 1.01 { Ok(n) } else { Err("must be over 1".to_owned()) })
}

/// What of a single run's arguments a sweep has no use for.
fn unused(load: &LoadArgs) -> Option<&'static str> {
    let given = [
        ("--rate", load.rate.is_some()),
        ("--csv", load.csv.is_some()),
        ("--hdr", load.hdr.is_some()),
        ("--assert", !load.conditions.is_empty()),
    ];
    given.iter().find(|(_, is_given)| *is_given).map(|(flag, _)| *flag)
}

/// Runs the steps, prints them and the knee. Errors of the last step, which is to find the limit, are
/// no failure.
///
/// # Errors
/// If a step could not run, or a file could not be written.
pub(super) fn run(args: &SweepArgs) -> io::Result<Exit> {
    if let Some(flag) = unused(&args.load) {
        eprintln!("oarlock bench sweep: {flag} is for a single run; see --from, --to and --json");
        return Ok(Exit::Usage);
    }
    if args.to.is_some_and(|to| to < args.from) {
        eprintln!("oarlock bench sweep: --to is below --from");
        return Ok(Exit::Usage);
    }
    let mut ready = load::prepare(&args.load)?;
    let (mut steps, mut documents, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    let mut rate = args.from;
    while args.to.is_none_or(|to| rate <= to) && rate <= 1e9 {
        let load = LoadArgs { rate: Some(rate), ..args.load.clone() };
        let (run, measured) = load::measure(&load, &mut ready)?;
        let latency = measured.latency.summary();
        let step = Step {
            offered: rate,
            achieved: measured.rate_ops_s(),
            p99_us: latency.p99,
            errors: measured.errors_total(),
        };
        let late = measured.generator_late.summary().p99;
        let mut row =
            [rate, step.achieved, latency.p50, latency.p99, latency.p999, latency.max, late]
                .map(|figure| format!("{figure:.0}"))
                .to_vec();
        row.push(step.errors.to_string());
        eprintln!("oarlock bench sweep: {rate:.0} due, {:.0} answered per second", step.achieved);
        rows.push(row);
        steps.push(step);
        documents.push(export::json(&run, &measured));
        if !step.keeps_up() {
            break;
        }
        rate *= args.factor;
    }
    tell(args, &steps, rows);
    let document = sweep::json(&steps, args.knee_ratio, documents);
    if let Some(file) = &args.load.json {
        write_json(file, &document)?;
    }
    if let Some(file) = &args.load.html {
        write_file(file, page::of_sweep(&document).as_bytes())?;
    }
    Ok(Exit::Ok)
}

fn tell(args: &SweepArgs, steps: &[Step], mut rows: Vec<Vec<String>>) {
    let knee = sweep::knee(steps, args.knee_ratio);
    for (at, row) in rows.iter_mut().enumerate() {
        row.push(if Some(at) == knee { "<- knee".to_owned() } else { String::new() });
    }
    let headers =
        ["due/s", "answered/s", "p50 µs", "p99", "p99.9", "max", "late p99", "errors", ""];
    let mut text = table::render(&headers, &rows);
    text += &match knee {
        Some(at) => {
            format!("Knee: {:.0} per second, p99 {:.0} µs. ", steps[at].offered, steps[at].p99_us)
        }
        None => "No knee: already the first rate is beyond it. ".to_owned(),
    };
    if steps.iter().all(Step::keeps_up) {
        text += "The server kept up at every rate. ";
    }
    text += &format!("By the rule: {}.\n", sweep::rule(args.knee_ratio));
    crate::cli::print(&text);
}
