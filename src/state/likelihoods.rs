//! Perplexity of an unfinished run.

use std::collections::BTreeMap;

use super::{ChunkSet, Error};
use crate::perplexity::Perplexity;

/// The perplexity so far and, if kept, the likelihood of every scored token.
///
/// The running sums are floating-point and depend on the order of the chunks. A run that will be merged with others
/// therefore keeps the negative log-likelihood of every scored token, 8 bytes each for half of the tokens. The merged
/// perplexity then equals that of one run to the last bit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Likelihoods {
    /// The running perplexity.
    pub running: Perplexity,
    /// Negative log-likelihoods of each chunk, at least one per chunk. Empty if they are not kept.
    pub tokens: BTreeMap<u64, Vec<f64>>,
}

impl Likelihoods {
    /// Adds the negative log-likelihoods of a chunk. `keep` must be true if the state will be merged with others.
    pub fn add(&mut self, chunk: u64, negative_log_likelihoods: &[f64], keep: bool) {
        self.running.add(negative_log_likelihoods);
        if keep && !negative_log_likelihoods.is_empty() {
            self.tokens.insert(chunk, negative_log_likelihoods.to_vec());
        }
    }

    /// Returns true if the likelihoods of all scored tokens are kept.
    pub(super) fn are_kept(&self) -> bool {
        let kept: usize = self.tokens.values().map(Vec::len).sum();
        kept as u64 == self.running.to_parts().2
    }

    /// Adds the likelihoods of `other` and recomputes the running sums in the order of the chunks.
    pub(super) fn join(&mut self, other: Self) {
        self.tokens.extend(other.tokens);
        self.running = Perplexity::default();
        self.tokens.values().for_each(|nlls| self.running.add(nlls));
    }

    pub(super) fn check(&self, done: &ChunkSet) -> Result<(), Error> {
        if !self.tokens.is_empty() && !self.are_kept() {
            return Err(Error::Likelihoods("the numbers of kept likelihoods and of tokens in the perplexity differ"));
        }
        if self.tokens.values().any(Vec::is_empty) {
            return Err(Error::Likelihoods("the list of kept likelihoods of a chunk is empty"));
        }
        if !self.tokens.keys().all(|&chunk| done.contains(chunk)) {
            return Err(Error::Likelihoods("likelihoods are kept for a chunk that is not done"));
        }
        Ok(())
    }
}
