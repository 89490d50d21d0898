//! Statistics of an importance matrix, per weight and per layer.
//!
//! They are upstream's, in its order of operations and its precision at each step, so that what is
//! written and printed has the same bits. With `x̄` the average activation of a column and `e` its
//! average square (what the imatrix stores, divided by the count):
//!
//! - over a weight's columns: the sum of `e`, and mean, standard deviation, skewness and excess
//!   kurtosis of `x̄` (of `e` for legacy data, which has no `x̄`), and the entropy of `e` as a
//!   distribution;
//! - against the same weight of the layer before: Euclidean distance, cosine similarity, Pearson's
//!   correlation and covariance of `x̄` (or `e`), and the gain, the ratio of root mean `e`.
//!
//! Formulas: llama.cpp, `tools/imatrix/imatrix.cpp` and its README.
//!
//! [`Summary`] adds what upstream has not: extremes, outliers, concentration, constant offset, experts.
//! [`MatrixDivergence`] holds one matrix against another. `docs/stats.md` has their formulas.

mod columns;
mod compare;
mod coverage;
mod distribution;
mod divergence;
mod lanes;
mod layer;
mod logarithm;
pub mod name;
pub(crate) mod parallel;
mod rank;
mod spectrum;
mod summary;
mod vector;

use std::collections::BTreeMap;
use std::fmt;

pub use compare::Comparison;
pub use coverage::{ExpertCoverage, RARE};
pub use distribution::Distribution;
pub use divergence::{Counts, Divergence, LayerDivergence, MatrixDivergence, TensorDivergence};
pub use layer::{LayerStats, layer_statistics};
pub use spectrum::Spectrum;
pub use summary::{LayerSummary, Summary, TensorSummary, kind};

use crate::imatrix::{Entry, Numbers, Values};
use name::{TensorName, first_nextn_layer};

/// Names of the twelve statistics in the order a GGUF file's `.stats` tensors have them.
pub const SCHEMA: [&str; 12] = [
    "sum_sq",
    "mean",
    "elements",
    "std_deviation",
    "skewness",
    "kurtosis",
    "gain",
    "h_norm",
    "l2_dist",
    "cossim",
    "pearson",
    "covariance",
];

/// The statistics of one weight.
///
/// Those against the layer before are NaN where there is none to compare with.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorStats {
    /// The weight's name.
    pub tensor: String,
    /// Whether the data has no sums of activations.
    pub legacy: bool,
    /// Sum of the columns' average squares, upstream's `∑ E[A²]`.
    pub sum: f64,
    /// Mean of the columns' averages.
    pub mean: f32,
    /// Columns with finite data.
    pub elements: i64,
    /// Standard deviation (population) of the columns' averages.
    pub std_deviation: f32,
    /// Skewness of the columns' averages.
    pub skewness: f32,
    /// Excess kurtosis of the columns' averages.
    pub kurtosis: f32,
    /// Entropy, in bits, of the average squares as a distribution over the columns.
    pub entropy: f32,
    /// Root mean `e` here over that of the layer before.
    pub gain: f32,
    /// Euclidean distance from the layer before.
    pub l2_dist: f32,
    /// Cosine similarity with the layer before.
    pub cossim: f32,
    /// Pearson's correlation with the layer before.
    pub pearson: f32,
    /// Covariance with the layer before.
    pub covariance: f32,
    /// The sums that the comparison is made of; all zero without one.
    pub comparison: Comparison,
}

impl TensorStats {
    /// The entropy in percent of what equal columns would have; NaN for fewer than two columns.
    #[must_use]
    pub fn h_norm(&self) -> f32 {
        if self.elements > 1 { 100.0 * (self.entropy / (self.elements as f32).log2()) } else { f32::NAN }
    }

    /// The statistics in the order of [`SCHEMA`].
    #[must_use]
    pub fn values(&self) -> [f32; SCHEMA.len()] {
        [
            self.sum as f32,
            self.mean,
            self.elements as f32,
            self.std_deviation,
            self.skewness,
            self.kurtosis,
            self.gain,
            self.h_norm(),
            self.l2_dist,
            self.cossim,
            self.pearson,
            self.covariance,
        ]
    }
}

/// The statistics of all weights of a matrix.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// The weights that have data, by name.
    pub tensors: Vec<TensorStats>,
    /// The first layer that is a `NextN` layer, `i32::MAX` without any.
    pub nextn_start: i32,
    /// What could not be computed.
    pub warnings: Vec<Warning>,
}

/// A statistic that could not be computed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// The weight's counts and sums are empty or do not fit together.
    NoData {
        /// The weight.
        tensor: String,
    },
    /// No earlier layer has a weight of this name.
    NoPrecedingLayer {
        /// The weight.
        tensor: String,
    },
    /// No column of the weight has a finite average: it was never reached, or its sums are not finite.
    NothingFinite {
        /// The weight.
        tensor: String,
    },
    /// Some columns were left out because their sums are not finite.
    NotFinite {
        /// The weight.
        tensor: String,
        /// How many.
        columns: u64,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::NoData { tensor } => {
                write!(f, "data size mismatch or empty for tensor {tensor}")
            }
            Warning::NoPrecedingLayer { tensor } => {
                write!(f, "no preceding-layer tensor for '{tensor}'")
            }
            Warning::NothingFinite { tensor } => {
                write!(f, "'{tensor}' has no rows, or no sum that is finite: it is left out")
            }
            Warning::NotFinite { tensor, columns } => {
                write!(f, "'{tensor}' has {columns} columns whose sums are not finite: they are left out")
            }
        }
    }
}

impl Statistics {
    /// Computes the statistics of all entries that have data.
    ///
    /// `n_layer_nextn` is the number of `NextN` layers on top, 0 to tell them by their names.
    #[must_use]
    pub fn new<V: Values>(entries: &BTreeMap<String, Entry<V>>, n_layer_nextn: i32) -> Self {
        let entries = entries.iter().map(|(name, entry)| (name.clone(), entry.view())).collect();
        Self::of_views(&entries, n_layer_nextn)
    }

    fn of_views(entries: &BTreeMap<String, Entry<Numbers<'_>>>, n_layer_nextn: i32) -> Self {
        let listed: Vec<vector::Named<'_>> = entries.iter().map(|(name, entry)| (name.as_str(), entry)).collect();
        let mut out = Self::default();
        for ((name, _), result) in listed.iter().zip(vectors(&listed)) {
            match result {
                Some(Ok(stats)) => out.tensors.extend(stats),
                Some(Err(vector::Unusable)) | None => {
                    out.warnings.push(Warning::NoData { tensor: (*name).to_owned() });
                }
            }
        }
        out.nextn_start = first_nextn_layer(out.tensors.iter().map(|t| TensorName::new(&t.tensor)), n_layer_nextn);
        let tensors = std::mem::take(&mut out.tensors);
        let compared = compare::with_preceding(&tensors, entries, out.nextn_start, &mut out.warnings);
        out.tensors = tensors;
        for (stats, comparison) in out.tensors.iter_mut().zip(compared) {
            if let Some(c) = comparison {
                c.store(stats);
            }
        }
        out
    }

    /// The statistics of one weight.
    #[must_use]
    pub fn get(&self, tensor: &str) -> Option<&TensorStats> {
        let found = self.tensors.binary_search_by(|t| t.tensor.as_str().cmp(tensor)).ok()?;
        self.tensors.get(found)
    }
}

/// The weights' own statistics, in their order.
fn vectors(listed: &[vector::Named<'_>]) -> Vec<Option<Result<Option<TensorStats>, vector::Unusable>>> {
    let sizes: Vec<usize> = listed.iter().map(|(_, e)| e.sum2.len()).collect();
    let work = sizes.iter().sum();
    let groups = parallel::groups(&sizes);
    let computed =
        parallel::map(&groups, work, |group| vector::statistics(&group.iter().map(|&i| listed[i]).collect::<Vec<_>>()));
    let mut out: Vec<_> = listed.iter().map(|_| None).collect();
    for (&i, result) in groups.iter().flatten().zip(computed.into_iter().flatten()) {
        out[i] = Some(result);
    }
    out
}
