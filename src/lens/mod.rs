//! The effect of each layer on a model's predictions: logit lens, logit prism and layer similarity.
//!
//! While a run evaluates the model, a `RowCapture` copies rows of the residual stream at sampled positions. After each
//! decode a `LensProbe` measures them: the prediction that the model's LM head makes from the stream after each layer, the
//! contribution of each part to a logit, and the angle by which each layer turns the stream. [`Findings`] collects the
//! numbers; a [`file::LensFile`] summarizes them. The residual stream and the terms added to it are found in the graph from
//! the data flow and from the names of weights.
//!
//! `docs/lens.md` has the formulas.

pub mod base;
pub mod file;
mod findings;
mod measurements;
mod sample;

#[cfg(feature = "llama")]
mod capture;
#[cfg(feature = "llama")]
mod measure;
#[cfg(feature = "llama")]
mod parts;
#[cfg(feature = "llama")]
mod plan;
#[cfg(feature = "llama")]
mod probe;
#[cfg(feature = "llama")]
mod structure;

pub use findings::{Base, Findings, LensOptions};
pub(crate) use measurements::FindingsTable;
pub use measurements::{Measurements, Settings};
#[cfg(feature = "llama")]
pub(crate) use {
    capture::RowCapture, findings::ChunkFindings, probe::LensProbe, probe::SamplePoint, sample::positions,
};
