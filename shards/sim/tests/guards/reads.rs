//! Guards of linearizable reads.

use bytes::Bytes;
use oarlock_shard::Outcome;
use oarlock_sim::{Trouble, World};
use oarlock_store::Reply;
use oarlock_types::{CoreAddr, CoreId, Guard};

use crate::harness::*;

#[track_caller]
fn is_fresh(read: Option<&Outcome>) {
    let is_stale = matches!(read, Some(Ok(reply)) if *reply != Reply::Bulk(Bytes::from("new")));
    assert!(!is_stale, "a stale read: {read:?} after `new` was acknowledged");
}

/// A leader dies right after it has acknowledged a write. The only one that can follow it has that
/// write and does not know yet that it is committed; its disk is slow.
fn a_read_of_a_new_leader(seed: u64) {
    let mut world = serving(seed, quiet(3));
    let first = leader(&world);
    let rest = others(&world, first);
    let (next, behind) = (rest[0], rest[1]);
    write(&mut world, "k", "old");
    world.run_for(200 * MS);
    cut(&mut world, &[behind], &[first, next]);
    write(&mut world, "k", "new");
    world.kill(first);
    join(&mut world, &[behind], &[first, next]);
    let slow = Trouble::WalSlow(CoreAddr::new(next, CoreId(0)), 1000);
    world.trouble(&slow, 0);
    assert!(one_leads(&mut world, &[next], 10 * SECOND).is_some(), "{}", world.who_waits());
    reads(&mut world, next);
    world.relief(&slow);
    world.restart(first);
    world.settle();
}

fn reads(world: &mut World, node: oarlock_types::NodeId) {
    let mut tokens: Vec<u64> = Vec::new();
    for _ in 0..100 {
        tokens.push(world.request(node, GROUP, get("k")));
        world.run_for(MS);
    }
    world.run_for(SECOND);
    for token in tokens {
        is_fresh(world.take_outcome(token).as_ref());
    }
}

#[test]
fn barrier_after_own_term() {
    finds(Guard::BarrierAfterOwnTerm, 5, &[STALE], a_read_of_a_new_leader);
}

#[test]
fn lease_after_own_term() {
    finds(Guard::LeaseAfterOwnTerm, 5, &[STALE], a_read_of_a_new_leader);
}

/// A leader that stood still wakes with a read before it; another one has taken over since.
#[test]
fn barrier_needs_quorum() {
    finds(Guard::BarrierNeedsQuorum, 5, &[STALE], |seed| {
        let mut world = serving(seed, quiet(3));
        let first = leader(&world);
        write(&mut world, "k", "old");
        let rest = others(&world, first);
        world.pause(first);
        cut(&mut world, &[first], &rest);
        let token = world.request(first, GROUP, get("k"));
        let next = another_leader(&mut world, first);
        assert_eq!(ask(&mut world, next, set("k", "new")), Some(Ok(Reply::Ok)));
        world.resume(first);
        world.run_for(SECOND);
        is_fresh(world.take_outcome(token).as_ref());
        join(&mut world, &[first], &rest);
        world.settle();
    });
}
