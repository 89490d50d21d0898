//! Will this matrix do? Compares a matrix with a model's header and with the rules of `llama-quantize` ([`mixture`]).
//!
//! Reads the headers of the model's files and all numbers of the matrix; no tensor data, no llama.cpp.
//!
//! [`mixture`]: crate::mixture

mod experts;
mod finding;
mod model;
mod quantization;
mod reasons;
mod scan;
mod sizes;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

pub(crate) use experts::ranges;
pub use experts::{FewTokens, LayerExperts};
pub use finding::{Finding, Level, Verdict};
pub use model::{Model, ModelError};
pub use quantization::{Quantization, Refusal, Target};

use crate::convergence::{ConvergenceFile, Point};
use crate::imatrix::{Fill, Loaded, Slice};
use crate::mixture::FileType;
use finding::Findings;
use scan::Scans;

/// Tokens per expert below which a mean of squares is uncertain by default. Its relative standard error over N tokens of
/// normally distributed activations is `sqrt(2 / N)`: 14 % for 100.
pub const MIN_TOKENS: i64 = 100;

/// What to check for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Type to quantize to; `None` for the checks that concern all types.
    pub file_type: Option<FileType>,
    /// Experts with fewer tokens are listed.
    pub min_tokens: i64,
}

impl Default for Options {
    fn default() -> Self {
        Self { file_type: None, min_tokens: MIN_TOKENS }
    }
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// The verdict.
    pub verdict: Verdict,
    /// The verdict and its reason, in one line.
    pub summary: String,
    /// Facts about the model.
    pub model: ModelFacts,
    /// Facts about the matrix.
    pub matrix: MatrixFacts,
    /// The part of the model that has data.
    pub coverage: Coverage,
    /// Everything worth knowing: errors first, then gaps, then notes.
    pub findings: Vec<Finding>,
    /// Experts without tokens or with few, per layer.
    pub experts: Vec<LayerExperts>,
    /// What `llama-quantize` does; `None` without a type.
    pub quantization: Option<Quantization>,
    /// How well the halves of the matrix's text agree; `None` unless [`Check::with_convergence`] was called.
    pub convergence: Option<Point>,
}

impl Check {
    /// Adds what the matrix's convergence file says, and quotes it in the summary.
    #[must_use]
    pub fn with_convergence(mut self, file: &ConvergenceFile) -> Self {
        self.convergence = file.last().cloned();
        if let Some(Point { cosine, weight, .. }) = &self.convergence {
            let _ = write!(self.summary, "; lowest cosine of the halves of its text {cosine:.4} ({weight})");
        }
        self
    }
}

/// Facts about a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelFacts {
    /// Number of files.
    pub files: usize,
    /// `general.architecture`.
    pub architecture: String,
    /// Number of layers, `NextN` layers included.
    pub layers: u32,
    /// Number of `NextN` layers.
    pub nextn_layers: u32,
    /// Number of routed experts per layer.
    pub experts: u32,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of elements of all tensors.
    pub parameters: u64,
}

/// Facts about a matrix.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MatrixFacts {
    /// True for a legacy `.dat` file.
    pub legacy: bool,
    /// Number of entries.
    pub entries: usize,
    /// Number of chunks.
    pub chunks: i32,
    /// Tokens per chunk; 0 if the file does not store it.
    pub chunk_size: i32,
    /// Largest number of rows of an entry: the tokens that the matrix is from. 0 for a legacy file.
    pub tokens: i64,
    /// Names of the calibration files.
    pub datasets: Vec<String>,
    /// Number of entries that also have sums of activations (`in_sum`).
    pub entries_with_in_sum: usize,
    /// Number of experts, over all weights, whose sums were filled.
    pub filled_experts: usize,
    /// Number of these that were filled from rows that were shown to them.
    pub shown_experts: usize,
}

/// The part of a model that has data: of the tensors that are converted to a type that uses a matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Coverage {
    /// Number of these tensors.
    pub tensors: usize,
    /// Number of these tensors that have an entry.
    pub tensors_with_data: usize,
    /// Number of elements of these tensors.
    pub parameters: u64,
    /// Number of elements without data: of tensors without an entry, and of experts without tokens.
    pub parameters_without_data: u64,
}

impl Coverage {
    /// Returns the share of parameters without data.
    #[must_use]
    pub fn share_without_data(&self) -> f64 {
        if self.parameters == 0 { 0.0 } else { self.parameters_without_data as f64 / self.parameters as f64 }
    }
}

/// Checks a matrix against a model.
#[must_use]
pub fn check(model: &Model, matrix: &Loaded<Slice<'_>>, options: Options) -> Check {
    let scans = Scans::new(model, matrix);
    let mut findings = Findings::default();
    sizes::numbers(&mut findings, matrix, &scans);
    sizes::metadata(&mut findings, matrix);
    let has_common = reasons::common(&mut findings, model, matrix);
    let quantization =
        options.file_type.map(|file_type| quantization::predict(&mut findings, model, matrix, &scans, file_type));
    let used = quantization::used_tensors(model, quantization.as_ref());
    let experts = experts::listed(&used, matrix, &scans, options.min_tokens);
    let coverage = coverage(&used, &scans);
    if has_common {
        sizes::wrong_sizes(&mut findings, model, matrix, quantization.is_some());
        reasons::missing(&mut findings, model, matrix, &used);
        reasons::extra(&mut findings, model, matrix);
        experts::report(&mut findings, &experts, options.min_tokens);
    }
    let (verdict, summary, findings) = findings.judge(options.file_type, coverage);
    Check {
        verdict,
        summary,
        model: model_facts(model),
        matrix: matrix_facts(matrix),
        coverage,
        findings,
        experts,
        quantization,
        convergence: None,
    }
}

fn coverage(used: &[&crate::mixture::TensorInfo], scans: &Scans) -> Coverage {
    let mut coverage = Coverage { tensors: used.len(), ..Coverage::default() };
    for tensor in used {
        let elements = tensor.elements();
        coverage.parameters = coverage.parameters.saturating_add(elements);
        let without = match scans.of(&tensor.name) {
            Some(scan) if scan.fits => {
                coverage.tensors_with_data += 1;
                let matrices = scan.matrices.len().max(1) as u64;
                elements / matrices * scan.unseen().count() as u64
            }
            _ => elements,
        };
        coverage.parameters_without_data = coverage.parameters_without_data.saturating_add(without);
    }
    coverage
}

fn model_facts(model: &Model) -> ModelFacts {
    ModelFacts {
        files: model.files.len(),
        architecture: model.hparams.arch.clone(),
        layers: model.hparams.n_layer,
        nextn_layers: model.hparams.n_layer_nextn,
        experts: model.hparams.n_expert,
        tensors: model.tensors.len(),
        parameters: model.tensors.iter().fold(0, |sum, t| sum.saturating_add(t.elements())),
    }
}

fn matrix_facts(matrix: &Loaded<Slice<'_>>) -> MatrixFacts {
    let counts = matrix.entries.values().flat_map(|entry| &entry.counts);
    let how_filled = || matrix.filled.values().flat_map(BTreeMap::values);
    MatrixFacts {
        legacy: matrix.is_legacy,
        entries: matrix.entries.len(),
        chunks: matrix.chunk_count,
        chunk_size: matrix.chunk_size,
        tokens: if matrix.is_legacy { 0 } else { counts.copied().max().unwrap_or(0) },
        datasets: matrix.datasets.clone(),
        entries_with_in_sum: matrix.entries.values().filter(|entry| entry.sum.is_some()).count(),
        filled_experts: how_filled().count(),
        shown_experts: how_filled().filter(|how| **how != Fill::Layer).count(),
    }
}
