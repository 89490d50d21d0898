//! Tokens per second of a model, with ggml's matrix products and with those of this crate.
//!
//!     cargo run --release --example products -- model.gguf [TOKENS] [THREADS]
#![expect(clippy::print_stdout, reason = "it prints what it measures")]

use std::time::Instant;

use llama_imatrix::llama::{Batch, Context, ContextOptions, Model, ModelOptions, Outputs};
use llama_imatrix::products;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: products model.gguf [TOKENS] [THREADS]")?;
    let n_tokens: u32 = args.next().map_or(Ok(512), |n| n.parse())?;
    let threads: i32 = args.next().map_or(Ok(2), |n| n.parse())?;
    for registered in [false, true] {
        if registered {
            products::register();
        }
        let model = Model::load(path.as_ref(), &ModelOptions::default())?;
        let options = ContextOptions {
            n_threads: threads,
            n_threads_batch: threads,
            ..ContextOptions::new(n_tokens, Outputs::All)
        };
        let mut context = Context::new(&model, &options, ())?;
        let mut batch = Batch::new();
        let mut best = f64::MAX;
        for _ in 0..4 {
            batch.clear();
            (0..n_tokens as i32).for_each(|position| batch.add(1 + position % 50, position, 0));
            context.clear_memory();
            let begin = Instant::now();
            context.decode(&mut batch)?;
            context.synchronize();
            best = best.min(begin.elapsed().as_secs_f64());
        }
        println!(
            "{}: {:.1} tokens per second",
            ["ggml", "products"][usize::from(registered)],
            f64::from(n_tokens) / best
        );
    }
    Ok(())
}
