//! Collects sums per weight from the matrix products of a graph.
//!
//! The rows of each weight's input are counted and summed per channel: `in_sum` = Σ x, `in_sum2` = Σ x². Everything
//! here is plain data, so a [`Lane`] can be driven without llama.cpp. With llama.cpp, a lane is the `llama::Observer`
//! of a context.
//!
//! Sums are f32 by default. The rows of a channel are added one by one in the order of the graph, first multiplied and
//! then added, never fused. llama.cpp's tool does the same, so the files are equal to the byte.

mod accumulate;
mod chunks;
pub(crate) mod collector;
mod error;
mod evaluation;
mod even;
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
