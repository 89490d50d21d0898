//! The rules that an importance matrix or its file can break: one variant per rule.

use crate::gguf;

/// A rule that a file, a merge or a matrix breaks. The caller adds the file's path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error of the operating system.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The GGUF container is invalid, or the file is truncated.
    #[error(transparent)]
    Gguf(gguf::Error),
    /// A GGUF file that holds something else.
    #[error("not an importance matrix, but {0}")]
    NotImatrix(gguf::Kind),
    /// A file without entries.
    #[error("no entries: not an importance matrix, or an empty one")]
    NoEntries,
    /// A metadata key whose value has another type.
    #[error("key '{key}' has type {found}, expected u32")]
    KeyType {
        /// The key.
        key: &'static str,
        /// The type of its value.
        found: &'static str,
    },
    /// An entry that lacks its sums of squares or its counts.
    #[error("entry '{name}' has no tensor '{name}{part}'")]
    MissingPart {
        /// The entry.
        name: String,
        /// Suffix of the missing tensor.
        part: &'static str,
    },
    /// An entry's tensor that is not F32.
    #[error("tensor '{name}{part}' has type {found}, expected f32")]
    PartType {
        /// The entry.
        name: String,
        /// Suffix of the tensor.
        part: &'static str,
        /// The type of its value.
        found: gguf::DType,
    },
    /// Sums and sums of squares whose lengths differ.
    #[error("entry '{name}' has {sum} sums and {sum2} sums of squares, expected equal numbers")]
    SumLengths {
        /// The entry.
        name: String,
        /// Length of the sums.
        sum: usize,
        /// Length of the sums of squares.
        sum2: usize,
    },
    /// A number of values that is not a multiple of the number of counts.
    #[error("entry '{name}' has {values} values for {counts} counts, expected a multiple of the counts")]
    Matrices {
        /// The entry.
        name: String,
        /// Length of the sums of squares.
        values: usize,
        /// Length of the counts.
        counts: usize,
    },
    /// A count that is negative, too large or not a number.
    #[error("entry '{name}' has count {found} for matrix {index}, expected 0 to 2^53")]
    Count {
        /// The entry.
        name: String,
        /// Index of the matrix.
        index: usize,
        /// The count.
        found: f64,
    },
    /// A legacy file with an invalid number of entries.
    #[error(
        "neither a GGUF nor a legacy .dat importance matrix: {found} entries announced, expected 1 to {limit} in a file of this size"
    )]
    DatEntries {
        /// The announced number.
        found: i32,
        /// The largest number that fits.
        limit: u64,
    },
    /// A length in a legacy file that is out of range.
    #[error("legacy entry {entry} has {what} {found}, expected {min} to {max}")]
    DatLength {
        /// The entry, counted from 1.
        entry: i32,
        /// Name of the length.
        what: &'static str,
        /// The length.
        found: i32,
        /// Minimum.
        min: i32,
        /// Maximum.
        max: i32,
    },
    /// A name in a legacy file that is not UTF-8.
    #[error("legacy entry {entry} has a name that is not UTF-8: {text:?}")]
    DatName {
        /// The entry, counted from 1.
        entry: i32,
        /// The name, invalid bytes replaced.
        text: String,
    },
    /// A duplicate entry in a legacy file.
    #[error("entry '{0}' occurs twice")]
    DuplicateEntry(String),
    /// A merge of entries whose sizes differ.
    #[error("entry '{name}' has {found} {part}, the matrix so far has {expected}")]
    SizeMismatch {
        /// The entry.
        name: String,
        /// The items that are counted.
        part: &'static str,
        /// In the file.
        found: usize,
        /// In the matrix so far.
        expected: usize,
    },
    /// Counts whose sum overflows.
    #[error("the sum of the counts of entry '{0}' exceeds 63 bits")]
    CountOverflow(String),
    /// An invalid weight of a file in a merge.
    #[error("a file has weight {0}, expected a positive number")]
    Weight(f64),
    /// A chunk size that is not positive.
    #[error("chunk size is {0}, expected a positive number of tokens")]
    ChunkSize(i32),
    /// An entry with more values than fit a signed 32-bit length.
    #[error("entry '{name}' has {found} values, at most 2147483647 can be written")]
    TooManyValues {
        /// The entry.
        name: String,
        /// Its values.
        found: u64,
    },
    /// A number of entries, or a text, that exceeds the signed 32-bit lengths of a legacy file.
    #[error("{what} is {found}, at most 2147483647 can be written to a legacy file")]
    DatLimit {
        /// Name of the length.
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
