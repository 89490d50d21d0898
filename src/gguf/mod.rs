//! GGUF files: a validating reader and a writer.
//!
//! GGUF is ggml's container: typed key/values, then tensor descriptions, then aligned tensor data.
//! The rules enforced here are those of ggml's `gguf.cpp`; the writer's bytes are those of
//! `gguf_write_to_file` with `only_meta = false`.

pub(crate) mod cursor;
mod dtype;
mod error;
mod half;
mod limits;
pub(crate) mod map;
mod parse;
mod reader;
mod value;
mod writer;

pub use dtype::DType;
pub use error::Error;
pub use half::{f16_to_f32, f32_to_f16};
pub use limits::{MAX_ARRAY_ELEMENTS, MAX_DIMS, MAX_NAME_BYTES, MAX_STRING_BYTES};
pub use reader::{File, Tensor};
pub use value::{Array, Value, ValueType};
pub use writer::{F32Source, Writer};

/// The first four bytes of every GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// The version written, and the newest one read.
pub const VERSION: u32 = 3;
/// Alignment of tensor data, in bytes, where the file does not set [`ALIGNMENT_KEY`].
pub const DEFAULT_ALIGNMENT: u32 = 32;
/// The key that sets the alignment; its value is a `u32` and a power of two.
pub const ALIGNMENT_KEY: &str = "general.alignment";
