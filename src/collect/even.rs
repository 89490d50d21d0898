//! The sums of the even half of the batches, kept beside the sums of all.
//!
//! No row is added twice. Each even batch changes the even half by what it changes the sums of all: before its first
//! addition the present sums are subtracted from the half, and after its last they are added. That costs one pass over the
//! sums per batch, and the sums of all are those of a run without halves, to the bit.

use std::sync::Arc;

use crate::exact::fixed::{square_to_f64, squares};
use crate::sums::{Change, Half};

use super::stored::Stored;

/// The sums of the even half.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct EvenHalf {
    /// The even half. Within an even batch: less all sums at its start.
    sums: Arc<Half>,
    /// True from the first addition of an even batch to the first one of an odd batch.
    within: bool,
}

impl EvenHalf {
    /// Continues a half.
    pub(super) fn new(sums: Arc<Half>) -> Self {
        Self { sums, within: false }
    }

    /// Returns true if an addition of the even half or, without `even`, of the odd half changes the half first.
    pub(super) fn turns(&self, even: bool) -> bool {
        self.within != even
    }

    /// Prepares additions of the other half. `all` are the sums of all batches so far.
    pub(super) fn turn(&mut self, all: &Stored) {
        let by = if self.within { Change::Add } else { Change::Subtract };
        change(Arc::make_mut(&mut self.sums), by, all);
        self.within = !self.within;
    }

    /// Returns the even half of these sums of all batches so far.
    pub(super) fn half(&self, all: &Stored) -> Arc<Half> {
        if self.within {
            let mut half = Half::clone(&self.sums);
            change(&mut half, Change::Add, all);
            return Arc::new(half);
        }
        if self.sums.sum2.is_empty() {
            return Arc::new(Half::zeros(all.len(), all.counts().len()));
        }
        Arc::clone(&self.sums)
    }
}

fn change(half: &mut Half, by: Change, all: &Stored) {
    let counts = all.counts();
    match all {
        Stored::F32(entry) => half.change(by, entry.sum2.iter().map(|&value| f64::from(value)), counts),
        Stored::Exact(entry) => half.change(by, squares(&entry.sum2).iter().map(|&words| square_to_f64(words)), counts),
        Stored::Wide(entry) => half.change(by, entry.sum2.iter().copied(), counts),
    }
}
