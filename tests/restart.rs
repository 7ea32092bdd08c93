//! Restarts node by node under load, driven by `oarlock node restart-safe` alone: it says no while a node is
//! missing, and when it says yes nothing comes of the restart but elections.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::{Cluster, Load, Options, Shape, let_pass};
use oarlock::bench::client::Client;
use oarlock::bench::cluster_map;

/// What a range may be without a leader: one support duration (750 ms) and an election, on a machine that does
/// other things besides.
const LEADERLESS_MAX: Duration = Duration::from_secs(5);

/// Asks by another node whether one may be restarted.
fn may_restart(cluster: &Cluster, id: u64, more: &[&str]) -> (Option<i32>, String) {
    let (by, id) = (id % 3 + 1, id.to_string());
    cluster.command(by, &[&["node", "restart-safe", &id], more].concat())
}

#[track_caller]
fn wait_until_safe(cluster: &Cluster, id: u64) {
    let (code, text) = may_restart(cluster, id, &["--wait", "--timeout-s", "60"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with(&format!("node {id} may be restarted: each of the 17 ")), "{text}");
}

/// Looks at all nodes again and again, and notes how long each group was without a leader at most.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BTreeMap<u64, Duration>>,
}

impl Watch {
    fn start(addresses: Vec<SocketAddr>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut led: BTreeMap<u64, (Instant, Duration)> = BTreeMap::new();
            while !is_over.load(Ordering::SeqCst) {
                for address in &addresses {
                    let timeout = Duration::from_secs(1);
                    let asked = Client::connect(*address, timeout);
                    let Ok(status) = asked.and_then(|mut c| cluster_map::status(&mut c)) else {
                        continue;
                    };
                    for group in status.groups.iter().filter(|group| group.role == "leader") {
                        let now = Instant::now();
                        let (at, longest) = led.entry(group.group).or_insert((now, Duration::ZERO));
                        *longest = (*longest).max(now - *at);
                        *at = now;
                    }
                }
                let_pass(Duration::from_millis(20));
            }
            led.into_iter()
                .map(|(group, (at, longest))| (group, longest.max(at.elapsed())))
                .collect()
        });
        Self { stop, thread }
    }

    fn stop(self) -> BTreeMap<u64, Duration> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

#[test]
fn nodes_are_restarted_one_after_the_other_when_it_is_safe() {
    let mut cluster = Cluster::start("restart", Options::default());
    let load = Load::start(&cluster, &Shape { rate: 500, ..Shape::default() });
    load.progress(300);
    (1..=3).for_each(|id| wait_until_safe(&cluster, id));
    let (code, text) = may_restart(&cluster, 9, &["--wait"]);
    assert_eq!(code, Some(1), "it is not waited for");
    assert!(text.contains("the cluster has no node 9"), "{text}");

    // Without node 3 no range can spare another.
    cluster.kill(3);
    for id in [1, 2] {
        let by = 3 - id;
        let asked = id.to_string();
        let (code, text) = cluster.command(by, &["node", "restart-safe", &asked]);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.starts_with(&format!("node {id} must not be restarted now:\n")), "{text}");
        assert!(text.contains("  node 3 does not answer\n") && text.contains("more\n"), "{text}");
    }
    let (code, text) = cluster.command(2, &["node", "restart-safe", "1", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &json["safe"], &json["node"]), (Some(1), &false.into(), &1.into()));
    assert_eq!(json["against"].as_array().unwrap().len(), 18, "the node and each of 17: {text}");
    let wait = ["node", "restart-safe", "1", "--wait", "--timeout-s", "1"];
    let (code, text) = cluster.command(2, &wait);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("node 3 does not answer"), "{text}");

    cluster.restart(3);
    wait_until_safe(&cluster, 1);
    load.progress(300);

    let watch = Watch::start(cluster.local.addresses());
    let lives: Vec<u64> = (1..=3).map(|id| cluster.status(id).unwrap().incarnation).collect();
    for id in 1..=3 {
        wait_until_safe(&cluster, id);
        cluster.kill(id);
        cluster.restart(id);
    }
    wait_until_safe(&cluster, 1);
    let leaderless = watch.stop();
    for (id, life) in (1..=3).zip(lives) {
        assert_eq!(cluster.status(id).unwrap().incarnation, life + 1, "node {id} was restarted");
    }
    println!("without a leader at most: {:?}", leaderless.values().max());
    assert_eq!(leaderless.len(), 17, "all ranges and the meta group were watched");
    let long: Vec<_> = leaderless.iter().filter(|(_, time)| **time > LEADERLESS_MAX).collect();
    assert!(long.is_empty(), "without a leader: {long:?}");
    load.progress(300);
    let (recorded, _) = load.stop();
    cluster.verify(recorded);
}
