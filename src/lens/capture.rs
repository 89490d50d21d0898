//! Captures rows of the residual stream while a graph is computed.

use std::sync::Arc;

use crate::llama::TensorRef;

use super::plan::Plan;

/// Rows of the captured nodes, and which are wanted.
///
/// Memory of a graph is used again once what lies there has been read, so rows are copied when their node is computed.
#[derive(Debug, Default)]
pub struct LensWatch {
    plan: Option<Arc<Plan>>,
    /// The rows that are wanted of each node.
    wanted: Vec<usize>,
    /// The next node's place, once the evaluation has begun.
    at: usize,
    /// The node asked for last.
    asked: Option<usize>,
    /// By capture: the wanted rows, one after the other.
    captured: Vec<Vec<f32>>,
    fault: Option<String>,
}

impl LensWatch {
    /// For the decode that follows, one evaluation of a graph that `plan` is of.
    pub(super) fn aim(&mut self, plan: &Arc<Plan>, wanted: Vec<usize>) {
        self.captured.resize_with(plan.n_captures(), Vec::new);
        self.captured.iter_mut().for_each(Vec::clear);
        self.plan = Some(Arc::clone(plan));
        self.wanted = wanted;
        self.at = 0;
        self.asked = None;
        self.fault = None;
    }

    /// Whether it was aimed.
    #[must_use]
    pub fn watches(&self) -> bool {
        self.plan.is_some()
    }

    /// Watches nothing until it is aimed again.
    pub fn rest(&mut self) {
        self.plan = None;
    }

    /// What was captured in the decode: the wanted rows of each of the plan's nodes.
    pub(super) fn captured(&self) -> Result<&[Vec<f32>], String> {
        let Some(plan) = &self.plan else { return Err("nothing was watched".to_owned()) };
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let seen = self.captured.iter().filter(|rows| !rows.is_empty()).count();
        if seen < plan.n_captures() {
            return Err(format!("{seen} of the {} nodes to be seen came up", plan.n_captures()));
        }
        Ok(&self.captured)
    }

    /// Whether `node`, the evaluation's next, is to be shown once it is computed.
    pub fn asks(&mut self, node: TensorRef<'_>) -> bool {
        let Some(plan) = &self.plan else { return false };
        if self.wanted.is_empty() || self.fault.is_some() {
            return false;
        }
        let at = self.at;
        self.at += 1;
        self.asked = None;
        let Some((slot, name)) = plan.capture(at) else { return false };
        if node.name() != name {
            self.fault = Some(format!("node {at} of a graph is '{}', which was '{name}' before", node.name()));
            return false;
        }
        self.asked = Some(slot);
        true
    }

    /// Takes the rows of the node that was asked for last.
    pub fn sees(&mut self, node: TensorRef<'_>) {
        let Some(slot) = self.asked.take() else { return };
        if !node.append_rows(&self.wanted, &mut self.captured[slot]) {
            self.fault = Some(format!("'{}' has no row that is wanted", node.name()));
        }
    }
}
