//! `NextN` layers, also called MTP (multi-token prediction): a layer after the last that predicts the token after next,
//! from the hidden state the model leaves for a token and the token that follows it.
//!
//! They lie in the model's own file or in a second one, the draft, which has little else. [`check_files`] tells from
//! the files alone whether they fit.
#![cfg_attr(feature = "llama", doc = "[`locate`](fn@locate) finds the layer in models that are loaded.")]

mod check;
mod error;
#[cfg(feature = "llama")]
mod locate;
mod shape;

pub use check::check_files;
pub use error::Error;
#[cfg(feature = "llama")]
pub use locate::{Layer, Located, check_vocabularies, locate};
pub use shape::{Block, Shape};
