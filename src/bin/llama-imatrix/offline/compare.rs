//! `compare`: one matrix against others.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::ensure;
use clap::ValueEnum;
use llama_imatrix::report::difference::{self, Metric};
use llama_imatrix::report::experts;
use llama_imatrix::report::json::{CompareDocument, CompareFile};
use llama_imatrix::report::sheet::{Cell, Heading, Sheet};
use llama_imatrix::stats::MatrixDivergence;

use super::load::{Legacy, ensure_data, load};
use super::select::Selection;
use super::tables::{By, Destination, Format, joined, titled};
use crate::ui::log;

/// Compares the channel weights of matrices with those of the first; docs/stats.md defines the metrics
#[derive(Debug, clap::Args)]
pub(crate) struct Compare {
    /// The matrix to compare with, and the others
    #[arg(required = true, num_args = 2.., value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Print only weights, only layers, or experts [default: weights and layers; in CSV weights]
    #[arg(long, value_enum)]
    by: Option<By>,
    /// Metric for the order and for --fail-above
    #[arg(long, value_enum, default_value_t)]
    metric: MetricName,
    /// Exit with 1 if a weight differs by more than this, or cannot be compared
    #[arg(long, value_name = "X", value_parser = threshold, allow_negative_numbers = true)]
    fail_above: Option<f64>,
    #[command(flatten)]
    destination: Destination,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    legacy: Legacy,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum MetricName {
    /// Jensen-Shannon divergence of the energies as distributions, in bits
    #[default]
    Jsd,
    /// Norm of the difference, divided by the norm of the first
    RelL2,
    /// 1 minus the cosine
    Cosine,
    /// 1 minus Spearman's rank correlation
    Spearman,
}

fn threshold(text: &str) -> Result<f64, String> {
    let x: f64 = text.parse().map_err(|_| "no number".to_owned())?;
    if x >= 0.0 { Ok(x) } else { Err("expected 0 or more".to_owned()) }
}

pub(crate) fn run(args: &Compare) -> anyhow::Result<ExitCode> {
    let metric = match args.metric {
        MetricName::Jsd => Metric::Jsd,
        MetricName::RelL2 => Metric::RelativeL2,
        MetricName::Cosine => Metric::Cosine,
        MetricName::Spearman => Metric::Spearman,
    };
    args.destination.check("compare", &args.files)?;
    let [first_path, others @ ..] = args.files.as_slice() else { unreachable!("clap asks for two") };
    let (first, _) = load(first_path, args.legacy)?;
    ensure_data(first_path, first.entries.len())?;
    let mut failed = false;
    let mut comparisons = Vec::new();
    for path in others {
        let (second, _) = load(path, args.legacy)?;
        let mut all = MatrixDivergence::new(&first, &second);
        ensure!(
            all.tensors.iter().any(|t| t.common > 0),
            "'{}' and '{}' have no data of the same weights: they are of different models",
            first_path.display(),
            path.display()
        );
        let common = all.tensors.iter().filter(|t| t.common > 0).count();
        if common * 2 < all.tensors.len() {
            log::warn(format_args!(
                "'{}' and '{}' have data of the same {common} weights, of {}: they are probably of different models",
                first_path.display(),
                path.display(),
                all.tensors.len()
            ));
        }
        all.tensors.retain(|t| args.selection.has(t.block, &t.layer, &t.tensor));
        all.layers.retain(|l| args.selection.has_layer(Some(l.block), &l.layer));
        args.selection.ensure_some(all.tensors.len())?;
        if let Some((limit, (worst, difference))) = args.fail_above.zip(difference::largest(&all, metric)) {
            // What cannot be compared is no agreement.
            if difference.is_nan() || difference > limit {
                failed = true;
                log::error(format_args!(
                    "'{}' differs from '{}' by {} in '{}', expected at most {limit}",
                    path.display(),
                    first_path.display(),
                    if difference.is_nan() {
                        "a value that cannot be compared".to_owned()
                    } else {
                        difference.to_string()
                    },
                    worst.tensor
                ));
            }
        }
        let by_expert = (args.by == Some(By::Expert)).then(|| experts::of_two(&first, &second, &all.tensors, metric));
        comparisons.push(CompareFile {
            second: path.display().to_string(),
            tensors: difference::tensors(&all.tensors, metric),
            layers: difference::layers(&all.layers, metric),
            experts: by_expert,
        });
    }
    args.destination.write(&shown(args, first_path.display().to_string(), comparisons)?)?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn shown(args: &Compare, first: String, comparisons: Vec<CompareFile>) -> anyhow::Result<String> {
    if args.format == Format::Json {
        let document = CompareDocument { format: "llama-imatrix compare", version: 1, first, comparisons };
        return Ok(serde_json::to_string_pretty(&document)? + "\n");
    }
    if args.format == Format::Csv {
        let sheets = comparisons.into_iter().map(|c| {
            let mut sheet = match args.by {
                Some(By::Layer) => c.layers,
                Some(By::Expert) => c.experts.unwrap_or_default(),
                _ => c.tensors,
            };
            sheet.prepend(Heading::new("second", "B", 0), &c.second);
            sheet.prepend(Heading::new("first", "A", 0), &first);
            sheet
        });
        return Ok(titled(args.format, "", &joined(sheets.collect())));
    }
    let mut out = String::new();
    for c in comparisons {
        if let Some(experts) = &c.experts {
            out += &titled(args.format, &format!("Experts of {} (B) against {first} (A)", c.second), experts);
            continue;
        }
        if args.by != Some(By::Layer) {
            let (compared, others) = compared(c.tensors);
            let compared = args.destination.fit(args.format, compared.join_equal_rows("tensor"), &["jsd", "cosine"]);
            out += &titled(args.format, &format!("Weights of {} (B) against {first} (A)", c.second), &compared);
            out += &others;
        }
        if args.by != Some(By::Tensor) && !c.layers.rows.is_empty() {
            out += &titled(args.format, &format!("Layers of {} (B) against {first} (A)", c.second), &c.layers);
        }
    }
    Ok(out)
}

/// Takes the weights that cannot be compared out of the table. Returns lines that name them by reason.
fn compared(mut sheet: Sheet) -> (Sheet, String) {
    const NAMED: usize = 3;
    let column = |key: &str| sheet.headings.iter().position(|h| h.key == key);
    let (Some(name), Some(note)) = (column("tensor"), column("note")) else { return (sheet, String::new()) };
    let mut reasons: BTreeMap<String, Vec<String>> = BTreeMap::new();
    sheet.rows.retain(|row| match (&row[name], &row[note]) {
        (Cell::Text(name), Cell::Text(reason)) if !reason.is_empty() => {
            reasons.entry(reason.clone()).or_default().push(name.clone());
            false
        }
        _ => true,
    });
    let kept: Vec<bool> = (0..sheet.headings.len()).map(|i| i != note).collect();
    let mut lines = String::new();
    for (reason, names) in reasons {
        let more = if names.len() > NAMED { ", …" } else { "" };
        let named = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        let _ = writeln!(lines, "Not compared, {reason}: {} ({named}{more})", names.len());
    }
    if !lines.is_empty() {
        lines.push('\n');
    }
    (sheet.with_columns(&kept), lines)
}
