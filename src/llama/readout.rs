//! Computes logits from rows of a residual stream, in a graph of our own.

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

/// Most rows whose logits are in memory at once.
pub(crate) const ROWS_AT_ONCE: usize = 64;

/// The model's output layer: the final norm, the product with the output matrix, and the operations after it.
///
/// It uses the operations and weights of llama.cpp's graph, on the device that has the output matrix. It borrows the
/// model of that graph.
pub(crate) struct Readout<'m> {
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

// SAFETY: its pointers are to weights of the model, which `'m` borrows: nobody writes them, and any thread may read
// them.
unsafe impl Send for Readout<'_> {}

/// Where rows enter the output layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Before the final norm: rows of the residual stream.
    Stream,
    /// After the final norm: input of the output matrix.
    Normed,
}

/// Where results leave the output layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// After the product with the output matrix.
    Product,
    /// After the operations on logits, such as a soft cap.
    Logits,
}

impl<'m> Readout<'m> {
    /// Creates the output layer of `graph`. `norm` lists its nodes from the residual stream to the input of the output
    /// matrix, in order, without those that only change shapes.
    ///
    /// # Errors
    /// The reason why it cannot be computed apart from the model's own graph, or why `norm` is not a list of a norm's
    /// nodes.
    pub(crate) fn new(graph: &Graph<'m>, norm: &[usize], n_threads: usize) -> Result<Self, String> {
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
        // A backend aborts at an operation that it lacks. The CPU has all of them.
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

    /// Returns true if the device can read the weight in place.
    fn reads(&self, weight: NonNull<sys::ggml_tensor>) -> bool {
        let device = self.runner.device();
        // SAFETY: the weight is the model's, which outlives this value.
        let tensor = unsafe { weight.as_ref() };
        if device.is_cpu() {
            return is_on_host(tensor);
        }
        let buffer = buffer_of(tensor);
        // SAFETY: the buffer lives as long as the weight, and the device is the registry's.
        unsafe {
            !buffer.is_null()
                && sys::ggml_backend_dev_supports_buft(device.as_ptr(), sys::ggml_backend_buffer_get_type(buffer))
        }
    }

    /// Returns true if the CPU computes it.
    #[must_use]
    pub(crate) fn is_on_cpu(&self) -> bool {
        self.runner.device().is_cpu()
    }

    /// Number of logits per row.
    #[must_use]
    pub(crate) fn n_vocab(&self) -> usize {
        self.n_vocab
    }

    /// Number of values per row of the residual stream.
    #[must_use]
    pub(crate) fn n_embd(&self) -> usize {
        self.n_embd
    }

    /// Sets the number of threads, 1 to 512.
    pub(crate) fn set_threads(&mut self, n_threads: usize) {
        self.runner.set_threads(clamp_threads(n_threads));
    }

    /// Computes the outputs of at most [`ROWS_AT_ONCE`] rows of [`n_embd`](Self::n_embd) values:
    /// [`n_vocab`](Self::n_vocab) values per row.
    ///
    /// # Errors
    /// The reason why ggml failed, or that `rows` are not whole rows, or too many.
    pub(crate) fn compute(
        &mut self,
        rows: &[f32],
        entry: Entry,
        exit: Exit,
        into: &mut Vec<f32>,
    ) -> Result<(), String> {
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

/// Returns the operation of a node that keeps rows of `width` values, with a weight of 1 or `width` values as its
/// second operand, or none.
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

/// Returns the leaf's tensor if it is a weight of the model. Copies and inputs are gone after the evaluation.
fn own(leaf: &Leaf) -> Result<NonNull<sys::ggml_tensor>, String> {
    match leaf.kind {
        LeafKind::Weight => Ok(leaf.ptr),
        LeafKind::Copy => {
            Err(format!("'{}' is copied from one device's memory to another's (--no-op-offload)", leaf.name))
        }
        LeafKind::Input => Err(format!("'{}' is no weight of the model", leaf.name)),
    }
}

/// Returns the device that has a weight of the model in its memory.
fn place_of(weight: NonNull<sys::ggml_tensor>) -> Option<Device> {
    // SAFETY: `own` returned the weight: it lives as long as the model, which the caller's graph borrows.
    let tensor = unsafe { weight.as_ref() };
    if is_on_host(tensor) { Device::cpu() } else { device_of(tensor) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llama::{Batch, Context, ContextOptions, Model, ModelOptions, Outputs};

    #[test]
    fn a_readout_takes_whole_rows_and_nodes_of_a_norm() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/quickstart/quickstart.gguf");
        let model = Model::load(path.as_ref(), &ModelOptions::default()).unwrap();
        let mut context = Context::new(&model, &ContextOptions::new(32, Outputs::Nothing), ()).unwrap();
        let mut batch = Batch::new();
        (0..32).for_each(|i| batch.add(3, i, 0));
        let graph = context.record(&mut batch).unwrap();
        assert!(graph.head().is_some_and(|head| head < graph.nodes().len()) && !graph.leaves().is_empty());
        let refused = |norm: &[usize]| Readout::new(&graph, norm, 1).err().unwrap();
        assert!(refused(&[graph.nodes().len()]).contains("has no node"));
        assert!(refused(&[graph.head().unwrap()]).contains("is no part of a norm"));
        for at in 0..graph.nodes().len() {
            // None of them aborts.
            let _ = Readout::new(&graph, &[at], 1).map(|mut readout| {
                let rows = vec![0.5; readout.n_embd()];
                readout.compute(&rows, Entry::Stream, Exit::Logits, &mut Vec::new())
            });
        }
        let mut readout = Readout::new(&graph, &[], usize::MAX).unwrap();
        let (width, n_vocab) = (readout.n_embd(), readout.n_vocab());
        let mut compute = |values: usize| {
            let mut logits = Vec::new();
            let result = readout.compute(&vec![0.5; values], Entry::Normed, Exit::Logits, &mut logits);
            result.map(|()| logits.len())
        };
        assert_eq!(compute(2 * width), Ok(2 * n_vocab));
        assert_eq!(compute(0), Ok(0));
        for values in [1, width - 1, width + 1, (ROWS_AT_ONCE + 1) * width] {
            assert!(compute(values).unwrap_err().contains("rows of"), "{values}");
        }
    }
}
