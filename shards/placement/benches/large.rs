//! Planning for a large cluster: how long a plan takes, how many moves until all is even, and how
//! even it is then. `cargo bench -p oarlock-placement` prints the table of docs/PLACEMENT.md.

#[path = "../tests/cluster/mod.rs"]
mod cluster;
#[path = "../tests/large_cluster/mod.rs"]
mod large_cluster;

use std::time::Duration;
#[allow(clippy::disallowed_types, reason = "a bench measures time")]
use std::time::Instant;

use large_cluster::{Large, Size};

const SIZE: Size = Size { nodes: 90, cores: 64, zones: 10, ranges: 90 * 64 * 18 };

fn main() {
    println!(
        "| What | Needed | Moves | Transfers | Core moves | Rounds | Plan mean | Plan max | Replicas | Leaders | Writes | Cores | Misaligned |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    let mut large = new();
    run("as formed", &mut large);
    large.join(10);
    run("10 nodes join 90", &mut large);
    large.drain(5);
    run("one of 100 is drained", &mut large);
    large.kill(7);
    large.cluster.advance(large.cluster.view.settings.gone_after_ms);
    run("one of 99 is gone", &mut large);
    large.load(8);
    run("loads are skewed", &mut large);
    let mut large = new();
    for node in (0..90).step_by(10) {
        large.kill(node);
    }
    large.cluster.advance(large.cluster.view.settings.gone_after_ms);
    run("one of 10 zones is gone", &mut large);
    let mut large = new();
    large.join(10);
    large.scatter(7);
    run("scattered at random", &mut large);
}

fn new() -> Large {
    let mut large = Large::new(SIZE);
    let settings = &mut large.cluster.view.settings;
    settings.moves_max = 2_000;
    settings.moves_per_node_max = 64;
    settings.transfers_max = 2_000;
    settings.core_moves_per_node_max = 32;
    large
}

#[allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "a bench measures time")]
fn run(what: &str, large: &mut Large) {
    let needed = large.needed();
    let before = large.cluster.counts;
    let mut times: Vec<Duration> = Vec::new();
    let mut began = Instant::now();
    let report = large.run_with(|begins| {
        if begins {
            began = Instant::now();
        } else {
            times.push(began.elapsed());
        }
    });
    let after = large.cluster.counts;
    let mean = times.iter().sum::<Duration>() / u32::try_from(times.len()).unwrap_or(1);
    let max = times.iter().max().copied().unwrap_or_default();
    let range = |(low, high): (u64, u64)| format!("{low}–{high} %");
    println!(
        "| {what} | {needed} | {} | {} | {} | {} | {} ms | {} ms | {} | {} | {} | {} | {} |",
        after.moves - before.moves,
        after.transfers - before.transfers,
        after.core_moves - before.core_moves,
        report.rounds,
        mean.as_millis(),
        max.as_millis(),
        range(large.replica_levels()),
        range(large.leader_levels()),
        range(large.write_levels()),
        range(large.core_levels()),
        large.cluster.misaligned(),
    );
}
