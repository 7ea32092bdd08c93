//! A checkpoint holds exactly what its position says: all that was committed up to there.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use bytes::Bytes;
use oarlock_codec::{GroupMessage, SplitEntry};
use oarlock_raft::{
    Append, Body, Configuration, Entry, HardState, LogPosition, Message, Payload, Restored,
};
use oarlock_shard::homes::NoHome;
use oarlock_shard::support_table::TableConfig;
use oarlock_shard::{
    FileJob, Homes, Output, ReplicaSeed, Shard, ShardConfig, SharedHomes, SharedSupport,
    SupportTable,
};
use oarlock_store::{Batch, Command, Loader, Reply, Request, Store, encode};
use oarlock_types::{
    ClusterId, CoreAddr, CoreId, DiskId, GroupId, Incarnation, Index, Limits, Mono, NodeId,
    RangeBounds, SharedLimits, Term, WallMs,
};
use oarlock_wal::{Owner, Wal, WalConfig};

const GROUP: GroupId = GroupId(7);
const LEADER: CoreAddr = CoreAddr { node: NodeId(1), core: CoreId(0) };
const FOLLOWER: CoreAddr = CoreAddr { node: NodeId(2), core: CoreId(0) };

fn follower(limits: Limits, homes: SharedHomes) -> Shard {
    let support = SharedSupport::new(SupportTable::new(&TableConfig {
        node: FOLLOWER.node,
        incarnation: Incarnation(1),
        cores: 1,
        cores_max: 4,
        origin: Mono(0),
        peers: &[(NodeId(1), 1), (NodeId(3), 1)],
    }));
    let owner =
        Owner { cluster: ClusterId(1), node: FOLLOWER.node, disk: DiskId(1), core: FOLLOWER.core };
    let wal = Wal::new(WalConfig {
        owner,
        segment_bytes: WalConfig::SEGMENT_BYTES_DEFAULT,
        frame_bytes_max: 4 << 20,
    });
    let config = ShardConfig {
        addr: FOLLOWER,
        limits: SharedLimits::new(limits.clone()),
        seed: 1,
        support,
        homes,
        may_vote_from: Mono(0),
    };
    let mut shard = Shard::new(config, wal);
    shard.begin_turn(Mono(1), WallMs(1));
    let voters = [NodeId(1), NodeId(2), NodeId(3)];
    let restored = Restored {
        hard_state: HardState::default(),
        checkpoint: Shard::fresh_checkpoint(Configuration::simple(voters)),
        log_start: Index(1),
        entries: Vec::new(),
        first_election_delay: Duration::from_secs(60),
    };
    let mut store = Store::new(Shard::store_limits(&limits));
    store.set_bounds(RangeBounds::everything());
    shard.add_replica(
        ReplicaSeed {
            group: GROUP,
            restored,
            store,
            base: None,
            left: None,
            residence: 0,
            rebuilt: None,
        },
        true,
    );
    shard
}

fn set(index: u64, key: &'static str, value_bytes: usize) -> Entry {
    let pairs = vec![(Bytes::from_static(key.as_bytes()), Bytes::from(vec![b'v'; value_bytes]))];
    let requests = vec![Request::one(Command::MSet { pairs })];
    let payload = Payload::Commands(encode(&Batch { stamp: WallMs(1), requests }));
    Entry { at: LogPosition { term: Term(1), index: Index(index) }, payload }
}

/// One turn in which the leader's append arrives; its frames are durable at the end.
fn append(shard: &mut Shard, now: u64, entry: Entry, commit: u64) -> Output {
    shard.begin_turn(Mono(now), WallMs(now));
    let prev_index = Index(entry.at.index.get() - 1);
    let prev_term = if prev_index == Index(0) { Term(0) } else { Term(1) };
    let append = Append {
        core: LEADER.core,
        prev: LogPosition { term: prev_term, index: prev_index },
        entries: vec![entry],
        commit: Index(commit),
        read_sequence: 0,
        wants_reply: true,
    };
    let message = Message { term: Term(1), body: Body::Append(append) };
    shard.messages(LEADER, vec![GroupMessage { group: GROUP, message }]);
    let mut output = Output::default();
    shard.finish_turn(&mut output);
    if let Some(segment) = shard.wal().next_segment_wanted() {
        shard.wal().segment_prepared(segment);
    }
    while let Some(bytes) = shard.wal().next_frame_bytes() {
        let frame = shard.wal().seal(&mut vec![0; bytes]).unwrap();
        shard.wal_durable(frame.lsn);
    }
    output
}

#[test]
fn a_checkpoint_holds_what_is_committed_by_the_very_append_that_makes_it_due() {
    let limits = Limits { compact_log_bytes_min: 64 << 10, ..Limits::default() };
    let mut shard = follower(limits.clone(), Homes::new(1));
    // Neither is known to be committed; the second makes the log long enough.
    for entry in [set(1, "early", 10), set(2, "long", 128 << 10)] {
        let output = append(&mut shard, entry.at.index.get(), entry, 0);
        assert!(output.file_jobs.is_empty(), "there is nothing to make a checkpoint of");
    }
    let output = append(&mut shard, 3, set(3, "late", 10), 1);
    let mut made = output.file_jobs.iter().filter_map(|(_, job)| match job {
        FileJob::Append { file, data, .. } => Some((file.position.index, data)),
        FileJob::Finish { .. }
        | FileJob::Read { .. }
        | FileJob::Adopt { .. }
        | FileJob::Delete { .. }
        | FileJob::ReadFrames(_) => None,
    });
    let (position, data) = made.next().expect("a checkpoint is begun");
    assert_eq!(position, Index(1));
    let mut loader = Loader::new(Shard::store_limits(&limits));
    loader.feed(data).unwrap();
    let loaded = loader.finish().unwrap();
    let get =
        |key: &'static str| loaded.read(&Request::one(Command::Get { key: key.into() }), WallMs(3));
    assert_eq!(get("early"), Reply::Bulk(vec![b'v'; 10].into()));
    assert_eq!((get("long"), get("late")), (Reply::Nil, Reply::Nil));
}

/// A split that makes group 8.
fn split(index: u64) -> Entry {
    let split = SplitEntry {
        at: Bytes::from_static(b"m"),
        child: GroupId(8),
        leader: LEADER.node,
        configuration: Configuration::simple([NodeId(1), NodeId(2), NodeId(3)]),
        lives: Vec::new(),
    };
    let at = LogPosition { term: Term(1), index: Index(index) };
    Entry { at, payload: Payload::Split(split.encode()) }
}

/// Whoever makes a replica by another's word meanwhile makes it there: on another core the state never came, and would be
/// lost with those that have it.
#[test]
fn what_an_entry_will_cut_off_has_its_home_on_the_core_whose_log_has_the_entry() {
    let homes = Homes::new(2);
    // The other core is the emptier one.
    assert!(homes.claim(GROUP, FOLLOWER.core));
    let mut shard = follower(Limits::default(), SharedHomes::clone(&homes));
    append(&mut shard, 1, set(1, "a", 10), 0);
    assert_eq!(homes.core_of(GroupId(8)), None);
    append(&mut shard, 2, split(2), 0);
    assert_eq!(homes.claim_any(GroupId(8)), Err(NoHome::Taken(FOLLOWER.core)));
}

/// In the very turn in which a split is applied the cut range's log is all that makes the new one's state.
#[test]
fn the_range_that_a_split_cuts_makes_no_checkpoint_in_that_turn() {
    let limits = Limits { compact_log_bytes_min: 64 << 10, ..Limits::default() };
    for cuts in [false, true] {
        let mut shard = follower(limits.clone(), Homes::new(1));
        let second = if cuts { split(2) } else { set(2, "n", 10) };
        for entry in [set(1, "early", 10), second, set(3, "long", 128 << 10)] {
            append(&mut shard, entry.at.index.get(), entry, 0);
        }
        let output = append(&mut shard, 4, set(4, "late", 10), 2);
        let made = output
            .file_jobs
            .iter()
            .any(|(_, job)| matches!(job, FileJob::Append { file, .. } if file.group == GROUP));
        assert_eq!((made, output.splits.len()), (!cuts, usize::from(cuts)));
    }
}
