//! Runs side by side, from what each wrote with `--json`: their figures with ratios to the first, and
//! where their settings differ. Pure.

use std::collections::BTreeSet;

use serde_json::Value;

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
const FIGURES: [(&str, &str); 20] = [
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
    ("generator's CPU µs per operation", "/used/generator_cpu_us_per_op"),
];

/// Settings that say what is written and watched, and nothing of the load.
const OUTPUTS: [&str; 6] = ["json", "csv", "hdr", "html", "conditions", "pids"];

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
    let mut rows = Vec::new();
    for (name, place) in FIGURES {
        let found: Vec<Option<f64>> =
            runs.iter().map(|run| run.json.pointer(place).and_then(Value::as_f64)).collect();
        let is_told = place.matches('/').count() == 1;
        if !is_told && found.iter().all(|value| value.is_none_or(|value| value == 0.0)) {
            continue;
        }
        let first = found.first().copied().flatten().filter(|first| *first > 0.0);
        let cell = |(at, value): (usize, &Option<f64>)| match (value, first) {
            (None, _) => "-".to_owned(),
            (Some(value), Some(first)) if at > 0 => {
                format!("{} ({:.2}x)", plain(*value), value / first)
            }
            (Some(value), _) => plain(*value),
        };
        let cells = found.iter().enumerate().map(cell).collect();
        rows.push(Row { name: name.to_owned(), cells });
    }
    rows
}

fn plain(value: f64) -> String {
    if value < 100.0 && value.fract() != 0.0 {
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
    use super::super::export;
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
