//! The observer of a run's contexts: the collector's lane, the lens if layers are measured, and the rows of experts if they
//! are sampled.

use crate::collect::Lane;
use crate::lens::RowCapture;
use crate::llama::{Observer, ObserverError, TensorInfo, TensorRef};
use crate::shown::ExpertRows;

/// Passes each node to those that ask for it.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) lane: Lane,
    pub(super) lens: RowCapture,
    pub(super) rows: ExpertRows,
    /// True for the lane and for the lens if it asked for the last node.
    asked: [bool; 2],
}

impl Watcher {
    pub(super) fn new(lane: Lane) -> Self {
        Self { lane, lens: RowCapture::default(), rows: ExpertRows::default(), asked: [false; 2] }
    }
}

impl Observer for Watcher {
    fn asks(&mut self, node: TensorInfo<'_>) -> bool {
        self.asked = [Observer::asks(&mut self.lane, node), self.lens.asks(node)];
        let rows = self.rows.asks(node);
        rows || self.asked.contains(&true)
    }

    fn sees(&mut self, node: TensorRef<'_>) -> Result<(), ObserverError> {
        let [lane, lens] = std::mem::take(&mut self.asked);
        if lens {
            self.lens.sees(node);
        }
        self.rows.sees(node);
        if lane { self.lane.sees(node) } else { Ok(()) }
    }

    fn end_decode(&mut self) {
        self.lane.end_decode();
    }
}
