//! Compares two matrices: how differently they weight the columns.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::name::{TensorName, layer_label};
use super::rank::spearman;
use super::summary;
use crate::imatrix::{Entry, Imatrix};

/// Measures of the difference between two matrices, for one weight or layer. NaN if undefined.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divergence {
    /// Cosine similarity of the average squares.
    pub cosine: f64,
    /// Euclidean norm of their difference, divided by the norm of the first.
    pub relative_l2: f64,
    /// Spearman's rank correlation: 1 if both rank the columns in the same order.
    pub spearman: f64,
    /// Jensen-Shannon divergence of the average squares as distributions over the columns, in bits (0 to 1).
    pub jsd: f64,
    /// Sum of the average squares of the second matrix, divided by that of the first.
    pub energy_ratio: f64,
}

impl Divergence {
    const NONE: Self =
        Self { cosine: f64::NAN, relative_l2: f64::NAN, spearman: f64::NAN, jsd: f64::NAN, energy_ratio: f64::NAN };
}

/// Rows and unseen matrices of a weight in one of the two files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Number of rows of all matrices.
    pub rows: i64,
    /// Number of matrices without rows.
    pub unseen: usize,
}

/// The comparison of one weight.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorDivergence {
    /// Name of the weight.
    pub tensor: String,
    /// Layer number; `None` outside the layers.
    pub block: Option<i32>,
    /// Layer label: the number, `mtp0` and up for `NextN` layers, `-` outside the layers.
    pub layer: String,
    /// Name without the layer.
    pub kind: String,
    /// Measures of the difference.
    pub divergence: Divergence,
    /// Number of columns that have finite data in both.
    pub common: usize,
    /// Counts in the first matrix; `None` if it does not have the weight.
    pub first: Option<Counts>,
    /// Counts in the second matrix; `None` if it does not have the weight.
    pub second: Option<Counts>,
    /// True if the weight has different sizes.
    pub sizes_differ: bool,
    sums: Sums,
}

/// The comparison of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerDivergence {
    /// Layer number.
    pub block: i32,
    /// Layer label: the number, `mtp0` and up for `NextN` layers, `-` outside the layers.
    pub layer: String,
    /// Number of weights that both matrices have.
    pub tensors: usize,
    /// Cosine, distance and ratio over the columns of all weights; mean rank correlation and mean divergence of the weights.
    pub divergence: Divergence,
}

/// The comparison of two matrices, per weight and per layer.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixDivergence {
    /// Weights of either matrix: by layer, then by name; weights outside the layers last.
    pub tensors: Vec<TensorDivergence>,
    /// Layers, ascending.
    pub layers: Vec<LayerDivergence>,
}

impl MatrixDivergence {
    /// Compares two matrices on all cores.
    #[must_use]
    pub fn new(first: &Imatrix, second: &Imatrix) -> Self {
        let mut names: Vec<&String> = first.entries.keys().chain(second.entries.keys()).collect();
        names.sort_unstable();
        names.dedup();
        let nextn_start = super::name::first_nextn_layer(
            names.iter().map(|n| TensorName::new(n)),
            first.n_layer_nextn.max(second.n_layer_nextn),
        );
        let compare = |name: &&String| {
            let block = TensorName::new(name).block();
            let (a, b) = (first.entries.get(*name), second.entries.get(*name));
            let (sums, spearman) = match (a, b) {
                (Some(a), Some(b)) => compare_entries(a, b),
                _ => (Sums::default(), f64::NAN),
            };
            TensorDivergence {
                tensor: (*name).clone(),
                block,
                layer: layer_label(block.unwrap_or(-1), nextn_start),
                kind: summary::kind(name),
                divergence: sums.divergence(spearman, sums.jsd),
                common: sums.columns,
                first: a.map(counts),
                second: b.map(counts),
                sizes_differ: matches!((a, b), (Some(a), Some(b)) if a.sum2.len() != b.sum2.len()),
                sums,
            }
        };
        let mut tensors: Vec<_> = names.par_iter().map(compare).collect();
        tensors.sort_by_key(|t| t.block.map_or(i64::MAX, i64::from));
        let layers = layers(&tensors);
        Self { tensors, layers }
    }
}

impl Divergence {
    /// Compares one expert of two entries; `None` unless both have as many experts, of the same size.
    #[must_use]
    pub fn of_expert(a: &Entry, b: &Entry, expert: usize) -> Option<Self> {
        let one = |entry: &Entry| {
            let row = entry.row_len()?;
            let sum2 = entry.sum2.get(expert * row..(expert + 1) * row)?.to_vec();
            Some(Entry { sum2, sum: None, counts: vec![*entry.counts.get(expert)?] })
        };
        let same = a.counts.len() == b.counts.len() && a.sum2.len() == b.sum2.len();
        let (a, b) = (one(a).filter(|_| same)?, one(b)?);
        let (sums, spearman) = compare_entries(&a, &b);
        Some(sums.divergence(spearman, sums.jsd))
    }
}

fn counts(entry: &Entry) -> Counts {
    Counts {
        rows: entry.counts.iter().fold(0, |sum, &c| sum.saturating_add(c)),
        unseen: entry.counts.iter().filter(|&&c| c <= 0).count(),
    }
}

/// The sums that a comparison is computed from. The sums of a layer are the sums over its weights.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    columns: usize,
    dot: f64,
    first_sq: f64,
    second_sq: f64,
    difference_sq: f64,
    first: f64,
    second: f64,
    jsd: f64,
}

fn compare_entries(a: &Entry, b: &Entry) -> (Sums, f64) {
    let (x, y) = common(a, b);
    let mut s = Sums { columns: x.len(), ..Sums::default() };
    for (p, q) in x.iter().zip(&y).map(|(&p, &q)| (f64::from(p), f64::from(q))) {
        s.dot += p * q;
        s.first_sq += p * p;
        s.second_sq += q * q;
        s.difference_sq += (p - q) * (p - q);
        s.first += p;
        s.second += q;
    }
    s.jsd = jensen_shannon(&x, &y, s.first, s.second);
    (s, spearman(&x, &y))
}

/// Returns the average squares of the columns that are finite and not negative in both.
fn common(a: &Entry, b: &Entry) -> (Vec<f32>, Vec<f32>) {
    let (mut x, mut y) = (Vec::new(), Vec::new());
    let rows = (a.row_len().unwrap_or(0), b.row_len().unwrap_or(0));
    if rows.0 == 0 || a.sum2.len() != b.sum2.len() {
        return (x, y);
    }
    x.reserve_exact(a.sum2.len());
    y.reserve_exact(a.sum2.len());
    // One entry may have a single count, the other a count per matrix.
    let step = rows.0.min(rows.1);
    for (i, (p, q)) in a.sum2.chunks(step).zip(b.sum2.chunks(step)).enumerate() {
        let count = |e: &Entry, row: usize| e.counts.get(i * step / row).copied().filter(|&c| c > 0);
        let (Some(n), Some(m)) = (count(a, rows.0), count(b, rows.1)) else { continue };
        for (&p, &q) in p.iter().zip(q) {
            let (p, q) = ((f64::from(p) / n as f64) as f32, (f64::from(q) / m as f64) as f32);
            if p.is_finite() && q.is_finite() && p >= 0.0 && q >= 0.0 {
                x.push(p);
                y.push(q);
            }
        }
    }
    (x, y)
}

/// Returns `(KL(p ‖ m) + KL(q ‖ m)) / 2` in bits, where m is the mean of the two distributions (Lin, 1991).
fn jensen_shannon(x: &[f32], y: &[f32], x_sum: f64, y_sum: f64) -> f64 {
    if x_sum <= 0.0 || y_sum <= 0.0 {
        return f64::NAN;
    }
    let term = |p: f64, m: f64| if p > 0.0 { p * (p / m).log2() } else { 0.0 };
    let sum: f64 = x
        .iter()
        .zip(y)
        .map(|(&p, &q)| {
            let (p, q) = (f64::from(p) / x_sum, f64::from(q) / y_sum);
            let m = 0.5 * (p + q);
            term(p, m) + term(q, m)
        })
        .sum();
    (sum / 2.0).clamp(0.0, 1.0)
}

impl Sums {
    fn divergence(&self, spearman: f64, jsd: f64) -> Divergence {
        if self.columns == 0 {
            return Divergence::NONE;
        }
        let ratio = |a: f64, b: f64| if b > 0.0 { a / b } else { f64::NAN };
        Divergence {
            cosine: ratio(self.dot, self.first_sq.sqrt() * self.second_sq.sqrt()).clamp(-1.0, 1.0),
            relative_l2: ratio(self.difference_sq.sqrt(), self.first_sq.sqrt()),
            spearman,
            jsd,
            energy_ratio: ratio(self.second, self.first),
        }
    }
}

fn layers(tensors: &[TensorDivergence]) -> Vec<LayerDivergence> {
    let mut by_block: BTreeMap<i32, Vec<&TensorDivergence>> = BTreeMap::new();
    for t in tensors.iter().filter(|t| t.first.is_some() && t.second.is_some()) {
        if let Some(block) = t.block {
            by_block.entry(block).or_default().push(t);
        }
    }
    let layer = |(block, tensors): (i32, Vec<&TensorDivergence>)| {
        let mut sums = Sums::default();
        for s in tensors.iter().map(|t| &t.sums) {
            sums.columns += s.columns;
            sums.dot += s.dot;
            sums.first_sq += s.first_sq;
            sums.second_sq += s.second_sq;
            sums.difference_sq += s.difference_sq;
            sums.first += s.first;
            sums.second += s.second;
        }
        let mean = |of: fn(&Divergence) -> f64| {
            let known: Vec<f64> = tensors.iter().map(|t| of(&t.divergence)).filter(|x| !x.is_nan()).collect();
            if known.is_empty() { f64::NAN } else { known.iter().sum::<f64>() / known.len() as f64 }
        };
        LayerDivergence {
            block,
            layer: tensors.first().map(|t| t.layer.clone()).unwrap_or_default(),
            tensors: tensors.len(),
            divergence: sums.divergence(mean(|d| d.spearman), mean(|d| d.jsd)),
        }
    };
    by_block.into_iter().map(layer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(entries: &[(&str, &[f32], &[i64])]) -> Imatrix {
        let entry = |(name, sum2, counts): &(&str, &[f32], &[i64])| {
            ((*name).to_owned(), Entry { sum2: sum2.to_vec(), sum: None, counts: counts.to_vec() })
        };
        Imatrix { entries: entries.iter().map(entry).collect(), ..Imatrix::default() }
    }

    #[test]
    fn measures_are_those_worked_out_by_hand() {
        // Average squares (3, 1) and (1, 1).
        let a = matrix(&[("blk.0.a.weight", &[6.0, 2.0], &[2])]);
        let b = matrix(&[("blk.0.a.weight", &[4.0, 4.0], &[4])]);
        let m = MatrixDivergence::new(&a, &b);
        let d = m.tensors[0].divergence;
        assert!((d.cosine - 4.0 / 20.0_f64.sqrt()).abs() < 1e-12);
        assert!((d.relative_l2 - 2.0 / 10.0_f64.sqrt()).abs() < 1e-12);
        assert!((d.energy_ratio - 0.5).abs() < 1e-12 && d.spearman.is_nan());
        // H(5/8, 3/8) - (H(3/4, 1/4) + H(1/2, 1/2)) / 2
        let h = |p: f64| -p * p.log2() - (1.0 - p) * (1.0 - p).log2();
        assert!((d.jsd - (h(0.625) - 0.5 * (h(0.75) + 1.0))).abs() < 1e-12);
        assert!((m.layers[0].divergence.cosine - d.cosine).abs() < 1e-12);
        assert_eq!((m.tensors[0].first.unwrap().rows, m.tensors[0].second.unwrap().rows), (2, 4));
    }

    #[test]
    fn equal_matrices_diverge_by_zero_and_disjoint_ones_by_one_bit() {
        let a = matrix(&[("w", &[1.0, 2.0, 0.0], &[1])]);
        let d = MatrixDivergence::new(&a, &a).tensors[0].divergence;
        assert!((d.cosine - 1.0).abs() < 1e-12 && (d.spearman - 1.0).abs() < 1e-12);
        assert_eq!((d.relative_l2.to_bits(), d.jsd.to_bits()), (0, 0));
        let b = matrix(&[("w", &[0.0, 0.0, 7.0], &[1])]);
        let d = MatrixDivergence::new(&a, &b).tensors[0].divergence;
        assert!((d.jsd - 1.0).abs() < 1e-12 && d.cosine.abs() < 1e-12);
    }

    #[test]
    fn columns_with_data_in_only_one_matrix_are_left_out() {
        let a = matrix(&[("e", &[1.0, 2.0, 3.0, 4.0], &[1, 0]), ("only", &[1.0], &[1]), ("size", &[1.0], &[1])]);
        let b = matrix(&[("e", &[1.0, f32::NAN, 3.0, 4.0], &[2]), ("size", &[1.0; 2], &[1])]);
        let m = MatrixDivergence::new(&a, &b);
        assert_eq!(m.tensors.iter().map(|t| t.common).collect::<Vec<_>>(), [1, 0, 0]);
        assert_eq!((m.tensors[1].second, m.tensors[2].sizes_differ), (None, true));
        assert!(m.tensors[1].divergence.jsd.is_nan() && m.layers.is_empty());
        let silent = matrix(&[("w", &[0.0], &[1])]);
        let d = MatrixDivergence::new(&silent, &silent).tensors[0].divergence;
        assert!(d.jsd.is_nan() && d.cosine.is_nan() && d.relative_l2.is_nan());
    }
}
