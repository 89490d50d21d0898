//! Benchmarks of the parts: `cargo bench --no-default-features`. None needs llama.cpp or a model.

mod collect;
mod exact;
mod gguf;
mod imatrix;
mod perplexity;

fn main() {
    divan::main();
}

/// Numbers that look like activations: many small, few large, none special. The same each time.
fn activations(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * 0.618_034).fract() - 0.5).map(|x| x / (0.51 - x.abs())).collect()
}
