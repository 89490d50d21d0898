//! Importance matrices for llama.cpp models: read, write, merge and inspect them.

pub mod gguf;
pub mod imatrix;
pub mod report;
pub mod stats;
