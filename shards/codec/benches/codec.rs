//! How long it takes to give a frame of 64 entries of 100 bytes its bytes, and to read it back:
//! `cargo bench -p oarlock-codec`.

#![allow(missing_docs, reason = "criterion's macros make an undocumented function")]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use oarlock_codec::frame::{self, Header};
use oarlock_codec::{GroupMessage, Record, record};
use oarlock_raft::{Append, Body, Entry, LogPosition, Message, Payload};
use oarlock_types::{CoreId, GroupId, Index, Term};

fn entries() -> Vec<Entry> {
    let at = |index| LogPosition { term: Term(3), index: Index(index) };
    let payload = || Payload::Commands(Bytes::from(vec![7; 100]));
    (1..=64).map(|index| Entry { at: at(index), payload: payload() }).collect()
}

fn codec(criterion: &mut Criterion) {
    let append = Append {
        core: CoreId(0),
        prev: LogPosition::default(),
        entries: entries(),
        commit: Index(0),
        read_sequence: 0,
        wants_reply: true,
    };
    let message = Message { term: Term(3), body: Body::Append(append) };
    let messages = vec![GroupMessage { group: GroupId(1), message }];
    let mut bytes = Vec::new();
    let length = frame::encode(&messages, &mut bytes);
    let mut group = criterion.benchmark_group("codec");
    group.throughput(Throughput::Bytes(length as u64));
    let mut out = Vec::with_capacity(length);
    group.bench_function("encode 64 entries of 100 B", |bencher| {
        bencher.iter(|| {
            out.clear();
            frame::encode(black_box(&messages), &mut out)
        });
    });
    group.bench_function("decode 64 entries of 100 B", |bencher| {
        bencher.iter(|| {
            let header = frame::decode_header(black_box(&bytes), 8 << 20);
            let header = header.expect("it is sound").expect("it is whole");
            frame::decode(&header, &bytes[Header::BYTES..]).expect("it is sound")
        });
    });
    let record = Record::Entries { group: GroupId(1), entries: entries() };
    group.bench_function("record of 64 entries of 100 B", |bencher| {
        bencher.iter(|| {
            out.clear();
            record::encode(black_box(&record), false, &mut out);
        });
    });
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
