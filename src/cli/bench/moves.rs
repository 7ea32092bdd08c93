//! `oarlock bench moves`: what a moving map costs.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::write_json;
use crate::bench::machine;
use crate::bench::moves::{Changes, Column, Figures, MovesOptions, Part, Steady, measure};
use crate::cli::exit::Exit;

/// Start clusters on this machine, move their ranges about while they are written to, and measure what writes see of it.
///
/// A range is cut, a replica of 64 MiB goes to another node and to another core, leaders hand over; then CPU per write
/// with 1 to 10,000 ranges, and throughput with 3, 5 and 7 nodes. The times of writes run from when each was due. The
/// tables are Markdown. All of it takes about eight minutes; let nothing else run meanwhile.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Example:
  oarlock bench moves --only split,transfer --json moves.json")]
pub struct MovesArgs {
    /// Measure these parts alone.
    #[arg(long, value_name = "PART,…", value_delimiter = ',')]
    only: Vec<Part>,
    /// Few changes of small ranges, to see that all of it runs; the figures mean nothing.
    #[arg(long)]
    quick: bool,
    /// Writes per second while something moves.
    #[arg(long, value_name = "OPS", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
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
/// If a cluster does not come up, answer, or carry out a change.
pub(super) fn run(args: &MovesArgs) -> io::Result<Exit> {
    let program = std::env::current_exe()?;
    let mut options =
        if args.quick { MovesOptions::quick(program) } else { MovesOptions::full(program) };
    options.rate = args.rate.unwrap_or(options.rate);
    let is_asked = |part: &&Part| args.only.is_empty() || args.only.contains(part);
    let parts: Vec<Part> = Part::value_variants().iter().filter(is_asked).copied().collect();
    let within = args.dir.clone().unwrap_or_else(|| PathBuf::from("."));
    let folder = tempfile::Builder::new().prefix("oarlock-moves-").tempdir_in(&within)?;
    let tell = |what: &str| eprintln!("oarlock bench moves: {what}");
    let figures = measure(&options, &parts, folder.path(), &tell)?;
    crate::cli::print(&text(&figures));
    if let Some(file) = &args.json {
        let all = json!({ "machine": machine::describe(), "options": options, "figures": figures });
        write_json(file, &all)?;
    }
    Ok(Exit::Ok)
}

/// All tables.
fn text(figures: &Figures) -> String {
    let mut tables = Vec::new();
    if !figures.changes.is_empty() {
        tables.push(changes(&figures.changes));
    }
    if !figures.ranges.is_empty() {
        tables.push(columns("ranges", "one range", &figures.ranges));
    }
    if !figures.nodes.is_empty() {
        tables.push(columns("nodes", "three nodes", &figures.nodes));
    }
    tables.join("\n")
}

/// A column for each kind of change.
fn changes(all: &[Changes]) -> String {
    type Cell = fn(&Changes) -> String;
    let rows: [(&str, Cell); 15] = [
        ("how often", |c| c.times.to_string()),
        ("takes, median, ms", |c| number(c.took_p50_ms)),
        ("takes at most, ms", |c| number(c.took_max_ms)),
        ("quiet: p99 of writes, ms", |c| number(c.quiet.p99_ms)),
        ("meanwhile: p99 of writes, ms", |c| number(c.around.p99_ms)),
        ("that is times the quiet one", |c| number(c.around.p99_ms / c.quiet.p99_ms.max(1e-3))),
        ("quiet: slowest write, ms", |c| number(c.quiet.max_ms)),
        ("meanwhile: slowest write, ms", |c| number(c.around.max_ms)),
        ("quiet: longest gap between answers, median, ms", |c| number(c.quiet.gap_p50_ms)),
        ("quiet: the same, p99, ms", |c| number(c.quiet.gap_p99_ms)),
        ("meanwhile: longest gap between answers, median, ms", |c| number(c.around.gap_p50_ms)),
        ("meanwhile: the same, p99, ms", |c| number(c.around.gap_p99_ms)),
        ("meanwhile: the same, longest, ms", |c| number(c.around.gap_max_ms)),
        ("writes refused", |c| c.refused.values().sum::<u64>().to_string()),
        ("goal", |c| c.goal.clone()),
    ];
    let headers = all.iter().map(|changes| changes.name.clone());
    markdown("of writes around a change", headers, &rows, all)
}

/// A column for each number of ranges or nodes.
fn columns(what: &str, first: &str, all: &[Column]) -> String {
    type Cell<'a> = &'a dyn Fn(&Column) -> String;
    let median = |column: &Column, figure: fn(&Steady) -> f64| number(column.median(figure).1);
    let of_window = |window: &Steady| window.cpu_us_per_write;
    let cpu = |column: &Column| column.median(of_window);
    let times = |column: &Column| {
        all.first().map_or_else(Default::default, |first| column.times(first, of_window))
    };
    let between = |(lowest, _, highest)| format!("{}..{}", number(lowest), number(highest));
    let errors = |column: &Column| match column.errors() {
        none if none.is_empty() => "0".to_owned(),
        kinds => {
            let kinds: Vec<_> =
                kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
            kinds.join(", ")
        }
    };
    let ratio = format!("that is times that of {first}, in the same round");
    let rows: [(&str, Cell<'_>); 9] = [
        ("writes due per second", &|column| column.due_per_s.to_string()),
        ("answered per second", &|column| median(column, |window| window.answered_per_s)),
        ("p50 of writes, ms", &|column| median(column, |window| window.p50_ms)),
        ("p99 of writes, ms", &|column| median(column, |window| window.p99_ms)),
        ("CPU of all nodes per write, µs", &|column| number(cpu(column).1)),
        ("lowest..highest of its windows", &|column| between(cpu(column))),
        (&ratio, &|column| number(times(column).1)),
        ("lowest..highest of its rounds", &|column| between(times(column))),
        ("errors", &errors),
    ];
    markdown(what, all.iter().map(|column| column.count.to_string()), &rows, all)
}

fn markdown<T>(
    corner: &str,
    headers: impl Iterator<Item = String>,
    rows: &[(&str, impl Fn(&T) -> String)],
    all: &[T],
) -> String {
    let headers: Vec<String> = headers.collect();
    let mut text =
        format!("| {corner} | {} |\n|{}\n", headers.join(" | "), "---|".repeat(all.len() + 1));
    for (name, cell) in rows {
        let cells: Vec<String> = all.iter().map(cell).collect();
        writeln!(text, "| {name} | {} |", cells.join(" | "))
            .expect("invariant: writing to a string does not fail");
    }
    text
}

/// Three digits, or all before the point.
fn number(number: f64) -> String {
    let digits = if number < 10.0 {
        2
    } else if number < 100.0 {
        1
    } else {
        0
    };
    format!("{number:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::moves::Seen;

    #[test]
    fn tables_have_a_column_for_each_change_and_number() {
        let quiet = Seen { p99_ms: 2.0, ..Seen::default() };
        let around = Seen { p99_ms: 5.0, gap_max_ms: 123.4, ..Seen::default() };
        let change = Changes {
            name: "split".to_owned(),
            goal: "none".to_owned(),
            times: 3,
            took_p50_ms: 12.34,
            took_max_ms: 20.0,
            quiet,
            around,
            refused: [("error \"BUSY\"".to_owned(), 2)].into(),
            each: Vec::new(),
        };
        let window = |cpu_us_per_write| Steady { cpu_us_per_write, ..Steady::default() };
        let column = |count: u32, cpu: f64| Column {
            count,
            due_per_s: 100,
            windows: vec![
                window(cpu - 1.0),
                window(cpu),
                Steady { errors: [("UNKNOWN".to_owned(), 2)].into(), ..window(cpu + 1.0) },
            ],
        };
        let figures = Figures {
            changes: vec![change.clone(), Changes { name: "transfer".to_owned(), ..change }],
            ranges: vec![column(1, 200.0), column(64, 300.0)],
            nodes: Vec::new(),
        };
        let text = text(&figures);
        for line in [
            "| of writes around a change | split | transfer |",
            "|---|---|---|",
            "| takes, median, ms | 12.3 | 12.3 |",
            "| that is times the quiet one | 2.50 | 2.50 |",
            "| meanwhile: the same, longest, ms | 123 | 123 |",
            "| writes refused | 2 | 2 |",
            "| ranges | 1 | 64 |",
            "| lowest..highest of its windows | 199..201 | 299..301 |",
            "| that is times that of one range, in the same round | 1.00 | 1.50 |",
            "| lowest..highest of its rounds | 1.00..1.00 | 1.50..1.50 |",
            "| errors | 2 UNKNOWN | 2 UNKNOWN |",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(!text.contains("| nodes |"), "{text}");
    }
}
