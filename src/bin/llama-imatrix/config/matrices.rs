//! Tasks on matrices alone.

use llama_imatrix::imatrix::ChunkSizes;

use super::output::Output;

/// `--show-statistics`.
#[derive(Debug)]
pub(crate) struct ShowStatistics {
    pub(crate) file: String,
    pub(crate) chunk_sizes: ChunkSizes,
}

/// Matrices to read, and where the result goes.
#[derive(Debug)]
pub(crate) struct Merge {
    pub(crate) in_files: Vec<String>,
    pub(crate) chunk_sizes: ChunkSizes,
    pub(crate) output: Output,
}
