//! Finds the residual stream in a model's graph, and the terms added to it.
//!
//! Node names differ between architectures, so the search follows the data flow: backward from the LM head through the final
//! norm to the stream, and from there along the additions to the embedding. Only the names of weights are used, such as
//! `blk.3.ffn_down.weight`: they are those of the GGUF file.

mod finder;

use crate::llama::{Graph, Source};

use super::findings::Place;
use super::parts::Class;
use finder::Finder;

/// A factor: one number, or one per channel.
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

/// An operation between the residual stream and the input of the LM head.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum AfterOp {
    /// A norm. A `centered` norm subtracts the mean first.
    Norm { eps: f32, centered: bool },
    /// A factor per channel.
    Mul(Vec<f32>),
    /// A bias per channel.
    Add(Vec<f32>),
    /// A factor and a bias.
    Scale { factor: f32, bias: f32 },
}

/// The value of a term of the stream.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum TermValue {
    /// The rows of a node.
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

/// The terms that a layer adds to the stream.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Step {
    pub(super) layer: u32,
    /// The stream before the layer, and its factor in the stream after it.
    pub(super) input: (usize, Factor),
    /// The stream after the layer.
    pub(super) output: usize,
    /// The stream after the attention and before the feed-forward network, where one follows the other.
    pub(super) between: Option<usize>,
    pub(super) attention: Vec<(usize, Factor)>,
    pub(super) feed_forward: Vec<(usize, Factor)>,
    /// True if attention reads what the feed-forward network has added; then the reverse.
    pub(super) attention_reads_feed_forward: bool,
    pub(super) feed_forward_reads_attention: bool,
}

/// A model's residual stream, as nodes of its graph.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Structure {
    /// The input of the final norm.
    pub(super) last: usize,
    /// The nodes from there to the LM head, and their operations.
    pub(super) after_nodes: Vec<usize>,
    pub(super) after: Vec<AfterOp>,
    /// The input of the LM head.
    pub(super) normed: usize,
    /// The stream before the first layer and after each layer.
    pub(super) states: Vec<(Option<u32>, usize)>,
    /// The terms whose sum is the stream, or the reason why they are unknown.
    pub(super) terms: Result<Vec<Term>, String>,
    /// The terms per layer, or the reason why they are unknown.
    pub(super) steps: Result<Vec<Step>, String>,
}

impl Structure {
    /// Finds the stream in the graph of a decode of `n_tokens` tokens.
    ///
    /// # Errors
    /// The reason why it cannot be found.
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
        if let Some(streams) = finder.several_streams() {
            return Err(format!(
                "it has {streams} residual streams, which its layers mix by weights that depend on the token: no single \
                 stream can be read between two layers"
            ));
        }
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
                structure.steps = finder.steps(&structure.states, &chain);
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
    /// Returns the places where the lens reads the stream, in the order of the graph.
    pub(super) fn places(&self) -> Vec<(Place, usize)> {
        let between = |layer: u32| {
            let step = self.steps.as_ref().ok()?.iter().find(|step| step.layer == layer)?;
            Some((Place::Between(layer), step.between?))
        };
        let of_state = |&(layer, at): &(Option<u32>, usize)| match layer {
            None => vec![(Place::Embedding, at)],
            Some(layer) => between(layer).into_iter().chain([(Place::After(layer), at)]).collect(),
        };
        self.states.iter().flat_map(of_state).collect()
    }

    /// Creates the structure of a model whose stream cannot be found.
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

#[cfg(test)]
mod tests;
