//! Compares the kernels of `llama_imatrix::products` that this CPU can run with ggml, over random products: bits and speed.
//!
//!     cargo run --release --example products-check -- [SECONDS] [SEED] [--bits]
//!
//! `--bits` leaves out the speed.
//! Exits with 1 if a bit of a kernel that is used is apart. `register` finds out on each machine which kernels are exact, and
//! uses no others; those are listed all the same.
#![expect(clippy::print_stdout, reason = "it prints what it measures")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use llama_imatrix::products::{self, Kind, Shape, Values};

fn main() -> ExitCode {
    let (flags, numbers): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|arg| arg == "--bits");
    let mut args = numbers.into_iter();
    let seconds: u64 = args.next().and_then(|n| n.parse().ok()).unwrap_or(10);
    let seed: u64 = args.next().and_then(|n| n.parse().ok()).unwrap_or(1);
    let choices = products::register();
    for choice in choices {
        println!("{}: computed by {}", choice.kind(), choice.kernel().unwrap_or("ggml"));
    }
    let kernels: Vec<_> = Kind::ALL
        .iter()
        .flat_map(|&kind| products::kernels(kind).into_iter().map(move |kernel| (kind, kernel)))
        .collect();
    let mut apart = 0;
    for &(kind, kernel) in &kernels {
        let found = fuzz(kind, kernel, Duration::from_secs(seconds) / kernels.len() as u32, seed);
        if choices.iter().any(|choice| choice.kind() == kind && choice.kernel() == Some(kernel)) {
            apart += found;
        }
        if flags.is_empty() {
            for shape in real_shapes() {
                speed(kind, kernel, shape);
            }
        }
    }
    if apart == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Random shapes until the time is up. Returns how many bits are apart.
fn fuzz(kind: Kind, kernel: &str, time: Duration, mut seed: u64) -> usize {
    let (begin, mut products, mut results, mut apart) = (Instant::now(), 0, 0, 0);
    while begin.elapsed() < time {
        seed += 1;
        let (shape, values) = random_shape(seed);
        let Some(outcome) = products::compare(kind, kernel, shape, values, seed, 1 + seed as usize % 2, 1) else {
            continue;
        };
        if outcome.apart > 0 && apart == 0 {
            println!(
                "{kind} {kernel}: {} of {} apart in {shape:?} {values:?} seed {seed}",
                outcome.apart, outcome.results
            );
        }
        products += 1;
        results += outcome.results;
        apart += outcome.apart;
    }
    println!("{kind} {kernel}: {products} products, {results} results, {apart} apart");
    apart
}

fn random_shape(seed: u64) -> (Shape, Values) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut below = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    let k = if below(2) == 0 { 256 * (1 + below(8)) } else { 32 * (1 + below(20)) };
    let rows = if below(3) == 0 { 1 + below(40) } else { 4 * (1 + below(24)) };
    let tokens = if below(2) == 0 { 8 + below(60) } else { 8 + 4 * below(16) };
    let experts = 1 + below(12);
    let shape = Shape { k, rows, tokens, experts: (experts, 1 + below(experts)), own_rows: below(2) == 0 };
    (shape, [Values::Usual, Values::Extreme, Values::NotFinite][below(3)])
}

/// Shapes of models: 512 tokens, dense and with experts.
fn real_shapes() -> [Shape; 5] {
    let shape = |k, rows, experts| Shape { k, rows, tokens: 512, experts, own_rows: false };
    let long = [shape(3072, 512, (8, 2)), shape(4096, 1024, (4, 2)), shape(14336, 512, (4, 2))];
    [shape(1024, 512, (64, 8)), shape(1024, 1024, (8, 2)), long[0], long[1], long[2]]
}

fn speed(kind: Kind, kernel: &str, shape: Shape) {
    if let Some(outcome) = products::compare(kind, kernel, shape, Values::Usual, 1, 1, 5) {
        let per_second = |time: Duration| shape.operations(kind) as f64 / time.as_secs_f64() / 1e9;
        let (ours, ggml) = (per_second(outcome.kernel), per_second(outcome.ggml));
        let Shape { k, rows, tokens, experts, .. } = shape;
        println!(
            "    k {k}, {rows} rows, {tokens} tokens, experts {experts:?}: ggml {ggml:.1}, {kernel} {ours:.1} GOP/s on one \
             thread, {:.2} times",
            ours / ggml
        );
    }
}
