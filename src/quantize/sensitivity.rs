//! Measured sensitivities: the change of the model's predictions by the error of one weight alone, or of a group of weights.
//!
//! The weights' data are replaced by their images, quantized and dequantized, and restored afterwards.

use std::collections::BTreeMap;

use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use super::divergence::Divergence;
use super::evaluation::{Evaluation, EvaluationError, base_rows, compare_rows, parts};
use super::moments::Inputs;
use super::{Error, Source, Weight};
use crate::calibration::Chunks;
use crate::gguf::DType;
use crate::lens::base::BaseRow;
use crate::llama::{EditableModel, Model, QuantizedRows, RowError};

/// Rows that one task quantizes.
const ROWS_AT_ONCE: usize = 16;

/// The image of a weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// Data of the weight's own type, after it was quantized to another.
    pub bytes: Vec<u8>,
    /// Expected squared error of the product per token.
    pub error: f64,
}

/// Quantizes and dequantizes all of a weight.
///
/// # Errors
/// Values that ggml's quantizers cannot take.
pub fn image(source: &Source, weight: &Weight, inputs: &Inputs, dtype: DType) -> Result<Image, Error> {
    let data = source.tensor(weight).map_or(&[][..], |tensor| tensor.data);
    let columns = weight.columns() as usize;
    let rows_per_matrix = weight.rows() as usize;
    let part = |(matrix, bytes): (usize, &[u8])| -> Result<(Vec<u8>, f64), RowError> {
        let mut stored = QuantizedRows::new(weight.dtype, columns)?;
        stored.copy_from(bytes)?;
        let mut exact = vec![0.0; bytes.len() / stored.row_bytes() * columns];
        stored.dequantize(&mut exact)?;
        let importance = inputs.importance.get(matrix).map(Vec::as_slice);
        let mut quantized = QuantizedRows::new(dtype, columns)?;
        quantized.quantize(&exact, importance)?;
        let mut back = vec![0.0; exact.len()];
        quantized.dequantize(&mut back)?;
        stored.quantize(&back, None)?;
        // The error of what is stored, which is rounded once more.
        stored.dequantize(&mut back)?;
        let moments = inputs.matrices.get(matrix).or_else(|| inputs.matrices.first());
        let error = exact.chunks_exact(columns).zip(back.chunks_exact(columns)).map(|(a, b)| {
            let delta = a.iter().zip(b).map(|(a, b)| f64::from(a - b));
            moments.map_or(0.0, |m| m.squared_error(delta))
        });
        Ok((stored.bytes().to_vec(), error.sum()))
    };
    let row_bytes = QuantizedRows::new(weight.dtype, columns).map_or(1, |rows| rows.row_bytes());
    let matrices = data.chunks(row_bytes * rows_per_matrix.max(1)).enumerate();
    let tasks: Vec<(usize, &[u8])> =
        matrices.flat_map(|(m, data)| data.chunks(row_bytes * ROWS_AT_ONCE).map(move |rows| (m, rows))).collect();
    let done: Result<Vec<(Vec<u8>, f64)>, RowError> = tasks.into_par_iter().map(part).collect();
    let done = done.map_err(|error| Error::Rows { tensor: weight.name.clone(), reason: error.to_string() })?;
    let error = done.iter().map(|(_, error)| error).sum();
    Ok(Image { bytes: done.into_iter().flat_map(|(bytes, _)| bytes).collect(), error })
}

/// The reference's distributions over chunks, in memory: two bytes per token of the text and of the vocabulary, for
/// half of the text.
pub struct Reference {
    rows: Vec<Vec<BaseRow>>,
    n_threads: usize,
    /// Divergence of the unchanged model from its own rounded distributions.
    floor: f64,
}

impl Reference {
    /// Evaluates the unchanged model.
    ///
    /// # Errors
    /// See [`EvaluationError`].
    pub fn new(model: &Model, chunks: &Chunks, n_threads: usize) -> Result<Self, EvaluationError> {
        let mut evaluation = Evaluation::new(model, chunks, n_threads)?;
        let mut rows = Vec::new();
        for number in 0..chunks.n_whole() {
            let chunk = chunks.get(number);
            evaluation.begin();
            for part in parts(chunk.len()) {
                rows.push(base_rows(&evaluation.logits(chunk, part.clone())?, chunk.len(), &part));
            }
        }
        let mut reference = Self { rows, n_threads, floor: 0.0 };
        reference.floor = reference.divergence(model, chunks)?;
        Ok(reference)
    }

    /// Returns the mean KL divergence of a model, less that of the unchanged one.
    ///
    /// # Errors
    /// See [`EvaluationError`].
    pub fn divergence(&self, model: &Model, chunks: &Chunks) -> Result<f64, EvaluationError> {
        let mut evaluation = Evaluation::new(model, chunks, self.n_threads)?;
        let mut all = Divergence::default();
        let mut rows = self.rows.iter();
        for number in 0..chunks.n_whole() {
            let chunk = chunks.get(number);
            evaluation.begin();
            for part in parts(chunk.len()) {
                let base = rows.next().map_or(&[][..], Vec::as_slice);
                let scores = compare_rows(base, &evaluation.logits(chunk, part.clone())?, chunk, &part)
                    .map_err(|position| EvaluationError::NotFinite { chunk: number + 1, position: position + 1 })?;
                for score in &scores {
                    all.add(score);
                }
            }
        }
        Ok(all.divergence().value - self.floor)
    }
}

/// The effect of errors in one weight or several.
#[derive(Clone, Debug, PartialEq)]
pub struct Effect {
    /// KL divergence that they cause together.
    pub divergence: f64,
    /// Expected squared error of each weight's product per token. Weights that the model does not compute with are missing.
    pub errors: BTreeMap<String, f64>,
}

/// The reason why an effect cannot be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// A weight that cannot be quantized.
    #[error(transparent)]
    Image(#[from] Error),
    /// The model cannot be evaluated.
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
}

/// Measures the divergence with the data of some weights replaced by their images, and restores them. `None` if the model computes
/// with none of them.
///
/// Beside the models it takes the memory of one weight and its image, however many weights there are.
///
/// # Errors
/// See [`MeasureError`].
///
/// # Panics
/// If the restored data differ from the original, since all later measurements would be wrong.
pub fn measure(
    model: &mut EditableModel,
    reference: &Reference,
    chunks: &Chunks,
    source: &Source,
    weights: &[(&Weight, DType)],
    inputs: impl Fn(&Weight) -> Inputs,
) -> Result<Option<Effect>, MeasureError> {
    let mut replaced = Vec::new();
    let mut errors = BTreeMap::new();
    let written: Result<(), Error> = weights.iter().try_for_each(|&(weight, dtype)| {
        let Some(original) = Original::read(model, source, weight) else { return Ok(()) };
        let image = image(source, weight, &inputs(weight), dtype)?;
        if model.write(&weight.name, &image.bytes) {
            replaced.push(original);
            errors.insert(weight.name.clone(), image.error);
        }
        Ok(())
    });
    let divergence = match &written {
        Ok(()) if !replaced.is_empty() => Some(reference.divergence(model.model(), chunks)),
        _ => None,
    };
    for original in &replaced {
        original.restore(model, source);
    }
    written?;
    Ok(divergence.transpose()?.map(|divergence| Effect { divergence, errors }))
}

/// The data of a weight before they are replaced.
struct Original<'w> {
    weight: &'w Weight,
    digest: sha2::digest::Output<Sha256>,
    /// Data that differ from the file's.
    bytes: Option<Vec<u8>>,
}

impl<'w> Original<'w> {
    fn read(model: &EditableModel, source: &Source, weight: &'w Weight) -> Option<Self> {
        let bytes = model.read(&weight.name)?;
        let digest = Sha256::digest(&bytes);
        let is_in_file = source.tensor(weight).is_some_and(|tensor| tensor.data == bytes);
        Some(Self { weight, digest, bytes: (!is_in_file).then_some(bytes) })
    }

    fn restore(&self, model: &mut EditableModel, source: &Source) {
        let name = &self.weight.name;
        let in_file = || source.tensor(self.weight).map_or(&[][..], |tensor| tensor.data);
        model.write(name, self.bytes.as_deref().unwrap_or_else(in_file));
        let restored = model.read(name).is_some_and(|bytes| Sha256::digest(&bytes) == self.digest);
        assert!(restored, "'{name}' was not restored");
    }
}
