//! The last checkpoint of a run that nobody else keeps, in memory: a discarded chunk then costs few batches, wherever it
//! is.

use std::time::{Duration, Instant};

use super::{Checkpoint, Start};
use crate::collect::Earlier;

/// Batches from one checkpoint to the next, at least. Each checkpoint costs a copy of the sums.
const AT_LEAST: usize = 16;
/// Batches from one checkpoint to the next, at most: what a discarded chunk costs.
const AT_MOST: usize = 64;
/// In between, checkpoints take one part in so many of the run's time: sums on a device have to be fetched.
const TIMES_ITS_COST: u32 = 50;

/// A checkpoint in memory, as large as the sums, and when the next is due.
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

    /// Counts a batch, and returns true where a checkpoint is due at its end.
    pub(super) fn is_due_after_batch(&mut self) -> bool {
        self.batches_since += 1;
        let is_affordable = self.taken.elapsed() >= self.cost * TIMES_ITS_COST;
        let is_due = self.batches_since >= if is_affordable { AT_LEAST } else { AT_MOST };
        if is_due && self.requested.is_none() {
            self.requested = Some(Instant::now());
        }
        is_due
    }

    /// Keeps a checkpoint in place of the last one.
    pub(super) fn keep(&mut self, checkpoint: &Checkpoint<'_>) {
        self.last =
            Some(Start { earlier: Earlier::from_snapshot(checkpoint.snapshot), position: checkpoint.position.clone() });
        self.batches_since = 0;
        self.taken = Instant::now();
        self.cost = self.requested.take().map_or(self.cost, |requested| requested.elapsed());
    }

    /// The last checkpoint.
    pub(super) fn restore(&self) -> Option<Start> {
        self.last.clone()
    }

    /// Starts to count anew: the run goes back to a checkpoint.
    pub(super) fn step_back(&mut self) {
        self.batches_since = 0;
        self.requested = None;
    }
}
