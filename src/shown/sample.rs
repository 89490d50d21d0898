//! A sample of the tokens of a run, with the rows that the experts of each layer read.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::random::SplitMix64;

/// Number of tokens in a sample.
pub const ROWS: usize = 256;

/// Decides which tokens are sampled. It is fixed, so that all runs over a text sample the same tokens.
const SEED: u64 = 0x5ca1_ab1e;

/// The input of a layer's experts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampledLayer {
    /// The first weight of the graph that reads it, such as `blk.0.ffn_up_exps.weight`.
    pub weight: String,
    /// Values per token.
    pub width: usize,
}

/// A token. All tokens of a text are ordered by a random number that depends on the token's place alone; a sample has the
/// first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Token {
    order: u64,
    chunk: u64,
    position: u64,
}

impl Token {
    fn new(chunk: u64, position: u64) -> Self {
        let of_chunk = SplitMix64::new(SEED ^ chunk).next();
        Self { order: SplitMix64::new(of_chunk ^ position).next(), chunk, position }
    }
}

/// A random sample of at most [`ROWS`] tokens, and their rows of each layer.
///
/// Which tokens it has depends on the tokens that were offered, not on their order: the samples of two parts of a text
/// join to that of the whole.
///
/// ```
/// use llama_imatrix::shown::{ROWS, RowSample, SampledLayer};
/// let layers = [SampledLayer { weight: "blk.0.ffn_up_exps.weight".to_owned(), width: 2 }];
/// let (mut first, mut second) = (RowSample::new(layers.to_vec()), RowSample::new(layers.to_vec()));
/// for position in 0..1000 {
///     first.offer(0, position, &[1.0, 2.0]);
///     second.offer(1, position, &[3.0, 4.0]);
/// }
/// let mut whole = second.clone();
/// whole.join(&first);
/// first.join(&second);
/// assert_eq!(first, whole);
/// assert_eq!(first.len(), ROWS);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RowSample {
    layers: Arc<[SampledLayer]>,
    /// Per token, its rows of all layers, one after the other.
    rows: BTreeMap<Token, Arc<[f32]>>,
}

impl RowSample {
    /// Creates an empty sample.
    #[must_use]
    pub fn new(layers: impl Into<Arc<[SampledLayer]>>) -> Self {
        Self { layers: layers.into(), rows: BTreeMap::new() }
    }

    /// Returns the layers.
    #[must_use]
    pub fn layers(&self) -> &[SampledLayer] {
        &self.layers
    }

    /// Number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Returns true if there is no token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Values per token, of all layers.
    #[must_use]
    pub fn width(&self) -> usize {
        self.layers.iter().map(|layer| layer.width).sum()
    }

    /// Returns the tokens in the order of their random numbers: chunk, position, and the rows of all layers.
    pub fn tokens(&self) -> impl Iterator<Item = (u64, u64, &[f32])> {
        self.rows.iter().map(|(token, rows)| (token.chunk, token.position, &**rows))
    }

    /// Returns the rows of a layer, by its index, in the order of [`tokens`](Self::tokens).
    pub fn rows_of(&self, layer: usize) -> impl Iterator<Item = &[f32]> {
        let start: usize = self.layers.iter().take(layer).map(|layer| layer.width).sum();
        let width = self.layers.get(layer).map_or(0, |layer| layer.width);
        self.rows.values().filter_map(move |rows| rows.get(start..start + width))
    }

    /// Returns a bound: tokens above it are not added by [`offer`](Self::offer).
    #[must_use]
    pub(crate) fn bound(&self) -> u64 {
        if self.rows.len() < ROWS {
            u64::MAX
        } else {
            self.rows.last_key_value().map_or(u64::MAX, |(last, _)| last.order)
        }
    }

    /// Returns the random number of a token, to compare with a [bound](Self::bound).
    #[must_use]
    pub(crate) fn order(chunk: usize, position: usize) -> u64 {
        Token::new(chunk as u64, position as u64).order
    }

    /// Adds a token and its rows of all layers, if it is one of the first so far. Does nothing if `rows` is not
    /// [`width`](Self::width) long.
    pub fn offer(&mut self, chunk: u64, position: u64, rows: &[f32]) {
        let token = Token::new(chunk, position);
        if rows.len() == self.width() && token.order <= self.bound() {
            self.rows.insert(token, rows.into());
            self.shorten();
        }
    }

    /// Adds the tokens of another sample of the same layers.
    pub fn join(&mut self, other: &Self) {
        if self.layers == other.layers {
            self.rows.extend(other.rows.iter().map(|(token, rows)| (*token, Arc::clone(rows))));
            self.shorten();
        }
    }

    fn shorten(&mut self) {
        while self.rows.len() > ROWS {
            self.rows.pop_last();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(tokens: impl Iterator<Item = (u64, u64)>) -> RowSample {
        let layer = |weight: &str, width| SampledLayer { weight: weight.to_owned(), width };
        let mut sample = RowSample::new(vec![layer("a", 1), layer("b", 2)]);
        for (chunk, position) in tokens {
            sample.offer(chunk, position, &[chunk as f32, position as f32, 7.0]);
        }
        sample
    }

    #[test]
    fn the_order_of_the_tokens_does_not_matter() {
        let tokens: Vec<(u64, u64)> =
            (0..40).flat_map(|chunk| (0..50).map(move |position| (chunk, position))).collect();
        let whole = sample(tokens.iter().copied());
        assert_eq!(whole.len(), ROWS);
        assert_eq!(sample(tokens.iter().rev().copied()), whole);
        let (mut first, second) = (sample(tokens[..700].iter().copied()), sample(tokens[700..].iter().copied()));
        first.join(&second);
        assert_eq!(first, whole);
        // Twice the same token is one.
        first.join(&second);
        assert_eq!(first, whole);
        for (chunk, position, rows) in whole.tokens() {
            assert_eq!(rows, [chunk as f32, position as f32, 7.0]);
            assert!(RowSample::order(chunk as usize, position as usize) <= whole.bound());
        }
        assert!(whole.rows_of(1).all(|row| row.len() == 2 && row.last() == Some(&7.0)));
        assert_eq!((whole.rows_of(0).count(), whole.rows_of(2).map(<[f32]>::len).max()), (ROWS, Some(0)));
    }

    #[test]
    fn every_token_is_equally_likely() {
        let mut of_chunk = [0_u32; 4];
        for chunk in 0..4 {
            for position in 0..20_000 {
                of_chunk[chunk as usize] += u32::from(Token::new(chunk, position).order < u64::MAX / 4);
            }
        }
        assert!(of_chunk.iter().all(|n| (4800..5200).contains(n)), "{of_chunk:?}");
    }

    #[test]
    fn rows_of_another_length_are_not_added() {
        let mut sample = sample([(0, 0)].into_iter());
        sample.offer(0, 1, &[1.0]);
        assert_eq!(sample.len(), 1);
        sample.join(&RowSample::default());
        assert_eq!(sample.len(), 1);
    }
}
