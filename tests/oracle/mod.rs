//! The bit oracle: a naive observer against the program and the library, bit for bit, for every flag that changes what
//! is collected.
//!
//! [`naive`] sums each weight's input by llama.cpp's rule and in its order, [`upstream`] evaluates chunks as its tool
//! does: whole batches, all logits, one context. Neither calls this crate's rule, kernels, sharing or loop. Sums that do
//! not depend on the order are compared with exact ones ([`exact`]).

mod cases;
mod compare;
mod exact;
mod naive;
mod program;
mod upstream;

use std::path::Path;

use llama_imatrix::imatrix::Imatrix;
use llama_imatrix::llama::{Model, ModelOptions};
use llama_imatrix::nextn::{Layer, Located, ModelHeader, locate};

use crate::support;
use cases::{CASES, Case, NEXTN_CASES, Setup};

/// Batches evaluated side by side, each compared with one evaluation by the oracle.
const LANES: [usize; 3] = [1, 2, 3];

/// Text of 20 chunks of 64 tokens or more with every test model.
fn text() -> String {
    support::text(1500, 3)
}

fn write_model(dir: &Path, name: &str) -> std::path::PathBuf {
    let path = dir.join(name).with_extension("gguf");
    std::fs::write(&path, support::build(name)).unwrap();
    path
}

/// Runs all cases with one model and names every one that fails.
fn check_model(name: &str, cases: &[Case]) {
    let dir = tempfile::tempdir().unwrap();
    let path = write_model(dir.path(), name);
    let nextn = cases.iter().any(|case| case.setup().nextn);
    let model = Model::load(&path, &ModelOptions { nextn, ..ModelOptions::default() }).unwrap();
    let shape = nextn.then(|| ModelHeader::read(&path).unwrap());
    let layer = shape.as_ref().and_then(|shape| match locate(&model, &model, Some(shape)).unwrap() {
        Located::Layer(layer) => Some(layer),
        _ => None,
    });
    let failures: Vec<_> = cases.iter().flat_map(|case| failures(name, &model, layer, case)).collect();
    report(&failures);
}

fn failures(name: &str, model: &Model, layer: Option<Layer<'_>>, case: &Case) -> Vec<String> {
    let setup = case.setup();
    let layer = layer.filter(|_| setup.nextn);
    let earlier = setup.earlier.then(|| compare::collect(model, layer, &case.before(), 1, &Imatrix::default()));
    let earlier = earlier.unwrap_or_default();
    let want = upstream::collect(model, layer, &setup, &earlier);
    // A recurrent model's inputs have a chunk's rows, however many chunks are side by side.
    let too_few_rows = setup.min_rows > setup.size as i64;
    assert!(too_few_rows || !want.entries.is_empty(), "{name}, {}: nothing was collected", case.name);
    let mut failures = Vec::new();
    for lanes in LANES {
        let found = compare::collect(model, layer, &setup, lanes, &earlier);
        if let Some(difference) = compare::difference(&want, &found) {
            failures.push(format!("{name}, {}, {lanes} lanes: {difference}", case.name));
        }
    }
    failures
}

fn report(failures: &[String]) {
    assert!(failures.is_empty(), "{} cases differ:\n{}", failures.len(), failures.join("\n"));
}

macro_rules! models {
    ($($test:ident: $model:literal, $cases:expr;)*) => {
        $(#[test]
        fn $test() {
            check_model($model, $cases);
        })*

        #[test]
        fn every_test_model_is_compared() {
            let compared = [$($model),*];
            let lists = [support::MODELS, support::BEYOND, support::NEXTN];
            let missing: Vec<_> = lists
                .into_iter()
                .flatten()
                .map(|model| model.name)
                .filter(|name| !compared.contains(name))
                .collect();
            assert!(missing.is_empty(), "no test for {missing:?}");
        }
    };
}

models! {
    llama_is_collected_bit_for_bit: "llama", CASES;
    qwen3moe_is_collected_bit_for_bit: "qwen3moe", CASES;
    deepseek2_is_collected_bit_for_bit: "deepseek2", CASES;
    gemma3_is_collected_bit_for_bit: "gemma3", CASES;
    gemma2_is_collected_bit_for_bit: "gemma2", CASES;
    mamba_is_collected_bit_for_bit: "mamba", CASES;
    lfm2_is_collected_bit_for_bit: "lfm2", CASES;
    llada_is_collected_bit_for_bit: "llada", CASES;
    dream_is_collected_bit_for_bit: "dream", CASES;
    qwen2_is_collected_bit_for_bit: "qwen2", CASES;
    gpt2_is_collected_bit_for_bit: "gpt2", CASES;
    bert_is_collected_bit_for_bit: "bert", CASES;
    nextn_is_collected_bit_for_bit: "nextn", NEXTN_CASES;
    nextn_head_is_collected_bit_for_bit: "nextn-head", NEXTN_CASES;
    nextn_hybrid_is_collected_bit_for_bit: "nextn-hybrid", NEXTN_CASES;
    nextn_trunk_is_collected_bit_for_bit: "nextn-trunk", CASES;
}

#[test]
fn a_discarded_chunk_leaves_the_bits_of_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = write_model(dir.path(), "llama-nan-token");
    let model = Model::load(&path, &ModelOptions::default()).unwrap();
    let setup = Setup { limit: None, max_bad_chunks: 1, ..Setup::default() };
    let mut failures = Vec::new();
    for setup in [setup.clone(), Setup { exact: true, ..setup }] {
        let want = upstream::collect(&model, None, &setup, &Imatrix::default());
        assert_eq!(want.skipped.len(), 1, "one chunk has the token");
        for lanes in LANES {
            let found = compare::collect(&model, None, &setup, lanes, &Imatrix::default());
            if let Some(difference) = compare::difference(&want, &found) {
                failures.push(format!("exact {}, {lanes} lanes: {difference}", setup.exact));
            }
        }
    }
    report(&failures);
}
