//! The expected squared error of each weight's product, per type: rows quantized by ggml itself, with the matrix as
//! importance.

use rayon::prelude::*;

use super::moments::Inputs;
use super::{Error, Source, Weight};
use crate::gguf::DType;
use crate::llama::{QuantizedRows, RowError};
use crate::random::SplitMix64;

/// Rows that one task quantizes.
const ROWS_AT_ONCE: usize = 8;

/// Rows that are quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Rows per weight, spread evenly over its matrices, one or more each; `None` for all.
    pub rows: Option<u64>,
    /// Seed of the choice.
    pub seed: u64,
}

/// The errors of one weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Errors {
    /// Expected squared error of the product per token, one per type.
    pub errors: Vec<f64>,
    /// Expected square of the product itself per token.
    pub power: f64,
    /// Sum of the squares of the weights, per matrix.
    pub norm: f64,
    /// The same of the rows less their mean, each column times the mean square of its input: what an error of the
    /// inputs, in a random direction and as large as they are, changes the differences of the products by.
    pub spread: f64,
    /// Number of rows that were quantized.
    pub rows: u64,
}

/// One row of one matrix.
type Row = (usize, u64);

/// Quantizes rows of a weight to each type and returns the errors of all rows, estimated from these.
///
/// # Errors
/// Values that ggml's quantizers cannot take.
pub fn measure(
    source: &Source,
    weight: &Weight,
    inputs: &Inputs,
    types: &[DType],
    sampling: Sampling,
) -> Result<Errors, Error> {
    let rows = sampled_rows(weight, sampling);
    let blocks: Vec<&[Row]> = rows.chunk_by(|a, b| a.0 == b.0).flat_map(|rows| rows.chunks(ROWS_AT_ONCE)).collect();
    // The first task of a block measures the product itself.
    let tasks: Vec<(&[Row], Option<DType>)> = blocks
        .iter()
        .flat_map(|rows| std::iter::once(None).chain(types.iter().copied().map(Some)).map(|t| (*rows, t)))
        .collect();
    let sums = tasks
        .par_iter()
        .map(|&(rows, dtype)| block_error(source, weight, inputs, rows, dtype))
        .collect::<Result<Vec<f64>, RowError>>()
        .map_err(|error| Error::Rows { tensor: weight.name.clone(), reason: error.to_string() })?;
    let per_matrix = rows.len() as f64 / weight.matrices().max(1) as f64;
    let scale = weight.rows() as f64 / per_matrix;
    // Added up in the order of the rows, so that the number of threads changes no bits.
    let mut totals = vec![0.0; types.len() + 1];
    for block in sums.chunks_exact(types.len() + 1) {
        totals.iter_mut().zip(block).for_each(|(total, sum)| *total += sum * scale);
    }
    let errors = totals.split_off(1);
    let (norm, spread) = squares(source, weight, inputs, &blocks)
        .map_err(|error| Error::Rows { tensor: weight.name.clone(), reason: error.to_string() })?;
    source.release(weight);
    let per_matrix = scale / weight.matrices().max(1) as f64;
    Ok(Errors { errors, power: totals[0], norm: norm * per_matrix, spread: spread * scale, rows: rows.len() as u64 })
}

/// Sums [`Errors::norm`] and [`Errors::spread`] over the sampled rows.
fn squares(source: &Source, weight: &Weight, inputs: &Inputs, blocks: &[&[Row]]) -> Result<(f64, f64), RowError> {
    let columns = weight.columns() as usize;
    let (mut first, mut second, mut count) = (vec![0.0_f64; columns], vec![0.0_f64; columns], 0.0);
    for rows in blocks {
        for row in read_rows(source, weight, rows)?.chunks_exact(columns) {
            for ((first, second), &w) in first.iter_mut().zip(&mut second).zip(row) {
                *first += f64::from(w);
                *second += f64::from(w).powi(2);
            }
            count += 1.0;
        }
    }
    let norm = second.iter().sum();
    let Some(moments) = inputs.matrices.first() else { return Ok((norm, 0.0)) };
    let mean_square =
        |j: usize| f64::from(moments.variance[j]) + moments.mean.get(j).map_or(0.0, |m| f64::from(*m).powi(2));
    let spread = (0..columns).map(|j| mean_square(j) * (second[j] - first[j] * first[j] / count)).sum();
    Ok((norm, spread))
}

/// Chooses rows: splits the rows of a matrix into as many equal parts as rows are needed, and draws one from each.
fn sampled_rows(weight: &Weight, sampling: Sampling) -> Vec<Row> {
    let (matrices, rows) = (weight.matrices(), weight.rows());
    let wanted = sampling.rows.map_or(rows, |n| n.div_ceil(matrices.max(1)).clamp(1, rows));
    // The seed includes the weight's name, so that the choice does not depend on other weights.
    let name = weight.name.bytes().fold(sampling.seed, |seed, b| seed.wrapping_mul(0x0100_0000_01b3) ^ u64::from(b));
    let mut random = SplitMix64::new(name);
    let at = |part: u64| (u128::from(part) * u128::from(rows) / u128::from(wanted)) as u64;
    let mut chosen = Vec::new();
    for matrix in 0..matrices {
        for part in 0..wanted {
            let (from, to) = (at(part), at(part + 1));
            chosen.push((matrix as usize, from + random.below((to - from).max(1))));
        }
    }
    chosen
}

/// Returns the expected squared error of some rows of one matrix as a type; without a type that of leaving the rows
/// out.
fn block_error(
    source: &Source,
    weight: &Weight,
    inputs: &Inputs,
    rows: &[Row],
    dtype: Option<DType>,
) -> Result<f64, RowError> {
    if dtype == Some(weight.dtype) {
        return Ok(0.0); // llama-quantize copies it
    }
    let columns = weight.columns() as usize;
    let matrix = rows.first().map_or(0, |row| row.0);
    let exact = read_rows(source, weight, rows)?;
    let delta = match dtype {
        None => exact,
        Some(dtype) => {
            let mut quantized = QuantizedRows::new(dtype, columns)?;
            quantized.quantize(&exact, inputs.importance.get(matrix).map(Vec::as_slice))?;
            let mut back = vec![0.0; exact.len()];
            quantized.dequantize(&mut back)?;
            exact.iter().zip(&back).map(|(a, b)| a - b).collect()
        }
    };
    // Moments may be one set for all matrices.
    let moments = inputs.matrices.get(matrix).or_else(|| inputs.matrices.first());
    let error = |row: &[f32]| moments.map_or(0.0, |m| m.squared_error(row.iter().map(|&d| f64::from(d))));
    Ok(delta.chunks_exact(columns).map(error).sum())
}

/// Reads rows of one matrix as f32.
fn read_rows(source: &Source, weight: &Weight, rows: &[Row]) -> Result<Vec<f32>, RowError> {
    let data = source.tensor(weight).map_or(&[][..], |tensor| tensor.data);
    let mut stored = QuantizedRows::new(weight.dtype, weight.columns() as usize)?;
    let row_bytes = stored.row_bytes();
    let mut bytes = Vec::with_capacity(rows.len() * row_bytes);
    for &(matrix, row) in rows {
        let at = (matrix * weight.rows() as usize + row as usize) * row_bytes;
        bytes.extend_from_slice(data.get(at..at + row_bytes).unwrap_or_default());
    }
    stored.copy_from(&bytes)?;
    let mut values = vec![0.0; bytes.len() / row_bytes * weight.columns() as usize];
    stored.dequantize(&mut values)?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampled_rows_are_spread_over_all_matrices_and_depend_on_the_seed() {
        let weight = Weight::new("blk.0.ffn_up_exps.weight", DType::F32, [32, 100, 8, 1], 0);
        let rows = |rows, seed| sampled_rows(&weight, Sampling { rows, seed });
        let some = rows(Some(40), 1);
        assert_eq!(some.len(), 40);
        for (i, &(matrix, row)) in some.iter().enumerate() {
            assert_eq!((matrix, row / 20), (i / 5, i as u64 % 5), "one of each fifth of each matrix");
        }
        assert_eq!(some, rows(Some(40), 1));
        assert_ne!(some, rows(Some(40), 2));
        assert_eq!(rows(Some(1), 1).len(), 8, "no matrix is left out");
        let all: Vec<Row> = (0..8).flat_map(|m| (0..100).map(move |r| (m, r))).collect();
        assert_eq!((rows(None, 1), rows(Some(10_000), 3)), (all.clone(), all));
    }
}
