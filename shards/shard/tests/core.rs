//! One core by itself, turn by turn: what it asks for when nobody answers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::time::Duration;

use oarlock_codec::{GroupMessage, Refusal};
use oarlock_raft::{Body, Configuration, HardState, LogPosition, Message, Rebuild};
use oarlock_shard::moves::{Departed, Departure};
use oarlock_shard::rebuild::{LostReplica, RebuildError, RebuildStage, Rebuilt, SplitBase};
use oarlock_shard::split::SplitError;
use oarlock_shard::support_table::TableConfig;
use oarlock_shard::{
    CheckpointFile, FileJob, Homes, Output, ReplicaSeed, Shard, ShardConfig, SharedSupport,
    SupportTable, Wanted,
};
use oarlock_store::{Command, Request};
use oarlock_types::{
    ClusterId, CoreAddr, CoreId, DiskId, GroupId, Incarnation, Index, Limits, Lsn, Mono, NodeId,
    RangeBounds, RangeEpoch, SharedLimits, Term, WallMs,
};
use oarlock_wal::{Owner, Wal, WalConfig};

const GROUP: GroupId = GroupId(7);
const OTHER: GroupId = GroupId(8);
const HOME: CoreAddr = CoreAddr { node: NodeId(1), core: CoreId(0) };

/// A core of five nodes' first, in this life of it, in its first turn.
fn shard(incarnation: u64) -> Shard {
    let support = SharedSupport::new(SupportTable::new(&TableConfig {
        node: HOME.node,
        incarnation: Incarnation(incarnation),
        cores: 1,
        cores_max: 1,
        origin: Mono(0),
        peers: &[(NodeId(2), 1), (NodeId(3), 1), (NodeId(4), 1), (NodeId(5), 1)],
    }));
    let owner = Owner { cluster: ClusterId(1), node: HOME.node, disk: DiskId(1), core: HOME.core };
    let segment_bytes = WalConfig::SEGMENT_BYTES_DEFAULT;
    let wal = Wal::new(WalConfig { owner, segment_bytes, frame_bytes_max: 4 << 20 });
    let limits = SharedLimits::new(Limits::default());
    let may_vote_from = Mono(0);
    let homes = Homes::new(1);
    let config = ShardConfig { addr: HOME, limits, seed: 1, support, homes, may_vote_from };
    let mut shard = Shard::new(config, wal);
    shard.begin_turn(Mono::from_ms(1000), WallMs(1));
    shard
}

fn ids(numbers: &[u64]) -> Vec<NodeId> {
    numbers.iter().copied().map(NodeId).collect()
}

fn lost(group: GroupId, peers: &[u64]) -> LostReplica {
    LostReplica {
        group,
        formed: Some(RangeBounds::everything()),
        peers: ids(peers),
        files: Vec::new(),
    }
}

/// Who is asked for what attempt in a turn with a tick.
fn asked(shard: &mut Shard, ms: u64) -> Vec<(NodeId, GroupId, u64)> {
    shard.begin_turn(Mono::from_ms(ms), WallMs(1));
    shard.tick();
    let mut output = Output::default();
    shard.finish_turn(&mut output);
    let attempt = |(to, asked): &(NodeId, GroupMessage)| {
        let Body::Rebuild(Rebuild::Leave { attempt }) = asked.message.body else {
            panic!("{asked:?}");
        };
        (*to, asked.group, attempt)
    };
    output.messages.iter().map(attempt).collect()
}

fn nodes(asked: &[(NodeId, GroupId, u64)]) -> Vec<NodeId> {
    asked.iter().map(|(node, ..)| *node).collect()
}

/// A lost replica asks those that it knows, again and again, and whoever it is told of besides.
#[test]
fn a_lost_replica_asks_everybody_it_hears_of() {
    let mut shard = shard(3);
    shard.note_lost(lost(GROUP, &[2, 3]));
    assert_eq!(asked(&mut shard, 1000), [], "nobody has asked to rebuild it");
    let members = |shard: &mut Shard| {
        let told = Configuration::simple(ids(&[1, 2, 4, 5]));
        let message = Message { term: Term(9), body: Body::Rebuild(Rebuild::Members(told)) };
        let from = CoreAddr::new(NodeId(2), CoreId(0));
        shard.messages(from, vec![GroupMessage { group: GROUP, message }]);
    };
    members(&mut shard);
    assert_eq!(shard.rebuild(GROUP), Some(Ok(())));
    let first = asked(&mut shard, 1001);
    assert_eq!(nodes(&first), ids(&[2, 3]), "what was told before it asked is not counted");
    members(&mut shard);
    assert_eq!(asked(&mut shard, 1200), [], "not yet");
    let second = asked(&mut shard, 1201);
    assert_eq!(nodes(&second), ids(&[2, 3, 4, 5]), "and never itself");
    let attempts =
        |asked: &[(NodeId, GroupId, u64)]| asked.iter().map(|(.., a)| *a).collect::<Vec<_>>();
    assert_eq!(attempts(&first)[..], attempts(&second)[..2], "it is the same question");
    let stages: Vec<_> = shard.rebuild_stages().collect();
    assert_eq!(stages, [(GROUP, RebuildStage::Leaving)]);
}

#[test]
fn no_two_attempts_are_the_same_and_later_lives_have_later_ones() {
    let mut seen = Vec::new();
    for life in [1, 2, 9] {
        let mut shard = shard(life);
        for group in [GROUP, OTHER] {
            shard.note_lost(lost(group, &[2, 3]));
            assert_eq!(shard.rebuild(group), Some(Ok(())));
            assert_eq!(shard.rebuild(group), Some(Ok(())), "it goes on");
        }
        let mut attempts: Vec<u64> =
            asked(&mut shard, 1000).into_iter().map(|(.., attempt)| attempt).collect();
        attempts.dedup();
        assert_eq!(attempts.len(), 2, "one for each group");
        seen.extend(attempts);
    }
    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "{seen:?}");
}

#[test]
fn two_others_are_needed_to_rebuild_a_replica() {
    let mut shard = shard(1);
    shard.note_lost(lost(GROUP, &[2]));
    shard.note_lost(lost(OTHER, &[2, 3]));
    assert_eq!(shard.rebuild(GROUP), Some(Err(RebuildError::TooFewReplicas)));
    assert_eq!(shard.rebuild(OTHER), Some(Ok(())));
    assert_eq!(shard.rebuild(GroupId(9)), None);
    let stages: Vec<_> = shard.rebuild_stages().map(|(_, stage)| stage.name()).collect();
    assert_eq!(stages, ["damaged", "leaving"]);
}

fn fresh(shard: &mut Shard, group: GroupId) {
    let voters = Configuration::simple(ids(&[1, 2, 3]));
    let delay = Duration::from_secs(60);
    let seed =
        ReplicaSeed::fresh(group, RangeBounds::everything(), voters, &Limits::default(), delay);
    shard.add_replica(seed, true);
}

#[test]
fn a_new_replica_is_written_to_the_log_and_a_forgotten_one_too() {
    let mut shard = shard(1);
    assert_eq!((shard.newest_lsn(), shard.wal().has_pending()), (Lsn(0), false));
    assert_eq!((shard.next_deadline(), shard.timers_armed()), (Mono::NEVER, 0));
    fresh(&mut shard, GROUP);
    assert_eq!((shard.newest_lsn(), shard.wal().has_pending()), (Lsn(1), true));
    let stands_at = Mono::from_ms(1000) + Duration::from_secs(60);
    assert_eq!((shard.next_deadline(), shard.timers_armed()), (stands_at, 1));
    let mut shard = self::shard(1);
    shard.forget_replica(GROUP);
    assert!(shard.wal().has_pending());
}

/// Of what a crash left on the disk only checkpoints go that a replica here does not go by.
#[test]
fn checkpoints_that_nobody_goes_by_are_removed() {
    let mut shard = shard(1);
    fresh(&mut shard, GROUP);
    let file = |group, index| {
        let position = LogPosition { term: Term(0), index: Index(index) };
        CheckpointFile { group, position }
    };
    shard.sweep_checkpoints([file(GROUP, 0), file(GROUP, 5), file(OTHER, 5)]);
    let mut output = Output::default();
    shard.finish_turn(&mut output);
    let jobs: Vec<FileJob> = output.file_jobs.into_iter().map(|(_, job)| job).collect();
    assert_eq!(jobs, [FileJob::Delete { file: file(GROUP, 5) }]);
}

#[test]
fn a_store_takes_values_as_long_as_the_limits_say() {
    let limits = Limits { value_bytes_max: 77, ..Limits::default() };
    assert_eq!(Shard::store_limits(&limits).value_bytes_max, 77);
}

/// Takes up a replica that a split of `parent` made, as a start does.
fn split_off(shard: &mut Shard, group: GroupId, parent: GroupId) {
    let (bounds, voters) = (RangeBounds::default(), Configuration::simple(ids(&[1, 2, 3])));
    let delay = Duration::from_secs(60);
    let mut seed = ReplicaSeed::fresh(group, bounds, voters, &Limits::default(), delay);
    seed.base = Some(SplitBase { parent, index: Index(7) });
    shard.add_replica(seed, false);
}

/// A group that is here in any way, if only to be rebuilt or to get its state, is neither what a split
/// makes nor what another node's word makes.
#[test]
fn what_is_lost_or_waits_for_its_state_is_not_made_anew() {
    let (waiting, other) = (GroupId(10), GroupId(11));
    let mut shard = shard(1);
    fresh(&mut shard, GROUP);
    shard.note_lost(lost(OTHER, &[2, 3]));
    split_off(&mut shard, waiting, OTHER);
    for group in [GROUP, OTHER, waiting] {
        assert_eq!(shard.split(GROUP, "m".into(), group), Err(SplitError::Taken), "{group}");
    }
    // Nobody leads here: whatever is free is refused for that alone.
    let refused = shard.split(GROUP, "m".into(), other);
    assert!(matches!(refused, Err(SplitError::Change(_))), "{refused:?}");
    assert_eq!(shard.split(other, "m".into(), GroupId(12)), Err(SplitError::NoSuchGroup));
    for group in [GROUP, OTHER, waiting, other] {
        let is_there = shard.has_replica(group);
        shard.create(&Wanted { group, from: NodeId(2), term: Term(3) }, None);
        assert_eq!(shard.has_replica(group), is_there || group == other, "{group}");
    }
    // Nor is it asked for.
    let append = |group| {
        let message = Message { term: Term(3), body: Body::Create };
        GroupMessage { group, message }
    };
    let from = CoreAddr::new(NodeId(2), CoreId(0));
    let asked = [GROUP, OTHER, waiting, other, GroupId(12)].map(append);
    shard.messages(from, asked.into());
    let mut output = Output::default();
    shard.finish_turn(&mut output);
    assert_eq!(output.wanted, [Wanted { group: GroupId(12), from: NodeId(2), term: Term(3) }]);
}

/// The states that nothing here can make again are told once, and nobody waits for them any more.
#[test]
fn a_state_whose_range_is_not_served_is_told_to_be_lost() {
    let mut shard = shard(1);
    for (group, parent) in [(GROUP, OTHER), (OTHER, GroupId(9))] {
        split_off(&mut shard, group, parent);
    }
    let mut unmade = || -> Vec<GroupId> {
        shard.restore_split_states().into_iter().map(|(group, _)| group).collect()
    };
    assert_eq!(unmade(), [GROUP, OTHER]);
    assert_eq!(unmade(), []);
    assert!(!shard.has_replica(GROUP) && !shard.has_replica(OTHER));
}

/// It may have voted in a later term than that of the leader whose word makes it again.
#[test]
fn what_is_made_again_has_the_term_that_it_had() {
    let mut shard = shard(2);
    let hard_state = HardState { term: Term(5), vote: Some(NodeId(3)) };
    let last = LogPosition { index: Index(7), term: Term(4) };
    shard.note_departed(GROUP, Departed { hard_state, last, residence: 0, rebuilt: None });
    for group in [GROUP, OTHER] {
        shard.create(&Wanted { group, from: NodeId(2), term: Term(4) }, None);
    }
    assert_eq!((shard.term(GROUP), shard.term(OTHER)), (Some(Term(5)), Some(Term(4))));
}

/// A rebuilt replica whose range was taken ends, though nobody took it in: it asked for that for ever (seed 9 of the
/// simulator with --spoiled true). It has not come to the entry by which it left, and one that is made in its place
/// votes no earlier than it would have.
#[test]
fn a_rebuilt_replica_of_a_range_that_was_taken_ends_and_forgets_nothing() {
    let mut shard = shard(2);
    let (bounds, nobody) = (RangeBounds::everything(), Configuration::default());
    let delay = Duration::from_secs(60);
    let mut seed = ReplicaSeed::fresh(GROUP, bounds, nobody, &Limits::default(), delay);
    seed.restored.hard_state = HardState { term: Term(5), vote: Some(NodeId(3)) };
    seed.rebuilt = Some(Rebuilt { votes_from: Index(9), incarnation: Incarnation(2) });
    shard.add_replica(seed, false);
    assert_eq!(shard.destroy(GROUP, Index(20)), Departure::Later, "it may yet be taken in");
    assert_eq!(shard.end(GROUP), Departure::Ended);
    assert_eq!(shard.rebuild_stages().next(), None);
    shard.create(&Wanted { group: GROUP, from: NodeId(2), term: Term(4) }, None);
    let made = shard.raft(GROUP).map(|raft| (raft.term(), raft.reached()));
    assert_eq!(made, Some((Term(5), LogPosition { term: Term(5), index: Index(9) })));
    assert_eq!(shard.rebuild_stages().next(), None, "it joins as its leader wishes");
}

/// Groups that stood for election in turns from this second to that, each second several.
fn stood(shard: &mut Shard, seconds: std::ops::Range<u64>) -> Vec<BTreeSet<GroupId>> {
    let mut turns = Vec::new();
    for ms in (seconds.start * 1000..seconds.end * 1000).step_by(100) {
        shard.begin_turn(Mono::from_ms(ms), WallMs(1));
        let mut output = Output::default();
        shard.finish_turn(&mut output);
        turns.push(output.messages.iter().map(|(_, message)| message.group).collect());
    }
    turns
}

/// However many lose their leader at once: a part stands at a time, and no failure of those keeps the others from it.
#[test]
fn thousands_of_groups_stand_for_election_some_at_a_time_and_each_in_its_turn() {
    let mut shard = shard(1);
    let groups: Vec<GroupId> = (10..3010).map(GroupId).collect();
    groups.iter().for_each(|group| fresh(&mut shard, *group));
    // Nobody answers them: each stands again when its time has passed.
    let turns = stood(&mut shard, 61..120);
    assert!(
        turns.iter().all(|turn| turn.len() <= 512),
        "{:?}",
        turns.iter().map(|t| t.len()).max()
    );
    assert_eq!(turns[0].len(), 512);
    let mut all: BTreeSet<GroupId> = BTreeSet::new();
    let waits = turns.iter().position(|turn| {
        all.extend(turn);
        all.len() == groups.len()
    });
    assert!(waits.is_some_and(|turns| turns < 300), "{} of {} stood", all.len(), groups.len());
}

/// Whoever a client asks for comes first.
#[test]
fn a_group_that_somebody_asks_for_stands_before_those_that_were_due_before() {
    let mut shard = shard(1);
    let groups: Vec<GroupId> = (10..3010).map(GroupId).collect();
    groups.iter().for_each(|group| fresh(&mut shard, *group));
    // A client's question brings it forward from a minute to the usual delay.
    let early = groups[0];
    let get = || Request::one(Command::Get { key: "k".into() });
    shard.request(1, early, RangeEpoch(1), get());
    shard.finish_turn(&mut Output::default());
    assert!(shard.next_deadline() <= Mono::from_ms(1000) + Limits::default().election_delay_max);
    let standing: BTreeSet<GroupId> = stood(&mut shard, 2..3).into_iter().flatten().collect();
    assert!(standing.contains(&early), "{standing:?}");
    // All are due, and the first of them stand: whoever is asked for is the next.
    let first = stood(&mut shard, 61..62);
    let have_stood: BTreeSet<GroupId> = first.into_iter().flatten().collect();
    let wanted = *groups.iter().rfind(|group| !have_stood.contains(group)).unwrap();
    shard.begin_turn(Mono::from_ms(62_000), WallMs(1));
    for token in 2..5 {
        shard.request(token, wanted, RangeEpoch(1), get());
    }
    let mut output = Output::default();
    shard.finish_turn(&mut output);
    let told = |(_, outcome): &(u64, _)| *outcome == Err(Refusal::NotLeader { leader: None });
    assert!(output.replies.len() == 3 && output.replies.iter().all(told), "{:?}", output.replies);
    let mut next = stood(&mut shard, 62..64);
    next.insert(0, output.messages.iter().map(|(_, message)| message.group).collect());
    let next = next.into_iter().find(|turn| !turn.is_empty()).unwrap();
    assert!(next.contains(&wanted), "{wanted} is not among {} that stand next", next.len());
}
