//! Sums that do not depend on the order of their terms.
//!
//! An f32 sum depends on the order of the rows. If two halves of a text are collected separately and then added, the bits
//! differ from those of one run. The sums of this module are integers, whose sum is the same in any order.
//!
//! | | unit | words | maximum |
//! |---|---|---|---|
//! | Σ x² | 2^-119 | 3 | 2^72 (5e21) |
//! | Σ x | 2^-59 | 2 | 2^68 (3e20) |
//!
//! The unit is the same for every channel, model and text, so how a term is rounded depends on that term alone:
//!
//! - A term with `2^-36 <= |x| <= 2^30` (1.5e-11 to 1e9) is added exactly, and so is its square of 48 bits.
//! - A smaller term is rounded by at most 2^-60 (9e-19), and its square by at most 2^-120 (8e-37): to multiples of the unit.
//! - A larger term is an error if it exceeds 2^33, and may be one between 2^30 and 2^33 if other rows of its block are as
//!   large. Infinity and NaN are errors.
//!
//! The sum of these terms is exact and is rounded once, at the end, to the nearest f32. If every term is zero or at least
//! 2^-36 in size, the result is the correctly rounded sum.
//!
//! The sums take 40 bytes per channel; two f32 sums take 8. Double-double sums would take 32, but their last bit depends on
//! the order. Rounding to f32 would nearly always hide that, but provably not always.

pub(crate) mod fixed;
mod kernel;

use std::ops::Range;

pub(crate) use fixed::{SQUARE_WORDS, SUM_WORDS};
use kernel::add_rows;

/// The input of a channel is NaN, infinite or too large for exact sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the input of channel {channel} is not finite, or too large for exact sums (up to 1e9)")]
pub struct OutOfRange {
    /// Index of the channel in the sums that the rows were added to.
    pub channel: usize,
}

/// An error of creating, merging or checking exact sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The lengths do not match.
    #[error("{found} {part}, expected {expected}")]
    Lengths {
        /// What is counted: values, counts, sums or words.
        part: &'static str,
        /// Number that was found.
        found: usize,
        /// Number that was expected.
        expected: usize,
    },
    /// Only one of the two has sums of activations.
    #[error("only one of the two has sums of activations")]
    Activations,
    /// A sum is not finite or out of range, or a sum of squares is negative.
    #[error("the sum at index {index} is not finite, negative, or too large")]
    Range {
        /// Index of the sum.
        index: usize,
    },
    /// The sum of the counts overflows.
    #[error("the sum of the counts exceeds 63 bits")]
    CountOverflow,
}

/// The sums of a weight, computed exactly: the counterpart of [`imatrix::Entry`](crate::imatrix::Entry).
///
/// The words of a number are contiguous, little-endian two's complement. Value `i` has the words `3 * i..3 * (i + 1)` of
/// `sum2` and `2 * i..2 * (i + 1)` of `sum`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExactEntry {
    /// Σ x² per value, in units of 2^-119; 3 words each, never negative.
    pub sum2: Vec<i64>,
    /// Σ x per value, in units of 2^-59; 2 words each. `None` if part of the data has no sums of activations.
    pub sum: Option<Vec<i64>>,
    /// Number of rows seen: one count for the whole weight, or one per matrix.
    pub counts: Vec<i64>,
}

impl ExactEntry {
    /// Creates zero sums for `values` channels of all matrices together.
    #[must_use]
    pub fn zeros(values: usize, counts: usize) -> Self {
        Self { sum2: vec![0; values * SQUARE_WORDS], sum: Some(vec![0; values * SUM_WORDS]), counts: vec![0; counts] }
    }

    /// Returns the number of values: channels times matrices.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.sum2.len() / SQUARE_WORDS
    }

    /// Adds rows of `data` to the sums of `values`. Each row is as long as `values` and starts at one of `starts`. The caller
    /// updates the counts.
    ///
    /// # Errors
    /// [`OutOfRange`] with the channel relative to the start of `values`. The sums of `values` are then undefined and must be
    /// restored.
    ///
    /// # Panics
    /// If `values` or a row is out of bounds.
    pub fn add_rows(&mut self, values: Range<usize>, data: &[f32], starts: &[usize]) -> Result<(), OutOfRange> {
        let words = |n| values.start * n..values.end * n;
        let sum = self.sum.as_mut().map(|sum| &mut sum[words(SUM_WORDS)]);
        add_rows(&mut self.sum2[words(SQUARE_WORDS)], sum, data, starts)
    }

    /// Adds the sums and counts of another part of the text.
    ///
    /// # Errors
    /// [`Error`] if the lengths do not match or a sum overflows. `self` must not be used after an error.
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

    /// Checks sums from a file: complete words, matching lengths, no negative sum of squares.
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
