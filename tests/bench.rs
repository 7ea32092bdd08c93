//! `oarlock bench` as a script sees it, against a real node: what it prints, what it writes, its
//! exit codes.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

#[path = "../shards/sim/tests/chromium/mod.rs"]
mod chromium;
mod common;
mod hdr_log;
mod paced;

use std::path::Path;
use std::process::{Command, Output};

use chromium::browser;
use common::{Cluster, Options, PROGRAM, folder, turn};
use serde_json::{Value, json};

fn node(name: &str) -> (Cluster, String) {
    let cluster =
        Cluster::start(name, Options { nodes: 1, cores: 1, ranges: 4, ..Options::default() });
    let address = cluster.local.node(1).client_address.to_string();
    (cluster, address)
}

fn bench(args: &[&str]) -> Output {
    Command::new(PROGRAM).arg("bench").args(args).output().unwrap()
}

/// A run against a node: short, with few keys.
#[track_caller]
fn run(address: &str, args: &[&str], code: i32) -> (String, String) {
    let short = ["--addr", address, "--keys", "200", "--clients", "4", "--warmup-seconds", "0.1"];
    let short = [&short[..], args].concat();
    let output = bench(&short);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(code), "{args:?}\n{out}\n{err}");
    (out, err)
}

fn json(file: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

#[test]
fn conditions_decide_how_a_run_ends() {
    let (_cluster, address) = node("bench-assert");
    let short = ["--seconds", "0.3", "--assert"];
    run(&address, &[&short[..], &["p99<9s,errors==0", "--assert", "rate>1"]].concat(), 0);
    let (out, err) = run(&address, &[&short[..], &["p50<1ns,errors==0,rate>1M"]].concat(), 1);
    assert!(out.contains("operations in"), "the figures are told even so: {out}");
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(lines.len(), 2, "{err}");
    assert!(lines[0].starts_with("oarlock bench: p50<1ns does not hold: it was "), "{err}");
    assert!(lines[1].starts_with("oarlock bench: rate>1M does not hold: it was "), "{err}");
    let (out, err) = run(&address, &[&short[..], &["p99<2"]].concat(), 2);
    assert!(out.is_empty() && err.contains("a time without a unit"), "{err}");
}

#[test]
fn a_breakdown_tells_where_the_time_of_writes_went() {
    let cluster = Cluster::start("bench-stages", Options { cores: 1, ..Options::default() });
    let address = cluster.local.node(1).client_address.to_string();
    let folder = folder("bench-stages");
    let (file, page) = (folder.path().join("run.json"), folder.path().join("run.html"));
    let files = ["--json", file.to_str().unwrap(), "--html", page.to_str().unwrap()];
    let (out, _) = run(&address, &[&["--breakdown", "--seconds", "2"], &files[..]].concat(), 0);
    let all = json(&file);
    let stages = all["breakdown"]["stages_us"].as_object().unwrap();
    let wanted = [
        "parse",
        "inbox",
        "propose",
        "wal_wait",
        "wal_write",
        "commit",
        "apply",
        "reply",
        "total",
        "network",
    ];
    let mut names: Vec<&str> = stages.keys().map(String::as_str).collect();
    names.sort_by_key(|name| wanted.iter().position(|wanted| wanted == name));
    assert_eq!(names, wanted);
    for name in wanted {
        assert!(stages[name]["count"].as_u64().unwrap() > 0, "{name} was timed: {out}");
        assert!(out.lines().any(|line| line.trim_start().starts_with(name)), "{name}: {out}");
    }
    // One of sixteen, on either side; and only in the window.
    let timed = stages["total"]["count"].as_f64().unwrap();
    let writes = all["writes"].as_f64().unwrap();
    assert!((writes / 24.0..writes / 12.0).contains(&timed), "{timed} of {writes}");
    // Two of three leaders are on other nodes.
    let forwarded = all["breakdown"]["forwarded_share"].as_f64().unwrap();
    assert!((0.4..0.9).contains(&forwarded), "{forwarded}");
    // What the server saw of a write, its clients waited for.
    let (server, client) =
        (stages["total"]["p50"].as_f64(), all["write_latency_us"]["p50"].as_f64());
    assert!(server.unwrap() < client.unwrap() * 1.1, "{server:?} of {client:?}");
    assert!(stages["wal_write"]["p50"].as_f64() < server, "a disk is part of it");
    let compared = bench(&["compare", files[1], files[1]]);
    let compared = String::from_utf8(compared.stdout).unwrap();
    let row = compared.lines().find(|line| line.starts_with("wal_write p99 µs")).unwrap();
    let p99 = stages["wal_write"]["p99"].to_string();
    assert!(row.contains(&p99) && row.ends_with(&format!("{p99} (1.00x)")), "{compared}");
    check_in_a_browser(&page, &all);
}

/// The stages stand on the page as the run's document has them, and the pointer finds what it tells.
fn check_in_a_browser(page: &Path, all: &Value) {
    let Some(mut browser) = browser("bench") else { return };
    browser.open(page);
    let row = "[...document.querySelectorAll('tr')].find(row =>
        row.cells[0].textContent === 'wal_write p99 µs').cells[1].textContent";
    let stages = &all["breakdown"]["stages_us"];
    assert_eq!(browser.value(row), stages["wal_write"]["p99"].to_string());
    let names =
        browser.value("[...document.querySelectorAll('.bars rect')].map(r => r.dataset.name)");
    let of_write =
        ["parse", "inbox", "propose", "wal_wait", "wal_write", "commit", "apply", "reply"];
    assert_eq!(names, json!([&of_write[..], &["network"]].concat()));
    // A part is as long beside another as it is in the mean write.
    let width = |name: &str| {
        format!("document.querySelector('[data-name={name}]').getBoundingClientRect().width")
    };
    let drawn = browser.value(&format!("{} / {}", width("wal_write"), width("reply")));
    let part = |name: &str| stages[name]["part_of_mean_write"].as_f64().unwrap();
    let measured = part("wal_write") / part("reply");
    assert!((drawn.as_f64().unwrap() / measured - 1.0).abs() < 0.1, "{drawn} for {measured}");
    // Each figure in turn under the pointer: charts tell their values, bars their parts.
    let figures = browser.value("document.querySelectorAll('figure').length").as_u64().unwrap();
    assert_eq!(figures, 4);
    for figure in 0..figures {
        let middle = browser.value(&format!(
            "(() => {{ const svg = document.querySelectorAll('figure svg')[{figure}];
                svg.scrollIntoView({{block: 'center'}}); const box = svg.getBoundingClientRect();
                return [box.x + box.width / 3, box.y + box.height * 0.6]; }})()"
        ));
        let (x, y) = (middle[0].as_f64().unwrap(), middle[1].as_f64().unwrap());
        browser.mouse("mouseMoved", x, y, &json!({}));
        let told = browser.value(&format!(
            "(figure => figure.className === 'bars'
                ? document.elementFromPoint({x}, {y}).textContent
                : figure.querySelector('.told').textContent
            )(document.querySelectorAll('figure')[{figure}])"
        ));
        assert!(told.as_str().unwrap().contains(": "), "figure {figure} tells {told}");
    }
    browser.mouse("mouseMoved", 0.0, 0.0, &json!({}));
    assert_eq!(browser.thrown, Vec::<String>::new());
}

#[test]
fn a_run_is_written_whole_in_every_format() {
    let (_cluster, address) = node("bench-files");
    let folder = folder("bench-files");
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (all, rows, log) = (file("a.json"), file("a.csv"), file("a.hdr"));
    let args = ["--rate", "500", "--seconds", "1.5", "--read-share", "0.5", "--load-first"];
    let args = [&args[..], &["--json", &all, "--csv", &rows, "--hdr", &log]].concat();
    run(&address, &args, 0);
    let json = json(all.as_ref());
    assert_eq!(json["ops"], 750);
    assert_eq!(
        (&json["config"]["rate"], &json["config"]["pipeline"]),
        (&500.0.into(), &256.into())
    );
    let series = json["series"].as_array().unwrap();
    assert_eq!(series.len(), 2);
    let answered: u64 = series.iter().map(|second| second["ops"].as_u64().unwrap()).sum();
    assert!(answered > 0 && answered <= 750 + 50, "{answered}");
    assert!(series.iter().all(|second| second["p99_us"].as_f64().unwrap() > 0.0), "{series:?}");
    let curve = json["latency_percentiles_us"].as_array().unwrap();
    assert_eq!(curve.last().unwrap()[1], json["latency_us"]["max"]);
    assert_eq!(std::fs::read_to_string(rows).unwrap().lines().count(), 3);
    check_hdr_log(&hdr_log::read(&std::fs::read_to_string(log).unwrap()), &json);
}

/// The log says of each second what the run's document says of it.
#[track_caller]
fn check_hdr_log(log: &hdr_log::Log, json: &Value) {
    assert_eq!(log.version, "1.3");
    let started = json["started_unix_s"].as_f64().unwrap();
    let warmup = json["config"]["warmup_seconds"].as_f64().unwrap();
    let start = log.start_time.unwrap() - started - warmup;
    assert!((-0.001..1.001).contains(&start) && log.base_time == log.start_time, "{log:?}");
    let series = json["series"].as_array().unwrap();
    assert_eq!(log.intervals.len(), series.len());
    for (at, (interval, second)) in log.intervals.iter().zip(series).enumerate() {
        let figure = |name: &str| second[name].as_f64().unwrap_or_default();
        assert_eq!((interval.start_s, interval.length_s), (at as f64, figure("length_s")));
        for (share, name) in [(0.5, "p50_us"), (0.9, "p90_us"), (0.99, "p99_us"), (1.0, "max_us")] {
            let us = interval.histogram.quantile(share) as f64 / 1e3;
            assert!((us - figure(name)).abs() < 0.051, "{name} of second {at}: {us} in {second}");
        }
        assert!((interval.max - figure("max_us") / 1e3).abs() < 0.001, "{}", interval.max);
        assert_eq!(
            (interval.tag.as_deref(), interval.histogram.max() > 0),
            (None, figure("ops") > 0.0)
        );
    }
    let due: u64 = log.intervals.iter().map(|interval| interval.histogram.count()).sum();
    assert_eq!(due, json["ops"].as_u64().unwrap());
}

#[test]
fn a_second_without_an_operation_has_an_empty_histogram() {
    let (_cluster, address) = node("bench-idle");
    let folder = folder("bench-idle");
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (all, log) = (file("a.json"), file("a.hdr"));
    run(&address, &["--rate", "0.5", "--seconds", "3", "--json", &all, "--hdr", &log], 0);
    let log = hdr_log::read(&std::fs::read_to_string(log).unwrap());
    assert!(log.intervals.iter().any(|interval| interval.histogram.count() == 0), "{log:?}");
    check_hdr_log(&log, &json(all.as_ref()));
}

#[test]
fn what_a_server_uses_is_told_for_each_operation() {
    let (cluster, address) = node("bench-pid");
    let folder = folder("bench-pid");
    let file = folder.path().join("a.json");
    let pid = cluster.local.node(1).pid().unwrap().to_string();
    let args = ["--seconds", "1", "--json", file.to_str().unwrap(), "--pid", &pid];
    let (out, _) = run(&address, &args, 0);
    assert!(out.contains("1 processes: "), "{out}");
    let used = json(&file)["used"].clone();
    assert_eq!(used["processes"][0]["pid"].to_string(), pid);
    let figure = |name: &str| used[name].as_f64().unwrap();
    assert!(figure("servers_cpu_us_per_op") > 1.0 && figure("generator_cpu_us_per_op") > 1.0);
    // Four clients' values at least; each is on the disk before it is acknowledged.
    assert!(figure("servers_written_bytes_per_op") > 128.0, "{used}");
    let (_, err) = run(&address, &["--pid", "4294967295"], 1);
    assert!(err.contains("/proc/4294967295"), "{err}");
}

#[test]
fn every_preset_and_distribution_runs_without_an_error() {
    let (_cluster, address) = node("bench-presets");
    let folder = folder("bench-presets");
    let file = folder.path().join("a.json");
    let to_file = ["--seconds", "0.5", "--json", file.to_str().unwrap()];
    for preset in ["ycsb-a", "ycsb-b", "ycsb-c", "ycsb-d", "ycsb-e", "ycsb-f", "write-only"] {
        run(&address, &[&to_file[..], &["--preset", preset]].concat(), 0);
        let json = json(&file);
        let (reads, writes) = (json["reads"].as_u64().unwrap(), json["writes"].as_u64().unwrap());
        assert_eq!(reads > 0, preset != "write-only", "{preset}: {reads} reads");
        assert_eq!(writes > 0, preset != "ycsb-c", "{preset}: {writes} writes");
        assert_eq!(json["config"]["preset"], preset);
    }
    for distribution in ["uniform", "zipfian", "latest", "sequential", "hot-spot"] {
        let args = ["--distribution", distribution, "--value-bytes", "8..64", "--threads", "2"];
        run(&address, &[&to_file[..], &args].concat(), 0);
        assert_eq!(json(&file)["config"]["distribution"], distribution);
    }
    let (_, err) = run(&address, &["--preset", "ycsb-a", "--read-share", "0.5"], 2);
    assert!(err.contains("--preset"), "{err}");
}

/// A page that fetches nothing and has these lines.
#[track_caller]
fn check_page(file: &str, lines: &[&str]) {
    let page = std::fs::read_to_string(file).unwrap();
    for fetch in ["http:", "https:", "src=", "href=", "url("] {
        assert!(!page.contains(fetch), "{file} has {fetch}");
    }
    for line in lines {
        assert!(page.contains(&format!("data-name=\"{line}\" data-told=\"0")), "{file}: {line}");
    }
}

#[test]
fn runs_are_compared_and_drawn() {
    let (_cluster, address) = node("bench-compare");
    let folder = folder("bench-compare");
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (a, b, one, both) = (file("a.json"), file("b.json"), file("one.html"), file("both.html"));
    run(&address, &["--rate", "200", "--seconds", "0.5", "--json", &a, "--html", &one], 0);
    run(&address, &["--rate", "400", "--seconds", "0.5", "--json", &b], 0);
    check_page(&one, &["all", "p50", "p99", "max", "answers", "errors"]);
    let output = bench(&["compare", &a, &b, "--html", &both]);
    let out = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{out}");
    let has = |name: &str, cell: &str| {
        out.lines().any(|line| line.starts_with(name) && line.contains(cell))
    };
    assert!(has("operations", "200 (2.00x)") && has("rate", "400.0"), "{out}");
    check_page(&both, &[&a, &b]);
    let output = bench(&["compare", &a, &one]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("one.html is no JSON"));
    assert_eq!(bench(&["compare", &a]).status.code(), Some(2), "one run compares with nothing");
}

#[test]
fn a_sweep_rises_and_names_the_knee() {
    let (_cluster, address) = node("bench-sweep");
    let folder = folder("bench-sweep");
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (all, page) = (file("a.json"), file("a.html"));
    let short =
        ["--addr", &address, "--keys", "200", "--seconds", "0.4", "--warmup-seconds", "0.1"];
    // So high a ratio that no hiccup of the machine looks like a knee.
    let rates = ["--from", "100", "--to", "400", "--factor", "2", "--knee-ratio", "1e6"];
    let output =
        bench(&[&["sweep"], &short[..], &rates, &["--json", &all, "--html", &page]].concat());
    let out = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{out}");
    let rows: Vec<&str> = out.lines().collect();
    assert!(rows[0].starts_with("due/s") && rows[1].trim().starts_with("100 "), "{out}");
    assert!(rows[3].trim().starts_with("400 ") && rows[3].ends_with("<- knee"), "{out}");
    assert!(out.contains("Knee: 400 per second") && out.contains("By the rule: "), "{out}");
    let json = json(all.as_ref());
    assert_eq!(json["sweep"]["knee_rate_ops_s"], 400.0);
    assert_eq!(json["sweep"]["steps"].as_array().unwrap().len(), 3);
    assert!(std::fs::read_to_string(&page).unwrap().contains(">knee: 400</text>"));
    check_page(&page, &[]);
    for wrong in [["--rate", "5"], ["--to", "5"]] {
        let output = bench(&[&["sweep"], &wrong[..]].concat());
        assert_eq!(output.status.code(), Some(2));
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(err.starts_with("oarlock bench sweep: ") && err.contains(wrong[0]), "{err}");
    }
}

/// The rates lie on both sides of what the server can: of the second, 3 % too many, nearly all is
/// answered, but ever later; the third it does not answer.
#[test]
fn a_sweep_finds_the_knee_of_a_server_of_known_capacity() {
    const CAPACITY: f64 = 200.0;
    const FACTOR: f64 = 1.25;
    let _turn = turn();
    let address = paced::serve(200).to_string();
    let folder = folder("bench-knee");
    let all = folder.path().join("a.json");
    let load = ["--addr", &address, "--clients", "4", "--seconds", "3", "--warmup-seconds", "0.1"];
    let rates = ["--from", "165", "--to", "1000", "--factor", "1.25", "--arrival", "fixed"];
    let args = [&["sweep"], &load[..], &rates, &["--json", all.to_str().unwrap()]].concat();
    let mut tries = 0;
    let (out, sweep) = loop {
        let output = bench(&args);
        let out = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{out}");
        let sweep = json(&all)["sweep"].clone();
        // Below its capacity this server takes 5 ms for each: where it took more, it had no CPU, and
        // its capacity was not what is known of it.
        let below_us = sweep["steps"][0]["latency_us"]["p99"].as_f64().unwrap();
        tries += 1;
        if below_us < 20_000.0 {
            break (out, sweep);
        }
        if tries == 4 {
            println!("left out: this machine gave the server no CPU in four sweeps: {out}");
            return;
        }
    };
    let knee = sweep["knee_rate_ops_s"].as_f64().expect(&out);
    assert!(knee <= CAPACITY && CAPACITY < knee * FACTOR, "{knee} of {CAPACITY}: {out}");
    assert!(out.contains(&format!("Knee: {knee} per second")), "{out}");
    // The last rate is far beyond: what was answered of it is the capacity itself.
    assert_eq!(sweep["is_saturated"], true, "{out}");
    let last = sweep["steps"].as_array().unwrap().last().unwrap();
    let answered = last["rate_ops_s"].as_f64().unwrap();
    assert!((0.9..1.02).contains(&(answered / CAPACITY)), "{answered} of {CAPACITY}: {out}");
}

#[cfg(not(feature = "etcd"))]
#[test]
fn a_build_without_etcd_says_how_to_make_one_with_it() {
    let output = bench(&["--target", "etcd", "--addr", "127.0.0.1:1"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("cargo build --release --features etcd"), "{error}");
}
