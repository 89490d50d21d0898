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
    // Not the sum of the sizes of the values: a `Value` replaces bytes that are not UTF-8.
    let dropped = source
        .first()
        .keys()
        .map(|(key, value)| if replaced(key) { pair(key, value_bytes(value)) } else { lost_bytes(value) });
    source.first().key_bytes() - dropped.sum::<u64>() + set.iter().map(|&(key, bytes)| pair(key, bytes)).sum::<u64>()
}

/// Returns the bytes of a key with a value of `value` bytes.
const fn pair(key: &str, value: u64) -> u64 {
    8 + key.len() as u64 + 4 + value
}

/// Bytes of a value that `llama-quantize` replaces or leaves out: numbers and short texts.
fn value_bytes(value: &Value) -> u64 {
    match value {
        Value::U8(_) | Value::I8(_) | Value::Bool(_) => 1,
        Value::U16(_) | Value::I16(_) => 2,
        Value::U32(_) | Value::I32(_) | Value::F32(_) | Value::Array(_) => 4,
        Value::U64(_) | Value::I64(_) | Value::F64(_) => 8,
        Value::String(text) => 8 + text.len() as u64,
    }
}

/// Bytes that are lost when a text is copied as a C string, which ends at its first zero.
fn lost_bytes(value: &Value) -> u64 {
    let lost = |text: &String| text.find('\0').map_or(0, |at| (text.len() - at) as u64);
    match value {
        Value::String(text) => lost(text),
        Value::Array(Array::String(texts)) => texts.iter().map(lost).sum(),
        _ => 0,
    }
}

/// Returns the bytes of a tensor's data as a type, padding included; `None` if its rows do not consist of whole blocks.
#[must_use]
pub fn tensor_bytes(weight: &Weight, dtype: DType) -> Option<u64> {
    weight.bytes_as(dtype).map(padded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Writer;

    fn bytes(set: impl Fn(&mut Writer<'_>)) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.set("general.architecture", "llama");
        set(&mut writer);
        writer.f32_tensor("blk.0.attn_q.weight", &[32, 2], vec![0.0; 64]).unwrap();
        let mut bytes = Vec::new();
        writer.write_to(&mut bytes).unwrap();
        bytes
    }

    /// The header of the file that `llama-quantize` would write: the same keys, written.
    fn header(set: impl Fn(&mut Writer<'_>)) -> u64 {
        (bytes(set).len() - 64 * 4) as u64
    }

    #[test]
    fn headers_have_the_keys_that_llama_quantize_writes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        let tokens = || vec!["a".to_owned(), "b\0c".to_owned(), "\u{fffd}".to_owned()];
        let mut source = bytes(|w| {
            w.set("general.file_type", 1_u64).set("split.no", 0_u16).set("tokenizer.ggml.tokens", tokens());
        });
        // A text of one byte that is not UTF-8, and two zeros after it.
        let at = source.windows(3).position(|three| three == [0xef, 0xbf, 0xbd]).unwrap();
        source[at..at + 3].copy_from_slice(&[0xff, b'x', b'y']);
        std::fs::write(&path, &source).unwrap();
        let source = Source::open(&path).unwrap();
        let mut loaded = Loaded::<Vec<f32>> { datasets: vec!["text.txt".into()], chunk_count: 7, ..Loaded::default() };
        let common = |w: &mut Writer<'_>| {
            w.set("tokenizer.ggml.tokens", vec!["a".to_owned(), "b".to_owned(), "xyz".to_owned()]);
            w.set("general.quantization_version", 2_u32).set("general.file_type", 15_u32);
        };
        assert_eq!(
            header_bytes(&source, "m.gguf".as_ref(), &loaded),
            header(common),
            "an empty matrix leaves no trace"
        );
        loaded.entries.insert("blk.0.attn_q.weight".into(), crate::imatrix::Entry::default());
        let long = "p".repeat(200);
        let expected = header(|w| {
            common(w);
            w.set("quantize.imatrix.file", "p".repeat(127)).set("quantize.imatrix.dataset", "text.txt");
            w.set("quantize.imatrix.entries_count", 1_u32).set("quantize.imatrix.chunks_count", 7_u32);
        });
        assert_eq!(header_bytes(&source, long.as_ref(), &loaded), expected);
    }
}
