//! `NextN` layers, also called MTP (multi-token prediction). Such a layer follows the model's last layer. It predicts the
//! token after the next one from the hidden state of a token and from the token that follows.
//!
//! The layer is in the model's file or in a second file, the draft model, which has little else. [`check_files`] checks
//! from the files alone whether the two match.
#![cfg_attr(feature = "llama", doc = "[`locate`](fn@locate) finds the layer in loaded models.")]

mod check;
mod error;
mod header;
#[cfg(feature = "llama")]
mod locate;

pub use check::check_files;
pub use error::Error;
pub use header::ModelHeader;
#[cfg(feature = "llama")]
pub use locate::{Layer, Located, check_vocabularies, locate};
