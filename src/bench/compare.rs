//! Runs side by side, from what each wrote with `--json`: their figures with ratios to the first, and
//! where their settings differ. Pure.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::node::stages::Stage;

/// A run under the name that it is told by.
#[derive(Clone, Debug)]
pub struct Named {
    /// The name.
    pub name: String,
    /// What it wrote.
    pub json: Value,
}

/// A line of a table: what it is about, and what each run has there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What it is about.
    pub name: String,
    /// A cell for each run.
    pub cells: Vec<String>,
}

/// Figures in the order in which they are told, with their places in the document.
const FIGURES: [(&str, &str); 23] = [
    ("operations", "/ops"),
    ("per second", "/rate_ops_s"),
    ("errors", "/errors"),
    ("p50 µs", "/latency_us/p50"),
    ("p90 µs", "/latency_us/p90"),
    ("p99 µs", "/latency_us/p99"),
    ("p99.9 µs", "/latency_us/p999"),
    ("p99.99 µs", "/latency_us/p9999"),
    ("max µs", "/latency_us/max"),
    ("reads p50 µs", "/read_latency_us/p50"),
    ("reads p99 µs", "/read_latency_us/p99"),
    ("reads max µs", "/read_latency_us/max"),
    ("writes p50 µs", "/write_latency_us/p50"),
    ("writes p99 µs", "/write_latency_us/p99"),
    ("writes max µs", "/write_latency_us/max"),
    ("generator late p99 µs", "/generator_late_us/p99"),
    ("generator late max µs", "/generator_late_us/max"),
    ("servers' CPU µs per operation", "/used/servers_cpu_us_per_op"),
    ("bytes written per operation", "/used/servers_written_bytes_per_op"),
    ("bytes that the disk wrote per operation", "/used/disk_written_bytes_per_op"),
    ("generator's CPU µs per operation", "/used/generator_cpu_us_per_op"),
    ("memory of the servers in bytes", "/used/servers_resident_bytes"),
    ("loopback bytes per operation", "/used/loopback_bytes_per_op"),
];

/// Settings that say what is written and watched, and nothing of the load.
const OUTPUTS: [&str; 7] = ["json", "csv", "hdr", "html", "conditions", "pids", "disk"];

/// Reads what a run wrote.
///
/// # Errors
/// If it is no run's document.
pub fn read(name: &str, text: &str) -> Result<Named, String> {
    let json: Value =
        serde_json::from_str(text).map_err(|error| format!("{name} is no JSON: {error}"))?;
    if json.get("sweep").is_some() {
        return Err(format!("{name} is a sweep: compare takes what single runs wrote"));
    }
    let is_run = json.pointer("/latency_us/p99").is_some_and(Value::is_number)
        && json.get("rate_ops_s").is_some_and(Value::is_number);
    if !is_run {
        return Err(format!("{name} is not what `oarlock bench --json` writes"));
    }
    Ok(Named { name: name.to_owned(), json })
}

/// The figures of all runs; behind those of all but the first how many times the first's they are.
#[must_use]
pub fn figures(runs: &[Named]) -> Vec<Row> {
    let is_told = |(_, place): &&(&str, &str)| place.matches('/').count() == 1 || has(runs, place);
    FIGURES.iter().filter(is_told).map(|(name, place)| row(runs, name, place)).collect()
}

/// Where the time of writes went on the servers, stage by stage; nothing if no run asked for it.
#[must_use]
pub fn stages(runs: &[Named]) -> Vec<Row> {
    let mut rows = Vec::new();
    for stage in Stage::ALL {
        let place = |figure: &str| format!("{STAGES}/{}/{figure}", stage.name());
        if has(runs, &place("count")) {
            for figure in ["p50", "p99"] {
                rows.push(row(runs, &format!("{} {figure} µs", stage.name()), &place(figure)));
            }
        }
    }
    for (name, place) in [
        ("stages together, mean µs", "/breakdown/together_mean_us"),
        ("writes as clients saw them, mean µs", "/breakdown/clients_write_mean_us"),
        ("share that went from node to node", "/breakdown/forwarded_share"),
    ] {
        if has(runs, place) {
            rows.push(row(runs, name, place));
        }
    }
    rows
}

/// What each stage adds to a run's mean write, in microseconds and in a write's order; nothing if the
/// run did not ask for it.
#[must_use]
pub fn parts_of_mean_write(run: &Named) -> Vec<(&'static str, f64)> {
    let part = |stage: &Stage| {
        let place = format!("{STAGES}/{}/part_of_mean_write", stage.name());
        Some((stage.name(), run.json.pointer(&place)?.as_f64()?.max(0.0)))
    };
    Stage::ALL.iter().filter(|stage| **stage != Stage::Total).filter_map(part).collect()
}

/// Where a run's document has its stages.
const STAGES: &str = "/breakdown/stages_us";

fn number(run: &Named, place: &str) -> Option<f64> {
    run.json.pointer(place).and_then(Value::as_f64)
}

/// Whether any run has something there that is not 0.
fn has(runs: &[Named], place: &str) -> bool {
    runs.iter().any(|run| number(run, place).is_some_and(|value| value != 0.0))
}

fn row(runs: &[Named], name: &str, place: &str) -> Row {
    let found = runs.iter().map(|run| number(run, place));
    let first = runs.first().and_then(|run| number(run, place)).filter(|first| *first > 0.0);
    let cell = |(at, value): (usize, Option<f64>)| match (value, first) {
        (None, _) => "-".to_owned(),
        (Some(value), Some(first)) if at > 0 => format!("{} ({:.2}x)", plain(value), value / first),
        (Some(value), _) => plain(value),
    };
    Row { name: name.to_owned(), cells: found.enumerate().map(cell).collect() }
}

fn plain(value: f64) -> String {
    if value < 1.0 && value.fract() != 0.0 {
        format!("{value:.2}")
    } else if value < 100.0 && value.fract() != 0.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// All settings and facts of the machine; with `only_differing`, those that are not the same in all
/// runs.
#[must_use]
pub fn settings(runs: &[Named], only_differing: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for (part, skipped) in [("config", &OUTPUTS[..]), ("machine", &[])] {
        let keys: BTreeSet<&String> = runs
            .iter()
            .filter_map(|run| run.json.get(part)?.as_object())
            .flat_map(|object| object.keys())
            .filter(|key| !skipped.contains(&key.as_str()))
            .collect();
        for key in keys {
            let cell =
                |run: &Named| run.json.get(part).and_then(|p| p.get(key)).map_or("-".into(), told);
            let cells: Vec<String> = runs.iter().map(cell).collect();
            if !only_differing || cells.iter().any(|cell| *cell != cells[0]) {
                rows.push(Row { name: key.replace('_', " "), cells });
            }
        }
    }
    rows
}

fn told(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(told).collect::<Vec<_>>().join(", "),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{breakdown, export};
    use super::*;

    fn runs() -> Vec<Named> {
        [("a.json", 1), ("b.json", 2)]
            .map(|(name, slower)| {
                let (run, measured) = export::tests::sample(slower);
                read(name, &export::json(&run, &measured).to_string()).unwrap()
            })
            .to_vec()
    }

    #[test]
    fn figures_stand_side_by_side_with_their_ratios() {
        let rows = figures(&runs());
        let row = |name: &str| &rows.iter().find(|row| row.name == name).unwrap().cells;
        assert_eq!(*row("operations"), ["300", "300 (1.00x)"]);
        assert!(row("p99 µs")[1].ends_with("(2.00x)"), "{:?}", row("p99 µs"));
        assert_eq!(row("errors")[1], "1 (1.00x)");
        assert!(rows.iter().all(|row| !row.name.starts_with("reads")), "there were none");
    }

    #[test]
    fn stages_stand_side_by_side_where_a_run_asked_for_them() {
        assert_eq!(stages(&runs()), []);
        let (mut run, measured) = export::tests::sample(1);
        run.breakdown = Some(breakdown::tests::sample());
        let asked = Named { name: "c".into(), json: export::json(&run, &measured) };
        let rows = stages(&[asked.clone(), runs().remove(0), asked.clone()]);
        let row = |name: &str| &rows.iter().find(|row| row.name == name).unwrap().cells;
        assert_eq!(*row("wal_write p99 µs"), ["70", "-", "70 (1.00x)"]);
        assert_eq!(row("stages together, mean µs")[0], "100");
        assert_eq!(row("writes as clients saw them, mean µs")[0], "505");
        assert_eq!(rows[0].name, "parse p50 µs", "a write's order");
        assert!(rows.iter().all(|row| !row.name.starts_with("commit")), "none was counted");
        let parts = parts_of_mean_write(&asked);
        let counted: Vec<_> = parts.into_iter().filter(|(_, us)| *us > 0.0).collect();
        assert_eq!(counted, [("parse", 10.0), ("wal_write", 70.0), ("network", 20.0)]);
    }

    #[test]
    fn settings_that_differ_are_told() {
        let differing = settings(&runs(), true);
        let rate = Row { name: "rate".into(), cells: vec!["100.0".into(), "200.0".into()] };
        assert_eq!(differing, [rate]);
        let all = settings(&runs(), false);
        assert!(all.iter().any(|row| row.name == "clients" && row.cells == ["64", "64"]));
        assert!(all.iter().any(|row| row.name == "cpus"));
    }

    #[test]
    fn figures_of_an_older_version_are_compared_too() {
        let old = r#"{"ops":1,"errors":0,"rate_ops_s":1.0,"latency_us":{"p50":2.5,"p99":4.0}}"#;
        let runs = [read("old.json", old).unwrap(), runs().remove(0)];
        let rows = figures(&runs);
        assert_eq!(rows[3].cells[0], "2.5");
        assert_eq!(settings(&runs[..1], false), []);
    }

    #[test]
    fn what_is_no_run_is_told() {
        for (text, told) in [
            ("", "x.json is no JSON"),
            ("{}", "is not what"),
            (r#"{"sweep":{}}"#, "is a sweep"),
            (r#"{"rate_ops_s":1,"latency_us":{"p99":"fast"}}"#, "is not what"),
        ] {
            let error = read("x.json", text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
