//! Collects while a model is in use: `chat MODEL MATRIX < prompts.txt`. Each line of standard input is continued by up to
//! 48 tokens, the most likely one each time, and the matrix is saved after every reply: it is that of everything the
//! model has read and said.
#![expect(clippy::print_stdout, reason = "the replies")]

use std::io::{BufRead, Write};

use llama_imatrix::collect::Rule;
use llama_imatrix::imatrix::Format;
use llama_imatrix::llama::{Batch, Context, ContextOptions, Model, ModelOptions, Outputs, Token};
use llama_imatrix::{Collector, CollectorOptions};

/// Tokens of the whole conversation.
const CONTEXT: usize = 2048;
/// Tokens of a reply.
const REPLY: usize = 48;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, model, matrix] = args.as_slice() else { return Err("usage: chat MODEL MATRIX < PROMPTS".into()) };
    let model = Model::load(model.as_ref(), &ModelOptions::default())?;
    let vocab = model.vocab();
    // Tokens of a reply come one by one: rows are few.
    let rule = Rule { min_rows: 1, ..Rule::default() };
    let collector = Collector::new(&CollectorOptions { rule, ..CollectorOptions::default() });
    let mut context = Context::new(&model, &options(), collector.lane())?;

    let mut stdout = std::io::stdout();
    let mut batch = Batch::new();
    let mut position = 0;
    for prompt in std::io::stdin().lock().lines() {
        let mut next: Vec<Token> = vocab.tokenize(prompt?.as_bytes(), false)?;
        next.truncate(CONTEXT - position);
        for _ in 0..REPLY {
            if next.is_empty() || position + next.len() > CONTEXT {
                break;
            }
            batch.clear();
            for &token in &next {
                batch.add(token, position as i32, 0);
                position += 1;
            }
            context.decode(&mut batch)?; // an error of the collector comes out here
            let logits = context.logits().ok_or("the model computes no logits")?;
            let last = &logits[logits.len() - vocab.n_tokens()..];
            let likeliest = (0..).zip(last).max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(token, _)| token);
            if vocab.is_end(likeliest) {
                break;
            }
            stdout.write_all(&vocab.piece(likeliest))?;
            next = vec![likeliest];
        }
        println!();
        collector.finish()?.save(matrix.as_ref(), Format::Gguf)?;
    }
    Ok(())
}

fn options() -> ContextOptions {
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from) as i32;
    ContextOptions {
        n_ubatch: 512,
        n_threads,
        n_threads_batch: n_threads,
        ..ContextOptions::new(CONTEXT as u32, Outputs::All)
    }
}
