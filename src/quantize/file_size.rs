//! The size of the file that `llama-quantize` writes, to the byte.

use std::path::Path;

use super::{Source, Weight};
use crate::gguf::{Array, DType, Value};
use crate::imatrix::Loaded;

/// `llama-quantize` aligns tensor data to this, whatever the source's alignment.
const ALIGNMENT: u64 = 32;
/// Longest text that `llama-quantize` stores of a path.
const LONGEST_TEXT: usize = 127;

/// Returns the bytes that tensor data take in the file, padding included.
#[must_use]
pub const fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGNMENT)
}

/// Returns the bytes before the tensor data: they do not depend on the types.
///
/// `matrix` is what `llama-quantize` is given as `--imatrix`: it stores this path.
#[must_use]
pub fn header_bytes<V>(source: &Source, matrix: &Path, loaded: &Loaded<V>) -> u64 {
    let tensors: u64 = source.weights().iter().map(description_bytes).sum();
    padded(24 + key_bytes(source, matrix, loaded) + tensors)
}

fn description_bytes(weight: &Weight) -> u64 {
    8 + weight.name.len() as u64 + 4 + 8 * weight.n_dims() as u64 + 4 + 8
}

/// Returns the bytes of all keys: those of the source without the parts of a split model, and those that are set.
fn key_bytes<V>(source: &Source, matrix: &Path, loaded: &Loaded<V>) -> u64 {
    const PARTS: [&str; 3] = ["split.no", "split.count", "split.tensors.count"];
    let mut set: Vec<(&str, u64)> = vec![("general.quantization_version", 4), ("general.file_type", 4)];
    if !loaded.entries.is_empty() {
        let text = |text: &[u8]| 8 + text.len().min(LONGEST_TEXT) as u64;
        set.push(("quantize.imatrix.file", text(matrix.as_os_str().as_encoded_bytes())));
        set.extend(loaded.datasets.first().map(|name| ("quantize.imatrix.dataset", text(name.as_bytes()))));
        set.push(("quantize.imatrix.entries_count", 4));
        set.extend((loaded.chunk_count > 0).then_some(("quantize.imatrix.chunks_count", 4)));
    }
    let replaced = |key: &str| PARTS.contains(&key) || set.iter().any(|(name, _)| *name == key);
    let copied =
        source.first().keys().filter(|(key, _)| !replaced(key)).map(|(key, value)| pair(key, value_bytes(value)));
    copied.sum::<u64>() + set.iter().map(|&(key, bytes)| pair(key, bytes)).sum::<u64>()
}

/// Returns the bytes of a key with a value of `value` bytes.
const fn pair(key: &str, value: u64) -> u64 {
    8 + key.len() as u64 + 4 + value
}

fn value_bytes(value: &Value) -> u64 {
    match value {
        Value::U8(_) | Value::I8(_) | Value::Bool(_) => 1,
        Value::U16(_) | Value::I16(_) => 2,
        Value::U32(_) | Value::I32(_) | Value::F32(_) => 4,
        Value::U64(_) | Value::I64(_) | Value::F64(_) => 8,
        Value::String(text) => text_bytes(text),
        Value::Array(array) => 12 + array_bytes(array),
    }
}

fn array_bytes(array: &Array) -> u64 {
    let width = match array {
        Array::U8(_) | Array::I8(_) | Array::Bool(_) => 1,
        Array::U16(_) | Array::I16(_) => 2,
        Array::U32(_) | Array::I32(_) | Array::F32(_) => 4,
        Array::U64(_) | Array::I64(_) | Array::F64(_) => 8,
        Array::String(texts) => return texts.iter().map(|text| text_bytes(text)).sum(),
    };
    width * array.len() as u64
}

/// A text is copied as a C string, which ends at its first zero.
fn text_bytes(text: &str) -> u64 {
    8 + text.find('\0').unwrap_or(text.len()) as u64
}

/// Returns the bytes of a tensor's data as a type, padding included; `None` if its rows do not consist of whole blocks.
#[must_use]
pub fn tensor_bytes(weight: &Weight, dtype: DType) -> Option<u64> {
    weight.bytes_as(dtype).map(padded)
}
