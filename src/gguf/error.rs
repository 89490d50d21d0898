//! What can be wrong with a GGUF file: one variant a rule.

use super::{DType, limits};

/// A rule of the format that a file, or what was handed to the writer, breaks.
///
/// The messages name the rule, what was found and what was expected; the file's path is the
/// caller's to add.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The file ends before something it announces.
    #[error("file is truncated: {what} at byte {at} needs {need} bytes, {left} are left")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where in the file, in bytes.
        at: u64,
        /// Bytes it needs.
        need: u64,
        /// Bytes the file still has.
        left: u64,
    },
    /// The file does not begin with `GGUF`.
    #[error("not a GGUF file: it begins with {:?}, not \"GGUF\"", String::from_utf8_lossy(.0))]
    Magic([u8; 4]),
    /// The version has its bytes in the other order.
    #[error("GGUF version reads as {0:#010x}: the file was written for the other byte order")]
    ByteOrder(u32),
    /// A version that is too old or too new.
    #[error("GGUF version is {0}, versions 2 and 3 are supported")]
    Version(u32),
    /// More tensors announced than the file has room for.
    #[error("{found} tensors announced, but the {left} bytes left hold at most {limit}")]
    TensorCount {
        /// As announced.
        found: u64,
        /// Bytes left in the file.
        left: u64,
        /// The most that fit.
        limit: u64,
    },
    /// More key/values announced than the file has room for.
    #[error("{found} key/values announced, but the {left} bytes left hold at most {limit}")]
    KeyCount {
        /// As announced.
        found: u64,
        /// Bytes left in the file.
        left: u64,
        /// The most that fit.
        limit: u64,
    },
    /// A string longer than the format allows.
    #[error("{what} at byte {at} is {found} bytes long, at most {} are allowed", limits::MAX_STRING_BYTES)]
    StringLength {
        /// What was being read.
        what: &'static str,
        /// Where in the file, in bytes.
        at: u64,
        /// Its length.
        found: u64,
    },
    /// A key or tensor name that is not UTF-8 or holds a zero byte.
    #[error("{what} at byte {at} is not UTF-8 text without zero bytes: {text:?}")]
    NameText {
        /// What was being read.
        what: &'static str,
        /// Where in the file, in bytes.
        at: u64,
        /// The name, bad bytes replaced.
        text: String,
    },
    /// A key without characters.
    #[error("key {index} is empty")]
    EmptyKey {
        /// Its position among the keys.
        index: u64,
    },
    /// The same key twice.
    #[error("key '{0}' occurs twice")]
    DuplicateKey(String),
    /// A value type that does not exist, or an array of arrays.
    #[error("key '{key}' has value type {found}, not one of 0 to 12 (9, array, only outermost)")]
    ValueType {
        /// The key.
        key: String,
        /// The type id found.
        found: u32,
    },
    /// An array with more elements than the format allows.
    #[error("key '{key}' has {found} array elements, at most {} are allowed", limits::MAX_ARRAY_ELEMENTS)]
    ArrayLength {
        /// The key.
        key: String,
        /// Elements announced.
        found: u64,
    },
    /// `general.alignment` is not a u32.
    #[error("key 'general.alignment' has type {0}, expected u32")]
    AlignmentType(&'static str),
    /// The alignment is not a power of two.
    #[error("alignment is {0}, expected a power of two")]
    Alignment(u32),
    /// A tensor name longer than ggml allows.
    #[error("tensor name '{name}' has {} bytes, at most {} are allowed", name.len(), limits::MAX_NAME_BYTES)]
    NameLength {
        /// The name.
        name: String,
    },
    /// The same tensor name twice.
    #[error("tensor '{0}' occurs twice")]
    DuplicateTensor(String),
    /// Too many dimensions.
    #[error("tensor '{name}' has {found} dimensions, at most {} are allowed", limits::MAX_DIMS)]
    Dimensions {
        /// The tensor.
        name: String,
        /// Dimensions announced.
        found: u64,
    },
    /// A shape whose element count or byte count does not fit 63 bits (or has a negative extent).
    #[error("tensor '{name}' has shape {shape:?}: its size is not representable")]
    ShapeOverflow {
        /// The tensor.
        name: String,
        /// Its shape, innermost first.
        shape: Vec<u64>,
    },
    /// A tensor type that does not exist or was removed.
    #[error("tensor '{name}' has unknown type {found}")]
    TensorType {
        /// The tensor.
        name: String,
        /// The type id found.
        found: u32,
    },
    /// Rows that do not hold whole blocks.
    #[error("tensor '{name}' has {row} elements a row, not a multiple of {dtype}'s block of {}", dtype.block_len())]
    RowBlocks {
        /// The tensor.
        name: String,
        /// Elements a row.
        row: u64,
        /// The element type.
        dtype: DType,
    },
    /// Tensor data that does not follow the tensor before it.
    #[error("tensor '{name}' has data offset {found}, expected {expected}")]
    Offset {
        /// The tensor.
        name: String,
        /// Offset in the file.
        found: u64,
        /// End of the tensor before it, aligned.
        expected: u64,
    },
    /// Tensor data of another length than type and shape say.
    #[error("tensor '{name}' was given {found} bytes of data, its type and shape need {expected}")]
    DataLength {
        /// The tensor.
        name: String,
        /// Bytes given.
        found: u64,
        /// Bytes needed.
        expected: u64,
    },
}
