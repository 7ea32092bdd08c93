//! Runs as one page of HTML that a browser shows from the file alone: what one run wrote, several side
//! by side, or a sweep. It reads the documents of [`super::export::json`], also those of older files,
//! and draws what they have. The page's own parts stand in `src/bench/page/`. Pure.

pub mod bars;
pub mod chart;

use serde_json::Value;

use super::compare::{self, Named, Row};
use bars::{Bar, Bars};
use chart::{Axis, Chart, Line, Scale, escape, tell_us};

/// The page of one run, or of several.
#[must_use]
pub fn of_runs(runs: &[Named]) -> String {
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let mut body = charts(runs);
    body += &table("Figures", "", runs, &compare::figures(runs));
    body += &stages(runs);
    if runs.len() > 1 {
        body += &table("Settings that differ", "plain", runs, &compare::settings(runs, true));
    }
    body += &table("Configuration and machine", "plain", runs, &compare::settings(runs, false));
    body += &commands(runs);
    document(&format!("oarlock bench: {}", names.join(", ")), &body)
}

/// The page of a sweep, from its document.
#[must_use]
pub fn of_sweep(sweep: &Value) -> String {
    let sweep = &sweep["sweep"];
    let steps: Vec<Named> = sweep["steps"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|json| {
            let rate = json.pointer("/config/rate").and_then(Value::as_f64).unwrap_or_default();
            Named { name: tell_rate(rate), json: json.clone() }
        })
        .collect();
    let knee = sweep["knee_rate_ops_s"].as_f64();
    let told =
        knee.map_or("there is none".to_owned(), |knee| format!("{} per second", tell_rate(knee)));
    let rule = sweep["rule"].as_str().unwrap_or_default();
    let mut body =
        format!("<p><b>Knee: {}.</b> By the rule: {}.</p>\n", escape(&told), escape(rule));
    body += &against_load(&steps, knee).svg();
    body += &curves(&steps).svg();
    body += &table("Figures at each rate", "", &steps, &compare::figures(&steps));
    body += &stages(&steps);
    let first = steps.get(..1).unwrap_or_default();
    body += &table("Configuration and machine", "plain", first, &compare::settings(first, false));
    body += &commands(first);
    document("oarlock bench sweep", &body)
}

/// A page of its own with this title and body, for what else is to be shown offline.
#[must_use]
pub fn document(title: &str, body: &str) -> String {
    let title = escape(title);
    let mut out = String::new();
    let mut rest = include_str!("page/page.html");
    for (mark, part) in [
        ("/*TITLE*/", title.as_str()),
        ("/*STYLE*/", include_str!("page/style.css")),
        ("/*TITLE*/", title.as_str()),
        ("/*BODY*/", body),
        ("/*SCRIPT*/", include_str!("page/script.js")),
    ] {
        let (before, after) = rest.split_once(mark).expect("invariant: the page has its marks");
        out += before;
        out += part;
        rest = after;
    }
    out + rest
}

fn charts(runs: &[Named]) -> String {
    let throughput = match runs {
        [run] => vec![over_time("answers", run, "rate_ops_s"), over_time("errors", run, "errors")],
        _ => runs.iter().map(|run| over_time(&run.name, run, "rate_ops_s")).collect(),
    };
    let (title, latency) = match runs {
        [run] => {
            let lines = [("p50", "p50_us"), ("p99", "p99_us"), ("max", "max_us")];
            let lines = lines.map(|(name, key)| over_time(name, run, key)).to_vec();
            ("Latency over time, by the second in which operations were due", lines)
        }
        _ => {
            let lines = runs.iter().map(|run| over_time(&run.name, run, "p99_us")).collect();
            ("p99 over time, by the second in which operations were due", lines)
        }
    };
    let time = Axis { label: "seconds of the window", scale: Scale::Linear, tell: tell_second };
    let latency = Chart { title, x: time, y: LATENCY, lines: latency, marks: Vec::new() };
    let throughput = Chart {
        title: "Throughput over time",
        x: time,
        y: Axis { label: "per second", scale: Scale::Linear, tell: tell_rate },
        lines: throughput,
        marks: Vec::new(),
    };
    curves(runs).svg() + &latency.svg() + &throughput.svg()
}

const LATENCY: Axis = Axis { label: "latency", scale: Scale::Log, tell: tell_us };

fn curves(runs: &[Named]) -> Chart {
    let kinds: &[(&str, &str)] = match runs {
        [_] => &[
            ("all", "latency_percentiles_us"),
            ("reads", "read_latency_percentiles_us"),
            ("writes", "write_latency_percentiles_us"),
        ],
        _ => &[("", "latency_percentiles_us")],
    };
    let mut lines = Vec::new();
    for run in runs {
        for (kind, key) in kinds {
            let points = run.json[key].as_array().into_iter().flatten();
            let point = |point: &Value| Some((point.get(0)?.as_f64()?, point.get(1)?.as_f64()?));
            let points: Vec<(f64, f64)> = points.filter_map(point).collect();
            // A curve of nothing tells nothing, but a run among others is named even so.
            if !points.is_empty() || kind.is_empty() {
                let name = if kind.is_empty() { run.name.as_str() } else { kind };
                lines.push(Line { name: name.to_owned(), points });
            }
        }
    }
    Chart {
        title: "Latency by percentile",
        x: Axis { label: "percentile", scale: Scale::Tail, tell: tell_percentile },
        y: LATENCY,
        lines,
        marks: Vec::new(),
    }
}

fn against_load(steps: &[Named], knee: Option<f64>) -> Chart {
    let line = |name: &str, place: &str| {
        let point = |step: &Named| {
            let rate = step.json.pointer("/config/rate")?.as_f64()?;
            Some((rate, step.json.pointer(place)?.as_f64()?))
        };
        Line { name: name.to_owned(), points: steps.iter().filter_map(point).collect() }
    };
    Chart {
        title: "Latency against load",
        x: Axis { label: "operations due per second", scale: Scale::Log, tell: tell_rate },
        y: LATENCY,
        lines: vec![
            line("p50", "/latency_us/p50"),
            line("p99", "/latency_us/p99"),
            line("p99.9", "/latency_us/p999"),
            line("generator late, p99", "/generator_late_us/p99"),
        ],
        marks: knee.map(|knee| (knee, format!("knee: {}", tell_rate(knee)))).into_iter().collect(),
    }
}

fn over_time(name: &str, run: &Named, key: &str) -> Line {
    let seconds = run.json["series"].as_array().into_iter().flatten();
    let point = |second: &Value| Some((second["second"].as_f64()?, second[key].as_f64()?));
    Line { name: name.to_owned(), points: seconds.filter_map(point).collect() }
}

/// Where the time of writes went on the servers, of those runs that asked for it.
fn stages(runs: &[Named]) -> String {
    let rows = compare::stages(runs);
    if rows.is_empty() {
        return String::new();
    }
    let figure = |run: &Named, key: &str| run.json["breakdown"][key].as_f64();
    let bar = |run: &Named| {
        let (server, clients) =
            (figure(run, "together_mean_us")?, figure(run, "clients_write_mean_us")?);
        let forwarded = 100.0 * figure(run, "forwarded_share")?;
        let name = format!(
            "{}: {} together; clients saw {} (dashed). {forwarded:.0} % went from node to node",
            run.name,
            tell_us(server),
            tell_us(clients)
        );
        Some(Bar { name, parts: compare::parts_of_mean_write(run), mark: Some(clients) })
    };
    let bars: Vec<Bar> = runs.iter().filter_map(bar).collect();
    let title = "The mean write on the servers";
    let drawn =
        if bars.is_empty() { String::new() } else { Bars { title, tell: tell_us, bars }.svg() };
    table("Stages of a write", "", runs, &rows) + &drawn
}

fn tell_second(second: f64) -> String {
    let text = format!("{second:.2}");
    format!("{} s", text.trim_end_matches('0').trim_end_matches('.'))
}

fn tell_percentile(percentile: f64) -> String {
    let text = format!("{percentile:.5}");
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

fn tell_rate(rate: f64) -> String {
    if rate >= 10_000.0 {
        let text = format!("{:.1}", rate / 1000.0);
        format!("{}k", text.trim_end_matches(".0"))
    } else {
        format!("{rate:.0}")
    }
}

fn table(title: &str, class: &str, runs: &[Named], rows: &[Row]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = &String>| {
        cells.map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect::<String>()
    };
    let head = cells("th", &mut runs.iter().map(|run| &run.name));
    let rows: String = rows
        .iter()
        .map(|row| {
            let name = escape(&row.name);
            format!("<tr><td>{name}</td>{}</tr>\n", cells("td", &mut row.cells.iter()))
        })
        .collect();
    let title = escape(title);
    format!(
        "<h2>{title}</h2>\n<div class=\"wide\"><table class=\"{class}\"><tr><th></th>{head}</tr>\n\
         {rows}</table></div>\n"
    )
}

fn commands(runs: &[Named]) -> String {
    let mut out = String::new();
    for run in runs {
        let words = run.json["command"].as_array().into_iter().flatten();
        let words: Vec<&str> = words.filter_map(Value::as_str).collect();
        if !words.is_empty() {
            out += &format!("<p><code>{}</code></p>\n", escape(&words.join(" ")));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::{breakdown, export, sweep};
    use super::*;

    fn run(name: &str, slower: u64) -> Named {
        let (run, measured) = export::tests::sample(slower);
        Named { name: name.to_owned(), json: export::json(&run, &measured) }
    }

    /// The names of a page's lines that have points.
    fn lines(page: &str) -> Vec<&str> {
        let lines = page.split("<polyline").skip(1).map(|line| line.split("/>").next().unwrap());
        let drawn = lines.filter(|line| !line.contains("points=\"\""));
        drawn
            .map(|line| line.split("data-name=\"").nth(1).unwrap().split('"').next().unwrap())
            .collect()
    }

    /// Nothing that a browser would fetch.
    fn check_self_contained(page: &str) {
        for fetch in ["http:", "https:", "src=", "href=", "url(", "@import", "fetch(", "<link"] {
            assert!(!page.contains(fetch), "the page has {fetch}");
        }
        assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
        assert!(!page.contains("/*"), "a mark is left");
        let drawn = page.split("<script>").next().unwrap();
        assert!(!drawn.contains("NaN") && !drawn.contains("inf,"), "a point has no place");
    }

    #[test]
    fn a_run_s_page_holds_its_curves_its_settings_and_its_machine() {
        let page = of_runs(&[run("mine", 1)]);
        check_self_contained(&page);
        let drawn = ["all", "writes", "p50", "p99", "max", "answers", "errors"];
        assert_eq!(lines(&page), drawn);
        assert!(page.contains("<td>clients</td><td>64</td>"));
        assert!(page.contains("<td>kernel</td>") && page.contains("bench --rate 100"));
        assert!(page.contains("100 %: 1 ms"), "the longest of the curve");
    }

    #[test]
    fn no_two_places_of_a_time_axis_are_told_alike() {
        // Of a run of a few seconds the axis has halves of them.
        assert_eq!(
            [0.0, 0.5, 1.0, 1.5, 20.0].map(tell_second),
            ["0 s", "0.5 s", "1 s", "1.5 s", "20 s"]
        );
        let mut short = run("mine", 1);
        short.json["series"].as_array_mut().unwrap().truncate(3);
        let page = of_runs(&[short]);
        let chart = page.split("<figure>").find(|chart| chart.contains("seconds of the window"));
        let below =
            |text: &str| text.split('<').next().unwrap().rsplit('>').next().unwrap().to_owned();
        let told: Vec<String> =
            chart.unwrap().split("<text class=\"below\"").skip(1).map(below).collect();
        assert!(told.len() > 4 && told.iter().all(|text| text.ends_with(" s")), "{told:?}");
        assert!(told.windows(2).all(|two| two[0] != two[1]), "{told:?}");
    }

    #[test]
    fn several_runs_stand_side_by_side() {
        let page = of_runs(&[run("a.json", 1), run("<b>.json", 2)]);
        check_self_contained(&page);
        let two = ["a.json", "&lt;b&gt;.json"];
        assert_eq!(lines(&page), [two, two, two].concat());
        assert!(page.contains("(2.00x)") && page.contains("Settings that differ"));
        assert!(!page.contains("<b>.json"));
    }

    #[test]
    fn stages_are_drawn_and_told_for_the_runs_that_asked() {
        let (mut asked, measured) = export::tests::sample(1);
        asked.breakdown = Some(breakdown::tests::sample());
        let asked = Named { name: "<asked>".into(), json: export::json(&asked, &measured) };
        let plain = run("plain", 1);
        let page = of_runs(&[plain.clone(), asked.clone()]);
        check_self_contained(&page);
        assert!(page.contains("<td>wal_write p99 µs</td><td>-</td><td>70</td>"), "{page}");
        assert!(page.contains("<title>network: 20 µs, 20 %</title>"), "{page}");
        assert!(page.contains("&lt;asked&gt;: 100 µs together; clients saw 505"), "{page}");
        assert_eq!(page.matches("<rect").count(), 9, "a part for each stage, of one run");
        assert!(!of_runs(&[plain]).contains("Stages"), "nobody asked");
        let steps = vec![run("", 1).json, asked.json];
        assert!(of_sweep(&sweep::json(&[], 3.0, steps)).contains("<title>network: 20 µs, 20 %"));
    }

    #[test]
    fn a_file_without_curves_still_makes_a_page() {
        let old = r#"{"ops":1,"errors":0,"rate_ops_s":1.0,"latency_us":{"p50":2.5,"p99":4.0}}"#;
        let page = of_runs(&[compare::read("old.json", old).unwrap()]);
        check_self_contained(&page);
        assert!(page.contains("<td>p99 µs</td><td>4</td>"));
    }

    #[test]
    fn a_sweep_s_page_names_the_knee() {
        let found = [100.0, 200.0].map(|rate| sweep::Step {
            offered: rate,
            achieved: rate,
            p99_us: rate * rate,
            errors: 0,
        });
        let steps = vec![run("", 1).json, run("", 2).json];
        let page = of_sweep(&sweep::json(&found, 3.0, steps));
        check_self_contained(&page);
        assert!(page.contains("Knee: 100 per second") && page.contains(">knee: 100</text>"));
        let drawn = ["p50", "p99", "p99.9", "generator late, p99", "100", "200"];
        assert_eq!(lines(&page), drawn);
    }
}
