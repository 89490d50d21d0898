//! Skips logits that are not read.
//!
//! llama.cpp has no option for it. If fewer tokens request logits, the last layer skips the rows of the others, which
//! must be collected. So every token requests its logits. While the graph runs, the product with the output matrix is
//! replaced by no operation, and the nodes after it do not run. If perplexity needs logits of some rows, a graph of our
//! own computes them ([`Scorer`]).

use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::graph::Recorder;
use super::logit_ops::LogitOpsProbe;
use super::scorer::Scorer;
use super::{Op, TensorInfo, Token};

/// Which logits a context computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outputs {
    /// The logits of every token.
    #[default]
    All,
    /// The logits that [`Context::score`](super::Context::score) reads, a few rows at a time, if the model's graph
    /// allows it; otherwise those of every token.
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

/// Returns true for the product with the output matrix, by name. It may be the matrix of token embeddings.
pub(super) fn is_output_matrix(node: TensorInfo<'_>) -> bool {
    node.op() == Op::MulMat
        && node.src(0).is_some_and(|weight| matches!(weight.base_name(), "output.weight" | "token_embd.weight"))
}

/// Replaces the product with the output matrix by no operation, from the callback before it to the callback after it.
#[derive(Default)]
pub(super) struct HeadCut {
    cut: Option<Cut>,
    /// Computes the logits that are read.
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

    /// Prevents the computation of `node`, which must be asked for.
    ///
    /// # Safety
    /// `node` is a node of a graph that is not computed yet. It stays allocated until [`restore`](Self::restore), and
    /// nobody holds a reference to it now or then.
    pub(super) unsafe fn cut(&mut self, node: NonNull<sys::ggml_tensor>, observed: bool) {
        // SAFETY: by contract the node is alive, and this is the only reference to it.
        let tensor = unsafe { &mut *node.as_ptr() };
        let op = std::mem::replace(&mut tensor.op, sys::GGML_OP_NONE);
        self.cut = Some(Cut { node, op, observed });
    }

    /// If `node` is the one that was cut, returns whether the observer asked for it.
    pub(super) fn is_cut(&self, node: NonNull<sys::ggml_tensor>) -> Option<bool> {
        self.cut.as_ref().filter(|cut| cut.node == node).map(|cut| cut.observed)
    }

    /// Restores the node, since llama.cpp may reuse the graph.
    pub(super) fn restore(&mut self) {
        if let Some(cut) = self.cut.take() {
            // SAFETY: by the contract of `cut` the node is still alive, and this is the only reference to it.
            unsafe { &mut *cut.node.as_ptr() }.op = cut.op;
        }
    }
}

/// Target token per row of a batch; `None` for rows without a score.
pub(super) type Targets = Vec<Option<Token>>;
