//! Means and variances of a weight's inputs, from the matrix.

use super::rules::is_embedding;
use super::{Error, Source, Weight};
use crate::imatrix::{Entry, Imatrix};

/// The inputs of a weight, per matrix (expert or head).
#[derive(Clone, Debug, PartialEq)]
pub struct Inputs {
    /// One per matrix, or one for all.
    pub matrices: Vec<Moments>,
    /// What the quantizer is given, one per matrix; empty if the matrix has no entry for the weight.
    pub importance: Vec<Vec<f32>>,
    /// Where the moments come from.
    pub origin: Origin,
}

/// Where moments come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The weight's entry in the matrix.
    Entry,
    /// Token embeddings: each row is an output itself, and all tokens are equally likely.
    Lookup,
    /// No entry: inputs of the output matrix have the squared weights of the last norm as their mean squares.
    Norm,
    /// No entry: inputs have mean 0 and variance 1.
    Unknown,
}

/// Inputs of one matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// Share of the tokens that this matrix sees.
    pub share: f64,
    /// Variance per column.
    pub variance: Vec<f32>,
    /// Mean per column; empty if all are zero.
    pub mean: Vec<f32>,
}

/// The matrix, checked against a model.
#[derive(Debug)]
pub struct Statistics<'m> {
    imatrix: &'m Imatrix,
    /// Tokens that the matrix was collected over: the largest count.
    tokens: f64,
    use_means: bool,
}

impl<'m> Statistics<'m> {
    /// Checks that a matrix belongs to a model. Without `use_means` inputs are assumed to have mean zero.
    ///
    /// # Errors
    /// An entry without a tensor or of another length, or one that is not finite.
    pub fn new(imatrix: &'m Imatrix, source: &Source, use_means: bool) -> Result<Self, Error> {
        for (name, entry) in imatrix {
            let weight = source.weight(name).ok_or_else(|| Error::NoTensor { entry: name.clone() })?;
            let expected = weight.columns().saturating_mul(weight.matrices());
            // llama-quantize ignores an entry of the token embeddings that does not fit, and fails for all others.
            if entry.sum2.len() as u64 != expected && !is_embedding(name) {
                return Err(Error::EntryLength { entry: name.clone(), found: entry.sum2.len(), expected });
            }
            let sums = entry.sum.iter().flatten();
            if entry.sum2.iter().any(|x| !x.is_finite() || *x < 0.0) || sums.into_iter().any(|x| !x.is_finite()) {
                return Err(Error::EntryNotFinite { entry: name.clone() });
            }
        }
        let counts = imatrix.iter().flat_map(|(_, entry)| entry.counts.iter().copied());
        Ok(Self { imatrix, tokens: counts.max().unwrap_or(1).max(1) as f64, use_means })
    }

    /// Returns true if the matrix has data for a weight.
    #[must_use]
    pub fn has(&self, weight: &Weight) -> bool {
        self.entry(weight).is_some()
    }

    /// Returns the number of matrices that a token goes through: the experts it is routed to, or 1.
    #[must_use]
    pub fn matrices_used(&self, weight: &Weight) -> f64 {
        let routed = self.entry(weight).filter(|entry| entry.counts.len() > 1);
        routed.map_or(1.0, |entry| (entry.counts.iter().sum::<i64>() as f64 / self.tokens).max(1.0))
    }

    fn entry(&self, weight: &Weight) -> Option<&'m Entry> {
        let fits = |entry: &&Entry| {
            entry.sum2.len() as u64 == weight.columns() * weight.matrices() && entry.counts.iter().any(|&n| n > 0)
        };
        self.imatrix.get(&weight.name).filter(fits)
    }

    /// Returns the inputs of a weight. `norm` has the weights of the norm before the output matrix.
    #[must_use]
    pub fn inputs(&self, weight: &Weight, norm: Option<&[f32]>, is_tied: bool) -> Inputs {
        let columns = weight.columns() as usize;
        let entry = self.entry(weight);
        let importance = entry.map_or_else(Vec::new, |entry| {
            entry.importance().chunks_exact(columns.max(1)).map(<[f32]>::to_vec).collect()
        });
        let is_output = weight.name == "output.weight" || (is_tied && weight.name == "token_embd.weight");
        let plain = |origin, variance| Inputs {
            matrices: vec![Moments { share: 1.0, variance, mean: Vec::new() }],
            importance: importance.clone(),
            origin,
        };
        match (entry, norm) {
            _ if is_embedding(&weight.name) && !is_output => {
                plain(Origin::Lookup, vec![1.0 / weight.rows().max(1) as f32; columns])
            }
            (Some(entry), _) => {
                let matrices = self.of_entry(entry, columns);
                Inputs { matrices, importance, origin: Origin::Entry }
            }
            (None, Some(norm)) if is_output && norm.len() == columns => {
                plain(Origin::Norm, norm.iter().map(|x| x * x).collect())
            }
            _ => plain(Origin::Unknown, vec![1.0; columns]),
        }
    }

    fn of_entry(&self, entry: &Entry, columns: usize) -> Vec<Moments> {
        let importance = entry.importance();
        let sums = entry.sum.as_ref().filter(|sum| self.use_means && sum.len() == importance.len());
        let matrix = |(i, squares): (usize, &[f32])| {
            // One count may apply to several matrices, such as heads.
            let count = entry.counts.get(i).or_else(|| entry.counts.first()).copied().unwrap_or(0);
            // An expert without rows still counts as if it had seen one token.
            let share = count.max(1) as f64 / self.tokens;
            let mean: Vec<f32> = match sums.and_then(|sums| sums.get(i * columns..(i + 1) * columns)) {
                Some(sums) if count > 0 => sums.iter().map(|x| x / count as f32).collect(),
                _ => Vec::new(),
            };
            // Rounding may leave a variance just below zero.
            let variance = match mean.as_slice() {
                [] => squares.to_vec(),
                mean => squares.iter().zip(mean).map(|(s, m)| (s - m * m).max(0.0)).collect(),
            };
            Moments { share, variance, mean }
        };
        importance.chunks_exact(columns.max(1)).enumerate().map(matrix).collect()
    }
}

impl Moments {
    /// Returns the expected squared error of a row's product with the inputs: `Σ Var[x] δ² + (Σ E[x] δ)²`.
    #[must_use]
    pub fn squared_error(&self, row: impl Iterator<Item = f64> + Clone) -> f64 {
        let spread: f64 = row.clone().zip(&self.variance).map(|(d, &v)| d * d * f64::from(v)).sum();
        let shift: f64 = row.zip(&self.mean).map(|(d, &m)| d * f64::from(m)).sum();
        self.share * (spread + shift * shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the definition, over inputs that are drawn once: the mean over all of them of (Σ δ x)².
    #[test]
    fn squared_error_is_the_mean_over_the_inputs_if_columns_are_uncorrelated() {
        // Columns of a Hadamard matrix are uncorrelated; means are added.
        let mean = [3.0, -1.0, 0.5, 0.0];
        let signs = [[1.0, 1.0, 1.0, 1.0], [1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0], [1.0, -1.0, -1.0, 1.0]];
        // Row t of the eight inputs: plus or minus the signs of column order.
        let inputs: Vec<[f64; 4]> = (0..8)
            .map(|t| {
                let turn = if t < 4 { 1.0 } else { -1.0 };
                [0, 1, 2, 3].map(|j| mean[j] + turn * signs[t % 4][j] * (j + 1) as f64)
            })
            .collect();
        let delta = [0.1, 0.2, -0.3, 0.05];
        let direct: f64 =
            inputs.iter().map(|x| (0..4).map(|j| x[j] * delta[j]).sum::<f64>().powi(2)).sum::<f64>() / 8.0;
        let entry = Entry {
            sum2: (0..4).map(|j| inputs.iter().map(|x| x[j] * x[j]).sum::<f64>() as f32).collect(),
            sum: Some((0..4).map(|j| inputs.iter().map(|x| x[j]).sum::<f64>() as f32).collect()),
            counts: vec![8],
        };
        let imatrix = Imatrix::default();
        let moments =
            |use_means| Statistics { imatrix: &imatrix, tokens: 8.0, use_means }.of_entry(&entry, 4).remove(0);
        let found = moments(true).squared_error(delta.into_iter());
        assert!((found / direct - 1.0).abs() < 1e-6, "{found} {direct}");
        let without = moments(false).squared_error(delta.into_iter());
        assert!((without / direct - 1.0).abs() > 0.1, "the means matter here: {without} {direct}");
    }

    #[test]
    fn experts_weigh_by_their_tokens() {
        let entry = Entry { sum2: vec![4.0, 8.0, 9.0, 9.0, 0.0, 0.0], sum: None, counts: vec![2, 6, 0] };
        let imatrix = Imatrix::default();
        let moments = Statistics { imatrix: &imatrix, tokens: 8.0, use_means: true }.of_entry(&entry, 2);
        assert_eq!(moments.iter().map(|m| m.share).collect::<Vec<_>>(), [0.25, 0.75, 0.125]);
        assert_eq!(moments[1].variance, [1.5, 1.5]);
        assert_eq!(moments[2].variance, [1.0, 1.0], "as llama-quantize has it for an expert without rows");
    }
}
