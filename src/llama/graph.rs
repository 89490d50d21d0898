//! The graph of one evaluation, recorded: its nodes, their operations and sources.

use std::collections::HashMap;
use std::ffi::CStr;
use std::marker::PhantomData;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::logit_ops::{LogitOps, LogitOpsProbe};
use super::{Model, TensorInfo, TensorRef};

/// Most values of a leaf that are kept: one factor or bias per channel.
const MAX_KEPT: i64 = 1 << 20;

/// Operation of a node, as far as residual streams need it.
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
    /// `src0 / sqrt(mean(src0²) + eps)` per row.
    RmsNorm {
        /// Added before the root, against a division by 0.
        eps: f32,
    },
    /// The same for `src0 - mean(src0)`.
    Norm {
        /// Added before the root, against a division by 0.
        eps: f32,
    },
    /// `src0ᵀ · src1`.
    MulMat,
    /// The same with a matrix of `src0` per row, chosen by the ids in `src2`: routed experts.
    MulMatId,
    /// Rows of `src0`, by index.
    GetRows,
    /// The same values in another shape or memory.
    Same,
    /// Any other operation.
    Other,
}

/// A node's source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Another node, by its index in the graph.
    Node(usize),
    /// A weight or input, by its index in [`Graph::leaves`].
    Leaf(usize),
}

/// A node of a [`Graph`].
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// Its name. A node that the model's builder did not name has a number for a name.
    pub name: String,
    /// Its operation.
    pub op: NodeOp,
    /// ggml's name of the operation.
    pub op_name: &'static str,
    /// Elements along each dimension.
    pub ne: [i64; 4],
    /// True if it is f32 without gaps.
    pub is_plain: bool,
    /// Its sources.
    pub sources: Vec<Source>,
    /// ggml's operation and parameters, to build a node like it.
    pub(super) raw: (sys::ggml_op, [i32; 16]),
    pub(super) memory: Memory,
}

/// How the elements of a node lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) dtype: sys::ggml_type,
    /// Bytes from one element to the next along each dimension.
    pub(super) nb: [usize; 4],
    /// Offset in the memory of the tensor that it is a view of, if it is one.
    pub(super) view_offset: Option<usize>,
}

/// A tensor that the graph does not compute: a weight or an input.
#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    /// Its name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Elements along each dimension.
    pub ne: [i64; 4],
    /// Its values, if it is a single row of f32.
    pub values: Option<Vec<f32>>,
    pub(super) kind: LeafKind,
    pub(super) ptr: NonNull<sys::ggml_tensor>,
}

/// How long a leaf lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeafKind {
    /// A weight: as long as the model.
    Weight,
    /// A weight that the scheduler copied to another device: as long as the evaluation.
    Copy,
    /// An input: as long as the evaluation.
    Input,
}

/// The nodes of an evaluation in order, each after its sources, and the weights that they read.
///
/// It points to weights of the model, which it borrows.
#[derive(Debug, Default)]
pub struct Graph<'m> {
    pub(super) nodes: Vec<Node>,
    pub(super) leaves: Vec<Leaf>,
    pub(super) head: Option<usize>,
    pub(super) logit_ops: Option<Result<LogitOps, &'static str>>,
    model: PhantomData<&'m Model>,
}

// SAFETY: a leaf's pointer is followed only if the leaf is a weight. Weights are the model's, which `'m` borrows:
// nobody writes them, and any thread may read them.
unsafe impl Send for Graph<'_> {}

impl Graph<'_> {
    /// Returns the nodes, in order of computation.
    #[must_use]
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Returns the weights and inputs that the nodes read.
    #[must_use]
    pub(crate) fn leaves(&self) -> &[Leaf] {
        &self.leaves
    }

    /// Returns the index of the product with the output matrix, if there is one.
    #[must_use]
    pub(crate) fn head(&self) -> Option<usize> {
        self.head
    }

    /// Returns the row length and the number of rows of a node.
    ///
    /// # Panics
    /// If there is no such node.
    #[must_use]
    pub(crate) fn shape(&self, node: usize) -> [i64; 2] {
        let ne = self.nodes[node].ne;
        [ne[0], ne[1] * ne[2] * ne[3]]
    }
}

/// Records the graph of one evaluation.
#[derive(Debug)]
pub(super) struct Recorder {
    graph: Graph<'static>,
    nodes: HashMap<usize, usize>,
    leaves: HashMap<usize, usize>,
    names: HashMap<String, usize>,
    logit_ops: LogitOpsProbe,
    /// True once another evaluation has begun.
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
    /// Records a node.
    ///
    /// # Safety
    /// `node` is a node of a graph that is about to be computed, and `tensor` describes it.
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
            sys::GGML_OP_MUL_MAT_ID => NodeOp::MulMatId,
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
            memory: Memory {
                dtype: raw.type_,
                nb: raw.nb,
                view_offset: (!raw.view_src.is_null()).then_some(raw.view_offs),
            },
        });
    }

    fn source(&mut self, src: TensorInfo<'_>, keeps: bool) -> Source {
        if let Some(&node) = self.nodes.get(&src.id()) {
            return Source::Node(node);
        }
        // With several devices, a source may be a copy, which is named after its original.
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
            // SAFETY: no node of the graph computes a leaf. Copies are made before the callback is asked about nodes
            // that read them.
            let src = unsafe { TensorRef::computed(src) };
            kept.values = src.copy_f32(&mut values).then_some(values);
        }
        Source::Leaf(leaf)
    }

    /// Returns the graph, which points to weights of the model that was evaluated.
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

/// Returns a leaf's kind. Only weights, of the model and of its adapters, are in buffers that are marked as weights.
fn kind(leaf: TensorInfo<'_>) -> LeafKind {
    if leaf.name() != leaf.base_name() {
        LeafKind::Copy
    } else if leaf.is_weight() {
        LeafKind::Weight
    } else {
        LeafKind::Input
    }
}

/// Graphs for tests.
#[cfg(test)]
impl Graph<'_> {
    pub(crate) fn set_head(&mut self, head: usize) {
        self.head = Some(head);
    }

    /// Adds an input; `values` if it is a single row.
    pub(crate) fn push_leaf(&mut self, name: &str, ne: [i64; 4], values: Option<Vec<f32>>) -> Source {
        self.leaves.push(Leaf { name: name.to_owned(), ne, values, kind: LeafKind::Input, ptr: NonNull::dangling() });
        Source::Leaf(self.leaves.len() - 1)
    }

    /// Adds a node.
    pub(crate) fn push_node(&mut self, name: &str, op: NodeOp, ne: [i64; 4], sources: &[Source]) -> Source {
        let raw = (sys::GGML_OP_NONE, [0; 16]);
        let memory = Memory { dtype: sys::GGML_TYPE_F32, nb: [4; 4], view_offset: None };
        let sources = sources.to_vec();
        self.nodes.push(Node { name: name.to_owned(), op, op_name: "OP", ne, is_plain: true, sources, raw, memory });
        Source::Node(self.nodes.len() - 1)
    }
}
