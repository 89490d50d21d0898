//! Formats of the commands' tables.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::ValueEnum;
use llama_imatrix::atomic_file;
use llama_imatrix::report::sheet::Sheet;
use llama_imatrix::report::text;

use crate::config::output::check_way;
use crate::config::overlap::Files;
use crate::ui::log;
use crate::ui::print::print_document;

/// Destination of the tables.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Destination {
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Destination {
    /// Refuses a file that cannot be written, or that the command reads.
    pub(super) fn check(&self, command: &'static str, read: &[PathBuf]) -> anyhow::Result<()> {
        let Some(path) = &self.output else { return Ok(()) };
        let mut files = Files::default();
        for file in read {
            files.read(command, file.clone());
        }
        files.write("--output", path.clone());
        files.refuse_overlap()?;
        check_way(path).map(|_| ())
    }

    /// Returns the number of characters that fit in a line; `None` if the tables do not go to a terminal.
    fn width(&self) -> Option<usize> {
        if self.output.is_some() {
            return None;
        }
        let terminal = console::Term::stdout();
        terminal.features().is_attended().then(|| terminal.size_checked()).flatten().map(|(_, width)| width.into())
    }

    /// Removes columns that do not fit the terminal, `preferred` ones last, and logs their names.
    pub(super) fn fit(&self, format: Format, sheet: Sheet, preferred: &[&str]) -> Sheet {
        let (Some(width), Format::Table) = (self.width(), format) else { return sheet };
        let (sheet, left_out) = text::fit(sheet, width, preferred);
        if !left_out.is_empty() {
            log::info(format_args!("left out, since the terminal has {width} columns: {}", left_out.join(", ")));
        }
        sheet
    }

    pub(super) fn write(&self, document: &str) -> anyhow::Result<()> {
        let Some(path) = &self.output else { return print_document(document) };
        atomic_file::save(path, |out| out.write_all(document.as_bytes()))
            .with_context(|| format!("cannot save '{}'", path.display()))
    }
}

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
