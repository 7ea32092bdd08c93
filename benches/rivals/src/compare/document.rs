//! Everything that is known of a comparison: what `compare.json` holds, and what the other two files
//! are made of.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use oarlock::bench::machine;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::durability::{Device, Durability};
use super::load::{Load, Times};
use super::summary::{Run, Verdict};
use super::system::{RANGES, System};

/// A comparison.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Document {
    /// When it began.
    pub started_unix_s: u64,
    /// How long it took.
    pub took_s: f64,
    /// The command that made it.
    pub command: Vec<String>,
    /// The commit of the repository, and whether files differ from it.
    pub commit: String,
    /// Of everything that took part.
    pub versions: BTreeMap<String, String>,
    /// The machine.
    pub machine: Value,
    /// The disk that all data lay on.
    pub disk: String,
    /// What was asked for.
    pub config: Config,
    /// What could not be run, and why.
    pub left_out: Vec<(System, String)>,
    /// Whether writes were on disk before they were acknowledged.
    pub durability: Vec<Durability>,
    /// All runs of all rounds.
    pub runs: Vec<Run>,
    /// What became of the targets.
    pub verdicts: Vec<Verdict>,
}

/// What was asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// How often everything was run.
    pub rounds: u32,
    /// Cores of a node of Oarlock, threads of a rival that can be told.
    pub cores: u16,
    /// Ranges of Oarlock, groups of the rivals.
    pub ranges: u32,
    /// How long each run took.
    pub times: Times,
    /// The systems in the order of the tables.
    pub systems: Vec<System>,
    /// Each load with the arguments of `oarlock bench`.
    pub loads: Vec<(Load, String)>,
}

impl Config {
    /// With the command of each load.
    pub fn new(rounds: u32, cores: u16, times: Times, systems: &[System], loads: &[Load]) -> Self {
        let command = |load: &Load| {
            let rate = if *load == Load::HighestRate { " --rate …" } else { "" };
            format!("oarlock bench {}{rate}", load.bench_args(&times, 1, None).join(" "))
        };
        let loads = loads.iter().map(|load| (*load, command(load))).collect();
        Self { rounds, cores, ranges: RANGES, times, systems: systems.to_vec(), loads }
    }
}

impl Document {
    /// Of a comparison that begins now, with its data under a folder.
    pub fn new(config: Config, folder: &Path) -> Self {
        let now = std::time::SystemTime::now();
        let since = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let name = |word: String| {
            let name = Path::new(&word).file_name().map(|name| name.to_string_lossy().into_owned());
            if word.starts_with('/') { name.unwrap_or_default() } else { word }
        };
        Self {
            started_unix_s: since.as_secs(),
            took_s: 0.0,
            // A path of this machine means nothing on another.
            command: std::env::args().map(name).collect(),
            commit: commit(),
            versions: versions(),
            machine: machine::describe(),
            disk: disk(folder),
            config,
            left_out: Vec::new(),
            durability: Vec::new(),
            runs: Vec::new(),
            verdicts: Vec::new(),
        }
    }
}

/// What a program prints, its first line.
fn said(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

fn commit() -> String {
    let Some(commit) = said("git", &["rev-parse", "HEAD"]) else { return "unknown".to_owned() };
    match said("git", &["status", "--porcelain"]) {
        Some(changes) if !changes.is_empty() => format!("{commit} with changes"),
        _ => commit,
    }
}

fn versions() -> BTreeMap<String, String> {
    let lock = include_str!("../../Cargo.lock");
    let locked = |name: &str| {
        let (_, behind) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
        Some(behind.split('"').next()?.to_owned())
    };
    let go_mod = include_str!("../../dragonboat/go.mod");
    let dragonboat = go_mod.split("lni/dragonboat/v3 ").nth(1);
    let dragonboat = dragonboat.and_then(|rest| rest.split_whitespace().next());
    let found = [
        ("raft-rs", locked("raft")),
        ("raft-engine", locked("raft-engine")),
        ("openraft", locked("openraft")),
        ("Dragonboat", dragonboat.map(str::to_owned)),
        ("etcd", said("etcd", &["--version"])),
        ("redis", said("redis-server", &["--version"])),
        ("Go", said("go", &["version"])),
        ("Rust", said("rustc", &["--version"])),
    ];
    found.into_iter().filter_map(|(name, said)| Some((name.to_owned(), said?))).collect()
}

/// File system and device.
fn disk(folder: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mount = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let (place, kind) = (words.next()?.to_owned(), words.next()?.to_owned());
        folder.starts_with(&place).then_some((place.len(), kind))
    };
    let kind = mounts.lines().filter_map(mount).max_by_key(|(length, _)| *length);
    let kind = kind.map_or("unknown".to_owned(), |(_, kind)| kind);
    let device = Device::of(folder).map_or("no device".to_owned(), |device| device.told());
    format!("{kind} on {device}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_part_has_a_version() {
        let versions = versions();
        for name in ["raft-rs", "raft-engine", "openraft", "Dragonboat"] {
            let version = &versions[name];
            assert!(version.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit()));
        }
    }

    #[test]
    fn a_disk_is_named() {
        let told = disk(Path::new(env!("CARGO_MANIFEST_DIR")));
        assert!(told.contains(" on ") && !told.starts_with("unknown"), "{told}");
    }
}
