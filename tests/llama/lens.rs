//! Looking into models of any architecture, through the library.

#![expect(clippy::print_stderr, reason = "a line a model, for those who run it")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use llama_imatrix::calibration::{ChunkOptions, Chunks};
use llama_imatrix::collect::{Earlier, Snapshot};
use llama_imatrix::evaluate::{Lanes, Listener, RunOptions, Start, run};
use llama_imatrix::imatrix::Entry;
use llama_imatrix::lens::file::{LensFile, Model as ModelName, Section};
use llama_imatrix::lens::{LensOptions, Measurements, Settings};
use llama_imatrix::llama::{FlashAttention, Model, ModelOptions, Tuning};
use llama_imatrix::{Collector, CollectorOptions};

struct Silent;

impl Listener for Silent {
    fn due(&mut self, _: &Snapshot) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
    }
    fn first_batch(&mut self, _: f32, _: usize, _: usize) {}
    fn perplexity(&mut self, _: usize, _: f64) {}
    fn progress(&mut self, _: usize, _: usize) {}
}

type Sums = Vec<(String, Entry)>;

/// The sums of a run over tokens drawn at random, and what it says about the layers.
fn look(model: &Model, lens: Option<LensOptions>) -> Result<(Sums, Option<LensFile>), String> {
    let n_tokens = model.vocab().n_tokens() as i32;
    let tokens: Vec<i32> = (0..2 * 32).map(|i: i32| (i * 7919 + i * i * 31) % n_tokens).collect();
    let chunks = Chunks::new(tokens, ChunkOptions { size: 32, ..ChunkOptions::default() }).unwrap();
    let collector = Collector::new(&CollectorOptions { chunk_size: 32, ..CollectorOptions::default() });
    let options = RunOptions {
        n_batch: 64,
        n_ubatch: 64,
        n_threads: 1,
        n_threads_batch: 1,
        flash_attention: FlashAttention::Auto,
        tuning: Tuning::default(),
        perplexity: false,
        lanes: Lanes::Count(1),
        part: None,
        keep_likelihoods: false,
        max_bad_chunks: 0,
        lens: lens.clone(),
        sample: None,
        stop_when_covered: None,
        stop_when_converged: None,
        read_ahead: None,
        stop: Arc::default(),
        tokens_done: Arc::default(),
    };
    let start = Start::new(Earlier::nothing());
    let outcome = run(model, None, &chunks, &collector, start, &options, &mut Silent).map_err(|e| e.to_string())?;
    let name = ModelName { name: model.name(), architecture: model.architecture(), n_layer: model.n_layer() as u32 };
    let file = lens.zip(outcome.findings).map(|(lens, findings)| {
        Measurements { settings: Settings::new(name, &lens), findings }.file(String::new(), 32, 2)
    });
    let snapshot = collector.snapshot();
    Ok((snapshot.entries().map(|(name, entry)| (name.to_owned(), entry.into_owned())).collect(), file))
}

fn reason<T>(section: Option<&Section<T>>) -> Option<&str> {
    match section {
        Some(Section::Unsupported { unsupported }) => Some(unsupported),
        _ => None,
    }
}

/// Every GGUF file of a folder, such as that of llama.cpp's `test-llama-archs -o FOLDER`: where it can be looked into the
/// parts add up and the last layer is the model; where not, there is a reason; the sums never change.
#[test]
#[ignore = "takes a folder of models, LLAMA_IMATRIX_LENS_MODELS"]
fn any_architecture_decomposes_or_says_why_not() {
    let folder = std::env::var_os("LLAMA_IMATRIX_LENS_MODELS").expect("LLAMA_IMATRIX_LENS_MODELS names a folder");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(Path::new(&folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "gguf"));
    paths.sort();
    let lens = LensOptions { lens: true, prism: true, similarity: true, per_chunk: 6, seed: 1, base: None };
    let (mut whole, mut bad) = (0, Vec::new());
    for path in &paths {
        let name = path.file_stem().unwrap().to_string_lossy();
        let Ok(model) = Model::load(path, &ModelOptions::default()) else {
            eprintln!("{name}: cannot be loaded");
            continue;
        };
        let (plain, looked) = match (look(&model, None), look(&model, Some(lens.clone()))) {
            (Ok((plain, _)), Ok(looked)) => (plain, looked),
            (Err(error), _) => {
                eprintln!("{name}: cannot be run: {error}");
                continue;
            }
            (_, Err(error)) => {
                bad.push(format!("{name}: {error}"));
                continue;
            }
        };
        let (entries, Some(file)) = looked else { panic!("{name}") };
        if entries != plain {
            bad.push(format!("{name}: the sums are others"));
        }
        file.check().unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut line = format!("{name}:");
        let mut supported = true;
        let reasons = [reason(file.lens.as_ref()), reason(file.prism.as_ref()), reason(file.similarity.as_ref())];
        for (what, reason) in ["lens", "prism", "similarity"].iter().zip(reasons) {
            if let Some(reason) = reason {
                let _ = write!(line, " no {what}: {reason};");
                supported = false;
            }
        }
        if let Some(Section::Measured(lens)) = &file.lens {
            let kl = lens.layers.last().map_or(f64::NAN, |last| last.point.kl.mean);
            let _ = write!(line, " {} states, KL {kl:.1e};", lens.layers.len());
            if kl.abs() > 1e-4 {
                bad.push(format!("{name}: the last layer's KL is {kl}"));
            }
        }
        if let Some(Section::Measured(prism)) = &file.prism {
            let error = prism.next_token.sum_check.max_relative_error;
            let _ = write!(line, " {} parts, error {error:.1e};", prism.next_token.parts.len());
            if error > 1e-3 {
                bad.push(format!("{name}: the sum is off by {error}"));
            }
        }
        eprintln!("{line}");
        whole += usize::from(supported);
    }
    eprintln!("{whole} of {} in all three ways", paths.len());
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(whole > 0);
}
