//! `oarlock bench scale`: what ranges cost that nobody asks for.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::write_json;
use crate::bench::machine;
use crate::bench::scale::{Figures, ScaleOptions, base_bytes, measure};
use crate::cli::exit::Exit;
use crate::cli::table::render;

/// Start clusters of three nodes with more and more ranges on this machine, and measure what they cost.
///
/// Memory for each replica, CPU and traffic while nobody asks for anything and while one range in a hundred is
/// written to, how long it takes to form, to start again, and to serve again after a node's death. Traffic is read
/// from the loopback device: let nothing else use it.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Example:
  oarlock bench scale --ranges 1000,10000 --json scale.json")]
pub struct ScaleArgs {
    /// Numbers of ranges.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1000,10000,100000")]
    ranges: Vec<u32>,
    /// Cores of each node.
    #[arg(long, value_name = "N", default_value_t = 1)]
    cores_per_node: u16,
    /// How long each window lasts.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    window_s: u64,
    /// Writes per second to the ranges that are used.
    #[arg(long, value_name = "OPS", default_value_t = 500)]
    rate: u32,
    /// Where the nodes keep their data while they run; a directory of its own is made and removed there.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Write the figures to this file, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs it.
///
/// # Errors
/// If a cluster does not come up or answer.
pub(super) fn run(args: &ScaleArgs) -> io::Result<Exit> {
    let options = ScaleOptions {
        program: std::env::current_exe()?,
        cores_per_node: args.cores_per_node,
        window: Duration::from_secs(args.window_s.max(1)),
        rate: args.rate,
    };
    let within = args.dir.clone().unwrap_or_else(|| PathBuf::from("."));
    let folder = || tempfile::Builder::new().prefix("oarlock-scale-").tempdir_in(&within);
    eprintln!("oarlock bench scale: one range, to compare memory with");
    let base = base_bytes(&options, folder()?.path())?;
    let mut all: Vec<Figures> = Vec::new();
    for ranges in &args.ranges {
        let tell = |what: &str| eprintln!("oarlock bench scale: {ranges} ranges: {what}");
        all.push(measure(&options, *ranges, base, folder()?.path(), &tell)?);
    }
    crate::cli::print(&table(&all));
    if let Some(file) = &args.json {
        write_json(
            file,
            &json!({ "machine": machine::describe(), "base_bytes": base, "figures": all }),
        )?;
    }
    Ok(Exit::Ok)
}

/// A row for each figure, a column for each number of ranges.
fn table(all: &[Figures]) -> String {
    type Column = fn(&Figures) -> f64;
    let rows: [(&str, usize, Column); 17] = [
        ("formed, s", 1, |f| f.formed_s),
        ("memory of a node, MiB", 0, |f| f.resident_mib),
        ("memory of a replica, bytes", 0, |f| f.bytes_per_replica),
        ("idle: CPU of a node, %", 2, |f| f.idle.cpu_percent),
        ("idle: bytes/s from node to node", 0, |f| f.idle.bytes_per_s),
        ("idle: packets/s from node to node", 1, |f| f.idle.packets_per_s),
        ("in use: CPU of a node, %", 2, |f| f.active.cpu_percent),
        ("in use: bytes/s from node to node", 0, |f| f.active.bytes_per_s),
        ("in use: packets/s from node to node", 1, |f| f.active.packets_per_s),
        ("in use: p99 of writes, ms", 2, |f| f.quiet_p99_ms),
        ("a node dies: p99 of the others' writes, ms", 2, |f| f.death_p99_ms),
        ("that is times the quiet one", 2, |f| f.death_p99_ms / f.quiet_p99_ms.max(1e-3)),
        ("a node dies: its writes back, p50, ms", 0, |f| f.back_p50_ms),
        ("a node dies: its writes back, p99, ms", 0, |f| f.back_p99_ms),
        ("a node dies: its writes back, slowest, ms", 0, |f| f.back_max_ms),
        ("a node dies: every range led, s", 1, |f| f.elected_s),
        ("all start again: every range led, s", 1, |f| f.restarted_s),
    ];
    let line = |(name, digits, figure): &(&str, usize, Column)| {
        let cells = all.iter().map(|figures| format!("{:.digits$}", figure(figures)));
        [(*name).to_owned()].into_iter().chain(cells).collect()
    };
    let lines: Vec<Vec<String>> = rows.iter().map(line).collect();
    let counts: Vec<String> =
        all.iter().map(|figures| format!("{} ranges", figures.ranges)).collect();
    let headers: Vec<&str> =
        ["of three nodes"].into_iter().chain(counts.iter().map(String::as_str)).collect();
    render(&headers, &lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::scale::Window;

    #[test]
    fn the_table_has_a_column_for_each_number_of_ranges() {
        let idle = Window { cpu_percent: 0.25, ..Window::default() };
        let one = Figures {
            ranges: 10,
            idle,
            quiet_p99_ms: 2.0,
            death_p99_ms: 5.0,
            ..Figures::default()
        };
        let two = Figures { ranges: 1000, ..one.clone() };
        let text = table(&[one, two]);
        let has = |line: &str| {
            let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
            text.lines().any(|found| words(found) == line)
        };
        assert!(has("of three nodes 10 ranges 1000 ranges"), "{text}");
        assert!(has("idle: CPU of a node, % 0.25 0.25"), "{text}");
        assert!(has("that is times the quiet one 2.50 2.50"), "{text}");
    }
}
