//! Log-likelihoods on the device that has the output matrix: no logits leave it.

use std::ops::Range;

use llama_cpp_sys_2 as sys;

use crate::llama::graph_builder::{GraphBuilder, Node};
use crate::llama::graph_runner::{GraphRunner, read_f32, write};
use crate::llama::logit_ops::LogitOps;
use crate::llama::{Device, Token};

/// Most logits on the device at once, over all rows.
const LOGITS_AT_ONCE: i64 = 16 << 20;

/// Most partial sums of exponentials per row. The device adds up each in f32; the host adds them up in f64.
const PARTS: i64 = 1024;

/// Computes negative log-likelihoods on one device.
#[derive(Debug)]
pub(in crate::llama) struct DeviceScorer {
    runner: GraphRunner,
}

/// The results of a graph for some rows. Per row: the target's logit, the largest logit, and partial sums of
/// exp(logit − largest).
struct Scores {
    targets: Node,
    target_logits: Node,
    likeliest_logits: Node,
    /// Partial sums of exp(logit − largest), `parts` per row.
    sums_of_exponentials: Node,
    parts: usize,
}

impl Scores {
    fn results(&self) -> [Node; 3] {
        [self.target_logits, self.likeliest_logits, self.sums_of_exponentials]
    }
}

impl DeviceScorer {
    /// Creates a scorer for the output matrix `weight` and the operations after it. `None` if ggml cannot create the
    /// device's backend, or the device lacks an operation.
    ///
    /// # Safety
    /// `weight` and the operands of `logit_ops` are on `device` and stay allocated during the call.
    pub(in crate::llama) unsafe fn new(
        device: Device,
        weight: &sys::ggml_tensor,
        logit_ops: &LogitOps,
    ) -> Option<Self> {
        let mut runner = GraphRunner::new(device)?;
        let supported = runner.supports(|builder| {
            // The leaf stands for the input: the check reads its type and shape alone.
            // SAFETY: our own contract, and a matrix has a first row; nothing is computed.
            let rows = unsafe { builder.leaf_of_rows(weight, &(0..1)) };
            let rows = builder.cast(rows, sys::GGML_TYPE_F32);
            let scores = scores(builder, weight, rows, [0; 16], logit_ops);
            scores.results().into_iter().for_each(|node| builder.want(node));
        });
        supported.then_some(Self { runner })
    }

    /// Returns the number of rows whose logits fit at once.
    pub(in crate::llama) fn rows_at_once(n_vocab: i64) -> usize {
        (LOGITS_AT_ONCE / n_vocab.max(1)).clamp(16, 512) as usize
    }

    /// Appends the scores of `rows` of the input of `node`, the product with the output matrix, for these targets.
    ///
    /// # Safety
    /// The node's sources and the operands of `logit_ops` are computed, in the device's memory, and stay so during the
    /// call. The input is a matrix with these rows.
    pub(in crate::llama) unsafe fn score(
        &mut self,
        node: &sys::ggml_tensor,
        logit_ops: &LogitOps,
        rows: &Range<usize>,
        targets: &[Token],
        into: &mut Vec<f64>,
    ) -> Result<(), String> {
        self.runner.compute(
            |builder| {
                // SAFETY: our own contract.
                let (weight, input) = unsafe { (&*node.src[0], builder.leaf_of_rows(&*node.src[1], rows)) };
                let scores = scores(builder, weight, input, node.op_params, logit_ops);
                scores.results().into_iter().for_each(|node| builder.want_to_read(node));
                scores
            },
            |scores| write(scores.targets, targets),
            |scores| {
                let [target, likeliest, sums] = scores.results().map(read_f32);
                for ((target, likeliest), sums) in target.iter().zip(likeliest).zip(sums.chunks_exact(scores.parts)) {
                    let sum: f64 = sums.iter().copied().map(f64::from).sum();
                    // The difference in f32, as upstream computes it.
                    into.push(sum.ln() - f64::from(target - likeliest));
                }
            },
        )
    }
}

/// Adds the logits and the results to a graph.
fn scores(
    builder: &GraphBuilder<'_>,
    weight: &sys::ggml_tensor,
    input: Node,
    params: [i32; 16],
    logit_ops: &LogitOps,
) -> Scores {
    let weight = Node(std::ptr::NonNull::from(weight));
    let product = builder.mul_mat_like(weight, input, params);
    let logits = builder.each(product, logit_ops);
    let [n_vocab, n_rows, ..] = logits.ne();
    // `relu` turns NaN into 0: if a row has no largest value, some devices return an index outside of the row. Among
    // logits whose probabilities are equal in f32, any will do.
    let probabilities = builder.relu(builder.soft_max(logits));
    let likeliest = builder.reshape_2d(builder.argmax(probabilities), 1, n_rows);
    let targets = builder.input_i32(n_rows);
    let pick = |which| builder.get_rows(builder.reshape_3d(logits, 1, n_vocab, n_rows), which);
    let likeliest_logits = pick(likeliest);
    let parts = parts(n_vocab);
    let exponentials = builder.exp(builder.sub(logits, builder.reshape_2d(likeliest_logits, 1, n_rows)));
    Scores {
        targets,
        target_logits: pick(builder.reshape_2d(targets, 1, n_rows)),
        likeliest_logits,
        sums_of_exponentials: builder.sum_rows(builder.reshape_2d(exponentials, n_vocab / parts, parts * n_rows)),
        parts: parts as usize,
    }
}

/// Returns the largest number of equal parts, up to [`PARTS`], that the logits can be split into.
fn parts(n_vocab: i64) -> i64 {
    (1..=PARTS).rev().find(|parts| n_vocab % parts == 0).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn vocabularies_are_divided_evenly() {
        for (n_vocab, want) in [(151_936, 128), (50_304, 786), (32_000, 1000), (50_257, 29), (151, 151), (50_261, 1)] {
            assert_eq!(parts(n_vocab), want);
        }
    }
}
