//! Keeps the last checkpoint in memory if the listener keeps none. After a discarded chunk, only the batches since then
//! are repeated.

use std::time::{Duration, Instant};

use super::{Checkpoint, Start};
use crate::collect::Earlier;

/// Minimum number of batches between checkpoints. Each checkpoint costs a copy of the sums.
const AT_LEAST: usize = 16;
/// Maximum number of batches between checkpoints, which a discarded chunk repeats.
const AT_MOST: usize = 64;
/// Between these limits, a checkpoint is due after this many times its cost: sums on a device must be transferred.
const TIMES_ITS_COST: u32 = 50;

/// The last checkpoint, as large as the sums, and the measurements that decide when the next is due.
#[derive(Debug)]
pub(super) struct Kept {
    last: Option<Start>,
    batches_since: usize,
    taken: Instant,
    requested: Option<Instant>,
    cost: Duration,
}

impl Kept {
    pub(super) fn new() -> Self {
        Self { last: None, batches_since: 0, taken: Instant::now(), requested: None, cost: Duration::ZERO }
    }

    /// Counts a batch. Returns true if a checkpoint is due at its end.
    pub(super) fn is_due_after_batch(&mut self) -> bool {
        self.batches_since += 1;
        let is_affordable = self.taken.elapsed() >= self.cost * TIMES_ITS_COST;
        let is_due = self.batches_since >= if is_affordable { AT_LEAST } else { AT_MOST };
        if is_due && self.requested.is_none() {
            self.requested = Some(Instant::now());
        }
        is_due
    }

    /// Replaces the last checkpoint.
    pub(super) fn keep(&mut self, checkpoint: &Checkpoint<'_>) {
        self.last =
            Some(Start { earlier: Earlier::from_snapshot(checkpoint.snapshot), position: checkpoint.position.clone() });
        self.batches_since = 0;
        self.taken = Instant::now();
        self.cost = self.requested.take().map_or(self.cost, |requested| requested.elapsed());
    }

    /// Returns the last checkpoint.
    pub(super) fn restore(&self) -> Option<Start> {
        self.last.clone()
    }

    /// Restarts the count: the run goes back to a checkpoint.
    pub(super) fn step_back(&mut self) {
        self.batches_since = 0;
        self.requested = None;
    }
}
