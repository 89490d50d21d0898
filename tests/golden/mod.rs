//! Against files that llama.cpp's own tool wrote: see `tests/data/collect/README.md`.
//!
//! Bytes depend on the machine (ggml picks its kernels by the CPU), so here values are held against a bound;
//! `scripts/compare-upstream.sh` runs both programs on one machine and holds them against each other to the byte.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use llama_imatrix::collect::Earlier;
use llama_imatrix::evaluate::{Lanes, Listener, RunOptions, Start, run};
use llama_imatrix::imatrix::{Entry, Imatrix, Loaded};
use llama_imatrix::llama::{FlashAttention, Model, ModelOptions, Tuning};

use crate::support;

/// Relative to a tensor's largest sum of squares. Kernels of other CPUs differ by a thousandth of it.
const BOUND: f64 = 2e-3;

struct Silent;

impl Listener for Silent {
    fn due(&mut self, _: &llama_imatrix::collect::Snapshot) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
    }
    fn first_batch(&mut self, _: f32, _: usize, _: usize) {}
    fn perplexity(&mut self, _: usize, _: f64) {}
    fn progress(&mut self, _: usize, _: usize) {}
}

/// What `make.sh` has the tool do: `-c 128 -b 256 --chunks 4 --process-output`.
fn collect(model: &str) -> (Imatrix, f64) {
    use llama_imatrix::calibration::{ChunkOptions, Chunks};
    use llama_imatrix::collect::Rule;
    use llama_imatrix::{Collector, CollectorOptions};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, support::build(model)).unwrap();
    // Repacked for AMX, weights give sums that differ by more than other CPUs' do.
    let model = Model::load(&path, &ModelOptions { no_repack: true, ..ModelOptions::default() }).unwrap();
    let mut text = support::calibration();
    assert_eq!(text.pop(), Some('\n'));
    let tokens = model.vocab().tokenize(text.as_bytes(), false).unwrap();
    let options = ChunkOptions { size: 128, limit: Some(4), ..ChunkOptions::default() };
    let chunks = Chunks::new(tokens, options).unwrap();
    let collector = Collector::new(&CollectorOptions {
        rule: Rule { process_output: true, ..Rule::default() },
        chunk_size: 128,
        ..CollectorOptions::default()
    });
    let options = RunOptions {
        n_batch: 256,
        n_ubatch: 512,
        n_threads: 2,
        n_threads_batch: 2,
        flash_attention: FlashAttention::Auto,
        tuning: Tuning::default(),
        perplexity: true,
        lanes: Lanes::default(),
        part: None,
        keep_likelihoods: false,
        max_bad_chunks: 0,
        lens: None,
        sample: None,
        stop_when_covered: None,
        stop_when_converged: None,
        read_ahead: None,
        stop: Arc::default(),
        tokens_done: Arc::default(),
    };
    let start = Start::new(Earlier::nothing());
    let outcome = run(&model, None, &chunks, &collector, start, &options, &mut Silent).unwrap();
    let mut imatrix = Imatrix { chunk_count: collector.chunks(), chunk_size: 128, ..Imatrix::default() };
    imatrix.entries =
        collector.snapshot().entries().map(|(name, entry)| (name.to_owned(), entry.into_owned())).collect();
    (imatrix, outcome.perplexity.unwrap().value)
}

fn golden(model: &str) -> (Loaded, f64) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/collect");
    let imatrix = Imatrix::load(dir.join(model).with_extension("gguf")).unwrap();
    let text = std::fs::read_to_string(dir.join(model).with_extension("ppl")).unwrap();
    (imatrix, text.trim().parse().unwrap())
}

#[test]
fn every_architecture_collects_what_llama_cpps_tool_does() {
    for model in support::MODELS {
        let name = model.name;
        let ((found, perplexity), (want, want_perplexity)) = (collect(name), golden(name));
        assert!((perplexity / want_perplexity - 1.0).abs() < 5e-3, "{name}: {perplexity}, not {want_perplexity}");
        assert_eq!((found.chunk_count, found.chunk_size), (want.chunk_count, want.chunk_size), "{name}");
        assert_same(name, &found.entries, &want.entries);
    }
}

/// Weights, counts and sums are the same, within what another CPU's kernels change.
pub(crate) fn assert_same(name: &str, found: &BTreeMap<String, Entry>, want: &BTreeMap<String, Entry>) {
    assert_eq!(found.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>(), "{name}: the weights");
    for (weight, entry) in found {
        let want = &want[weight];
        assert_eq!(entry.counts.len(), want.counts.len(), "{name} {weight}");
        let routed = entry.counts.len() > 1;
        if routed {
            // A token between two experts may go to the other one on another CPU.
            assert_eq!(entry.counts.iter().sum::<i64>(), want.counts.iter().sum::<i64>(), "{name} {weight}");
        } else {
            assert_eq!(entry.counts, want.counts, "{name} {weight}");
        }
        let bound = if routed { 0.05 } else { BOUND };
        assert_close(&format!("{name} {weight} in_sum2"), &entry.sum2, &want.sum2, bound);
        let (sum, want_sum) = (entry.activations(), want.activations());
        assert_eq!(sum.len(), want_sum.len());
        let scale = (want.counts[0].max(1) as f32).sqrt();
        let rms = |values: &[f32]| values.iter().map(|v| v * v).sum::<f32>().sqrt() * scale;
        let difference: Vec<f32> = sum.iter().zip(want_sum).map(|(a, b)| a - b).collect();
        assert!(rms(&difference) <= bound as f32 * rms(&want.sum2).max(1.0), "{name} {weight} in_sum");
    }
}

fn assert_close(what: &str, found: &[f32], want: &[f32], bound: f64) {
    assert_eq!(found.len(), want.len(), "{what}");
    let largest = want.iter().copied().fold(0.0_f32, f32::max);
    for (i, (a, b)) in found.iter().zip(want).enumerate() {
        assert!(f64::from((a - b).abs()) <= bound * f64::from(largest), "{what}[{i}]: {a}, not {b}");
    }
}
