//! Arbitrary values of everything that frames and records carry. Shared by the tests of this crate.

#![allow(dead_code, reason = "each test file uses its part of it")]
#![allow(clippy::disallowed_types, reason = "proptest's macros use Arc")]

use bytes::Bytes;
use oarlock_codec::{
    ForwardReply, ForwardRequest, Frame, GroupMessage, Handshake, HandshakeRefusal, HandshakeReply,
    Lane, Record, Refusal,
};
use oarlock_raft::{
    Append, AppendOutcome, AppendReply, Body, Configuration, Entry, HardState, LogPosition,
    Message, Payload, Rebuild, Release, SnapshotChunk, SnapshotMeta, VoteReply, VoteRequest,
};
use oarlock_store::{
    Command, ErrorReply, ExpireCondition, Expiry, Reply, Request, SetCondition, Watch,
};
use oarlock_types::{
    ClusterId, CoreId, DiskId, FeatureLevel, FeatureLevels, GroupId, Incarnation, Index, NodeId,
    Pulse, PulseSupport, RangeEpoch, SupportEpoch, Term,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn node() -> impl Strategy<Value = NodeId> {
    any::<u64>().prop_map(NodeId)
}

fn blob() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

fn position() -> impl Strategy<Value = LogPosition> {
    any::<(u64, u64)>()
        .prop_map(|(term, index)| LogPosition { term: Term(term), index: Index(index) })
}

pub(crate) fn configuration() -> impl Strategy<Value = Configuration> {
    let list = || vec(node(), 0..5);
    (list(), list(), list()).prop_map(|(voters, outgoing, learners)| Configuration {
        voters,
        outgoing,
        learners,
    })
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        Just(Payload::Noop),
        blob().prop_map(Payload::Commands),
        configuration().prop_map(Payload::Config),
        blob().prop_map(Payload::Split),
        blob().prop_map(Payload::Merge),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    (position(), payload()).prop_map(|(at, payload)| Entry { at, payload })
}

fn meta() -> impl Strategy<Value = SnapshotMeta> {
    (position(), configuration(), any::<u64>(), any::<u64>()).prop_map(
        |(position, configuration, index, size_bytes)| SnapshotMeta {
            position,
            configuration,
            configuration_index: Index(index),
            size_bytes,
        },
    )
}

fn release() -> impl Strategy<Value = Release> {
    (node(), any::<u64>()).prop_map(|(leader, term)| Release { leader, term: Term(term) })
}

fn vote() -> impl Strategy<Value = VoteRequest> {
    (position(), option::of(release())).prop_map(|(last, release)| VoteRequest { last, release })
}

fn append() -> impl Strategy<Value = Append> {
    (any::<u16>(), position(), vec(entry(), 0..6), any::<u64>(), any::<u64>(), any::<bool>())
        .prop_map(|(core, prev, entries, commit, read_sequence, wants_reply)| Append {
            core: CoreId(core),
            prev,
            entries,
            commit: Index(commit),
            read_sequence,
            wants_reply,
        })
}

fn append_reply() -> impl Strategy<Value = AppendReply> {
    let outcome = prop_oneof![
        any::<u64>().prop_map(|index| AppendOutcome::Matched(Index(index))),
        (any::<u64>(), position())
            .prop_map(|(prev, hint)| AppendOutcome::Rejected { prev: Index(prev), hint }),
    ];
    (outcome, option::of(any::<(u64, u64)>()), any::<u64>()).prop_map(
        |(outcome, bound, read_sequence)| AppendReply {
            outcome,
            bound: bound
                .map(|(epoch, incarnation)| (SupportEpoch(epoch), Incarnation(incarnation))),
            read_sequence,
        },
    )
}

fn chunk() -> impl Strategy<Value = SnapshotChunk> {
    (any::<u16>(), meta(), any::<u64>(), blob()).prop_map(|(core, meta, offset_bytes, data)| {
        SnapshotChunk { core: CoreId(core), meta, offset_bytes, data }
    })
}

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        vote().prop_map(Body::PreVote),
        any::<bool>().prop_map(|granted| Body::PreVoteReply(VoteReply { granted })),
        vote().prop_map(Body::Vote),
        any::<bool>().prop_map(|granted| Body::VoteReply(VoteReply { granted })),
        append().prop_map(Body::Append),
        append_reply().prop_map(Body::AppendReply),
        chunk().prop_map(Body::Snapshot),
        (position(), any::<u64>(), any::<bool>()).prop_map(
            |(position, received_bytes, installed)| {
                Body::SnapshotReply { position, received_bytes, installed }
            }
        ),
        release().prop_map(Body::TimeoutNow),
        release().prop_map(Body::Release),
        release().prop_map(Body::ReleaseReply),
        any::<u64>().prop_map(|sequence| Body::ReadIndex { sequence }),
        (any::<u64>(), option::of(any::<u64>())).prop_map(|(sequence, index)| {
            Body::ReadIndexReply { sequence, index: index.map(Index) }
        }),
        any::<u64>().prop_map(|attempt| Body::Rebuild(Rebuild::Leave { attempt })),
        (any::<u64>(), any::<u64>(), configuration()).prop_map(
            |(attempt, index, configuration)| {
                Body::Rebuild(Rebuild::Left { attempt, index: Index(index), configuration })
            }
        ),
        Just(Body::Rebuild(Rebuild::Join)),
        configuration().prop_map(|known| Body::Rebuild(Rebuild::Members(known))),
        Just(Body::Absent),
        Just(Body::Create),
        (any::<u16>(), any::<bool>())
            .prop_map(|(core, is_answer)| Body::Residence { core: CoreId(core), is_answer }),
    ]
}

fn message() -> impl Strategy<Value = GroupMessage> {
    (any::<u64>(), any::<u64>(), body()).prop_map(|(group, term, body)| GroupMessage {
        group: GroupId(group),
        message: Message { term: Term(term), body },
    })
}

fn expiry() -> impl Strategy<Value = Expiry> {
    prop_oneof![
        Just(Expiry::None),
        Just(Expiry::Keep),
        any::<i64>().prop_map(Expiry::In),
        any::<i64>().prop_map(Expiry::At),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        blob().prop_map(|key| Command::Get { key }),
        vec(blob(), 0..4).prop_map(|keys| Command::MGet { keys }),
        (blob(), option::of(blob()), any::<u32>(), any::<bool>(), any::<bool>()).prop_map(
            |(start, end, limit, reverse, values)| Command::Scan {
                start,
                end,
                limit,
                reverse,
                values
            }
        ),
        (blob(), blob(), expiry(), any::<bool>()).prop_map(|(key, value, expiry, get)| {
            Command::Set { key, value, condition: SetCondition::Absent, expiry, get }
        }),
        vec((blob(), blob()), 0..4).prop_map(|pairs| Command::MSet { pairs }),
        (blob(), any::<i64>()).prop_map(|(key, delta)| Command::IncrBy { key, delta }),
        (blob(), any::<u64>())
            .prop_map(|(key, delta_bits)| Command::IncrByFloat { key, delta_bits }),
        (blob(), expiry()).prop_map(|(key, expiry)| Command::Expire {
            key,
            expiry,
            condition: ExpireCondition::Later,
        }),
        (blob(), option::of(blob()), blob()).prop_map(|(key, expected, new)| Command::Cas {
            key,
            expected,
            new
        }),
        Just(Command::Count),
    ]
}

fn forward() -> impl Strategy<Value = ForwardRequest> {
    let watch = (blob(), any::<u64>()).prop_map(|(key, version)| Watch { key, version });
    let request = (option::of(blob()), vec(watch, 0..3), any::<bool>(), vec(command(), 0..4))
        .prop_map(|(once, watches, transaction, commands)| Request {
            once,
            watches,
            transaction,
            commands,
        });
    let lane = any::<(u64, bool)>().prop_map(|(connection, follows)| Lane { connection, follows });
    (any::<(u64, u64, u64)>(), option::of(lane), request).prop_map(
        |((id, group, epoch), lane, request)| ForwardRequest {
            id,
            group: GroupId(group),
            epoch: RangeEpoch(epoch),
            lane,
            request,
        },
    )
}

fn reply() -> impl Strategy<Value = Reply> {
    let leaf = prop_oneof![
        Just(Reply::Ok),
        ".{0,20}".prop_map(Reply::Simple),
        Just(Reply::Nil),
        any::<i64>().prop_map(Reply::Int),
        blob().prop_map(Reply::Bulk),
        Just(Reply::Error(ErrorReply::Overflow)),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| vec(inner, 0..4).prop_map(Reply::Array))
}

fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        option::of(node()).prop_map(|leader| Refusal::NotLeader { leader }),
        Just(Refusal::StaleEpoch),
        Just(Refusal::Busy),
        Just(Refusal::Unknown),
        Just(Refusal::NoQuorum),
        Just(Refusal::DiskFull),
        Just(Refusal::OutOfTurn),
        Just(Refusal::NoSuchGroup),
        Just(Refusal::TooLarge),
    ]
}

fn forward_reply() -> impl Strategy<Value = ForwardReply> {
    let outcome = prop_oneof![reply().prop_map(Ok), refusal().prop_map(Err)];
    (any::<u64>(), outcome).prop_map(|(id, outcome)| ForwardReply { id, outcome })
}

fn levels() -> impl Strategy<Value = FeatureLevels> {
    any::<(u16, u16)>()
        .prop_map(|(min, max)| FeatureLevels { min: FeatureLevel(min), max: FeatureLevel(max) })
}

fn handshake() -> impl Strategy<Value = Handshake> {
    (any::<(u128, u64, u128, u64, u16, u16, u64, u16)>(), levels()).prop_map(
        |((cluster, from, disk, incarnation, from_core, cores_count, to, to_core), levels)| {
            Handshake {
                cluster: ClusterId(cluster),
                from: NodeId(from),
                disk: DiskId(disk),
                incarnation: Incarnation(incarnation),
                from_core: CoreId(from_core),
                cores_count,
                levels,
                to: NodeId(to),
                to_core: CoreId(to_core),
            }
        },
    )
}

fn handshake_reply() -> impl Strategy<Value = HandshakeReply> {
    let refusal = prop_oneof![
        any::<u128>().prop_map(|id| HandshakeRefusal::WrongCluster { cluster: ClusterId(id) }),
        node().prop_map(|node| HandshakeRefusal::WrongNode { node }),
        Just(HandshakeRefusal::UnknownNode),
        any::<u64>().prop_map(|n| HandshakeRefusal::StaleIncarnation { known: Incarnation(n) }),
        any::<u128>().prop_map(|id| HandshakeRefusal::WrongDisk { known: DiskId(id) }),
        any::<u16>().prop_map(|n| HandshakeRefusal::FeatureLevel { level: FeatureLevel(n) }),
        any::<u16>().prop_map(|cores_count| HandshakeRefusal::NoSuchCore { cores_count }),
    ];
    prop_oneof![
        (any::<(u64, u128, u64, u16)>(), levels()).prop_map(|(ids, levels)| {
            let (node, disk, incarnation, cores_count) = ids;
            HandshakeReply::Accepted {
                node: NodeId(node),
                disk: DiskId(disk),
                incarnation: Incarnation(incarnation),
                cores_count,
                levels,
            }
        }),
        refusal.prop_map(HandshakeReply::Refused),
    ]
}

fn pulse() -> impl Strategy<Value = Pulse> {
    let support = any::<(u16, u64, u64)>().prop_map(|(core, epoch, sequence)| PulseSupport {
        core: CoreId(core),
        epoch: SupportEpoch(epoch),
        sequence,
    });
    let ids = any::<(u128, u64, u64, u64, u64, u64, u64)>();
    (ids, vec(any::<bool>(), 0..9), vec(support, 0..9)).prop_map(|(ids, alive, support)| {
        let (cluster, from, to, incarnation, to_incarnation, sequence, map_version) = ids;
        Pulse {
            cluster: ClusterId(cluster),
            from: NodeId(from),
            to: NodeId(to),
            incarnation: Incarnation(incarnation),
            to_incarnation: Incarnation(to_incarnation),
            sequence,
            alive,
            support,
            map_version,
        }
    })
}

pub(crate) fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        handshake().prop_map(Frame::Handshake),
        handshake_reply().prop_map(Frame::HandshakeReply),
        vec(message(), 0..8).prop_map(Frame::Messages),
        vec(forward(), 0..4).prop_map(Frame::Forward),
        vec(forward_reply(), 0..4).prop_map(Frame::ForwardReply),
        pulse().prop_map(Frame::Pulse),
        (any::<u64>(), any::<bool>()).prop_map(|(sent_us, is_answer)| Frame::LinkProbe(
            oarlock_codec::LinkProbe { sent_us, is_answer }
        )),
    ]
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    (0..u64::MAX / 2, vec((any::<u64>(), payload()), 1..6)).prop_map(|(first, list)| {
        let numbered = (first..).zip(list);
        let entry = |(index, (term, payload))| Entry {
            at: LogPosition { term: Term(term), index: Index(index) },
            payload,
        };
        numbered.map(entry).collect()
    })
}

pub(crate) fn record() -> impl Strategy<Value = Record> {
    let group = || any::<u64>().prop_map(GroupId);
    prop_oneof![
        (group(), entries()).prop_map(|(group, entries)| Record::Entries { group, entries }),
        (group(), any::<u64>(), option::of(node())).prop_map(|(group, term, vote)| {
            Record::HardState { group, hard_state: HardState { term: Term(term), vote } }
        }),
        (group(), meta(), any::<u64>()).prop_map(|(group, meta, keep_from)| Record::Checkpoint {
            group,
            meta,
            keep_from: Index(keep_from),
        }),
        (group(), configuration(), blob()).prop_map(|(group, configuration, details)| {
            Record::Create { group, configuration, details }
        }),
        group().prop_map(|group| Record::Destroy { group }),
    ]
}
