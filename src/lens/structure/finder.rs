//! The search for the residual stream: follows a graph from the LM head back to the embedding.

use std::collections::{BTreeMap, BTreeSet};

use super::{AfterOp, Factor, Step, Term, TermValue};
use crate::lens::file::Part;
use crate::lens::parts::{Class, MAX_TERMS, TermWeights, layer};
use crate::llama::{Graph, Node, NodeOp, Source};

/// Searches a graph for its residual stream.
pub(super) struct Finder<'g> {
    graph: &'g Graph<'g>,
    width: i64,
    rows: i64,
    /// Per node, the highest layer of the weights that it depends on.
    top: Vec<Option<u32>>,
    /// Per node, true if it is the embedding or a sum that contains it.
    streams: Vec<bool>,
    /// Per node, the number of operations on the longest path from the embedding.
    depth: Vec<u32>,
}

impl<'g> Finder<'g> {
    pub(super) fn new(graph: &'g Graph<'g>, width: i64, rows: i64) -> Self {
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
                Source::Leaf(at) => layer(&graph.leaves()[at].name),
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

    /// Returns the values of a leaf, if it has one value or one per channel.
    fn constant(&self, source: Source) -> Option<&'g [f32]> {
        let Source::Leaf(at) = source else { return None };
        let values = self.graph.leaves()[at].values.as_deref()?;
        (values.len() == 1 || values.len() as i64 == self.width).then_some(values)
    }

    /// Returns the inputs of `at` whose rows it passes on, unchanged or times a constant; none for any other operation.
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
            // Selects the rows of tokens whose logits are requested: all of them, in order.
            NodeOp::GetRows if matches!(second(), Some(Source::Leaf(_))) => first().into_iter().collect(),
            _ => Vec::new(),
        }
    }

    /// Follows the graph from the input of the LM head back to the stream, the input of the final norm.
    pub(super) fn after(&self, normed: usize) -> Result<(usize, Vec<usize>, Vec<AfterOp>), String> {
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
        let what = self.describe(at);
        format!("between its residual stream and its output matrix is {what}, which is not a norm, factor or bias")
    }

    /// Names a node in the model's terms: its operation, and its name or the weights that it reads.
    fn describe(&self, at: usize) -> String {
        let node = &self.graph.nodes()[at];
        // ggml numbers the nodes that llama.cpp gives no name.
        if !node.name.starts_with("node_") && !node.name.is_empty() {
            return format!("{} '{}'", node.op_name, node.name);
        }
        let leaf = |source: &Source| match *source {
            Source::Leaf(leaf) => Some(format!(" with '{}'", self.graph.leaves()[leaf].name)),
            Source::Node(_) => None,
        };
        let layer = || self.top[at].map(|layer| format!(" in layer {layer}"));
        let place = node.sources.iter().find_map(leaf).or_else(layer).unwrap_or_default();
        format!("{}{place}", node.op_name)
    }

    /// Returns the number of streams of a model that has several (hyper-connections, `AltUp`), which its layers mix.
    pub(super) fn several_streams(&self) -> Option<i64> {
        let streams = |node: &Node| {
            let is_stream =
                ["l_out-", "l_last-", "hc_init", "inp_stacked"].iter().any(|name| node.name.starts_with(name));
            let [width, rest] = [node.ne[0], node.ne[1] * node.ne[2]];
            let several = width == self.width && rest % self.rows == 0 && rest > self.rows && node.ne[3] == 1;
            (is_stream && several && (node.ne[1] == self.rows || node.ne[2] == self.rows)).then(|| rest / self.rows)
        };
        self.graph.nodes().iter().find_map(streams)
    }

    /// Returns the nodes of the stream from `last` back to the embedding.
    pub(super) fn chain(&self, last: usize) -> Result<Vec<usize>, String> {
        let mut chain = vec![last];
        let mut at = last;
        while self.top[at].is_some() {
            // If two inputs are candidates, the stream is the one with the longer path.
            let far = |&from: &usize| (self.top[from], self.depth[from]);
            let next = self.carried(at).into_iter().filter(|&from| self.streams[from]).max_by_key(far);
            let Some(next) = next else {
                return Err(format!(
                    "its residual stream is not the embedding plus what its layers add: {} computes it anew",
                    self.describe(self.origin(at))
                ));
            };
            chain.push(next);
            at = next;
        }
        Ok(chain)
    }

    /// Follows the oldest terms of a sum to the operation that they come from.
    fn origin(&self, mut at: usize) -> usize {
        loop {
            let sources = self.carried(at);
            let sums = sources.iter().filter(|&&from| !self.carried(from).is_empty()).min();
            match sums.or_else(|| sources.iter().min()) {
                Some(&from) => at = from,
                None => return at,
            }
        }
    }

    fn name(&self, at: usize) -> &str {
        &self.graph.nodes()[at].name
    }

    /// Returns the stream before the first layer and after each layer: the last node of the chain that depends on no higher
    /// layer.
    pub(super) fn states(&self, chain: &[usize]) -> Vec<(Option<u32>, usize)> {
        let mut states: BTreeMap<Option<u32>, usize> = BTreeMap::new();
        for &at in chain {
            states.entry(self.top[at]).or_insert(at);
        }
        states.into_iter().collect()
    }

    /// Returns the nodes that llama.cpp names as the stream after a layer, if they have the stream's shape.
    pub(super) fn named_states(&self, last: usize) -> Vec<(Option<u32>, usize)> {
        let mut states = BTreeMap::new();
        for at in (0..self.graph.nodes().len()).filter(|&at| self.has_streams_shape(at)) {
            if let Some(layer) = self.name(at).strip_prefix("l_out-").and_then(|layer| layer.parse().ok()) {
                states.insert(Some(layer), at);
            }
        }
        if let Some(mut top) = states.last_entry() {
            // The stream after the last layer is the input of the final norm, whatever its name.
            top.insert(last);
        } else if let Some(layer) = self.top[last] {
            states.insert(Some(layer), last);
        }
        let embeds = |&at: &usize| self.top[at].is_none() && self.streams[at] && self.reads_tokens(at);
        if let Some(embedding) = (0..self.graph.nodes().len()).rev().find(embeds) {
            states.insert(None, embedding);
        }
        states.into_iter().collect()
    }

    /// Returns true if `at` is rows of the token embedding, or computed from them row by row.
    fn reads_tokens(&self, at: usize) -> bool {
        let node = &self.graph.nodes()[at];
        let table = |source: &Source| matches!(*source, Source::Leaf(leaf) if self.graph.leaves()[leaf].name == "token_embd.weight");
        (node.op == NodeOp::GetRows && node.sources.first().is_some_and(table))
            || self.carried(at).iter().any(|&from| self.reads_tokens(from))
    }

    /// Splits `at` into the terms of a sum, down to the embedding or `stop`.
    fn sum(&self, at: usize, stop: Option<usize>) -> Result<Vec<(TermValue, Factor)>, String> {
        let mut factors: BTreeMap<usize, Factor> = BTreeMap::from([(at, Factor::one())]);
        let mut terms = Vec::new();
        // A node comes after its inputs.
        while let Some((at, factor)) = factors.pop_last() {
            if self.top[at].is_none() || Some(at) == stop {
                terms.push((TermValue::Node(at), factor));
                continue;
            }
            let carried = self.carried(at);
            if carried.is_empty() || (!self.streams[at] && !self.weights(at).is_mixed()) {
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
        if terms.len() > MAX_TERMS {
            return Err(format!("its residual stream is the sum of {} terms", terms.len()));
        }
        Ok(terms)
    }

    /// Returns the weights that a term is computed from, up to the stream.
    fn weights(&self, at: usize) -> TermWeights {
        let mut weights = TermWeights::default();
        let mut seen = BTreeSet::from([at]);
        let mut next = vec![at];
        while let Some(at) = next.pop() {
            for &source in &self.graph.nodes()[at].sources {
                match source {
                    Source::Leaf(leaf) => weights.add(&self.graph.leaves()[leaf].name),
                    Source::Node(from) if self.streams[from] => {}
                    Source::Node(from) => {
                        if seen.insert(from) {
                            next.push(from);
                        }
                    }
                }
            }
        }
        weights
    }

    pub(super) fn terms(&self, last: usize) -> Result<Vec<Term>, String> {
        let mut terms = Vec::new();
        for (value, factor) in self.sum(last, None)? {
            let (layer, class) = match &value {
                TermValue::Node(at) if self.top[*at].is_none() => (None, Class::Embedding),
                TermValue::Node(at) => self.weights(*at).label(),
                TermValue::Constant(_) => (None, Class::Other),
            };
            terms.push(Term { value, factor, layer, class });
        }
        terms.sort_by_key(|term| (term.layer, term.class));
        Ok(terms)
    }

    pub(super) fn steps(&self, states: &[(Option<u32>, usize)], chain: &[usize]) -> Result<Vec<Step>, String> {
        states.windows(2).map(|pair| self.step(pair[0].1, pair[1], chain)).collect()
    }

    fn step(&self, before: usize, (layer, after): (Option<u32>, usize), chain: &[usize]) -> Result<Step, String> {
        let layer = layer.ok_or("its layers are out of order")?;
        let mut step = Step {
            layer,
            input: (before, Factor::one()),
            output: after,
            between: None,
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
            let (of, class) = if self.top[at].is_none() { (None, Class::Embedding) } else { self.weights(at).label() };
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
        step.between = self.between(&step, chain)?;
        Ok(step)
    }

    /// Returns the last node of the stream within the layer that has all of the attention's terms and none of the
    /// feed-forward network's.
    fn between(&self, step: &Step, chain: &[usize]) -> Result<Option<usize>, String> {
        if step.attention.is_empty() || step.feed_forward.is_empty() || !step.feed_forward_reads_attention {
            return Ok(None);
        }
        let attention: BTreeSet<usize> = step.attention.iter().map(|(at, _)| *at).collect();
        let before = step.input.0;
        for &at in chain.iter().filter(|&&at| before < at && at < step.output) {
            let terms = self.sum(at, Some(before))?.into_iter().filter_map(|(value, _)| match value {
                TermValue::Node(term) if term != before => Some(term),
                _ => None,
            });
            if terms.collect::<BTreeSet<usize>>() == attention {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// Returns true if any node of `of` depends on any node of `from`.
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
