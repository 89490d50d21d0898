//! Which type each weight should have: quantization errors per weight and type, and the recipe of least cost at a size.
//!
//! | step | item |
//! |---|---|
//! | the weights of a model, in one file or several | [`Source`] |
//! | `llama-quantize`'s rules: what it quantizes, which type it falls back to | [`rules`] |
//! | mean and variance of a weight's inputs | [`moments`] |
//! | expected squared error per weight and type | [`errors`] (needs llama.cpp) |
//! | what an error costs the model | [`cost`] |
//! | the choice of least cost | [`knapsack`] |
//! | all of it together | [`Recipe`] |
//! | the least cost at each size, as a file | [`curve`] |
//! | how far a quantized model is from the original | [`divergence`] |
//!
//! `docs/recipes.md` has the method, its assumptions and measurements.

pub mod cost;
pub mod curve;
pub mod divergence;
mod error;
#[cfg(feature = "llama")]
pub mod errors;
#[cfg(feature = "llama")]
pub mod evaluation;
pub mod file_size;
mod groups;
pub mod knapsack;
pub mod moments;
mod pattern;
#[cfg(feature = "llama")]
mod price;
mod recipe;
pub mod rules;
#[cfg(feature = "llama")]
pub mod sensitivity;
pub mod sensitivity_file;
mod source;
mod spread;
pub mod types_file;

pub use error::Error;
pub use pattern::name_matches;
#[cfg(feature = "llama")]
pub use price::{Measured, Pricing, price};
pub use recipe::{Budget, Constraints, Pick, Priced, Recipe};
pub use source::{Source, Weight};
pub use spread::Sensitivities;
