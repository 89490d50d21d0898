//! Reports about importance matrices.
//!
//! | module | output |
//! |---|---|
//! | [`statistics`], [`difference`] | sheets of one matrix, and of the comparison of two |
//! | [`experts`] | the same per expert |
//! | [`convergence`] | columns of a convergence file |
//! | [`text`], [`json`] | sheets as aligned text, CSV, Markdown and JSON |
//! | [`check`] | the result of a check, as text |
//! | [`lens`] | sheets of a lens file |
//! | [`page`] | an HTML page |
#![cfg_attr(feature = "plots", doc = "| [`plots`] | PNG plots |")]
//!
//! [`show_statistics`] prints the bytes of upstream's tables.

pub mod check;
pub mod convergence;
pub mod difference;
pub mod divergence;
pub mod experts;
pub mod json;
pub mod lens;
pub mod page;
#[cfg(feature = "plots")]
pub mod plots;
mod printf;
#[cfg(feature = "llama")]
pub mod recipe;
pub mod sheet;
pub mod statistics;
mod table;
pub mod text;

pub use table::{Outcome, Warning, show_statistics};
