//! Shows rows to experts that saw few tokens: what their weights' inputs would be if tokens had been routed to them.
//!
//! An unseen expert has no sums. Its gate and up read the layer's input, whose mean the other experts have; its down reads
//! what this expert's gate and up make of it, which no other expert knows. So a run keeps a [sample](RowSample) of the
//! rows that each layer's experts read, and afterwards [`ShownExperts`] computes the input of down from them, with the
//! model's own operations and the ids of the experts in question. The evaluation of the text is not changed.
//!
//! 1. `ShownExperts::new` learns the operations, before the run.
//! 2. A run with its `layers` as `RunOptions::sample` returns the sample in `Outcome::position`.
//! 3. `ShownExperts::sums` computes the sums; [`Imatrix::fill_experts_with`](crate::Imatrix::fill_experts_with) fills the experts.

#[cfg(feature = "llama")]
mod blocks;
#[cfg(feature = "llama")]
mod capture;
#[cfg(feature = "llama")]
mod experts;
mod sample;

#[cfg(feature = "llama")]
pub(crate) use capture::ExpertRows;
#[cfg(feature = "llama")]
pub use experts::{Refusal, ShownExperts};
pub use sample::{ROWS, RowSample, SampledLayer};
