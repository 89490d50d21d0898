//! Importance matrices for llama.cpp models: read, write, merge and inspect them.

pub mod gguf;
