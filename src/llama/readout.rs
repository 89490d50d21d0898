//! Rows of a residual stream through the model's own output, in a graph of our own.

use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::Device;
use super::draft::{Draft, Node};
use super::graph::{Graph, Leaf, Source};
use super::tail::{RowOp, is_on_host};
use super::tensor::{buffer_of, device_of};
use super::workbench::{Workbench, read_f32_into, write};

/// Rows whose logits are in memory at once.
pub const ROWS_AT_ONCE: usize = 64;

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
    workbench: Workbench,
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
        let workbench = place_of(matrix).and_then(Workbench::new).ok_or("ggml has no backend for the output matrix")?;
        let mut readout = Self {
            norm,
            matrix,
            matrix_params: graph.nodes[head].raw.1,
            tail: tail.clone(),
            n_embd: leaf.ne[0] as usize,
            n_vocab: leaf.ne[1] as usize,
            workbench,
        };
        let operands = readout.norm.iter().chain(&readout.tail).filter_map(|op| op.operand);
        if !operands.into_iter().all(|operand| readout.reads(operand)) {
            return Err(
                "the final norm, the output matrix and what follows it are not in the memory of one device".into()
            );
        }
        let Self { workbench, norm, matrix, matrix_params, tail, n_embd, .. } = &mut readout;
        // A backend aborts at what it does not know; the CPU knows what it has just computed.
        let known = workbench.device().is_cpu()
            || workbench.supports(|draft| {
                let rows = draft.each(draft.input_rows(*n_embd as i64, 1), norm);
                draft.want(draft.each(draft.mul_mat_like(Node(*matrix), rows, *matrix_params), tail));
            });
        if !known {
            return Err(format!("{} cannot compute it apart from the model's own graph", workbench.device().name()));
        }
        readout.set_threads(n_threads);
        Ok(readout)
    }

    /// Whether the device reads a weight where it lies.
    fn reads(&self, weight: NonNull<sys::ggml_tensor>) -> bool {
        let device = self.workbench.device();
        // SAFETY: a weight of the model, which outlives this.
        let tensor = unsafe { weight.as_ref() };
        if device.is_cpu() {
            return is_on_host(tensor);
        }
        let buffer = buffer_of(tensor);
        // SAFETY: as above; the device is the registry's.
        unsafe {
            !buffer.is_null()
                && sys::ggml_backend_dev_supports_buft(device.as_ptr(), sys::ggml_backend_buffer_get_type(buffer))
        }
    }

    /// Whether the CPU computes it.
    #[must_use]
    pub fn is_on_cpu(&self) -> bool {
        self.workbench.device().is_cpu()
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
        self.workbench.set_threads(n_threads.max(1));
    }

    /// The outputs of `rows`, [`n_embd`](Self::n_embd) values each, at most [`ROWS_AT_ONCE`] of them:
    /// [`n_vocab`](Self::n_vocab) logits each.
    ///
    /// # Errors
    /// What ggml could not do.
    pub fn compute(&mut self, rows: &[f32], entry: Entry, exit: Exit, into: &mut Vec<f32>) -> Result<(), String> {
        let n_rows = rows.len() / self.n_embd;
        into.clear();
        if n_rows == 0 {
            return Ok(());
        }
        into.resize(n_rows * self.n_vocab, 0.0);
        let Self { norm, matrix, matrix_params, tail, n_embd, workbench, .. } = self;
        let build = |draft: &Draft<'_>| {
            let leaf = draft.input_rows(*n_embd as i64, n_rows as i64);
            let normed = if entry == Entry::Stream { draft.each(leaf, norm) } else { leaf };
            let product = draft.mul_mat_like(Node(*matrix), normed, *matrix_params);
            let logits = if exit == Exit::Logits { draft.each(product, tail) } else { product };
            draft.want_to_read(logits);
            (leaf, logits)
        };
        workbench.compute(build, |&(leaf, _)| write(leaf, rows), |&(_, logits)| read_f32_into(logits, into))
    }
}

/// A weight that is the model's own: copies that the scheduler makes are gone with the graph.
fn own(leaf: &Leaf) -> Result<NonNull<sys::ggml_tensor>, String> {
    if leaf.is_copy {
        return Err(format!("'{}' is copied from one device's memory to another's (--no-op-offload)", leaf.name));
    }
    Ok(leaf.ptr)
}

/// Where a weight of the model lies.
fn place_of(weight: NonNull<sys::ggml_tensor>) -> Option<Device> {
    // SAFETY: the model's weights live as long as the model, of which a graph has just been evaluated.
    let tensor = unsafe { weight.as_ref() };
    if is_on_host(tensor) { Device::cpu() } else { device_of(tensor) }
}
