//! The rules that a GGUF file can break: one variant per rule.

use super::{DType, limits};

/// A rule of the format that a file, or an argument of the writer, breaks.
///
/// Each message says what was found and what was expected. The caller adds the file's path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error of the operating system.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The file ends before the data that its header announces.
    #[error("file is truncated: {what} at byte {at} needs {need} bytes, {left} are left")]
    Truncated {
        /// The item that was being read.
        what: &'static str,
        /// Its offset in the file.
        at: u64,
        /// Size of the item in bytes.
        need: u64,
        /// Bytes from there to the end of the file.
        left: u64,
    },
    /// The file does not begin with `GGUF`.
    #[error("not a GGUF file: it begins with {:?}, not \"GGUF\"", String::from_utf8_lossy(.0))]
    Magic([u8; 4]),
    /// The version number has the other byte order.
    #[error("GGUF version reads as {0:#010x}: the file was written for the other byte order")]
    ByteOrder(u32),
    /// An unsupported version.
    #[error("GGUF version is {0}, versions 2 and 3 are supported")]
    Version(u32),
    /// The number of tensors exceeds what the file can hold.
    #[error("{found} tensors announced, but the {left} bytes left hold at most {limit}")]
    TensorCount {
        /// The announced number.
        found: u64,
        /// Bytes left in the file.
        left: u64,
        /// The largest number that fits.
        limit: u64,
    },
    /// The number of key/value pairs exceeds what the file can hold.
    #[error("{found} key/value pairs announced, but the {left} bytes left hold at most {limit}")]
    KeyCount {
        /// The announced number.
        found: u64,
        /// Bytes left in the file.
        left: u64,
        /// The largest number that fits.
        limit: u64,
    },
    /// A string that is longer than the format allows.
    #[error("{what} at byte {at} is {found} bytes long, at most {} are allowed", limits::MAX_STRING_BYTES)]
    StringLength {
        /// The item that was being read.
        what: &'static str,
        /// Its offset in the file.
        at: u64,
        /// Its length in bytes.
        found: u64,
    },
    /// A key or tensor name that is not UTF-8 or contains a zero byte.
    #[error("{what} at byte {at} is not UTF-8 text without zero bytes: {text:?}")]
    NameText {
        /// The item that was being read.
        what: &'static str,
        /// Its offset in the file.
        at: u64,
        /// The name, invalid bytes replaced.
        text: String,
    },
    /// An empty key.
    #[error("key {index} is empty")]
    EmptyKey {
        /// Its index.
        index: u64,
    },
    /// A duplicate key.
    #[error("key '{0}' occurs twice")]
    DuplicateKey(String),
    /// An unknown value type, or an array of arrays.
    #[error("key '{key}' has value type {found}, not one of 0 to 12 (9, array, only outermost)")]
    ValueType {
        /// The key.
        key: String,
        /// The type id in the file.
        found: u32,
    },
    /// An array that has more elements than the format allows.
    #[error("key '{key}' has {found} array elements, at most {} are allowed", limits::MAX_ARRAY_ELEMENTS)]
    ArrayLength {
        /// The key.
        key: String,
        /// The announced number of elements.
        found: u64,
    },
    /// `general.alignment` has another type than u32.
    #[error("key 'general.alignment' has type {0}, expected u32")]
    AlignmentType(&'static str),
    /// The alignment is not a power of two.
    #[error("alignment is {0}, expected a power of two")]
    Alignment(u32),
    /// A tensor name that is longer than ggml allows.
    #[error("tensor name '{name}' has {} bytes, at most {} are allowed", name.len(), limits::MAX_NAME_BYTES)]
    NameLength {
        /// The tensor name.
        name: String,
    },
    /// A duplicate tensor name.
    #[error("tensor '{0}' occurs twice")]
    DuplicateTensor(String),
    /// A tensor with too many dimensions.
    #[error("tensor '{name}' has {found} dimensions, at most {} are allowed", limits::MAX_DIMS)]
    Dimensions {
        /// The tensor.
        name: String,
        /// The announced number of dimensions.
        found: u64,
    },
    /// A shape with a negative dimension, or whose number of elements or bytes does not fit 63 bits.
    #[error("tensor '{name}' has shape {shape:?}: its size does not fit 63 bits")]
    ShapeOverflow {
        /// The tensor.
        name: String,
        /// Its shape, innermost first.
        shape: Vec<u64>,
    },
    /// An unknown or removed tensor type.
    #[error("tensor '{name}' has unknown type {found}")]
    TensorType {
        /// The tensor.
        name: String,
        /// The type id in the file.
        found: u32,
    },
    /// A row that does not consist of whole blocks.
    #[error("tensor '{name}' has {row} elements per row, not a multiple of {dtype}'s block of {}", dtype.block_len())]
    RowBlocks {
        /// The tensor.
        name: String,
        /// Elements per row.
        row: u64,
        /// The element type.
        dtype: DType,
    },
    /// Tensor data that does not begin where the data of the tensor before it ends.
    #[error("tensor '{name}' has data offset {found}, expected {expected}")]
    Offset {
        /// The tensor.
        name: String,
        /// Offset in the file.
        found: u64,
        /// End of the tensor before it, aligned.
        expected: u64,
    },
    /// Tensor data whose length does not match type and shape.
    #[error("tensor '{name}' has {found} bytes of data, expected {expected} for its type and shape")]
    DataLength {
        /// The tensor.
        name: String,
        /// Bytes given.
        found: u64,
        /// Bytes needed.
        expected: u64,
    },
}
