//! What is to be seen of a graph, and in what order results come.

use std::collections::BTreeSet;

use crate::llama::{Graph, Node, NodeOp, Source};

use super::file::Part;
use super::findings::{Columns, LensOptions};
use super::structure::{Structure, TermValue};

/// A graph's residual stream, with what of it is captured.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) structure: Structure,
    /// Nodes to capture, ascending, with their names.
    captures: Vec<(usize, String)>,
    pub(super) columns: Columns,
}

impl Plan {
    /// For a graph of `n_tokens` tokens.
    pub(super) fn new(graph: &Graph<'_>, n_tokens: usize, options: &LensOptions) -> Result<Self, String> {
        let structure = Structure::find(graph, n_tokens)?;
        let wants_parts = options.prism && structure.terms.is_ok();
        let wants_steps = options.similarity && structure.steps.is_ok();
        let mut nodes = BTreeSet::new();
        if options.lens || wants_parts {
            nodes.insert(structure.normed);
        }
        if options.lens {
            nodes.extend(structure.states.iter().map(|(_, at)| *at));
        }
        if wants_parts {
            nodes.insert(structure.last);
            nodes.extend(structure.terms.iter().flatten().filter_map(|term| match term.value {
                TermValue::Node(at) => Some(at),
                TermValue::Constant(_) => None,
            }));
        }
        if wants_steps {
            for step in structure.steps.iter().flatten() {
                nodes.extend([step.input.0, step.output]);
                nodes.extend(step.attention.iter().chain(&step.feed_forward).map(|(at, _)| *at));
            }
        }
        if let Some(&gap) = nodes.iter().find(|&&at| !graph.nodes()[at].is_plain) {
            return Err(format!("what '{}' holds has gaps or is not f32", graph.nodes()[gap].name));
        }
        let columns = columns(&structure, options);
        let captures = nodes.into_iter().map(|at| (at, graph.nodes()[at].name.clone())).collect();
        Ok(Self { structure, captures, columns })
    }

    /// Of a model whose stream cannot be found.
    pub(super) fn empty() -> Self {
        Self { structure: Structure::empty(), captures: Vec::new(), columns: Columns::default() }
    }

    /// The place of a node among the captures, and its name.
    pub(super) fn capture(&self, node: usize) -> Option<(usize, &str)> {
        let slot = self.captures.binary_search_by_key(&node, |(at, _)| *at).ok()?;
        Some((slot, &self.captures[slot].1))
    }

    pub(super) fn n_captures(&self) -> usize {
        self.captures.len()
    }

    /// Whether results of both come in the same order.
    pub(super) fn agrees(&self, other: &Self) -> bool {
        self.columns == other.columns
    }
}

/// What a model does to its logits after the product, as far as it is linear.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LinearTail {
    pub(super) factor: f64,
    /// One for each token, or none.
    pub(super) bias: Vec<f64>,
}

impl LinearTail {
    /// The tail up to a soft cap, if there is one.
    pub(super) fn new(graph: &Graph<'_>) -> Result<Self, String> {
        let mut at = graph.head().ok_or("its graph has no product with an output matrix")?;
        let mut ops: Vec<&Node> = Vec::new();
        for (next, node) in graph.nodes().iter().enumerate().skip(at + 1) {
            if node.sources.first() != Some(&Source::Node(at)) || node.ne != graph.nodes()[at].ne {
                break;
            }
            if node.op == NodeOp::Other {
                // A soft cap is scale, tanh, scale.
                if matches!(ops.last().map(|op| op.op), Some(NodeOp::Scale { .. })) {
                    ops.pop();
                }
                break;
            }
            ops.push(node);
            at = next;
        }
        let mut tail = Self { factor: 1.0, bias: Vec::new() };
        for node in ops {
            let values = match node.sources.get(1) {
                Some(&Source::Leaf(leaf)) => graph.leaves()[leaf].values.as_deref(),
                _ => None,
            };
            match (node.op, values) {
                (NodeOp::Scale { factor, bias }, _) => {
                    tail.factor *= f64::from(factor);
                    tail.bias.iter_mut().for_each(|x| *x = *x * f64::from(factor) + f64::from(bias));
                    if bias != 0.0 && tail.bias.is_empty() {
                        tail.bias = vec![f64::from(bias)];
                    }
                }
                (NodeOp::Add, Some(values)) => {
                    let n = values.len().max(tail.bias.len());
                    let at =
                        |list: &[f64], i: usize| list.get(if list.len() == 1 { 0 } else { i }).copied().unwrap_or(0.0);
                    let values: Vec<f64> = values.iter().map(|&x| f64::from(x)).collect();
                    tail.bias = (0..n).map(|i| at(&tail.bias, i) + at(&values, i)).collect();
                }
                (NodeOp::Mul, Some(&[factor])) => {
                    tail.factor *= f64::from(factor);
                    tail.bias.iter_mut().for_each(|x| *x *= f64::from(factor));
                }
                _ => return Err(format!("its logits go through {} '{}'", node.op_name, node.name)),
            }
        }
        Ok(tail)
    }

    pub(super) fn bias(&self, token: usize) -> f64 {
        self.bias.get(if self.bias.len() == 1 { 0 } else { token }).copied().unwrap_or(0.0)
    }

    pub(super) fn mean_bias(&self) -> f64 {
        if self.bias.is_empty() { 0.0 } else { self.bias.iter().sum::<f64>() / self.bias.len() as f64 }
    }
}

/// What is measured of each position, in order.
fn columns(structure: &Structure, options: &LensOptions) -> Columns {
    let lens = options.lens.then(|| Ok(structure.states.iter().map(|(layer, _)| *layer).collect()));
    let parts = || {
        let terms = structure.terms.as_ref().map_err(Clone::clone)?;
        let mut parts = BTreeSet::new();
        for term in terms {
            parts.insert((place(term.layer, term.class.part()), term.class.part(), term.layer));
            if let Some(detail) = term.class.detail() {
                parts.insert((place(term.layer, detail), detail, term.layer));
            }
        }
        for outside in [Part::NormBias, Part::OutputBias, Part::Rounding] {
            parts.insert((place(None, outside), outside, None));
        }
        Ok(parts.into_iter().map(|(_, part, layer)| (part, layer)).collect())
    };
    let steps = || {
        let steps = structure.steps.as_ref().map_err(Clone::clone)?;
        Ok(steps.iter().map(|step| (step.layer, !step.attention.is_empty(), !step.feed_forward.is_empty())).collect())
    };
    Columns { lens, prism: options.prism.then(parts), similarity: options.similarity.then(steps) }
}

/// The embedding, the layers, then what belongs to none.
fn place(layer: Option<u32>, part: Part) -> u64 {
    match (layer, part) {
        (Some(layer), _) => u64::from(layer) + 1,
        (None, Part::Embedding) => 0,
        (None, _) => u64::MAX,
    }
}
