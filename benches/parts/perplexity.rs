//! Log-softmax of a batch's logits.

use divan::Bencher;
use divan::counter::ItemsCount;
use llama_imatrix::perplexity::negative_log_likelihoods;

use super::activations;

/// Rows at once: an eighth of what a chunk of 512 tokens has.
const ROWS: usize = 32;

#[divan::bench(args = [32_000, 151_936])]
fn log_softmax(bencher: Bencher, vocabulary: usize) {
    let logits = activations(ROWS * vocabulary);
    let targets: Vec<i32> = (0..ROWS as i32).map(|row| row * 997).collect();
    bencher.counter(ItemsCount::new(ROWS)).bench(|| negative_log_likelihoods(&logits, vocabulary, &targets, 1));
}
