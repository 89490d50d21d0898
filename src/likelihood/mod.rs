//! Likelihoods of tokens, from rows of logits.

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
