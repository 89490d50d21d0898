//! Limits on numbers in a file. They are ggml's (`gguf.cpp`, `ggml.h`).

/// Maximum number of dimensions of a tensor (`GGML_MAX_DIMS`).
pub const MAX_DIMS: usize = 4;
/// Maximum length of a tensor name in bytes (`GGML_MAX_NAME` is 64 and includes the terminating zero).
pub(crate) const MAX_NAME_BYTES: usize = 63;
/// Maximum length in bytes of a key, a string value or a string in an array.
pub(crate) const MAX_STRING_BYTES: u64 = 1 << 30;
/// Maximum number of elements of an array.
pub(crate) const MAX_ARRAY_ELEMENTS: u64 = 1 << 30;
