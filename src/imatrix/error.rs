//! What can be wrong with an importance matrix or its file: one variant a rule.

use crate::gguf;

/// A rule that a file, a merge or a matrix to be written breaks. The path is the caller's to add.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The container is broken, or the file ends too early.
    #[error(transparent)]
    Gguf(gguf::Error),
    /// A GGUF file of another kind.
    #[error("not an importance matrix: 'general.type' is \"{0}\", expected \"imatrix\"")]
    NotImatrix(String),
    /// A file without entries.
    #[error("no entries: not an importance matrix, or an empty one")]
    NoEntries,
    /// A metadata key of another type.
    #[error("key '{key}' has type {found}, expected u32")]
    KeyType {
        /// The key.
        key: &'static str,
        /// Its type.
        found: &'static str,
    },
    /// An entry that lacks its sums of squares or its counts.
    #[error("entry '{name}' has no tensor '{name}{part}'")]
    MissingPart {
        /// The entry.
        name: String,
        /// The missing tensor's suffix.
        part: &'static str,
    },
    /// An entry's tensor that is not F32.
    #[error("tensor '{name}{part}' has type {found}, expected f32")]
    PartType {
        /// The entry.
        name: String,
        /// The tensor's suffix.
        part: &'static str,
        /// Its type.
        found: gguf::DType,
    },
    /// Sums and sums of squares of different lengths.
    #[error("entry '{name}' has {sum} sums and {sum2} sums of squares, expected as many")]
    SumLengths {
        /// The entry.
        name: String,
        /// Length of the sums.
        sum: usize,
        /// Length of the sums of squares.
        sum2: usize,
    },
    /// Counts that do not divide the sums into rows.
    #[error("entry '{name}' has {values} values for {counts} counts, expected a multiple")]
    Matrices {
        /// The entry.
        name: String,
        /// Length of the sums of squares.
        values: usize,
        /// Length of the counts.
        counts: usize,
    },
    /// A count that is negative, too large or no number.
    #[error("entry '{name}' has count {found} for matrix {index}, expected 0 to 2^53")]
    Count {
        /// The entry.
        name: String,
        /// The matrix.
        index: usize,
        /// The count.
        found: f64,
    },
    /// A legacy file whose number of entries cannot be.
    #[error(
        "neither a GGUF nor a legacy .dat importance matrix: {found} entries announced, expected 1 to {limit} in a file of this size"
    )]
    DatEntries {
        /// As announced.
        found: i32,
        /// The most that fit.
        limit: u64,
    },
    /// A length in a legacy file that is negative, zero, or above its limit.
    #[error("legacy entry {entry} has {what} {found}, expected {min} to {max}")]
    DatLength {
        /// The entry, counted from 1.
        entry: i32,
        /// Which length.
        what: &'static str,
        /// As found.
        found: i32,
        /// Lowest allowed.
        min: i32,
        /// Highest allowed.
        max: i32,
    },
    /// A name in a legacy file that is not UTF-8.
    #[error("legacy entry {entry} has a name that is not UTF-8: {text:?}")]
    DatName {
        /// The entry, counted from 1.
        entry: i32,
        /// The name, bad bytes replaced.
        text: String,
    },
    /// The same entry twice in a legacy file.
    #[error("entry '{0}' occurs twice")]
    DuplicateEntry(String),
    /// A merge of entries with different sizes.
    #[error("entry '{name}' has {found} {part}, the matrix so far has {expected}")]
    SizeMismatch {
        /// The entry.
        name: String,
        /// What is counted.
        part: &'static str,
        /// In the file.
        found: usize,
        /// In the matrix so far.
        expected: usize,
    },
    /// Counts that add up to more than can be.
    #[error("the counts of entry '{0}' add up to more than 63 bits hold")]
    CountOverflow(String),
    /// A weight of a file in a merge that it cannot have.
    #[error("a file has weight {0}, expected a positive number")]
    Weight(f64),
    /// A chunk size that nothing can be divided by.
    #[error("chunk size is {0}, expected a positive number of tokens")]
    ChunkSize(i32),
    /// More values, or a longer name, than a signed 32-bit length can say.
    #[error("entry '{name}' has {found} values, at most 2147483647 can be written")]
    TooManyValues {
        /// The entry.
        name: String,
        /// Its values.
        found: u64,
    },
    /// More entries or a longer text than a legacy file's signed 32-bit lengths can say.
    #[error("{what} is {found}, at most 2147483647 can be written to a legacy file")]
    DatLimit {
        /// What is too long.
        what: &'static str,
        /// Its length.
        found: usize,
    },
}

impl From<gguf::Error> for Error {
    fn from(e: gguf::Error) -> Self {
        match e {
            gguf::Error::Io(io) => Error::Io(io),
            other => Error::Gguf(other),
        }
    }
}
