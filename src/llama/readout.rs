//! Rows of a residual stream through the model's own output, in a graph of our own.

use std::ptr::{NonNull, null_mut};

use llama_cpp_sys_2 as sys;

use super::graph::{Graph, Source};
use super::tail::is_on_host;

/// Rows whose logits are in memory at once.
pub const ROWS_AT_ONCE: usize = 64;

/// An operation on rows, and what it takes besides.
#[derive(Debug, Clone, Copy)]
struct RowOp {
    op: sys::ggml_op,
    params: [i32; 16],
    operand: Option<NonNull<sys::ggml_tensor>>,
}

/// The model's output on its own: the final norm, the product with the output matrix, and what follows that.
///
/// It computes with the operations and weights that llama.cpp's graph has, on the CPU.
pub struct Readout {
    /// From the residual stream to the input of the output matrix.
    norm: Vec<RowOp>,
    matrix: NonNull<sys::ggml_tensor>,
    matrix_params: [i32; 16],
    tail: Vec<RowOp>,
    n_embd: usize,
    n_vocab: usize,
    backend: NonNull<sys::ggml_backend>,
    allocator: NonNull<sys::ggml_gallocr>,
    /// Where the graph's tensors are described.
    arena: Vec<u64>,
}

// SAFETY: all it points to is its own, or the model's, which is not written.
unsafe impl Send for Readout {}

/// Where rows enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// They are of the residual stream.
    Stream,
    /// They are the output matrix's input.
    Normed,
}

/// Where rows leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// As the output matrix's product.
    Product,
    /// As logits, with what the model does to them.
    Logits,
}

impl Readout {
    /// `norm` are the nodes of `graph` from the residual stream to the input of the output matrix, in order, without those
    /// that only give numbers another shape.
    ///
    /// # Errors
    /// Why it cannot be computed apart from the model's own graph.
    pub fn new(graph: &Graph, norm: &[usize], n_threads: usize) -> Result<Self, String> {
        let head = graph.head.ok_or("the graph has no product with an output matrix")?;
        let tail = match &graph.tail {
            Some(Ok(tail)) => {
                tail.iter().map(|op| RowOp { op: op.op, params: op.params, operand: op.operand }).collect()
            }
            Some(Err(reason)) => return Err((*reason).to_owned()),
            None => return Err("the graph has no product with an output matrix".to_owned()),
        };
        let Some(&Source::Leaf(matrix)) = graph.nodes[head].sources.first() else {
            return Err("the output matrix is itself computed".to_owned());
        };
        let row_op = |&at: &usize| {
            let node = &graph.nodes[at];
            let operand = match node.sources.get(1) {
                None => None,
                // SAFETY: the model's weights live as long as the model, and copies of them as long as the graph.
                Some(&Source::Leaf(leaf)) if is_on_host(unsafe { graph.leaves[leaf].ptr.as_ref() }) => {
                    Some(graph.leaves[leaf].ptr)
                }
                Some(&Source::Leaf(leaf)) => {
                    return Err(format!("'{}' is not in host memory", graph.leaves[leaf].name));
                }
                Some(Source::Node(_)) => return Err(format!("'{}' takes more than a weight", node.name)),
            };
            Ok(RowOp { op: node.raw.0, params: node.raw.1, operand })
        };
        let norm: Vec<RowOp> = norm.iter().map(row_op).collect::<Result<_, _>>()?;
        let matrix = &graph.leaves[matrix];
        let (backend, allocator) = backend().ok_or("ggml has no CPU backend")?;
        let mut readout = Self {
            norm,
            matrix: matrix.ptr,
            matrix_params: graph.nodes[head].raw.1,
            tail,
            n_embd: matrix.ne[0] as usize,
            n_vocab: matrix.ne[1] as usize,
            backend,
            allocator,
            arena: Vec::new(),
        };
        // SAFETY: reads constants.
        let bytes = unsafe {
            sys::ggml_graph_overhead_custom(readout.graph_size(), false)
                + readout.graph_size() * sys::ggml_tensor_overhead()
        };
        readout.arena = vec![0; bytes.div_ceil(size_of::<u64>())];
        readout.set_threads(n_threads);
        Ok(readout)
    }

    fn graph_size(&self) -> usize {
        2 * (self.norm.len() + self.tail.len()) + 8
    }

    /// Logits a row.
    #[must_use]
    pub fn n_vocab(&self) -> usize {
        self.n_vocab
    }

    /// Values of a row of the residual stream.
    #[must_use]
    pub fn n_embd(&self) -> usize {
        self.n_embd
    }

    /// Whether the model does something to its logits after the product.
    #[must_use]
    pub fn has_tail(&self) -> bool {
        !self.tail.is_empty()
    }

    /// Computes on so many threads from now on.
    pub fn set_threads(&mut self, n_threads: usize) {
        super::scorer::set_threads(self.backend, n_threads.max(1));
    }

    /// The outputs of `rows`, [`n_embd`](Self::n_embd) values each, at most [`ROWS_AT_ONCE`] of them:
    /// [`n_vocab`](Self::n_vocab) logits each.
    ///
    /// # Errors
    /// What ggml could not do.
    pub fn compute(&mut self, rows: &[f32], entry: Entry, exit: Exit, into: &mut Vec<f32>) -> Result<(), &'static str> {
        let n_rows = rows.len() / self.n_embd;
        into.clear();
        if n_rows == 0 {
            return Ok(());
        }
        into.resize(n_rows * self.n_vocab, 0.0);
        // SAFETY: the arena is as large as the tensors and the graph need, and outlives the context, which is freed below.
        // Operands are weights of the model, in memory that the CPU's backend reads (the graph's tail was refused
        // otherwise). What is set and read is as long as the tensors are.
        unsafe {
            let ctx = sys::ggml_init(sys::ggml_init_params {
                mem_size: self.arena.len() * size_of::<u64>(),
                mem_buffer: self.arena.as_mut_ptr().cast(),
                no_alloc: true,
            });
            if ctx.is_null() {
                return Err("ggml has no room for a graph");
            }
            let leaf = sys::ggml_new_tensor_2d(ctx, sys::GGML_TYPE_F32, self.n_embd as i64, n_rows as i64);
            sys::ggml_set_input(leaf);
            let mut last = leaf;
            if entry == Entry::Stream {
                last = append(ctx, last, &self.norm);
            }
            last = sys::ggml_mul_mat(ctx, self.matrix.as_ptr(), last);
            (*last).op_params = self.matrix_params;
            if exit == Exit::Logits {
                last = append(ctx, last, &self.tail);
            }
            sys::ggml_set_output(last);
            let graph = sys::ggml_new_graph_custom(ctx, self.graph_size(), false);
            sys::ggml_build_forward_expand(graph, last);
            let mut done = sys::ggml_gallocr_alloc_graph(self.allocator.as_ptr(), graph);
            if done {
                sys::ggml_backend_tensor_set(leaf, rows.as_ptr().cast(), 0, n_rows * self.n_embd * size_of::<f32>());
                done = sys::ggml_backend_graph_compute(self.backend.as_ptr(), graph) == sys::GGML_STATUS_SUCCESS;
            }
            if done {
                sys::ggml_backend_tensor_get(last, into.as_mut_ptr().cast(), 0, into.len() * size_of::<f32>());
            }
            sys::ggml_free(ctx);
            if done { Ok(()) } else { Err("the logits of some rows could not be computed") }
        }
    }
}

/// # Safety
/// `ctx` has room for the operations, `last` is one of its tensors.
unsafe fn append(ctx: *mut sys::ggml_context, mut last: *mut sys::ggml_tensor, ops: &[RowOp]) -> *mut sys::ggml_tensor {
    for op in ops {
        // SAFETY: see above; operations keep the shape of their first source.
        unsafe {
            let next = sys::ggml_dup_tensor(ctx, last);
            (*next).op = op.op;
            (*next).op_params = op.params;
            (*next).src[0] = last;
            (*next).src[1] = op.operand.map_or(null_mut(), NonNull::as_ptr);
            last = next;
        }
    }
    last
}

/// A CPU backend and an allocator for its graphs.
fn backend() -> Option<(NonNull<sys::ggml_backend>, NonNull<sys::ggml_gallocr>)> {
    // SAFETY: a backend of our own, freed on drop.
    let backend = unsafe { sys::ggml_backend_init_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU, std::ptr::null()) };
    let backend = NonNull::new(backend)?;
    // SAFETY: as above.
    let allocator = unsafe { sys::ggml_gallocr_new(sys::ggml_backend_get_default_buffer_type(backend.as_ptr())) };
    if let Some(allocator) = NonNull::new(allocator) {
        return Some((backend, allocator));
    }
    // SAFETY: ours, used nowhere else.
    unsafe { sys::ggml_backend_free(backend.as_ptr()) };
    None
}

impl Drop for Readout {
    fn drop(&mut self) {
        // SAFETY: both are ours and freed once.
        unsafe {
            sys::ggml_gallocr_free(self.allocator.as_ptr());
            sys::ggml_backend_free(self.backend.as_ptr());
        }
    }
}
