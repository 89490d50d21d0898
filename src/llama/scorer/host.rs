//! Log-likelihoods on the CPU, from logits in host memory.

use std::ffi::c_void;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use crate::likelihood::negative_log_likelihood;
use crate::llama::graph_builder::Node;
use crate::llama::graph_runner::GraphRunner;
use crate::llama::logit_ops::LogitOps;
use crate::llama::{Device, Token};

/// Computes negative log-likelihoods on the CPU.
pub(super) struct HostScorer {
    runner: GraphRunner,
    n_threads: usize,
}

impl HostScorer {
    /// Creates a scorer. Returns `None` if ggml cannot create the backend.
    pub(super) fn new(n_threads: usize) -> Option<Self> {
        let mut scorer = Self { runner: GraphRunner::new(Device::cpu()?)?, n_threads: 1 };
        scorer.set_threads(n_threads);
        Some(scorer)
    }

    pub(super) fn set_threads(&mut self, n_threads: usize) {
        self.n_threads = n_threads.max(1);
        self.runner.set_threads(self.n_threads);
    }

    /// Appends the scores of `rows` of the input of `node`, the product with the output matrix, for these targets.
    ///
    /// # Safety
    /// The node's sources and the operands of `logit_ops` are computed and in the CPU's memory; its input has these
    /// rows.
    pub(super) unsafe fn score(
        &mut self,
        node: &sys::ggml_tensor,
        logit_ops: &LogitOps,
        rows: &Range<usize>,
        targets: &[Token],
        into: &mut Vec<f64>,
    ) -> Result<(), String> {
        let begin = into.len();
        into.resize(begin + targets.len(), f64::NAN);
        let mut job = Job { targets, scores: into[begin..].as_mut_ptr(), n_vocab: node.ne[0] as usize };
        let n_threads = self.n_threads.min(rows.len());
        self.runner.compute(
            |builder| {
                // SAFETY: our own contract. The job, and the scores that it points to, outlive the computation, and
                // nobody else uses them meanwhile. The custom node's source has one row of logits per target.
                unsafe {
                    let (weight, input) = (NonNull::from(&*node.src[0]), builder.leaf_of_rows(&*node.src[1], rows));
                    let product = builder.mul_mat_like(Node(weight), input, node.op_params);
                    builder.want(builder.custom(builder.each(product, logit_ops), score_rows, n_threads, &mut job));
                }
            },
            |()| {},
            |()| {},
        )
    }
}

/// Data for the graph's last node.
struct Job<'a> {
    targets: &'a [Token],
    /// Output: one score per target.
    scores: *mut f64,
    n_vocab: usize,
}

/// Computes the score of every `n_threads`th row of logits, from row `thread` on.
///
/// # Safety
/// For ggml alone: `user_data` is a [`Job`], and `dst`'s source has one computed row of logits per target of it.
unsafe extern "C" fn score_rows(dst: *mut sys::ggml_tensor, thread: i32, n_threads: i32, user_data: *mut c_void) {
    // SAFETY: by contract. The logits are contiguous, since they are a new tensor of the graph and not a view.
    let (job, logits) = unsafe {
        let job = &*user_data.cast::<Job<'_>>();
        let logits = (*(*dst).src[0]).data.cast::<f32>();
        (job, std::slice::from_raw_parts(logits, job.targets.len() * job.n_vocab))
    };
    // A panic would unwind into C; the scores stay NaN then.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        for row in (thread as usize..job.targets.len()).step_by(n_threads as usize) {
            let score = negative_log_likelihood(&logits[row * job.n_vocab..][..job.n_vocab], job.targets[row]);
            // SAFETY: `scores` has one element per row, and only one thread handles a row.
            unsafe { job.scores.add(row).write(score) };
        }
    }));
}
