//! Where in a model's graph its residual stream is, and what adds to it.
//!
//! Names differ from architecture to architecture, so this goes by what is computed from what: backward from the output
//! matrix through the final norm to the stream, and from there down the chain of additions to the embedding. Names of
//! weights alone are trusted, `blk.3.ffn_down.weight`: they are those of the GGUF files.

use std::collections::{BTreeMap, BTreeSet};

use crate::llama::{Graph, NodeOp, Source};

use super::file::Part;
use super::parts::{Class, Cone};

/// What a value is multiplied by: one number, or one a channel.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Factor(Vec<f64>);

impl Factor {
    pub(super) fn one() -> Self {
        Self(vec![1.0])
    }

    pub(super) fn at(&self, channel: usize) -> f64 {
        if self.0.len() == 1 { self.0[0] } else { self.0[channel] }
    }

    fn scaled(&self, by: f64) -> Self {
        Self(self.0.iter().map(|x| x * by).collect())
    }

    fn times(&self, by: &[f32]) -> Self {
        let n = self.0.len().max(by.len());
        Self((0..n).map(|i| self.at(i) * f64::from(if by.len() == 1 { by[0] } else { by[i] })).collect())
    }

    fn plus(&self, other: &Self) -> Self {
        let n = self.0.len().max(other.0.len());
        Self((0..n).map(|i| self.at(i) + other.at(i)).collect())
    }
}

/// A step from the residual stream to the input of the output matrix.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum AfterOp {
    /// A norm; `centered` ones subtract the mean first.
    Norm { eps: f32, centered: bool },
    /// A factor a channel.
    Mul(Vec<f32>),
    /// A bias a channel.
    Add(Vec<f32>),
    /// A factor and a bias.
    Scale { factor: f32, bias: f32 },
}

/// Where a term of the stream comes from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum TermValue {
    /// A node's rows.
    Node(usize),
    /// The same for every token.
    Constant(Vec<f32>),
}

/// A term of the stream before the final norm.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Term {
    pub(super) value: TermValue,
    pub(super) factor: Factor,
    pub(super) layer: Option<u32>,
    pub(super) class: Class,
}

/// What a layer does to the stream.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Step {
    pub(super) layer: u32,
    /// The stream before the layer, and what it is multiplied by on its way through.
    pub(super) input: (usize, Factor),
    /// The stream after it.
    pub(super) output: usize,
    pub(super) attention: Vec<(usize, Factor)>,
    pub(super) feed_forward: Vec<(usize, Factor)>,
    /// Whether each reads what the other has added.
    pub(super) attention_reads_feed_forward: bool,
    pub(super) feed_forward_reads_attention: bool,
}

/// A model's residual stream, as places in its graph.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Structure {
    /// The stream that the final norm reads.
    pub(super) last: usize,
    /// The nodes from there to the output matrix, and what they do.
    pub(super) after_nodes: Vec<usize>,
    pub(super) after: Vec<AfterOp>,
    /// The input of the output matrix.
    pub(super) normed: usize,
    /// The stream before the first layer, and after each.
    pub(super) states: Vec<(Option<u32>, usize)>,
    /// What the stream is the sum of, or why that is not known.
    pub(super) terms: Result<Vec<Term>, String>,
    /// The layers one by one, or why not.
    pub(super) steps: Result<Vec<Step>, String>,
}

impl Structure {
    /// Finds the stream in the graph of an evaluation of `n_tokens` tokens.
    ///
    /// # Errors
    /// Why there is none to be found.
    pub(super) fn find(graph: &Graph<'_>, n_tokens: usize) -> Result<Self, String> {
        let head = graph.head().ok_or("its graph has no product with an output matrix")?;
        let Some(&Source::Node(normed)) = graph.nodes()[head].sources.get(1) else {
            return Err("the input of its output matrix is not computed".to_owned());
        };
        let [width, rows] = graph.shape(normed);
        if rows != n_tokens as i64 || !graph.nodes()[normed].is_plain {
            return Err(format!("the input of its output matrix has {rows} rows for {n_tokens} tokens"));
        }
        let finder = Finder::new(graph, width, rows);
        let (last, after_nodes, after) = finder.after(normed)?;
        let mut structure = Self {
            last,
            after_nodes,
            after,
            normed,
            states: Vec::new(),
            terms: Err(String::new()),
            steps: Err(String::new()),
        };
        match finder.chain(last) {
            Ok(chain) => {
                structure.states = finder.states(&chain);
                structure.terms = finder.terms(last);
                structure.steps = finder.steps(&structure.states);
            }
            Err(reason) => {
                structure.states = finder.named_states(last);
                structure.terms = Err(reason.clone());
                structure.steps = Err(reason);
            }
        }
        Ok(structure)
    }
}

impl Structure {
    /// Of a model whose stream cannot be found.
    pub(super) fn empty() -> Self {
        Self {
            last: 0,
            after_nodes: Vec::new(),
            after: Vec::new(),
            normed: 0,
            states: Vec::new(),
            terms: Ok(Vec::new()),
            steps: Ok(Vec::new()),
        }
    }
}

struct Finder<'g> {
    graph: &'g Graph<'g>,
    width: i64,
    rows: i64,
    /// By node: the highest layer that any of what it is computed from belongs to.
    top: Vec<Option<u32>>,
    /// By node: whether it is the embedding, or a sum with it in it.
    streams: Vec<bool>,
    /// By node: the operations since the embedding, by the longest way.
    depth: Vec<u32>,
}

impl<'g> Finder<'g> {
    fn new(graph: &'g Graph<'g>, width: i64, rows: i64) -> Self {
        let mut finder = Self {
            graph,
            width,
            rows,
            top: Vec::with_capacity(graph.nodes().len()),
            streams: Vec::new(),
            depth: Vec::new(),
        };
        for node in graph.nodes() {
            let top = |source: &Source| match *source {
                Source::Node(at) => finder.top.get(at).copied().flatten(),
                Source::Leaf(at) => super::parts::layer(&graph.leaves()[at].name),
            };
            let top = node.sources.iter().filter_map(top).max();
            finder.top.push(top);
        }
        for at in 0..graph.nodes().len() {
            let stream = finder.has_streams_shape(at)
                && match finder.top[at] {
                    None => true,
                    Some(_) => finder.carried(at).iter().any(|&from| finder.streams[from]),
                };
            let depth = finder.carried(at).iter().map(|&from| finder.depth[from] + 1).max();
            finder.depth.push(depth.filter(|_| finder.top[at].is_some()).unwrap_or(0));
            finder.streams.push(stream);
        }
        finder
    }

    fn has_streams_shape(&self, at: usize) -> bool {
        self.graph.nodes()[at].is_plain && self.graph.shape(at) == [self.width, self.rows]
    }

    /// A leaf's values, if it is one number or one a channel.
    fn constant(&self, source: Source) -> Option<&'g [f32]> {
        let Source::Leaf(at) = source else { return None };
        let values = self.graph.leaves()[at].values.as_deref()?;
        (values.len() == 1 || values.len() as i64 == self.width).then_some(values)
    }

    /// The nodes that `at` carries on, each row as it is or times a constant; none where it computes anything else.
    fn carried(&self, at: usize) -> Vec<usize> {
        let node = &self.graph.nodes()[at];
        let computed = |source: &Source| match *source {
            Source::Node(from) if self.has_streams_shape(from) => Some(from),
            _ => None,
        };
        let first = || node.sources.first().and_then(computed);
        let second = || node.sources.get(1).copied();
        match node.op {
            NodeOp::Add | NodeOp::Sub => match (first(), second()) {
                (Some(a), Some(b)) => match computed(&b) {
                    Some(b) => vec![a, b],
                    None if self.constant(b).is_some() => vec![a],
                    None => Vec::new(),
                },
                _ => Vec::new(),
            },
            NodeOp::Mul if second().and_then(|b| self.constant(b)).is_some() => first().into_iter().collect(),
            NodeOp::Scale { .. } | NodeOp::Same => first().into_iter().collect(),
            // Rows of tokens whose logits are asked for: all of them, in order.
            NodeOp::GetRows if matches!(second(), Some(Source::Leaf(_))) => first().into_iter().collect(),
            _ => Vec::new(),
        }
    }

    /// From the output matrix's input down to the stream, which is what the final norm reads.
    fn after(&self, normed: usize) -> Result<(usize, Vec<usize>, Vec<AfterOp>), String> {
        let (mut nodes, mut ops) = (Vec::new(), Vec::new());
        let mut at = normed;
        while !(matches!(ops.last(), Some(AfterOp::Norm { .. })) || self.streams[at] && self.top[at].is_some()) {
            let node = &self.graph.nodes()[at];
            let constant = node.sources.get(1).and_then(|&b| self.constant(b)).map(<[f32]>::to_vec);
            let op = match (node.op, constant) {
                (NodeOp::RmsNorm { eps }, _) => Some(AfterOp::Norm { eps, centered: false }),
                (NodeOp::Norm { eps }, _) => Some(AfterOp::Norm { eps, centered: true }),
                (NodeOp::Mul, Some(values)) => Some(AfterOp::Mul(values)),
                (NodeOp::Add, Some(values)) => Some(AfterOp::Add(values)),
                (NodeOp::Scale { factor, bias }, _) => Some(AfterOp::Scale { factor, bias }),
                (NodeOp::Same, _) => None,
                (NodeOp::GetRows, _) if matches!(node.sources.get(1), Some(Source::Leaf(_))) => None,
                _ => return Err(self.no_norm(at)),
            };
            if let Some(op) = op {
                nodes.push(at);
                ops.push(op);
            }
            match node.sources.first() {
                Some(&Source::Node(from)) if self.has_streams_shape(from) => at = from,
                _ => return Err(self.no_norm(at)),
            }
        }
        nodes.reverse();
        ops.reverse();
        Ok((at, nodes, ops))
    }

    fn no_norm(&self, at: usize) -> String {
        let node = &self.graph.nodes()[at];
        format!(
            "between its residual stream and its output matrix is {} '{}', which is no norm, factor or bias",
            node.op_name, node.name
        )
    }

    /// The stream's nodes from `last` down to the embedding.
    fn chain(&self, last: usize) -> Result<Vec<usize>, String> {
        let mut chain = vec![last];
        let mut at = last;
        while self.top[at].is_some() {
            // Where two streams meet, that which has come further is this one.
            let far = |&from: &usize| (self.top[from], self.depth[from]);
            let next = self.carried(at).into_iter().filter(|&from| self.streams[from]).max_by_key(far);
            let Some(next) = next else {
                return Err(format!(
                    "its residual stream does not begin with the embedding, but with '{}'",
                    self.name(at)
                ));
            };
            chain.push(next);
            at = next;
        }
        Ok(chain)
    }

    fn name(&self, at: usize) -> &str {
        &self.graph.nodes()[at].name
    }

    /// The stream before the first layer and after each: the last node of the chain that knows of no higher one.
    fn states(&self, chain: &[usize]) -> Vec<(Option<u32>, usize)> {
        let mut states: BTreeMap<Option<u32>, usize> = BTreeMap::new();
        for &at in chain {
            states.entry(self.top[at]).or_insert(at);
        }
        states.into_iter().collect()
    }

    /// What llama.cpp calls the stream after a layer, where it is of the stream's shape.
    fn named_states(&self, last: usize) -> Vec<(Option<u32>, usize)> {
        let mut states = BTreeMap::new();
        for at in (0..self.graph.nodes().len()).filter(|&at| self.has_streams_shape(at)) {
            if let Some(layer) = self.name(at).strip_prefix("l_out-").and_then(|layer| layer.parse().ok()) {
                states.insert(Some(layer), at);
            }
        }
        if let Some(mut top) = states.last_entry() {
            // Whatever the last layer's is called, it is what the final norm reads.
            top.insert(last);
        } else if let Some(layer) = self.top[last] {
            states.insert(Some(layer), last);
        }
        states.into_iter().collect()
    }

    /// What `at` is a sum of, down to the embedding or `stop`.
    fn sum(&self, at: usize, stop: Option<usize>) -> Result<Vec<(TermValue, Factor)>, String> {
        let mut factors: BTreeMap<usize, Factor> = BTreeMap::from([(at, Factor::one())]);
        let mut terms = Vec::new();
        // Nodes come after what they are computed from.
        while let Some((at, factor)) = factors.pop_last() {
            if self.top[at].is_none() || Some(at) == stop {
                terms.push((TermValue::Node(at), factor));
                continue;
            }
            let carried = self.carried(at);
            if carried.is_empty() || (!self.streams[at] && !self.cone(at).is_mixed()) {
                terms.push((TermValue::Node(at), factor));
                continue;
            }
            let node = &self.graph.nodes()[at];
            let constant = node.sources.get(1).and_then(|&b| self.constant(b));
            let mut onward = vec![factor.clone(); carried.len()];
            match node.op {
                NodeOp::Sub if carried.len() == 2 => onward[1] = factor.scaled(-1.0),
                NodeOp::Mul => onward[0] = factor.times(constant.unwrap_or(&[1.0])),
                NodeOp::Scale { factor: by, bias } => {
                    onward[0] = factor.scaled(f64::from(by));
                    if bias != 0.0 {
                        terms.push((TermValue::Constant(vec![bias; self.width as usize]), factor));
                    }
                }
                _ => {}
            }
            if let (NodeOp::Add | NodeOp::Sub, 1, Some(values)) = (node.op, carried.len(), constant) {
                let sign = if node.op == NodeOp::Sub { -1.0 } else { 1.0 };
                let spread = |x: &[f32]| if x.len() == 1 { vec![x[0]; self.width as usize] } else { x.to_vec() };
                terms.push((TermValue::Constant(spread(values)), onward[0].scaled(sign)));
            }
            for (from, factor) in carried.into_iter().zip(onward) {
                let sum = match factors.get(&from) {
                    Some(other) => other.plus(&factor),
                    None => factor,
                };
                factors.insert(from, sum);
            }
        }
        if terms.len() > super::parts::MAX_TERMS {
            return Err(format!("its residual stream is the sum of {} terms", terms.len()));
        }
        Ok(terms)
    }

    /// The weights that a term is computed with, up to the stream.
    fn cone(&self, at: usize) -> Cone {
        let mut cone = Cone::default();
        let mut seen = BTreeSet::from([at]);
        let mut next = vec![at];
        while let Some(at) = next.pop() {
            for &source in &self.graph.nodes()[at].sources {
                match source {
                    Source::Leaf(leaf) => cone.add(&self.graph.leaves()[leaf].name),
                    Source::Node(from) if self.streams[from] => {}
                    Source::Node(from) => {
                        if seen.insert(from) {
                            next.push(from);
                        }
                    }
                }
            }
        }
        cone
    }

    fn terms(&self, last: usize) -> Result<Vec<Term>, String> {
        let mut terms = Vec::new();
        for (value, factor) in self.sum(last, None)? {
            let (layer, class) = match &value {
                TermValue::Node(at) if self.top[*at].is_none() => (None, Class::Embedding),
                TermValue::Node(at) => self.cone(*at).label(),
                TermValue::Constant(_) => (None, Class::Other),
            };
            terms.push(Term { value, factor, layer, class });
        }
        terms.sort_by_key(|term| (term.layer, term.class));
        Ok(terms)
    }

    fn steps(&self, states: &[(Option<u32>, usize)]) -> Result<Vec<Step>, String> {
        states.windows(2).map(|pair| self.step(pair[0].1, pair[1])).collect()
    }

    fn step(&self, before: usize, (layer, after): (Option<u32>, usize)) -> Result<Step, String> {
        let layer = layer.ok_or("its layers are out of order")?;
        let mut step = Step {
            layer,
            input: (before, Factor::one()),
            output: after,
            attention: Vec::new(),
            feed_forward: Vec::new(),
            attention_reads_feed_forward: false,
            feed_forward_reads_attention: false,
        };
        for (value, factor) in self.sum(after, Some(before))? {
            let TermValue::Node(at) = value else { continue };
            if at == before {
                step.input.1 = factor;
                continue;
            }
            let (of, class) = if self.top[at].is_none() { (None, Class::Embedding) } else { self.cone(at).label() };
            if of.is_some_and(|of| of != layer) {
                return Err("its layers share what they add to the residual stream, or repeat".to_owned());
            }
            match class.part() {
                Part::Attention => step.attention.push((at, factor)),
                Part::FeedForward => step.feed_forward.push((at, factor)),
                _ => {}
            }
        }
        step.feed_forward_reads_attention = self.reads(&step.feed_forward, &step.attention);
        step.attention_reads_feed_forward = self.reads(&step.attention, &step.feed_forward);
        Ok(step)
    }

    /// Whether any of the first is computed from any of the second.
    fn reads(&self, of: &[(usize, Factor)], from: &[(usize, Factor)]) -> bool {
        let Some(lowest) = from.iter().map(|(at, _)| *at).min() else { return false };
        let mut seen = BTreeSet::new();
        let mut next: Vec<usize> = of.iter().map(|(at, _)| *at).collect();
        while let Some(at) = next.pop() {
            if from.iter().any(|(other, _)| *other == at) {
                return true;
            }
            for &source in &self.graph.nodes()[at].sources {
                if let Source::Node(source) = source
                    && source >= lowest
                    && seen.insert(source)
                {
                    next.push(source);
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests;
