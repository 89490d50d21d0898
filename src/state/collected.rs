//! Converts between the sums of a collector and those of a state.

use super::SharedSums;
use crate::collect::{Earlier, Snapshot, Stored};
use crate::sums::Accumulate;

impl Earlier {
    /// Creates the sums that a run continues from, with its count of chunks.
    #[must_use]
    pub fn from_state(sums: SharedSums<'_>, chunks: i32) -> Self {
        match sums {
            SharedSums::F32(groups) => {
                let stored = groups.into_iter().map(|group| (group.weights, Stored::F32(group.entry.into_owned())));
                Self::from_groups(stored, chunks)
            }
            SharedSums::Exact(groups) => {
                let stored = groups.into_iter().map(|group| (group.weights, Stored::Exact(group.entry.into_owned())));
                Self::from_groups(stored, chunks)
            }
        }
    }
}

impl Snapshot {
    /// Returns the sums in full precision, for a state file.
    #[must_use]
    pub fn sums(&self, accumulate: Accumulate) -> SharedSums<'_> {
        match accumulate {
            Accumulate::F32 => SharedSums::f32(self.stored().filter_map(|(name, stored)| match stored {
                Stored::F32(entry) => Some((name, entry)),
                Stored::Exact(_) | Stored::Wide(_) => None, // a snapshot has no wide sums
            })),
            Accumulate::F64 => SharedSums::exact(self.stored().filter_map(|(name, stored)| match stored {
                Stored::Exact(entry) => Some((name, entry)),
                Stored::F32(_) | Stored::Wide(_) => None,
            })),
        }
    }
}
