//! Reports about importance matrices.
//!
//! | module | what it makes |
//! |---|---|
//! | [`statistics`], [`difference`] | sheets of a matrix, and of one against another |
//! | [`text`], [`json`] | sheets as aligned text, CSV, Markdown and JSON |
//! | [`lens`] | sheets of a lens file |
//! | [`page`] | the page to look at |
#![cfg_attr(feature = "plots", doc = "| [`plots`] | pictures for papers and issues |")]
//!
//! [`show_statistics`] prints upstream's tables, to the byte.

pub mod difference;
pub mod json;
pub mod lens;
pub mod page;
#[cfg(feature = "plots")]
pub mod plots;
mod printf;
pub mod sheet;
pub mod statistics;
mod table;
pub mod text;

pub use table::{Outcome, Warning, show_statistics};
