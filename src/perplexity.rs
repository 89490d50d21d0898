//! Perplexity of the evaluated text.

mod exp;

use rayon::prelude::*;

/// Computes the negative log-likelihood of each row's target: `-ln softmax(logits)[target]`, in nats.
///
/// `logits` is `[targets.len(), n_vocab]`. As in llama.cpp's tools, maximum and exponentials are f32 and their sum is f64, so
/// the values agree to the printed digits. The rows are divided over at most `n_threads` threads; the results do not depend
/// on the number. A target outside the vocabulary gives NaN.
#[must_use]
pub fn negative_log_likelihoods(logits: &[f32], n_vocab: usize, targets: &[i32], n_threads: usize) -> Vec<f64> {
    let rows_per_thread = targets.len().div_ceil(n_threads.max(1)).max(1);
    let parts = logits.par_chunks(rows_per_thread * n_vocab).zip(targets.par_chunks(rows_per_thread));
    let likelihoods = |(logits, targets): (&[f32], &[i32])| -> Vec<f64> {
        let rows = logits.chunks_exact(n_vocab).zip(targets);
        rows.map(|(row, &target)| negative_log_likelihood(row, target)).collect()
    };
    parts.flat_map_iter(likelihoods).collect()
}

/// Computes one row of [`negative_log_likelihoods`].
pub(crate) fn negative_log_likelihood(logits: &[f32], target: i32) -> f64 {
    let Some(&logit) = usize::try_from(target).ok().and_then(|target| logits.get(target)) else { return f64::NAN };
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    -(f64::from(logit - max) - exp::sum(logits, max).ln())
}

/// Computes `ln Σ exp(logit)`; NaN if a logit is NaN.
#[cfg(feature = "llama")]
pub(crate) fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    f64::from(max) + exp::sum(logits, max).ln()
}

/// The perplexity so far: `exp` of the mean negative log-likelihood.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Perplexity {
    sum: f64,
    sum_of_squares: f64,
    count: usize,
}

/// A perplexity and its standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Perplexity.
    pub value: f64,
    /// Standard error, by first-order propagation from the error of the mean; `None` if the variance is not positive.
    pub error: Option<f64>,
}

impl Perplexity {
    /// Adds the negative log-likelihoods of tokens, in order.
    pub fn add(&mut self, negative_log_likelihoods: &[f64]) {
        for nll in negative_log_likelihoods {
            self.sum += nll;
            self.sum_of_squares += nll * nll;
        }
        self.count += negative_log_likelihoods.len();
    }

    /// Returns the complete state: the sum of negative log-likelihoods, the sum of their squares, and their number.
    #[must_use]
    pub const fn to_parts(&self) -> (f64, f64, u64) {
        (self.sum, self.sum_of_squares, self.count as u64)
    }

    /// Restores the state that [`to_parts`](Self::to_parts) returned.
    #[must_use]
    pub const fn from_parts(sum: f64, sum_of_squares: f64, count: u64) -> Self {
        Self { sum, sum_of_squares, count: count as usize }
    }

    /// Returns the perplexity so far; NaN before the first token.
    #[must_use]
    pub fn value(&self) -> f64 {
        (self.sum / self.count as f64).exp()
    }

    /// Returns the perplexity and its standard error.
    #[must_use]
    pub fn estimate(&self) -> Estimate {
        let count = self.count as f64;
        let mean = self.sum / count;
        let value = mean.exp();
        let variance = self.sum_of_squares / count - mean * mean;
        let error = (variance > 0.0).then(|| (variance / (count - 1.0)).sqrt() * value);
        Estimate { value, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uniform_distribution_has_the_perplexity_of_its_size() {
        let nll = negative_log_likelihoods(&[0.5; 7 * 32], 32, &[0, 1, 2, 3, 4, 5, 31], 2);
        let mut perplexity = Perplexity::default();
        perplexity.add(&nll);
        assert!((perplexity.value() - 32.0).abs() < 1e-9);
        assert_eq!(nll.len(), 7);
    }

    #[test]
    fn a_likelihood_is_the_targets_log_softmax() {
        // softmax of ln 1, ln 2, ln 5 is 1/8, 2/8, 5/8.
        let row = [0.0, 2.0_f32.ln(), 5.0_f32.ln()];
        let nll = negative_log_likelihoods(&[row, row, row].concat(), 3, &[0, 1, 2], 2);
        for (found, p) in nll.iter().zip([0.125_f64, 0.25, 0.625]) {
            assert!((found + p.ln()).abs() < 1e-6, "{found} {p}");
        }
        assert!(negative_log_likelihoods(&row, 3, &[3], 1)[0].is_nan());
    }

    #[test]
    fn the_standard_error_follows_from_that_of_the_mean() {
        let mut perplexity = Perplexity::default();
        perplexity.add(&[1.0, 2.0, 3.0, 4.0]);
        let estimate = perplexity.estimate();
        assert!((estimate.value - 2.5_f64.exp()).abs() < 1e-12);
        let standard_error = (1.25_f64 / 3.0).sqrt();
        assert!((estimate.error.unwrap() - standard_error * estimate.value).abs() < 1e-12);
        let mut constant = Perplexity::default();
        constant.add(&[2.0, 2.0]);
        assert_eq!(constant.estimate().error, None);
    }
}
