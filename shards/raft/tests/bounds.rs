//! Bounds of time and size, each at its very edge: one step before it and one behind it something
//! else is right.

mod cluster;

use std::time::Duration;

use bytes::Bytes;
use cluster::Cluster;
use oarlock_raft::{
    Append, Body, Configuration, Context, Entry, HardState, LogPosition, Message, Payload,
    Received, SnapshotChunk, SnapshotMeta,
};
use oarlock_types::{CoreId, GroupId, Index, Limits, Mono, NodeId, SupportEpoch, Term};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);
const ALL: [NodeId; 3] = [ONE, TWO, THREE];

/// Three replicas, led by the first of them.
fn formed(limits: Limits, seed: u64) -> Cluster {
    let mut cluster = Cluster::new(&ALL, Configuration::simple(ALL), limits, seed);
    cluster.now = cluster.deadline();
    cluster.fire(ONE);
    cluster.stabilize(&ALL);
    assert!(cluster.group(ONE).is_leader());
    cluster
}

fn at(index: u64, term: u64) -> LogPosition {
    LogPosition { term: Term(term), index: Index(index) }
}

fn entry(index: u64, term: u64, bytes: usize) -> Entry {
    Entry { at: at(index, term), payload: Payload::Commands(Bytes::from(vec![b'x'; bytes])) }
}

fn append(prev: LogPosition, entries: Vec<Entry>) -> Body {
    let (core, commit) = (CoreId(1), Index(0));
    Body::Append(Append { core, prev, entries, commit, read_sequence: 0, wants_reply: true })
}

/// The others support the first node until then.
fn support_until(cluster: &mut Cluster, until: Mono) {
    let promises = &mut cluster.nodes.get_mut(&ONE).expect("known").promises;
    for other in [TWO, THREE] {
        promises.received.insert(other, Received { epoch: SupportEpoch(1), until });
    }
}

#[test]
fn a_lease_ends_with_the_support_that_it_rests_on() {
    let mut cluster = formed(Limits::default(), 1);
    let until = cluster.now + Duration::from_millis(10);
    support_until(&mut cluster, until);
    let holds = |now| {
        let support = &cluster.node(ONE).promises;
        cluster.group(ONE).lease_valid(&Context { now, support, may_vote: true })
    };
    assert!(holds(Mono(until.0 - 1)));
    assert!(!holds(until));
}

#[test]
fn a_leader_steps_down_with_the_support_of_its_quorum() {
    for (after_us, leads) in [(9_999, true), (10_000, false)] {
        let mut cluster = formed(Limits::default(), 1);
        // Whoever has just been elected is given some time.
        cluster.now = cluster.now + Duration::from_secs(5);
        let until = cluster.now + Duration::from_millis(10);
        support_until(&mut cluster, until);
        cluster.now = cluster.now + Duration::from_micros(after_us);
        cluster.support_changed(ONE);
        assert_eq!(cluster.group(ONE).is_leader(), leads, "after {after_us} us");
    }
}

#[test]
fn an_attempt_is_given_up_after_once_to_twice_the_longest_delay() {
    let Limits { election_delay_min: min, election_delay_max: max, .. } = Limits::default();
    for seed in 0..40 {
        let initial = Configuration::simple(ALL);
        let mut cluster = Cluster::new(&ALL, initial, Limits::default(), seed);
        cluster.now = cluster.deadline();
        cluster.fire(ONE);
        let lasts = cluster.group(ONE).deadline().since(cluster.now);
        assert!((max + min..=max * 2).contains(&lasts), "{lasts:?}");
    }
}

#[test]
fn a_spread_widens_the_election_delay() {
    let Limits { election_delay_min: min, election_delay_max: max, .. } = Limits::default();
    let spread = Duration::from_secs(2);
    let mut longest = Duration::ZERO;
    for seed in 0..40 {
        let mut cluster = formed(Limits::default(), seed);
        assert_eq!(cluster.group(TWO).deadline(), Mono::NEVER, "it is bound");
        cluster.nodes.get_mut(&TWO).expect("known").promises.granted.clear();
        cluster.with(TWO, |group, ctx, out| group.support_changed(ctx, spread, out));
        let delay = cluster.group(TWO).deadline().since(cluster.now);
        assert!((min..=max + spread).contains(&delay), "{delay:?}");
        longest = longest.max(delay);
    }
    assert!(longest > max * 2, "the longest of 40 delays is {longest:?}");
}

/// A quarter of what may be uncommitted, again and again: four are taken, the fifth is not, and what
/// commits makes room.
#[test]
fn two_windows_may_be_uncommitted() {
    let limits = Limits { inflight_bytes_max: 1000, ..Limits::default() };
    let mut cluster = formed(limits, 1);
    let command = "x".repeat(500 - entry(1, 1, 0).size_bytes());
    for round in 0..5 {
        for number in 0..4 {
            assert_eq!(cluster.propose(ONE, &command), None, "{number} of round {round}");
        }
        let refused = cluster.propose(ONE, "");
        assert_eq!(refused.as_deref(), Some("too much is uncommitted, try again"));
        cluster.stabilize(&ALL);
    }
}

/// However long nothing was said before: the question counts, not what was heard last. What is asked
/// meanwhile does not put it off.
#[test]
fn an_answer_is_missed_one_interval_after_the_question() {
    let interval = Limits::default().retry_interval;
    let mut cluster = formed(Limits::default(), 1);
    cluster.now = cluster.now + Duration::from_secs(10);
    cluster.fire(ONE);
    cluster.stabilize(&ALL);
    assert_eq!(cluster.group(ONE).deadline(), Mono::NEVER, "nothing is awaited");
    let asked = cluster.now;
    assert_eq!(cluster.propose(ONE, "a"), None);
    assert_eq!(cluster.group(ONE).deadline(), asked + interval);
    cluster.now = cluster.now + interval / 2;
    assert_eq!(cluster.propose(ONE, "b"), None);
    assert_eq!(cluster.group(ONE).deadline(), asked + interval);
}

#[test]
fn what_a_replica_tells_of_itself_is_so() {
    let initial = Configuration::simple(ALL);
    let mut cluster = Cluster::new(&ALL, initial.clone(), Limits::default(), 1);
    let group = cluster.group(TWO);
    assert_eq!((group.id(), group.node(), group.leader()), (GroupId(7), TWO, None));
    cluster.now = cluster.deadline();
    cluster.fire(ONE);
    for voter in [TWO, THREE] {
        let letter = |cluster: &Cluster, to| cluster.network.iter().position(|l| l.to == to);
        let asked = letter(&cluster, voter).expect("it is asked");
        cluster.deliver(asked);
    }
    let answer = cluster.network.iter().position(|l| l.to == ONE).expect("it is answered");
    cluster.deliver(answer);
    // It stands for election; its own vote is not on its disk yet.
    let stands = HardState { term: Term(1), vote: Some(ONE) };
    let group = cluster.group(ONE);
    assert_eq!((group.hard_state(), group.durable_hard_state()), (stands, HardState::default()));
    cluster.flush(ONE);
    assert_eq!(cluster.group(ONE).durable_hard_state(), stands);
    cluster.stabilize(&ALL);
    let group = cluster.group(ONE);
    assert_eq!((group.leader(), group.term_at(Index(1))), (Some(ONE), Some(Term(1))));
    assert_eq!((group.term_at(Index(2)), group.checkpoint()), (None, at(0, 0)));
    assert_eq!(group.open_configurations().collect::<Vec<_>>(), [&initial]);
}

#[test]
fn a_message_counts_what_it_carries() {
    let size = |body| Message { term: Term(1), body }.size_bytes();
    let entries = vec![entry(1, 1, 100), entry(2, 1, 700)];
    let bytes: usize = entries.iter().map(Entry::size_bytes).sum();
    let empty = size(append(at(0, 0), Vec::new()));
    assert!(empty > 0 && bytes >= 800);
    assert_eq!(size(append(at(0, 0), entries)), empty + bytes);
    let chunk = |bytes| {
        let (core, meta) = (CoreId(1), SnapshotMeta::default());
        size(Body::Snapshot(SnapshotChunk {
            core,
            meta,
            offset_bytes: 0,
            data: vec![0; bytes].into(),
        }))
    };
    assert_eq!(chunk(1000), chunk(0) + 1000);
    let of = |payload| Entry { at: at(1, 1), payload }.size_bytes();
    let three = of(Payload::Config(Configuration::simple(ALL)));
    let two = of(Payload::Config(Configuration::simple([ONE, TWO])));
    assert!(three > two && two > of(Payload::Noop));
}

/// A replica takes more memory with more members, and with what it holds; busy or not.
#[test]
fn memory_grows_with_members_and_with_what_is_held() {
    let form = |count: u64| {
        let ids: Vec<NodeId> = (1..=count).map(NodeId).collect();
        let initial = Configuration::simple(ids.clone());
        let mut cluster = Cluster::new(&ids, initial, Limits::default(), 1);
        cluster.now = cluster.deadline();
        cluster.fire(ONE);
        cluster.stabilize(&ids);
        cluster
    };
    let (few, mut many) = (form(3), form(9));
    let bytes = |cluster: &Cluster, id| cluster.group(id).memory_bytes();
    assert!(bytes(&many, TWO) >= bytes(&few, TWO) + 6 * size_of::<NodeId>());
    // A leader keeps a window for each follower besides.
    let leads = |cluster: &Cluster| bytes(cluster, ONE) - bytes(cluster, TWO);
    assert!(leads(&many) >= leads(&few) + 6 * 64, "{} and {}", leads(&many), leads(&few));
    let before = bytes(&many, ONE);
    assert_eq!(many.propose(ONE, &"x".repeat(1000)), None);
    assert!(bytes(&many, ONE) >= before + 1000);
}

/// What is appended and replaced before the shard has taken it is asked for once, as it stands at last.
#[test]
fn entries_that_are_replaced_at_once_are_not_written() {
    let initial = Configuration::simple(ALL);
    let mut cluster = Cluster::new(&ALL, initial, Limits::default(), 1);
    let asked = cluster.with(TWO, |group, ctx, out| {
        let entries = vec![entry(1, 1, 1), entry(2, 1, 1), entry(3, 1, 1)];
        let message = Message { term: Term(1), body: append(at(0, 0), entries) };
        group.step(ctx, ONE, message, out);
        let message = Message { term: Term(2), body: append(at(1, 1), vec![entry(2, 2, 1)]) };
        group.step(ctx, THREE, message, out);
        out.append.iter().map(|entry| entry.at).collect::<Vec<_>>()
    });
    assert_eq!(asked, Some(vec![at(1, 1), at(2, 2)]));
}

/// Entries that were read for a follower go to it only if they are those that it lacks next, and
/// those of this leader's log; else they are asked for again.
#[test]
fn entries_that_were_read_in_vain_are_not_sent() {
    let limits = Limits { log_cache_bytes_max: 100, ..Limits::default() };
    let mut cluster = formed(limits, 1);
    cluster.with(ONE, |group, ctx, out| group.reachable(ctx, THREE, false, out));
    for _ in 0..5 {
        assert_eq!(cluster.propose(ONE, "x"), None);
        cluster.stabilize(&[ONE, TWO]);
    }
    cluster.with(ONE, |group, ctx, out| group.reachable(ctx, THREE, true, out));
    while let Some(next) = cluster.network.iter().position(|l| l.to == THREE || l.from == THREE) {
        cluster.deliver(next);
    }
    assert_eq!(cluster.node(ONE).requests.len(), 1, "the log is wanted for the third");
    let right: Vec<Entry> = cluster.node(ONE).mirror.values().skip(1).take(3).cloned().collect();
    assert_eq!(right[0].at, at(2, 1));
    let mut other_term = right.clone();
    other_term[1].at.term = Term(7);
    for (to, entries, is_sent, is_wanted) in [
        (TWO, right.clone(), false, false),
        (THREE, right[1..].to_vec(), false, true),
        (THREE, other_term, false, true),
        (THREE, Vec::new(), false, true),
        (THREE, right, true, true),
    ] {
        let told = cluster.with(ONE, |group, ctx, out| {
            group.log_read(ctx, to, entries, out);
            (!out.send_now.is_empty(), !out.log_reads.is_empty())
        });
        assert_eq!(told, Some((is_sent, is_wanted)));
    }
}
