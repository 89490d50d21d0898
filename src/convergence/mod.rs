//! Has a matrix converged? Compares the two halves of the text that it is from: the even and the odd batches.
//!
//! A collector with [`CollectorOptions::convergence`](crate::CollectorOptions::convergence) keeps the sums of the even
//! batches beside the sums of all. `a` and `b` are the mean squares of a weight's columns over the even and the odd half,
//! with `n_a` and `n_b` rows, `m` is the mean square over all `n` rows:
//!
//! - [`cosine`](Agreement::cosine): `a·b / (|a| |b|)`.
//! - [`relative_error`](Agreement::relative_error): `sqrt(n_a n_b) / n · |a - b| / |m|`, the standard error of `m` relative
//!   to `m`, by the method of random groups with two groups (Wolter, Introduction to Variance Estimation, chapter 2). It
//!   assumes that batches are independent samples of the text.
//!
//! `docs/convergence.md` derives both, and shows what they are worth.

mod file;

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};

pub use crate::sums::Half;
pub use file::{ConvergenceFile, Error, FORMAT, VERSION};

use crate::imatrix::{Entry, Numbers, Values};

/// How well the halves of a text agree, per weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Convergence {
    /// All weights of the matrix, sorted by name.
    pub weights: Vec<WeightAgreement>,
}

/// How well the halves of a weight's data agree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeightAgreement {
    /// Name of the weight.
    pub weight: String,
    /// The sum of all its `in_sum2`, which tells whether a matrix has this data.
    pub in_sum2: f64,
    /// Over the columns of all matrices with rows in both halves; `None` if there are none, or if a half is all zeros.
    pub agreement: Option<Agreement>,
    /// Per expert, if the weight has experts; `None` for an expert without rows in one of the halves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub experts: Vec<Option<Agreement>>,
}

/// How well two halves agree. Numbers are rounded to nine decimals.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Number of rows of the even and of the odd half.
    pub rows: [i64; 2],
    /// Cosine of the halves' mean squares.
    #[serde(deserialize_with = "nine_decimals")]
    pub cosine: f64,
    /// Standard error of the mean squares over all rows, relative to these.
    #[serde(deserialize_with = "nine_decimals")]
    pub relative_error: f64,
}

/// How well the halves agree after a number of chunks: a point of the curve over a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Number of chunks so far.
    pub chunks: i32,
    /// Largest number of rows of a weight: the tokens so far.
    pub tokens: i64,
    /// Lowest cosine of a weight.
    #[serde(deserialize_with = "nine_decimals")]
    pub cosine: f64,
    /// The weight that has it.
    pub weight: String,
    /// Median of the weights' cosines.
    #[serde(deserialize_with = "nine_decimals")]
    pub median_cosine: f64,
    /// Largest relative standard error of a weight.
    #[serde(deserialize_with = "nine_decimals")]
    pub relative_error: f64,
}

impl Convergence {
    /// Compares the halves of each entry, given all sums and the even half.
    pub(crate) fn measure<'e>(entries: impl IntoIterator<Item = (&'e str, Cow<'e, Entry>, &'e Half)>) -> Self {
        let weights = entries.into_iter().map(|(weight, all, even)| WeightAgreement::new(weight, &all, even)).collect();
        Self { weights }
    }

    /// Returns the weights whose halves can be compared.
    fn measured(&self) -> impl Iterator<Item = (&str, Agreement)> {
        self.weights.iter().filter_map(|weight| Some((weight.weight.as_str(), weight.agreement?)))
    }

    /// Returns the lowest cosine of a weight; `None` if no weight has data in both halves.
    #[must_use]
    pub fn lowest_cosine(&self) -> Option<(&str, f64)> {
        let cosines = self.measured().map(|(weight, agreement)| (weight, agreement.cosine));
        cosines.min_by(|(_, a), (_, b)| a.total_cmp(b))
    }

    /// Returns the point of the curve for a matrix of `chunks` chunks; `None` if no weight has data in both halves.
    #[must_use]
    pub fn point(&self, chunks: i32) -> Option<Point> {
        let (weight, cosine) = self.lowest_cosine()?;
        let mut cosines: Vec<f64> = self.measured().map(|(_, agreement)| agreement.cosine).collect();
        cosines.sort_by(f64::total_cmp);
        let errors = self.measured().map(|(_, agreement)| agreement.relative_error);
        Some(Point {
            chunks,
            tokens: self.weights.iter().filter_map(WeightAgreement::tokens).max().unwrap_or(0),
            cosine,
            weight: weight.to_owned(),
            median_cosine: rounded(f64::midpoint(cosines[(cosines.len() - 1) / 2], cosines[cosines.len() / 2])),
            relative_error: errors.fold(0.0, f64::max),
        })
    }
}

impl Point {
    /// Describes the point in a line: `lowest cosine of the halves 0.9981 (blk.3.ffn_down.weight), ..`.
    #[must_use]
    pub fn describe(&self) -> String {
        format!(
            "lowest cosine of the halves {:.4} ({}), median {:.4}, relative standard error up to {:.2} %",
            self.cosine,
            self.weight,
            self.median_cosine,
            100.0 * self.relative_error
        )
    }
}

impl WeightAgreement {
    /// Returns the number of rows, for experts that of the expert with the most: no more than the tokens of the text.
    fn tokens(&self) -> Option<i64> {
        let rows = |agreement: &Agreement| agreement.rows.iter().fold(0_i64, |sum, &rows| sum.saturating_add(rows));
        match &self.experts[..] {
            [] => self.agreement.as_ref().map(rows),
            experts => experts.iter().flatten().map(rows).max(),
        }
    }

    /// Compares the halves of an entry, given all sums and the even half.
    pub(crate) fn new(weight: &str, all: &Entry, even: &Half) -> Self {
        let mut total = Comparison::default();
        let matrices =
            if all.row_len().is_some() && even.counts.len() == all.counts.len() { all.counts.len() } else { 0 };
        let experts = (0..matrices).map(|expert| {
            let len = all.sum2.len() / matrices;
            let columns = expert * len..(expert + 1) * len;
            let rows = [even.counts[expert], all.counts[expert].saturating_sub(even.counts[expert])];
            let comparison = Comparison::new(even.sum2.get(columns.clone())?, &all.sum2[columns], rows)?;
            total.add(&comparison);
            comparison.agreement()
        });
        let experts: Vec<_> = experts.collect();
        Self {
            weight: weight.to_owned(),
            in_sum2: energy(&all.sum2.numbers()),
            agreement: total.agreement(),
            experts: if matrices > 1 { experts } else { Vec::new() },
        }
    }
}

/// Sums over columns, from which both measures follow.
#[derive(Clone, Copy, Debug, Default)]
struct Comparison {
    rows: [i64; 2],
    /// Σ a², Σ b², Σ a b of the mean squares of both halves.
    squares: [f64; 2],
    product: f64,
    /// Σ of the columns' estimated variance of the mean over all rows, and of its square.
    variance: f64,
    mean_squares: f64,
}

impl Comparison {
    /// `None` if a half has no rows. The odd half is the rest of `all` sums.
    fn new(even: &[f64], all: &[f32], rows: [i64; 2]) -> Option<Self> {
        if rows.iter().any(|&rows| rows < 1) {
            return None;
        }
        let mut sums = Self { rows, ..Self::default() };
        let [n_even, n_odd] = rows.map(|rows| rows as f64);
        let n = n_even + n_odd;
        for (&even, &all) in even.iter().zip(all) {
            // Rounding may leave a sum of nothing below 0.
            let (even, odd) = (even.max(0.0), (f64::from(all) - even).max(0.0));
            let (a, b, m) = (even / n_even, odd / n_odd, (even + odd) / n);
            sums.squares[0] += a * a;
            sums.squares[1] += b * b;
            sums.product += a * b;
            sums.variance += (a - b) * (a - b) * (n_even * n_odd / (n * n));
            sums.mean_squares += m * m;
        }
        Some(sums)
    }

    fn add(&mut self, other: &Self) {
        for half in 0..2 {
            // A weight's rows are those of its experts together.
            self.rows[half] = self.rows[half].saturating_add(other.rows[half]);
            self.squares[half] += other.squares[half];
        }
        self.product += other.product;
        self.variance += other.variance;
        self.mean_squares += other.mean_squares;
    }

    /// `None` if the halves have no direction: one has no rows, or only zeros.
    fn agreement(&self) -> Option<Agreement> {
        let norms = self.squares[0].sqrt() * self.squares[1].sqrt();
        let (cosine, relative_error) = (self.product / norms, (self.variance / self.mean_squares).sqrt());
        (norms > 0.0 && cosine.is_finite() && relative_error.is_finite()).then(|| Agreement {
            rows: self.rows,
            cosine: rounded(cosine.min(1.0)),
            relative_error: rounded(relative_error),
        })
    }
}

/// Returns the sum of all values.
fn energy(values: &Numbers<'_>) -> f64 {
    const BLOCK: usize = 4096;
    let (mut sum, mut block, mut at) = (0.0, [0.0_f32; BLOCK], 0);
    while at < values.len() {
        let n = BLOCK.min(values.len() - at);
        values.read(at, &mut block[..n]);
        sum += block[..n].iter().map(|&value| f64::from(value)).sum::<f64>();
        at += n;
    }
    sum
}

/// Rounds to nine decimals: a number read from JSON is then the number that was written. Leaves large numbers, whose f64 has
/// fewer decimals, as they are.
fn rounded(x: f64) -> f64 {
    if x.abs() < 1e6 { (x * 1e9).round() / 1e9 } else { x }
}

fn nine_decimals<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    f64::deserialize(deserializer).map(rounded)
}

#[cfg(test)]
mod tests;
