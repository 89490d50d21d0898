//! Collects an importance matrix: `collect MODEL TEXT MATRIX`. The file is the one the program writes.
#![expect(clippy::print_stderr, reason = "progress")]

use std::ops::ControlFlow;

use llama_imatrix::imatrix::Format;
use llama_imatrix::llama::{Model, ModelOptions};
use llama_imatrix::{Progress, Session, SessionOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, model, text, matrix] = args.as_slice() else { return Err("usage: collect MODEL TEXT MATRIX".into()) };
    let model = Model::load(model.as_ref(), &ModelOptions::default())?;
    let bytes = std::fs::read(text)?;
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes); // as llama.cpp's tools read a text
    let options = SessionOptions { dataset: Some(text.clone()), ..SessionOptions::default() };
    let collected = Session::new(&model, options).collect(bytes, |progress| {
        if let Progress::Chunks { done, total, .. } = progress {
            eprintln!("{done} of {total} chunks");
        }
        ControlFlow::Continue(())
    })?;
    collected.imatrix.save(matrix.as_ref(), Format::Gguf)?;
    Ok(())
}
