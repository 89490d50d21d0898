//! The graph of one evaluation, kept after it: what was computed from what.

use std::collections::HashMap;
use std::ffi::CStr;
use std::marker::PhantomData;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::logit_ops::{LogitOps, LogitOpsProbe};
use super::{Model, TensorInfo, TensorRef};

/// Values of a leaf that are kept: a factor or bias a channel.
const MAX_KEPT: i64 = 1 << 20;

/// What a node computes, as far as a residual stream is made of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum NodeOp {
    /// `src0 + src1`.
    Add,
    /// `src0 - src1`.
    Sub,
    /// `src0 * src1`, element by element.
    Mul,
    /// `src0 * factor + bias`.
    Scale {
        /// The factor.
        factor: f32,
        /// The bias.
        bias: f32,
    },
    /// `src0 / sqrt(mean(src0²) + eps)` a row.
    RmsNorm {
        /// What keeps it from dividing by 0.
        eps: f32,
    },
    /// The same of `src0 - mean(src0)`.
    Norm {
        /// What keeps it from dividing by 0.
        eps: f32,
    },
    /// `src0ᵀ · src1`.
    MulMat,
    /// Rows of `src0` by number.
    GetRows,
    /// The same numbers in another shape or place.
    Same,
    /// Any other.
    Other,
}

/// Where a node's source comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Another node, by its place in the graph.
    Node(usize),
    /// A weight or input, by its place in [`Graph::leaves`].
    Leaf(usize),
}

/// A node.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// Its name; those that the model's builder gave none have one made of a number.
    pub name: String,
    /// What it computes.
    pub op: NodeOp,
    /// ggml's name of that.
    pub op_name: &'static str,
    /// Elements along each dimension.
    pub ne: [i64; 4],
    /// Whether it is f32 without gaps.
    pub is_plain: bool,
    /// What it is computed from.
    pub sources: Vec<Source>,
    /// For a clone of it.
    pub(super) raw: (sys::ggml_op, [i32; 16]),
}

/// What a graph does not compute: a weight or an input.
#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    /// Its name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Elements along each dimension.
    pub ne: [i64; 4],
    /// Its values, where it is a single row of f32.
    pub values: Option<Vec<f32>>,
    pub(super) kind: LeafKind,
    pub(super) ptr: NonNull<sys::ggml_tensor>,
}

/// How long a leaf lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeafKind {
    /// As long as the model: a weight.
    Weight,
    /// As long as the evaluation: a weight that the scheduler copied to another device, in memory that is used again.
    Copy,
    /// As long as the evaluation: an input.
    Input,
}

/// The nodes of an evaluation in order, each after its sources, with the weights of the model that they read.
///
/// It borrows the model, whose weights it points to.
#[derive(Debug, Default)]
pub struct Graph<'m> {
    pub(super) nodes: Vec<Node>,
    pub(super) leaves: Vec<Leaf>,
    pub(super) head: Option<usize>,
    pub(super) logit_ops: Option<Result<LogitOps, &'static str>>,
    model: PhantomData<&'m Model>,
}

// SAFETY: the pointers are to tensors of the model, which is not written, or are not followed.
unsafe impl Send for Graph<'_> {}

impl Graph<'_> {
    /// The nodes, in order of computation.
    #[must_use]
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// What the nodes read besides each other.
    #[must_use]
    pub(crate) fn leaves(&self) -> &[Leaf] {
        &self.leaves
    }

    /// The product with the output matrix, by its place among the nodes, if there is one.
    #[must_use]
    pub(crate) fn head(&self) -> Option<usize> {
        self.head
    }

    /// Elements of a node along its first dimension, and how many such rows it has.
    ///
    /// # Panics
    /// Where there is no such node.
    #[must_use]
    pub(crate) fn shape(&self, node: usize) -> [i64; 2] {
        let ne = self.nodes[node].ne;
        [ne[0], ne[1] * ne[2] * ne[3]]
    }
}

/// Watches one evaluation and takes down its graph.
#[derive(Debug)]
pub(super) struct Recorder {
    graph: Graph<'static>,
    nodes: HashMap<usize, usize>,
    leaves: HashMap<usize, usize>,
    names: HashMap<String, usize>,
    logit_ops: LogitOpsProbe,
    /// The evaluation is through, and another has begun.
    full: bool,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            graph: Graph::default(),
            nodes: HashMap::new(),
            leaves: HashMap::new(),
            names: HashMap::new(),
            logit_ops: LogitOpsProbe::anywhere(),
            full: false,
        }
    }
}

impl Recorder {
    /// # Safety
    /// `node` is a node of a graph that is about to be computed.
    pub(super) unsafe fn watch(&mut self, node: NonNull<sys::ggml_tensor>, tensor: TensorInfo<'_>) {
        self.full |= self.nodes.contains_key(&tensor.id());
        if self.full {
            return;
        }
        // SAFETY: by contract.
        unsafe { self.logit_ops.watch(node, tensor) };
        // SAFETY: by contract.
        let raw = unsafe { node.as_ref() };
        let keeps = matches!(raw.op, sys::GGML_OP_ADD | sys::GGML_OP_MUL);
        let sources = (0..raw.src.len()).filter_map(|i| tensor.src(i)).map(|src| self.source(src, keeps)).collect();
        let at = self.graph.nodes.len();
        if super::outputs::is_output_matrix(tensor) {
            self.graph.head = Some(at);
        }
        let float = |i: usize| f32::from_bits(raw.op_params[i].cast_unsigned());
        let op = match raw.op {
            sys::GGML_OP_ADD => NodeOp::Add,
            sys::GGML_OP_SUB => NodeOp::Sub,
            sys::GGML_OP_MUL => NodeOp::Mul,
            sys::GGML_OP_SCALE => NodeOp::Scale { factor: float(0), bias: float(1) },
            sys::GGML_OP_RMS_NORM => NodeOp::RmsNorm { eps: float(0) },
            sys::GGML_OP_NORM => NodeOp::Norm { eps: float(0) },
            sys::GGML_OP_MUL_MAT => NodeOp::MulMat,
            sys::GGML_OP_GET_ROWS => NodeOp::GetRows,
            sys::GGML_OP_RESHAPE | sys::GGML_OP_VIEW | sys::GGML_OP_CONT | sys::GGML_OP_CPY | sys::GGML_OP_DUP => {
                NodeOp::Same
            }
            _ => NodeOp::Other,
        };
        // SAFETY: reads shape and type; the name of an operation is a constant.
        let (contiguous, op_name) = unsafe {
            (sys::ggml_is_contiguous(node.as_ptr()), CStr::from_ptr(sys::ggml_op_name(raw.op)).to_str().unwrap_or("?"))
        };
        let name = tensor.name().to_owned();
        self.nodes.insert(tensor.id(), at);
        self.names.insert(name.clone(), at);
        self.graph.nodes.push(Node {
            name,
            op,
            op_name,
            ne: raw.ne,
            is_plain: tensor.is_f32() && contiguous,
            sources,
            raw: (raw.op, raw.op_params),
        });
    }

    fn source(&mut self, src: TensorInfo<'_>, keeps: bool) -> Source {
        if let Some(&node) = self.nodes.get(&src.id()) {
            return Source::Node(node);
        }
        // On several devices sources are copies, named after what they are copies of.
        if src.name() != src.base_name()
            && let Some(&node) = self.names.get(src.base_name())
        {
            return Source::Node(node);
        }
        let leaf = *self.leaves.entry(src.id()).or_insert_with(|| {
            self.graph.leaves.push(Leaf {
                name: src.base_name().to_owned(),
                ne: src.ne(),
                values: None,
                kind: kind(src),
                ptr: src.as_ptr(),
            });
            self.graph.leaves.len() - 1
        });
        let kept = &mut self.graph.leaves[leaf];
        if keeps && kept.values.is_none() && kept.ne[0] <= MAX_KEPT && kept.ne[1..] == [1, 1, 1] {
            let mut values = Vec::new();
            // SAFETY: no node of the graph computes a leaf, and copies are made before the nodes that read them come up.
            let src = unsafe { TensorRef::computed(src) };
            kept.values = src.copy_f32(&mut values).then_some(values);
        }
        Source::Leaf(leaf)
    }

    /// The graph, which points to weights of the model whose evaluation was watched.
    ///
    /// # Safety
    /// That model lives for `'m`.
    pub(super) unsafe fn finish<'m>(self) -> Graph<'m> {
        let mut graph: Graph<'m> = self.graph;
        if graph.head.is_some() {
            graph.logit_ops = Some(self.logit_ops.logit_ops());
        }
        graph
    }
}

/// Only weights are in buffers that are marked as such: those of the model and of its adapters.
fn kind(leaf: TensorInfo<'_>) -> LeafKind {
    if leaf.name() != leaf.base_name() {
        LeafKind::Copy
    } else if leaf.is_weight() {
        LeafKind::Weight
    } else {
        LeafKind::Input
    }
}

/// Graphs made by hand, for tests of what is read out of one.
#[cfg(test)]
impl Graph<'_> {
    pub(crate) fn set_head(&mut self, head: usize) {
        self.head = Some(head);
    }

    /// Adds a weight or input; its values where it is a single row of them.
    pub(crate) fn push_leaf(&mut self, name: &str, ne: [i64; 4], values: Option<Vec<f32>>) -> Source {
        self.leaves.push(Leaf { name: name.to_owned(), ne, values, kind: LeafKind::Input, ptr: NonNull::dangling() });
        Source::Leaf(self.leaves.len() - 1)
    }

    /// Adds a node.
    pub(crate) fn push_node(&mut self, name: &str, op: NodeOp, ne: [i64; 4], sources: &[Source]) -> Source {
        let raw = (sys::GGML_OP_NONE, [0; 16]);
        let sources = sources.to_vec();
        self.nodes.push(Node { name: name.to_owned(), op, op_name: "OP", ne, is_plain: true, sources, raw });
        Source::Node(self.nodes.len() - 1)
    }
}
