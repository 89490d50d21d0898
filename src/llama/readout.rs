//! Rows of a residual stream through the model's own output, in a graph of our own.

use std::marker::PhantomData;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::graph::{Graph, Leaf, LeafKind, Source};
use super::graph_builder::{GraphBuilder, Node};
use super::graph_runner::{GraphRunner, read_f32_into, write};
use super::logit_ops::{RowOp, is_on_host};
use super::tensor::{buffer_of, device_of};
use super::threads::clamp_threads;
use super::{Device, Model};

/// Rows whose logits are in memory at once.
pub const ROWS_AT_ONCE: usize = 64;

/// The model's output on its own: the final norm, the product with the output matrix, and what follows that.
///
/// It computes with the operations and weights that llama.cpp's graph has, on the device that has the output matrix. It
/// borrows the model that the graph is of:
///
/// ```compile_fail,E0505
/// # use llama_imatrix::llama::{Entry, Exit, Graph, Model, Readout};
/// fn outlives<'m>(model: Model, graph: impl FnOnce(&Model) -> Graph<'_>) -> Result<(), String> {
///     let graph = graph(&model);
///     let mut readout = Readout::new(&graph, &[], 1)?;
///     drop(model);
///     readout.compute(&[], Entry::Stream, Exit::Logits, &mut Vec::new())
/// }
/// ```
pub struct Readout<'m> {
    /// From the residual stream to the input of the output matrix.
    norm: Vec<RowOp>,
    matrix: NonNull<sys::ggml_tensor>,
    matrix_params: [i32; 16],
    logit_ops: Vec<RowOp>,
    n_embd: usize,
    n_vocab: usize,
    runner: GraphRunner,
    model: PhantomData<&'m Model>,
}

// SAFETY: all it points to is its own, or the model's, which is not written.
unsafe impl Send for Readout<'_> {}

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

impl<'m> Readout<'m> {
    /// `norm` are the nodes of `graph` from the residual stream to the input of the output matrix, in order, without those
    /// that only give numbers another shape.
    ///
    /// # Errors
    /// Why it cannot be computed apart from the model's own graph: `norm` may also name nodes that are not there, or that do
    /// more than a norm.
    pub fn new(graph: &Graph<'m>, norm: &[usize], n_threads: usize) -> Result<Self, String> {
        let head = graph.head.ok_or("the graph has no product with an output matrix")?;
        let logit_ops = match &graph.logit_ops {
            Some(Ok(logit_ops)) => logit_ops,
            Some(Err(reason)) => return Err((*reason).to_owned()),
            None => return Err("the graph has no product with an output matrix".to_owned()),
        };
        let Some(&Source::Leaf(matrix)) = graph.nodes[head].sources.first() else {
            return Err("the output matrix is itself computed".to_owned());
        };
        let leaf = &graph.leaves[matrix];
        let matrix = own(leaf)?;
        let norm: Vec<RowOp> = norm.iter().map(|&at| row_op(graph, at, leaf.ne[0])).collect::<Result<_, _>>()?;
        let runner = place_of(matrix).and_then(GraphRunner::new).ok_or("ggml has no backend for the output matrix")?;
        let mut readout = Self {
            norm,
            matrix,
            matrix_params: graph.nodes[head].raw.1,
            logit_ops: logit_ops.clone(),
            n_embd: leaf.ne[0] as usize,
            n_vocab: leaf.ne[1] as usize,
            runner,
            model: PhantomData,
        };
        let operands = readout.norm.iter().chain(&readout.logit_ops).filter_map(|op| op.operand);
        if !operands.into_iter().all(|operand| readout.reads(operand)) {
            return Err(
                "the final norm, the output matrix and what follows it are not in the memory of one device".into()
            );
        }
        let Self { runner, norm, matrix, matrix_params, logit_ops, n_embd, .. } = &mut readout;
        // A backend aborts at what it does not know; the CPU knows what it has just computed.
        let known = runner.device().is_cpu()
            || runner.supports(|builder| {
                let rows = builder.each(builder.input_rows(*n_embd as i64, 1), norm);
                builder.want(builder.each(builder.mul_mat_like(Node(*matrix), rows, *matrix_params), logit_ops));
            });
        if !known {
            return Err(format!("{} cannot compute it apart from the model's own graph", runner.device().name()));
        }
        readout.set_threads(n_threads);
        Ok(readout)
    }

    /// Whether the device reads a weight where it lies.
    fn reads(&self, weight: NonNull<sys::ggml_tensor>) -> bool {
        let device = self.runner.device();
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
        self.runner.device().is_cpu()
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
        !self.logit_ops.is_empty()
    }

    /// Sets the number of threads, 1 to 512.
    pub fn set_threads(&mut self, n_threads: usize) {
        self.runner.set_threads(clamp_threads(n_threads));
    }

    /// The outputs of `rows`, [`n_embd`](Self::n_embd) values each, at most [`ROWS_AT_ONCE`] of them:
    /// [`n_vocab`](Self::n_vocab) logits each.
    ///
    /// # Errors
    /// What ggml could not do, or that `rows` are not whole rows, or too many.
    pub fn compute(&mut self, rows: &[f32], entry: Entry, exit: Exit, into: &mut Vec<f32>) -> Result<(), String> {
        into.clear();
        let n_rows = rows.len() / self.n_embd;
        if !rows.len().is_multiple_of(self.n_embd) || n_rows > ROWS_AT_ONCE {
            let (found, width) = (rows.len(), self.n_embd);
            return Err(format!("{found} values are not up to {ROWS_AT_ONCE} rows of {width} values each"));
        }
        if n_rows == 0 {
            return Ok(());
        }
        into.resize(n_rows * self.n_vocab, 0.0);
        let Self { norm, matrix, matrix_params, logit_ops, n_embd, runner, .. } = self;
        let build = |builder: &GraphBuilder<'_>| {
            let leaf = builder.input_rows(*n_embd as i64, n_rows as i64);
            let normed = if entry == Entry::Stream { builder.each(leaf, norm) } else { leaf };
            let product = builder.mul_mat_like(Node(*matrix), normed, *matrix_params);
            let logits = if exit == Exit::Logits { builder.each(product, logit_ops) } else { product };
            builder.want_to_read(logits);
            (leaf, logits)
        };
        runner.compute(build, |&(leaf, _)| write(leaf, rows), |&(_, logits)| read_f32_into(logits, into))
    }
}

/// A node that leaves the shape of its rows, of `width` values, with a weight of a value for each or none.
fn row_op(graph: &Graph<'_>, at: usize, width: i64) -> Result<RowOp, String> {
    let node = graph.nodes.get(at).ok_or_else(|| format!("the graph has no node {at}"))?;
    let keeps_shape = matches!(
        node.raw.0,
        sys::GGML_OP_RMS_NORM | sys::GGML_OP_NORM | sys::GGML_OP_ADD | sys::GGML_OP_MUL | sys::GGML_OP_SCALE
    );
    if !keeps_shape || !node.is_plain || node.ne[0] != width {
        return Err(format!("'{}' ({}) is no part of a norm of rows of {width} values", node.name, node.op_name));
    }
    let operand = match node.sources.get(1) {
        None => None,
        Some(&Source::Leaf(leaf))
            if [1, width].contains(&graph.leaves[leaf].ne[0]) && graph.leaves[leaf].ne[1..] == [1; 3] =>
        {
            Some(own(&graph.leaves[leaf])?)
        }
        Some(_) => return Err(format!("'{}' takes more than a weight", node.name)),
    };
    Ok(RowOp { op: node.raw.0, params: node.raw.1, operand })
}

/// A weight that is the model's own: what else there is, is gone with the evaluation.
fn own(leaf: &Leaf) -> Result<NonNull<sys::ggml_tensor>, String> {
    match leaf.kind {
        LeafKind::Weight => Ok(leaf.ptr),
        LeafKind::Copy => {
            Err(format!("'{}' is copied from one device's memory to another's (--no-op-offload)", leaf.name))
        }
        LeafKind::Input => Err(format!("'{}' is no weight of the model", leaf.name)),
    }
}

/// Where a weight of the model lies.
fn place_of(weight: NonNull<sys::ggml_tensor>) -> Option<Device> {
    // SAFETY: the model's weights live as long as the model, of which a graph has just been evaluated.
    let tensor = unsafe { weight.as_ref() };
    if is_on_host(tensor) { Device::cpu() } else { device_of(tensor) }
}
