//! Log-likelihoods on the device that has the output matrix: no logits leave it.

use std::ops::Range;

use llama_cpp_sys_2 as sys;

use super::bench::{Bench, read_f32, write};
use super::draft::{Draft, Node};
use crate::llama::tail::Tail;
use crate::llama::{Device, Token};
use crate::perplexity::negative_log_likelihood;

/// Logits that are on the device at once, over all rows.
const LOGITS_AT_ONCE: i64 = 16 << 20;

/// Computes negative log-likelihoods on one device.
#[derive(Debug)]
pub(in crate::llama) struct DeviceScorer {
    bench: Bench,
}

/// A graph for some rows.
struct Scores {
    logits: Node,
    /// Which elements of the probabilities are the targets', and these.
    places: Node,
    picked: Node,
}

impl DeviceScorer {
    /// For the output matrix `weight` and what follows it. `None` where the device cannot be set up, or lacks an
    /// operation.
    ///
    /// # Safety
    /// `weight` is a matrix on `device` that stays allocated, and so are the tail's operands.
    pub(in crate::llama) unsafe fn new(device: Device, weight: &sys::ggml_tensor, tail: &Tail) -> Option<Self> {
        let mut bench = Bench::new(device)?;
        let supported = bench.supports(|draft| {
            // A leaf in another's place has that one's type and row length: only these are looked at.
            // SAFETY: our own contract; nothing is computed.
            let rows = unsafe { draft.leaf_of_rows(weight, &(0..1)) };
            let rows = draft.cast(rows, sys::GGML_TYPE_F32 as u32);
            let scores = scores(draft, weight, rows, [0; 16], tail);
            draft.want(scores.picked);
        });
        supported.then_some(Self { bench })
    }

    /// Rows whose logits there is room for.
    pub(in crate::llama) fn rows_at_once(n_vocab: i64) -> usize {
        (LOGITS_AT_ONCE / n_vocab.max(1)).clamp(16, 512) as usize
    }

    /// The scores of `rows` of the input of `node`, the product with the output matrix, for these targets.
    ///
    /// # Safety
    /// The node's sources and the tail's operands are computed and stay so for the call; its input is a matrix with these
    /// rows.
    pub(in crate::llama) unsafe fn score(
        &mut self,
        node: &sys::ggml_tensor,
        tail: &Tail,
        rows: &Range<usize>,
        targets: &[Token],
        into: &mut Vec<f64>,
    ) -> Result<(), String> {
        let n_vocab = node.ne[0] as usize;
        let places: Vec<i32> = (0..).zip(targets).map(|(row, &target)| row * n_vocab as i32 + target).collect();
        self.bench.compute(
            |draft| {
                // SAFETY: our own contract.
                let (weight, input) = unsafe { (&*node.src[0], draft.leaf_of_rows(&*node.src[1], rows)) };
                let scores = scores(draft, weight, input, node.op_params, tail);
                draft.want_to_read(scores.picked);
                draft.want_to_read(scores.logits);
                scores
            },
            |scores| write(scores.places, &places),
            |scores| {
                for (row, (&probability, &target)) in read_f32(scores.picked).iter().zip(targets).enumerate() {
                    into.push(if probability >= f32::MIN_POSITIVE {
                        -f64::from(probability).ln()
                    } else {
                        // Too small for f32, or no number: from the logits, as the host does it.
                        negative_log_likelihood(&read_row(scores.logits, row, n_vocab), target)
                    });
                }
            },
        )
    }
}

/// The graph: logits, their softmax, and of that the targets'.
fn scores(draft: &Draft<'_>, weight: &sys::ggml_tensor, input: Node, params: [i32; 16], tail: &Tail) -> Scores {
    let weight = Node(std::ptr::NonNull::from(weight));
    let product = draft.mul_mat(weight, input);
    draft.set_params(product, params);
    let logits = tail.iter().fold(product, |last, op| draft.like(last, op.op, op.params, op.operand.map(Node)));
    let [n_vocab, n_rows, ..] = logits.ne();
    let places = draft.input_i32(n_rows);
    let probabilities = draft.soft_max(logits);
    let picked = draft.get_rows(draft.reshape_2d(probabilities, 1, n_vocab * n_rows), places);
    Scores { logits, places, picked }
}

fn read_row(logits: Node, row: usize, n_vocab: usize) -> Vec<f32> {
    let mut values = vec![0.0_f32; n_vocab];
    let bytes = n_vocab * size_of::<f32>();
    // SAFETY: the logits are kept to be read, contiguous, and have this row.
    unsafe { sys::ggml_backend_tensor_get(logits.0.as_ptr(), values.as_mut_ptr().cast(), row * bytes, bytes) };
    values
}
