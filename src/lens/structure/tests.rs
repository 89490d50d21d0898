//! Streams of architectures for which there is no test model.

use super::*;
use crate::llama::NodeOp;

const WIDTH: i64 = 4;
const ROWS: i64 = 3;
const SHAPE: [i64; 4] = [WIDTH, ROWS, 1, 1];

/// A graph under construction.
#[derive(Default)]
struct Build(Graph<'static>);

impl Build {
    fn op(&mut self, name: &str, op: NodeOp, sources: &[Source]) -> Source {
        self.0.push_node(name, op, SHAPE, sources)
    }

    fn weight(&mut self, name: &str) -> Source {
        self.0.push_leaf(name, [WIDTH, WIDTH, 1, 1], None)
    }

    /// Adds a factor or bias per channel.
    fn row(&mut self, name: &str, value: f32) -> Source {
        self.0.push_leaf(name, [WIDTH, 1, 1, 1], Some(vec![value; WIDTH as usize]))
    }

    fn embedding(&mut self) -> Source {
        let table = self.weight("token_embd.weight");
        let tokens = self.0.push_leaf("inp_tokens", [ROWS, 1, 1, 1], None);
        self.op("embd", NodeOp::GetRows, &[table, tokens])
    }

    /// Adds a norm of `from` and its product with `weight`.
    fn block(&mut self, weight: &str, from: Source) -> Source {
        let normed = self.op("norm", NodeOp::RmsNorm { eps: 1e-5 }, &[from]);
        let weight = self.weight(weight);
        self.op(&format!("of {weight:?}"), NodeOp::MulMat, &[weight, normed])
    }

    fn add(&mut self, a: Source, b: Source) -> Source {
        self.op("sum", NodeOp::Add, &[a, b])
    }

    /// Adds norm, factor and LM head to `last`, and finds the structure.
    fn find(mut self, last: Source) -> Result<Structure, String> {
        let normed = self.op("norm", NodeOp::RmsNorm { eps: 1e-5 }, &[last]);
        let gain = self.row("output_norm.weight", 2.0);
        let normed = self.op("result_norm", NodeOp::Mul, &[normed, gain]);
        self.head(normed)
    }

    fn head(mut self, normed: Source) -> Result<Structure, String> {
        let matrix = self.0.push_leaf("output.weight", [WIDTH, 9, 1, 1], None);
        let head = self.0.push_node("result_output", NodeOp::MulMat, [9, ROWS, 1, 1], &[matrix, normed]);
        let Source::Node(head) = head else { panic!() };
        self.0.set_head(head);
        Structure::find(&self.0, ROWS as usize)
    }
}

fn labels(structure: &Structure) -> Vec<(Option<u32>, Class, f64)> {
    let terms = structure.terms.as_ref().unwrap();
    terms.iter().map(|term| (term.layer, term.class, term.factor.at(0))).collect()
}

fn layers(structure: &Structure) -> Vec<Option<u32>> {
    structure.states.iter().map(|(layer, _)| *layer).collect()
}

#[test]
fn parallel_blocks_read_the_same_input() {
    let mut b = Build::default();
    let x = b.embedding();
    let attention = b.block("blk.0.attn_output.weight", x);
    let feed_forward = b.block("blk.0.ffn_down.weight", x);
    let both = b.add(attention, feed_forward);
    let last = b.add(both, x);
    let s = b.find(last).unwrap();
    let expected =
        [(None, Class::Embedding, 1.0), (Some(0), Class::Attention, 1.0), (Some(0), Class::FeedForward, 1.0)];
    assert_eq!(labels(&s), expected);
    let step = &s.steps.as_ref().unwrap()[0];
    assert!(!step.feed_forward_reads_attention && !step.attention_reads_feed_forward);
    assert_eq!(step.between, None, "no feed-forward network reads the stream after the attention alone");
    assert_eq!(s.after, [AfterOp::Norm { eps: 1e-5, centered: false }, AfterOp::Mul(vec![2.0; 4])]);
}

#[test]
fn blocks_one_after_the_other_read_what_came_before() {
    let mut b = Build::default();
    let mut x = b.embedding();
    for layer in 0..2 {
        for weight in ["attn_output", "ffn_down"] {
            let added = b.block(&format!("blk.{layer}.{weight}.weight"), x);
            x = b.add(added, x);
        }
    }
    let s = b.find(x).unwrap();
    assert_eq!(layers(&s), [None, Some(0), Some(1)]);
    let steps = s.steps.as_ref().unwrap();
    assert_eq!(steps.len(), 2);
    assert!(steps.iter().all(|step| step.feed_forward_reads_attention && !step.attention_reads_feed_forward));
    let places: Vec<Place> = s.places().into_iter().map(|(place, _)| place).collect();
    assert_eq!(places, [Place::Embedding, Place::Between(0), Place::After(0), Place::Between(1), Place::After(1)]);
    // The stream between them is the sum that has the attention alone.
    assert!(steps.iter().all(|step| step.between == Some(step.attention[0].0 + 1)));
}

#[test]
fn factors_on_the_stream_are_followed() {
    // A term is scaled (granite), the stream is scaled after the layer (gemma 4), and before the norm.
    let mut b = Build::default();
    let x = b.embedding();
    let attention = b.block("blk.0.attn_output.weight", x);
    let attention = b.op("scaled", NodeOp::Scale { factor: 0.5, bias: 0.0 }, &[attention]);
    let x = b.add(attention, x);
    let out_scale = b.row("blk.0.layer_output_scale.weight", 3.0);
    let x = b.op("out_scaled", NodeOp::Mul, &[x, out_scale]);
    let feed_forward = b.block("blk.1.ffn_down.weight", x);
    let x = b.op("difference", NodeOp::Sub, &[x, feed_forward]);
    let last = b.op("scaled", NodeOp::Scale { factor: 10.0, bias: 0.0 }, &[x]);
    let s = b.find(last).unwrap();
    // The term includes the factor of what is added.
    let expected =
        [(None, Class::Embedding, 30.0), (Some(0), Class::Attention, 30.0), (Some(1), Class::FeedForward, -10.0)];
    assert_eq!(labels(&s), expected);
}

#[test]
fn an_embedding_added_a_second_time_keeps_its_class() {
    let mut b = Build::default();
    let embedding = b.embedding();
    let attention = b.block("blk.0.attn_output.weight", embedding);
    let x = b.add(embedding, attention);
    let again = b.op("scaled", NodeOp::Scale { factor: 0.25, bias: 0.0 }, &[embedding]);
    let x = b.add(x, again);
    let feed_forward = b.block("blk.1.ffn_down.weight", x);
    let last = b.add(feed_forward, x);
    let s = b.find(last).unwrap();
    // Once unchanged and once scaled: two nodes, both of class embedding.
    let terms = s.terms.as_ref().unwrap();
    let embeddings: Vec<_> = terms.iter().filter(|term| term.class == Class::Embedding).collect();
    assert_eq!((embeddings.len(), terms.len()), (2, 4));
    assert_ne!(embeddings[0].value, embeddings[1].value);
    assert_eq!(layers(&s), [None, Some(0), Some(1)]);
}

#[test]
fn a_scaled_embedding_that_joins_every_layer_is_not_the_stream() {
    let mut b = Build::default();
    let embedding = b.embedding();
    let mut x = embedding;
    for layer in 0..2 {
        let attention = b.block(&format!("blk.{layer}.attn_output.weight"), x);
        let sum = b.add(attention, x);
        let scale = b.row(&format!("blk.{layer}.out_scale.weight"), 0.5);
        let skip = b.op("embd_skip", NodeOp::Mul, &[embedding, scale]);
        x = b.add(sum, skip);
    }
    let s = b.find(x).unwrap();
    assert_eq!(layers(&s), [None, Some(0), Some(1)]);
    assert_eq!(labels(&s)[0], (None, Class::Embedding, 2.0));
    assert_eq!(s.steps.as_ref().unwrap().iter().map(|step| step.attention.len()).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn shared_and_routed_experts_are_separate_terms() {
    let mut b = Build::default();
    let x = b.embedding();
    let routed: Vec<_> = (0..3).map(|_| b.block("blk.0.ffn_down_exps.weight", x)).collect();
    let some = b.add(routed[0], routed[1]);
    let routed = b.add(some, routed[2]);
    let shared = b.block("blk.0.ffn_down_shexp.weight", x);
    let both = b.add(routed, shared);
    let both = b.op("scaled", NodeOp::Scale { factor: 2.0, bias: 0.0 }, &[both]);
    let last = b.add(both, x);
    let s = b.find(last).unwrap();
    let expected =
        [(None, Class::Embedding, 1.0), (Some(0), Class::SharedExperts, 2.0), (Some(0), Class::RoutedExperts, 2.0)];
    assert_eq!(labels(&s), expected);
}

#[test]
fn a_constant_added_to_every_token_is_a_separate_term() {
    let mut b = Build::default();
    let x = b.embedding();
    let attention = b.block("blk.0.attn_output.weight", x);
    let x = b.add(attention, x);
    let control = b.row("control", 0.125);
    let last = b.add(x, control);
    let s = b.find(last).unwrap();
    assert!(labels(&s).contains(&(None, Class::Other, 1.0)));
    let terms = s.terms.unwrap();
    assert!(terms.iter().any(|term| term.value == TermValue::Constant(vec![0.125; 4])));
}

#[test]
fn a_norm_on_the_stream_allows_the_lens_but_no_sum() {
    let mut b = Build::default();
    let mut x = b.embedding();
    for layer in 0..2 {
        let added = b.block(&format!("blk.{layer}.attn_output.weight"), x);
        let sum = b.add(added, x);
        x = b.op(&format!("l_out-{layer}"), NodeOp::Norm { eps: 1e-5 }, &[sum]);
    }
    let s = b.find(x).unwrap();
    assert!(s.terms.as_ref().unwrap_err().contains("what its layers add: OP 'l_out-1' computes it anew"));
    assert!(s.steps.is_err());
    assert_eq!(layers(&s), [None, Some(0), Some(1)], "the embedding, then the layers by name");
}

#[test]
fn an_unknown_operation_before_the_output_matrix_is_named() {
    let mut b = Build::default();
    let x = b.embedding();
    let attention = b.block("blk.0.attn_output.weight", x);
    let x = b.add(attention, x);
    let odd = b.op("twisted", NodeOp::Other, &[x]);
    let error = b.head(odd).unwrap_err();
    assert!(error.contains("is OP 'twisted', which is not a norm, factor or bias"), "{error}");
    assert!(Structure::find(&Graph::default(), 1).unwrap_err().contains("no product with an output matrix"));
}

#[test]
fn repeated_layers_have_no_steps() {
    let mut b = Build::default();
    let mut x = b.embedding();
    for layer in [0, 1, 0, 1] {
        let added = b.block(&format!("blk.{layer}.attn_output.weight"), x);
        x = b.add(added, x);
    }
    let s = b.find(x).unwrap();
    // The sum is known nevertheless.
    assert_eq!(labels(&s).len(), 5);
    assert!(s.steps.as_ref().unwrap_err().contains("repeat"), "{:?}", s.steps);
}

#[test]
fn several_streams_are_counted_and_refused() {
    let mut b = Build::default();
    let x = b.embedding();
    b.0.push_node("hc_init", NodeOp::Other, [WIDTH, 4, ROWS, 1], &[x]);
    let error = b.find(x).unwrap_err();
    assert!(error.starts_with("it has 4 residual streams"), "{error}");
    // AltUp has them in another order: a matrix per stream.
    let mut b = Build::default();
    let x = b.embedding();
    b.0.push_node("inp_stacked", NodeOp::Other, [WIDTH, ROWS, 5, 1], &[x]);
    assert!(b.find(x).unwrap_err().starts_with("it has 5 residual streams"));
}

#[test]
fn the_operation_that_computes_the_stream_anew_is_named() {
    let mut b = Build::default();
    let x = b.embedding();
    let attention = b.block("blk.0.attn_output.weight", x);
    let sum = b.add(attention, x);
    let normed = b.op("stack_norm", NodeOp::RmsNorm { eps: 1e-5 }, &[sum]);
    let feed_forward = b.block("blk.1.ffn_down.weight", normed);
    let last = b.op("l_out-1", NodeOp::Add, &[feed_forward, normed]);
    let s = b.find(last).unwrap();
    assert!(s.terms.as_ref().unwrap_err().contains("OP 'stack_norm' computes it anew"), "{:?}", s.terms);
}

#[test]
fn a_node_without_a_name_is_told_by_its_weight_or_layer() {
    let mut b = Build::default();
    let x = b.embedding();
    let attention = b.block("blk.0.attn_output.weight", x);
    let x = b.add(attention, x);
    let weight = b.weight("hc_head_up.weight");
    let odd = b.op("node_404", NodeOp::MulMat, &[weight, x]);
    let error = b.head(odd).unwrap_err();
    assert!(error.contains("is OP with 'hc_head_up.weight', which") && !error.contains("node_404"), "{error}");
}

#[test]
fn the_stream_between_the_parts_has_the_attention_alone() {
    // The feed-forward network is added in two steps: the first of these sums is not the stream between.
    let mut b = Build::default();
    let x = b.embedding();
    let attention = b.block("blk.0.attn_output.weight", x);
    let between = b.add(attention, x);
    let routed = b.block("blk.0.ffn_down_exps.weight", between);
    let shared = b.block("blk.0.ffn_down_shexp.weight", between);
    let with_routed = b.add(routed, between);
    let last = b.add(shared, with_routed);
    let s = b.find(last).unwrap();
    let Source::Node(between) = between else { panic!() };
    assert_eq!(s.steps.as_ref().unwrap()[0].between, Some(between));
}
