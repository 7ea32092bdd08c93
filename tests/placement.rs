//! A running cluster that brings its replicas to where they should be by itself, under load: nodes are
//! drained, come back, and are lost, and nothing that was acknowledged is.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::collections::BTreeMap;

use common::{Cluster, Load, Options, Shape, eventually};
use oarlock::bench::cluster_map;

/// How many replicas each node has by the map of `asked`, the meta group's aside.
fn replicas_by_map(cluster: &Cluster, asked: u64) -> Result<BTreeMap<u64, usize>, String> {
    let mut client = cluster.local.node(asked).client().map_err(|error| error.to_string())?;
    let ranges = cluster_map::ranges(&mut client).map_err(|error| error.to_string())?;
    let mut counts = BTreeMap::new();
    for range in ranges {
        if range.replicas.len() != 3 {
            return Err(format!("range {} is on {:?}", range.group, range.replicas));
        }
        for node in range.replicas {
            *counts.entry(node).or_default() += 1;
        }
    }
    Ok(counts)
}

/// Waits until the node has no replica of anything.
#[track_caller]
fn wait_until_empty(cluster: &Cluster, node: u64) {
    eventually("the node to be empty", || {
        let status = cluster.status(node).map_err(|error| error.to_string())?;
        let left = status.groups.len();
        if left == 0 { Ok(()) } else { Err(format!("{left} replicas are left")) }
    });
}

fn cluster(name: &str, gone_after_ms: u64) -> Cluster {
    let placement = vec![("placement_gone_after_ms", gone_after_ms)];
    Cluster::start(name, Options { nodes: 4, ranges: 8, placement, ..Options::default() })
}

#[test]
fn a_node_is_drained_and_filled_again_under_load() {
    let cluster = cluster("placement-drain", 300_000);
    let load = Load::start(&cluster, &Shape { rate: 500, ..Shape::default() });
    load.progress(300);
    let (code, text) = cluster.command(1, &["node", "drain", "2"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("no range has a replica on node 2 any more; 6 have left"), "{text}");
    wait_until_empty(&cluster, 2);
    load.progress(300);
    assert!(!replicas_by_map(&cluster, 1).unwrap().contains_key(&2));
    eventually("a plan without tasks", || {
        let (_, text) = cluster.command(1, &["placement", "plan"]);
        if text == "nothing to do\n" { Ok(()) } else { Err(text) }
    });
    let (code, text) = cluster.command(1, &["placement", "explain", "1"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("g1") && text.contains("n1/c"), "{text}");
    let (code, text) = cluster.command(1, &["node", "drain", "9"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("the cluster has no node 9"), "{text}");
    let (code, text) = cluster.command(1, &["node", "serve", "2"]);
    assert_eq!((code, text.as_str()), (Some(0), "node 2 may have replicas again\n"));
    eventually("an even spread", || {
        let counts = replicas_by_map(&cluster, 4)?;
        let fewest = (1..=4).map(|node| counts.get(&node).copied().unwrap_or(0)).min();
        if fewest >= Some(5) { Ok(()) } else { Err(format!("{counts:?}")) }
    });
    load.progress(300);
    let (recorded, _) = load.stop();
    cluster.verify(recorded);
}

#[test]
fn a_node_that_is_gone_is_made_up_for() {
    let mut cluster = cluster("placement-repair", 3_000);
    let load = Load::start(&cluster, &Shape { rate: 500, ..Shape::default() });
    load.progress(300);
    cluster.kill(3);
    eventually("three replicas of each range on the others", || {
        let counts = replicas_by_map(&cluster, 1)?;
        if counts.contains_key(&3) { Err(format!("{counts:?}")) } else { Ok(()) }
    });
    load.progress(300);
    // It comes back, hears that it is a member of nothing any more, and gets its share again.
    cluster.restart(3);
    eventually("its share", || {
        let counts = replicas_by_map(&cluster, 3)?;
        if counts.get(&3) >= Some(&5) { Ok(()) } else { Err(format!("{counts:?}")) }
    });
    load.progress(300);
    let (recorded, _) = load.stop();
    cluster.verify(recorded);
}
