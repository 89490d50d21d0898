//! What single layers do to a model's predictions: logit lens, logit prism and layer similarity.
//!
//! A run evaluates the model while a `LensWatch` captures, at sampled positions, rows of the residual stream as they are
//! computed. After each decode a `Glass` measures them: the stream after a layer through the model's own output, what each
//! part adds to a logit, how far each layer turns the stream. [`Findings`] hold the numbers until they are summed up in a
//! [`file::LensFile`]. Where in a graph the stream is, and what adds to it, is found out from what is computed from what,
//! and from the names of weights.
//!
//! `docs/lens.md` has the formulas.

pub mod base;
pub mod file;
mod findings;
mod sample;

#[cfg(feature = "llama")]
mod glass;
#[cfg(feature = "llama")]
mod measure;
#[cfg(feature = "llama")]
mod parts;
#[cfg(feature = "llama")]
mod plan;
#[cfg(feature = "llama")]
mod structure;
#[cfg(feature = "llama")]
mod watch;

pub use findings::{Base, ChunkFindings, Findings, LensOptions};
pub use sample::positions;

#[cfg(feature = "llama")]
pub use glass::{Glass, Sight};
#[cfg(feature = "llama")]
pub use watch::LensWatch;
