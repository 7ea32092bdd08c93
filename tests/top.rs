//! `oarlock top` against a running cluster, as scripts see it.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::process::Command;

use common::{Cluster, Load, Options, PROGRAM, Shape, eventually};

/// A number in a text, before these words.
fn number_before(text: &str, words: &str) -> u64 {
    let before = text.split(words).next().unwrap();
    before.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn nodes_ranges_load_and_moves_are_told_of_a_cluster_that_loses_a_node() {
    let mut cluster = Cluster::start("top", Options { nodes: 4, ranges: 8, ..Options::default() });
    let load = Load::start(&cluster, &Shape { rate: 500, ..Shape::default() });
    load.progress(100);
    let top = |cluster: &Cluster| {
        let (code, text) = cluster.command(2, &["top", "--once", "--interval-ms", "500"]);
        assert_eq!(code, Some(0), "{text}");
        text
    };
    eventually("load that is seen", || {
        let text = top(&cluster);
        let is_told = text.starts_with("4 of 4 nodes up   8 ranges, 0 without a leader")
            && number_before(&text, " writes/s") > 50
            && number_before(&text, " reads/s") > 50
            && !text.contains("writes p99 - ms");
        if is_told { Ok(()) } else { Err(text) }
    });
    let (code, text) = cluster.command(1, &["node", "drain", "4"]);
    assert_eq!(code, Some(0), "{text}");
    let text = top(&cluster);
    let drained = text.lines().find(|line| line.starts_with("n4 ")).unwrap();
    assert!(drained.contains("up, draining") && drained.ends_with("c 0/0 0/0"), "{text}");
    let keys: u64 = text
        .lines()
        .filter(|line| line.starts_with('g'))
        .map(|line| line.split_whitespace().rev().nth(2).unwrap().parse::<u64>().unwrap())
        .sum();
    assert!(keys > 100, "{text}");
    cluster.kill(3);
    let text = top(&cluster);
    assert!(text.starts_with("3 of 4 nodes up"), "{text}");
    let dead = text.lines().find(|line| line.starts_with("n3 ")).unwrap();
    assert!(dead.contains(" down") && dead.ends_with('?'), "{text}");
    drop(load.stop());
}

#[test]
fn nobody_there_is_a_failure() {
    let output = Command::new(PROGRAM).args(["top", "--addr", "127.0.0.1:1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("oarlock top: 127.0.0.1:1: "), "{text}");
}
