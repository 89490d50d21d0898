//! Adds up matrices of which some count for more: `merge_weighted OUT FILE=WEIGHT ..`.
//!
//!     cargo run --no-default-features --example merge_weighted -- all.gguf prose.gguf=1 code.gguf=2.5
#![expect(clippy::print_stdout, reason = "the result")]

use llama_imatrix::Imatrix;
use llama_imatrix::imatrix::{ChunkSizes, Format, merge_weighted};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let out = args.next().ok_or("usage: merge_weighted OUT FILE=WEIGHT ..")?;
    let mut files = Vec::new();
    for arg in args {
        let (path, weight) = arg.rsplit_once('=').ok_or_else(|| format!("'{arg}' is not FILE=WEIGHT"))?;
        files.push((Imatrix::load(path)?, weight.parse()?));
    }
    let (mut merged, warnings) = merge_weighted(&files, ChunkSizes::default())?;
    for warning in warnings {
        println!("{warning}");
    }
    merged.settle_chunk_size(ChunkSizes::default().run);
    merged.save(out.as_ref(), Format::Gguf)?;
    println!("{} weights, as of {} chunks, in {out}", merged.len(), merged.chunk_count);
    Ok(())
}
