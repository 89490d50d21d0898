//! Writes sheets as aligned text, CSV and Markdown.

use std::fmt::Write as _;

use super::sheet::{Cell, Sheet};

/// Digits of a number that people read.
const DIGITS: usize = 5;
/// Spaces between columns.
const GAP: usize = 2;

/// Formats a number for people: `-` if undefined, with an exponent if `decimals` digits do not show its size.
#[must_use]
pub fn number(x: f64, decimals: usize) -> String {
    let fixed = |x: f64| format!("{x:.decimals$}");
    if x.is_nan() {
        "-".to_owned()
    } else if x == 0.0 || !x.is_finite() {
        fixed(x)
    } else if x.abs() >= 1e7 || x.abs() < 0.5 * 10_f64.powi(-(decimals as i32)) {
        format!("{x:.3e}")
    } else {
        fixed(x)
    }
}

/// Formats a number of bytes for people: `12.50 GiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let step = (1..units.len()).rev().find(|&i| bytes >= 1 << (10 * i)).unwrap_or(0);
    let scaled = bytes as f64 / (1_u64 << (10 * step)) as f64;
    if step == 0 { format!("{bytes} B") } else { format!("{scaled:.2} {}", units[step]) }
}

fn shown(cell: &Cell, decimals: usize) -> String {
    match cell {
        // Line ends and escape sequences in a name must not reach the terminal.
        Cell::Text(text) => text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect(),
        Cell::Count(n) => n.to_string(),
        Cell::Number(x) => number(*x, decimals),
        Cell::Missing => "-".to_owned(),
    }
}

fn shown_rows(sheet: &Sheet) -> Vec<Vec<String>> {
    let decimals: Vec<usize> = (0..sheet.headings.len()).map(|i| decimals(sheet, i)).collect();
    let row = |row: &Vec<Cell>| row.iter().zip(&decimals).map(|(cell, &decimals)| shown(cell, decimals)).collect();
    sheet.rows.iter().map(row).collect()
}

/// Returns the column's number of decimals, less one per digit before the point of its largest number: 679.8168 is
/// 679.82 for people, who read no more than five digits.
fn decimals(sheet: &Sheet, column: usize) -> usize {
    let most = sheet.headings[column].decimals;
    let numbers = sheet.rows.iter().filter_map(|row| match row.get(column) {
        Some(Cell::Number(x)) if x.is_finite() => Some(x.abs()),
        _ => None,
    });
    let largest = numbers.fold(0.0, f64::max);
    let digits = if largest < 10.0 { 1 } else { largest.log10().floor() as usize + 1 };
    most.min(DIGITS.saturating_sub(digits).max(1))
}

/// Writes aligned columns: text to the left, numbers to the right.
#[must_use]
pub fn aligned(sheet: &Sheet) -> String {
    let rows = shown_rows(sheet);
    let words = words(sheet);
    let widths = widths(sheet, &rows);
    let titles: Vec<String> = sheet.headings.iter().map(|h| h.title.to_owned()).collect();
    let rule: Vec<String> = widths.iter().map(|&w| "-".repeat(w)).collect();
    let mut out = String::new();
    for row in [&titles, &rule].into_iter().chain(&rows) {
        let cells = row.iter().zip(&widths).zip(&words);
        let line = cells.map(|((text, &w), &left)| if left { format!("{text:<w$}") } else { format!("{text:>w$}") });
        out += line.collect::<Vec<_>>().join(&" ".repeat(GAP)).trim_end();
        out.push('\n');
    }
    out
}

/// Leaves out columns until the rows of [`aligned`] have at most `width` characters: the first two always stay, those
/// of the keys in `preferred` come next, then the others from the left. Returns the titles of the columns left out,
/// too.
#[must_use]
pub fn fit(sheet: Sheet, width: usize, preferred: &[&str]) -> (Sheet, Vec<&'static str>) {
    let widths = widths(&sheet, &shown_rows(&sheet));
    let place = |key: &str| preferred.iter().position(|p| *p == key).unwrap_or(preferred.len());
    let mut order: Vec<usize> = (0..widths.len()).collect();
    order.sort_by_key(|&i| if i < 2 { 0 } else { 1 + place(sheet.headings[i].key) });
    let (mut used, mut kept) = (0, vec![false; widths.len()]);
    for (n, i) in order.into_iter().enumerate() {
        let with = used + widths[i] + if n == 0 { 0 } else { GAP };
        if n < 2 || with <= width {
            kept[i] = true;
            used = with;
        }
    }
    let left_out = sheet.headings.iter().zip(&kept).filter(|(_, kept)| !**kept).map(|(h, _)| h.title).collect();
    (sheet.with_columns(&kept), left_out)
}

fn widths(sheet: &Sheet, rows: &[Vec<String>]) -> Vec<usize> {
    let width = |i: usize| {
        let cells = rows.iter().filter_map(|row| row.get(i)).map(|text| text.chars().count());
        cells.chain([sheet.headings[i].title.chars().count()]).max().unwrap_or(0)
    };
    (0..sheet.headings.len()).map(width).collect()
}

/// Returns per column true if it has text.
fn words(sheet: &Sheet) -> Vec<bool> {
    let text = |i: usize| sheet.rows.iter().any(|row| matches!(row.get(i), Some(Cell::Text(_))));
    (0..sheet.headings.len()).map(text).collect()
}

/// Writes RFC 4180 CSV with `\n` line ends: the keys of the columns, then the rows. Numbers have all digits; an
/// undefined number is `nan`, a missing value is empty.
#[must_use]
pub fn csv(sheet: &Sheet) -> String {
    let mut out = sheet.headings.iter().map(|h| h.key).collect::<Vec<_>>().join(",");
    out.push('\n');
    for row in &sheet.rows {
        let cells = row.iter().map(|cell| match cell {
            Cell::Text(text) if text.contains(['"', ',', '\n', '\r']) => format!("\"{}\"", text.replace('"', "\"\"")),
            Cell::Text(text) => text.clone(),
            Cell::Count(n) => n.to_string(),
            Cell::Number(x) if x.is_nan() => "nan".to_owned(),
            Cell::Number(x) => x.to_string(),
            Cell::Missing => String::new(),
        });
        out += &cells.collect::<Vec<_>>().join(",");
        out.push('\n');
    }
    out
}

/// Writes a GitHub-flavoured Markdown table.
#[must_use]
pub fn markdown(sheet: &Sheet) -> String {
    let mut out = String::new();
    for h in &sheet.headings {
        let _ = write!(out, "| {} ", h.title);
    }
    out += "|\n";
    for left in words(sheet) {
        out += if left { "|---" } else { "|---:" };
    }
    out += "|\n";
    for row in shown_rows(sheet) {
        for cell in row {
            let _ = write!(out, "| {} ", cell.replace('\\', "\\\\").replace('|', "\\|"));
        }
        out += "|\n";
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sheet::Heading;

    fn sheet() -> Sheet {
        Sheet {
            headings: vec![Heading::new("name", "Name", 0), Heading::new("x", "X", 2), Heading::new("n", "N", 0)],
            rows: vec![
                vec![Cell::Text("a|\"b\",".into()), Cell::Number(0.125), Cell::Count(12)],
                vec![Cell::Text("e\x1b[0m".into()), Cell::Number(f64::NAN), Cell::Missing],
            ],
        }
    }

    #[test]
    fn csv_markdown_and_aligned_text_escape_names_and_align_numbers() {
        assert_eq!(csv(&sheet()), "name,x,n\n\"a|\"\"b\"\",\",0.125,12\ne\x1b[0m,nan,\n");
        assert_eq!(
            markdown(&sheet()),
            "| Name | X | N |\n|---|---:|---:|\n| a\\|\"b\", | 0.12 | 12 |\n| e\u{fffd}[0m | - | - |\n"
        );
        assert_eq!(
            aligned(&sheet()),
            "Name       X   N\n------  ----  --\na|\"b\",  0.12  12\ne\u{fffd}[0m      -   -\n"
        );
    }

    #[test]
    fn columns_that_do_not_fit_are_left_out_and_preferred_ones_stay() {
        let (fitted, left_out) = fit(sheet(), 12, &[]);
        assert_eq!((fitted.headings.len(), left_out), (2, vec!["N"]));
        assert!(aligned(&fitted).lines().all(|line| line.chars().count() <= 12));
        assert_eq!(fit(sheet(), 16, &[]).1, Vec::<&str>::new());
        assert_eq!(fit(sheet(), 1, &[]).0.headings.len(), 2, "name and first statistic stay");
        let heading = |key| Heading::new(key, key, 0);
        let four = Sheet { headings: ["a", "b", "c", "d"].map(heading).to_vec(), rows: Vec::new() };
        assert_eq!(fit(four, 7, &["d"]).1, ["c"]);
    }

    #[test]
    fn aligned_columns_show_five_digits_of_their_largest_number() {
        let of = |values: &[f64]| Sheet {
            headings: vec![Heading::new("x", "X", 4)],
            rows: values.iter().map(|&x| vec![Cell::Number(x)]).collect(),
        };
        assert_eq!(aligned(&of(&[679.816_812, 0.5])), "     X\n------\n679.82\n  0.50\n");
        assert_eq!(aligned(&of(&[1.234_567])), "     X\n------\n1.2346\n");
        assert_eq!(aligned(&of(&[1_234_567.8])), "        X\n---------\n1234567.8\n");
    }

    #[test]
    fn numbers_switch_to_an_exponent_when_decimals_do_not_show_them() {
        let cases = [(0.0, "0.00"), (0.004, "4.000e-3"), (0.006, "0.01"), (-1e9, "-1.000e9"), (f64::INFINITY, "inf")];
        for (x, expected) in cases {
            assert_eq!(number(x, 2), expected);
        }
    }
}
