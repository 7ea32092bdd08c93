//! Plans carried out on the data directories of stopped survivors: what they make of the logs, and that
//! nobody who was given up finds a vote there.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use oarlock::disk::data_dir::{DataDir, DataDirOptions, lock_stopped};
use oarlock::disk::layout::CoreDir;
use oarlock::disk::lost;
use oarlock::disk::peers::PeerDisks;
use oarlock::disk::stopped;
use oarlock::quorum_loss::apply::{ApplyError, prepare};
use oarlock::quorum_loss::collect::collect;
use oarlock_codec::Record;
use oarlock_raft::{
    Body, Configuration, Context, Effects, Entry, Group, GroupConfig, HardState, LogPosition,
    Message, Payload, VoteReply, VoteRequest,
};
use oarlock_shard::losses::Lost;
use oarlock_shard::moves::Departed;
use oarlock_shard::rebuild::{Origin, Rebuilt};
use oarlock_shard::support_table::TableConfig;
use oarlock_shard::{ReplicaSeed, Shard, SupportTable};
use oarlock_store::Store;
use oarlock_survivors::decide::decide;
use oarlock_survivors::plan::{GroupPlan, Plan};
use oarlock_survivors::records::{Created, going_on};
use oarlock_survivors::state::{NodeState, ReplicaKind};
use oarlock_types::{
    ClusterId, CoreId, DiskId, GroupId, Incarnation, Index, Limits, Mono, NodeId, RangeEpoch,
    SegmentId, SharedLimits, Term,
};
use oarlock_wal::layout::BLOCK_BYTES;
use oarlock_wal::{Addition, Owner, RecoveredGroup, WalConfig};

const CORE: CoreId = CoreId(0);
const GROUP: GroupId = GroupId(7);

fn at(index: u64, term: u64) -> LogPosition {
    LogPosition { term: Term(term), index: Index(index) }
}

fn voters(nodes: impl IntoIterator<Item = u64>) -> Configuration {
    Configuration::simple(nodes.into_iter().map(NodeId))
}

/// Creation, hard state and log of a replica whose entries are of one term.
fn replica(group: GroupId, origin: Origin, last: LogPosition) -> Vec<Record> {
    let hard_state = HardState { term: last.term, vote: Some(NodeId(2)) };
    let entry = |index| Entry { at: at(index, last.term.get()), payload: Payload::Noop };
    let entries: Vec<Entry> = (1..=last.index.get()).map(entry).collect();
    let (configuration, details) = (voters(1..=5), origin.to_details());
    let mut records = vec![
        Record::Create { group, configuration, details },
        Record::HardState { group, hard_state },
    ];
    if !entries.is_empty() {
        records.push(Record::Entries { group, entries });
    }
    records
}

fn first() -> Origin {
    Origin::first(RangeEpoch(1))
}

/// Stopped survivors of a cluster of five.
struct Survivors {
    folder: tempfile::TempDir,
}

impl Survivors {
    fn new() -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Self { folder }
    }

    fn path(&self, node: u64) -> PathBuf {
        self.folder.path().join(node.to_string())
    }

    fn start(&self, node: u64) {
        let options =
            DataDirOptions { cluster: ClusterId(7), node: NodeId(node), cores: 1, disk: None };
        let data = DataDir::open(&self.path(node), &options).unwrap();
        let (cluster, disk) = (data.cluster(), data.disk());
        let owner = Owner { cluster, node: NodeId(node), disk, core: CORE };
        let segment = data.core(CORE).segment(SegmentId(1));
        if !segment.exists() {
            // A log of short segments, which are soon made ready.
            let config = WalConfig { owner, segment_bytes: 64 << 10, frame_bytes_max: 16 << 10 };
            let mut bytes = config.segment_header(SegmentId(1));
            bytes.resize(64 << 10, 0);
            fs::write(segment, bytes).unwrap();
        }
    }

    fn add(&self, node: u64, records: &[Vec<Record>]) {
        self.start(node);
        let additions: Vec<Addition> =
            records.iter().flatten().cloned().map(Addition::Append).collect();
        add(&self.path(node), &additions);
    }

    fn state(&self, node: u64) -> NodeState {
        let (identity, _lock) = lock_stopped(&self.path(node)).unwrap();
        collect(&self.path(node), &identity).unwrap()
    }

    fn plan(&self, nodes: &[u64]) -> Plan {
        let states: Vec<NodeState> = nodes.iter().map(|node| self.state(*node)).collect();
        decide(&states).unwrap()
    }

    fn found(&self, node: u64, group: GroupId) -> RecoveredGroup {
        let (identity, _lock) = lock_stopped(&self.path(node)).unwrap();
        let directory = CoreDir::new(&self.path(node), CORE);
        let mut recovered = stopped::read_log(&directory, CORE, &identity).unwrap();
        assert!(recovered.damage.is_empty(), "{:?}", recovered.damage);
        recovered.groups.remove(&group).unwrap()
    }

    #[track_caller]
    fn apply(&self, plan: &Plan, node: u64) -> usize {
        let prepared = prepare(plan, &self.path(node)).unwrap();
        assert!(!prepared.is_done());
        prepared.carry_out().unwrap()
    }

    #[track_caller]
    fn refusal(&self, plan: &Plan, node: u64) -> ApplyError {
        prepare(plan, &self.path(node)).unwrap_err()
    }
}

fn add(path: &Path, additions: &[Addition]) {
    let (identity, _lock) = lock_stopped(path).unwrap();
    let directory = CoreDir::new(path, CORE);
    let mut wal = stopped::read_log(&directory, CORE, &identity).unwrap().wal;
    stopped::add(&directory, CORE, &identity, &mut wal, additions).unwrap();
}

/// Whether the replica that a log gives back would vote for a node whose log ends there, in a term that
/// far above its own.
fn votes_for(node: u64, found: RecoveredGroup, candidate: NodeId, last: LogPosition) -> bool {
    let limits = Limits::default();
    let left = Origin::from_details(&found.details).left;
    let hard_state = found.hard_state;
    let seed = if Departed::of(&found).is_some() {
        // As a node makes one by the candidate's word.
        let mut seed = ReplicaSeed::fresh(
            GROUP,
            oarlock_types::RangeBounds::default(),
            Configuration::default(),
            &limits,
            Duration::ZERO,
        );
        seed.restored.hard_state = hard_state;
        seed
    } else {
        let load = |_: &_, _| Ok::<Store, ()>(Store::new(Shard::store_limits(&limits)));
        ReplicaSeed::recovered(GROUP, found, &limits, Duration::ZERO, None, load).unwrap()
    };
    let table = SupportTable::new(&TableConfig {
        node: NodeId(node),
        incarnation: Incarnation(9),
        cores: 1,
        cores_max: 1,
        origin: Mono(0),
        peers: &[],
    });
    let support = table.view(CORE, Mono(1));
    let ctx = Context { now: Mono(1), support: &support, may_vote: true };
    let limits = SharedLimits::new(limits);
    let config = GroupConfig { group: GROUP, node: NodeId(node), core: CORE, seed: 1, limits };
    let mut raft = Group::new(config, seed.restored, &ctx);
    raft.left_at(left.unwrap_or_default());
    let mut out = Effects::default();
    let body = Body::Vote(VoteRequest { last, release: None });
    let term = Term(raft.term().get() + 100);
    raft.step(&ctx, candidate, Message { term, body }, &mut out);
    let sent = out.send_now.iter().chain(&out.send_after_durable);
    sent.into_iter()
        .any(|(_, message)| message.body == Body::VoteReply(VoteReply { granted: true }))
}

/// The state of a group by the newest plan, and the end of the log from which it goes on.
#[track_caller]
fn only(plan: &Plan) -> &GroupPlan {
    assert_eq!(plan.groups.len(), 1, "{plan:#?}");
    &plan.groups[0]
}

#[test]
fn one_survivor_goes_on_alone_and_no_other_votes_before_it_has_the_log() {
    let survivors = Survivors::new();
    survivors.add(1, &[replica(GROUP, first(), at(9, 4))]);
    survivors.add(2, &[replica(GROUP, first(), at(12, 3))]);
    let plan = survivors.plan(&[1, 2]);
    let group = only(&plan);
    assert_eq!((group.chosen, group.loss.kept), (NodeId(1), at(9, 4)));
    assert_eq!(plan.given_up, [3, 4, 5].map(NodeId));
    // Before, both would have voted for one that comes back with a log as long as theirs.
    let returns = (NodeId(3), at(12, 4));
    for node in [1, 2] {
        assert!(votes_for(node, survivors.found(node, GROUP), returns.0, returns.1));
    }
    assert_eq!((survivors.apply(&plan, 1), survivors.apply(&plan, 2)), (1, 1));
    for node in [1, 2] {
        assert!(!votes_for(node, survivors.found(node, GROUP), returns.0, returns.1), "{node}");
        let known = PeerDisks::open(&survivors.path(node)).unwrap();
        assert!(
            [3, 4, 5].map(NodeId).iter().all(|dead| known.known_disk(*dead) == Some(DiskId::NONE))
        );
    }
    let state = survivors.state(1);
    let chosen = &state.replicas[0];
    assert_eq!((chosen.last, chosen.term), (group.recovered_at, group.recovered_at.term));
    assert_eq!(chosen.members, voters([1]));
    let other = &survivors.state(2).replicas[0];
    assert_eq!(
        (other.kind, other.last, other.reached),
        (ReplicaKind::Whole, at(12, 3), chosen.last)
    );
    let after = survivors.plan(&[1, 2]);
    assert_eq!((after.sound_count, after.groups.len()), (1, 0), "it has a quorum now");
    // Whoever leads from then on is voted for again by the other one.
    let end = at(chosen.last.index.get() + 1, chosen.last.term.get() + 1);
    assert!(!votes_for(2, survivors.found(2, GROUP), NodeId(1), end), "it lacks the log still");
}

/// The dead can have had any term that survivors do not know: their logs are older all the same.
#[test]
fn one_that_comes_back_from_many_elections_later_is_not_voted_for() {
    let survivors = Survivors::new();
    survivors.add(1, &[replica(GROUP, first(), at(9, 4))]);
    let plan = survivors.plan(&[1]);
    let returns = at(5000, 4 + 100_000);
    assert!(votes_for(1, survivors.found(1, GROUP), NodeId(3), returns));
    survivors.apply(&plan, 1);
    assert!(!votes_for(1, survivors.found(1, GROUP), NodeId(3), returns));
}

/// One that has ended, and one that was never made, would be made anew by the word of whoever comes back.
#[test]
fn where_no_replica_is_none_that_is_made_later_votes() {
    let survivors = Survivors::new();
    let ended = Origin { left: Some(at(6, 3)), ..Origin::first(RangeEpoch(0)) };
    let ended = Record::Create {
        group: GROUP,
        configuration: Configuration::default(),
        details: ended.to_details(),
    };
    survivors.add(1, &[replica(GROUP, first(), at(9, 4))]);
    survivors.add(2, &[vec![ended]]);
    survivors.start(3);
    // Three of five could elect, if the third made a replica and voted; so one more is gone.
    let mut plan = survivors.plan(&[1, 2]);
    assert_eq!(only(&plan).replicas[1].kind, ReplicaKind::Ended);
    survivors.apply(&plan, 2);
    assert!(!votes_for(2, survivors.found(2, GROUP), NodeId(4), at(9, 4)));
    assert!(prepare(&plan, &survivors.path(2)).unwrap().is_done());
    plan = survivors.plan(&[1, 3]);
    assert_eq!(only(&plan).replicas[1].kind, ReplicaKind::Absent);
    survivors.apply(&plan, 3);
    assert!(!votes_for(3, survivors.found(3, GROUP), NodeId(4), at(9, 4)));
    assert!(prepare(&plan, &survivors.path(3)).unwrap().is_done());
}

/// Whatever was written when it was cut short: applied again, it comes to the same end.
#[test]
fn what_is_cut_short_is_applied_again() {
    let survivors = Survivors::new();
    let rebuilt = Some(Rebuilt { votes_from: Index(40), incarnation: Incarnation(1) });
    let origin = Origin { rebuilt, left: Some(at(30, 4)), ..first() };
    survivors.add(1, &[replica(GROUP, origin, at(9, 4))]);
    let mut plan = survivors.plan(&[1]);
    // As if the map knew of members that nobody else does: the log is filled up to there.
    plan.groups[0].recovered_at.index = Index(14);
    let group = only(&plan);
    let created = Created { configuration: voters(1..=5), details: origin.to_details() };
    let mut steps: Vec<Addition> = Vec::new();
    for addition in going_on(group, NodeId(1), &created, at(9, 4)) {
        match addition {
            Addition::Append(Record::Entries { group, entries }) => {
                let each = entries.into_iter().map(|entry| vec![entry]);
                let each = each.map(|entries| Addition::Append(Record::Entries { group, entries }));
                steps.extend(each);
            }
            other @ (Addition::Append(_) | Addition::Restate(_)) => steps.push(other),
        }
    }
    assert_eq!(steps.len(), 7);
    for step in steps {
        add(&survivors.path(1), &[step]);
        let prepared = prepare(&plan, &survivors.path(1)).unwrap();
        assert!(!prepared.is_done(), "nobody is refused yet");
    }
    survivors.apply(&plan, 1);
    let chosen = &survivors.state(1).replicas[0];
    assert_eq!((chosen.last, chosen.reached), (group.recovered_at, group.recovered_at));
    assert_eq!((chosen.votes_from, &chosen.members), (Index(0), &voters([1])));
    assert!(prepare(&plan, &survivors.path(1)).unwrap().is_done());
    let origin = Origin::from_details(&survivors.found(1, GROUP).details);
    assert_eq!(
        origin.rebuilt.unwrap().incarnation,
        Incarnation(1),
        "a loss from before stays mended"
    );
}

#[test]
fn a_half_written_end_is_gone_on_with() {
    let survivors = Survivors::new();
    survivors.add(1, &[replica(GROUP, first(), at(9, 4))]);
    let mut plan = survivors.plan(&[1]);
    plan.groups[0].recovered_at.index = Index(14);
    let group = only(&plan);
    let created = Created { configuration: voters(1..=5), details: Bytes::new() };
    let mut steps = going_on(group, NodeId(1), &created, at(9, 4));
    let Some(Addition::Append(Record::Entries { entries, .. })) = steps.last_mut() else {
        panic!("it ends with entries");
    };
    entries.truncate(3);
    add(&survivors.path(1), &steps);
    survivors.apply(&plan, 1);
    assert_eq!(survivors.state(1).replicas[0].last, at(14, group.recovered_at.term.get()));
    assert_eq!(survivors.found(1, GROUP).entries.len(), 14);
}

#[test]
fn a_plan_fits_the_state_that_it_was_made_on_and_no_other() {
    let survivors = Survivors::new();
    survivors.add(1, &[replica(GROUP, first(), at(9, 4))]);
    survivors.add(2, &[replica(GROUP, first(), at(8, 4))]);
    survivors.start(3);
    let plan = survivors.plan(&[1, 2]);
    let mut other = plan.clone();
    other.cluster = ClusterId(8);
    assert!(matches!(survivors.refusal(&other, 1), ApplyError::OtherCluster { .. }));
    assert!(matches!(survivors.refusal(&plan, 3), ApplyError::NotPlanned { .. }));
    let mut other = plan.clone();
    other.survivors[0].disk = DiskId::NONE;
    assert!(matches!(survivors.refusal(&other, 1), ApplyError::OtherDisk { .. }));
    for node in [1, 2] {
        let entries = vec![Entry { at: at(10, 4), payload: Payload::Noop }];
        let more = Addition::Append(Record::Entries { group: GROUP, entries });
        if node == 1 {
            add(&survivors.path(node), &[more]);
        } else {
            let hard_state = HardState { term: Term(5), vote: None };
            let more = Addition::Append(Record::HardState { group: GROUP, hard_state });
            add(&survivors.path(node), &[more]);
        }
        assert!(matches!(survivors.refusal(&plan, node), ApplyError::Changed { .. }), "{node}");
    }
    let plan = survivors.plan(&[1, 2]);
    survivors.start(2);
    let error = survivors.refusal(&plan, 2).to_string();
    assert!(
        error.contains("n2 was started since the plan was made (2 times in all, 1 then)"),
        "{error}"
    );
    // Its own refusal keeps nobody else from it.
    survivors.apply(&plan, 1);
}

/// What is lost makes no quorum, also where the log says nothing of it any more.
#[test]
fn replicas_that_are_lost_are_told() {
    let survivors = Survivors::new();
    let whole = |group| replica(GroupId(group), first(), at(9, 4));
    survivors.add(1, &[whole(7), whole(8)]);
    let directory = CoreDir::new(&survivors.path(1), CORE);
    let known = Lost::from([7, 9].map(|group| (GroupId(group), Incarnation(1))));
    lost::write(&directory, &known).unwrap();
    let state = survivors.state(1);
    let kinds: Vec<_> = state.replicas.iter().map(|r| (r.group.get(), r.kind)).collect();
    let expected = [(7, ReplicaKind::Lost), (8, ReplicaKind::Whole), (9, ReplicaKind::Lost)];
    assert_eq!(kinds, expected);
    let plan = survivors.plan(&[1]);
    assert_eq!(only(&plan).group, GroupId(8));
}

/// Once the log goes on, some damage can not be seen in it any more: a start must have written it down.
#[test]
fn damage_that_no_start_has_written_down_is_refused() {
    let survivors = Survivors::new();
    survivors.add(1, &[replica(GROUP, first(), at(9, 4))]);
    let plan = survivors.plan(&[1]);
    let directory = CoreDir::new(&survivors.path(1), CORE);
    let (_, segment) = directory.segments().unwrap().pop().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    bytes[BLOCK_BYTES + 100] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let (identity, lock) = lock_stopped(&survivors.path(1)).unwrap();
    let error = collect(&survivors.path(1), &identity).unwrap_err().to_string();
    assert!(error.contains("no start has written down which replicas that costs"), "{error}");
    drop(lock);
    assert!(matches!(survivors.refusal(&plan, 1), ApplyError::Collect(_)));
}

#[test]
fn a_directory_that_is_none_is_told() {
    let survivors = Survivors::new();
    let error = lock_stopped(&survivors.path(9)).unwrap_err().to_string();
    assert!(error.contains("is no node's data directory"), "{error}");
    assert!(!survivors.path(9).exists(), "and none is made");
}
