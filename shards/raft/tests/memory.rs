//! An idle replica is small: ten thousand of them must fit beside the data. A busy one keeps no more
//! entries in memory than it may.

mod cluster;

use std::time::Duration;

use bytes::Bytes;
use cluster::Cluster;
use oarlock_raft::{Configuration, Entry, Group, LogPosition, Payload};
use oarlock_types::{Index, Limits, Mono, NodeId, Term};

#[test]
fn idle_replicas_take_less_than_a_kilobyte_each() {
    let ids = [NodeId(1), NodeId(2), NodeId(3)];
    let mut cluster = Cluster::new(&ids, Configuration::simple(ids), Limits::default(), 1);
    cluster.now = cluster.deadline();
    cluster.fire(NodeId(1));
    cluster.stabilize(&ids);
    for _ in 0..100 {
        assert_eq!(cluster.propose(NodeId(1), &"x".repeat(1000)), None);
        cluster.stabilize(&ids);
    }
    cluster.now = cluster.now + Duration::from_millis(20);
    cluster.fire(NodeId(1));
    cluster.stabilize(&ids);
    assert_eq!(cluster.deadline(), Mono::NEVER);
    let mut total = 0;
    for id in ids {
        let group = cluster.group(id);
        assert_eq!(group.last().index, Index(101));
        total += group.memory_bytes();
    }
    assert!(total < 3 * 1024, "a leader and two followers take {total} bytes");
    assert!(total > 3 * size_of::<Group>(), "{total} bytes are less than the replicas themselves");
}

#[test]
fn a_follower_that_does_not_answer_costs_a_bounded_cache() {
    let ids = [NodeId(1), NodeId(2), NodeId(3)];
    let limits = Limits { log_cache_bytes_max: 4000, ..Limits::default() };
    let mut cluster = Cluster::new(&ids, Configuration::simple(ids), limits, 1);
    cluster.now = cluster.deadline();
    cluster.fire(NodeId(1));
    cluster.stabilize(&ids);
    for _ in 0..20 {
        assert_eq!(cluster.propose(NodeId(1), &"x".repeat(1000)), None);
        cluster.stabilize(&ids[..2]);
    }
    let leader = cluster.group(NodeId(1));
    let cached: Vec<&_> = (1..=21).filter_map(|index| leader.entry(Index(index))).collect();
    let bytes: usize = cached.iter().map(|entry| entry.size_bytes()).sum();
    assert!((1..=4000).contains(&bytes), "{} entries of {bytes} bytes", cached.len());
}

#[test]
fn the_window_closes_at_its_last_byte() {
    let ids = [NodeId(1), NodeId(2), NodeId(3)];
    // Another command that fills the window but for so many bytes, and how many more are sent.
    for (spare_bytes, more) in [(1, 1), (0, 0)] {
        let limits = Limits { inflight_bytes_max: 1000, ..Limits::default() };
        let mut cluster = Cluster::new(&ids, Configuration::simple(ids), limits, 1);
        cluster.now = cluster.deadline();
        cluster.fire(NodeId(1));
        cluster.stabilize(&ids);
        let command = Payload::Commands(Bytes::new());
        let overhead = Entry { at: LogPosition::default(), payload: command }.size_bytes();
        cluster.network.clear();
        for bytes in [500, 500 - spare_bytes, 100] {
            assert_eq!(cluster.propose(NodeId(1), &"x".repeat(bytes - overhead)), None);
        }
        let sent = cluster.network.iter().filter(|letter| letter.to == NodeId(2)).count();
        assert_eq!(sent, 2 + more, "with {spare_bytes} bytes to spare");
    }
}

#[test]
fn only_what_is_neither_committed_nor_in_the_log_needs_an_install() {
    let ids = [NodeId(1), NodeId(2), NodeId(3)];
    let mut cluster = Cluster::new(&ids, Configuration::simple(ids), Limits::default(), 1);
    cluster.now = cluster.deadline();
    cluster.fire(NodeId(1));
    cluster.stabilize(&ids);
    assert_eq!(cluster.propose(NodeId(1), "committed"), None);
    cluster.stabilize(&ids);
    assert_eq!(cluster.propose(NodeId(1), "not yet"), None);
    let leader = cluster.group(NodeId(1));
    assert_eq!((leader.applied(), leader.last().index), (Index(2), Index(3)));
    let needs =
        |index, term| leader.needs_install(LogPosition { index: Index(index), term: Term(term) });
    assert!(!needs(2, 1), "committed");
    assert!(!needs(2, 9), "committed, whatever was asked");
    assert!(!needs(3, 1), "in the log");
    assert!(needs(3, 9), "another entry is in the log");
    assert!(needs(4, 1), "behind the log");
}
