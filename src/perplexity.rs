//! Perplexity of the evaluated text.

pub use crate::likelihood::negative_log_likelihoods;

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
    pub(crate) fn add(&mut self, negative_log_likelihoods: &[f64]) {
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

    /// Creates the state from what [`to_parts`](Self::to_parts) returned.
    #[must_use]
    pub(crate) const fn from_parts(sum: f64, sum_of_squares: f64, count: u64) -> Self {
        Self { sum, sum_of_squares, count: count as usize }
    }

    /// Returns the perplexity so far; NaN before the first token.
    #[must_use]
    pub(crate) fn value(&self) -> f64 {
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
