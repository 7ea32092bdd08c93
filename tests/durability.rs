//! SIGKILL of any node, of all nodes at once, again and again under load: every acknowledged
//! write is there, and no counter was applied twice under `OARLOCK ONCE`.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use common::{Cluster, Load, Options, Shape, eventually, files, leads_most};
use oarlock::bench::client::{Answer, Client};

#[test]
fn each_node_is_killed_in_turn_under_load_and_nothing_is_lost() {
    let mut cluster = Cluster::start("each", Options::default());
    let load = Load::start(&cluster, &Shape::default());
    load.progress(1000);
    for id in 1..=3 {
        cluster.kill(id);
        cluster.wait_for_leaders_without(id);
        load.progress(1000);
        cluster.restart_and_catch_up(id);
        load.progress(300);
    }
    let (recorded, _) = load.stop();
    cluster.verify(recorded);
}

#[test]
fn the_leader_of_most_ranges_is_killed_again_and_again() {
    let mut cluster = Cluster::start("leader", Options::default());
    let load = Load::start(&cluster, &Shape::default());
    for _ in 0..4 {
        let (victim, _) = leads_most(&cluster.wait_for_leaders());
        load.progress(300);
        cluster.kill(victim);
        cluster.wait_for_leaders_without(victim);
        cluster.restart_and_catch_up(victim);
    }
    let (recorded, _) = load.stop();
    cluster.verify(recorded);
}

#[test]
fn all_nodes_are_killed_at_once_and_every_acknowledged_write_is_there() {
    let mut cluster = Cluster::start("all", Options::default());
    let load = Load::start(&cluster, &Shape::default());
    for _ in 0..4 {
        load.progress(800);
        cluster.kill_all();
        cluster.local.start_all().unwrap();
        cluster.wait_for_leaders();
    }
    load.progress(300);
    let (recorded, _) = load.stop();
    cluster.verify(recorded);
}

#[test]
fn nodes_are_killed_while_they_recover() {
    let mut cluster = Cluster::start("recovery", Options::default());
    let load = Load::start(&cluster, &Shape::default());
    load.progress(3000);
    let (recorded, _) = load.stop();
    cluster.kill_all();
    for round in 0..6u64 {
        // Each round kills at another point of the start: after so many bytes of log.
        let id = round % 3 + 1;
        let log = cluster.local.node(id).log_file();
        let before = std::fs::metadata(&log).unwrap().len();
        cluster.restart(id);
        eventually("a sign of life in the log", || {
            let grown = std::fs::metadata(&log).unwrap().len() - before;
            let wanted = 1 + 200 * (round / 2);
            if grown >= wanted { Ok(()) } else { Err(format!("{grown} of {wanted} bytes")) }
        });
        cluster.kill(id);
    }
    cluster.local.start_all().unwrap();
    cluster.wait_for_leaders();
    cluster.verify(recorded);
}

#[test]
fn nodes_are_killed_while_the_cluster_is_formed() {
    let mut cluster = Cluster::prepare("formation", Options::default());
    // Each start gets a little further than the one before.
    for (start, end) in [("identity", ""), ("begun", ""), ("wal-", ".seg")] {
        cluster.local.start_all().unwrap();
        eventually("the file that says how far the start has come", || {
            let found = (1..=3).any(|id| !files(&cluster.data_dir(id), start, end).is_empty());
            if found { Ok(()) } else { Err(format!("there is no {start}{end} yet")) }
        });
        cluster.kill_all();
    }
    cluster.local.start_all().unwrap();
    cluster.wait_for_leaders();
    let load = Load::start(&cluster, &Shape::default());
    load.progress(1000);
    let (recorded, _) = load.stop();
    let committed = cluster.local.committed(0).unwrap();
    for id in 1..=3 {
        assert_eq!(cluster.status(id).unwrap().groups.len(), 17, "all ranges and the meta group");
        cluster.wait_for_applied(id, &committed);
    }
    cluster.verify(recorded);
}

#[test]
fn a_cluster_of_one_node_keeps_what_it_acknowledged() {
    let mut cluster = Cluster::start("one", Options { nodes: 1, ranges: 4, ..Options::default() });
    let load = Load::start(&cluster, &Shape::default());
    for _ in 0..3 {
        load.progress(800);
        cluster.kill_all();
        cluster.local.start_all().unwrap();
        cluster.wait_for_leaders();
    }
    let (recorded, _) = load.stop();
    cluster.verify(recorded);
}

/// Increments a counter of its own, each time under a new request id that it repeats until it
/// knows the answer. The answers must count up by one: more means applied twice, fewer means lost.
struct Counting {
    thread: JoinHandle<i64>,
}

fn count(
    addresses: Vec<SocketAddr>,
    name: String,
    stop: Arc<AtomicBool>,
    total: Arc<AtomicU64>,
) -> Counting {
    let body = move || {
        let mut turn = 0;
        let mut client: Option<Client> = None;
        let mut counted = 0i64;
        while !stop.load(Ordering::Relaxed) {
            let id = format!("{name}-{counted}");
            let args: [&[u8]; 5] = [b"OARLOCK", b"ONCE", id.as_bytes(), b"INCR", name.as_bytes()];
            let answer = eventually("an answer under one request id", || {
                let address = addresses[turn % addresses.len()];
                let mut connected = match client.take() {
                    Some(client) => client,
                    None => Client::connect(address, Duration::from_millis(800))
                        .inspect_err(|_| turn += 1)
                        .map_err(|error| error.to_string())?,
                };
                match connected.call(&args) {
                    Ok(Answer::Error(text)) => {
                        client = Some(connected);
                        Err(text)
                    }
                    Ok(answer) => {
                        client = Some(connected);
                        Ok(answer)
                    }
                    Err(error) => {
                        turn += 1;
                        Err(error.to_string())
                    }
                }
            });
            counted += 1;
            assert_eq!(answer, Answer::Int(counted), "{name}");
            total.fetch_add(1, Ordering::Relaxed);
        }
        counted
    };
    Counting { thread: std::thread::spawn(body) }
}

#[test]
fn a_counter_under_once_counts_each_request_exactly_once() {
    let mut cluster = Cluster::start("once", Options::default());
    let stop = Arc::new(AtomicBool::new(false));
    let total = Arc::new(AtomicU64::new(0));
    let names: Vec<String> =
        (0..8u8).map(|n| format!("{}counter", char::from(n * 15 + 3))).collect();
    let counting: Vec<Counting> = names
        .iter()
        .map(|name| {
            let (stop, total) = (Arc::clone(&stop), Arc::clone(&total));
            count(cluster.local.addresses(), name.clone(), stop, total)
        })
        .collect();
    let progress = |more: u64| {
        let goal = total.load(Ordering::Relaxed) + more;
        eventually("progress of the counters", || {
            let now = total.load(Ordering::Relaxed);
            if now >= goal { Ok(()) } else { Err(format!("{now} of {goal}")) }
        });
    };
    progress(200);
    for id in 1..=3 {
        cluster.kill(id);
        progress(200);
        cluster.restart_and_catch_up(id);
    }
    cluster.kill_all();
    cluster.local.start_all().unwrap();
    cluster.wait_for_leaders();
    progress(200);
    stop.store(true, Ordering::Relaxed);
    for (counting, name) in counting.into_iter().zip(&names) {
        let counted = counting.thread.join().unwrap();
        let args: [&[u8]; 2] = [b"GET", name.as_bytes()];
        let found = common::call_until_ok(&cluster, &[1, 2, 3], &args);
        assert_eq!(found, Answer::Bulk(counted.to_string().into_bytes()), "{name}");
    }
}
