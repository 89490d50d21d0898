//! Skips logits that are not read.
//!
//! llama.cpp has no switch for it: asking for the logits of fewer tokens makes the last layer skip their rows, which
//! are to be collected. So every token asks, the product with the output matrix is no operation while the graph runs, and
//! what follows it, which works on logits alone, does not run. Where perplexity needs some rows, they go through a graph
//! of our own ([`Scorer`]).

use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::graph::Recorder;
use super::logit_ops::LogitOpsProbe;
use super::scorer::Scorer;
use super::{Op, TensorInfo, Token};

/// Which logits a context computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outputs {
    /// Those of every token.
    #[default]
    All,
    /// Those that [`Context::score`](super::Context::score) reads, a few at a time, where the model's graph allows; else
    /// those of every token.
    Scores,
    /// No logits.
    Nothing,
}

/// How the product with the output matrix is handled.
pub(super) enum Head {
    /// llama.cpp computes it, and the observer may see it.
    Whole,
    /// Records the operations after it, without an observer.
    Probed(LogitOpsProbe),
    /// It is not computed.
    Cut(HeadCut),
    /// Records the whole graph, without an observer.
    Recorded(Box<Recorder>),
}

/// The name that tells an output matrix, or the token embedding where it is tied to it.
pub(super) fn is_output_matrix(node: TensorInfo<'_>) -> bool {
    node.op() == Op::MulMat
        && node.src(0).is_some_and(|weight| matches!(weight.base_name(), "output.weight" | "token_embd.weight"))
}

/// The product that a graph ends with: no operation from when it is announced to when it would have been computed.
#[derive(Default)]
pub(super) struct HeadCut {
    cut: Option<Cut>,
    /// Computes the logits that are wanted.
    pub(super) scorer: Option<Scorer>,
}

struct Cut {
    node: NonNull<sys::ggml_tensor>,
    op: sys::ggml_op,
    /// True if the observer asked for the node.
    observed: bool,
}

impl HeadCut {
    pub(super) fn scoring(scorer: Scorer) -> Self {
        Self { cut: None, scorer: Some(scorer) }
    }

    /// Has `node` not computed. It is then to be asked for.
    ///
    /// # Safety
    /// `node` is a node of a graph, not computed yet, that nobody else uses until [`restore`](Self::restore).
    pub(super) unsafe fn cut(&mut self, node: NonNull<sys::ggml_tensor>, observed: bool) {
        // SAFETY: by contract the node is ours for now.
        let tensor = unsafe { &mut *node.as_ptr() };
        let op = std::mem::replace(&mut tensor.op, sys::GGML_OP_NONE);
        self.cut = Some(Cut { node, op, observed });
    }

    /// Whether `node` is the one that was cut, and if so, whether the observer asked for it.
    pub(super) fn is_cut(&self, node: NonNull<sys::ggml_tensor>) -> Option<bool> {
        self.cut.as_ref().filter(|cut| cut.node == node).map(|cut| cut.observed)
    }

    /// Restores the node, since llama.cpp may reuse the graph.
    pub(super) fn restore(&mut self) {
        if let Some(cut) = self.cut.take() {
            // SAFETY: cut()'s contract: the node is alive and ours until now.
            unsafe { &mut *cut.node.as_ptr() }.op = cut.op;
        }
    }
}

/// Target token per row of a batch; `None` for rows without a score.
pub(super) type Targets = Vec<Option<Token>>;
