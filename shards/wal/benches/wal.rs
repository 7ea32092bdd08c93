//! How long a turn's batch takes to become a frame, and how fast a log is recovered:
//! `cargo bench -p oarlock-wal`.

#![allow(missing_docs, reason = "criterion's macros make an undocumented function")]

mod batches;

use std::hint::black_box;

use batches::{config, entries, prepared, write};
use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use oarlock_codec::Record;
use oarlock_raft::Configuration;
use oarlock_types::{GroupId, NodeId, SegmentId};
use oarlock_wal::Recovery;
use oarlock_wal::layout::BLOCK_BYTES;

fn append_and_seal(criterion: &mut Criterion) {
    let mut out = vec![0; config().frame_bytes_max];
    let mut wal = prepared();
    let mut first = 1;
    criterion.bench_function("wal: append and seal 64 entries of 100 B", |bencher| {
        bencher.iter_batched(
            || {
                first += 64;
                entries(first - 64)
            },
            |entries| write(&mut wal, &entries, &mut out),
            BatchSize::SmallInput,
        );
    });
}

fn recovery(criterion: &mut Criterion) {
    let mut wal = prepared();
    let mut file = vec![0; usize::try_from(config().segment_bytes).expect("it fits")];
    file[..BLOCK_BYTES].copy_from_slice(&config().segment_header(SegmentId(1)));
    let mut out = vec![0; config().frame_bytes_max];
    let mut used = BLOCK_BYTES;
    for group in 0..16 {
        let configuration = Configuration::simple([NodeId(1)]);
        let group = GroupId(group);
        wal.append(&Record::Create { group, configuration, details: Bytes::new() });
    }
    for turn in 0.. {
        for group in 0..16 {
            wal.append_entries(GroupId(group), &entries(turn * 64 + 1));
        }
        let write = wal.seal(&mut out).expect("a segment is prepared");
        if write.segment != SegmentId(1) {
            break;
        }
        wal.durable(write.lsn);
        used = usize::try_from(write.offset).expect("it fits") + write.len;
        file[used - write.len..used].copy_from_slice(&out[..write.len]);
    }
    let mut group = criterion.benchmark_group("wal");
    group.throughput(Throughput::Bytes(used as u64)).sample_size(10);
    group.bench_function("recovery of one full segment", |bencher| {
        bencher.iter(|| {
            let mut recovery = Recovery::new(config());
            recovery.feed(SegmentId(1), black_box(&file));
            let recovered = recovery.finish();
            assert!(recovered.damage.is_empty(), "the segment is sound");
            recovered
        });
    });
    group.finish();
}

criterion_group!(benches, append_and_seal, recovery);
criterion_main!(benches);
