//! Collecting: from the products of a graph to sums a weight.
//!
//! For every weight matrix the rows of its input are summed a channel: `in_sum` = Σ x, `in_sum2` = Σ x², and counted.
//! All is plain data: a [`Lane`] into a [`Collector`] can be driven without llama.cpp. With it, a lane is an
//! `llama::Observer` of a context.
//!
//! The sums are f32 and each channel's rows are added in the order of the graph, one after the other, multiplied first
//! and then added, never fused: that is what llama.cpp's own tool does, and what makes the files equal to the byte.

mod accumulate;
mod chunks;
pub(crate) mod collector;
mod error;
mod evaluation;
mod experts;
mod kernel;
mod lane;
#[cfg(feature = "llama")]
mod observe;
mod pending;
mod product;
mod rule;
mod sharing;
mod state;
mod stored;
mod sync;
#[cfg(test)]
mod tests;

pub use chunks::Due;
pub use collector::{Earlier, Snapshot};
pub use error::Error;
pub use experts::Experts;
pub use lane::Lane;
pub use product::{Ids, Kind, Product, Rows};
pub use rule::Rule;
pub(crate) use stored::Stored;
