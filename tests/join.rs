//! Nodes that join a running cluster: they need nothing but the address of one that is in it, get their share
//! of the ranges under load, come back by themselves, and take the place of nodes whose disk was lost.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Output};
use std::time::Duration;

use common::{Cluster, Load, Options, PROGRAM, Shape, eventually, folder};
use oarlock::bench::client::Client;
use oarlock::bench::cluster_map;

/// How many replicas each node has by the map of `asked`.
fn replicas_by_map(cluster: &Cluster, asked: u64) -> Result<BTreeMap<u64, usize>, String> {
    let mut client = cluster.local.node(asked).client().map_err(|error| error.to_string())?;
    let ranges = cluster_map::ranges(&mut client).map_err(|error| error.to_string())?;
    let mut counts = BTreeMap::new();
    for node in ranges.iter().flat_map(|range| &range.replicas) {
        *counts.entry(*node).or_default() += 1;
    }
    Ok(counts)
}

#[track_caller]
fn wait_for_share(cluster: &Cluster, node: u64, least: usize) {
    eventually("its share of the ranges", || {
        let counts = replicas_by_map(cluster, node)?;
        if counts.get(&node) >= Some(&least) { Ok(()) } else { Err(format!("{counts:?}")) }
    });
}

fn known_nodes(cluster: &Cluster, asked: u64) -> Result<Vec<u64>, String> {
    let status = cluster.status(asked).map_err(|error| error.to_string())?;
    Ok(status.nodes.iter().map(|node| node.node).collect())
}

#[track_caller]
fn wait_for_nodes(cluster: &Cluster, asked: u64, wanted: &[u64]) {
    eventually("the nodes", || {
        let known = known_nodes(cluster, asked)?;
        if known == wanted { Ok(()) } else { Err(format!("{known:?}")) }
    });
}

fn cluster(name: &str) -> Cluster {
    Cluster::start(name, Options { ranges: 8, ..Options::default() })
}

#[test]
fn nodes_join_under_load_and_get_their_share() {
    let mut cluster = cluster("join");
    let load = Load::start(&cluster, &Shape { rate: 500, ..Shape::default() });
    load.progress(300);
    let four = cluster.local.add_node().unwrap();
    cluster.local.start(four).unwrap();
    wait_for_share(&cluster, four, 5);
    for asked in 1..=4 {
        wait_for_nodes(&cluster, asked, &[1, 2, 3, 4]);
    }
    load.progress(300);
    // Who knows the map reaches its very cores.
    let ports = cluster.local.node(four).core_ports.clone();
    assert_eq!(ports.len(), 2, "one for each core");
    let rows = cluster_map::ranges(&mut cluster.local.node(1).client().unwrap()).unwrap();
    let its: Vec<SocketAddr> = rows
        .iter()
        .flat_map(|row| row.replicas.iter().zip(&row.addresses))
        .filter(|(node, _)| **node == four)
        .map(|(_, address)| address.parse().unwrap())
        .collect();
    assert!(its.len() >= 5 && its.iter().all(|at| ports.contains(&at.port())), "{its:?}");
    for port in ports {
        Client::connect(SocketAddr::from(([127, 0, 0, 1], port)), Duration::from_secs(5)).unwrap();
    }
    // It comes back without being let in again, though its first configuration still says so.
    cluster.kill(four);
    load.progress(300);
    cluster.restart(four);
    wait_for_nodes(&cluster, four, &[1, 2, 3, 4]);
    load.progress(300);
    // A range that has nothing on a node can be moved while that node is away.
    eventually("ranges without the second node", || {
        let counts = replicas_by_map(&cluster, 1)?;
        if counts.get(&2) < Some(&7) { Ok(()) } else { Err(format!("{counts:?}")) }
    });
    // The next one learns of all, and all of it, while one of them is away.
    cluster.kill(2);
    let five = cluster.local.add_node().unwrap();
    cluster.local.start(five).unwrap();
    wait_for_share(&cluster, five, 1);
    cluster.restart(2);
    for asked in 1..=5 {
        wait_for_nodes(&cluster, asked, &[1, 2, 3, 4, 5]);
    }
    // What had a replica on the one that was away was left alone meanwhile.
    wait_for_share(&cluster, five, 4);
    load.progress(300);
    // All of them at once: those that joined are known from the copies of the map.
    let (recorded, _) = load.stop();
    cluster.kill_all();
    cluster.local.start_all().unwrap();
    cluster.wait_for_leaders();
    cluster.verify(recorded);
}

/// Runs a command against node 1.
fn oarlock(cluster: &Cluster, args: &[&str]) -> (Option<i32>, String) {
    let address = cluster.local.node(1).client_address.to_string();
    let output = Command::new(PROGRAM).args(args).args(["--addr", &address]).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn a_node_whose_disk_was_lost_comes_back_as_a_new_one_at_its_old_address() {
    let mut cluster = cluster("join-again");
    let load = Load::start(&cluster, &Shape { rate: 500, ..Shape::default() });
    load.progress(300);
    cluster.kill(3);
    let lost = cluster.local.node(3);
    let (client, peer) = (lost.client_address, lost.peer_address);
    let four = cluster.local.add_node().unwrap();
    let node = cluster.local.node_mut(four);
    let text = fs::read_to_string(node.config_file()).unwrap();
    let text = text
        .replace(&node.client_address.to_string(), &client.to_string())
        .replace(&node.peer_address.to_string(), &peer.to_string());
    fs::write(node.config_file(), text).unwrap();
    (node.client_address, node.peer_address) = (client, peer);
    cluster.local.start(four).unwrap();
    wait_for_nodes(&cluster, 1, &[1, 2, 3, 4]);
    let (code, text) = oarlock(&cluster, &["node", "remove", "3"]);
    assert_eq!(code, Some(0), "{text}");
    wait_for_share(&cluster, four, 8);
    load.progress(300);
    let (recorded, _) = load.stop();
    // Each range has its three replicas on those that are there: one of them may be away.
    cluster.kill(1);
    eventually("leaders on two of three", || {
        let counts = replicas_by_map(&cluster, four)?;
        let even = counts.get(&four) == Some(&8) && !counts.contains_key(&3);
        if even { Ok(()) } else { Err(format!("{counts:?}")) }
    });
    cluster.restart(1);
    cluster.wait_for_leaders_without(3);
    cluster.verify(recorded);
}

/// Starts a node that is refused at once.
fn refused(args: &[&str]) -> String {
    let Output { status, stderr, .. } =
        Command::new(PROGRAM).arg("serve").args(args).output().unwrap();
    assert!(!status.success());
    String::from_utf8(stderr).unwrap()
}

#[test]
fn who_may_not_join_is_told_why_and_nothing_changes() {
    let cluster = cluster("join-refused");
    let folder = folder("join-refused-data");
    let data = folder.path().join("data").display().to_string();
    let seed = cluster.local.node(2).client_address.to_string();
    let base = ["--data-dir", &data, "--join", &seed, "--log-level", "error"];
    let with = |more: &[&str]| refused(&[&base, more].concat());
    let told = with(&["--node-id", "2"]);
    assert!(told.contains("the cluster has a node 2 already: leave node_id out"), "{told}");
    let told = with(&["--peer-listen", "0.0.0.0:17001"]);
    assert!(told.contains("set peer_advertise to the address at which they can"), "{told}");
    let told = with(&["--cores", "300"]);
    assert!(told.contains("it has 300 cores, and a node has from 1 to 256"), "{told}");
    let of_a_member = cluster.data_dir(1).display().to_string();
    let told = refused(&["--data-dir", &of_a_member, "--join", &seed]);
    assert!(told.contains("belongs to a node that did not join"), "{told}");
    let told = refused(&["--data-dir", &data]);
    assert!(told.contains("node.node_id is not set"), "{told}");
    assert_eq!(known_nodes(&cluster, 1).unwrap(), [1, 2, 3]);
}
