//! Guards of clients' requests: once, in order, by the right version, and honest about their fate.

use bytes::Bytes;
use oarlock_codec::{Lane, Refusal};
use oarlock_sim::{Config, Trouble, World};
use oarlock_store::Reply;
use oarlock_types::{CoreAddr, CoreId, Guard, NodeId, RangeEpoch};

use crate::harness::*;

/// Leaders die under clients that send again what they have not heard of.
#[test]
fn once_is_once() {
    finds(Guard::OnceIsOnce, 20, &["linearizability"], |seed| {
        let mut config = Config::calm(3, 1, 1);
        config.think_us = 5 * MS;
        config.clients = 8;
        let mut world = serving(seed, config);
        for _ in 0..5 {
            world.run_for(SECOND);
            let first = leader(&world);
            world.kill(first);
            another_leader(&mut world, first);
            world.restart(first);
        }
        world.settle();
    });
}

/// Another leader's entries stand where those of a leader that was cut off would have stood.
#[test]
fn reply_is_of_its_entry() {
    let invariant = "assertion `left == right` failed: invariant: a reply per request";
    let answered = "a write is answered that was not applied";
    finds(Guard::ReplyIsOfItsEntry, 5, &[invariant, answered], |seed| {
        let mut world = serving(seed, quiet(3));
        let first = leader(&world);
        let rest = others(&world, first);
        cut(&mut world, &[first], &rest);
        let mut tokens = Vec::new();
        for number in 0..5 {
            tokens.push(world.request(first, GROUP, set("k", &format!("old{number}"))));
            world.run_for(MS);
        }
        one_leads(&mut world, &rest, 10 * SECOND).unwrap();
        for number in 0..10 {
            write(&mut world, "k", &format!("new{number}"));
        }
        join(&mut world, &[first], &rest);
        world.run_for(5 * SECOND);
        for token in tokens {
            let outcome = world.take_outcome(token);
            assert!(!matches!(outcome, Some(Ok(_))), "{answered}: {outcome:?}");
        }
        world.settle();
    });
}

/// A write gets through to a follower, its leader does not hear of that, and when it is back a
/// checkpoint takes the place of its log.
#[test]
fn open_fate_is_unknown() {
    let refused = "a write was applied and refused";
    finds(Guard::OpenFateIsUnknown, 5, &[refused], |seed| {
        let mut config = quiet(3);
        config.limits.compact_log_bytes_min = 2 << 10;
        config.limits.compact_tail_bytes = 0;
        let mut world = serving(seed, config);
        let first = leader(&world);
        let rest = others(&world, first);
        let deaf: Vec<Trouble> = rest.iter().map(|from| Trouble::OneWay(*from, first)).collect();
        deaf.iter().for_each(|trouble| world.trouble(trouble, 0));
        let token = world.request(first, GROUP, set("open", "1"));
        world.run_for(10 * MS);
        cut(&mut world, &[first], &rest);
        deaf.iter().for_each(|trouble| world.relief(trouble));
        let next = one_leads(&mut world, &rest, 10 * SECOND).unwrap();
        for number in 0..20 {
            write(&mut world, "k", &format!("{number:0>300}"));
        }
        let read = ask(&mut world, next, get("open"));
        assert_eq!(read, Some(Ok(Reply::Bulk(Bytes::from("1")))), "it got through");
        join(&mut world, &[first], &rest);
        let outcome = outcome(&mut world, token, 10 * SECOND);
        assert!(!matches!(outcome, Some(Err(Refusal::Busy))), "{refused}: {outcome:?}");
        assert_eq!(outcome, Some(Err(Refusal::Unknown)));
        world.settle();
    });
}

/// The first of a connection's writes comes to a replica that does not lead, the second when it does.
#[test]
fn lane_keeps_order() {
    let order = "the second write was applied before the first";
    finds(Guard::LaneKeepsOrder, 3, &[order], |seed| {
        let mut world = serving(seed, quiet(3));
        let first = leader(&world);
        let next = others(&world, first)[0];
        let from = CoreAddr::new(NodeId(9), CoreId(0));
        let routed = |follows| (RangeEpoch(1), Some((from, Lane { connection: 7, follows })));
        let one = world.request_routed(next, GROUP, routed(false), set("k", "1"));
        let refused = outcome(&mut world, one, SECOND);
        assert!(matches!(refused, Some(Err(Refusal::NotLeader { .. }))), "{refused:?}");
        hand_over(&mut world, next);
        world.run_for(100 * MS);
        let two = world.request_routed(next, GROUP, routed(true), set("k", "2"));
        let outcome = outcome(&mut world, two, SECOND);
        assert!(!matches!(outcome, Some(Ok(_))), "{order}: {outcome:?}");
        assert_eq!(outcome, Some(Err(Refusal::OutOfTurn)));
        world.settle();
    });
}

/// The range has another version than the one by which a request was routed.
#[test]
fn epoch_is_checked() {
    let served = "a request of another version of the range was served";
    finds(Guard::EpochIsChecked, 3, &[served], |seed| {
        let mut world: World = serving(seed, quiet(3));
        let first = leader(&world);
        for (epoch, request) in [(0, get("k")), (2, get("k")), (2, set("k", "1"))] {
            let token = world.request_routed(first, GROUP, (RangeEpoch(epoch), None), request);
            let outcome = outcome(&mut world, token, SECOND);
            assert!(!matches!(outcome, Some(Ok(_))), "{served}: {outcome:?}");
            assert_eq!(outcome, Some(Err(Refusal::StaleEpoch)));
        }
        world.settle();
    });
}
