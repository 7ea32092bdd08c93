//! Tables for people: columns as wide as their widest cell, numbers to the right.

use std::fmt::Write as _;

/// Lays out rows under their headers.
#[must_use]
pub(super) fn render(headers: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([headers[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headers.len()).map(width).collect();
    let mut out = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            let number = cell.starts_with(|first: char| first.is_ascii_digit());
            let written = if number {
                write!(text, "{cell:>width$}  ")
            } else {
                write!(text, "{cell:<width$}  ")
            };
            written.expect("invariant: writing to a string does not fail");
        }
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(&mut headers.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    out
}

/// A node's oldest and newest feature level.
#[must_use]
pub(super) fn shown_levels(levels: Option<(u16, u16)>) -> String {
    levels.map_or_else(|| "?".to_owned(), |(min, max)| format!("{min}-{max}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![
            vec!["a".to_owned(), "1".to_owned()],
            vec!["longer".to_owned(), "1234".to_owned()],
        ];
        assert_eq!(render(&["name", "n"], &rows), "name    n\na          1\nlonger  1234\n");
    }
}
