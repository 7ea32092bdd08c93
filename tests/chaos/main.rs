//! Chaos on real processes: nodes in network namespaces with a small disk each, real clients, faults
//! drawn from a seed, and the simulator's linearizability checker on what the clients recorded. A
//! short run is part of `cargo test`; `scripts/chaos` runs longer.
//!
//! The test starts itself again inside a network and a mount namespace (`inner`), so that whatever
//! happens the kernel takes all of it down; what stays outside (`outer`) keeps the evidence.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod clients;
#[path = "../common/mod.rs"]
mod common;
mod faults;
mod judge;
mod run;
mod world;

use std::env;
use std::fs::{self, File};
use std::io::{Write, stderr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use oarlock::bench::ports::entropy;

use clients::{Asker, Crowd, Space};
use common::{Cluster, Options};
use run::{Plan, Run};

const NAME: &str = "real_nodes_under_faults_answer_as_one_copy_would";
/// Set for the process inside the namespaces: the run's folder.
const INNER: &str = "CHAOS_FOLDER";
const OWNER: &str = "CHAOS_OWNER";
const SEED: &str = "CHAOS_SEED";
const MINUTES: &str = "CHAOS_MINUTES";
const FOLDER_PREFIX: &str = "chaos-";

fn number<N: std::str::FromStr>(variable: &str) -> Option<N> {
    let text = env::var(variable).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

#[test]
fn real_nodes_under_faults_answer_as_one_copy_would() {
    let seed = number(SEED).unwrap_or_else(|| entropy().unwrap() % 1_000_000);
    let minutes: Option<f64> = number(MINUTES);
    match env::var_os(INNER) {
        Some(folder) => inner(Path::new(&folder), seed, minutes),
        None => outer(seed, minutes),
    }
}

/// Says it past the harness, which shows nothing of a test that passes.
fn say(line: &str) {
    let line = format!("chaos on real processes: {line}\n");
    stderr().write_all(line.as_bytes()).unwrap();
}

/// Starts the run in namespaces of its own, and keeps what it left if it fails.
fn outer(seed: u64, minutes: Option<f64>) {
    let _turn = common::turn();
    let folders = Path::new(env!("CARGO_TARGET_TMPDIR"));
    world::sweep(folders, FOLDER_PREFIX);
    if let Some(why) = world::obstacle() {
        assert!(minutes.is_none(), "chaos on real processes cannot run here: {why}");
        say(&format!("SKIPPED: {why}"));
        return;
    }
    let own = std::process::id();
    let folder = common::folder(&format!("{FOLDER_PREFIX}{own}"));
    let log = folder.path().join("run.log");
    let output = || match minutes {
        Some(_) => Stdio::inherit(),
        None => File::options().create(true).append(true).open(&log).unwrap().into(),
    };
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(INNER, folder.path())
        .env(OWNER, own.to_string())
        .env(SEED, seed.to_string())
        .stdin(Stdio::null())
        .stdout(output())
        .stderr(output())
        .status()
        .unwrap();
    world::remove_cgroup(own);
    let told = fs::read_to_string(&log).unwrap_or_default();
    if !status.success() {
        File::create(folder.path().join("failed")).unwrap();
        let kept = folder.keep();
        let replay = format!("scripts/chaos --minutes {} --seed {seed}", minutes.unwrap_or(1.0));
        panic!(
            "{told}\nseed {seed} failed ({status}); faults are drawn alike, timing is not, by \
             `{replay}`; logs of the nodes, their disks and any history are kept in {}",
            kept.display()
        );
    }
    for line in told.lines().filter_map(|line| line.strip_prefix(run::SUMMARY)) {
        say(line);
    }
}

/// The run itself.
fn inner(folder: &Path, seed: u64, minutes: Option<f64>) {
    // This thread starts the nodes, and they end with it; it ends with whoever started it.
    let signal = rustix::process::Signal::KILL;
    rustix::process::set_parent_process_death_signal(Some(signal)).unwrap();
    let owner: u32 = number(OWNER).unwrap();
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    assert_eq!(parent, i32::try_from(owner).ok(), "who started this run has ended");
    let plan =
        minutes.map_or(Plan::SHORT, |minutes| Plan::long(Duration::from_secs_f64(minutes * 60.0)));
    let mut run = Run::start(folder, owner, seed, plan);
    run.go();
    run.tell();
}

/// On nodes without namespaces, so that it runs everywhere.
#[test]
fn a_stale_answer_in_a_recorded_history_is_found() {
    let mut cluster = Cluster::start("chaos-stale", Options { ranges: 1, ..Options::default() });
    let space = Space { prefix: b"stale:".to_vec() };
    let began = Instant::now();
    let asker = |number| Asker::new(number, cluster.local.addresses(), 1, began, 11);
    let crowd = Crowd::start((1..=4).map(asker).collect(), std::slice::from_ref(&space));
    common::let_pass(Duration::from_millis(1500));
    cluster.kill(2);
    common::let_pass(Duration::from_millis(1500));
    cluster.restart_and_catch_up(2);
    let records = crowd.stop();
    assert!(records.odd.is_empty(), "{:#?}", records.odd);
    let history = &records.histories[0];
    assert!(history.len() > 200, "{:?}", records.outcomes);
    judge::judge(history).unwrap_or_else(|report| panic!("{report}"));
    assert!(run::altered_is_found(history, &space) > 0, "no key had a read to alter");
    // A write that was acknowledged and is gone is found, too.
    // The key that is never deleted: no deletion of unknown outcome can explain it.
    let key: Bytes = space.keys().pop().unwrap();
    let mut lost = judge::of_key(history, &key);
    judge::lose_the_last_write(&mut lost, &key);
    judge::judge(&lost).unwrap_err();
}
