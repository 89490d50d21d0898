//! The data of the page, in compact form.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::Serialize;

use super::{NamedCurve, Source};
use crate::convergence::Point;
use crate::imatrix::describe_filled;
use crate::lens::file::LensFile;
use crate::quantize::curve::CurvePoint;
use crate::report::difference::{self, Metric};
use crate::report::sheet::{Cell, Heading, Sheet};
use crate::report::statistics::{self, STATISTICS};
use crate::stats::{MatrixDivergence, Spectrum, Summary, TensorSummary};

/// Number of points of a spectrum, which is more than a phone can display.
const POINTS: usize = 48;
/// Maximum number of points of a curve of recipes.
const CURVE_POINTS: usize = 400;
/// Maximum number of notes per file; a damaged file has one per weight.
const MAX_NOTES: usize = 20;

/// The data of the page.
#[derive(Serialize)]
pub(super) struct Data<'a> {
    generator: &'static str,
    statistics: Vec<Statistic>,
    files: Vec<File<'a>>,
    comparisons: Vec<Comparison>,
    recipes: Vec<Recipes<'a>>,
}

/// The least cost of recipes at each size.
#[derive(Serialize)]
struct Recipes<'a> {
    name: &'a str,
    bytes: Vec<u64>,
    bits: Vec<f64>,
    cost: Vec<f64>,
}

#[derive(Serialize)]
struct Statistic {
    key: &'static str,
    title: &'static str,
    about: &'static str,
}

#[derive(Serialize)]
struct File<'a> {
    name: &'a str,
    legacy: bool,
    datasets: &'a [String],
    chunks: i32,
    chunk_size: i32,
    notes: Vec<String>,
    /// One row per weight: layer, name, kind, then the statistics.
    tensors: CompactSheet,
    layers: CompactSheet,
    experts: Vec<ExpertMap<'a>>,
    spectra: Spectra,
    lens: Option<&'a LensFile>,
    /// The curve of the convergence file.
    convergence: Option<&'a [Point]>,
}

/// A sheet that stores its keys once.
#[derive(Serialize)]
struct CompactSheet {
    keys: Vec<&'static str>,
    titles: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

/// The rows per expert and layer, for weights that process the same tokens.
#[derive(Serialize)]
struct ExpertMap<'a> {
    kinds: String,
    rows: Vec<ExpertRow<'a>>,
}

#[derive(Serialize)]
struct ExpertRow<'a> {
    layer: String,
    counts: &'a [i64],
    /// Experts whose sums were filled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    filled: Vec<u32>,
}

/// The spectra of the weights, in their order. Weights with the same number of columns have the same ranks.
#[derive(Serialize)]
struct Spectra {
    ranks: BTreeMap<usize, Vec<usize>>,
    tensors: Vec<Curve>,
}

#[derive(Serialize)]
struct Curve {
    columns: usize,
    /// Decimal logarithm of the energy divided by the mean; null for zero energy.
    energy: Vec<Cell>,
    cumulative: Vec<Cell>,
}

#[derive(Serialize)]
struct Comparison {
    first: usize,
    second: usize,
    tensors: CompactSheet,
    layers: CompactSheet,
}

impl<'a> Data<'a> {
    pub(super) fn new(sources: &'a [Source], curves: &'a [NamedCurve]) -> Self {
        let comparison = |(second, source): (usize, &Source)| {
            let m = MatrixDivergence::new(&sources[0].imatrix, &source.imatrix);
            let mut tensors = difference::tensors(&m.tensors, Metric::Jsd);
            let kinds: BTreeMap<&str, &str> = m.tensors.iter().map(|t| (t.tensor.as_str(), t.kind.as_str())).collect();
            add_kinds(&mut tensors, |name| kinds.get(name).copied().unwrap_or_default());
            Comparison {
                first: 0,
                second,
                tensors: CompactSheet::new(tensors),
                layers: CompactSheet::new(difference::layers(&m.layers, Metric::Jsd)),
            }
        };
        Self {
            generator: concat!("llama-imatrix ", env!("CARGO_PKG_VERSION")),
            statistics: STATISTICS
                .iter()
                .map(|s| Statistic { key: s.heading.key, title: s.heading.title, about: s.about })
                .collect(),
            files: sources.iter().map(File::new).collect(),
            comparisons: sources.iter().enumerate().skip(1).map(comparison).collect(),
            recipes: curves.iter().map(Recipes::new).collect(),
        }
    }
}

impl<'a> Recipes<'a> {
    /// Takes points at even distances, the first and the last one included.
    fn new(named: &'a NamedCurve) -> Self {
        let all = &named.curve.points;
        let kept = all.len().min(CURVE_POINTS);
        let at = |i: usize| &all[i * (all.len() - 1) / (kept - 1).max(1)];
        let points: Vec<&CurvePoint> = (0..kept).map(at).collect();
        Self {
            name: &named.name,
            bytes: points.iter().map(|p| p.bytes).collect(),
            bits: points.iter().map(|p| rounded(p.bits, 6)).collect(),
            cost: points.iter().map(|p| rounded(p.cost, 5)).collect(),
        }
    }
}

impl<'a> File<'a> {
    fn new(source: &'a Source) -> Self {
        let summary = Summary::new(&source.imatrix);
        let mut notes = source.notes.clone();
        notes.extend(describe_filled(&source.imatrix.filled));
        notes.extend(summary.warnings.iter().map(ToString::to_string));
        if notes.len() > MAX_NOTES {
            let more = notes.len() - MAX_NOTES;
            notes.truncate(MAX_NOTES);
            notes.push(format!("and {more} more"));
        }
        let mut tensors = statistics::tensors(&summary.tensors);
        let kinds: BTreeMap<&str, &str> =
            summary.tensors.iter().map(|t| (t.stats.tensor.as_str(), t.kind.as_str())).collect();
        add_kinds(&mut tensors, |name| kinds.get(name).copied().unwrap_or_default());
        Self {
            name: &source.name,
            legacy: source.legacy,
            datasets: &source.imatrix.datasets,
            chunks: source.imatrix.chunk_count,
            chunk_size: source.imatrix.chunk_size,
            notes,
            tensors: CompactSheet::new(tensors),
            layers: CompactSheet::new(statistics::layers(&summary.layers)),
            experts: expert_maps(source, &summary),
            spectra: Spectra::new(source, &summary),
            lens: source.lens.as_ref(),
            convergence: source.convergence.as_ref().map(|file| &file.curve[..]),
        }
    }
}

/// Inserts a column with the kind of the weight after the second column, its name.
fn add_kinds<'k>(sheet: &mut Sheet, kind: impl Fn(&str) -> &'k str) {
    sheet.headings.insert(2, Heading::new("kind", "Kind", 0));
    for row in &mut sheet.rows {
        let Some(Cell::Text(name)) = row.get(1) else { continue };
        let kind = kind(name).to_owned();
        row.insert(2, Cell::Text(kind));
    }
}

impl CompactSheet {
    fn new(sheet: Sheet) -> Self {
        let mut rows = sheet.rows;
        for cell in rows.iter_mut().flatten() {
            if let Cell::Number(x) = cell {
                *x = rounded(*x, 5);
            }
        }
        Self {
            keys: sheet.headings.iter().map(|h| h.key).collect(),
            titles: sheet.headings.iter().map(|h| h.title).collect(),
            rows,
        }
    }
}

/// Rounds to a number of significant digits.
fn rounded(x: f64, digits: usize) -> f64 {
    format!("{x:.*e}", digits - 1).parse().unwrap_or(f64::NAN)
}

/// Rows per expert, per layer.
type Layers<'s, 'a> = Vec<(&'s str, &'a [i64])>;

fn expert_maps<'a>(source: &'a Source, summary: &Summary) -> Vec<ExpertMap<'a>> {
    let counts = |name: &str| source.imatrix.entries.get(name).map(|e| e.counts.as_slice());
    let mut by_kind: Vec<(String, Layers<'_, 'a>)> = Vec::new();
    for kind in summary.kinds() {
        let of_kind = summary.tensors.iter().filter(|t| t.kind == kind && t.experts.is_some());
        let rows: Vec<_> = of_kind.filter_map(|t| Some((t.layer.as_str(), counts(&t.stats.tensor)?))).collect();
        if rows.is_empty() {
            continue;
        }
        match by_kind.iter_mut().find(|(_, known)| *known == rows) {
            Some((kinds, _)) => *kinds = format!("{kinds}, {kind}"),
            None => by_kind.push((kind.to_owned(), rows)),
        }
    }
    // Weights with the same counts have the same filled experts.
    let filled = |kinds: &str, layer: &str| -> Vec<u32> {
        let is_first = |t: &&TensorSummary| t.layer == layer && kinds.split(", ").next() == Some(&*t.kind);
        let name = summary.tensors.iter().find(is_first).map(|t| &t.stats.tensor);
        let experts = name.and_then(|name| source.imatrix.filled.get(name));
        experts.map(|experts| experts.keys().copied().collect()).unwrap_or_default()
    };
    by_kind
        .into_iter()
        .map(|(kinds, rows)| {
            let row = |(layer, counts): (&str, &'a [i64])| ExpertRow {
                layer: layer.to_owned(),
                counts,
                filled: filled(&kinds, layer),
            };
            let rows = rows.into_iter().map(row).collect();
            ExpertMap { kinds, rows }
        })
        .collect()
}

impl Spectra {
    fn new(source: &Source, summary: &Summary) -> Self {
        let spectrum = |t: &TensorSummary| {
            source.imatrix.entries.get(&t.stats.tensor).map(|e| Spectrum::new(e, POINTS)).unwrap_or_default()
        };
        let spectra: Vec<Spectrum> = summary.tensors.par_iter().map(spectrum).collect();
        let mut ranks = BTreeMap::new();
        let tensors = spectra
            .into_iter()
            .map(|s| {
                ranks.entry(s.columns).or_insert(s.ranks);
                Curve {
                    columns: s.columns,
                    energy: s.relative.iter().map(|x| logarithm(*x)).collect(),
                    cumulative: s.cumulative.iter().map(|x| Cell::Number(rounded(*x, 3))).collect(),
                }
            })
            .collect();
        Self { ranks, tensors }
    }
}

fn logarithm(x: f64) -> Cell {
    if x > 0.0 { Cell::Number((x.log10() * 1e3).round() / 1e3) } else { Cell::Missing }
}
