//! How the commands print sheets.

use clap::ValueEnum;
use llama_imatrix::report::sheet::Sheet;
use llama_imatrix::report::text;

/// How a sheet is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Aligned columns.
    #[default]
    Table,
    /// One document, all statistics.
    Json,
    /// RFC 4180, all statistics.
    Csv,
    /// As GitHub renders it.
    Markdown,
}

/// What a sheet has a row for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum By {
    /// Each weight.
    Tensor,
    /// Each layer.
    Layer,
}

/// A sheet under its title; CSV has no place for one.
pub(super) fn titled(format: Format, title: &str, sheet: &Sheet) -> String {
    match format {
        Format::Markdown => format!("## {title}\n\n{}\n", text::markdown(sheet)),
        Format::Csv => text::csv(sheet),
        Format::Table | Format::Json => format!("{title}\n\n{}\n", text::aligned(sheet)),
    }
}

/// Tables of several files as one of a file more a row: CSV has one heading.
pub(super) fn joined(sheets: Vec<Sheet>) -> Sheet {
    let mut sheets = sheets.into_iter();
    let mut all = sheets.next().unwrap_or_default();
    for sheet in sheets {
        all.rows.extend(sheet.rows);
    }
    all
}
