//! Sampled rows of experts in a state file.

use super::{ChunkSet, Error};
use crate::gguf::{Array, DType, File, Tensor, Value, Writer};
use crate::shown::{ROWS, RowSample, SampledLayer};

const WEIGHTS: &str = "sample.weights";
const WIDTHS: &str = "sample.widths";
const TOKENS: &str = "sample.tokens";
const VALUES: &str = "sample.rows";

pub(super) fn write(file: &mut Writer<'_>, sample: Option<&RowSample>) -> Result<(), Error> {
    let Some(sample) = sample.filter(|sample| !sample.layers().is_empty()) else { return Ok(()) };
    file.set(WEIGHTS, sample.layers().iter().map(|layer| layer.weight.clone()).collect::<Vec<String>>());
    file.set(WIDTHS, sample.layers().iter().map(|layer| layer.width as u64).collect::<Vec<u64>>());
    if sample.is_empty() {
        return Ok(());
    }
    let tokens: Vec<i64> = sample.tokens().flat_map(|(chunk, position, _)| [chunk as i64, position as i64]).collect();
    file.i64_tensor(TOKENS, &[2, sample.len() as u64], tokens)?;
    let rows: Vec<f32> = sample.tokens().flat_map(|(_, _, rows)| rows).copied().collect();
    file.f32_tensor(VALUES, &[sample.width() as u64, sample.len() as u64], rows)?;
    Ok(())
}

pub(super) fn read(file: &File<'_>) -> Result<Option<RowSample>, Error> {
    let Some(weights) = file.get(WEIGHTS) else { return Ok(None) };
    let weights = weights.as_strings().ok_or(Error::Sample("'sample.weights' is not an array of strings"))?;
    let widths = match file.get(WIDTHS) {
        Some(Value::Array(Array::U64(widths))) if widths.len() == weights.len() => widths,
        _ => return Err(Error::Sample("'sample.widths' does not have a u64 per weight")),
    };
    let layer = |(weight, width): (&String, &u64)| {
        Some(SampledLayer { weight: weight.clone(), width: usize::try_from(*width).ok()? })
    };
    let layers: Option<Vec<SampledLayer>> = weights.iter().zip(widths).map(layer).collect();
    let layers = layers.ok_or(Error::Sample("a width in 'sample.widths' is too large"))?;
    let width = layers.iter().try_fold(0_u64, |sum, layer| sum.checked_add(layer.width as u64));
    let width =
        width.filter(|&width| width > 0).ok_or(Error::Sample("the widths in 'sample.widths' have no sum above 0"))?;
    let mut sample = RowSample::new(layers);
    let Some(tokens) = file.tensor(TOKENS) else { return Ok(Some(sample)) };
    let tokens = pairs(&tokens).filter(|tokens| tokens.len() <= ROWS);
    let tokens = tokens.ok_or(Error::Sample("'sample.tokens' is not up to 256 pairs of i64 that are not negative"))?;
    let rows = file.tensor(VALUES).filter(|rows| rows.shape == [width, tokens.len() as u64, 1, 1]);
    let rows = rows.filter(|rows| rows.dtype == DType::F32).and_then(|rows| rows.to_f32());
    let rows = rows.ok_or(Error::Sample("'sample.rows' is not f32 with a row per token of 'sample.tokens'"))?;
    for (&[chunk, position], rows) in tokens.iter().zip(rows.chunks_exact(sample.width())) {
        sample.offer(chunk, position, rows);
    }
    if sample.len() != tokens.len() {
        return Err(Error::Sample("'sample.tokens' has a token twice"));
    }
    Ok(Some(sample))
}

/// Checks the rules that hold for every sample, before writing and after reading.
pub(super) fn check(sample: &RowSample, done: &ChunkSet) -> Result<(), Error> {
    if sample.tokens().any(|(chunk, ..)| !done.contains(chunk)) {
        return Err(Error::Sample("a token is of a chunk that is not done"));
    }
    if sample.tokens().any(|(_, _, rows)| rows.iter().any(|x| !x.is_finite())) {
        return Err(Error::Sample("a row is not finite"));
    }
    Ok(())
}

fn pairs(tensor: &Tensor<'_>) -> Option<Vec<[u64; 2]>> {
    if tensor.dtype != DType::I64 || tensor.shape[0] != 2 || tensor.shape[2..] != [1, 1] {
        return None;
    }
    let words: Vec<i64> = tensor.data.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
    words.as_chunks::<2>().0.iter().map(|&[a, b]| Some([a.try_into().ok()?, b.try_into().ok()?])).collect()
}
