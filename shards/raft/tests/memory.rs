//! An idle replica is small: ten thousand of them must fit beside the data.

mod cluster;

use std::time::Duration;

use cluster::Cluster;
use oarlock_raft::Configuration;
use oarlock_types::{Limits, Mono, NodeId};

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
        assert!(group.is_quiet(), "{}", cluster.status(id));
        assert!(group.log_bytes() > 100_000);
        total += group.memory_bytes();
    }
    assert!(total < 3 * 1024, "a leader and two followers take {total} bytes");
}
