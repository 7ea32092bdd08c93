//! What consensus itself costs: one entry through a leader and two followers, all in memory, with
//! disks that confirm at once. `cargo bench -p oarlock-raft`.

#![allow(missing_docs, reason = "criterion's macros make an undocumented function")]

mod cluster;

use bytes::Bytes;
use cluster::Cluster;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn replicate(c: &mut Criterion) {
    let mut group = c.benchmark_group("replicate to two followers");
    for entries in [1_usize, 16] {
        group.throughput(Throughput::Elements(entries as u64));
        group.bench_with_input(BenchmarkId::new("entries", entries), &entries, |b, &entries| {
            let mut cluster = Cluster::new();
            let payload = Bytes::from(vec![7; 128]);
            let (before, mut proposed) = (cluster.applied, 0);
            b.iter(|| {
                cluster.propose(&payload, entries);
                proposed += entries;
            });
            // Followers hear of a commit with what follows: of the last entries but one each does not
            // know yet, and of the leader's own first entry it did not when this began.
            assert_eq!(cluster.applied - before, 3 * proposed - 2 * (entries - 1));
        });
    }
    group.finish();
}

criterion_group!(benches, replicate);
criterion_main!(benches);
