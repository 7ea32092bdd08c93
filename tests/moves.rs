//! `oarlock bench moves` with small numbers: every kind of change is made on real processes, and the tables and the
//! file tell of each.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::process::{Command, Output};

use common::{PROGRAM, folder, turn};
use serde_json::Value;

/// Runs it; the lines of its tables, each as its cells, and its file.
fn moves(args: &[&str]) -> (Output, Vec<Vec<String>>, Value) {
    let folder = folder("moves");
    let file = folder.path().join("moves.json");
    let output = Command::new(PROGRAM)
        .args(["bench", "moves", "--quick", "--dir", folder.path().to_str().unwrap()])
        .args(["--json", file.to_str().unwrap()])
        .args(args)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let cells = |line: &str| {
        let inside = line.trim_start_matches('|').trim_end_matches('|');
        inside.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let rows = text.lines().filter(|line| !line.is_empty()).map(cells).collect();
    let json = std::fs::read_to_string(&file)
        .map_or(Value::Null, |text| serde_json::from_str(&text).unwrap());
    let kept: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(kept.iter().all(|path| *path == file), "it cleans up after itself: {kept:?}");
    (output, rows, json)
}

#[test]
fn every_kind_of_change_is_measured() {
    let _turn = turn();
    let (output, rows, json) = moves(&["--only", "split,move,transfer,core"]);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{err}");
    let row = |name: &str| {
        let found = rows.iter().find(|row| row[0] == name);
        found.unwrap_or_else(|| panic!("no row {name}: {rows:?}"))[1..].to_vec()
    };
    let numbers =
        |name: &str| -> Vec<f64> { row(name).iter().map(|cell| cell.parse().unwrap()).collect() };
    let kinds = ["split", "1 MiB to another node", "leader transfer", "1 MiB to another core"];
    assert_eq!(row("of writes around a change"), kinds);
    assert_eq!(numbers("how often"), [3.0, 2.0, 3.0, 2.0]);
    assert_eq!(numbers("writes refused"), [0.0; 4]);
    for name in [
        "takes, median, ms",
        "quiet: p99 of writes, ms",
        "meanwhile: p99 of writes, ms",
        "meanwhile: longest gap between answers, median, ms",
    ] {
        assert!(numbers(name).iter().all(|ms| (0.01..60_000.0).contains(ms)), "{name}: {rows:?}");
    }
    let (typical, longest) =
        (numbers("meanwhile: p99 of writes, ms"), numbers("meanwhile: slowest write, ms"));
    assert!(typical.iter().zip(&longest).all(|(typical, longest)| typical <= longest), "{rows:?}");
    for change in json["figures"]["changes"].as_array().unwrap() {
        let times = change["times"].as_u64().unwrap();
        assert_eq!(change["each"].as_array().unwrap().len() as u64, times);
        // 200 writes a second are due for 600 ms at least around each.
        assert!(change["around"]["writes"].as_u64().unwrap() >= 60 * times, "{change:#}");
    }
    assert!(err.contains("transfer: 3 of 3: from node "), "{err}");
}

#[test]
fn writes_to_more_ranges_and_more_nodes_are_measured() {
    let _turn = turn();
    let (output, rows, json) = moves(&["--only", "nodes,ranges"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let heads: Vec<_> =
        rows.iter().filter(|row| row[0] == "ranges" || row[0] == "nodes").cloned().collect();
    assert_eq!(heads, [["ranges", "1", "16"], ["nodes", "3", "4"]]);
    for (kind, due) in [("ranges", [200, 200]), ("nodes", [150, 200])] {
        let columns = json["figures"][kind].as_array().unwrap();
        assert_eq!(columns.len(), 2);
        for (column, due) in columns.iter().zip(due) {
            assert_eq!(column["due_per_s"], due);
            let window = &column["windows"][0];
            assert_eq!(window["errors"], serde_json::json!({}), "{window}");
            assert!(window["answered_per_s"].as_f64().unwrap() > 0.0, "{window}");
            let cpu_us = window["cpu_us_per_write"].as_f64().unwrap();
            assert!((1.0..1e6).contains(&cpu_us), "{window}");
        }
    }
    assert_eq!(json["figures"]["changes"].as_array().unwrap().len(), 0, "they were not asked for");
}

#[test]
fn what_cannot_be_measured_is_said() {
    let (output, rows, json) = moves(&["--only", "everything"]);
    assert_eq!((output.status.code(), rows.len(), json), (Some(2), 0, Value::Null));
    assert!(
        String::from_utf8_lossy(&output.stderr)
            .contains("split, move, transfer, core, ranges, nodes")
    );
}
