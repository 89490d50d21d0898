//! The observer of a run's contexts: the collector's lane, the lens if layers are measured, the rows of experts if they are
//! sampled, and the reader of weights.

use crate::collect::Lane;
use crate::lens::RowCapture;
use crate::llama::{Observer, ObserverError, Op, TensorInfo, TensorRef};
use crate::shown::ExpertRows;

use super::read_ahead::Reader;

/// Passes each node to those that ask for it.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) lane: Lane,
    pub(super) lens: RowCapture,
    pub(super) rows: ExpertRows,
    /// True for the lane and for the lens if it asked for the last node.
    asked: [bool; 2],
    /// Reads the weights of the next nodes.
    reader: Option<Reader>,
}

impl Watcher {
    pub(super) fn new(lane: Lane) -> Self {
        Self { lane, lens: RowCapture::default(), rows: ExpertRows::default(), asked: [false; 2], reader: None }
    }

    pub(super) fn with_reader(self, reader: Option<Reader>) -> Self {
        Self { reader, ..self }
    }
}

impl Observer for Watcher {
    fn asks(&mut self, node: TensorInfo<'_>) -> bool {
        if let Some(reader) = &self.reader
            && matches!(node.op(), Op::MulMat | Op::MulMatId)
            && let Some(weight) = node.src(0)
        {
            reader.comes_to(weight.base_name());
        }
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
        if let Some(reader) = &self.reader {
            reader.end_evaluation();
        }
    }
}
