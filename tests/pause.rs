//! A process that is stopped and wakes: a new leader serves meanwhile, and the old one, which
//! believes that no time has passed, answers no stale read.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::time::{Duration, Instant};

use common::{Cluster, Load, Options, Shape, call_until_ok, leads_most, let_pass};
use oarlock::bench::client::Answer;

const PAUSE: Duration = Duration::from_secs(5);

#[test]
fn the_old_leader_answers_no_stale_read_when_it_wakes() {
    let mut cluster = Cluster::start("pause", Options::default());
    let (old, led) = leads_most(&cluster.wait_for_leaders());
    let others: Vec<u64> = (1..=3).filter(|id| *id != old).collect();
    let keys: Vec<Vec<u8>> = led.iter().map(|range| range.key_inside(":pause")).collect();
    let mut asker = cluster.client(old);
    for key in &keys {
        let written = asker.call(&[b"SET", key, b"before"]).unwrap();
        assert!(written.is_ok(), "{written}");
        assert_eq!(asker.call(&[b"GET", key]).unwrap(), Answer::Bulk(b"before".to_vec()));
    }
    cluster.pause(old);
    let paused = Instant::now();
    for key in &keys {
        assert!(call_until_ok(&cluster, &others, &[b"SET", key, b"after"]).is_ok());
    }
    let failover = paused.elapsed();
    assert!(failover < PAUSE, "new leaders served after {failover:?}");
    // These wait in the old leader's socket: they are the first that it sees when it wakes, at a
    // time when its own clock of events says that its leases are good.
    for key in &keys {
        asker.send(&[b"GET", key]).unwrap();
    }
    let_pass(PAUSE.saturating_sub(paused.elapsed()));
    cluster.resume(old);
    for _ in &keys {
        match asker.receive() {
            Ok(answer) if answer.error_kind().is_some() => {}
            Ok(answer) => assert_eq!(answer, Answer::Bulk(b"after".to_vec()), "a stale read"),
            // It may have closed the connection of a client that it did not hear from.
            Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::TimedOut),
        }
    }
    for key in &keys {
        let found = call_until_ok(&cluster, &[old], &[b"GET", key]);
        assert_eq!(found, Answer::Bulk(b"after".to_vec()));
    }
}

#[test]
fn under_load_every_read_around_a_pause_is_fresh_and_no_write_is_lost() {
    let mut cluster = Cluster::start("pause-load", Options::default());
    let shape = Shape { keys: 300, read_share: 0.7, ..Shape::default() };
    let load = Load::start(&cluster, &shape);
    load.progress(1000);
    for _ in 0..2 {
        let (old, _) = leads_most(&cluster.wait_for_leaders());
        cluster.pause(old);
        let paused = Instant::now();
        load.progress(500);
        let_pass(Duration::from_secs(2).saturating_sub(paused.elapsed()));
        cluster.resume(old);
        load.progress(1500);
    }
    let (recorded, _) = load.stop();
    cluster.verify(recorded);
}

#[test]
fn a_paused_follower_disturbs_nobody_and_catches_up() {
    let mut cluster = Cluster::start("pause-follower", Options { ranges: 3, ..Options::default() });
    let ranges = cluster.wait_for_leaders();
    let leaders: Vec<u64> = ranges.iter().map(|range| range.leader).collect();
    let sleeper = (1..=3).min_by_key(|id| leaders.iter().filter(|led| *led == id).count()).unwrap();
    let load = Load::start(&cluster, &Shape { rate: 800, ..Shape::default() });
    cluster.pause(sleeper);
    let_pass(Duration::from_secs(2));
    load.progress(500);
    cluster.resume(sleeper);
    let committed = cluster.local.committed(sleeper).unwrap();
    cluster.wait_for_applied(sleeper, &committed);
    let (recorded, _) = load.stop();
    cluster.verify(recorded);
}
