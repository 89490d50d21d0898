//! Rows of the output matrix as f32. A token's logit is the product of its row with the matrix's input.

use std::ffi::{CString, c_char};
use std::path::PathBuf;

use llama_cpp_sys_2 as sys;

use super::{Graph, Model, Source, Token};
use crate::gguf::{self, DType};

/// Reason why the rows cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RowsError {
    /// The model's file cannot be read.
    #[error("'{}': {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error.
        source: gguf::Error,
    },
    /// The graph has no output matrix, no file has it, or ggml cannot convert its type.
    #[error("{0}")]
    Rule(String),
}

/// The output matrix, read from its file row by row: in memory it may be on a device, or repacked.
#[derive(Debug)]
pub(crate) struct OutputRows {
    file: gguf::File<'static>,
    name: String,
    dtype: DType,
    n_embd: usize,
    n_vocab: usize,
}

impl OutputRows {
    /// Opens the file that has the output matrix of `graph`.
    ///
    /// # Errors
    /// See [`RowsError`].
    pub(crate) fn open(model: &Model, graph: &Graph<'_>) -> Result<Self, RowsError> {
        let no_head = || RowsError::Rule("the graph has no product with an output matrix".to_owned());
        let head = &graph.nodes[graph.head.ok_or_else(no_head)?];
        let Some(&Source::Leaf(leaf)) = head.sources.first() else { return Err(no_head()) };
        let leaf = &graph.leaves[leaf];
        let (n_embd, n_vocab) = (leaf.ne[0] as usize, leaf.ne[1] as usize);
        let missing =
            || RowsError::Rule(format!("'{}' has no '{}' of {n_embd} by {n_vocab}", model.path().display(), leaf.name));
        let mut number = 0;
        let mut count = 1;
        while number < count {
            let path =
                if number == 0 { model.path().to_owned() } else { split(model, number, count).ok_or_else(missing)? };
            let file = gguf::File::open(&path).map_err(|source| RowsError::File { path, source })?;
            if number == 0 {
                count = file.get("split.count").and_then(gguf::Value::as_u64).map_or(1, |n| n.clamp(1, 1 << 16) as i32);
            }
            number += 1;
            let Some(tensor) = file.tensor(&leaf.name) else { continue };
            let dtype = tensor.dtype;
            if tensor.shape[..2] != [n_embd as u64, n_vocab as u64] {
                return Err(missing());
            }
            let rows = Self { name: leaf.name.clone(), dtype, n_embd, n_vocab, file };
            let readable = (n_embd as u64).is_multiple_of(dtype.block_len()) && rows.row(0).is_some();
            let unreadable = || format!("'{}' is of type {dtype}, which ggml cannot convert", rows.name);
            return if readable { Ok(rows) } else { Err(RowsError::Rule(unreadable())) };
        }
        Err(missing())
    }

    /// Returns the matrix's name.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns a token's row. `None` if there is no such token.
    #[must_use]
    pub(crate) fn row(&self, token: Token) -> Option<Vec<f32>> {
        let token = usize::try_from(token).ok().filter(|&token| token < self.n_vocab)?;
        let bytes = usize::try_from(self.dtype.bytes_for(self.n_embd as u64)?).ok()?;
        let data = self.file.tensor(&self.name)?.data.get(token * bytes..(token + 1) * bytes)?;
        to_f32(self.dtype, data, self.n_embd)
    }

    /// Returns the mean of all rows. Its product with an input is the mean logit of the vocabulary.
    #[must_use]
    pub(crate) fn mean(&self) -> Vec<f64> {
        let mut sum = vec![0.0_f64; self.n_embd];
        for token in 0..self.n_vocab {
            for (sum, x) in sum.iter_mut().zip(self.row(token as Token).unwrap_or_default()) {
                *sum += f64::from(x);
            }
        }
        sum.iter().map(|x| x / self.n_vocab as f64).collect()
    }

    /// Rounds an input as ggml's CPU code does before it multiplies it with the matrix: to 8 bits for a quantized
    /// matrix. Returns it unchanged if ggml does not round it.
    #[must_use]
    pub(crate) fn rounded(&self, input: &[f32]) -> Vec<f32> {
        let Some((dtype, from_float)) = partner(self.dtype) else { return input.to_vec() };
        let bytes = dtype.bytes_for(input.len() as u64).and_then(|bytes| usize::try_from(bytes).ok());
        let Some(bytes) = bytes else { return input.to_vec() };
        if !(input.len() as u64).is_multiple_of(dtype.block_len()) {
            return input.to_vec();
        }
        // u64 for alignment: no block needs more.
        let mut stored = vec![0_u64; bytes.div_ceil(8)];
        // SAFETY: `input` consists of whole blocks (checked), and `stored` has room for all of them, aligned for every
        // block.
        unsafe { from_float(input.as_ptr(), stored.as_mut_ptr().cast(), input.len() as i64) };
        // SAFETY: `stored` has at least `bytes` bytes, initialized, and any bytes are valid `u8`s.
        let stored = unsafe { std::slice::from_raw_parts(stored.as_ptr().cast::<u8>(), bytes) };
        to_f32(dtype, stored, input.len()).unwrap_or_else(|| q8_k(dtype, stored, input))
    }
}

/// ggml's conversion of f32 to another type.
type FromFloat = unsafe extern "C" fn(*const f32, *mut std::ffi::c_void, i64);

/// Returns the type that ggml's CPU code converts the other operand to before it multiplies it with rows of `dtype`,
/// and the conversion. `None` for f32.
#[cfg(not(feature = "dynamic-backends"))]
fn partner(dtype: DType) -> Option<(DType, FromFloat)> {
    // SAFETY: ggml's table has an entry for every `DType`.
    let partner = DType::from_id(unsafe { (*sys::ggml_get_type_traits_cpu(dtype.id())).vec_dot_type })?;
    if partner == DType::F32 {
        return None;
    }
    // SAFETY: as above.
    unsafe { (*sys::ggml_get_type_traits_cpu(partner.id())).from_float }.map(|from_float| (partner, from_float))
}

/// The same with ggml's reference code, for programs that load their kernels at run time and cannot link to them.
#[cfg(feature = "dynamic-backends")]
fn partner(dtype: DType) -> Option<(DType, FromFloat)> {
    unsafe extern "C" {
        fn quantize_row_q8_K_ref(from: *const f32, to: *mut std::ffi::c_void, n: i64);
    }
    let partner = partner_type(dtype).filter(|&partner| partner != DType::F32)?;
    if partner == DType::Q8_K {
        return Some((partner, quantize_row_q8_K_ref)); // ggml's table lacks it
    }
    // SAFETY: ggml's table has an entry for every `DType`.
    unsafe { (*sys::ggml_get_type_traits(partner.id())).from_float_ref }.map(|from_float| (partner, from_float))
}

/// Returns the `vec_dot_type` of ggml-cpu.c's table.
#[cfg(any(test, feature = "dynamic-backends"))]
fn partner_type(dtype: DType) -> Option<DType> {
    use DType as D;
    Some(match dtype {
        D::F32 | D::F16 | D::BF16 => dtype,
        D::Q1_0 | D::Q2_0 | D::Q4_0 | D::Q5_0 | D::Q8_0 | D::MXFP4 | D::NVFP4 | D::IQ4_NL => D::Q8_0,
        D::Q4_1 | D::Q5_1 | D::Q8_1 => D::Q8_1,
        D::Q8_K | D::I8 | D::I16 | D::I32 | D::I64 | D::F64 => return None,
        _ => D::Q8_K, // all types with blocks of 256
    })
}

#[cfg(all(test, not(feature = "dynamic-backends")))]
mod partner_tests {
    use super::*;

    #[test]
    fn partner_types_equal_ggmls_vec_dot_types() {
        for &dtype in DType::ALL {
            let Some(partner) = partner_type(dtype) else { continue };
            // SAFETY: ggml's table has an entry for every `DType`.
            let found = unsafe { (*sys::ggml_get_type_traits_cpu(dtype.id())).vec_dot_type };
            assert_eq!(DType::from_id(found), Some(partner), "{dtype:?}");
        }
    }
}

/// Converts `Q8_K` blocks to f32, which ggml does not: a scale, 256 values, sums of 16. Returns `input` for other
/// types.
fn q8_k(dtype: DType, blocks: &[u8], input: &[f32]) -> Vec<f32> {
    if dtype != DType::Q8_K {
        return input.to_vec();
    }
    let block = |block: &[u8]| {
        let scale = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
        block[4..260].iter().map(move |&q| scale * f32::from(q.cast_signed())).collect::<Vec<_>>()
    };
    blocks.chunks_exact(DType::Q8_K.block_bytes() as usize).flat_map(block).collect()
}

/// Converts whole blocks of `n` values to f32. `None` if the length is wrong or ggml has no conversion.
fn to_f32(dtype: DType, data: &[u8], n: usize) -> Option<Vec<f32>> {
    if dtype.bytes_for(n as u64) != Some(data.len() as u64) {
        return None;
    }
    if dtype == DType::F32 {
        return Some(data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect());
    }
    // SAFETY: ggml's table has an entry for every `DType`.
    let to_float = unsafe { (*sys::ggml_get_type_traits(dtype.id())).to_float }?;
    // Rows of a file may be unaligned. ggml reads blocks as structs with an alignment of at most 8 bytes.
    let mut aligned = vec![0_u64; data.len().div_ceil(8)];
    let mut out = vec![0.0_f32; n];
    // SAFETY: `aligned` has room for the bytes. They are whole blocks of `n` values (checked), and `out` has room for
    // these.
    unsafe {
        std::ptr::copy_nonoverlapping(data.as_ptr(), aligned.as_mut_ptr().cast::<u8>(), data.len());
        to_float(aligned.as_ptr().cast(), out.as_mut_ptr(), n as i64);
    }
    Some(out)
}

/// Returns the path of file `number` of a model that is split into `count` files.
fn split(model: &Model, number: i32, count: i32) -> Option<PathBuf> {
    let path = CString::new(model.path().to_str()?).ok()?;
    let call = |write: &dyn Fn(*mut c_char, usize) -> i32| {
        let mut text = vec![0_u8; path.as_bytes().len() + 64];
        let n = usize::try_from(write(text.as_mut_ptr().cast(), text.len())).ok().filter(|&n| n > 0)?;
        text.truncate(n);
        let end = text.iter().position(|&b| b == 0).unwrap_or(text.len());
        text.truncate(end);
        CString::new(text).ok()
    };
    // SAFETY: llama.cpp writes at most `n` bytes, which `to` has room for; the path is NUL-terminated.
    let prefix = call(&|to, n| unsafe { sys::llama_split_prefix(to, n, path.as_ptr(), 0, count) })?;
    // SAFETY: as above.
    let path = call(&|to, n| unsafe { sys::llama_split_path(to, n, prefix.as_ptr(), number, count) })?;
    Some(path.to_str().ok()?.into())
}
