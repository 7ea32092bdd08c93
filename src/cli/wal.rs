//! `oarlock wal`: reads a stopped node's log, shows what each segment holds, and tells damage with
//! its place. It writes nothing.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use oarlock_types::{CoreId, SegmentId};
use oarlock_wal::{Affected, Damage, Recovered, SegmentReport};
use rustix::fs::FlockOperation;
use serde::Serialize;

use super::exit::Exit;
use super::table;
use crate::disk::data_dir::{DataDirError, peek_identity};
use crate::disk::identity::Identity;
use crate::disk::layout::CoreDir;
use crate::disk::relocation;
use crate::disk::stopped;

/// Looks into the write-ahead log of a stopped node.
#[derive(Args, Clone, Debug)]
pub struct WalArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Debug, Subcommand)]
enum Verb {
    /// Show every core's segments: frames, groups, what is still needed, and damage.
    Inspect {
        /// The node's data directory.
        dir: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Read every frame and tell what is damaged (exit 1), or `ok`.
    Verify {
        /// The node's data directory.
        dir: PathBuf,
    },
}

/// A node's logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogReport {
    /// The node.
    pub node: u64,
    /// Its cores.
    pub cores: Vec<CoreReport>,
}

/// One core's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CoreReport {
    /// The core.
    pub core: u16,
    /// The newest frame.
    pub durable_lsn: u64,
    /// Groups that the log holds.
    pub groups_count: usize,
    /// Those of them whose records may be incomplete.
    pub groups_damaged: Vec<u64>,
    /// Its segments, oldest first.
    pub segments: Vec<SegmentRow>,
    /// What is wrong, with its place.
    pub damage: Vec<String>,
    /// Whether anything was lost by it.
    pub lost: bool,
}

/// One segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SegmentRow {
    /// Its id, as in the file's name.
    pub segment: String,
    /// Frames of it that are part of the log.
    pub frames: u64,
    /// The first and the last of them.
    pub lsns: Option<(u64, u64)>,
    /// Records in them.
    pub records: u64,
    /// Groups that have records in them.
    pub groups: usize,
    /// Bytes of the file in use.
    pub used_bytes: u64,
    /// About how many bytes are still needed.
    pub live_bytes: u64,
    /// `ok`, `unused`, `torn tail at N` (no harm: a write that a crash cut short) or `damaged at N`.
    pub state: String,
}

impl LogReport {
    /// Whether every log is as its node left it.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.cores.iter().all(|core| core.damage.is_empty())
    }
}

/// Does what was asked. The answer goes to standard output, why there is none to standard error.
pub fn run(args: &WalArgs) -> Exit {
    let (dir, render): (&Path, fn(&LogReport) -> String) = match &args.verb {
        Verb::Inspect { dir, json: false } => (dir, render_tables),
        Verb::Inspect { dir, json: true } => (dir, render_json),
        Verb::Verify { dir } => (dir, render_verdict),
    };
    match inspect(dir) {
        Ok(report) => {
            super::print(&render(&report));
            let sound = report.is_sound() || matches!(args.verb, Verb::Inspect { .. });
            if sound { Exit::Ok } else { Exit::Failed }
        }
        Err(error) => {
            eprintln!("{error}");
            Exit::Usage
        }
    }
}

/// Reads the logs of the stopped node whose data directory is `dir`.
///
/// # Errors
/// When the directory is not a node's, cannot be read, or its node runs.
pub fn inspect(dir: &Path) -> io::Result<LogReport> {
    let identity = peek_identity(dir).map_err(io::Error::other)?;
    let lock = std::fs::File::open(dir.join("lock"))?;
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_err() {
        let text = format!("{}: its node runs; stop it first", dir.display());
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
    }
    if relocation::is_half_done(dir) {
        return Err(io::Error::other(DataDirError::HalfRelocated { path: dir.to_owned() }));
    }
    let mut cores = Vec::new();
    for core in (0..identity.cores).map(CoreId) {
        cores.push(read_core(&CoreDir::new(dir, core), core, &identity)?);
    }
    Ok(LogReport { node: identity.node.get(), cores })
}

fn read_core(dir: &CoreDir, core: CoreId, identity: &Identity) -> io::Result<CoreReport> {
    let recovered = stopped::read_log(dir, core, identity).map_err(io::Error::other)?;
    let is_gone = recovered.segments.is_empty() && identity.incarnation.get() > 1;
    Ok(report(core, recovered, is_gone))
}

fn report(core: CoreId, recovered: Recovered, all_gone: bool) -> CoreReport {
    let live = recovered.wal.live_bytes();
    let segments = recovered.segments.iter().map(|segment| SegmentRow {
        segment: format!("{:016x}", segment.segment.get()),
        frames: segment.frames_count,
        lsns: segment.lsns.map(|(first, last)| (first.get(), last.get())),
        records: segment.records_count,
        groups: segment.groups.len(),
        used_bytes: segment.used_bytes,
        live_bytes: live.get(&segment.segment).copied().unwrap_or(0),
        state: state(segment, recovered.torn, &recovered.damage),
    });
    let mut damage: Vec<String> = recovered.damage.iter().map(Damage::to_string).collect();
    if all_gone {
        damage.push("all segment files are missing (all groups of the core)".to_owned());
    }
    let harmless = |damage: &Damage| damage.affected == Affected::Groups(Vec::new());
    let damaged = recovered.groups.iter().filter(|(_, group)| group.damaged);
    CoreReport {
        core: core.get(),
        durable_lsn: recovered.wal.durable_lsn().get(),
        groups_count: recovered.groups.len(),
        groups_damaged: damaged.map(|(group, _)| group.get()).collect(),
        segments: segments.collect(),
        lost: all_gone || !recovered.damage.iter().all(harmless),
        damage,
    }
}

fn state(segment: &SegmentReport, torn: Option<(SegmentId, u64)>, damage: &[Damage]) -> String {
    let first = damage.iter().find(|damage| damage.segment == segment.segment);
    if let Some(damage) = first {
        return format!("damaged at {}", damage.offset);
    }
    match torn {
        Some((torn, offset)) if torn == segment.segment => format!("torn tail at {offset}"),
        Some(_) | None if segment.frames_count == 0 => "unused".to_owned(),
        Some(_) | None => "ok".to_owned(),
    }
}

fn render_json(report: &LogReport) -> String {
    let text = serde_json::to_string_pretty(report);
    text.expect("invariant: a report is plain numbers and texts") + "\n"
}

fn render_tables(report: &LogReport) -> String {
    let headers = ["segment", "frames", "lsns", "records", "groups", "used", "live", "state"];
    let mut out = String::new();
    for core in &report.cores {
        let rows = core.segments.iter().map(|segment| {
            let lsns = segment.lsns.map(|(first, last)| format!("{first}-{last}"));
            vec![
                segment.segment.clone(),
                segment.frames.to_string(),
                lsns.unwrap_or_else(|| "-".to_owned()),
                segment.records.to_string(),
                segment.groups.to_string(),
                segment.used_bytes.to_string(),
                segment.live_bytes.to_string(),
                segment.state.clone(),
            ]
        });
        let rows: Vec<Vec<String>> = rows.collect();
        line(&mut out, &format!("core {}: {} groups", core.core, core.groups_count));
        out.push_str(&table::render(&headers, &rows));
        for damage in &core.damage {
            line(&mut out, &format!("damage: {damage}"));
        }
        out.push('\n');
    }
    out
}

fn render_verdict(report: &LogReport) -> String {
    let mut out = String::new();
    for core in &report.cores {
        for damage in &core.damage {
            line(&mut out, &format!("core {}: {damage}", core.core));
        }
        if !core.groups_damaged.is_empty() {
            let groups: Vec<String> = core.groups_damaged.iter().map(u64::to_string).collect();
            let groups = groups.join(", ");
            line(&mut out, &format!("core {}: to rebuild from peers: {groups}", core.core));
        }
    }
    let frames: u64 =
        report.cores.iter().flat_map(|core| &core.segments).map(|segment| segment.frames).sum();
    let segments: usize = report.cores.iter().map(|core| core.segments.len()).sum();
    let verdict = if report.is_sound() { "ok" } else { "damaged" };
    line(&mut out, &format!("{verdict}: {segments} segments, {frames} frames"));
    out
}

fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("invariant: writing to a string does not fail");
}
