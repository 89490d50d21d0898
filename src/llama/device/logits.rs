//! Log-likelihoods on the device that has the output matrix: no logits leave it.

use std::ops::Range;

use llama_cpp_sys_2 as sys;

use super::bench::{Bench, read_f32, write};
use super::draft::{Draft, Node};
use crate::llama::tail::Tail;
use crate::llama::{Device, Token};

/// Logits that are on the device at once, over all rows.
const LOGITS_AT_ONCE: i64 = 16 << 20;

/// Computes negative log-likelihoods on one device.
#[derive(Debug)]
pub(in crate::llama) struct DeviceScorer {
    bench: Bench,
}

/// A graph for some rows. In each, some token is compared with the target: the likeliest, whose probability f32 holds best.
struct Scores {
    targets: Node,
    target_logits: Node,
    likeliest_logits: Node,
    likeliest_probabilities: Node,
}

impl Scores {
    fn results(&self) -> [Node; 3] {
        [self.target_logits, self.likeliest_logits, self.likeliest_probabilities]
    }
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
            let rows = draft.cast(rows, sys::GGML_TYPE_F32);
            let scores = scores(draft, weight, rows, [0; 16], tail);
            scores.results().into_iter().for_each(|node| draft.want(node));
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
        self.bench.compute(
            |draft| {
                // SAFETY: our own contract.
                let (weight, input) = unsafe { (&*node.src[0], draft.leaf_of_rows(&*node.src[1], rows)) };
                let scores = scores(draft, weight, input, node.op_params, tail);
                scores.results().into_iter().for_each(|node| draft.want_to_read(node));
                scores
            },
            |scores| write(scores.targets, targets),
            |scores| {
                let [target, likeliest, probability] = scores.results().map(read_f32);
                for ((target, likeliest), probability) in target.iter().zip(likeliest).zip(probability) {
                    // ln(p) of the one, and what lies between the two, in f32 as upstream takes it.
                    into.push(-f64::from(target - likeliest) - f64::from(probability).ln());
                }
            },
        )
    }
}

/// The graph: logits, their softmax, and of both what is read.
fn scores(draft: &Draft<'_>, weight: &sys::ggml_tensor, input: Node, params: [i32; 16], tail: &Tail) -> Scores {
    let weight = Node(std::ptr::NonNull::from(weight));
    let product = draft.mul_mat_like(weight, input, params);
    let logits = tail.iter().fold(product, |last, op| draft.like(last, op.op, op.params, op.operand.map(Node)));
    let [n_vocab, n_rows, ..] = logits.ne();
    // No number becomes 0 here: where none is the largest, some device's place of it is outside of the row.
    let probabilities = draft.relu(draft.soft_max(logits));
    let likeliest = draft.reshape_2d(draft.argmax(probabilities), 1, n_rows);
    let targets = draft.input_i32(n_rows);
    let pick = |of, which| draft.get_rows(draft.reshape_3d(of, 1, n_vocab, n_rows), which);
    Scores {
        targets,
        target_logits: pick(logits, draft.reshape_2d(targets, 1, n_rows)),
        likeliest_logits: pick(logits, likeliest),
        likeliest_probabilities: pick(probabilities, likeliest),
    }
}
