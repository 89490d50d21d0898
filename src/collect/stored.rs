//! The sums of a weight, of any kind.

use std::borrow::Cow;
use std::ops::Range;

use crate::exact::{self, ExactEntry};
use crate::imatrix::Entry;
use crate::sums::{Accumulate, Sums};

use super::kernel::add_rows;

/// The sums of one weight during collection.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Stored {
    F32(Entry),
    Exact(ExactEntry),
    /// f64 totals of f32 sums that were transferred from a device.
    Wide(Sums<Vec<f64>>),
}

impl Stored {
    pub(super) fn empty(kind: Accumulate) -> Self {
        match kind {
            Accumulate::F32 => Self::F32(Entry::default()),
            Accumulate::F64 => Self::Exact(ExactEntry::default()),
        }
    }

    /// Creates sums from an earlier entry. Fails if exact sums cannot represent it.
    pub(super) fn from_entry(entry: Entry, kind: Accumulate) -> Result<Self, exact::Error> {
        match kind {
            Accumulate::F32 => Ok(Self::F32(entry)),
            Accumulate::F64 => ExactEntry::from_rounded(&entry).map(Self::Exact),
        }
    }

    /// Returns the number of values: channels times matrices.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::F32(entry) => entry.sum2.len(),
            Self::Exact(entry) => entry.len(),
            Self::Wide(entry) => entry.sum2.len(),
        }
    }

    pub(super) fn counts(&self) -> &[i64] {
        match self {
            Self::F32(Sums { counts, .. })
            | Self::Wide(Sums { counts, .. })
            | Self::Exact(ExactEntry { counts, .. }) => counts,
        }
    }

    pub(super) fn counts_mut(&mut self) -> &mut Vec<i64> {
        match self {
            Self::F32(Sums { counts, .. })
            | Self::Wide(Sums { counts, .. })
            | Self::Exact(ExactEntry { counts, .. }) => counts,
        }
    }

    /// Returns the sums as they are written to a matrix, in f32.
    pub(super) fn entry(&self) -> Cow<'_, Entry> {
        match self {
            Self::F32(entry) => Cow::Borrowed(entry),
            Self::Exact(entry) => Cow::Owned(entry.round()),
            Self::Wide(entry) => Cow::Owned(entry.rounded()),
        }
    }

    /// Replaces empty sums by zeros, with `values` values and `counts` counts.
    pub(super) fn begin(&mut self, values: usize, counts: usize) {
        match self {
            Self::F32(entry) => *entry = Sums::zeros(values, counts),
            Self::Exact(entry) => *entry = ExactEntry::zeros(values, counts),
            Self::Wide(entry) => *entry = Sums::zeros(values, counts),
        }
    }

    /// Converts f32 sums to f64, to add sums from a device. `None` for exact sums.
    pub(super) fn widen(&mut self) -> Option<&mut Sums<Vec<f64>>> {
        if let Self::F32(entry) = self {
            *self = Self::Wide(entry.widened());
        }
        match self {
            Self::Wide(entry) => Some(entry),
            _ => None,
        }
    }

    /// Adds rows of `data` to the sums of `values`. Each row is as long as `values` and starts at one of `starts`.
    /// Returns the channel and value of the first sum of squares that is not finite; for exact sums, the channel and
    /// the input that is out of range.
    pub(super) fn add_rows(
        &mut self,
        values: Range<usize>,
        data: &[f32],
        starts: &[usize],
    ) -> Result<(), (usize, f32)> {
        match self {
            Self::F32(entry) => {
                let sum = entry.sum.as_mut().map(|sum| &mut sum[values.clone()]);
                let sum2 = &mut entry.sum2[values];
                add_rows(sum2, sum, data, starts);
                match sum2.iter().position(|value| !value.is_finite()) {
                    None => Ok(()),
                    Some(channel) => Err((channel, sum2[channel])),
                }
            }
            Self::Exact(entry) => entry.add_rows(values, data, starts).map_err(|out| {
                let at = |start: &usize| data[start + out.channel];
                let largest = starts.iter().map(at).find(|x| !x.is_finite());
                (
                    out.channel,
                    largest.unwrap_or_else(|| {
                        starts.iter().map(at).fold(0.0, |a, x| if x.abs() > a { x.abs() } else { a })
                    }),
                )
            }),
            Self::Wide(entry) => {
                let sum2 = &mut entry.sum2[values.clone()];
                let mut sum = entry.sum.as_mut().map(|sum| &mut sum[values]);
                for &start in starts {
                    for (channel, &x) in data[start..start + sum2.len()].iter().enumerate() {
                        let x = f64::from(x);
                        sum2[channel] += x * x;
                        if let Some(sum) = &mut sum {
                            sum[channel] += x;
                        }
                    }
                }
                match sum2.iter().position(|&value| !(value as f32).is_finite()) {
                    None => Ok(()),
                    Some(channel) => Err((channel, sum2[channel] as f32)),
                }
            }
        }
    }

    pub(super) fn same_bits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::F32(a), Self::F32(b)) => same_bits(a, b),
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Wide(a), Self::Wide(b)) => a == b,
            _ => false,
        }
    }
}

fn same_bits(a: &Entry, b: &Entry) -> bool {
    let same = |a: &[f32], b: &[f32]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
    a.counts == b.counts
        && same(&a.sum2, &b.sum2)
        && match (&a.sum, &b.sum) {
            (None, None) => true,
            (Some(a), Some(b)) => same(a, b),
            _ => false,
        }
}
