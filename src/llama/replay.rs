//! Computes a part of a recorded graph again, with other inputs.

use std::marker::PhantomData;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::graph::{Graph, Leaf, LeafKind, Node as GraphNode, Source};
use super::graph_builder::{GraphBuilder, Node};
use super::graph_runner::{GraphRunner, read_f32_into, write};
use super::logit_ops::{Place, place_of};
use super::threads::clamp_threads;
use super::{Device, Model};

/// A part of a graph: from rows and the ids of their experts to a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// The rows.
    pub(crate) rows: Source,
    /// The ids of the experts: one per slot and row.
    pub(crate) ids: Source,
    /// The nodes from the inputs to the result, in order of computation. The last is the result.
    pub(crate) nodes: Vec<usize>,
}

/// A part of a model's graph, ready to be computed with rows and ids of the caller.
///
/// It repeats the operations of llama.cpp's graph with the same shapes, on the device that has the weights. It borrows the
/// model of that graph.
pub(crate) struct Replay<'m> {
    steps: Vec<Step>,
    rows: [i64; 4],
    ids: [i64; 4],
    result: [i64; 4],
    /// Number of experts that every operation has.
    n_experts: i32,
    device: Device,
    model: PhantomData<&'m Model>,
}

// SAFETY: its pointers are to weights of the model, which `'m` borrows: nobody writes them, and any thread may read them.
unsafe impl Send for Replay<'_> {}

/// An operation to repeat.
struct Step {
    raw: (sys::ggml_op, [i32; 16]),
    dtype: sys::ggml_type,
    ne: [i64; 4],
    sources: Vec<Operand>,
    /// For a view, its steps in bytes and its offset from its source.
    view: Option<([usize; 4], usize)>,
}

/// A source of a step.
#[derive(Clone, Copy)]
enum Operand {
    Rows,
    Ids,
    /// An earlier step.
    Step(usize),
    Weight(NonNull<sys::ggml_tensor>),
}

/// Bytes of the memory that a tensor or its views lie in, and the tensor's offset there.
#[derive(Clone, Copy)]
struct Extent {
    bytes: usize,
    offset: usize,
}

impl<'m> Replay<'m> {
    /// Prepares a part of `graph`.
    ///
    /// # Errors
    /// The reason why it cannot be computed apart from the graph.
    pub(crate) fn new(graph: &Graph<'m>, part: &Part) -> Result<Self, String> {
        let shape = |source: Source| match source {
            Source::Node(at) => graph.nodes.get(at).map(|node| node.ne),
            Source::Leaf(at) => graph.leaves.get(at).map(|leaf| leaf.ne),
        };
        let missing = || "the graph lacks a node of this part".to_owned();
        let (rows, ids) = (shape(part.rows).ok_or_else(missing)?, shape(part.ids).ok_or_else(missing)?);
        let mut steps: Vec<Step> = Vec::new();
        let mut extents: Vec<Extent> = Vec::new();
        let mut n_experts = i64::from(i32::MAX);
        for &at in &part.nodes {
            let node = graph.nodes.get(at).ok_or_else(missing)?;
            let mut sources = Vec::new();
            for &source in &node.sources {
                sources.push(operand(graph, part, steps.len(), source)?);
            }
            n_experts = n_experts.min(experts_of(graph, part, node));
            let is_view = matches!(
                node.raw.0,
                sys::GGML_OP_VIEW | sys::GGML_OP_RESHAPE | sys::GGML_OP_PERMUTE | sys::GGML_OP_TRANSPOSE
            );
            let (view, extent) = if is_view {
                let whole = match sources.first() {
                    Some(Operand::Rows) => Extent { bytes: bytes_of(rows), offset: 0 },
                    Some(Operand::Ids) => Extent { bytes: bytes_of(ids), offset: 0 },
                    Some(&Operand::Step(step)) => extents[step],
                    Some(&Operand::Weight(weight)) => weight_extent(weight, node)?,
                    None => return Err(missing()),
                };
                let before = node.sources.first().map_or(0, |&source| offset_of(graph, source));
                let (view, extent) = view_within(node, whole, before)?;
                (Some(view), extent)
            } else {
                check_operation(node)?;
                (None, Extent { bytes: bytes_of(node.ne), offset: 0 })
            };
            steps.push(Step { raw: node.raw, dtype: node.memory.dtype, ne: node.ne, sources, view });
            extents.push(extent);
        }
        let last = part.nodes.last().map(|&at| &graph.nodes[at]).ok_or_else(missing)?;
        if !last.is_plain {
            return Err(format!("'{}' is not f32 without gaps", last.name));
        }
        let n_experts = i32::try_from(n_experts).unwrap_or(i32::MAX);
        let device = device_of(&steps)?;
        Ok(Self { steps, rows, ids, result: last.ne, n_experts, device, model: PhantomData })
    }

    /// Returns the shape of the rows.
    #[must_use]
    pub(crate) fn rows_ne(&self) -> [i64; 4] {
        self.rows
    }

    /// Returns the shape of the ids: slots, rows.
    #[must_use]
    pub(crate) fn ids_ne(&self) -> [i64; 4] {
        self.ids
    }

    /// Returns the shape of the result.
    #[must_use]
    pub(crate) fn result_ne(&self) -> [i64; 4] {
        self.result
    }

    /// Returns the number of experts: ids must be below it.
    #[must_use]
    pub(crate) fn n_experts(&self) -> usize {
        usize::try_from(self.n_experts).unwrap_or(0)
    }

    fn build(&self, builder: &GraphBuilder<'_>) -> [Node; 3] {
        let rows = builder.input(sys::GGML_TYPE_F32, self.rows);
        let ids = builder.input(sys::GGML_TYPE_I32, self.ids);
        let mut made: Vec<Node> = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let source = |operand: &Operand| match *operand {
                Operand::Rows => rows,
                Operand::Ids => ids,
                Operand::Step(at) => made[at],
                Operand::Weight(weight) => Node(weight),
            };
            let sources: Vec<Node> = step.sources.iter().map(source).collect();
            made.push(match step.view {
                Some((nb, offset)) => builder.view(sources[0], step.raw, step.ne, nb, offset),
                None => builder.operation(step.raw, step.dtype, step.ne, &sources),
            });
        }
        let result = made.last().copied().unwrap_or(rows);
        builder.want_to_read(result);
        [rows, ids, result]
    }
}

/// Computes replays, each on its device.
pub(crate) struct Replayer {
    runners: Vec<GraphRunner>,
    n_threads: usize,
}

impl Replayer {
    /// Creates a replayer whose CPU computes on `n_threads` threads, 1 to 512.
    #[must_use]
    pub(crate) fn new(n_threads: usize) -> Self {
        Self { runners: Vec::new(), n_threads: clamp_threads(n_threads) }
    }

    /// Checks that the device of a replay supports all of its operations: it would abort at one that it lacks.
    ///
    /// # Errors
    /// The reason why it does not.
    pub(crate) fn check(&mut self, replay: &Replay<'_>) -> Result<(), String> {
        let runner = self.runner(replay.device)?;
        let build = |builder: &GraphBuilder<'_>| {
            replay.build(builder);
        };
        if runner.supports(build) {
            return Ok(());
        }
        Err(format!("{} cannot compute it apart from the model's own graph", replay.device.name()))
    }

    /// Computes a replay, which [`check`](Self::check) has checked, and waits for the device.
    ///
    /// # Errors
    /// The reason why ggml failed, or that `rows` or `ids` do not have the replay's shapes, or that an id is not one of an
    /// expert.
    pub(crate) fn compute(
        &mut self,
        replay: &Replay<'_>,
        rows: &[f32],
        ids: &[i32],
        into: &mut Vec<f32>,
    ) -> Result<(), String> {
        if rows.len() != elements(replay.rows) || ids.len() != elements(replay.ids) {
            let expected = (elements(replay.rows), elements(replay.ids));
            return Err(format!("{} values and {} ids, expected {expected:?}", rows.len(), ids.len()));
        }
        if let Some(id) = ids.iter().find(|id| !(0..replay.n_experts).contains(id)) {
            return Err(format!("there is no expert {id} of {}", replay.n_experts));
        }
        into.clear();
        into.resize(elements(replay.result), 0.0);
        self.runner(replay.device)?.compute(
            |builder| replay.build(builder),
            |&[to, to_ids, _]| {
                write(to, rows);
                write(to_ids, ids);
            },
            |&[_, _, result]| read_f32_into(result, into),
        )
    }

    fn runner(&mut self, device: Device) -> Result<&mut GraphRunner, String> {
        let known = self.runners.iter().position(|runner| runner.device() == device);
        let at = known.unwrap_or(self.runners.len());
        if known.is_none() {
            let mut runner = GraphRunner::new(device).ok_or_else(|| format!("ggml cannot start {}", device.name()))?;
            runner.set_threads(self.n_threads);
            self.runners.push(runner);
        }
        Ok(&mut self.runners[at])
    }
}

fn elements(ne: [i64; 4]) -> usize {
    ne.iter().map(|&n| usize::try_from(n).unwrap_or(0)).product()
}

/// Returns the bytes of a tensor without gaps, of elements of 4 bytes.
fn bytes_of(ne: [i64; 4]) -> usize {
    4 * elements(ne)
}

fn operand(graph: &Graph<'_>, part: &Part, before: usize, source: Source) -> Result<Operand, String> {
    if source == part.rows {
        return Ok(Operand::Rows);
    }
    if source == part.ids {
        return Ok(Operand::Ids);
    }
    match source {
        Source::Node(at) => match part.nodes[..before].iter().position(|&known| known == at) {
            Some(step) => Ok(Operand::Step(step)),
            None => Err(format!("it reads '{}' too", graph.nodes[at].name)),
        },
        Source::Leaf(at) => weight(&graph.leaves[at]).map(Operand::Weight),
    }
}

/// Returns the leaf's tensor if it is a weight of the model: copies and inputs are gone after the evaluation.
fn weight(leaf: &Leaf) -> Result<NonNull<sys::ggml_tensor>, String> {
    match leaf.kind {
        LeafKind::Weight => Ok(leaf.ptr),
        LeafKind::Copy => {
            Err(format!("'{}' is copied from one device's memory to another's (--no-op-offload)", leaf.name))
        }
        LeafKind::Input => Err(format!("it reads '{}', which is no weight of the model", leaf.name)),
    }
}

/// Returns the number of experts in a weight that a node selects from by the ids; a large number if it uses no ids.
fn experts_of(graph: &Graph<'_>, part: &Part, node: &GraphNode) -> i64 {
    let ne = |source: usize| match node.sources.get(source) {
        Some(&Source::Node(at)) => graph.nodes[at].ne,
        Some(&Source::Leaf(at)) => graph.leaves[at].ne,
        None => [0; 4],
    };
    if !node.sources.contains(&part.ids) {
        return i64::MAX;
    }
    match node.raw.0 {
        sys::GGML_OP_MUL_MAT_ID => ne(0)[2],
        sys::GGML_OP_ADD_ID => ne(1)[1],
        sys::GGML_OP_GET_ROWS => ne(0)[1],
        // Any id will do where it is a number like others.
        _ => i64::MAX,
    }
}

/// Checks that a node computes new values from its sources alone, without gaps.
fn check_operation(node: &GraphNode) -> Result<(), String> {
    let known = matches!(
        node.raw.0,
        sys::GGML_OP_MUL_MAT
            | sys::GGML_OP_MUL_MAT_ID
            | sys::GGML_OP_ADD
            | sys::GGML_OP_ADD_ID
            | sys::GGML_OP_SUB
            | sys::GGML_OP_MUL
            | sys::GGML_OP_DIV
            | sys::GGML_OP_SCALE
            | sys::GGML_OP_CLAMP
            | sys::GGML_OP_SQR
            | sys::GGML_OP_SQRT
            | sys::GGML_OP_SIN
            | sys::GGML_OP_COS
            | sys::GGML_OP_LOG
            | sys::GGML_OP_LEAKY_RELU
            | sys::GGML_OP_UNARY
            | sys::GGML_OP_GLU
            | sys::GGML_OP_NORM
            | sys::GGML_OP_RMS_NORM
            | sys::GGML_OP_L2_NORM
            | sys::GGML_OP_SUM_ROWS
            | sys::GGML_OP_REPEAT
            | sys::GGML_OP_CONCAT
            | sys::GGML_OP_CONT
            | sys::GGML_OP_DUP
            | sys::GGML_OP_GET_ROWS
    );
    if !known {
        return Err(format!("'{}' ({}) is no operation that can be repeated", node.name, node.op_name));
    }
    let [n0, n1, n2, _] = node.ne.map(|n| usize::try_from(n).unwrap_or(0));
    let without_gaps = [4, 4 * n0, 4 * n0 * n1, 4 * n0 * n1 * n2];
    if node.memory.dtype != sys::GGML_TYPE_F32 || node.memory.nb != without_gaps {
        return Err(format!("'{}' ({}) is not f32 without gaps", node.name, node.op_name));
    }
    Ok(())
}

/// Returns a source's offset in the memory that it lies in.
fn offset_of(graph: &Graph<'_>, source: Source) -> usize {
    match source {
        Source::Node(at) => graph.nodes[at].memory.view_offset.unwrap_or(0),
        Source::Leaf(_) => 0,
    }
}

fn weight_extent(weight: NonNull<sys::ggml_tensor>, view: &GraphNode) -> Result<Extent, String> {
    // SAFETY: a weight of the model, which the caller's graph borrows.
    let (dtype, is_view, bytes) = unsafe {
        let tensor = weight.as_ref();
        (tensor.type_, !tensor.view_src.is_null(), sys::ggml_nbytes(tensor))
    };
    if dtype != sys::GGML_TYPE_F32 || is_view {
        return Err(format!("'{}' is a view of a weight that is not f32", view.name));
    }
    Ok(Extent { bytes, offset: 0 })
}

/// Returns the steps and the offset of a view in its source, and its extent, if it lies within the source's memory. The
/// source is at offset `before` in the graph's memory.
fn view_within(node: &GraphNode, whole: Extent, before: usize) -> Result<(([usize; 4], usize), Extent), String> {
    let outside = || format!("'{}' ({}) does not lie within its source", node.name, node.op_name);
    let relative = node.memory.view_offset.unwrap_or(0).checked_sub(before).ok_or_else(outside)?;
    let offset = whole.offset + relative;
    let last =
        node.ne.iter().zip(node.memory.nb).map(|(&n, nb)| usize::try_from(n - 1).unwrap_or(0) * nb).sum::<usize>();
    let is_4_bytes = [sys::GGML_TYPE_F32, sys::GGML_TYPE_I32].contains(&node.memory.dtype);
    // ggml aborts at a view that would not fit without gaps either.
    if !is_4_bytes || offset + last + 4 > whole.bytes || offset + bytes_of(node.ne) > whole.bytes {
        return Err(outside());
    }
    Ok(((node.memory.nb, relative), Extent { bytes: whole.bytes, offset }))
}

/// Returns the device that has all weights in its memory.
fn device_of(steps: &[Step]) -> Result<Device, String> {
    const APART: &str = "the weights of its experts are not in the memory of one device";
    let weights = steps.iter().flat_map(|step| &step.sources).filter_map(|source| match source {
        Operand::Weight(weight) => Some(*weight),
        _ => None,
    });
    let mut place = None;
    for weight in weights {
        // SAFETY: a weight of the model, which the caller's graph borrows.
        let of_weight = place_of(unsafe { weight.as_ref() }).ok_or(APART)?;
        if *place.get_or_insert(of_weight) != of_weight {
            return Err(APART.to_owned());
        }
    }
    match place.ok_or("it has no weights")? {
        Place::Host => Device::cpu().ok_or_else(|| "ggml has no CPU backend".to_owned()),
        Place::Device(device) => Ok(device),
    }
}
