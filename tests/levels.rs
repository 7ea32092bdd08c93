//! Feature levels on real nodes: one that understands less holds the cluster where it is, which is raised by
//! itself once all understand more; from then on such a node is refused, and nothing is lost on the way.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use common::{
    Cluster, Load, Options, PROGRAM, Shape, eventually, folder, let_pass, levels, wait_for_level,
};
use oarlock_types::FeatureLevel;

const HELD: &str = "feature_level_max = 1\n";
/// The newest level of this build.
const MAX: u16 = FeatureLevel::MAX.get();

/// Has a node behave as a build that understands level 1 alone, or no longer.
fn hold(cluster: &Cluster, id: u64, is_held: bool) {
    let file = cluster.local.node(id).config_file();
    let text = fs::read_to_string(&file).unwrap().replace(HELD, "");
    let text =
        if is_held { text.replacen("[node]\n", &format!("[node]\n{HELD}"), 1) } else { text };
    assert_eq!(text.contains(HELD), is_held, "{text}");
    fs::write(file, text).unwrap();
}

/// How a node that understands all levels of this build is shown.
fn both() -> String {
    format!("1-{MAX}")
}

/// Starts a node that is refused: what it says in the end.
fn refused(args: &[&str]) -> String {
    let output = Command::new(PROGRAM).arg("serve").args(args).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{told}");
    told.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn the_level_is_raised_when_the_last_node_understands_it_and_never_falls() {
    let mut cluster = Cluster::prepare("levels", Options { ranges: 8, ..Options::default() });
    hold(&cluster, 3, true);
    cluster.local.start_all().unwrap();
    cluster.wait_for_leaders();
    let load = Load::start(&cluster, &Shape { rate: 500, ..Shape::default() });
    load.progress(300);
    eventually("all to know what the third one understands", || {
        let (code, text) = cluster.command(1, &["node", "list"]);
        let is_known = text.matches(&both()).count() == 2 && text.matches("1-1").count() == 1;
        if code == Some(0) && is_known { Ok(()) } else { Err(text) }
    });
    // Several times the time that it takes to raise the level where nobody holds it.
    let_pass(Duration::from_secs(5));
    load.progress(300);
    assert_eq!(levels(&cluster).unwrap(), [(1, MAX), (1, MAX), (1, 1)]);
    // A node that is not heard holds it, too: it may come back as an older build.
    cluster.kill(3);
    let_pass(Duration::from_secs(5));
    assert_eq!(levels(&cluster).unwrap(), [(1, MAX), (1, MAX)]);
    load.progress(300);
    hold(&cluster, 3, false);
    cluster.restart(3);
    wait_for_level(&cluster, MAX);
    let (code, text) = cluster.command(2, &["status"]);
    assert_eq!(code, Some(0), "{text}");
    let raised = text.contains(&format!("feature level {MAX}"));
    assert!(raised && text.matches(&both()).count() == 3, "{text}");
    load.progress(300);

    // From then on nobody who understands less is one of the cluster.
    let told =
        format!("the cluster is at feature level {MAX}, and this node understands level 1 only");
    let told = told.as_str();
    cluster.kill(3);
    let copy = cluster.data_dir(3).join("map");
    assert!(fs::read_to_string(&copy).unwrap().contains(&format!("\nlevel = {MAX}\n")));
    hold(&cluster, 3, true);
    let config = cluster.local.node(3).config_file().display().to_string();
    let line = refused(&["--config", &config]);
    assert!(line.contains(told), "by its own copy of the map: {line}");
    fs::rename(&copy, copy.with_extension("away")).unwrap();
    let line = refused(&["--config", &config]);
    assert!(line.contains(told), "by its peers: {line}");
    let other = folder("levels-other");
    let data = other.path().join("data").display().to_string();
    let seed = cluster.local.node(1).client_address.to_string();
    let join = ["--data-dir", &data, "--join", &seed, "--feature-level-max", "1"];
    let line = refused(&join);
    assert!(line.contains("does not let this node join") && line.contains(told), "{line}");

    hold(&cluster, 3, false);
    cluster.restart(3);
    wait_for_level(&cluster, MAX);
    load.progress(300);
    let (recorded, _) = load.stop();
    // It is what the nodes know by themselves, not what they agree on.
    cluster.kill_all();
    cluster.local.start_all().unwrap();
    cluster.wait_for_leaders();
    assert_eq!(levels(&cluster).unwrap(), [(MAX, MAX); 3]);
    cluster.verify(recorded);
}

/// Where `scripts/mixed` has put an older build. Without it this one does as a build that understands level 1 alone.
const OLDER: &str = "OLDER_BUILD";

/// Has a node be of one age or the other when it is started next.
fn set_age(cluster: &mut Cluster, id: u64, is_newer: bool) {
    let older = std::env::var_os(OLDER).map(PathBuf::from);
    match older.filter(|_| !is_newer) {
        Some(older) => cluster.local.set_program(older),
        None => {
            cluster.local.set_program(PROGRAM.into());
            hold(cluster, id, !is_newer);
        }
    }
}

/// Nodes of an older build and of this one, in one cluster under load: upgraded one after the other, while any of them
/// may lead.
#[test]
fn builds_of_different_age_serve_in_one_cluster() {
    let mut cluster = Cluster::prepare("mixed", Options { ranges: 8, ..Options::default() });
    for id in 1..=3 {
        set_age(&mut cluster, id, false);
        cluster.local.start(id).unwrap();
    }
    cluster.wait_for_leaders();
    let load = Load::start(&cluster, &Shape { rate: 500, ..Shape::default() });
    load.progress(500);
    let before = levels(&cluster).unwrap()[0].1;
    assert!(before < MAX, "the older build understands level {before} already");
    wait_for_level(&cluster, before);
    let mut newer = BTreeSet::new();
    for upgraded in [3, 1, 2] {
        newer.insert(upgraded);
        // Each dies, so that others of either age lead what it led.
        for id in [upgraded, upgraded % 3 + 1, (upgraded + 1) % 3 + 1] {
            cluster.kill(id);
            load.progress(200);
            set_age(&mut cluster, id, newer.contains(&id));
            cluster.restart_and_catch_up(id);
            load.progress(200);
        }
        if newer.len() < 3 {
            let levels = levels(&cluster).unwrap();
            assert!(levels.iter().all(|(level, _)| *level == before), "{levels:?}");
            let newest = levels.iter().filter(|(_, newest)| *newest == MAX).count();
            assert_eq!(newest, newer.len(), "{levels:?}");
        }
    }
    wait_for_level(&cluster, MAX);
    load.progress(500);
    let (recorded, _) = load.stop();
    cluster.kill_all();
    cluster.local.start_all().unwrap();
    cluster.wait_for_leaders();
    cluster.verify(recorded);
}

#[test]
fn a_node_that_was_given_up_does_not_hold_the_level() {
    let options = Options { nodes: 4, ranges: 4, ..Options::default() };
    let mut cluster = Cluster::prepare("levels-removed", options);
    hold(&cluster, 4, true);
    cluster.local.start_all().unwrap();
    cluster.wait_for_leaders();
    cluster.kill(4);
    let_pass(Duration::from_secs(3));
    assert_eq!(levels(&cluster).unwrap(), [(1, MAX); 3]);
    let (code, text) = cluster.command(1, &["node", "remove", "4"]);
    assert_eq!(code, Some(0), "{text}");
    wait_for_level(&cluster, MAX);
}
