//! Clusters that lost a quorum for good go on from what survives: `oarlock recover` on real nodes.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Cluster, Load, Options, PROGRAM, Shape, call_until_ok, eventually};
use oarlock::bench::client::Answer;
use oarlock::bench::cluster_map::{self, RangeRow};
use oarlock::disk::data_dir::{DataDir, DataDirOptions};
use oarlock_types::{ClusterId, NodeId};

/// Runs `oarlock recover` without a terminal; its exit code and all that it said.
fn recover<S: AsRef<OsStr>>(args: &[S]) -> (i32, String) {
    let mut command = Command::new(PROGRAM);
    let output = command.arg("recover").args(args).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code().unwrap(), text)
}

#[track_caller]
fn recovered<S: AsRef<OsStr> + Debug>(args: &[S]) -> String {
    let (code, text) = recover(args);
    assert_eq!(code, 0, "{args:?}: {text}");
    text
}

/// What is said where nothing is done.
#[track_caller]
fn refused<S: AsRef<OsStr> + Debug>(args: &[S], code: i32, why: &str) {
    let (found, text) = recover(args);
    assert_eq!(found, code, "{args:?}: {text}");
    assert!(text.contains(why), "{args:?}: {text}");
}

/// The words that apply a plan without a question.
fn apply(plan: &str, flag: &str, survivor: &str) -> Vec<String> {
    ["apply", plan, flag, survivor, "--yes", "--i-accept-data-loss"].map(str::to_owned).into()
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Every file under a folder that tells what a node knows, with its content.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = common::files(folder, "", "");
    // The lock says who locked it last.
    files.retain(|path| !path.ends_with("lock"));
    files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Waits until these nodes have all that was acknowledged.
fn wait_for_all(cluster: &mut Cluster, nodes: &[u64]) {
    let committed = cluster.local.committed(0).unwrap();
    nodes.iter().for_each(|node| cluster.wait_for_applied(*node, &committed));
}

/// Waits until each range has a replica on just these nodes, by the map of `asked`.
#[track_caller]
fn wait_for_replicas(cluster: &mut Cluster, asked: u64, nodes: &[u64]) {
    let wanted: BTreeSet<u64> = nodes.iter().copied().collect();
    cluster.eventually("replicas on just these nodes", |local| {
        let told =
            local.node(asked).client().and_then(|mut client| cluster_map::ranges(&mut client));
        let ranges = told.map_err(|error| error.to_string())?;
        let on = |range: &RangeRow| range.replicas.iter().copied().collect::<BTreeSet<_>>();
        match ranges.iter().find(|range| on(range) != wanted) {
            Some(range) => Err(format!("range {} is on {:?}", range.group, range.replicas)),
            None => Ok(()),
        }
    });
}

#[test]
fn one_of_three_goes_on_with_all_that_it_has() {
    let placement = vec![("placement_gone_after_ms", 2_000)];
    let options = Options { ranges: 8, placement, ..Options::default() };
    let mut cluster = Cluster::start("recover-one", options);
    let load = Load::start(&cluster, &Shape { rate: 500, ..Shape::default() });
    load.progress(500);
    let folder = cluster.data_dir(1).parent().unwrap().to_owned();
    let (dir, file) = (text(&cluster.data_dir(1)), |name: &str| text(&folder.join(name)));
    refused(&["plan", "--data-dir", &dir, "--output", &file("plan")], 1, "is in use by process");
    assert!(!folder.join("plan").exists());
    let (recorded, _) = load.stop();
    wait_for_all(&mut cluster, &[1]);
    cluster.kill_all();
    let lost = |node| folder.join(format!("lost-{node}"));
    for node in [2, 3] {
        fs::rename(cluster.data_dir(node), lost(node)).unwrap();
    }

    let before = contents(&cluster.data_dir(1));
    refused(&["plan"], 2, "no survivor is given");
    refused(&["plan", "--data-dir", &text(&cluster.data_dir(2))], 1, "is no node's data directory");
    let told = recovered(&["plan", "--data-dir", &dir, "--output", &file("plan")]);
    assert!(told.contains("given up:    n2 n3\n"), "{told}");
    assert!(told.contains("have none:   9 groups\n"), "{told}");
    assert!(told.contains("\ng0     the map") && told.contains("writes behind"), "{told}");
    refused(&["plan", "--data-dir", &dir, "--output", &file("plan")], 2, "is there already");
    let words = apply(&file("plan"), "--data-dir", &dir);
    refused(&words[..4], 2, "nothing was changed: it asks twice");
    refused(&words[..5], 2, "--i-accept-data-loss");
    refused(&[&words[..4], &words[5..]].concat(), 2, "--yes");
    let stranger = folder.join("stranger");
    let options = DataDirOptions { cluster: ClusterId(99), node: NodeId(1), cores: 1, disk: None };
    drop(DataDir::open(&stranger, &options).unwrap());
    refused(&apply(&file("plan"), "--data-dir", &text(&stranger)), 1, "belongs to cluster-99");
    assert_eq!(before, contents(&cluster.data_dir(1)), "nothing was changed until now");
    // A plan is good for what it saw.
    cluster.restart(1);
    eventually("an answer", || cluster.status(1).map_err(|error| error.to_string()));
    refused(&words, 1, "is in use by process");
    cluster.kill(1);
    refused(&words, 1, "n1 was started since the plan was made");

    let config = text(&cluster.local.node(1).config_file());
    recovered(&["plan", "--config", &config, "--output", &file("plan-2")]);
    let words = apply(&file("plan-2"), "--config", &config);
    let told = recovered(&words);
    assert!(told.contains("n1: applied to 9 groups\n"), "{told}");
    assert!(recovered(&words).contains("n1: applied already"));
    cluster.restart(1);
    cluster.wait_for_leaders();
    cluster.verify(recorded);
    call_until_ok(&cluster, &[1], &[b"SET", b"after", b"all"]);
    // Others take the place of those that were lost, under ids of their own.
    for node in [4, 5] {
        assert_eq!(cluster.local.add_node().unwrap(), node);
        cluster.restart(node);
    }
    wait_for_replicas(&mut cluster, 5, &[1, 4, 5]);
    // One that was given up comes back after all: it is refused, and changes nothing.
    fs::rename(lost(2), cluster.data_dir(2)).unwrap();
    cluster.restart(2);
    cluster.eventually("the refusal", |local| {
        let log = local.node(2).log_tail(200);
        if log.contains("this node was given up for good by `oarlock recover`") {
            Ok(())
        } else {
            Err(log)
        }
    });
    call_until_ok(&cluster, &[1], &[b"SET", b"after", b"more"]);
    let answer = call_until_ok(&cluster, &[1], &[b"GET", b"after"]);
    assert_eq!(answer, Answer::Bulk(b"more".to_vec()));
}

#[test]
fn two_of_five_on_different_hosts_go_on_and_are_two_replicas_again() {
    let options = Options {
        nodes: 5,
        cores: 1,
        ranges: 4,
        formation: vec![("replication_factor", 5)],
        placement: vec![("placement_gone_after_ms", 2_000)],
        ..Options::default()
    };
    let mut cluster = Cluster::start("recover-two", options);
    let load = Load::start(&cluster, &Shape { rate: 500, ..Shape::default() });
    load.progress(500);
    let (recorded, _) = load.stop();
    wait_for_all(&mut cluster, &[1, 2]);
    cluster.kill_all();
    for node in [3, 4, 5] {
        fs::remove_dir_all(cluster.data_dir(node)).unwrap();
    }
    let folder = cluster.data_dir(1).parent().unwrap().to_owned();
    let file = |name: &str| text(&folder.join(name));
    let dirs = [1, 2].map(|node| text(&cluster.data_dir(node)));
    for (dir, state) in dirs.iter().zip(["state-1", "state-2"]) {
        recovered(&["collect", "--data-dir", dir, "--output", &file(state)]);
    }
    let states = [file("state-1"), file("state-2")];
    let told = recovered(&[
        "plan",
        "--state",
        &states[0],
        "--state",
        &states[1],
        "--output",
        &file("plan"),
    ]);
    assert!(told.contains("survivors:   n1 n2\ngiven up:    n3 n4 n5\n"), "{told}");
    assert!(told.contains("have none:   5 groups\n"), "{told}");
    for dir in &dirs {
        let words = apply(&file("plan"), "--data-dir", dir);
        assert!(recovered(&words).contains("applied to 5 groups"));
    }
    // Nothing is lost of what has a quorum again.
    let told = recovered(&["plan", "--data-dir", &dirs[0], "--data-dir", &dirs[1]]);
    assert!(told.contains("have quorum: 5 groups, left alone\n"), "{told}");
    assert!(told.contains("There is nothing to recover"), "{told}");
    for node in [1, 2] {
        cluster.restart(node);
    }
    cluster.wait_for_leaders();
    wait_for_replicas(&mut cluster, 2, &[1, 2]);
    cluster.verify(recorded);
}
