//! Importance matrices for llama.cpp models: collect, read, write and inspect them.
//!
//! `llama-quantize` reads an importance matrix to decide where precision matters. It holds, for every weight of a
//! model, what the weight's inputs looked like over a calibration text: per channel the sum and the sum of squares,
//! and how many rows there were.
//!
//! | module | what it does | needs llama.cpp |
//! |---|---|---|
//! | [`gguf`] | reads and writes GGUF files, validated | no |
//! | [`imatrix`] | the matrix: load, merge, save as GGUF or `.dat` | no |
//! | [`stats`], [`report`] | statistics and their tables | no |
//! | [`lens`] | what single layers do to the predictions | to measure it |
//! | [`collect`] | sums the inputs of products, as they come | no |
//! | [`exact`] | sums that do not depend on the order of their terms | no |
//! | [`state`] | state files: resuming a run, sharing it out over machines | no |
//! | [`nextn`] | finds a model's `NextN` layers and checks a draft against its trunk | for loaded models |
//! | [`calibration`] | files, conversations, documents, chunks | for their tokens |
//! | [`perplexity`] | likelihoods | no |
#![cfg_attr(feature = "llama", doc = "| [`llama`] | the safe layer over llama.cpp | yes |")]
#![cfg_attr(feature = "llama", doc = "| [`run`] | a model over chunks, collected | yes |")]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod calibration;
pub mod collect;
pub mod exact;
pub mod gguf;
pub mod imatrix;
pub mod lens;
#[cfg(feature = "llama")]
pub mod llama;
pub mod nextn;
pub mod perplexity;
pub mod report;
#[cfg(feature = "llama")]
pub mod run;
pub mod state;
pub mod stats;
