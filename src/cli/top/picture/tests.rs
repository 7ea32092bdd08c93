//! The picture of a cluster, as it is told without and within a size.

use std::time::{Duration, Instant};

use super::*;
use crate::bench::breakdown::tests::sample;
use crate::bench::cluster_map::{NodeAddress, NodeStatus};

fn group(group: u64, core: u64, role: &str, term: u64) -> GroupStatus {
    let (keys, state_bytes) = (1_000 * group, 3 << 20);
    let (reads_per_s, writes_per_s) = (10 * group, 20 * group);
    let role = role.to_owned();
    let rest = GroupStatus::default();
    GroupStatus { group, core, role, term, keys, state_bytes, reads_per_s, writes_per_s, ..rest }
}

/// A node that has answered so many requests, two of three writes.
fn node(node: u64, zone: &str, answered: u64, groups: Vec<GroupStatus>) -> NodeLook {
    let client_address = format!("127.0.0.1:700{node}");
    let address = NodeAddress { node, client_address, zone: zone.to_owned(), levels: None };
    let core = CoreStatus {
        requests_answered: answered,
        writes_acknowledged: answered / 3 * 2,
        ..CoreStatus::default()
    };
    let cores = vec![core, CoreStatus { core: 1, ..CoreStatus::default() }];
    let status = NodeStatus { node, incarnation: 1, cores, groups, ..NodeStatus::default() };
    NodeLook { address, status: Some(status), writes: None }
}

fn range(group: u64, bounds: [&str; 2], replicas: [u64; 3]) -> RangeRow {
    let [start, end] = bounds.map(|key| key.as_bytes().to_vec());
    RangeRow { group, start, end, replicas: replicas.to_vec(), ..RangeRow::default() }
}

/// Of three ranges nobody leads the last; node 3 does not answer and is given up.
fn look(at: Instant, answered: u64) -> Look {
    let leader = |number, core| group(number, core, "leader", 4);
    let follower = |number, core| group(number, core, "follower", 4);
    let groups = [
        vec![leader(0, 0), leader(1, 0), follower(2, 1)],
        // It has not heard that another leads the first.
        vec![group(1, 0, "leader", 3), leader(2, 1)],
    ];
    let [one, two] = groups;
    let mut gone = node(3, "", 0, Vec::new());
    gone.status = None;
    let nodes =
        [(1, node(1, "east", answered, one)), (2, node(2, "", answered * 2, two)), (3, gone)];
    let duties = [(2, "draining".to_owned()), (3, "removed".to_owned())];
    Look {
        at,
        nodes: nodes.into(),
        ranges: vec![
            range(1, ["", "m"], [1, 2, 3]),
            range(2, ["m", "t"], [1, 2, 3]),
            range(3, ["t", ""], [1, 2, 3]),
        ],
        duties: Some(duties.into()),
        placement: Some("move one\nmove two\nmove three\ncan not: move four\n".to_owned()),
    }
}

/// Two looks, half a second apart.
fn looks() -> (Look, Look) {
    let at = Instant::now();
    let (before, mut now) = (look(at, 3_000), look(at + Duration::from_millis(500), 3_300));
    let none = sample().since(&sample()).unwrap();
    let (mut before, writes) = (before, Some(sample()));
    before.nodes.get_mut(&1).unwrap().writes = Some(none);
    now.nodes.get_mut(&1).unwrap().writes = writes;
    (before, now)
}

fn drawn(before: &Look, now: &Look, size: Option<Size>) -> String {
    let lines = Picture::new(before, now).lines(size);
    lines.into_iter().map(|line| line.text + "\n").collect()
}

#[test]
fn all_is_told_where_there_is_room() {
    let (before, now) = looks();
    let expected = "\
2 of 3 nodes up   3 ranges, 1 without a leader   1200 writes/s   600 reads/s   writes p99 0.1 ms

node  address         zone  state          replicas  leaders  writes/s  reads/s  p99 ms  leaders/replicas of each core
n1    127.0.0.1:7001  east  up                    3        1       400      200     0.1  c 1/1 0/1
n2    127.0.0.1:7002  -     up, draining          3        1       800      400  -       c 0/1 1/1
n3    127.0.0.1:7003  -     down, removed         3        0  -         -        -       ?

placement
  move one
  move two
  move three
  can not: move four

range  from  to  leader  replicas  writes/s  reads/s  keys  bytes
g2     m     t   n2      n1 n2 n3        40       20  2000  3.0 MiB
g1     -     m   n1      n1 n2 n3        20       10  1000  3.0 MiB
g3     t     -   none    n1 n2 n3  ?         ?        ?     ?
";
    assert_eq!(drawn(&before, &now, None), expected);
}

#[test]
fn what_there_is_no_room_for_is_counted_and_no_line_is_too_long() {
    let (before, now) = looks();
    let expected = "\
2 of 3 nodes up   3 ranges, 1 without a

node  address         zone  state
n1    127.0.0.1:7001  east  up
n2    127.0.0.1:7002  -     up, draining
  and 1 more

placement
  move one
  and 3 more

range  from  to  leader  replicas  write
g2     m     t   n2      n1 n2 n3
  and 2 more
";
    let size = Size { width: 40, height: 14 };
    let text = drawn(&before, &now, Some(size));
    assert!(text.lines().all(|line| line.chars().count() <= 40), "{text}");
    assert_eq!(text, expected);
}

#[test]
fn nothing_is_reckoned_over_a_nodes_restart() {
    let (before, mut now) = looks();
    now.nodes.get_mut(&1).unwrap().status.as_mut().unwrap().incarnation = 2;
    let text = drawn(&before, &now, None);
    assert!(text.contains("800 writes/s   400 reads/s"), "{text}");
}

#[test]
fn what_nobody_could_tell_is_said() {
    let (before, mut now) = looks();
    (now.duties, now.placement) = (None, None);
    let text = drawn(&before, &now, None);
    assert!(text.contains("up, duty unknown"), "{text}");
    assert!(text.contains("nobody leads the meta group just now"), "{text}");
}

#[test]
fn a_long_bound_is_cut_and_an_odd_one_spelt() {
    let long = ["", "user:1", "user:1234567890"].map(|key| bound(key.as_bytes()));
    assert_eq!(long, ["-", "user:1", "user:12345678…"]);
    assert_eq!(bound("é:1".as_bytes()), "0xc3a93a31");
    assert_eq!(bound(&[0x80; 9]), "0x80808080808…");
}

#[test]
fn bytes_have_few_digits() {
    assert_eq!([0, 1023, 1536, 5 << 30].map(bytes), ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
}
