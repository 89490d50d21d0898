//! Captures rows of the residual stream while a graph is computed.

use std::sync::Arc;

use crate::llama::{TensorInfo, TensorRef};

use super::plan::Plan;

/// Copies selected rows of selected nodes.
///
/// A graph reuses the memory of a node after its last use, so the rows are copied as soon as the node is computed.
#[derive(Debug, Default)]
pub(crate) struct RowCapture {
    plan: Option<Arc<Plan>>,
    /// Rows to copy from each node.
    rows_to_copy: Vec<usize>,
    /// Index of the next node in the current evaluation.
    at: usize,
    /// Slot of the node that was requested last.
    asked: Option<usize>,
    /// Per captured node, its rows one after the other.
    captured: Vec<Vec<f32>>,
    fault: Option<String>,
}

impl RowCapture {
    /// Starts capturing for the next decode, which evaluates the graph of `plan` once.
    pub(super) fn start(&mut self, plan: &Arc<Plan>, rows: Vec<usize>) {
        self.captured.resize_with(plan.n_captures(), Vec::new);
        self.captured.iter_mut().for_each(Vec::clear);
        self.plan = Some(Arc::clone(plan));
        self.rows_to_copy = rows;
        self.at = 0;
        self.asked = None;
        self.fault = None;
    }

    /// Stops capturing until the next start.
    pub(crate) fn stop(&mut self) {
        self.plan = None;
    }

    /// Returns the captured rows of each node of the plan.
    pub(super) fn captured(&self) -> Result<&[Vec<f32>], String> {
        let Some(plan) = &self.plan else { return Err("no rows were captured".to_owned()) };
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let seen = self.captured.iter().filter(|rows| !rows.is_empty()).count();
        if seen < plan.n_captures() {
            return Err(format!("{seen} of {} nodes were captured", plan.n_captures()));
        }
        Ok(&self.captured)
    }

    /// Returns true if the rows of `node`, the next node of the evaluation, are needed once it is computed.
    pub(crate) fn asks(&mut self, node: TensorInfo<'_>) -> bool {
        let Some(plan) = &self.plan else { return false };
        if self.rows_to_copy.is_empty() || self.fault.is_some() {
            return false;
        }
        let at = self.at;
        self.at += 1;
        self.asked = None;
        let Some((slot, name)) = plan.capture(at) else { return false };
        if node.name() != name {
            self.fault = Some(format!("node {at} of the graph is '{}', expected '{name}'", node.name()));
            return false;
        }
        self.asked = Some(slot);
        true
    }

    /// Copies the rows of the node that was requested last.
    pub(crate) fn sees(&mut self, node: TensorRef<'_>) {
        let Some(slot) = self.asked.take() else { return };
        if !node.append_rows(&self.rows_to_copy, &mut self.captured[slot]) {
            self.fault = Some(format!("'{}' does not have the selected rows", node.name()));
        }
    }
}
