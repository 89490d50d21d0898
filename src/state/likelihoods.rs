//! Perplexity of a run that is not over.

use std::collections::BTreeMap;

use super::{ChunkSet, Error};
use crate::perplexity::Perplexity;

/// The likelihoods of the tokens so far.
///
/// The sums are floating-point and in the order of the chunks. A run that is to be merged with others therefore keeps
/// every token's negative log-likelihood, 8 bytes each for half of the tokens: the merged perplexity is that of one run
/// to the last bit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Likelihoods {
    /// The running perplexity.
    pub running: Perplexity,
    /// By chunk, each token's negative log-likelihood: at least one. Empty where they are not kept.
    pub tokens: BTreeMap<u64, Vec<f64>>,
}

impl Likelihoods {
    /// Adds a chunk's negative log-likelihoods; `keep` where the state is to be merged with others.
    pub fn add(&mut self, chunk: u64, negative_log_likelihoods: &[f64], keep: bool) {
        self.running.add(negative_log_likelihoods);
        if keep && !negative_log_likelihoods.is_empty() {
            self.tokens.insert(chunk, negative_log_likelihoods.to_vec());
        }
    }

    /// Whether those of all tokens are kept.
    pub(super) fn are_kept(&self) -> bool {
        let kept: usize = self.tokens.values().map(Vec::len).sum();
        kept as u64 == self.running.to_parts().2
    }

    /// Those of both, with the running sums made anew in the order of the chunks.
    pub(super) fn join(&mut self, other: Self) {
        self.tokens.extend(other.tokens);
        self.running = Perplexity::default();
        self.tokens.values().for_each(|nlls| self.running.add(nlls));
    }

    pub(super) fn check(&self, done: &ChunkSet) -> Result<(), Error> {
        if !self.tokens.is_empty() && !self.are_kept() {
            return Err(Error::Likelihoods("likelihoods are kept of another number of tokens than perplexity is over"));
        }
        if self.tokens.values().any(Vec::is_empty) {
            return Err(Error::Likelihoods("likelihoods are kept of a chunk without any"));
        }
        if !self.tokens.keys().all(|&chunk| done.contains(chunk)) {
            return Err(Error::Likelihoods("likelihoods are kept of a chunk that is not done"));
        }
        Ok(())
    }
}
