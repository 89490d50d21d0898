//! Sums that do not depend on the order of their terms.
//!
//! An f32 sum depends on the order in which rows come in, so two halves of a text, collected apart and added, do not
//! give the bits of the whole. These sums do: they are integers, and integers add up to the same in any order.
//!
//! | | unit | words | holds up to |
//! |---|---|---|---|
//! | Σ x² | 2^-119 | 3 | 2^72 (5e21) |
//! | Σ x | 2^-59 | 2 | 2^68 (3e20) |
//!
//! The unit is the same for every channel, model and text, so what a term becomes depends on that term alone:
//!
//! - A term with `2^-36 <= |x| <= 2^30` (1.5e-11 to 1e9) is added with all its bits, its square with all 48 of its own.
//! - The square of a smaller one is rounded to a multiple of the unit, that is by at most 2^-120 (8e-37), and x itself
//!   by at most 2^-60 (9e-19).
//! - A larger one, an infinity or NaN is an error: beyond 2^33 always, in between if the rows beside it are as large.
//!
//! The sum of these terms is exact and is rounded once, at the end, to the nearest f32. Where no term is smaller than
//! 2^-36 but for zeros, the result is therefore the correctly rounded sum.
//!
//! The price is 40 bytes a channel where two f32 sums take 8. Double-double sums would take 32, and would depend on the
//! order in their last bit: rarely enough for the rounding to hide it, but not provably.

mod fixed;
mod kernel;

use std::ops::Range;

use crate::imatrix::Entry;

pub use fixed::{SQUARE_WORDS, SUM_WORDS};
pub use kernel::add_rows;

/// The input of a channel is NaN or infinite, or larger than these sums hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the input of channel {channel} is not finite, or too large for exact sums (they hold sizes up to 1e9)")]
pub struct OutOfRange {
    /// The channel, from the beginning of the sums that were added to.
    pub channel: usize,
}

/// Why exact sums cannot be made or merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Sums of another number of channels.
    #[error("{found} {part}, expected {expected}")]
    Lengths {
        /// What is counted.
        part: &'static str,
        /// Theirs.
        found: usize,
        /// Ours.
        expected: usize,
    },
    /// One has sums of activations, the other has not.
    #[error("sums of activations on one side only")]
    Activations,
    /// A sum that is no number, negative where it must not be, or out of range.
    #[error("the sum at index {index} is not finite, negative, or too large")]
    Range {
        /// Which one.
        index: usize,
    },
    /// Counts that add up to more than can be.
    #[error("counts add up to more than 63 bits hold")]
    CountOverflow,
}

/// What [`Entry`] is, summed exactly.
///
/// The words of a number are little-endian two's complement and lie together: those of value `i` of `sum2` at
/// `3 * i..3 * (i + 1)`, of `sum` at `2 * i..2 * (i + 1)`. To undo an addition, save the words of the range it goes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExactEntry {
    /// Per value, Σ x² in units of 2^-119; [`SQUARE_WORDS`] each, never negative.
    pub sum2: Vec<i64>,
    /// Per value, Σ x in units of 2^-59; [`SUM_WORDS`] each. `None` where a part of the data came without.
    pub sum: Option<Vec<i64>>,
    /// Rows seen, as in [`Entry`].
    pub counts: Vec<i64>,
}

impl ExactEntry {
    /// Zeros for `values` channels of all matrices together.
    #[must_use]
    pub fn zeros(values: usize, counts: usize) -> Self {
        Self { sum2: vec![0; values * SQUARE_WORDS], sum: Some(vec![0; values * SUM_WORDS]), counts: vec![0; counts] }
    }

    /// Sums collected before, as they were written out: rounded to f32.
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::Lengths`].
    pub fn from_rounded(entry: &Entry) -> Result<Self, Error> {
        let expected = entry.sum2.len();
        if let Some(sum) = entry.sum.as_ref().filter(|sum| sum.len() != expected) {
            return Err(Error::Lengths { part: "sums", found: sum.len(), expected });
        }
        let sum2 = entry.sum2.iter().enumerate();
        let sum2 = sum2.map(|(index, &x)| fixed::square_from_f32(x).ok_or(Error::Range { index }));
        let sum2 = sum2.collect::<Result<Vec<_>, _>>()?.into_flattened();
        let sum = entry.sum.as_ref().map(|sum| {
            let words = sum.iter().enumerate();
            let words = words.map(|(index, &x)| fixed::sum_from_f32(x).ok_or(Error::Range { index }));
            words.collect::<Result<Vec<_>, _>>().map(Vec::into_flattened)
        });
        Ok(Self { sum2, sum: sum.transpose()?, counts: entry.counts.clone() })
    }

    /// Number of values: channels times matrices.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sum2.len() / SQUARE_WORDS
    }

    /// Whether there are no sums.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sum2.is_empty()
    }

    /// Adds rows of `data`, each as long as `values` and starting at one of `starts`, to the sums of `values`.
    /// Counts are the caller's.
    ///
    /// # Errors
    /// [`OutOfRange`], its channel from the beginning of `values`. What has been added then is not defined: restore it.
    ///
    /// # Panics
    /// If `values` or a row lies outside.
    pub fn add_rows(&mut self, values: Range<usize>, data: &[f32], starts: &[usize]) -> Result<(), OutOfRange> {
        let words = |n| values.start * n..values.end * n;
        let sum = self.sum.as_mut().map(|sum| &mut sum[words(SUM_WORDS)]);
        add_rows(&mut self.sum2[words(SQUARE_WORDS)], sum, data, starts)
    }

    /// Adds the sums and counts of another part of the text.
    ///
    /// # Errors
    /// Other sizes, or sums that overflow. Then `self` is not to be used.
    pub fn merge(&mut self, other: &Self) -> Result<(), Error> {
        let lengths = [
            ("values", other.len(), self.len()),
            ("counts", other.counts.len(), self.counts.len()),
            ("sums", other.sum.as_ref().map_or(0, Vec::len), self.sum.as_ref().map_or(0, Vec::len)),
        ];
        if self.sum.is_some() != other.sum.is_some() {
            return Err(Error::Activations);
        }
        if let Some(&(part, found, expected)) = lengths.iter().find(|(_, found, expected)| found != expected) {
            return Err(Error::Lengths { part, found, expected });
        }
        for (index, (to, from)) in
            fixed::squares_mut(&mut self.sum2).iter_mut().zip(fixed::squares(&other.sum2)).enumerate()
        {
            fixed::add_square(to, *from).ok_or(Error::Range { index })?;
        }
        if let (Some(to), Some(from)) = (&mut self.sum, &other.sum) {
            for (index, (to, from)) in fixed::sums_mut(to).iter_mut().zip(fixed::sums(from)).enumerate() {
                fixed::add_sum(to, *from).ok_or(Error::Range { index })?;
            }
        }
        for (to, from) in self.counts.iter_mut().zip(&other.counts) {
            *to = to.checked_add(*from).ok_or(Error::CountOverflow)?;
        }
        Ok(())
    }

    /// The sums rounded to the nearest f32, ties to even.
    #[must_use]
    pub fn round(&self) -> Entry {
        Entry {
            sum2: fixed::squares(&self.sum2).iter().map(|&words| fixed::square_to_f32(words)).collect(),
            sum: self.sum.as_ref().map(|sum| fixed::sums(sum).iter().map(|&words| fixed::sum_to_f32(words)).collect()),
            counts: self.counts.clone(),
        }
    }

    /// What must hold of sums from a file: whole numbers of words, as many of both kinds, squares not negative.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let values = self.len();
        if self.sum2.len() != values * SQUARE_WORDS {
            return Err(Error::Lengths { part: "words", found: self.sum2.len(), expected: values * SQUARE_WORDS });
        }
        if let Some(sum) = self.sum.as_ref().filter(|sum| sum.len() != values * SUM_WORDS) {
            return Err(Error::Lengths { part: "words", found: sum.len(), expected: values * SUM_WORDS });
        }
        match fixed::squares(&self.sum2).iter().position(|words| words[2] < 0) {
            Some(index) => Err(Error::Range { index }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
