//! `stats`: what matrices say, in numbers.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use llama_imatrix::convergence::ConvergenceFile;
use llama_imatrix::imatrix::{Imatrix, describe_filled};
use llama_imatrix::lens::file::LensFile;
use llama_imatrix::report::json::{StatsDocument, StatsFile};
use llama_imatrix::report::lens::{LensPart, LensTable, tables};
use llama_imatrix::report::sheet::{Cell, Heading, Sheet};
use llama_imatrix::report::{convergence, experts, statistics};
use llama_imatrix::stats::Summary;

use super::load::{Legacy, convergence_beside, ensure_data, lens_beside, load};
use super::select::Selection;
use super::tables::{Destination, Format, joined, titled};
use crate::ui::log;

/// Columns of a table that must fit a screen. Those of experts are shown only if there are experts, those of halves only if
/// there is a convergence file.
const SHOWN: [&str; 20] = [
    "layer",
    "tensor",
    "elements",
    "sum_sq",
    "mean",
    "std_deviation",
    "min",
    "max",
    "zd3",
    "h_norm",
    "top1_energy",
    "mean_to_rms",
    "gain",
    "cossim",
    "pearson",
    "unseen",
    "rare",
    "balance",
    "halves_cosine",
    "relative_error",
];

/// Columns that a narrow terminal shows first.
const PREFERRED: [&str; 5] = ["unseen", "sum_sq", "h_norm", "top1_energy", "cossim"];

/// Statistics of matrices per weight and per layer; docs/stats.md defines them
#[derive(Debug, clap::Args)]
pub(crate) struct Stats {
    /// Importance matrices, GGUF or legacy .dat
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Print only these rows [default: weights, layers and the tables of the lens file; in CSV weights]
    #[arg(long, value_enum)]
    by: Option<Rows>,
    /// Sort by this statistic, a name or a title of the table, largest first, instead of by layer
    #[arg(long, value_name = "STATISTIC")]
    sort: Option<String>,
    /// Sort smallest first
    #[arg(long, requires = "sort")]
    ascending: bool,
    /// Statistics of weights to show: names, or all [default: all in JSON and CSV, else those that fit a screen]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    columns: Vec<String>,
    #[command(flatten)]
    destination: Destination,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    legacy: Legacy,
}

/// Rows of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Rows {
    /// One row per weight.
    Tensor,
    /// One row per layer.
    Layer,
    /// One row per expert of each weight that has experts.
    Expert,
    /// The logit lens of the lens file beside the matrix.
    Lens,
    /// Its logit prism.
    Prism,
    /// Its layer similarity.
    Similarity,
}

impl Rows {
    fn is_of(self, part: LensPart) -> bool {
        match part {
            LensPart::Lens => self == Self::Lens,
            LensPart::Prism | LensPart::PrismOfLikeliest => self == Self::Prism,
            LensPart::Similarity => self == Self::Similarity,
        }
    }

    fn is_of_lens_file(self) -> bool {
        matches!(self, Self::Lens | Self::Prism | Self::Similarity)
    }
}

impl Stats {
    /// Returns true if people read the output, false if programs do.
    fn is_for_people(&self) -> bool {
        matches!(self.format, Format::Table | Format::Markdown)
    }
}

pub(crate) fn run(args: &Stats) -> anyhow::Result<ExitCode> {
    args.destination.check("stats", &args.files)?;
    // All files have the same columns.
    let with_halves = args.files.iter().any(|path| ConvergenceFile::beside(path).exists());
    let mut files = Vec::new();
    for path in &args.files {
        let (imatrix, legacy) = load(path, args.legacy)?;
        let summary = Summary::new(&imatrix);
        let mut warnings: Vec<String> = summary.warnings.iter().map(ToString::to_string).collect();
        warnings.extend(describe_filled(&imatrix.filled));
        for warning in &warnings {
            log::warn(format_args!("'{}': {warning}", path.display()));
        }
        ensure_data(path, summary.tensors.len())?;
        let chosen = |t: &&_| {
            let t: &llama_imatrix::stats::TensorSummary = t;
            args.selection.has(t.block, &t.layer, &t.stats.tensor)
        };
        let (halves_file, note) = match convergence_beside(path, &imatrix.entries, &imatrix.filled) {
            _ if legacy => (None, None),
            Ok(found) => (found, None),
            Err(note) => (None, Some(note)),
        };
        if let Some(note) = &note {
            log::warn(format_args!("{note}"));
        }
        let halves = Halves { are_shown: with_halves, file: halves_file.as_ref() };
        let tensors = sorted(args, statistics::tensors(summary.tensors.iter().filter(chosen)), halves)?;
        args.selection.ensure_some(tensors.rows.len()).with_context(|| format!("'{}'", path.display()))?;
        let by_expert =
            (args.by == Some(Rows::Expert)).then(|| by_expert(args, &imatrix, &summary, halves)).transpose()?;
        let (lens, note) = lens_beside(path);
        if let Some(note) = &note {
            log::warn(format_args!("{note}"));
        }
        if let Some(by) = args.by.filter(|by| by.is_of_lens_file()) {
            ensure_measured(by, path, lens.as_ref())?;
        }
        let in_layers = summary.layers.iter().filter(|l| args.selection.has_layer(Some(l.block), &l.layer));
        let mut layers = statistics::layers(in_layers);
        if let Some(key) = args.sort.as_ref().and_then(|name| layers.key(name)) {
            layers.sort(key, args.ascending);
        }
        files.push(StatsFile {
            file: path.display().to_string(),
            legacy,
            datasets: imatrix.datasets,
            chunk_count: imatrix.chunk_count,
            chunk_size: imatrix.chunk_size,
            tensors: columns(args, if args.is_for_people() { tensors.join_equal_rows("tensor") } else { tensors })?,
            layers,
            experts: by_expert,
            convergence: halves_file.and_then(|file| file.last().cloned()),
            lens,
            filled: StatsFile::filled_experts(&imatrix.filled),
            shown: StatsFile::shown_experts(&imatrix.filled),
            warnings,
        });
    }
    args.destination.write(&shown(args, files)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the experts of the chosen weights, and a line that names those without tokens.
fn by_expert(args: &Stats, imatrix: &Imatrix, summary: &Summary, halves: Halves<'_>) -> anyhow::Result<Sheet> {
    let chosen = summary.tensors.iter().filter(|t| args.selection.has(t.block, &t.layer, &t.stats.tensor));
    sorted(args, experts::of_matrix(imatrix, chosen), halves)
}

/// The columns of the convergence file. All files of a command have them if one does.
#[derive(Clone, Copy)]
struct Halves<'a> {
    are_shown: bool,
    file: Option<&'a ConvergenceFile>,
}

/// Appends the columns of the convergence file, if files have one, and sorts the sheet.
fn sorted(args: &Stats, mut tensors: Sheet, halves: Halves<'_>) -> anyhow::Result<Sheet> {
    if halves.are_shown {
        convergence::append(&mut tensors, halves.file);
    }
    let Some(name) = &args.sort else { return Ok(tensors) };
    let Some(key) = tensors.key(name) else {
        bail!("--sort: unknown statistic '{name}', expected one of {}", keys(&tensors));
    };
    tensors.sort(key, args.ascending);
    Ok(tensors)
}

fn keys(sheet: &Sheet) -> String {
    sheet.headings.iter().map(|h| h.key).collect::<Vec<_>>().join(", ")
}

/// Keeps the requested columns, or those that fit.
fn columns(args: &Stats, sheet: Sheet) -> anyhow::Result<Sheet> {
    if args.columns.iter().any(|c| c == "all") || (args.columns.is_empty() && !args.is_for_people()) {
        return Ok(sheet);
    }
    if let Some(unknown) = args.columns.iter().find(|c| sheet.key(c).is_none()) {
        bail!("--columns: unknown statistic '{unknown}', expected one of {}", keys(&sheet));
    }
    let wanted = |at: usize, h: &Heading| {
        let some = || sheet.rows.iter().any(|row| !matches!(row.get(at), Some(Cell::Missing)));
        match h.key {
            "layer" | "tensor" => true,
            key if args.columns.is_empty() => SHOWN.contains(&key) && some(),
            key => args.columns.iter().any(|c| sheet.key(c) == Some(key)),
        }
    };
    let kept: Vec<bool> = sheet.headings.iter().enumerate().map(|(i, h)| wanted(i, h)).collect();
    Ok(sheet.with_columns(&kept))
}

fn shown(args: &Stats, files: Vec<StatsFile>) -> anyhow::Result<String> {
    if args.format == Format::Json {
        let document = StatsDocument { format: "llama-imatrix stats", version: 1, files };
        return Ok(serde_json::to_string_pretty(&document)? + "\n");
    }
    if args.format == Format::Csv {
        let file = Heading::new("file", "File", 0);
        let sheets = files.into_iter().map(|f| {
            let mut sheet = match args.by {
                Some(Rows::Layer) => f.layers,
                Some(Rows::Expert) => f.experts.unwrap_or_default(),
                Some(by) if by.is_of_lens_file() => lens_rows(by, f.lens.as_ref()),
                _ => f.tensors,
            };
            sheet.prepend(file, &f.file);
            sheet
        });
        return Ok(titled(args.format, "", &joined(sheets.collect())));
    }
    let mut out = String::new();
    for f in files {
        let origin = match (f.chunk_count, f.datasets.join(", ")) {
            (1.., data) if !data.is_empty() => format!(" ({} chunks of {}: {data})", f.chunk_count, f.chunk_size),
            _ => String::new(),
        };
        if let Some(experts) = &f.experts {
            out += &titled(args.format, &format!("Experts of {}{origin}", f.file), experts);
            continue;
        }
        if let Some(by) = args.by.filter(|by| by.is_of_lens_file()) {
            out += &lens_tables(args.format, f.lens.as_ref(), |part| by.is_of(part));
            continue;
        }
        if args.by != Some(Rows::Layer) {
            let tensors = if args.columns.is_empty() {
                args.destination.fit(args.format, f.tensors, &PREFERRED)
            } else {
                f.tensors
            };
            out += &titled(args.format, &format!("Weights of {}{origin}", f.file), &tensors);
        }
        if args.by != Some(Rows::Tensor) && !f.layers.rows.is_empty() {
            out += &titled(args.format, &format!("Layers of {}", f.file), &f.layers);
        }
        if args.by.is_none() {
            out += &lens_tables(args.format, f.lens.as_ref(), |_| true);
        }
    }
    Ok(out)
}

/// Fails if a matrix has no lens file with these rows.
fn ensure_measured(by: Rows, path: &Path, lens: Option<&LensFile>) -> anyhow::Result<()> {
    let beside = LensFile::beside(path);
    let Some(lens) = lens else {
        bail!(
            "'{}' has no lens file '{}'\nhint: collect it with --logit-lens, --logit-prism or --layer-similarity",
            path.display(),
            beside.display()
        );
    };
    let tables = tables(lens);
    let table = tables.iter().find(|table| by.is_of(table.part));
    let flag = match by {
        Rows::Prism => "--logit-prism",
        Rows::Similarity => "--layer-similarity",
        _ => "--logit-lens",
    };
    let Some(table) = table else { bail!("'{}' was written without {flag}", beside.display()) };
    let reason = table.sheet.as_ref().err();
    ensure!(reason.is_none(), "'{}': not supported: {}", beside.display(), reason.map_or("", String::as_str));
    Ok(())
}

/// Returns the rows of a lens file for CSV. Those of the prism begin with the token whose logit they add up to.
fn lens_rows(by: Rows, lens: Option<&LensFile>) -> Sheet {
    let sheets = lens.map(tables).unwrap_or_default().into_iter().filter(|table| by.is_of(table.part));
    let sheets = sheets.filter_map(|LensTable { part, sheet, .. }| {
        let mut sheet = sheet.ok()?;
        match part {
            LensPart::Prism => sheet.prepend(Heading::new("token", "Token", 0), "next"),
            LensPart::PrismOfLikeliest => sheet.prepend(Heading::new("token", "Token", 0), "likeliest"),
            LensPart::Lens | LensPart::Similarity => {}
        }
        Some(sheet)
    });
    joined(sheets.collect())
}

fn lens_tables(format: Format, lens: Option<&LensFile>, wanted: impl Fn(LensPart) -> bool) -> String {
    let tables = lens.map(tables).unwrap_or_default().into_iter().filter(|table| wanted(table.part));
    let text = |table: LensTable| match table.sheet {
        Ok(sheet) => titled(format, &table.title, &sheet),
        Err(reason) => format!("{}\n\nnot supported: {reason}\n\n", table.title),
    };
    tables.map(text).collect()
}
