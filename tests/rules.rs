//! Rules for spans of keys and capacities of nodes, on a running cluster under load: numbers of replicas that
//! rise and fall, nodes that keys are pinned to, zones where they are led, ranges that are cut where a rule
//! begins; and nothing that was acknowledged is lost on the way.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::fs;

use common::{Cluster, Load, Options, Shape, eventually};
use oarlock::bench::cluster_map::{self, RangeRow};
use toml::{Table, Value};

/// Puts something into the configuration of a node that is not running.
fn configure(cluster: &Cluster, node: u64, change: impl FnOnce(&mut Table)) {
    let file = cluster.local.node(node).config_file();
    let mut config: Table = fs::read_to_string(&file).unwrap().parse().unwrap();
    change(&mut config);
    fs::write(file, config.to_string()).unwrap();
}

fn set_capacity(cluster: &Cluster, node: u64, mib: i64) {
    configure(cluster, node, |config| {
        let section = config["node"].as_table_mut().unwrap();
        section.insert("capacity_bytes".to_owned(), Value::Integer(mib << 20));
    });
}

/// Five nodes in these zones.
fn five(name: &str, zones: [&str; 5]) -> Cluster {
    let options = Options { nodes: 5, cores: 1, ranges: 4, ..Options::default() };
    let mut cluster = Cluster::prepare(name, options);
    for node in 1..=5 {
        configure(&cluster, node, |config| {
            let nodes = config["cluster"]["initial_nodes"].as_array_mut().unwrap();
            for (entry, zone) in nodes.iter_mut().zip(zones) {
                let entry = entry.as_table_mut().unwrap();
                entry.insert("zone".to_owned(), Value::String(zone.to_owned()));
            }
        });
    }
    cluster.local.start_all().unwrap();
    cluster.wait_for_leaders();
    cluster
}

fn ranges(cluster: &Cluster) -> Result<Vec<RangeRow>, String> {
    let mut client = cluster.local.node(1).client().map_err(|error| error.to_string())?;
    cluster_map::ranges(&mut client).map_err(|error| error.to_string())
}

/// Sets a rule and waits until the command says that the ranges are as it wants them.
#[track_caller]
fn set(cluster: &Cluster, asked: u64, args: &[&str]) -> String {
    let args = [&["range", "rules", "set"], args, &["--timeout-s", "60"]].concat();
    let (code, text) = cluster.command(asked, &args);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("in order, after"), "{text}");
    text
}

#[test]
fn replicas_go_from_three_to_five_to_one_under_load() {
    let cluster = five("rules-replicas", ["a", "b", "c", "d", "e"]);
    let load = Load::start(&cluster, &Shape { rate: 400, ..Shape::default() });
    load.progress(200);
    for replicas in [5, 1] {
        let text = set(&cluster, 2, &["", "--replicas", &replicas.to_string()]);
        assert!(text.contains("its 4 ranges are in order"), "{text}");
        for range in ranges(&cluster).unwrap() {
            assert_eq!(range.replicas.len(), replicas, "{range:?}");
        }
        load.progress(200);
    }
    // Keys that no rule names have as many as the cluster was formed with.
    let (code, text) = cluster.command(3, &["range", "rules", "clear", ""]);
    assert_eq!((code, text.as_str()), (Some(0), "no longer all keys: one replica\n"));
    eventually("three replicas of each range", || {
        let ranges = ranges(&cluster)?;
        let odd = ranges.iter().find(|range| range.replicas.len() != 3);
        odd.map_or(Ok(()), |range| Err(format!("{range:?}")))
    });
    load.progress(200);
    let (recorded, _) = load.stop();
    cluster.verify(recorded);
}

/// The range that begins at a key.
fn beginning(cluster: &Cluster, key: &[u8]) -> RangeRow {
    let ranges = ranges(cluster).unwrap();
    ranges.iter().find(|range| range.start == key).unwrap_or_else(|| panic!("{ranges:?}")).clone()
}

/// The node that leads a group by its own word.
fn leader_of(cluster: &Cluster, group: u64) -> Option<u64> {
    let leads = |node: &u64| {
        let status = cluster.status(*node).ok();
        let groups = status.iter().flat_map(|status| &status.groups);
        groups.filter(|one| one.group == group).any(|one| one.role == "leader")
    };
    (1..=5).find(leads)
}

#[test]
fn keys_go_to_the_nodes_and_the_zone_that_a_rule_names_and_their_range_is_cut_out() {
    let mut cluster = five("rules-pins", ["a", "b", "c", "a", "b"]);
    let load = Load::start(&cluster, &Shape { rate: 400, ..Shape::default() });
    load.progress(200);
    // Both ends lie within the range of 0x4000 to 0x8000.
    let wanted = ["k", "p", "--pin", "5,3,4", "--leader-zone", "b"];
    let text = set(&cluster, 1, &wanted);
    assert!(
        text.starts_with("keys from \"k\" to \"p\": led in zone b, on no nodes but 3, 4, 5\n"),
        "{text}"
    );
    let range = beginning(&cluster, b"k");
    let mut replicas = range.replicas.clone();
    replicas.sort_unstable();
    assert_eq!((range.end.as_slice(), replicas), (&b"p"[..], vec![3, 4, 5]));
    assert_eq!(leader_of(&cluster, range.group), Some(5));
    assert_eq!(beginning(&cluster, b"p").end, [0x80, 0]);
    load.progress(200);

    // A rule within it has a range of its own, and one that is wider leaves both alone.
    let text = set(&cluster, 2, &["m", "n", "--replicas", "1"]);
    let before = "  it counts there, and not the rule for keys from \"k\" to \"p\"\n";
    assert!(text.contains(before), "{text}");
    assert_eq!(beginning(&cluster, b"m").replicas.len(), 1);
    let text = set(&cluster, 2, &["", "0x8000", "--pin", "1,2,3"]);
    assert!(
        text.contains("  the rule for keys from \"k\" to \"p\" goes on to count there\n"),
        "{text}"
    );
    let rest = beginning(&cluster, b"n");
    assert!(rest.replicas.iter().all(|node| [3, 4, 5].contains(node)), "{rest:?}");

    // Whoever leads the meta group plans by them.
    let leader = leader_of(&cluster, 0).unwrap();
    cluster.kill(leader);
    // It may have had the only replica of the keys from "m" to "n": those wait for it.
    eventually("another leader of the meta group", || {
        leader_of(&cluster, 0).ok_or_else(|| "none".to_owned())
    });
    cluster.restart(leader);
    cluster.wait_for_leaders();
    let group = rest.group.to_string();
    eventually("an explanation", || {
        let (_, text) = cluster.command(2, &["placement", "explain", &group]);
        let rule = "leader in zone b, pinned to n3 n4 n5, set for keys from \"k\" to \"p\"\n";
        if text.contains(rule) { Ok(()) } else { Err(text) }
    });
    eventually("all ranges in order", || {
        let (_, text) = cluster.command(1, &["range", "rules", "list", "--json"]);
        let rows: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        let rows = rows.as_array().ok_or("no list")?;
        let is_done = |row: &serde_json::Value| row["ranges"] == row["in_order"];
        if rows.len() == 3 && rows.iter().all(is_done) { Ok(()) } else { Err(text) }
    });
    load.progress(200);
    let (recorded, _) = load.stop();
    cluster.verify(recorded);
}

#[test]
fn a_rule_that_can_not_be_kept_is_refused_and_says_what_is_known() {
    let cluster = five("rules-refused", ["a", "b", "c", "a", "b"]);
    let (code, text) = cluster.command(1, &["node", "drain", "5", "--timeout-s", "60"]);
    assert_eq!(code, Some(0), "{text}");
    for (args, wanted, told) in [
        (&["k", "--replicas", "4"][..], 2, "with an even number it survives no more failures"),
        (&["k"], 2, "required arguments were not provided"),
        (&["p", "k", "--replicas", "1"], 1, "<end> is not behind <start>"),
        (&["k", "--pin", "1,9"], 1, "the cluster has no node 9: its nodes are 1, 2, 3, 4, 5"),
        (&["k", "--leader-zone", "x"], 1, "no node stands in zone x: the zones are a, b, c"),
        (
            &["k", "--pin", "1,3,4", "--leader-zone", "b"],
            1,
            "none of the nodes that may hold it is in zone b: 1 in a, 3 in c, 4 in a",
        ),
        (
            &["k", "--replicas", "5"],
            1,
            "5 replicas need as many nodes that serve, and there are 4: 1, 2, 3, 4",
        ),
        (
            &["k", "--pin", "3,4,5"],
            1,
            "3 replicas need as many nodes of these that serve, and there are 2: 3, 4",
        ),
    ] {
        let args = [&["range", "rules", "set"], args].concat();
        let (code, text) = cluster.command(2, &args);
        assert_eq!((code, text.contains(told)), (Some(wanted), true), "{args:?}: {text}");
    }
    let (code, text) = cluster.command(1, &["range", "rules", "clear", "k"]);
    assert_eq!((code, text.contains("no rule begins at that key")), (Some(1), true), "{text}");
    let (code, text) = cluster.command(1, &["range", "rules", "list"]);
    assert_eq!((code, text.as_str()), (Some(0), "no rules are set\n"));
    let (_, text) = cluster.command(1, &["node", "list"]);
    let row = |node: &str| text.lines().find(|line| line.trim_start().starts_with(node)).unwrap();
    assert!(row("5").contains("draining") && row("3").contains("serving"), "{text}");
}

/// How many replicas each node has.
fn spread(cluster: &Cluster) -> Result<Vec<usize>, String> {
    let ranges = ranges(cluster)?;
    let held = |node: u64| ranges.iter().filter(|range| range.replicas.contains(&node)).count();
    Ok((1..=4).map(held).collect())
}

#[test]
fn a_node_with_half_the_capacity_holds_half_as_much_until_it_starts_with_more() {
    let options = Options { nodes: 4, cores: 1, ..Options::default() };
    let mut cluster = Cluster::prepare("rules-capacity", options);
    for node in 1..=4 {
        set_capacity(&cluster, node, if node == 4 { 5 << 10 } else { 10 << 10 });
    }
    cluster.local.start_all().unwrap();
    cluster.wait_for_leaders();
    // 48 replicas by 2, 2, 2 and 1 parts.
    eventually("half a share on node 4", || {
        let spread = spread(&cluster)?;
        let is_even = spread[..3].iter().all(|count| (13..=14).contains(count));
        if is_even && (6..=8).contains(&spread[3]) { Ok(()) } else { Err(format!("{spread:?}")) }
    });
    let (_, text) = cluster.command(3, &["node", "list"]);
    assert_eq!(text.matches("10.0 GiB").count(), 3, "{text}");
    assert_eq!(text.matches("5.0 GiB").count(), 1, "{text}");
    cluster.kill(4);
    set_capacity(&cluster, 4, 10 << 10);
    cluster.restart(4);
    eventually("a full share on node 4", || {
        let spread = spread(&cluster)?;
        let is_even = spread.iter().all(|count| (11..=13).contains(count));
        if is_even { Ok(()) } else { Err(format!("{spread:?}")) }
    });
}
