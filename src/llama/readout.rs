//! Rows of a residual stream through the model's own output, in a graph of our own.

use std::ptr::{NonNull, null_mut};

use llama_cpp_sys_2 as sys;

use super::graph::{Graph, Leaf, Source};
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
/// It computes with the operations and weights that llama.cpp's graph has, on the device that has the output matrix.
pub struct Readout {
    /// From the residual stream to the input of the output matrix.
    norm: Vec<RowOp>,
    matrix: NonNull<sys::ggml_tensor>,
    matrix_params: [i32; 16],
    tail: Vec<RowOp>,
    n_embd: usize,
    n_vocab: usize,
    on_cpu: bool,
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
            Some(Ok(tail)) => tail,
            Some(Err(reason)) => return Err((*reason).to_owned()),
            None => return Err("the graph has no product with an output matrix".to_owned()),
        };
        let tail: Vec<_> = tail.iter().map(|op| RowOp { op: op.op, params: op.params, operand: op.operand }).collect();
        let Some(&Source::Leaf(matrix)) = graph.nodes[head].sources.first() else {
            return Err("the output matrix is itself computed".to_owned());
        };
        let row_op = |&at: &usize| {
            let node = &graph.nodes[at];
            let operand = match node.sources.get(1) {
                None => None,
                Some(&Source::Leaf(leaf)) => Some(own(&graph.leaves[leaf])?),
                Some(Source::Node(_)) => return Err(format!("'{}' takes more than a weight", node.name)),
            };
            Ok(RowOp { op: node.raw.0, params: node.raw.1, operand })
        };
        let norm: Vec<RowOp> = norm.iter().map(row_op).collect::<Result<_, _>>()?;
        let leaf = &graph.leaves[matrix];
        let matrix = own(leaf)?;
        let (backend, allocator, on_cpu) = backend_of(matrix).ok_or("ggml has no backend for the output matrix")?;
        let mut readout = Self {
            norm,
            matrix,
            matrix_params: graph.nodes[head].raw.1,
            tail,
            n_embd: leaf.ne[0] as usize,
            n_vocab: leaf.ne[1] as usize,
            on_cpu,
            backend,
            allocator,
            arena: Vec::new(),
        };
        let operands = readout.norm.iter().chain(&readout.tail).filter_map(|op| op.operand);
        if !operands.into_iter().all(|operand| readout.reads(operand)) {
            return Err(
                "the final norm, the output matrix and what follows it are not in the memory of one device".into()
            );
        }
        // SAFETY: reads constants.
        let bytes = unsafe {
            sys::ggml_graph_overhead_custom(readout.graph_size(), false)
                + readout.graph_size() * sys::ggml_tensor_overhead()
        };
        readout.arena = vec![0; bytes.div_ceil(size_of::<u64>())];
        readout.set_threads(n_threads);
        Ok(readout)
    }

    /// Whether the backend reads a weight where it lies.
    fn reads(&self, weight: NonNull<sys::ggml_tensor>) -> bool {
        // SAFETY: a weight of the model, which outlives this.
        let tensor = unsafe { weight.as_ref() };
        if self.on_cpu {
            return is_on_host(tensor);
        }
        // SAFETY: as above; the backend is ours.
        unsafe {
            let buffer = tensor.view_src.as_ref().map_or(tensor.buffer, |source| source.buffer);
            !buffer.is_null()
                && sys::ggml_backend_supports_buft(self.backend.as_ptr(), sys::ggml_backend_buffer_get_type(buffer))
        }
    }

    /// Whether the CPU computes it.
    #[must_use]
    pub fn is_on_cpu(&self) -> bool {
        self.on_cpu
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
        // Operands are weights of the model, in memory that the backend reads (checked by new()). What is set and read is as
        // long as the tensors are.
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
            let nodes = (0..sys::ggml_graph_n_nodes(graph)).map(|i| sys::ggml_graph_node(graph, i));
            // A backend aborts at what it does not know.
            let known =
                self.on_cpu || nodes.into_iter().all(|n| sys::ggml_backend_supports_op(self.backend.as_ptr(), n));
            let mut done = known && sys::ggml_gallocr_alloc_graph(self.allocator.as_ptr(), graph);
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

/// A weight that is the model's own: copies that the scheduler makes are gone with the graph.
fn own(leaf: &Leaf) -> Result<NonNull<sys::ggml_tensor>, String> {
    if leaf.is_copy {
        return Err(format!("'{}' is copied from one device's memory to another's (--no-op-offload)", leaf.name));
    }
    Ok(leaf.ptr)
}

/// A backend where a weight of the model lies, an allocator for its graphs, and whether it is the CPU.
fn backend_of(
    weight: NonNull<sys::ggml_tensor>,
) -> Option<(NonNull<sys::ggml_backend>, NonNull<sys::ggml_gallocr>, bool)> {
    // SAFETY: the model's weights live as long as the model, of which a graph has just been evaluated.
    let tensor = unsafe { weight.as_ref() };
    let on_cpu = is_on_host(tensor);
    // SAFETY: the buffer lives as long as the weight; backends are our own, freed on drop.
    let backend = unsafe {
        if on_cpu {
            sys::ggml_backend_init_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU, std::ptr::null())
        } else {
            let buffer = tensor.view_src.as_ref().map_or(tensor.buffer, |source| source.buffer);
            NonNull::new(buffer)?;
            let device = sys::ggml_backend_buft_get_device(sys::ggml_backend_buffer_get_type(buffer));
            NonNull::new(device)?;
            sys::ggml_backend_dev_init(device, std::ptr::null())
        }
    };
    let backend = NonNull::new(backend)?;
    // SAFETY: as above.
    let allocator = unsafe { sys::ggml_gallocr_new(sys::ggml_backend_get_default_buffer_type(backend.as_ptr())) };
    if let Some(allocator) = NonNull::new(allocator) {
        return Some((backend, allocator, on_cpu));
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
