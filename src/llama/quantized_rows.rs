//! Rows of a weight in one of ggml's types: quantized and dequantized by ggml itself. Needs no backend.

use llama_cpp_sys_2 as sys;

use crate::gguf::DType;

/// Largest absolute value of a weight that is handed to ggml's quantizers. Their sums of products are single precision
/// and some end the process when such a sum overflows.
pub const LARGEST_WEIGHT: f32 = 1e5;
/// Importance above this is scaled by a power of two, which changes no bits of the result, for the same reason.
const LARGEST_IMPORTANCE: f32 = 1_048_576.0;

/// Reason why rows cannot be quantized or dequantized.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RowError {
    /// ggml has no quantizer, or no conversion to f32, for the type.
    #[error("ggml does not quantize to {0}")]
    Unsupported(DType),
    /// Rows do not consist of whole blocks.
    #[error("{columns} columns are not a multiple of {dtype}'s block of {}", dtype.block_len())]
    Blocks {
        /// The type.
        dtype: DType,
        /// Elements per row.
        columns: usize,
    },
    /// Not a whole number of rows, or importance of another length than a row.
    #[error("found {found} values, expected a multiple of {columns}")]
    Length {
        /// Values or bytes given.
        found: usize,
        /// Values or bytes per row.
        columns: usize,
    },
    /// A weight that is not finite, or too large for ggml's quantizers.
    #[error("value {0} found, expected a finite number within ±{LARGEST_WEIGHT}")]
    Weight(f32),
    /// Importance that is negative or not finite.
    #[error("importance {0} found, expected a finite number, 0 or more")]
    Importance(f32),
    /// A type that ggml quantizes only with importance.
    #[error("{0} requires an importance matrix")]
    NeedsImportance(DType),
}

/// Rows of one type, in memory that is aligned for ggml's blocks.
#[derive(Debug, Clone)]
pub struct QuantizedRows {
    dtype: DType,
    columns: usize,
    rows: usize,
    /// Bytes of the rows, and up to seven more.
    words: Vec<u64>,
    /// Importance after scaling; empty if none was scaled.
    scaled: Vec<f32>,
}

impl QuantizedRows {
    /// Creates an empty buffer for rows of `columns` elements.
    ///
    /// # Errors
    /// [`RowError::Unsupported`], [`RowError::Blocks`].
    pub fn new(dtype: DType, columns: usize) -> Result<Self, RowError> {
        if !is_supported(dtype) {
            return Err(RowError::Unsupported(dtype));
        }
        if columns == 0 || !(columns as u64).is_multiple_of(dtype.block_len()) {
            return Err(RowError::Blocks { dtype, columns });
        }
        Ok(Self { dtype, columns, rows: 0, words: Vec::new(), scaled: Vec::new() })
    }

    /// Returns the element type.
    #[must_use]
    pub const fn dtype(&self) -> DType {
        self.dtype
    }

    /// Returns the bytes per row.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.columns / self.dtype.block_len() as usize * self.dtype.block_bytes() as usize
    }

    /// Returns the bytes of all rows, as a file stores them.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let len = self.rows * self.row_bytes();
        // SAFETY: `words` holds at least `len` initialized bytes (see `resize`), and any bytes are valid `u8`s.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), len) }
    }

    /// Quantizes rows with ggml's quantizer, replacing the contents. `importance` has one weight per column.
    ///
    /// # Errors
    /// See [`RowError`]. Values that could end the process inside ggml are refused.
    pub fn quantize(&mut self, rows: &[f32], importance: Option<&[f32]>) -> Result<(), RowError> {
        if !rows.len().is_multiple_of(self.columns) {
            return Err(RowError::Length { found: rows.len(), columns: self.columns });
        }
        if let Some(&wrong) = rows.iter().find(|x| !(x.is_finite() && x.abs() <= LARGEST_WEIGHT)) {
            return Err(RowError::Weight(wrong));
        }
        let importance = match importance {
            Some(importance) => self.checked_importance(importance)?,
            None if needs_importance(self.dtype) => return Err(RowError::NeedsImportance(self.dtype)),
            None => std::ptr::null(),
        };
        self.resize(rows.len() / self.columns);
        if self.rows == 0 {
            return Ok(());
        }
        // SAFETY: the type has a quantizer (checked in `new`); `rows` has `rows * columns` finite values and `words`
        // room for as many quantized rows (`resize`), aligned for every block; `importance` is null or has `columns`
        // values and lives until the call returns. ggml guards its tables with a lock of its own, so calls may run at
        // the same time.
        unsafe {
            sys::ggml_quantize_chunk(
                self.dtype.id() as sys::ggml_type,
                rows.as_ptr(),
                self.words.as_mut_ptr().cast(),
                0,
                self.rows as i64,
                self.columns as i64,
                importance,
            );
        }
        Ok(())
    }

    /// Copies rows from the bytes of a file, replacing the contents.
    ///
    /// # Errors
    /// [`RowError::Length`].
    pub fn copy_from(&mut self, bytes: &[u8]) -> Result<(), RowError> {
        let row = self.row_bytes();
        if !bytes.len().is_multiple_of(row) {
            return Err(RowError::Length { found: bytes.len(), columns: row });
        }
        self.resize(bytes.len() / row);
        for (word, part) in self.words.iter_mut().zip(bytes.chunks(8)) {
            let mut eight = [0; 8];
            eight[..part.len()].copy_from_slice(part);
            *word = u64::from_ne_bytes(eight);
        }
        Ok(())
    }

    /// Converts all rows to f32 with ggml's conversion.
    ///
    /// # Errors
    /// [`RowError::Length`] if `out` has another number of values.
    pub fn dequantize(&self, out: &mut [f32]) -> Result<(), RowError> {
        let n = self.rows * self.columns;
        if out.len() != n {
            return Err(RowError::Length { found: out.len(), columns: n });
        }
        if self.dtype == DType::F32 {
            let values = self.bytes().as_chunks::<4>().0;
            out.iter_mut().zip(values).for_each(|(to, bytes)| *to = f32::from_ne_bytes(*bytes));
            return Ok(());
        }
        // SAFETY: the id is one of ggml's types, for which it has a static table of functions.
        let traits = unsafe { &*sys::ggml_get_type_traits(self.dtype.id() as sys::ggml_type) };
        let to_float = traits.to_float.ok_or(RowError::Unsupported(self.dtype))?;
        // SAFETY: `words` has `rows` whole rows of the type, aligned for every block, and `out` has room for their `n`
        // values. Any bytes are a valid block: ggml masks each index into its tables.
        unsafe { to_float(self.words.as_ptr().cast(), out.as_mut_ptr(), n as i64) };
        Ok(())
    }

    fn resize(&mut self, rows: usize) {
        self.rows = rows;
        self.words.clear();
        self.words.resize((rows * self.row_bytes()).div_ceil(8), 0);
    }

    /// Checks importance, scales it if it is large, and returns a pointer that is valid until `self` changes.
    fn checked_importance(&mut self, importance: &[f32]) -> Result<*const f32, RowError> {
        if importance.len() != self.columns {
            return Err(RowError::Length { found: importance.len(), columns: self.columns });
        }
        if let Some(&wrong) = importance.iter().find(|x| !(x.is_finite() && **x >= 0.0)) {
            return Err(RowError::Importance(wrong));
        }
        let largest = importance.iter().copied().fold(0.0, f32::max);
        if largest <= LARGEST_IMPORTANCE {
            return Ok(importance.as_ptr());
        }
        let factor = 2.0_f32.powi(-(largest.log2().ceil() as i32));
        self.scaled.clear();
        self.scaled.extend(importance.iter().map(|x| x * factor));
        Ok(self.scaled.as_ptr())
    }
}

/// Returns true if ggml quantizes to the type and back.
fn is_supported(dtype: DType) -> bool {
    use DType::{BF16, F16, F32, IQ1_M, IQ1_S, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, IQ4_NL, IQ4_XS, MXFP4, NVFP4};
    use DType::{Q1_0, Q2_0, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, TQ1_0, TQ2_0};
    matches!(
        dtype,
        F32 | F16
            | BF16
            | Q4_0
            | Q4_1
            | Q5_0
            | Q5_1
            | Q8_0
            | Q2_K
            | Q3_K
            | Q4_K
            | Q5_K
            | Q6_K
            | IQ1_S
            | IQ1_M
            | IQ2_XXS
            | IQ2_XS
            | IQ2_S
            | IQ3_XXS
            | IQ3_S
            | IQ4_NL
            | IQ4_XS
            | TQ1_0
            | TQ2_0
            | MXFP4
            | NVFP4
            | Q1_0
            | Q2_0
    )
}

/// Returns true if ggml refuses to quantize to the type without importance, and ends the process over it.
fn needs_importance(dtype: DType) -> bool {
    // IQ1_M is not in ggml's list and is quantized by rules that assume importance.
    // SAFETY: a pure function of the id.
    dtype == DType::IQ1_M || unsafe { sys::ggml_quantize_requires_imatrix(dtype.id() as sys::ggml_type) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix64;

    fn normal(random: &mut SplitMix64, n: usize) -> Vec<f32> {
        let mut unit = || random.below(1 << 24) as f32 / (1 << 24) as f32;
        (0..n).map(|_| (0..6).map(|_| unit()).sum::<f32>() - 3.0).collect()
    }

    fn error(dtype: DType, rows: &[f32], importance: &[f32]) -> f64 {
        let mut quantized = QuantizedRows::new(dtype, importance.len()).unwrap();
        quantized.quantize(rows, Some(importance)).unwrap();
        let mut back = vec![0.0; rows.len()];
        quantized.dequantize(&mut back).unwrap();
        rows.iter().zip(&back).map(|(a, b)| f64::from(a - b).powi(2)).sum()
    }

    #[test]
    fn more_bits_give_less_error() {
        let rows = normal(&mut SplitMix64::new(1), 8 * 512);
        let importance = vec![1.0; 512];
        let types = [DType::IQ2_XXS, DType::Q3_K, DType::Q4_K, DType::Q5_K, DType::Q6_K, DType::Q8_0, DType::F16];
        let errors: Vec<f64> = types.iter().map(|&t| error(t, &rows, &importance)).collect();
        assert!(errors.is_sorted_by(|a, b| a > b), "{errors:?}");
        assert!(error(DType::F32, &rows, &importance) < 1e-30);
    }

    /// ggml's quantizers have assertions that end the process. No accepted data may fail one.
    #[test]
    fn extreme_values_do_not_end_the_process() {
        let mut random = SplitMix64::new(2);
        let plain = normal(&mut random, 512);
        let weights = [
            vec![0.0; 512],
            vec![LARGEST_WEIGHT; 512],
            plain.iter().map(|x| x * 1e-30).collect(),
            plain.iter().map(|x| if *x > 1.5 { LARGEST_WEIGHT } else { *x * 1e-3 }).collect::<Vec<_>>(),
            plain.iter().map(|x| x * 3e4).collect(),
        ];
        let importances = [
            vec![0.0; 512],
            vec![f32::MAX; 512],
            vec![f32::MIN_POSITIVE; 512],
            plain.iter().map(|x| if *x > 1.0 { f32::MAX } else { 0.0 }).collect(),
            plain.iter().map(|x| x.abs() * 1e19).collect::<Vec<_>>(),
        ];
        for &dtype in DType::ALL {
            let Ok(mut quantized) = QuantizedRows::new(dtype, 512) else { continue };
            for (rows, importance) in weights.iter().flat_map(|w| importances.iter().map(move |i| (w, i))) {
                quantized.quantize(rows, Some(importance)).unwrap();
                quantized.dequantize(&mut [0.0; 512]).unwrap();
            }
        }
    }

    #[test]
    fn values_and_lengths_out_of_range_are_refused() {
        let mut q = QuantizedRows::new(DType::IQ2_XS, 256).unwrap();
        let ones = [1.0; 256];
        assert_eq!(q.quantize(&ones, None), Err(RowError::NeedsImportance(DType::IQ2_XS)));
        for wrong in [f32::NAN, f32::INFINITY, 1.1e5] {
            let mut rows = ones;
            rows[7] = wrong;
            assert!(matches!(q.quantize(&rows, Some(&ones)), Err(RowError::Weight(_))));
        }
        let mut importance = ones;
        importance[3] = -1.0;
        assert_eq!(q.quantize(&ones, Some(&importance)), Err(RowError::Importance(-1.0)));
        assert!(matches!(q.quantize(&ones[..255], Some(&ones)), Err(RowError::Length { .. })));
        assert!(matches!(q.quantize(&ones, Some(&ones[..255])), Err(RowError::Length { .. })));
        assert!(matches!(q.copy_from(&[0; 75]), Err(RowError::Length { .. })));
        assert!(matches!(QuantizedRows::new(DType::Q4_K, 255), Err(RowError::Blocks { .. })));
        assert!(matches!(QuantizedRows::new(DType::Q8_1, 256), Err(RowError::Unsupported(_))));
        q.quantize(&ones, Some(&ones)).unwrap();
        assert!(matches!(q.dequantize(&mut [0.0; 255]), Err(RowError::Length { .. })));
    }

    #[test]
    fn scaled_importance_gives_the_same_bits() {
        let mut random = SplitMix64::new(3);
        let rows = normal(&mut random, 4 * 256);
        let importance: Vec<f32> = normal(&mut random, 256).iter().map(|x| x.abs() * 1000.0).collect();
        let larger: Vec<f32> = importance.iter().map(|x| x * 2.0_f32.powi(30)).collect();
        for dtype in [DType::IQ1_S, DType::IQ2_XXS, DType::IQ3_S, DType::Q2_K, DType::Q4_K, DType::IQ4_XS] {
            let [mut a, mut b] = [0, 1].map(|_| QuantizedRows::new(dtype, 256).unwrap());
            a.quantize(&rows, Some(&importance)).unwrap();
            b.quantize(&rows, Some(&larger)).unwrap();
            assert!(a.bytes() == b.bytes(), "{dtype}");
            let mut copied = QuantizedRows::new(dtype, 256).unwrap();
            copied.copy_from(a.bytes()).unwrap();
            assert!(copied.bytes() == a.bytes(), "{dtype}");
        }
    }
}
