//! Log-likelihoods on the CPU, from logits in host memory.

use std::ffi::c_void;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{NonNull, null_mut};

use llama_cpp_sys_2 as sys;

use crate::llama::Token;
use crate::llama::tail::Tail;
use crate::perplexity::negative_log_likelihood;

/// A CPU backend of our own.
pub(super) struct HostScorer {
    backend: NonNull<sys::ggml_backend>,
    allocator: NonNull<sys::ggml_gallocr>,
    n_threads: usize,
    /// Where the graph's tensors are described.
    arena: Vec<u64>,
}

// SAFETY: all it points to is its own.
unsafe impl Send for HostScorer {}

impl HostScorer {
    /// `None` where ggml cannot set it up.
    pub(super) fn new(tail: &Tail, n_threads: usize) -> Option<Self> {
        // SAFETY: a backend of our own, freed on drop.
        let backend = unsafe { sys::ggml_backend_init_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU, std::ptr::null()) };
        let backend = NonNull::new(backend)?;
        // SAFETY: as above.
        let allocator = unsafe { sys::ggml_gallocr_new(sys::ggml_backend_get_default_buffer_type(backend.as_ptr())) };
        let Some(allocator) = NonNull::new(allocator) else {
            // SAFETY: ours, used nowhere else.
            unsafe { sys::ggml_backend_free(backend.as_ptr()) };
            return None;
        };
        // SAFETY: reads constants.
        let bytes = unsafe {
            sys::ggml_graph_overhead_custom(graph_size(tail), false) + (tail.len() + 4) * sys::ggml_tensor_overhead()
        };
        let arena = vec![0; bytes.div_ceil(size_of::<u64>())];
        let mut scorer = Self { arena, backend, allocator, n_threads: 1 };
        scorer.set_threads(n_threads);
        Some(scorer)
    }

    pub(super) fn set_threads(&mut self, n_threads: usize) {
        self.n_threads = n_threads.max(1);
        set_threads(self.backend, self.n_threads);
    }

    /// The scores of `rows` of the input of `node`, the product with the output matrix, for these targets.
    ///
    /// # Safety
    /// The node's sources and the tail's operands are computed and in the CPU's memory; its input has these rows.
    pub(super) unsafe fn score(
        &mut self,
        node: &sys::ggml_tensor,
        tail: &Tail,
        rows: &Range<usize>,
        targets: &[Token],
        into: &mut Vec<f64>,
    ) -> Result<(), &'static str> {
        let begin = into.len();
        into.resize(begin + targets.len(), f64::NAN);
        let mut job = Job { targets, scores: into[begin..].as_mut_ptr(), n_vocab: node.ne[0] as usize };
        // SAFETY: the arena is as large as the tensors and the graph need, and outlives the context, which is freed
        // below. The leaf lies inside the input's buffer. Sources are the model's or this graph's. The job outlives the
        // computation.
        unsafe {
            let ctx = sys::ggml_init(sys::ggml_init_params {
                mem_size: self.arena.len() * size_of::<u64>(),
                mem_buffer: self.arena.as_mut_ptr().cast(),
                no_alloc: true,
            });
            if ctx.is_null() {
                return Err("ggml has no room for a graph");
            }
            let graph = self.build(ctx, node, tail, rows, &mut job);
            let done = sys::ggml_gallocr_alloc_graph(self.allocator.as_ptr(), graph)
                && sys::ggml_backend_graph_compute(self.backend.as_ptr(), graph) == sys::GGML_STATUS_SUCCESS;
            sys::ggml_free(ctx);
            if done { Ok(()) } else { Err("the logits of some rows could not be computed") }
        }
    }

    /// # Safety
    /// As for [`score`](Self::score); `ctx` has room.
    unsafe fn build(
        &self,
        ctx: *mut sys::ggml_context,
        node: &sys::ggml_tensor,
        tail: &Tail,
        rows: &Range<usize>,
        job: &mut Job<'_>,
    ) -> *mut sys::ggml_cgraph {
        // SAFETY: see score().
        unsafe {
            let input = &*node.src[1];
            let buffer = input.view_src.as_ref().map_or(input.buffer, |source| source.buffer);
            let leaf = sys::ggml_new_tensor_2d(ctx, sys::GGML_TYPE_F32, input.ne[0], rows.len() as i64);
            let data = input.data.cast::<u8>().add(rows.start * input.nb[1]);
            sys::ggml_backend_tensor_alloc(buffer, leaf, data.cast());
            let mut last = sys::ggml_mul_mat(ctx, node.src[0], leaf);
            (*last).op_params = node.op_params;
            for op in tail {
                let next = sys::ggml_dup_tensor(ctx, last);
                (*next).op = op.op;
                (*next).op_params = op.params;
                (*next).src[0] = last;
                (*next).src[1] = op.operand.map_or(null_mut(), NonNull::as_ptr);
                last = next;
            }
            let n_tasks = self.n_threads.min(rows.len()) as i32;
            let scores = sys::ggml_custom_4d(
                ctx,
                sys::GGML_TYPE_F32,
                1,
                1,
                1,
                1,
                &raw mut last,
                1,
                Some(score_rows),
                n_tasks,
                std::ptr::from_mut(job).cast::<c_void>(),
            );
            let graph = sys::ggml_new_graph_custom(ctx, graph_size(tail), false);
            sys::ggml_build_forward_expand(graph, scores);
            graph
        }
    }
}

fn graph_size(tail: &Tail) -> usize {
    2 * tail.len() + 8
}

/// Has a CPU backend of ours compute on so many threads.
pub(in crate::llama) fn set_threads(backend: NonNull<sys::ggml_backend>, n_threads: usize) {
    // SAFETY: the function that ggml registers under this name has this type; the backend is ours.
    unsafe {
        let device = sys::ggml_backend_get_device(backend.as_ptr());
        let registry = sys::ggml_backend_dev_backend_reg(device);
        let function = sys::ggml_backend_reg_get_proc_address(registry, c"ggml_backend_set_n_threads".as_ptr());
        if let Some(function) = NonNull::new(function) {
            let set_n_threads: unsafe extern "C" fn(sys::ggml_backend_t, i32) = std::mem::transmute(function.as_ptr());
            set_n_threads(backend.as_ptr(), n_threads as i32);
        }
    }
}

impl Drop for HostScorer {
    fn drop(&mut self) {
        // SAFETY: both are ours and freed once.
        unsafe {
            sys::ggml_gallocr_free(self.allocator.as_ptr());
            sys::ggml_backend_free(self.backend.as_ptr());
        }
    }
}

/// What the graph's last node works on.
struct Job<'a> {
    targets: &'a [Token],
    /// As many as there are targets.
    scores: *mut f64,
    n_vocab: usize,
}

/// The score of every `n_threads`th row of logits, from row `thread` on.
///
/// # Safety
/// For ggml alone: `dst`'s source holds a row of logits for each target of the [`Job`] that `user_data` is.
unsafe extern "C" fn score_rows(dst: *mut sys::ggml_tensor, thread: i32, n_threads: i32, user_data: *mut c_void) {
    // SAFETY: by contract; logits are contiguous, since the graph's allocator placed them.
    let (job, logits) = unsafe {
        let job = &*user_data.cast::<Job<'_>>();
        let logits = (*(*dst).src[0]).data.cast::<f32>();
        (job, std::slice::from_raw_parts(logits, job.targets.len() * job.n_vocab))
    };
    // A panic would unwind into C; the scores stay NaN then.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        for row in (thread as usize..job.targets.len()).step_by(n_threads as usize) {
            let score = negative_log_likelihood(&logits[row * job.n_vocab..][..job.n_vocab], job.targets[row]);
            // SAFETY: each row is one thread's, and there are as many scores as rows.
            unsafe { job.scores.add(row).write(score) };
        }
    }));
}
