//! Nodes that are started with other numbers of cores than before: under load, one after the other, killed on
//! the way; every acknowledged write is there, and replicas are on all cores.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Cluster, Load, Options, PROGRAM, Shape, eventually, folder, turn, wait_for_level};
use oarlock::bench::client::{Answer, Client};
use oarlock::bench::ports::free_addresses;
use oarlock::disk::data_dir::peek_identity;
use oarlock_types::FeatureLevel;
use toml::{Table, Value};

/// Has a node start with so many cores from now on. Its entry stays as the cluster was formed.
fn set_cores(cluster: &Cluster, id: u64, cores: i64) {
    let file = cluster.local.node(id).config_file();
    let mut config: Table = fs::read_to_string(&file).unwrap().parse().unwrap();
    config["node"].as_table_mut().unwrap().insert("cores".to_owned(), Value::Integer(cores));
    for entry in config["cluster"]["initial_nodes"].as_array_mut().unwrap() {
        entry.as_table_mut().unwrap().remove("core_ports");
    }
    fs::write(&file, config.to_string()).unwrap();
}

/// Waits until a node has so many replicas on so many cores, of which none has more than this beyond another.
#[track_caller]
fn wait_for_spread(cluster: &Cluster, id: u64, cores: u64, replicas: usize, uneven: usize) {
    eventually("replicas on all cores", || {
        let status = cluster.status(id).map_err(|error| error.to_string())?;
        let mut counts: BTreeMap<u64, usize> = (0..cores).map(|core| (core, 0)).collect();
        status.groups.iter().for_each(|group| *counts.entry(group.core).or_default() += 1);
        let (least, most) = (counts.values().min().unwrap(), counts.values().max().unwrap());
        let is_right = status.cores.len() == counts.len()
            && counts.keys().all(|core| *core < cores)
            && most - least <= uneven
            && status.groups.len() == replicas
            && status.damaged.is_empty();
        if is_right { Ok(()) } else { Err(format!("{counts:?}")) }
    });
}

#[test]
fn nodes_change_their_number_of_cores_one_after_the_other_under_load() {
    let options = Options { cores: 1, ranges: 12, ..Options::default() };
    let mut cluster = Cluster::start("cores-change", options);
    let load = Load::start(&cluster, &Shape { rate: 800, ..Shape::default() });
    load.progress(500);
    for cores in [3_u16, 2] {
        for node in 1..=3 {
            cluster.kill(node);
            set_cores(&cluster, node, cores.into());
            load.progress(100);
            cluster.restart(node);
            if node == 2 {
                // It is killed somewhere on the way, and ends it with the next start.
                eventually("the beginning", || {
                    let log = cluster.local.node(node).log_tail(400);
                    let begun = log.matches("brings its replicas from").count();
                    if begun > usize::from(cores == 2) { Ok(()) } else { Err(log) }
                });
                cluster.kill(node);
                cluster.restart(node);
            }
            wait_for_spread(&cluster, node, cores.into(), 13, 1);
            assert_eq!(peek_identity(&cluster.data_dir(node)).unwrap().cores, cores);
            let committed = cluster.local.committed(node).unwrap();
            cluster.wait_for_applied(node, &committed);
            load.progress(200);
        }
        cluster.wait_for_leaders();
    }
    assert!(!cluster.data_dir(1).join("core-2").exists());
    // What is moved is led and cut as ever.
    let client = &mut cluster.client(1);
    assert!(matches!(client.call(&[b"OARLOCK", b"SPLIT", b"\x90"]).unwrap(), Answer::Int(13..)));
    load.progress(300);
    let (recorded, _) = load.stop();
    cluster.verify(recorded);
    // And all of it comes back when all nodes die at once.
    cluster.kill_all();
    (1..=3).for_each(|node| cluster.restart(node));
    cluster.wait_for_leaders();
    (1..=3).for_each(|node| wait_for_spread(&cluster, node, 2, 14, 2));
}

/// Brings each replica of a node to its other core, of two, by hand; how many came there.
fn exchange_cores(cluster: &Cluster, id: u64) -> usize {
    let status = cluster.status(id).unwrap();
    let ranges = status.groups.iter().filter(|group| group.group > 0);
    let told = ranges.map(|range| {
        let (range, to, node) =
            (range.group.to_string(), (1 - range.core).to_string(), id.to_string());
        let args = ["range", "move-core", &range, "--node", &node, "--to-core", &to];
        let (code, text) = cluster.command(id, &args);
        assert_eq!(code, Some(0), "{text}");
    });
    told.count()
}

/// What a node's logs in this life say of replicas that have come to another core.
fn arrivals(cluster: &Cluster, id: u64) -> usize {
    cluster.local.node(id).log_tail(100_000).matches("has come here from another core").count()
}

#[test]
fn replicas_go_from_core_to_core_and_back_under_load_while_a_node_dies() {
    let options = Options { cores: 2, ranges: 6, ..Options::default() };
    let mut cluster = Cluster::start("cores-served", options);
    let load = Load::start(&cluster, &Shape { rate: 800, ..Shape::default() });
    load.progress(500);
    wait_for_level(&cluster, FeatureLevel::MAX.get());
    let (code, text) =
        cluster.command(1, &["range", "move-core", "2", "--node", "1", "--to-core", "2"]);
    assert!(code == Some(1) && text.contains("ERR the node has no such core"), "{text}");
    for node in [1, 2, 3, 1, 2] {
        let moved = exchange_cores(&cluster, node);
        assert!(moved > 0 && arrivals(&cluster, node) >= moved, "they have gone");
        load.progress(200);
        if node == 3 {
            // One dies on the way of a replica, or shortly before or behind.
            let range = cluster.status(3).unwrap().groups.iter().map(|g| (g.group, g.core)).max();
            let (range, core) = range.unwrap();
            let client = &mut cluster.client(1);
            let (range, to) = (range.to_string(), (1 - core).to_string());
            let asked = [b"OARLOCK", &b"MOVECORE"[..], range.as_bytes(), b"3", to.as_bytes()];
            client.call(&asked).unwrap();
            cluster.kill(3);
            cluster.restart(3);
            load.progress(200);
        }
    }
    let (recorded, _) = load.stop();
    cluster.verify(recorded);
    // And all of it comes back when all nodes die at once.
    cluster.kill_all();
    (1..=3).for_each(|node| cluster.restart(node));
    cluster.wait_for_leaders();
    for node in 1..=3 {
        let committed = cluster.local.committed(node).unwrap();
        cluster.wait_for_applied(node, &committed);
        assert!(cluster.status(node).unwrap().damaged.is_empty());
    }
}

#[test]
fn a_cluster_forms_on_fewer_and_more_cores_than_its_nodes_are_listed_with() {
    let options = Options { cores: 3, ranges: 12, ..Options::default() };
    let mut cluster = Cluster::prepare("cores-formed", options);
    for (node, cores) in [(1, 2), (2, 1), (3, 4)] {
        set_cores(&cluster, node, cores);
    }
    cluster.local.start_all().unwrap();
    cluster.wait_for_leaders();
    for (node, cores) in [(1, 2), (2, 1), (3, 4)] {
        wait_for_spread(&cluster, node, cores, 13, 5);
        let client = &mut cluster.client(node);
        for key in 0..16_u8 {
            assert!(client.call(&[b"SET", &[key << 4], b"x"]).unwrap().is_ok());
        }
    }
}

/// A node that is ended with its test.
struct Alone(Child);

impl Drop for Alone {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Alone {
    fn start(data: &Path, addresses: &[SocketAddr], cores: u16) -> Self {
        let mut command = Command::new(PROGRAM);
        command.args(["serve", "--node-id", "1", "--data-dir"]).arg(data);
        command.args(["--cores", &cores.to_string()]);
        command.args(["--client-listen", &addresses[0].to_string()]);
        command.args(["--peer-listen", &addresses[1].to_string()]);
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

#[test]
fn a_node_alone_stays_its_cluster_with_another_number_of_cores() {
    let _turn = turn();
    let folder = folder("cores-alone");
    let data = folder.path().join("data");
    let addresses = free_addresses(2).unwrap();
    let call = |args: &[&[u8]]| {
        eventually("an answer", || {
            let client = Client::connect(addresses[0], Duration::from_secs(1));
            match client.and_then(|mut client| client.call(args)) {
                Ok(answer) if answer.error_kind().is_none() => Ok(answer),
                Ok(answer) => Err(answer.to_string()),
                Err(error) => Err(error.to_string()),
            }
        })
    };
    let keys: Vec<String> = (0..64_u8).map(|key| format!("{}key", char::from(key * 2))).collect();
    let mut cluster = None;
    for (start, cores) in [1, 3, 2].into_iter().enumerate() {
        let node = Alone::start(&data, &addresses, cores);
        for key in &keys {
            if start > 0 {
                let before = Answer::Bulk((start - 1).to_string().into_bytes());
                assert_eq!(call(&[b"GET", key.as_bytes()]), before);
            }
            assert!(call(&[b"SET", key.as_bytes(), start.to_string().as_bytes()]).is_ok());
        }
        let identity = peek_identity(&data).unwrap();
        assert_eq!(
            (identity.cores, *cluster.get_or_insert(identity.cluster)),
            (cores, identity.cluster)
        );
        drop(node);
    }
}
