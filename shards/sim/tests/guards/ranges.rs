//! Guards of ranges that are cut in two.

use bytes::Bytes;
use oarlock_codec::Refusal;
use oarlock_sim::{Config, Trouble};
use oarlock_types::{CoreAddr, CoreId, Guard, RangeEpoch};

use crate::harness::*;

/// A write for a key of the new range comes by the old bounds while the split is on its way to the
/// disks: behind the split the cut range does not hold that key any more.
#[test]
fn split_holds_proposals() {
    let elsewhere = "invariant: no key is written to a range that does not hold it";
    finds(Guard::SplitHoldsProposals, 3, &[elsewhere], |seed| {
        let mut world = serving(seed, quiet(3));
        let first = leader(&world);
        for node in world.config.node_ids() {
            world.trouble(&Trouble::WalSlow(CoreAddr::new(node, CoreId(0)), 100), 0);
        }
        world.cut_range(GROUP, Bytes::from_static(b"m")).unwrap();
        world.run_for(MS);
        let routed = (RangeEpoch(1), None);
        let token = world.request_routed(first, GROUP, routed, set("z", "1"));
        let outcome = outcome(&mut world, token, 10 * SECOND);
        assert_eq!(outcome, Some(Err(Refusal::StaleEpoch)));
        world.settle();
    });
}

/// Power fails everywhere at any moment after a split, while the cut range's log is soon cut short.
#[test]
fn log_keeps_split() {
    finds(Guard::LogKeepsSplit, 80, &[SOUND], |seed| {
        let mut config = Config::calm(3, 1, 1);
        config.think_us = MS / 2;
        config.limits.compact_log_bytes_min = 1 << 9;
        config.limits.compact_tail_bytes = 0;
        let mut world = serving(seed, config);
        world.run_for(SECOND);
        world.cut_range(GROUP, Bytes::from_static(b"k1")).unwrap();
        world.run_for(seed * 3 * MS);
        world.trouble(&Trouble::PowerLossAll, 0);
        world.relief(&Trouble::PowerLossAll);
        world.settle();
    });
}

/// Only the leader has applied a split when power fails everywhere. It stands for election in the new range
/// before the others have applied the split, which are so asked for a replica, and make it on the core that
/// has the fewest; the map believes it on the other, where the split is applied, at the next start, too.
#[test]
fn logs_claim_first() {
    finds(Guard::LogsClaimFirst, 40, &["what was served comes back"], |seed| {
        let mut config = quiet(3);
        config.cores = 2;
        let mut world = serving(seed, config);
        let first = leader(&world);
        let slow: Vec<Trouble> = others(&world, first)
            .into_iter()
            .map(|node| Trouble::SlowLink(first, node, 100_000))
            .collect();
        slow.iter().for_each(|trouble| world.trouble(trouble, 0));
        let child = world.cut_range(GROUP, Bytes::from_static(b"m")).unwrap();
        let is_made = world.run_till(SECOND, |world| world.replica(first, child).is_some());
        assert!(is_made, "the leader applies it");
        world.run_for(10 * MS);
        slow.iter().for_each(|trouble| world.relief(trouble));
        for _ in 0..3 {
            world.trouble(&Trouble::PowerLossAll, 0);
            world.relief(&Trouble::PowerLossAll);
            world.run_for(2 * SECOND);
        }
        world.settle();
    });
}

/// A write comes to a range that is frozen, by the version that it has then: what its neighbour is given does
/// not hold it.
#[test]
fn frozen_serves_nothing() {
    finds(Guard::FrozenServesNothing, 3, &["a frozen range takes no write"], |seed| {
        let mut world = serving(seed, quiet(3));
        let child = world.cut_range(GROUP, Bytes::from_static(b"m")).unwrap();
        world.run_for(SECOND);
        let first = world.leader(child).unwrap();
        for node in world.config.node_ids() {
            world.trouble(&Trouble::WalSlow(CoreAddr::new(node, CoreId(0)), 100), 0);
        }
        let frozen = world.committed(child).next();
        world.merge(child).unwrap();
        assert!(world.run_till(SECOND, |world| world.committed(child) == frozen), "it freezes");
        let token = world.request_routed(first, child, (RangeEpoch(3), None), set("z", "1"));
        let outcome = outcome(&mut world, token, 10 * SECOND);
        assert!(outcome == Some(Err(Refusal::StaleEpoch)), "a frozen range takes no write");
        world.settle();
        assert!(!world.ranges.groups().any(|group| group == child), "it is taken in the end");
    });
}

/// A frozen range asks again though its neighbour has taken it, before it has heard that from the map.
#[test]
fn merge_is_remembered() {
    finds(Guard::MergeIsRemembered, 3, &["a range that was taken serves no more"], |seed| {
        let mut world = serving(seed, quiet(3));
        let child = world.cut_range(GROUP, Bytes::from_static(b"m")).unwrap();
        world.run_for(SECOND);
        let first = world.leader(child).unwrap();
        world.stop_placing();
        world.merge(child).unwrap();
        let is_taken = world.run_till(SECOND, |w| !w.ranges.groups().any(|group| group == child));
        assert!(is_taken, "it is taken");
        world.run_for(2 * SECOND);
        let token = world.request_routed(first, child, (RangeEpoch(4), None), set("z", "1"));
        let outcome = outcome(&mut world, token, 10 * SECOND);
        assert!(outcome == Some(Err(Refusal::StaleEpoch)), "a range that was taken serves no more");
        world.settle();
    });
}
