//! A follower that was away for longer than the log is kept comes back by snapshot while load
//! runs, and what it then holds is right.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::collections::BTreeMap;

use common::{Cluster, Load, Options, Shape, files};

/// Logs are cut as early as the configuration allows.
fn options() -> Options {
    Options {
        cores: 1,
        ranges: 4,
        limits: vec![
            ("compact_log_bytes_min", 65_536),
            ("compact_tail_bytes", 0),
            ("log_cache_bytes_max", 16_384),
        ],
        ..Options::default()
    }
}

/// The indexes at which a node's checkpoints of each group were taken, from their files' names.
fn checkpoints(cluster: &Cluster, id: u64) -> BTreeMap<u64, u64> {
    let mut newest = BTreeMap::new();
    for file in files(&cluster.data_dir(id), "g", ".ckpt") {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let mut parts = name[1..].split('-').map(|part| part.parse::<u64>().unwrap());
        let (group, index) = (parts.next().unwrap(), parts.next().unwrap());
        let known: &mut u64 = newest.entry(group).or_default();
        *known = index.max(*known);
    }
    newest
}

#[test]
fn a_follower_that_was_away_longer_than_the_log_is_kept_comes_back_by_snapshot() {
    let mut cluster = Cluster::start("snapshot", options());
    let shape = Shape { rate: 2000, keys: 400, value_bytes: 1024, read_share: 0.1 };
    let load = Load::start(&cluster, &shape);
    load.progress(500);
    let away = 3;
    let had: BTreeMap<u64, u64> = cluster
        .status(away)
        .unwrap()
        .groups
        .iter()
        .map(|group| (group.group, group.last))
        .collect();
    cluster.kill(away);
    cluster.wait_for_leaders_without(away);
    // Every group's leader has a checkpoint beyond what the follower has, and keeps no log behind
    // it: there is no other way back for the follower than by snapshot.
    common::eventually("checkpoints beyond the follower's log", || {
        let (one, two) = (checkpoints(&cluster, 1), checkpoints(&cluster, 2));
        let beyond = |made: &BTreeMap<u64, u64>, group: &u64, last: &u64| {
            made.get(group).is_some_and(|index| index > last)
        };
        // The meta group changes too rarely to be cut.
        let missing = had
            .iter()
            .filter(|(group, _)| **group != 0)
            .filter(|(group, last)| !beyond(&one, group, last) || !beyond(&two, group, last))
            .count();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} groups have none")) }
    });
    load.progress(1000);
    cluster.restart_and_catch_up(away);
    let installed = checkpoints(&cluster, away);
    for (group, last) in had.iter().filter(|(group, _)| **group != 0) {
        let index = installed.get(group).copied().unwrap_or(0);
        assert!(index > *last, "group {group} had {last} and its checkpoint is at {index}");
    }
    load.progress(1000);
    // The others go, one after the other, so that ranges are led by the one that came back: what
    // is read then is what the snapshot brought.
    for other in [1, 2] {
        cluster.kill(other);
        cluster.wait_for_leaders_without(other);
        load.progress(300);
        cluster.restart_and_catch_up(other);
    }
    let (recorded, _) = load.stop();
    cluster.kill(1);
    cluster.wait_for_leaders_without(1);
    cluster.verify(recorded);
}

#[test]
fn nodes_that_are_killed_while_logs_are_cut_lose_nothing() {
    let mut cluster = Cluster::start("cut", options());
    let shape = Shape { rate: 2000, keys: 400, value_bytes: 1024, read_share: 0.1 };
    let load = Load::start(&cluster, &shape);
    for round in 0..4 {
        load.progress(1200);
        cluster.kill(round % 3 + 1);
        load.progress(300);
        cluster.restart_and_catch_up(round % 3 + 1);
    }
    assert!(!checkpoints(&cluster, 1).is_empty(), "logs were cut");
    cluster.kill_all();
    cluster.local.start_all().unwrap();
    cluster.wait_for_leaders();
    let (recorded, _) = load.stop();
    cluster.verify(recorded);
}
