//! Rows that are shown to experts, against a computation in plain loops from the weights in the model's file.

use std::collections::BTreeMap;
use std::sync::Arc;

use llama_imatrix::calibration::ChunkOptions;
use llama_imatrix::collect::{Earlier, Snapshot};
use llama_imatrix::evaluate::{Lanes, Listener, Outcome, RunOptions, Start};
use llama_imatrix::gguf::File;
use llama_imatrix::imatrix::{Imatrix, Shown};
use llama_imatrix::llama::{ContextOptions, Model, ModelOptions, Outputs};
use llama_imatrix::shown::{ROWS, RowSample, ShownExperts};
use llama_imatrix::{Session, SessionOptions, calibration::Chunks};

use super::options;
use crate::support;

struct Quiet;

impl Listener for Quiet {
    fn due(&mut self, _: &Snapshot) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
    }

    fn first_batch(&mut self, _: f32, _: usize, _: usize) {}

    fn perplexity(&mut self, _: usize, _: f64) {}

    fn progress(&mut self, _: usize, _: usize) {}
}

fn run(model: &Model, chunks: usize, experts: Option<&ShownExperts<'_>>, options: RunOptions) -> (Imatrix, Outcome) {
    let text = support::text(4000, 3);
    let tokens = model.vocab().tokenize(text.as_bytes(), false).unwrap();
    let chunks =
        Chunks::new(tokens, ChunkOptions { size: 64, limit: Some(chunks), ..ChunkOptions::default() }).unwrap();
    let sample = experts.map(|experts| Arc::clone(experts.layers()));
    let run = RunOptions { sample, n_threads: 1, n_threads_batch: 1, ..options };
    let session = Session::new(model, SessionOptions { run, ..SessionOptions::default() });
    let (collector, outcome) = session.run(&chunks, Start::new(Earlier::nothing()), &mut Quiet).unwrap();
    (collector.finish().unwrap(), outcome)
}

fn small() -> RunOptions {
    RunOptions { n_batch: 64, ..RunOptions::default() }
}

/// The weights of a file in f32, by name, with their shapes.
struct Weights(BTreeMap<String, (Vec<f32>, [u64; 4])>);

impl Weights {
    fn read(bytes: Vec<u8>) -> Self {
        let file = File::from_bytes(bytes).unwrap();
        Self(file.tensors().filter_map(|t| Some((t.name.to_owned(), (t.to_f32()?, t.shape)))).collect())
    }

    /// The values of an expert: its part of the last dimension that is not 1.
    fn expert(&self, name: &str, n_experts: usize, expert: usize) -> Option<&[f32]> {
        let (values, _) = self.0.get(name)?;
        values.chunks_exact(values.len() / n_experts).nth(expert)
    }
}

/// How gate and up become the input of down.
#[derive(Clone, Copy)]
enum Activation {
    Silu,
    Relu,
    /// Of gpt-oss: gate at most 7, up from -7 to 7.
    Oai,
}

impl Activation {
    fn apply(self, gate: f64, up: f64) -> f64 {
        match self {
            Self::Silu => gate / (1.0 + (-gate).exp()) * up,
            Self::Relu => gate.max(0.0) * up,
            Self::Oai => {
                let (gate, up) = (gate.min(7.0), up.clamp(-7.0, 7.0));
                gate / (1.0 + (-1.702 * gate).exp()) * (up + 1.0)
            }
        }
    }
}

/// The input of down of an expert for one row.
fn input_of_down(w: &Weights, layer: usize, expert: usize, n: usize, row: &[f32], activation: Activation) -> Vec<f64> {
    let name = |kind: &str| format!("blk.{layer}.{kind}");
    let product = |matrix: &[f32]| -> Vec<f64> {
        let dot = |column: &[f32]| column.iter().zip(row).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        matrix.chunks_exact(row.len()).map(dot).collect()
    };
    let (mut gate, mut up) = match w.expert(&name("ffn_gate_up_exps.weight"), n, expert) {
        Some(both) => {
            let both = product(both);
            (both[..both.len() / 2].to_vec(), both[both.len() / 2..].to_vec())
        }
        None => (
            product(w.expert(&name("ffn_gate_exps.weight"), n, expert).unwrap()),
            product(w.expert(&name("ffn_up_exps.weight"), n, expert).unwrap()),
        ),
    };
    for (values, kind) in [(&mut gate, "ffn_gate_exps"), (&mut up, "ffn_up_exps")] {
        if let Some(scale) = w.expert(&name(&format!("{kind}.scale")), n, expert) {
            for x in &mut *values {
                *x *= f64::from(scale[0]);
            }
        }
        if let Some(bias) = w.expert(&name(&format!("{kind}.bias")), n, expert) {
            values.iter_mut().zip(bias).for_each(|(x, bias)| *x += f64::from(*bias));
        }
    }
    gate.into_iter().zip(up).map(|(gate, up)| activation.apply(gate, up)).collect()
}

fn load(bytes: &[u8]) -> (tempfile::TempDir, Model) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("model.gguf"), bytes).unwrap();
    let model = Model::load(&dir.path().join("model.gguf"), &ModelOptions::default()).unwrap();
    (dir, model)
}

fn context_options() -> ContextOptions {
    options(Outputs::Nothing)
}

fn all_sums(experts: &mut ShownExperts<'_>, matrix: &Imatrix, sample: &RowSample) -> Shown {
    experts.sums(&matrix.entries, sample, i64::MAX, |_, _| true).unwrap()
}

#[test]
fn the_input_of_down_is_what_the_experts_weights_make_of_the_sampled_rows() {
    for (name, activation, n_experts, first_layer) in [
        ("deepseek2", Activation::Silu, 6, 1),
        ("deepseek2-fused", Activation::Silu, 6, 1),
        ("gpt-oss", Activation::Oai, 6, 0),
        ("smallthinker", Activation::Relu, 6, 0),
        ("llama4", Activation::Silu, 6, 0),
        ("scaled", Activation::Silu, 6, 0),
        ("qwen3moe", Activation::Silu, 8, 0),
    ] {
        let bytes = support::build(name);
        let (_dir, model) = load(&bytes);
        let mut experts = ShownExperts::new(&model, &context_options()).unwrap();
        assert!(experts.refusals().is_empty() && experts.n_weights() >= 2, "{name}: {:?}", experts.refusals());
        let (matrix, outcome) = run(&model, 3, Some(&experts), small());
        let sample = outcome.position.sample;
        assert_eq!((sample.len(), sample.layers()), (3 * 64, &**experts.layers()), "{name}");
        let shown = all_sums(&mut experts, &matrix, &sample);
        assert_eq!(shown.len(), experts.n_weights(), "{name}");
        let weights = Weights::read(bytes);
        // f16 weights multiply inputs in f16.
        let tolerance = if name == "qwen3moe" { 2e-3 } else { 1e-5 };
        for index in 0..experts.n_weights() {
            let layer = index + first_layer;
            let of_layer = &shown[&format!("blk.{layer}.ffn_down_exps.weight")];
            assert_eq!(of_layer.len(), n_experts, "{name}");
            for (&expert, sums) in of_layer {
                // In llama4, a token has a row per slot. The expert is in the slot of its place in its group of two.
                let slot = if name == "llama4" { expert as usize % 2 } else { 0 };
                let (mut sum2, mut sum) = (vec![0.0; sums.sum2.len()], vec![0.0; sums.sum2.len()]);
                for rows in sample.rows_of(index) {
                    let row = &rows[slot * 64..(slot + 1) * 64];
                    let x = input_of_down(&weights, layer, expert as usize, n_experts, row, activation);
                    sum2.iter_mut().zip(&x).for_each(|(sum2, x)| *sum2 += x * x);
                    sum.iter_mut().zip(&x).for_each(|(sum, x)| *sum += x);
                }
                let size = sum2.iter().sum::<f64>() / sum2.len() as f64;
                assert_eq!(sums.rows as usize, sample.len());
                for (found, expected) in sums.sum2.iter().zip(&sum2) {
                    assert!(
                        (found - expected).abs() <= tolerance * size,
                        "{name} {layer} {expert}: {found} {expected}"
                    );
                }
                let size = (size * sample.len() as f64).sqrt();
                for (found, expected) in sums.sum.iter().zip(&sum) {
                    assert!(
                        (found - expected).abs() <= tolerance * size,
                        "{name} {layer} {expert}: {found} {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_sample_of_all_tokens_has_the_sums_of_the_matrix() {
    for name in ["qwen3moe", "deepseek2", "llama4"] {
        let (_dir, model) = load(&support::build(name));
        let experts = ShownExperts::new(&model, &context_options()).unwrap();
        // 4 chunks of 64: as many tokens as a sample has room for.
        let (matrix, outcome) = run(&model, 4, Some(&experts), small());
        let sample = outcome.position.sample;
        assert_eq!(sample.len(), ROWS, "{name}");
        for (index, layer) in sample.layers().iter().enumerate() {
            // Each token has two experts, which read its row; in llama4, a row each.
            let entry = &matrix.entries[&layer.weight];
            let copies = if layer.width == 64 { 2.0 } else { 1.0 };
            let mut expected = vec![0.0; 64];
            for row in sample.rows_of(index).flat_map(|rows| rows.chunks_exact(64)) {
                expected.iter_mut().zip(row).for_each(|(sum, &x)| *sum += copies * f64::from(x) * f64::from(x));
            }
            let mut found = vec![0.0; 64];
            for expert in entry.sum2.chunks_exact(64) {
                found.iter_mut().zip(expert).for_each(|(sum, &x)| *sum += f64::from(x));
            }
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() <= 1e-5 * expected, "{name} {}: {found} {expected}", layer.weight);
            }
        }
    }
}

#[test]
fn lanes_batches_and_micro_batches_do_not_change_the_sampled_tokens() {
    let (_dir, model) = load(&support::build("qwen3moe"));
    let mut experts = ShownExperts::new(&model, &context_options()).unwrap();
    let tokens = |sample: &RowSample| -> Vec<(u64, u64)> { sample.tokens().map(|(c, p, _)| (c, p)).collect() };
    let (matrix, outcome) = run(&model, 20, Some(&experts), small());
    let first = outcome.position.sample;
    assert_eq!(first.len(), ROWS);
    let shown = all_sums(&mut experts, &matrix, &first);
    let lanes = RunOptions { lanes: Lanes::Count(3), ..small() };
    let (other_matrix, outcome) = run(&model, 20, Some(&experts), lanes);
    assert_eq!(outcome.position.sample, first);
    assert_eq!(other_matrix, matrix);
    assert_eq!(all_sums(&mut experts, &matrix, &outcome.position.sample), shown);
    for options in [RunOptions { n_batch: 256, ..small() }, RunOptions { n_ubatch: 24, ..small() }] {
        let (_, outcome) = run(&model, 20, Some(&experts), options);
        let sample = outcome.position.sample;
        assert_eq!(tokens(&sample), tokens(&first));
        for ((_, _, a), (_, _, b)) in sample.tokens().zip(first.tokens()) {
            // Of the first layer: above it, the last digits may decide which experts a token is routed to.
            assert!(a[..64].iter().zip(&b[..64]).all(|(a, b)| (a - b).abs() < 1e-2));
        }
    }
    // Sampling changes no sum.
    let (plain, outcome) = run(&model, 20, None, small());
    assert!(outcome.position.sample.is_empty());
    assert_eq!(plain, matrix);
}

#[test]
fn the_samples_of_parts_of_a_text_join_to_that_of_the_whole() {
    let (_dir, model) = load(&support::build("qwen3moe"));
    let experts = ShownExperts::new(&model, &context_options()).unwrap();
    let part = |part| run(&model, 20, Some(&experts), RunOptions { part: Some(part), ..small() }).1.position.sample;
    let mut joined = part(0..7);
    joined.join(&part(7..20));
    assert_eq!(joined, part(0..20));
}

#[test]
fn a_model_without_experts_has_no_layers_to_sample() {
    let (_dir, model) = load(&support::build("llama"));
    let mut experts = ShownExperts::new(&model, &context_options()).unwrap();
    assert!(experts.layers().is_empty() && experts.refusals().is_empty());
    assert!(all_sums(&mut experts, &Imatrix::default(), &RowSample::default()).is_empty());
}
