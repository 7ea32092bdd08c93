//! A node's copy of the map: one that is old or damaged costs a look at the meta group, and no client
//! hears of it.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::fs;

use bytes::Bytes;
use common::{Cluster, Options, eventually};
use oarlock::bench::client::{Answer, Client};
use oarlock::bench::cluster_map;
use oarlock::disk::map_copy;
use oarlock_cluster::MapCopy;
use oarlock_types::{
    CoreAddr, CoreId, GroupId, Index, NodeId, RangeDescriptor, RangeEpoch, RangeMap,
};

const NODE: u64 = 2;

/// A map from before all ranges but one were split off: nearly every key is another range's by now.
fn before_all_splits() -> RangeMap {
    let replicas = (1..=3).map(|node| CoreAddr::new(NodeId(node), CoreId(0)));
    let range = |group, epoch| RangeDescriptor {
        group,
        epoch: RangeEpoch(epoch),
        configured: Index(0),
        start: Bytes::new(),
        end: None,
        replicas: replicas.clone().collect(),
    };
    RangeMap::new(0, vec![range(GroupId(1), 0)], range(GroupId::META, 1)).unwrap()
}

fn copy_before_all_splits() -> MapCopy {
    MapCopy { map: before_all_splits(), ..MapCopy::default() }
}

/// A connection to a node as soon as it answers: at its start it takes some that it ends again.
fn connected(cluster: &Cluster) -> Client {
    eventually("a connection", || {
        let mut client = cluster.local.node(NODE).client().map_err(|error| error.to_string())?;
        client.call(&[b"PING"]).map_err(|error| error.to_string())?;
        Ok(client)
    })
}

/// Writes and reads keys of all ranges, one behind the other and many at once.
fn use_all_ranges(client: &mut Client) {
    let keys: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte, b'x']).collect();
    for key in &keys {
        client.send(&[b"SET", key, b"1"]).unwrap();
    }
    for key in &keys {
        client.send(&[b"INCR", key]).unwrap();
    }
    for key in &keys {
        let answer = client.receive().unwrap();
        assert!(answer.is_ok(), "SET {key:?}: {answer}");
    }
    for key in &keys {
        assert_eq!(client.receive().unwrap(), Answer::Int(2), "INCR {key:?}");
    }
    let mut read: Vec<&[u8]> = vec![b"MGET"];
    read.extend(keys.iter().map(Vec::as_slice));
    let twos = vec![Answer::Bulk(b"2".to_vec()); keys.len()];
    assert_eq!(client.call(&read).unwrap(), Answer::Array(twos));
    let Answer::Array(found) =
        client.call(&[b"OARLOCK", b"SCAN", b"", b"", b"LIMIT", b"999"]).unwrap()
    else {
        panic!("no array");
    };
    assert_eq!(found.len(), 2 * keys.len());
    assert_eq!(client.call(&[b"DBSIZE"]).unwrap(), Answer::Int(256));
    read[0] = b"DEL";
    assert_eq!(client.call(&read).unwrap(), Answer::Int(256));
}

fn wait_for_the_whole_map(cluster: &Cluster, client: &mut Client) {
    let ranges = eventually("the map", || {
        let ranges = cluster_map::ranges(client).map_err(|error| error.to_string())?;
        if ranges.len() == 16 { Ok(ranges) } else { Err(format!("{} ranges", ranges.len())) }
    });
    // Nothing but the cluster's feature level has changed since the formation.
    assert!(ranges.iter().all(|range| range.map_version >= 1 && range.epoch == 1));
    let folder = cluster.data_dir(NODE);
    eventually("the copy of the map", || match map_copy::read(&folder) {
        Ok(Some(copy)) if copy.map.version() >= 1 && copy.map.len() == 16 => Ok(()),
        other => Err(format!("{other:?}").chars().take(200).collect()),
    });
}

#[test]
fn a_node_whose_copy_of_the_map_is_old_serves_every_command_and_fetches_the_new_one() {
    let mut cluster = Cluster::start("old-map", Options::default());
    cluster.kill(NODE);
    cluster.wait_for_leaders_without(NODE);
    map_copy::write(&cluster.data_dir(NODE), &copy_before_all_splits()).unwrap();
    cluster.restart(NODE);
    let mut client = connected(&cluster);
    use_all_ranges(&mut client);
    wait_for_the_whole_map(&cluster, &mut client);
    let nothing = cluster_map::ranges_since(&mut client, 2).unwrap();
    assert_eq!(nothing, []);
    // The next start begins with what was fetched.
    cluster.kill(NODE);
    cluster.restart(NODE);
    let mut client = connected(&cluster);
    assert_eq!(cluster_map::ranges(&mut client).unwrap().len(), 16);
}

#[test]
fn a_damaged_copy_of_the_map_is_told_and_harms_nothing() {
    let mut cluster = Cluster::start("damaged-map", Options::default());
    cluster.kill(NODE);
    let copy = map_copy::path(&cluster.data_dir(NODE));
    map_copy::write(&cluster.data_dir(NODE), &copy_before_all_splits()).unwrap();
    let mut bytes = fs::read(&copy).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&copy, bytes).unwrap();
    cluster.restart(NODE);
    let mut client = connected(&cluster);
    use_all_ranges(&mut client);
    let log = fs::read_to_string(cluster.local.node(NODE).log_file()).unwrap();
    let told = log.lines().filter(|line| line.contains("fetched anew")).count();
    assert_eq!(told, 1, "{log}");
}
