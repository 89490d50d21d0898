//! GGUF files: a validating reader and a writer.
//!
//! GGUF is ggml's container format: typed key/value pairs, then tensor descriptions, then aligned tensor data. The reader
//! enforces the rules of ggml's `gguf.cpp`. The writer produces the bytes of `gguf_write_to_file` with `only_meta = false`.

pub(crate) mod cursor;
mod dtype;
mod error;
mod half;
mod kind;
mod limits;
pub(crate) mod map;
mod parse;
mod reader;
mod split;
mod value;
mod writer;

pub use dtype::DType;
pub use error::Error;
pub use half::{f16_to_f32, f32_to_f16};
pub use kind::Kind;
pub use limits::MAX_DIMS;
pub(crate) use limits::{MAX_ARRAY_ELEMENTS, MAX_NAME_BYTES, MAX_STRING_BYTES};
pub use reader::{File, Tensor};
pub use value::{Array, Value};
pub(crate) use writer::F32Source;
pub use writer::Writer;

/// The first four bytes of every GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// The version that the writer produces, and the newest version that the reader accepts.
pub const VERSION: u32 = 3;
/// Alignment of tensor data in bytes, if the file does not set [`ALIGNMENT_KEY`].
pub(crate) const DEFAULT_ALIGNMENT: u32 = 32;
/// The key that sets the alignment. Its value is a `u32` and a power of two.
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";
