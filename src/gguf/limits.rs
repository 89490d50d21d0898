//! Limits on what a file may ask for, the ones ggml has (`gguf.cpp`, `ggml.h`).

/// Dimensions of a tensor (`GGML_MAX_DIMS`).
pub const MAX_DIMS: usize = 4;
/// Bytes of a tensor's name (`GGML_MAX_NAME` is 64 and counts the terminating zero).
pub const MAX_NAME_BYTES: usize = 63;
/// Bytes of a key, a string value or a string in an array.
pub const MAX_STRING_BYTES: u64 = 1 << 30;
/// Elements of an array value.
pub const MAX_ARRAY_ELEMENTS: u64 = 1 << 30;
