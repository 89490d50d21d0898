//! Converts between the sums of a collector and those of a state.

use std::borrow::Cow;

use super::{Group, SharedSums};
use crate::collect::{Earlier, Snapshot, Stored};
use crate::sums::{Accumulate, Half};

impl Earlier {
    /// Creates the sums that a run continues from, with its count of chunks.
    #[must_use]
    pub fn from_state(sums: SharedSums<'_>, chunks: i32) -> Self {
        match sums {
            SharedSums::F32(groups) => {
                Self::from_groups(groups.into_iter().map(|group| owned(group, Stored::F32)), chunks)
            }
            SharedSums::Exact(groups) => {
                Self::from_groups(groups.into_iter().map(|group| owned(group, Stored::Exact)), chunks)
            }
        }
    }
}

fn owned<E: Clone>(group: Group<'_, E>, stored: impl Fn(E) -> Stored) -> (Vec<String>, Stored, Option<Half>) {
    (group.weights, stored(group.entry.into_owned()), group.even.map(Cow::into_owned))
}

impl Snapshot {
    /// Returns the sums in full precision, for a state file.
    #[must_use]
    pub fn sums(&self, accumulate: Accumulate) -> SharedSums<'_> {
        match accumulate {
            Accumulate::F32 => SharedSums::f32_halves(self.stored().filter_map(|(name, stored, even)| match stored {
                Stored::F32(entry) => Some((name, entry, even)),
                Stored::Exact(_) | Stored::Wide(_) => None, // a snapshot has no wide sums
            })),
            Accumulate::F64 => {
                SharedSums::exact_halves(self.stored().filter_map(|(name, stored, even)| match stored {
                    Stored::Exact(entry) => Some((name, entry, even)),
                    Stored::F32(_) | Stored::Wide(_) => None,
                }))
            }
        }
    }
}
