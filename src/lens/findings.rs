//! The results per position, and their summary.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::base::LogitsFile;
use super::file::{
    self, Addition, Decomposition, Distance, FORMAT, Lens, LensFile, LensLayer, LensPoint, Part, Positions, Prism,
    PrismLayer, PrismPart, Similarity, SimilarityLayer, Spread, SumCheck, VERSION,
};
use super::measurements::Settings;

/// The measurements of a run.
#[derive(Debug, Clone)]
pub struct LensOptions {
    /// Logit lens: the prediction from the stream after each layer.
    pub lens: bool,
    /// Logit prism: the contribution of each part to the logits.
    pub prism: bool,
    /// Layer similarity: the cosine of the stream before and after each layer.
    pub similarity: bool,
    /// Maximum number of positions per chunk.
    pub per_chunk: usize,
    /// Seed for drawing positions.
    pub seed: u64,
    /// Final distributions for the lens; `None` for the model's own.
    pub base: Option<Base>,
}

/// A logits file, checked against the run's text.
#[derive(Debug, Clone)]
pub struct Base {
    /// Opened file.
    pub file: Arc<LogitsFile>,
    /// Index in the file of the run's first chunk.
    pub first_chunk: usize,
    /// Number of the run's chunks that the file has.
    pub n_chunks: usize,
}

/// `None` if not requested, an error if the architecture does not allow it.
pub(super) type Wanted<T> = Option<Result<Vec<T>, String>>;

/// A place where the lens reads the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Place {
    /// Before the first layer.
    Embedding,
    /// Between the attention and the feed-forward network of a layer.
    Between(u32),
    /// After a layer.
    After(u32),
}

/// The results per position, in order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Columns {
    /// Divergence, agreement and likelihood per place.
    pub(super) lens: Wanted<Place>,
    /// Raw and relative contribution per part, then the error of their sum: for the next token, then for the likeliest.
    pub(super) prism: Wanted<(Part, Option<u32>)>,
    /// Three cosines and three distances per layer. The item says if the layer has attention and a feed-forward network.
    pub(super) similarity: Wanted<(u32, bool, bool)>,
}

impl Columns {
    /// Returns the requested sections, all unsupported for the same reason.
    #[cfg_attr(not(feature = "llama"), allow(dead_code, reason = "only a run uses it"))]
    pub(super) fn unsupported(options: &LensOptions, reason: &str) -> Self {
        Self {
            lens: options.lens.then(|| Err(reason.to_owned())),
            prism: options.prism.then(|| Err(reason.to_owned())),
            similarity: options.similarity.then(|| Err(reason.to_owned())),
        }
    }
}

/// The layout of a row of results.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct RowLayout {
    pub(super) columns: Columns,
}

/// A section of a lens file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SectionId {
    Lens,
    Prism,
    Similarity,
}

#[cfg_attr(not(feature = "llama"), allow(dead_code, reason = "only a run uses it"))]
impl RowLayout {
    fn len(&self, section: SectionId) -> usize {
        let n = |n: Option<usize>, each: usize, more: usize| n.map_or(0, |n| n * each + more);
        match section {
            SectionId::Lens => n(self.columns.lens.as_ref().and_then(|c| Some(c.as_ref().ok()?.len())), 3, 0),
            SectionId::Prism => n(self.columns.prism.as_ref().and_then(|c| Some(c.as_ref().ok()?.len())), 4, 2),
            SectionId::Similarity => {
                n(self.columns.similarity.as_ref().and_then(|c| Some(c.as_ref().ok()?.len())), 6, 0)
            }
        }
    }

    /// Returns true if the section has columns.
    pub(super) fn measured(&self, section: SectionId) -> bool {
        self.len(section) > 0
    }

    /// Returns the first column of a section.
    pub(super) fn start(&self, section: SectionId) -> usize {
        match section {
            SectionId::Lens => 0,
            SectionId::Prism => self.len(SectionId::Lens),
            SectionId::Similarity => self.len(SectionId::Lens) + self.len(SectionId::Prism),
        }
    }

    /// Returns the number of columns.
    pub(super) fn width(&self) -> usize {
        self.start(SectionId::Similarity) + self.len(SectionId::Similarity)
    }
}

/// The results of one chunk.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(not(feature = "llama"), allow(dead_code, reason = "only a run uses it"))]
pub(crate) struct ChunkFindings {
    pub(super) layout: Arc<RowLayout>,
    /// One row per position, ascending.
    pub(super) rows: Vec<Vec<f64>>,
}

/// The results of all chunks of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Findings {
    /// Shared with the copies that checkpoints keep.
    chunks: BTreeMap<usize, Arc<ChunkFindings>>,
}

impl Findings {
    /// Inserts the results of a chunk, replacing earlier ones.
    pub(crate) fn insert(&mut self, chunk: usize, findings: ChunkFindings) {
        if self.layout().is_some_and(|layout| **layout != *findings.layout) {
            // They cannot be combined: the later ones count.
            self.chunks.clear();
        }
        self.chunks.insert(chunk, Arc::new(findings));
    }

    /// Adds the results of other chunks. Returns false, and adds nothing, if they have other parts.
    pub(super) fn join(&mut self, other: Self) -> bool {
        if let (Some(layout), Some(others)) = (self.layout(), other.layout())
            && layout != others
        {
            return false;
        }
        self.chunks.extend(other.chunks);
        true
    }

    /// Returns the columns of all rows.
    pub(super) fn layout(&self) -> Option<&Arc<RowLayout>> {
        self.chunks.values().next().map(|chunk| &chunk.layout)
    }

    /// Returns the chunks with their numbers, ascending.
    pub(super) fn chunks(&self) -> impl Iterator<Item = (usize, &ChunkFindings)> {
        self.chunks.iter().map(|(&chunk, findings)| (chunk, &**findings))
    }

    /// Removes a discarded chunk.
    #[cfg_attr(not(feature = "llama"), allow(dead_code, reason = "only a run uses it"))]
    pub(crate) fn remove(&mut self, chunk: usize) {
        self.chunks.remove(&chunk);
    }

    /// Returns true if every measured chunk fulfils a condition.
    pub(crate) fn are_of(&self, condition: impl Fn(u64) -> bool) -> bool {
        self.chunks.keys().all(|&chunk| condition(chunk as u64))
    }

    /// Returns true if no chunk was measured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Returns the number of measured chunks.
    #[must_use]
    pub fn n_chunks(&self) -> usize {
        self.chunks.len()
    }

    /// Summarizes the results. The chunks are taken in order, so the numbers do not depend on the order of evaluation.
    #[must_use]
    pub(super) fn file(&self, settings: &Settings, dataset: String, chunk_size: u32, run_chunks: u64) -> LensFile {
        let layout = self.chunks.values().next().map(|chunk| Arc::clone(&chunk.layout)).unwrap_or_default();
        let rows: Vec<&[f64]> = self.chunks.values().flat_map(|chunk| chunk.rows.iter().map(Vec::as_slice)).collect();
        let table = |section| Table { rows: &rows, start: layout.start(section) };
        let Settings { model, base, .. } = settings;
        let unsupported = |reason: &str| format!("{}: {reason}", model.architecture);
        LensFile {
            format: FORMAT.to_owned(),
            version: VERSION,
            dataset,
            positions: Positions {
                chunks: self.chunks.len() as u64,
                run_chunks: Some(run_chunks),
                chunk_size,
                per_chunk: settings.per_chunk,
                sampled: rows.len() as u64,
                seed: settings.seed,
            },
            lens: section(layout.columns.lens.as_ref(), &unsupported, |c| {
                lens(c, table(SectionId::Lens), base.clone())
            }),
            prism: section(layout.columns.prism.as_ref(), &unsupported, |c| prism(c, table(SectionId::Prism))),
            similarity: section(layout.columns.similarity.as_ref(), &unsupported, |c| {
                similarity(c, table(SectionId::Similarity))
            }),
            model: model.clone(),
        }
    }
}

fn section<C, T>(
    columns: Option<&Result<Vec<C>, String>>,
    unsupported: &impl Fn(&str) -> String,
    make: impl FnOnce(&[C]) -> T,
) -> Option<file::Section<T>> {
    Some(match columns? {
        Ok(columns) => file::Section::Measured(make(columns)),
        Err(reason) => file::Section::Unsupported { unsupported: unsupported(reason) },
    })
}

/// The results of a section for all positions.
#[derive(Clone, Copy)]
struct Table<'r> {
    rows: &'r [&'r [f64]],
    start: usize,
}

impl Table<'_> {
    fn column(&self, at: usize) -> impl Iterator<Item = f64> {
        self.rows.iter().map(move |row| row[self.start + at])
    }

    fn mean(&self, at: usize) -> f64 {
        mean(self.column(at), self.rows.len())
    }

    fn spread(&self, at: usize) -> Spread {
        spread(self.column(at).collect())
    }
}

fn mean(values: impl Iterator<Item = f64>, n: usize) -> f64 {
    values.sum::<f64>() / n as f64
}

/// Computes mean and quantiles. Quantiles interpolate linearly (Hyndman and Fan's type 7, as in numpy and R).
fn spread(mut values: Vec<f64>) -> Spread {
    let n = values.len();
    let mean = mean(values.iter().copied(), n);
    if n == 0 || mean.is_nan() {
        return Spread { mean, p5: f64::NAN, p25: f64::NAN, p50: f64::NAN, p75: f64::NAN, p95: f64::NAN };
    }
    values.sort_by(f64::total_cmp);
    let quantile = |q: f64| {
        let at = q * (n - 1) as f64;
        let (low, part) = (at.floor() as usize, at.fract());
        let high = (low + 1).min(n - 1);
        // In this form the quantiles ascend even if values are equal.
        if part == 0.0 { values[low] } else { values[low] + part * (values[high] - values[low]) }
    };
    Spread {
        mean,
        p5: quantile(0.05),
        p25: quantile(0.25),
        p50: quantile(0.5),
        p75: quantile(0.75),
        p95: quantile(0.95),
    }
}

fn lens(places: &[Place], table: Table<'_>, base: String) -> Lens {
    let mut lens = Lens { base, embedding: None, layers: Vec::new() };
    // Mean KL before the layer, and the point within it.
    let (mut before, mut between) = (f64::NAN, None);
    for (at, &place) in places.iter().enumerate() {
        let kl = table.spread(3 * at);
        let kl_reduction = before - kl.mean;
        let point =
            LensPoint { kl, kl_reduction, top1_agreement: table.mean(3 * at + 1), target_nll: table.mean(3 * at + 2) };
        match place {
            Place::Embedding => lens.embedding = Some(point),
            Place::Between(_) => {
                between = Some(point);
                continue;
            }
            Place::After(layer) => lens.layers.push(LensLayer { layer, point, after_attention: between.take() }),
        }
        before = kl.mean;
    }
    lens
}

fn prism(parts: &[(Part, Option<u32>)], table: Table<'_>) -> Prism {
    let of_likeliest = Table { start: table.start + 2 * parts.len() + 1, ..table };
    Prism { next_token: decomposition(parts, table), likeliest_token: Some(decomposition(parts, of_likeliest)) }
}

fn decomposition(parts: &[(Part, Option<u32>)], table: Table<'_>) -> Decomposition {
    let n = table.rows.len();
    let mean_abs = |at: usize| mean(table.column(at).map(f64::abs), n);
    let counted = || parts.iter().enumerate().filter(|(_, (part, _))| !part.is_detail());
    let totals = [0, 1].map(|kind| counted().map(|(at, _)| mean_abs(2 * at + kind)).sum::<f64>());
    let addition = |at: usize, kind: usize| {
        let mean_abs = mean_abs(2 * at + kind);
        Addition { mean: table.mean(2 * at + kind), mean_abs, share: mean_abs / totals[kind] }
    };
    let largest = |a: f64, b: f64| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) };
    let error = table.column(2 * parts.len()).fold(if n == 0 { f64::NAN } else { 0.0 }, largest);
    let always = |part: Part| !matches!(part, Part::NormBias | Part::OutputBias | Part::Rounding);
    Decomposition {
        parts: (parts.iter().enumerate())
            .map(|(at, &(part, layer))| PrismPart { part, layer, raw: addition(at, 0), relative: addition(at, 1) })
            .filter(|part| always(part.part) || part.raw.mean_abs != 0.0)
            .collect(),
        layers: layers(parts, table),
        sum_check: SumCheck { max_relative_error: error },
    }
}

/// Sums the parts of each layer per position before taking absolute values: the parts of a layer may cancel each other.
fn layers(parts: &[(Part, Option<u32>)], table: Table<'_>) -> Vec<PrismLayer> {
    let n = table.rows.len();
    let counted = || parts.iter().enumerate().filter(|(_, (part, _))| !part.is_detail());
    let mut columns: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (at, (_, layer)) in counted() {
        columns.entry((*layer).unwrap_or(u32::MAX)).or_default().push(2 * at);
    }
    let outside = columns.remove(&u32::MAX).unwrap_or_default();
    let sums = |columns: &[usize], kind: usize| -> Vec<f64> {
        let of_row = |row: &&[f64]| columns.iter().map(|at| row[table.start + at + kind]).sum();
        table.rows.iter().map(of_row).collect()
    };
    let absolute = |columns: &[usize], kind: usize| mean(sums(columns, kind).into_iter().map(f64::abs), n);
    let totals = [0, 1].map(|kind| {
        let of_outside: f64 = outside.iter().map(|at| absolute(&[*at], kind)).sum();
        of_outside + columns.values().map(|columns| absolute(columns, kind)).sum::<f64>()
    });
    let addition = |columns: &[usize], kind: usize| {
        let mean_abs = absolute(columns, kind);
        Addition { mean: mean(sums(columns, kind).into_iter(), n), mean_abs, share: mean_abs / totals[kind] }
    };
    let layer = |(&layer, columns): (&u32, &Vec<usize>)| PrismLayer {
        layer,
        raw: addition(columns, 0),
        relative: addition(columns, 1),
    };
    columns.iter().map(layer).collect()
}

fn similarity(layers: &[(u32, bool, bool)], table: Table<'_>) -> Similarity {
    let layer = |(at, &(layer, attention, feed_forward)): (usize, &(u32, bool, bool))| {
        let spread = |i: usize| table.spread(6 * at + i);
        SimilarityLayer {
            layer,
            whole: spread(0),
            attention: attention.then(|| spread(1)),
            feed_forward: feed_forward.then(|| spread(2)),
            distance: Some(Distance {
                whole: spread(3),
                attention: attention.then(|| spread(4)),
                feed_forward: feed_forward.then(|| spread(5)),
            }),
        }
    };
    Similarity { layers: layers.iter().enumerate().map(layer).collect() }
}

#[cfg(test)]
mod tests {
    use super::super::file::Model;
    use super::super::{FindingsTable, Measurements, Settings};
    use super::*;

    #[test]
    fn quantiles_match_numpy() {
        // numpy.quantile([1, 2, 4, 8, 16], [.05, .25, .5, .75, .95])
        let s = spread(vec![16.0, 1.0, 8.0, 2.0, 4.0]);
        assert_eq!((s.p5, s.p25, s.p50, s.p75), (1.2, 2.0, 4.0, 8.0));
        assert!((s.p95 - 14.4).abs() < 1e-12 && (s.mean - 6.2).abs() < 1e-12);
        assert!(spread(vec![]).mean.is_nan() && spread(vec![1.0, f64::NAN]).p50.is_nan());
        assert!((spread(vec![3.0]).p95 - 3.0).abs() < 1e-12);
    }

    #[test]
    fn chunks_are_summarized_in_order_and_removed_chunks_do_not_count() {
        let columns = Columns {
            lens: Some(Ok(vec![Place::Embedding, Place::Between(0), Place::After(0)])),
            prism: Some(Err("no sum".to_owned())),
            similarity: Some(Ok(vec![(0, true, false)])),
        };
        let layout = Arc::new(RowLayout { columns });
        assert_eq!((layout.width(), layout.start(SectionId::Similarity)), (15, 9));
        let chunk = |kl: f64| ChunkFindings {
            layout: Arc::clone(&layout),
            rows: vec![vec![kl, 0.0, 5.0, kl / 4.0, 0.5, 4.0, 0.0, 1.0, 3.0, 0.5, 0.9, f64::NAN, 2.0, kl, f64::NAN]],
        };
        let mut findings = Findings::default();
        findings.insert(1, chunk(3.0));
        findings.insert(0, chunk(1.0));
        findings.insert(2, chunk(f64::NAN));
        findings.remove(2);
        let options = LensOptions { lens: true, prism: true, similarity: true, per_chunk: 1, seed: 0, base: None };
        let model = Model { name: "m".into(), architecture: "arch".into(), n_layer: 1 };
        let measurements = Measurements { settings: Settings::new(model, &options), findings };
        let file = measurements.file("text".into(), 8, 2);
        file.check().unwrap();
        let Some(file::Section::Measured(lens)) = &file.lens else { panic!() };
        assert_eq!((lens.embedding.as_ref().unwrap().kl.mean, lens.layers[0].point.kl_reduction), (2.0, 2.0));
        // The layer's reduction is from before it; the attention's share of it is beside it.
        let within = lens.layers[0].after_attention.as_ref().unwrap();
        assert_eq!((within.kl.mean, within.kl_reduction), (0.5, 1.5));
        let Some(file::Section::Unsupported { unsupported }) = &file.prism else { panic!() };
        assert_eq!(unsupported, "arch: no sum");
        let Some(file::Section::Measured(similarity)) = &file.similarity else { panic!() };
        assert!(similarity.layers[0].feed_forward.is_none());
        assert!((similarity.layers[0].attention.unwrap().p50 - 0.9).abs() < 1e-12);
        let distance = similarity.layers[0].distance.unwrap();
        assert_eq!((distance.whole.mean, distance.attention.unwrap().mean), (2.0, 2.0));
        assert_eq!((file.positions.chunks, file.positions.sampled), (2, 2));

        // As a table and back they are the same; with other settings they are not combined.
        let table = measurements.table().unwrap();
        let again = Measurements::from_table(measurements.settings.clone(), &table).unwrap();
        assert_eq!(format!("{again:?}"), format!("{measurements:?}"));
        let broken = FindingsTable { values: table.values[1..].to_vec(), ..table.clone() };
        assert!(Measurements::from_table(measurements.settings.clone(), &broken).is_err());
        let mut other = again.clone();
        other.settings.seed += 1;
        let mut whole = again;
        assert!(!whole.join(other) && whole.findings.n_chunks() == 2);
    }
    #[test]
    fn a_layer_is_the_sum_of_its_parts_at_each_position() {
        let parts = [
            (Part::Embedding, None),
            (Part::Attention, Some(0)),
            (Part::FeedForward, Some(0)),
            (Part::SharedExperts, Some(0)),
            (Part::Rounding, None),
        ];
        // Attention and feed-forward cancel at the first position and add up at the second; a detail does not count.
        let rows: [&[f64]; 2] = [
            &[1.0, 0.5, 2.0, 1.0, -2.0, -1.5, 9.0, 9.0, 0.0, 0.0, 0.1],
            &[-1.0, 0.5, 2.0, 1.0, 4.0, 3.0, 9.0, 9.0, 0.0, 0.0, 0.2],
        ];
        let found = decomposition(&parts, Table { rows: &rows, start: 0 });
        let [layer] = &found.layers[..] else { panic!("{:?}", found.layers) };
        assert_eq!((layer.raw.mean, layer.raw.mean_abs, layer.raw.share), (3.0, 3.0, 0.75));
        assert_eq!((layer.relative.mean, layer.relative.mean_abs), (1.75, 2.25));
        let of_parts: f64 =
            found.parts.iter().filter(|p| p.layer.is_some() && !p.part.is_detail()).map(|p| p.raw.mean_abs).sum();
        assert!((of_parts - 5.0).abs() < 1e-12, "the parts alone say more than the layer does");
        assert!((found.sum_check.max_relative_error - 0.2).abs() < 1e-12);
    }
}
