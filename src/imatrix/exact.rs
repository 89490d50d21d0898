//! Conversion between the sums of an entry and exact sums.

use super::Entry;
use crate::exact::{Error, ExactEntry, fixed};

impl ExactEntry {
    /// Converts sums that were rounded to f32, such as those of a file.
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::Lengths`].
    pub(crate) fn from_rounded(entry: &Entry) -> Result<Self, Error> {
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

    /// Returns the sums rounded to the nearest f32, ties to even.
    #[must_use]
    pub fn round(&self) -> Entry {
        Entry {
            sum2: fixed::squares(&self.sum2).iter().map(|&words| fixed::square_to_f32(words)).collect(),
            sum: self.sum.as_ref().map(|sum| fixed::sums(sum).iter().map(|&words| fixed::sum_to_f32(words)).collect()),
            counts: self.counts.clone(),
        }
    }
}
