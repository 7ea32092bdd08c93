//! A simulation of a cluster with many ranges, small enough for the dev profile; the full size is
//! `cargo bench -p oarlock-placement`. It comes to rest, evenly, with about as many moves as must be.

mod cluster;
mod large_cluster;

use cluster::Counts;
use large_cluster::{Large, Size};
use oarlock_types::WallMs;

const SIZE: Size = Size { nodes: 18, cores: 8, zones: 3, ranges: 18 * 8 * 12 };

#[test]
fn a_formed_cluster_is_at_rest() {
    let mut large = Large::new(SIZE);
    assert_eq!(large.run().rounds, 0);
    assert_eq!(large.cluster.counts, Counts::default());
}

#[test]
fn nodes_that_join_get_their_share_and_no_more_moves_than_that() {
    let mut large = Large::new(SIZE);
    large.join(3);
    let needed = large.needed();
    let report = large.run();
    let moves = large.cluster.counts.moves;
    assert!(moves <= needed, "{moves} moves where {needed} would do");
    assert!(moves * 100 >= needed * 95, "{moves} moves are too few for {needed}");
    assert!(large.replica_levels().1 <= 103, "{report:?}: {:?}", large.replica_levels());
    assert!(large.leader_levels().1 <= 108, "{report:?}: {:?}", large.leader_levels());
    assert!(large.cluster.counts.core_moves * 5 <= moves, "{:?}", large.cluster.counts);
}

#[test]
fn a_node_that_is_gone_is_repaired_once_and_evenly() {
    let mut large = Large::new(SIZE);
    let lost = large.kill(0);
    assert_eq!(large.run().moves, 0, "it is waited for");
    large.cluster.advance(large.cluster.view.settings.gone_after_ms);
    large.run();
    let moves = large.cluster.counts.moves;
    assert!(moves >= lost && moves * 100 <= lost * 105, "{moves} moves for {lost} lost");
    assert_eq!(large.on_node(0), 0);
}

#[test]
fn a_drain_moves_each_replica_once() {
    let mut large = Large::new(SIZE);
    let drained = large.drain(5);
    large.run();
    let moves = large.cluster.counts.moves;
    assert!(moves >= drained && moves * 100 <= drained * 105, "{moves} moves for {drained}");
    assert_eq!(large.on_node(5), 0);
}

#[test]
fn a_skewed_cluster_becomes_even_and_stays_so() {
    let mut large = Large::new(SIZE);
    large.scatter(7);
    large.load(8);
    large.run();
    let (low, high) = large.replica_levels();
    assert!(low >= 90 && high <= 110, "{low} to {high} % of fair shares of replicas");
    let (low, high) = large.write_levels();
    assert!(low >= 80 && high <= 120, "{low} to {high} % of fair shares of writes");
    assert_eq!(large.shared_zones(), 0);
}

/// Loads that waver within the slack move next to nothing, and nothing there and back.
#[test]
fn wavering_loads_do_not_make_it_oscillate() {
    let mut large = Large::new(SIZE);
    large.load(8);
    large.run();
    let before = large.cluster.counts;
    let loads = large.cluster.view.ranges.clone();
    for round in 0..20 {
        large.waver(&loads, round, 10);
        large.cluster.view.now = WallMs(large.cluster.view.now.0 + 60_000);
        large.run();
    }
    let after = large.cluster.counts;
    let moved = after.moves - before.moves;
    assert!(moved * 100 <= large.replicas(), "{moved} moves: {before:?} {after:?}");
}
