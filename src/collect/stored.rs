//! Sums of either kind.

use std::borrow::Cow;
use std::ops::Range;

use crate::exact::{self, ExactEntry};
use crate::imatrix::Entry;
use crate::sums::{Accumulate, Sums};

use super::kernel::add_rows;

/// One weight's sums as they are kept while collecting.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Stored {
    F32(Entry),
    Exact(ExactEntry),
    /// f32 sums that came from a device, added up in f64.
    Wide(Sums<Vec<f64>>),
}

impl Stored {
    pub(super) fn empty(kind: Accumulate) -> Self {
        match kind {
            Accumulate::F32 => Self::F32(Entry::default()),
            Accumulate::F64 => Self::Exact(ExactEntry::default()),
        }
    }

    /// Sums collected earlier.
    pub(super) fn from_entry(entry: Entry, kind: Accumulate) -> Result<Self, exact::Error> {
        match kind {
            Accumulate::F32 => Ok(Self::F32(entry)),
            Accumulate::F64 => ExactEntry::from_rounded(&entry).map(Self::Exact),
        }
    }

    /// Number of values: channels times matrices.
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

    /// As they are written to a matrix.
    pub(super) fn entry(&self) -> Cow<'_, Entry> {
        match self {
            Self::F32(entry) => Cow::Borrowed(entry),
            Self::Exact(entry) => Cow::Owned(entry.round()),
            Self::Wide(entry) => Cow::Owned(entry.rounded()),
        }
    }

    /// Zeros for so many values and counts, in place of nothing.
    pub(super) fn begin(&mut self, values: usize, counts: usize) {
        match self {
            Self::F32(entry) => *entry = Sums::zeros(values, counts),
            Self::Exact(entry) => *entry = ExactEntry::zeros(values, counts),
            Self::Wide(entry) => *entry = Sums::zeros(values, counts),
        }
    }

    /// Makes f32 sums ones that can take what comes from a device. Exact ones cannot.
    pub(super) fn widen(&mut self) -> Option<&mut Sums<Vec<f64>>> {
        if let Self::F32(entry) = self {
            *self = Self::Wide(entry.widened());
        }
        match self {
            Self::Wide(entry) => Some(entry),
            _ => None,
        }
    }

    /// Adds rows of `data`, each as long as `values` and starting at one of `starts`. Where a sum is not finite then, its
    /// channel and value.
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
