//! The nodes to capture from a graph, and the order of the results.

use std::collections::BTreeSet;

use crate::llama::{Graph, Node, NodeOp, Source};

use super::file::Part;
use super::findings::{Columns, LensOptions};
use super::structure::{Structure, TermValue};

/// The residual stream of a graph and the nodes to capture.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) structure: Structure,
    /// Nodes to capture and their names, ascending.
    captures: Vec<(usize, String)>,
    pub(super) columns: Columns,
}

impl Plan {
    /// Plans the captures of a graph of `n_tokens` tokens.
    pub(super) fn new(graph: &Graph<'_>, n_tokens: usize, options: &LensOptions) -> Result<Self, String> {
        let structure = Structure::find(graph, n_tokens)?;
        let wants_parts = options.prism && structure.terms.is_ok();
        let wants_steps = options.similarity && structure.steps.is_ok();
        let mut nodes = BTreeSet::new();
        if options.lens || wants_parts {
            nodes.insert(structure.normed);
        }
        if options.lens {
            nodes.extend(structure.places().into_iter().map(|(_, at)| at));
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
            return Err(format!("'{}' is not contiguous or not f32", graph.nodes()[gap].name));
        }
        let columns = columns(&structure, options);
        let captures = nodes.into_iter().map(|at| (at, graph.nodes()[at].name.clone())).collect();
        Ok(Self { structure, captures, columns })
    }

    /// Creates the plan of a model whose stream cannot be found.
    pub(super) fn empty() -> Self {
        Self { structure: Structure::empty(), captures: Vec::new(), columns: Columns::default() }
    }

    /// Returns the index of a node among the captures, and its name.
    pub(super) fn capture(&self, node: usize) -> Option<(usize, &str)> {
        let slot = self.captures.binary_search_by_key(&node, |(at, _)| *at).ok()?;
        Some((slot, &self.captures[slot].1))
    }

    pub(super) fn n_captures(&self) -> usize {
        self.captures.len()
    }

    /// Returns true if the results of both plans have the same order.
    pub(super) fn agrees(&self, other: &Self) -> bool {
        self.columns == other.columns
    }
}

/// The linear operations after the LM head's product: a factor and a bias.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LinearLogitOps {
    pub(super) factor: f64,
    /// One value, or one per token of the vocabulary; empty for no bias.
    pub(super) bias: Vec<f64>,
}

impl LinearLogitOps {
    /// Reads the operations up to a soft cap, if there is one.
    pub(super) fn new(graph: &Graph) -> Result<Self, String> {
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
        let mut linear = Self { factor: 1.0, bias: Vec::new() };
        for node in ops {
            let values = match node.sources.get(1) {
                Some(&Source::Leaf(leaf)) => graph.leaves()[leaf].values.as_deref(),
                _ => None,
            };
            match (node.op, values) {
                (NodeOp::Scale { factor, bias }, _) => {
                    linear.factor *= f64::from(factor);
                    linear.bias.iter_mut().for_each(|x| *x = *x * f64::from(factor) + f64::from(bias));
                    if bias != 0.0 && linear.bias.is_empty() {
                        linear.bias = vec![f64::from(bias)];
                    }
                }
                (NodeOp::Add, Some(values)) => {
                    let n = values.len().max(linear.bias.len());
                    let at =
                        |list: &[f64], i: usize| list.get(if list.len() == 1 { 0 } else { i }).copied().unwrap_or(0.0);
                    let values: Vec<f64> = values.iter().map(|&x| f64::from(x)).collect();
                    linear.bias = (0..n).map(|i| at(&linear.bias, i) + at(&values, i)).collect();
                }
                (NodeOp::Mul, Some(&[factor])) => {
                    linear.factor *= f64::from(factor);
                    linear.bias.iter_mut().for_each(|x| *x *= f64::from(factor));
                }
                _ => {
                    return Err(format!(
                        "its logits go through {} '{}', which is not supported",
                        node.op_name, node.name
                    ));
                }
            }
        }
        Ok(linear)
    }

    pub(super) fn bias(&self, token: usize) -> f64 {
        self.bias.get(if self.bias.len() == 1 { 0 } else { token }).copied().unwrap_or(0.0)
    }

    pub(super) fn mean_bias(&self) -> f64 {
        if self.bias.is_empty() { 0.0 } else { self.bias.iter().sum::<f64>() / self.bias.len() as f64 }
    }
}

/// Returns the results per position, in order.
fn columns(structure: &Structure, options: &LensOptions) -> Columns {
    let lens = options.lens.then(|| Ok(structure.places().into_iter().map(|(place, _)| place).collect()));
    let parts = || {
        let terms = structure.terms.as_ref().map_err(Clone::clone)?;
        let mut parts = BTreeSet::new();
        for term in terms {
            parts.insert((part_order(term.layer, term.class.part()), term.class.part(), term.layer));
            if let Some(detail) = term.class.detail() {
                parts.insert((part_order(term.layer, detail), detail, term.layer));
            }
        }
        for outside in [Part::NormBias, Part::OutputBias, Part::Rounding] {
            parts.insert((part_order(None, outside), outside, None));
        }
        Ok(parts.into_iter().map(|(_, part, layer)| (part, layer)).collect())
    };
    let steps = || {
        let steps = structure.steps.as_ref().map_err(Clone::clone)?;
        Ok(steps.iter().map(|step| (step.layer, !step.attention.is_empty(), !step.feed_forward.is_empty())).collect())
    };
    Columns { lens, prism: options.prism.then(parts), similarity: options.similarity.then(steps) }
}

/// Returns the sort key of a part: the embedding, the layers, then parts outside the layers.
fn part_order(layer: Option<u32>, part: Part) -> u64 {
    match (layer, part) {
        (Some(layer), _) => u64::from(layer) + 1,
        (None, Part::Embedding) => 0,
        (None, _) => u64::MAX,
    }
}
