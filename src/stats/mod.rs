//! Statistics of an importance matrix, per weight and per layer.
//!
//! The statistics are upstream's, with its order of operations and its precision at each step, so that files and tables
//! have the same bytes. `x̄` is the average activation of a column and `e` its average square (the sums of the matrix
//! divided by the count):
//!
//! - over the columns of a weight: the sum of `e`; mean, standard deviation, skewness and excess kurtosis of `x̄` (of `e`
//!   in legacy data, which has no `x̄`); the entropy of `e` as a distribution;
//! - against the same weight of the preceding layer: Euclidean distance, cosine similarity, Pearson's correlation and
//!   covariance of `x̄` (or `e`); the gain, which is the ratio of the root means of `e`.
//!
//! Formulas: llama.cpp, `tools/imatrix/imatrix.cpp` and its README.
//!
//! [`Summary`] adds statistics that upstream does not have: extremes, outliers, concentration, constant offset, expert
//! coverage. [`MatrixDivergence`] compares two matrices. `docs/stats.md` has the formulas.

mod columns;
mod compare;
mod coverage;
mod distribution;
mod divergence;
mod layer;
pub(crate) mod name;
mod rank;
mod spectrum;
mod summary;
mod vector;
mod write;

use std::collections::BTreeMap;
use std::fmt;

use rayon::prelude::*;

pub use coverage::ExpertCoverage;
pub use distribution::Distribution;
pub use divergence::{Counts, Divergence, LayerDivergence, MatrixDivergence, TensorDivergence};
pub use layer::LayerStats;
pub(crate) use layer::layer_statistics;
pub use spectrum::Spectrum;
pub(crate) use summary::kind;
pub use summary::{LayerSummary, Summary, TensorSummary};

use crate::imatrix::{Entry, Numbers, Values};
use compare::Comparison;
use name::{TensorName, first_nextn_layer};

/// Names of the twelve statistics, in the order of the `.stats` tensors of a GGUF file.
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
/// Statistics against the preceding layer are NaN if there is no such layer.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorStats {
    /// Name of the weight.
    pub tensor: String,
    /// True if the data has no sums of activations.
    pub legacy: bool,
    /// Sum of the columns' average squares, upstream's `∑ E[A²]`.
    pub sum: f64,
    /// Mean of the columns' averages.
    pub mean: f32,
    /// Number of columns with finite data.
    pub elements: i64,
    /// Standard deviation (population) of the columns' averages.
    pub std_deviation: f32,
    /// Skewness of the columns' averages.
    pub skewness: f32,
    /// Excess kurtosis of the columns' averages.
    pub kurtosis: f32,
    /// Entropy, in bits, of the average squares as a distribution over the columns.
    pub entropy: f32,
    /// Root mean of `e`, divided by that of the preceding layer.
    pub gain: f32,
    /// Euclidean distance from the preceding layer.
    pub l2_dist: f32,
    /// Cosine similarity with the preceding layer.
    pub cossim: f32,
    /// Pearson's correlation with the preceding layer.
    pub pearson: f32,
    /// Covariance with the preceding layer.
    pub covariance: f32,
    /// Sums that the comparison is computed from; all zero if there is no preceding layer.
    pub(crate) comparison: Comparison,
}

impl TensorStats {
    /// Returns the entropy in percent of the entropy of equal columns; NaN for fewer than two columns.
    #[must_use]
    pub(crate) fn h_norm(&self) -> f32 {
        if self.elements > 1 { 100.0 * (self.entropy / (self.elements as f32).log2()) } else { f32::NAN }
    }

    /// Returns the statistics in the order of [`SCHEMA`].
    #[must_use]
    pub(crate) fn values(&self) -> [f32; SCHEMA.len()] {
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
    /// Weights that have data, by name.
    pub tensors: Vec<TensorStats>,
    /// First `NextN` layer; `i32::MAX` if there is none.
    pub nextn_start: i32,
    /// Statistics that could not be computed.
    pub warnings: Vec<Warning>,
}

/// A statistic that could not be computed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// The counts or sums of a weight are empty, or their lengths do not match.
    NoData {
        /// Name of the weight.
        tensor: String,
    },
    /// No preceding layer has a weight of this name.
    NoPrecedingLayer {
        /// Name of the weight.
        tensor: String,
    },
    /// No column of the weight has a finite average: no row reached it, or its sums are not finite.
    NothingFinite {
        /// Name of the weight.
        tensor: String,
    },
    /// Some columns were left out because their sums are not finite.
    NotFinite {
        /// Name of the weight.
        tensor: String,
        /// Number of columns left out.
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
                write!(f, "'{tensor}' has no rows or no finite sums and is left out")
            }
            Warning::NotFinite { tensor, columns } => {
                write!(f, "'{tensor}' has {columns} columns whose sums are not finite; they are left out")
            }
        }
    }
}

impl Statistics {
    /// Computes the statistics of all entries that have data.
    ///
    /// `n_layer_nextn` is the number of `NextN` layers at the end, or 0 to find them by the names of their weights.
    #[must_use]
    pub(crate) fn new<V: Values>(entries: &BTreeMap<String, Entry<V>>, n_layer_nextn: i32) -> Self {
        let entries = entries.iter().map(|(name, entry)| (name.clone(), entry.view())).collect();
        Self::of_views(&entries, n_layer_nextn)
    }

    fn of_views(entries: &BTreeMap<String, Entry<Numbers<'_>>>, n_layer_nextn: i32) -> Self {
        let listed: Vec<_> = entries.iter().collect();
        let results: Vec<_> = listed.par_iter().map(|(name, entry)| vector::statistics(name, entry)).collect();
        let mut out = Self::default();
        for ((name, _), result) in listed.into_iter().zip(results) {
            match result {
                Ok(stats) => out.tensors.extend(stats),
                Err(vector::Unusable) => out.warnings.push(Warning::NoData { tensor: name.clone() }),
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

    /// Returns the statistics of one weight.
    #[cfg(test)]
    pub(crate) fn get(&self, tensor: &str) -> Option<&TensorStats> {
        let found = self.tensors.binary_search_by(|t| t.tensor.as_str().cmp(tensor)).ok()?;
        self.tensors.get(found)
    }
}
