//! What it costs to move a map while clients write: measured on clusters of real processes on this machine, with
//! writes that are due at a rate whatever the servers do.
//!
//! Map: `episode` is one change under load, and what writes saw of it; `by_hand` makes the changes: cuts, moves to
//! another node, leader transfers, moves to another core; `steady` measures CPU per write with many ranges and nodes.

mod by_hand;
mod episode;
mod steady;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::processes::{ClusterOptions, LocalCluster};
use super::scale::{START_MAX, await_leaders};
pub use episode::{Change, Changes, Seen};
pub use steady::{Column, Steady};

/// One part of what is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// A range is cut in two, again and again.
    Split,
    /// A replica of 64 MiB goes to another node.
    Move,
    /// Leaders hand over.
    Transfer,
    /// A leader's replica of 64 MiB goes to another core of its node.
    Core,
    /// CPU per write with 1 to 10,000 ranges.
    Ranges,
    /// Throughput with 3, 5 and 7 nodes.
    Nodes,
}

/// How to measure.
#[derive(Clone, Debug, Serialize)]
pub struct MovesOptions {
    /// The program.
    pub program: PathBuf,
    /// Writes per second while something moves.
    pub rate: u32,
    /// Writes per second, in all, whatever the number of ranges.
    pub ranges_rate: u32,
    /// Writes per second for each node.
    pub node_rate: u32,
    /// Bytes of the range that is cut or moved.
    pub fill_bytes: u64,
    /// How long writes are watched before each change, and behind it.
    pub watch: Duration,
    /// How often a range is cut.
    pub splits: u32,
    /// How often a replica goes to another node.
    pub moves: u32,
    /// How often a leader hands over.
    pub transfers: u32,
    /// How often a replica goes to another core.
    pub cores: u32,
    /// Numbers of ranges.
    pub ranges: Vec<u32>,
    /// Numbers of nodes.
    pub nodes: Vec<u32>,
    /// Windows of each number of ranges or nodes.
    pub rounds: u32,
    /// How long each such window lasts.
    pub window: Duration,
}

impl MovesOptions {
    /// What the documentation shows.
    #[must_use]
    pub fn full(program: PathBuf) -> Self {
        Self {
            program,
            rate: 2_000,
            ranges_rate: 1_000,
            node_rate: 1_000,
            fill_bytes: 64 << 20,
            watch: Duration::from_millis(500),
            splits: 20,
            moves: 4,
            transfers: 100,
            cores: 10,
            ranges: vec![1, 64, 1_000, 10_000],
            nodes: vec![3, 5, 7],
            rounds: 5,
            window: Duration::from_secs(5),
        }
    }

    /// Enough to see that all of it runs; its figures mean nothing.
    #[must_use]
    pub fn quick(program: PathBuf) -> Self {
        Self {
            rate: 200,
            ranges_rate: 200,
            node_rate: 50,
            fill_bytes: 1 << 20,
            watch: Duration::from_millis(300),
            splits: 3,
            moves: 2,
            transfers: 3,
            cores: 2,
            ranges: vec![1, 16],
            nodes: vec![3, 4],
            rounds: 1,
            window: Duration::from_secs(1),
            ..Self::full(program)
        }
    }
}

/// What was measured; parts that were not asked for are missing.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Changes by hand.
    pub changes: Vec<Changes>,
    /// By the number of ranges.
    pub ranges: Vec<Column>,
    /// By the number of nodes.
    pub nodes: Vec<Column>,
}

/// Measures these parts, each on clusters of its own under `folder`. `tell` hears what is done next.
///
/// # Errors
/// If a cluster does not come up, does not answer, or does not carry out a change in time.
pub fn measure(
    options: &MovesOptions,
    parts: &[Part],
    folder: &Path,
    tell: &dyn Fn(&str),
) -> io::Result<Figures> {
    let mut figures = Figures::default();
    for part in parts {
        let name = clap::ValueEnum::to_possible_value(part)
            .map_or_else(String::new, |value| value.get_name().to_owned());
        let folder = folder.join(&name);
        let tell = |what: &str| tell(&format!("{name}: {what}"));
        match part {
            Part::Split => figures.changes.push(by_hand::split(options, &folder, &tell)?),
            Part::Move => figures.changes.push(by_hand::to_another_node(options, &folder, &tell)?),
            Part::Transfer => figures.changes.push(by_hand::transfer(options, &folder, &tell)?),
            Part::Core => figures.changes.push(by_hand::to_another_core(options, &folder, &tell)?),
            Part::Ranges => figures.ranges = steady::by_ranges(options, &folder, &tell)?,
            Part::Nodes => figures.nodes = steady::by_nodes(options, &folder, &tell)?,
        }
    }
    Ok(figures)
}

/// Starts a cluster whose ranges stay as they are, and where they are, unless they are told to go.
fn start(
    options: &MovesOptions,
    (nodes, cores_per_node, ranges): (u32, u16, u32),
    folder: &Path,
) -> io::Result<LocalCluster> {
    let keep = "[ranges]\nrange_bytes_max = 0\nrange_keys_max = 0\nrange_requests_per_s_max = 0\n\
                range_merge_rest_ms = 0\n[placement]\nplacement_moves_max = 0\n";
    let cluster = ClusterOptions {
        program: options.program.clone(),
        nodes: u64::from(nodes),
        cores_per_node,
        ranges,
        more: keep.parse().map_err(io::Error::other)?,
        variables: Vec::new(),
        hosts: Vec::new(),
    };
    std::fs::create_dir_all(folder)?;
    let mut cluster = LocalCluster::prepare(cluster, folder)?;
    cluster.start_all()?;
    await_leaders(&cluster, ranges, START_MAX)?;
    Ok(cluster)
}
