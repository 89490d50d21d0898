//! Copies the rows that the experts of each layer read, while a graph is computed.

use std::sync::Arc;

use crate::llama::{Op, TensorInfo, TensorRef};

use super::sample::SampledLayer;

/// Copies the rows of selected tokens of each layer.
#[derive(Debug, Default)]
pub(crate) struct ExpertRows {
    layers: Arc<[SampledLayer]>,
    /// Tokens to copy, by their place in the micro-batch.
    selected: Vec<usize>,
    /// Number of tokens in the micro-batch.
    n_tokens: usize,
    /// The next layer of the evaluation.
    next: usize,
    asked: bool,
    /// Per selected token, its rows of the layers so far.
    copied: Vec<Vec<f32>>,
    scratch: Vec<f32>,
}

impl ExpertRows {
    /// Starts copying in the next decode, which evaluates one micro-batch of `n_tokens` tokens.
    pub(crate) fn start(&mut self, layers: &Arc<[SampledLayer]>, selected: Vec<usize>, n_tokens: usize) {
        self.layers = Arc::clone(layers);
        self.copied.clear();
        self.copied.resize_with(selected.len(), Vec::new);
        (self.selected, self.n_tokens, self.next, self.asked) = (selected, n_tokens, 0, false);
    }

    /// Returns the rows of each selected token and stops copying. Tokens lack rows if the graph has other layers.
    pub(crate) fn take(&mut self) -> Vec<Vec<f32>> {
        self.selected.clear();
        std::mem::take(&mut self.copied)
    }

    /// Returns true if the rows that `node` reads are needed once it is computed.
    pub(crate) fn asks(&mut self, node: TensorInfo<'_>) -> bool {
        self.asked = !self.selected.is_empty()
            && node.op() == Op::MulMatId
            && self
                .layers
                .get(self.next)
                .is_some_and(|layer| node.src(0).is_some_and(|weight| weight.base_name() == layer.weight));
        self.asked
    }

    /// Copies the rows that the node which was last asked for reads.
    pub(crate) fn sees(&mut self, node: TensorRef<'_>) {
        if !std::mem::take(&mut self.asked) {
            return;
        }
        let (width, at) = (self.layers[self.next].width, self.next);
        self.next += 1;
        let Some(input) = node.src(1) else { return };
        let [n0, n1, n2, _] = input.ne().map(|n| usize::try_from(n).unwrap_or(0));
        // A token that lacks a layer is not added to the sample.
        if n0 * n1 != width || n2 != self.n_tokens {
            return;
        }
        let rows: Vec<usize> = self.selected.iter().flat_map(|token| token * n1..(token + 1) * n1).collect();
        self.scratch.clear();
        if !input.append_rows(&rows, &mut self.scratch) {
            return;
        }
        for (copied, rows) in self.copied.iter_mut().zip(self.scratch.chunks_exact(width.max(1))) {
            if at == 0 {
                copied.reserve_exact(self.layers.iter().map(|layer| layer.width).sum());
            }
            copied.extend_from_slice(rows);
        }
    }
}
