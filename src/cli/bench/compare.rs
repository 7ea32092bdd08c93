//! `oarlock bench compare`: runs side by side, from the files that they wrote.

use std::io;
use std::path::PathBuf;

use clap::Args;

use super::write_file;
use crate::bench::compare::{self, Named, Row};
use crate::bench::page;
use crate::cli::table;

/// Which runs are compared.
#[derive(Args, Clone, Debug)]
pub struct CompareArgs {
    /// What `oarlock bench --json` wrote, two files or more; ratios are to the first.
    #[arg(value_name = "FILE", required = true, num_args = 2..)]
    files: Vec<PathBuf>,
    /// Draw the runs on one page for a browser, which needs no network.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Prints the runs side by side.
///
/// # Errors
/// If a file cannot be read or is no run's.
pub(super) fn run(args: &CompareArgs) -> io::Result<()> {
    let runs = args.files.iter().map(read).collect::<io::Result<Vec<_>>>()?;
    let mut text = render("", &runs, &compare::figures(&runs));
    for (title, rows) in
        [("stages of a write", compare::stages(&runs)), ("differs", compare::settings(&runs, true))]
    {
        if !rows.is_empty() {
            text += &format!("\n{}", render(title, &runs, &rows));
        }
    }
    crate::cli::print(&text);
    match &args.html {
        Some(file) => write_file(file, page::of_runs(&runs).as_bytes()),
        None => Ok(()),
    }
}

fn read(file: &PathBuf) -> io::Result<Named> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot read {name}: {error}")))?;
    compare::read(&name, &text).map_err(io::Error::other)
}

fn render(title: &str, runs: &[Named], rows: &[Row]) -> String {
    let names = runs.iter().map(|run| run.name.as_str());
    let headers: Vec<&str> = std::iter::once(title).chain(names).collect();
    let cells = |row: &Row| std::iter::once(&row.name).chain(&row.cells).cloned().collect();
    let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
    table::render(&headers, &rows)
}
