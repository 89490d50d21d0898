//! The reasons why there is no recipe.

use std::path::PathBuf;

use crate::gguf::{self, DType};
use crate::state::FingerprintError;

/// The reason why there is no recipe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the model is broken or cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: gguf::Error,
    },
    /// The files of a split model do not go together.
    #[error(transparent)]
    Files(#[from] FingerprintError),
    /// A GGUF file without tensors or without an architecture.
    #[error("'{}' is not a model: it has no tensors, or no key 'general.architecture'", path.display())]
    NoModel {
        /// The file.
        path: PathBuf,
    },
    /// A tensor in two files of a split model.
    #[error("'{}': tensor '{tensor}' occurs in two of the model's files", path.display())]
    TwiceInModel {
        /// The first file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// The model is already quantized.
    #[error(
        "'{}' is already quantized: tensor '{tensor}' is {dtype}, expected f32, f16, bf16 or q8_0\n\
         hint: use the model that it was made from, or keep such tensors with --keep '{tensor}={dtype}'",
        path.display()
    )]
    Quantized {
        /// The first file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: DType,
    },
    /// No tensor can be quantized.
    #[error("'{}' has no tensor that llama-quantize would quantize", path.display())]
    NothingToQuantize {
        /// The first file.
        path: PathBuf,
    },
    /// The matrix has an entry that the model has no tensor for.
    #[error("the matrix is of another model: it has an entry '{entry}', and the model has no tensor of this name")]
    NoTensor {
        /// The entry.
        entry: String,
    },
    /// An entry of the matrix does not fit its tensor.
    #[error(
        "the matrix is of another model: entry '{entry}' has {found} values, expected {expected} for the tensor's shape"
    )]
    EntryLength {
        /// The entry.
        entry: String,
        /// Values in the matrix.
        found: usize,
        /// Columns times matrices of the tensor.
        expected: u64,
    },
    /// The matrix has no entry for any weight that can be quantized.
    #[error("the matrix has no entry for any weight of the model that can be quantized")]
    NoEntries,
    /// An entry that is not finite.
    #[error(
        "entry '{entry}' of the matrix is not finite\nhint: collect it again; llama-quantize refuses such a matrix too"
    )]
    EntryNotFinite {
        /// The entry.
        entry: String,
    },
    /// A weight that cannot be quantized.
    #[error("tensor '{tensor}': {reason}")]
    Rows {
        /// The tensor.
        tensor: String,
        /// The rule that its values break.
        reason: String,
    },
    /// A `--keep` that no weight matches.
    #[error("--keep '{0}': no tensor that can be quantized has such a name")]
    KeepsNothing(String),
    /// The constraints leave a weight without a type.
    #[error("tensor '{tensor}' has no type left: {reason}")]
    NoType {
        /// The tensor.
        tensor: String,
        /// The constraint.
        reason: String,
    },
    /// The budget is too small.
    #[error(
        "{budget} is below the smallest mix of these types, which has {smallest}\n\
         hint: give a larger size, or allow smaller types with --types or --min-type"
    )]
    BelowSmallest {
        /// The budget with its unit.
        budget: String,
        /// The smallest size, in the same unit.
        smallest: String,
    },
    /// The budget exceeds every mix.
    #[error(
        "{budget} is above the largest mix of these types, which has {largest}: there is nothing to choose\n\
         hint: give a smaller size, or allow larger types with --types or --max-type"
    )]
    AboveLargest {
        /// The budget with its unit.
        budget: String,
        /// The largest size, in the same unit.
        largest: String,
    },
}
