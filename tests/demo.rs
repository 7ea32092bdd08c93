//! `oarlock demo --scale`, with small numbers: a cluster grows, shrinks and loses a node under load, and what
//! the demo tells of it is so.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::fs;
use std::process::Command;

use serde_json::Value;

#[test]
fn a_map_moves_and_nothing_is_lost() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = folder.path().join("figures.json");
    let output = Command::new(env!("CARGO_BIN_EXE_oarlock"))
        .args(["demo", "--scale", "--rate", "400", "--seconds", "1", "--cores-per-node", "1"])
        .arg("--json")
        .arg(&file)
        .output()
        .unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("ranges on nodes 1, 4, 5"), "{text}");
    assert!(text.contains("longest pause of writes") && text.ends_with("demo: ok\n"), "{text}");
    let figures: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!((&figures["ok"], &figures["violations"]), (&true.into(), &0.into()));
    assert!(figures["acknowledged"].as_u64().unwrap() > 500, "{figures}");
    let stages = figures["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 6, "{figures}");
    for stage in stages {
        assert!(stage["rate_ops_s"].as_f64().unwrap() > 0.0, "{stage}");
        assert!(stage["p99_ms"].as_f64().unwrap() > 0.0, "{stage}");
        assert!(stage["write_pause_max_ms"].as_f64().unwrap() > 0.0, "{stage}");
    }
    let killed = &stages[4];
    assert!(killed["stage"].as_str().unwrap().contains("killed"), "{killed}");
    assert!(
        killed["took_ms"].as_f64().unwrap() > 3_000.0,
        "it counts as gone after that: {killed}"
    );
}

#[test]
fn what_scale_begins_with_is_not_for_choice() {
    let output = Command::new(env!("CARGO_BIN_EXE_oarlock"))
        .args(["demo", "--scale", "--nodes", "5"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("cannot be used with"));
}
