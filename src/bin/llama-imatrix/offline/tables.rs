//! Formats of the commands' tables.

use clap::ValueEnum;
use llama_imatrix::report::sheet::Sheet;
use llama_imatrix::report::text;

/// Format of a sheet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Aligned columns.
    #[default]
    Table,
    /// One document, all statistics.
    Json,
    /// RFC 4180, all statistics.
    Csv,
    /// Tables as GitHub renders them.
    Markdown,
}

/// Rows of a sheet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum By {
    /// One row per weight.
    Tensor,
    /// One row per layer.
    Layer,
    /// One row per expert of each weight that has experts.
    Expert,
}

/// Formats a sheet under its title; CSV has no title.
pub(super) fn titled(format: Format, title: &str, sheet: &Sheet) -> String {
    match format {
        Format::Markdown => format!("## {title}\n\n{}\n", text::markdown(sheet)),
        Format::Csv => text::csv(sheet),
        Format::Table | Format::Json => format!("{title}\n\n{}\n", text::aligned(sheet)),
    }
}

/// Joins the tables of several files under one heading, for CSV.
pub(super) fn joined(sheets: Vec<Sheet>) -> Sheet {
    let mut sheets = sheets.into_iter();
    let mut all = sheets.next().unwrap_or_default();
    for sheet in sheets {
        all.rows.extend(sheet.rows);
    }
    all
}
