//! Matrix products of our own against ggml's.

#![expect(clippy::print_stderr, reason = "what was skipped, for those who run the tests")]

use llama_imatrix::products::{self, Kind, Shape, Values};

use super::*;

/// Kinds of products with the kernel that computes each on this machine.
fn used() -> Vec<(Kind, &'static str)> {
    let choices = products::register();
    let used: Vec<_> = choices.iter().filter_map(|choice| Some((choice.kind(), choice.kernel()?))).collect();
    if used.is_empty() {
        eprintln!("no product is computed by a kernel of ours here: nothing is tested");
    }
    #[cfg(all(target_arch = "x86_64", target_os = "linux", feature = "openmp"))]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // Dense products of BF16 have a kernel for AVX2 alone, those of F16 one for AVX-512 alone.
        assert!(used.len() >= choices.len() - 1, "each kind has an exact kernel where there is AVX2: {used:?}");
        // Two kinds are of weights for AMX.
        assert!(choices.len() >= Kind::ALL.len() - 2, "{used:?}");
    }
    used
}

fn assert_same_bits(shape: Shape, values: Values, seed: u64, threads: usize) {
    for (kind, kernel) in used() {
        let Some(outcome) = products::compare(kind, kernel, shape, values, seed, threads, 1) else {
            let Shape { k, rows, tokens, .. } = shape;
            let usual = k.is_multiple_of(256) && rows.is_multiple_of(32) && tokens.is_multiple_of(4);
            assert!(!usual, "{kind} {kernel} takes products of {shape:?}");
            continue;
        };
        let (apart, results) = (outcome.apart, outcome.results);
        assert_eq!(apart, 0, "{kind} {kernel}: {apart} of {results} in {shape:?} {values:?}, seed {seed}");
    }
}

/// Without allocation llama.cpp counts the compute buffer once for each backend in CPU memory, and ours is one.
#[test]
fn a_dry_model_needs_the_memory_that_a_loaded_one_takes() {
    used();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, support::build("qwen2")).unwrap();
    let load = |dry| Model::load(&path, &ModelOptions { dry, ..ModelOptions::default() }).unwrap();
    let (dry, loaded) = (load(true), load(false));
    let host = |model: &Model| model.memory_needed(&options(Outputs::Nothing)).unwrap().unwrap()[0];
    assert_eq!((host(&dry).compute, host(&dry).cache), (host(&loaded).compute, host(&loaded).cache));
    let written = dry.memory_written(&options(Outputs::Nothing)).unwrap().unwrap()[0];
    assert!(written.compute < host(&dry).compute, "logits that nobody computes count: {written:?}");
    assert!(written.compute > 64 * 64 * size_of::<f32>(), "activations do not: {written:?}");
}

#[test]
fn random_products_have_ggmls_bits() {
    for seed in 0..150_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut below = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        let experts = 1 + below(9);
        let shape = Shape {
            // Half of them are multiples of what any kernel needs.
            k: if below(2) == 0 { 256 * (1 + below(3)) } else { 32 * (1 + below(20)) },
            rows: if below(2) == 0 { 32 * (1 + below(3)) } else { 1 + below(70) },
            tokens: if below(2) == 0 { 8 + 4 * below(10) } else { 8 + below(40) },
            experts: (experts, 1 + below(experts)),
            own_rows: below(2) == 0,
        };
        let values = [Values::Usual, Values::Extreme, Values::NotFinite][seed as usize % 3];
        assert_same_bits(shape, values, seed, 1 + below(3));
    }
}

#[test]
fn odd_shapes_have_ggmls_bits() {
    for (rows, tokens, experts) in [
        (1, 8, (1, 1)),    // one row of weights
        (3, 9, (40, 1)),   // most experts without a token
        (5, 8, (2, 2)),    // all tokens to all experts
        (64, 300, (3, 2)), // more columns than are multiplied at once
        (2, 10, (16, 16)),
    ] {
        for own_rows in [false, true] {
            let shape = Shape { k: 1024, rows, tokens, experts, own_rows };
            for values in [Values::Usual, Values::Extreme, Values::NotFinite] {
                assert_same_bits(shape, values, 7, 2);
            }
        }
    }
}

#[test]
fn long_rows_have_ggmls_bits() {
    let shape = Shape { k: 14336, rows: 20, tokens: 25, experts: (4, 2), own_rows: false };
    assert_same_bits(shape, Values::Usual, 3, 2);
}

/// What is shared between the products of an evaluation must not outlive it.
#[test]
fn evaluations_of_one_context_do_not_share_activations() {
    let _ = products::register();
    with_built("qwen3moe", |model| {
        let logits = |context: &mut Context<'_, ()>, first: i32| {
            let mut batch = Batch::new();
            (0..N_TOKENS as i32).for_each(|i| batch.add(3 + (first + i) % 50, i, 0));
            context.clear_memory();
            context.decode(&mut batch).unwrap();
            context.logits().unwrap().to_vec()
        };
        let fresh: Vec<_> = [0, 20, 0].map(|first| logits(&mut context(model, ()), first)).into();
        let mut again = context(model, ());
        let reused: Vec<_> = [0, 20, 0].map(|first| logits(&mut again, first)).into();
        assert_eq!(fresh[0], fresh[2]);
        assert_ne!(fresh[0], fresh[1]);
        assert!(fresh == reused);
    });
}
