//! Ranges of a running cluster that are cut in two and merged again: under load, while nodes die and come
//! back, and nothing that was acknowledged is lost.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::collections::BTreeSet;

use common::{Cluster, Load, Options, Shape, eventually};
use oarlock::bench::client::Answer;
use oarlock::bench::cluster_map::{self, RangeRow};

fn ranges_on(cluster: &Cluster, node: u64) -> Result<Vec<RangeRow>, String> {
    let mut client = cluster.local.node(node).client().map_err(|error| error.to_string())?;
    cluster_map::ranges(&mut client).map_err(|error| error.to_string())
}

/// Waits until these nodes all have the same map of so many ranges, each of which somebody leads.
#[track_caller]
fn wait_for_ranges(cluster: &Cluster, nodes: &[u64], count: usize) -> Vec<RangeRow> {
    let of_map =
        |range: &RangeRow| (range.group, range.start.clone(), range.end.clone(), range.epoch);
    eventually("the same map on all nodes", || {
        let mut ranges = ranges_on(cluster, nodes[0])?;
        for node in &nodes[1..] {
            let other = ranges_on(cluster, *node)?;
            // A node knows surely who leads only where it has a replica itself.
            for (range, other) in ranges.iter_mut().zip(&other) {
                range.leader = range.leader.max(other.leader);
            }
            if !other.iter().map(of_map).eq(ranges.iter().map(of_map)) {
                return Err(format!("node {node} has {} ranges", other.len()));
            }
        }
        let led = ranges.iter().filter(|range| range.leader != 0).count();
        if (ranges.len(), led) != (count, count) {
            return Err(format!("{} ranges, {led} of them led", ranges.len()));
        }
        Ok(ranges)
    })
}

fn split(cluster: &Cluster, nodes: &[u64], key: &[u8]) {
    // One whose outcome was unknown may have been made, and is then found by the next try.
    let is_made = |answer: &Answer| matches!(answer, Answer::Error(text) if text.contains(MADE));
    let mut turn = nodes.iter().cycle();
    let answer = eventually("a cut", || {
        let node = turn.next().copied().unwrap();
        let client = cluster.local.node(node).client();
        let answer = client.and_then(|mut client| client.call(&[b"OARLOCK", b"SPLIT", key]));
        match answer {
            Ok(answer) if answer.error_kind().is_none() || is_made(&answer) => Ok(answer),
            Ok(answer) => Err(answer.to_string()),
            Err(error) => Err(error.to_string()),
        }
    });
    assert!(matches!(answer, Answer::Int(2..)) || is_made(&answer), "{answer}");
}

const MADE: &str = "a range begins at that key already";

/// The ranges follow each other without a gap from the first key to the last, with groups of their own.
fn assert_whole(ranges: &[RangeRow]) {
    assert!(ranges[0].start.is_empty() && ranges[ranges.len() - 1].end.is_empty());
    for pair in ranges.windows(2) {
        assert_eq!(pair[0].end, pair[1].start);
    }
    let groups: BTreeSet<u64> = ranges.iter().map(|range| range.group).collect();
    assert_eq!(groups.len(), ranges.len());
}

/// Brings the range that begins at a key into the one before it.
#[track_caller]
fn merge(cluster: &Cluster, node: u64, key: &str) {
    let (code, text) = cluster.command(node, &["range", "merge", "--timeout-s", "30", key]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.ends_with(" now\n"), "{text}");
}

/// Waits until nodes have replicas of these ranges, and of the meta group, and of no others.
fn wait_for_these_alone(cluster: &mut Cluster, ranges: &[RangeRow]) {
    let groups: BTreeSet<u64> = ranges.iter().map(|range| range.group).collect();
    for node in 1..=3 {
        cluster.eventually("a replica of each range and of no other", |local| {
            let status = cluster_map::status(&mut local.node(node).client().unwrap()).unwrap();
            let held: BTreeSet<u64> = status.groups.iter().map(|group| group.group).collect();
            let held: BTreeSet<u64> = held.into_iter().filter(|group| *group != 0).collect();
            if held == groups { Ok(()) } else { Err(format!("node {node} has {held:?}")) }
        });
    }
}

fn cluster(name: &str) -> Cluster {
    Cluster::start(name, Options { ranges: 1, ..Options::default() })
}

#[test]
fn ranges_are_cut_under_load_while_nodes_die() {
    let mut cluster = cluster("ranges-cut");
    let load = Load::start(&cluster, &Shape::default());
    load.progress(500);
    for (key, node) in [(0x80_u8, 1), (0x40, 2), (0xc0, 3), (0x20, 1)] {
        split(&cluster, &[node], &[key]);
        load.progress(200);
    }
    assert_whole(&wait_for_ranges(&cluster, &[1, 2, 3], 5));
    // A node that was away while ranges were cut, and cut again, comes to all of them.
    cluster.kill(3);
    split(&cluster, &[1, 2], &[0x60]);
    split(&cluster, &[2, 1], &[0x70]);
    load.progress(500);
    cluster.restart(3);
    let ranges = wait_for_ranges(&cluster, &[1, 2, 3], 7);
    assert_whole(&ranges);
    load.progress(500);
    let (recorded, _) = load.stop();
    cluster.verify(recorded);
    for node in 1..=3 {
        cluster.eventually("a replica of each range", |local| {
            let status = cluster_map::status(&mut local.node(node).client().unwrap()).unwrap();
            let held: BTreeSet<u64> = status.groups.iter().map(|group| group.group).collect();
            let missing = ranges.iter().filter(|range| !held.contains(&range.group)).count();
            if missing == 0 { Ok(()) } else { Err(format!("node {node} lacks {missing}")) }
        });
    }
}

#[test]
fn a_cut_survives_the_death_of_all_nodes() {
    let mut cluster = cluster("ranges-power");
    let shape = Shape { keys: 300, ..Shape::default() };
    let mut load = Load::start(&cluster, &shape);
    for round in 0..3_u8 {
        load.progress(300);
        split(&cluster, &[1, 2, 3], &[0x40 + round * 0x20]);
        cluster.kill_all();
        let (recorded, _) = load.stop();
        for node in 1..=3 {
            cluster.restart(node);
        }
        assert_whole(&wait_for_ranges(&cluster, &[1, 2, 3], 2 + usize::from(round)));
        load = Load::go_on(&cluster, &shape, recorded);
    }
    let (recorded, _) = load.stop();
    cluster.verify(recorded);
}

#[test]
fn ranges_are_merged_under_load_while_nodes_die() {
    let mut cluster = cluster("ranges-merge");
    let load = Load::start(&cluster, &Shape { keys: 300, ..Shape::default() });
    for key in [0x40_u8, 0x80, 0xc0] {
        split(&cluster, &[1, 2, 3], &[key]);
    }
    wait_for_ranges(&cluster, &[1, 2, 3], 4);
    load.progress(300);
    merge(&cluster, 2, "0x80");
    load.progress(300);
    assert_whole(&wait_for_ranges(&cluster, &[1, 2, 3], 3));
    // A node that is away while ranges merge, and are cut again, comes to all of that.
    cluster.kill(3);
    merge(&cluster, 1, "0x40");
    split(&cluster, &[1, 2], &[0x80]);
    load.progress(300);
    cluster.restart(3);
    let ranges = wait_for_ranges(&cluster, &[1, 2, 3], 3);
    assert_whole(&ranges);
    wait_for_these_alone(&mut cluster, &ranges);
    merge(&cluster, 3, "0xc0");
    merge(&cluster, 3, "0x80");
    let ranges = wait_for_ranges(&cluster, &[1, 2, 3], 1);
    load.progress(300);
    wait_for_these_alone(&mut cluster, &ranges);
    let (recorded, _) = load.stop();
    cluster.verify(recorded);
}

#[test]
fn a_merge_survives_the_death_of_all_nodes() {
    let mut cluster = cluster("ranges-merge-power");
    let shape = Shape { keys: 300, ..Shape::default() };
    let mut load = Load::start(&cluster, &shape);
    for round in 0..3_u64 {
        load.progress(300);
        split(&cluster, &[1, 2, 3], &[0x80]);
        let ranges = wait_for_ranges(&cluster, &[1, 2, 3], 2);
        let mut client = cluster.client(ranges[1].leader);
        let epoch = ranges[0].epoch.to_string();
        client.send(&[b"OARLOCK", b"MERGE", &[0x80], b"", epoch.as_bytes()]).unwrap();
        // Somewhere on its way.
        load.progress(round * 20);
        cluster.kill_all();
        let (recorded, _) = load.stop();
        for node in 1..=3 {
            cluster.restart(node);
        }
        // It may have come to its end; the map of a node that has just started may be older than that.
        eventually("one range on all nodes", || {
            let counts = (1..=3).map(|node| Ok(ranges_on(&cluster, node)?.len()));
            let counts: Vec<usize> = counts.collect::<Result<_, String>>()?;
            let (_, text) = cluster.command(1, &["range", "merge", "0x80"]);
            if counts == [1; 3] { Ok(()) } else { Err(format!("{counts:?}: {text}")) }
        });
        load = Load::go_on(&cluster, &shape, recorded);
    }
    let (recorded, _) = load.stop();
    cluster.verify(recorded);
}

#[test]
fn ranges_divide_by_themselves_by_load_and_by_size() {
    let splits = vec![
        ("range_requests_per_s_max", 600),
        ("range_load_rest_ms", 2_000),
        ("range_keys_max", 2_000),
    ];
    let options = Options { ranges: 1, splits, ..Options::default() };
    let mut cluster = Cluster::start("ranges-divide", options);
    let load = Load::start(&cluster, &Shape { rate: 2000, keys: 1000, ..Shape::default() });
    cluster.eventually("more ranges for the load", |local| {
        let ranges = local.led_ranges()?;
        if ranges.len() >= 4 { Ok(()) } else { Err(format!("{} ranges", ranges.len())) }
    });
    let (recorded, _) = load.stop();
    cluster.verify(recorded);
    let by_load = cluster.wait_for_leaders().len();
    let mut client = cluster.client(1);
    for number in 0..10_000 {
        let key = format!("many:{number:05}");
        client.send(&[b"SET", key.as_bytes(), b"x"]).unwrap();
        assert!(client.receive().unwrap().is_ok());
    }
    cluster.eventually("more ranges for the keys", |local| {
        let ranges = local.led_ranges()?;
        let count = ranges.len();
        if count >= by_load + 4 { Ok(()) } else { Err(format!("{count} ranges")) }
    });
    assert_eq!(client.call(&[b"GET", b"many:09999"]).unwrap(), Answer::Bulk(b"x".to_vec()));
}

/// Four ranges for each core are kept.
#[test]
fn small_and_cold_ranges_merge_by_themselves() {
    let splits = vec![("range_merge_rest_ms", 2_000)];
    let mut cluster =
        Cluster::start("ranges-cold", Options { ranges: 1, splits, ..Options::default() });
    let load = Load::start(&cluster, &Shape { keys: 300, rate: 300, ..Shape::default() });
    for place in 1..30_u8 {
        split(&cluster, &[1, 2, 3], &[place * 8]);
    }
    wait_for_ranges(&cluster, &[1, 2, 3], 30);
    let status = cluster_map::status(&mut cluster.client(1)).unwrap();
    let least = 4 * 3 * status.cores.len();
    let ranges = wait_for_ranges(&cluster, &[1, 2, 3], least);
    assert_whole(&ranges);
    wait_for_these_alone(&mut cluster, &ranges);
    load.progress(300);
    let (recorded, _) = load.stop();
    cluster.verify(recorded);
}

#[test]
fn what_can_not_be_cut_is_said() {
    let cluster = cluster("ranges-wrong");
    let range = |args: &[&str]| cluster.command(2, &[&["range"], args].concat());
    let (code, text) = range(&["split", "m"]);
    assert_eq!((code, text.as_str()), (Some(0), "group 2 has the keys from m to - now\n"));
    let (code, text) = range(&["split", "m"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("a range begins at that key already"), "{text}");
    let (code, text) = range(&["split", "0xf"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("even number of digits"), "{text}");
    let (code, text) = range(&["merge", "n"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("no range begins at that key"), "{text}");
    let (code, text) = range(&["merge", "0x"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("it is the first range"), "{text}");
    let (code, text) = range(&["list"]);
    assert_eq!(code, Some(0));
    // The cluster's feature level is raised at its start, which makes a version of its own: before the cut or after it.
    assert!(text.contains("2 ranges, version "), "{text}");
    let mut client = cluster.client(1);
    let mut call = |args: &[&[u8]]| client.call(args).unwrap().to_string();
    assert!(call(&[b"OARLOCK", b"SPLIT"]).contains("wrong number of arguments"));
    assert_eq!(call(&[b"MULTI"]), "OK");
    assert!(call(&[b"OARLOCK", b"SPLIT", b"x"]).contains("error"));
    assert!(call(&[b"EXEC"]).contains("EXECABORT"));
}

/// Asks for the next step until the range is where it shall be.
#[track_caller]
fn place(cluster: &Cluster, group: u64, nodes: &[u64]) {
    let words: Vec<String> = [group].iter().chain(nodes).map(ToString::to_string).collect();
    let mut args: Vec<&[u8]> = vec![b"OARLOCK", b"PLACE"];
    args.extend(words.iter().map(String::as_bytes));
    let mut client = cluster.client(1);
    eventually("the range to be there", || {
        let answer = client.call(&args).map_err(|error| error.to_string())?;
        if answer.is_ok() { Ok(()) } else { Err(answer.to_string()) }
    });
}

/// Waits until every node's map has the replicas of a range on these nodes.
#[track_caller]
fn wait_for_replicas(cluster: &Cluster, group: u64, nodes: Vec<u64>) {
    let wanted = BTreeSet::from_iter(nodes);
    for node in 1..=4 {
        eventually("the map to tell where the replicas are", || {
            let ranges = ranges_on(cluster, node)?;
            let range = ranges.into_iter().find(|range| range.group == group).unwrap();
            let replicas = BTreeSet::from_iter(range.replicas);
            if replicas == wanted { Ok(()) } else { Err(format!("{replicas:?}")) }
        });
    }
}

/// A node may have no replica of a range, and not know who leads it: its list asks others.
fn wait_for_leaders_in_lists(cluster: &Cluster) {
    for node in 1..=4 {
        eventually("the list to tell who leads each range", || {
            let (code, text) = cluster.command(node, &["range", "list"]);
            let is_told = code == Some(0) && text.contains("4 ranges") && !text.contains("none");
            if is_told { Ok(()) } else { Err(text) }
        });
    }
}

/// The groups that a node has a replica of.
fn held(cluster: &Cluster, node: u64) -> Result<BTreeSet<u64>, String> {
    let status = cluster.status(node).map_err(|error| error.to_string())?;
    Ok(status.groups.iter().map(|group| group.group).collect())
}

#[test]
fn replicas_move_to_other_nodes_and_back_under_load() {
    // What is moved by hand stays there.
    let placement = vec![("placement_moves_max", 0)];
    let options = Options { nodes: 4, ranges: 4, placement, ..Options::default() };
    let mut cluster = Cluster::start("ranges-move", options);
    let load = Load::start(&cluster, &Shape { rate: 800, ..Shape::default() });
    load.progress(500);
    let before = wait_for_ranges(&cluster, &[1, 2, 3, 4], 4);
    let away = |range: &RangeRow| {
        let new = (1..=4).find(|node| !range.replicas.contains(node)).unwrap();
        let leaves = range.leader;
        let stay = range.replicas.iter().copied().filter(move |node| *node != leaves);
        (leaves, stay.chain([new]).collect::<Vec<u64>>())
    };
    for range in &before {
        let (leaves, nodes) = away(range);
        place(&cluster, range.group, &nodes);
        eventually("the end of the replica that has left", || {
            let held = held(&cluster, leaves)?;
            if held.contains(&range.group) { Err(format!("{held:?}")) } else { Ok(()) }
        });
        load.progress(100);
    }
    // What has left stays away over a death, and the map on every node tells where it is.
    for node in 1..=4 {
        cluster.kill(node);
        cluster.restart(node);
        cluster.wait_for_leaders();
    }
    for range in &before {
        let (leaves, nodes) = away(range);
        wait_for_replicas(&cluster, range.group, nodes);
        assert!(!held(&cluster, leaves).unwrap().contains(&range.group));
    }
    wait_for_leaders_in_lists(&cluster);
    load.progress(300);
    let (first, rest) = before.split_first().unwrap();
    let text = |number: u64| number.to_string();
    let group = text(first.group);
    let nodes: Vec<String> = first.replicas.iter().copied().map(text).collect();
    let (code, said) = cluster.command(2, &["range", "move", &group, "--to", &nodes.join(",")]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("begin to learn") && said.contains(&format!("range {group} is on")));
    let (code, said) =
        cluster.command(2, &["range", "transfer", &group, "--to", &text(first.leader)]);
    assert_eq!(code, Some(0), "{said}");
    for (args, why) in [
        (["range", "move", "99", "--to", "1"], "there is no range 99"),
        (["range", "move", &group, "--to", "1,2,99"], "the cluster has no such node"),
    ] {
        let (code, said) = cluster.command(2, &args);
        assert!(code == Some(1) && said.contains(why), "{said}");
    }
    for range in rest {
        place(&cluster, range.group, &range.replicas);
        let to = range.leader.to_string();
        let group = range.group.to_string();
        let transfer = [b"OARLOCK".as_slice(), b"TRANSFER", group.as_bytes(), to.as_bytes()];
        eventually("the leader to be back", || {
            let answer = cluster.client(1).call(&transfer).map_err(|error| error.to_string())?;
            if answer.is_ok() { Ok(()) } else { Err(answer.to_string()) }
        });
    }
    load.progress(300);
    let (recorded, _) = load.stop();
    cluster.verify(recorded);
    for range in before {
        wait_for_replicas(&cluster, range.group, range.replicas);
    }
}
