//! Fixed work, one kind a run, for a tool that counts instructions: `oarlock-counts raft-entry`. Only
//! what [`counted`] calls is to be counted; it prints how many operations that were, and how many with those
//! of the warm-up. `scripts/counts`
//! runs all of it. The setup is that of the benches, whose files are read here.

// Nothing here is a test, and those of the parser are run where they belong.
#![cfg(not(test))]

use std::hint::black_box;
use std::process::ExitCode;

#[path = "../../../shards/wal/benches/batches/mod.rs"]
mod batches;
#[path = "../../../shards/raft/benches/cluster/mod.rs"]
mod cluster;
mod core;
#[path = "../../pipeline/mod.rs"]
mod pipeline;
#[allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "of all this, only the parser is used"
)]
#[path = "../../../src/net/resp/mod.rs"]
mod resp;

use bytes::Bytes;

/// Operations before the counted ones, so that buffers and maps have the size that they keep.
const WARM_UP: u64 = 512;
const OPERATIONS: u64 = 256;

/// What is counted: the name stands in `scripts/counts`.
#[inline(never)]
fn counted(work: &mut dyn FnMut(u64), numbers: std::ops::Range<u64>) {
    for number in numbers {
        work(number);
    }
}

fn count(mut work: impl FnMut(u64)) {
    (0..WARM_UP).for_each(&mut work);
    counted(black_box(&mut work), WARM_UP..WARM_UP + OPERATIONS);
}

/// One entry through a leader and two followers, committed and applied by all.
fn raft_entry() -> u64 {
    let mut cluster = cluster::Cluster::new();
    let payload = Bytes::from(vec![7; 128]);
    let before = cluster.applied as u64;
    count(|_| cluster.propose(&payload, 1));
    let applied = cluster.applied as u64 - before;
    assert_eq!(applied, 3 * (WARM_UP + OPERATIONS), "each by all three");
    OPERATIONS
}

/// One batch of 64 entries of 100 bytes, sealed in a frame.
fn wal_batch() -> u64 {
    let mut wal = batches::prepared();
    let mut out = vec![0; batches::config().frame_bytes_max];
    let all: Vec<_> =
        (0..WARM_UP + OPERATIONS).map(|number| batches::entries(number * 64 + 1)).collect();
    let at = |number: u64| usize::try_from(number).expect("they are few");
    count(|number| batches::write(&mut wal, &all[at(number)], &mut out));
    OPERATIONS
}

/// One `SET` of 128 bytes through a core: proposed, in the log's frame, applied, answered.
fn shard_set() -> u64 {
    let mut core = core::Core::new();
    count(|number| core.set(number));
    // The last one's reply comes with a turn that is not counted.
    assert_eq!(core.answered, WARM_UP + OPERATIONS - 1, "each once");
    OPERATIONS
}

/// One `SET` of 128 bytes out of a pipeline that came at once.
fn resp_set() -> u64 {
    let mut parser = pipeline::parser();
    let bytes = pipeline::pipeline();
    count(|_| pipeline::parse(&mut parser, &bytes, usize::MAX));
    OPERATIONS * pipeline::COMMANDS as u64
}

fn main() -> ExitCode {
    let operations = match std::env::args().nth(1).as_deref() {
        Some("raft-entry") => raft_entry(),
        Some("wal-batch") => wal_batch(),
        Some("shard-set") => shard_set(),
        Some("resp-set") => resp_set(),
        Some(_) | None => {
            eprintln!("usage: oarlock-counts raft-entry|wal-batch|shard-set|resp-set");
            return ExitCode::from(2);
        }
    };
    println!("{operations} {}", operations / OPERATIONS * (WARM_UP + OPERATIONS));
    ExitCode::SUCCESS
}
