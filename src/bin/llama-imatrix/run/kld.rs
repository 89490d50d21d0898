//! `kld`: how far quantized models are from the original.

#[cfg(feature = "llama")]
mod comparing;
#[cfg(feature = "llama")]
mod document;
#[cfg(feature = "llama")]
mod parts;

use std::path::PathBuf;

#[cfg(feature = "llama")]
pub(crate) use comparing::run;

/// Compares the predictions of models with those of a reference: llama-perplexity's statistics, without a file of logits
#[derive(Debug, clap::Args)]
pub(crate) struct Kld {
    /// The model to compare with, or a file of its logits (--save-logits, llama-perplexity's --save-all-logits)
    #[arg(value_name = "REFERENCE")]
    reference: PathBuf,
    /// Models to compare: versions of the same model
    #[arg(required_unless_present = "save_logits", value_name = "CANDIDATE")]
    candidates: Vec<PathBuf>,
    /// The text: files or folders; may be given more than once
    #[arg(short, long = "file", required = true, value_name = "FNAME")]
    files: Vec<PathBuf>,
    /// Tokens per chunk; the second half of each counts
    #[arg(short, long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(4..))]
    ctx_size: u32,
    /// Evaluate at most N chunks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,
    /// Evaluate each document separately, as a run with --documents does, and print a row per document
    #[arg(long, conflicts_with = "save_logits")]
    documents: bool,
    /// Print a row per chunk or document
    #[arg(long, value_enum, value_name = "PART")]
    by: Option<Part>,
    /// Threads [default: one per core]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Layers of each model on devices: a number, or all
    #[arg(long = "n-gpu-layers", visible_alias = "gpu-layers", value_name = "N", value_parser = gpu_layers)]
    gpu_layers: Option<u32>,
    /// Also write the reference's logits to a file, as llama-perplexity's --save-all-logits does
    #[arg(long, value_name = "FILE")]
    save_logits: Option<PathBuf>,
    /// Print one JSON document, with the numbers per chunk and per document, instead of tables
    #[arg(long)]
    json: bool,
}

/// A part of the text that has its own row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// One row per chunk.
    Chunk,
    /// One row per document; requires --documents.
    Document,
}

pub(super) fn gpu_layers(text: &str) -> Result<u32, String> {
    match text {
        "all" => Ok(u32::MAX),
        _ => text.parse().map_err(|_| "expected a number, or all".to_owned()),
    }
}

#[cfg(not(feature = "llama"))]
pub(crate) fn run(_: &Kld) -> anyhow::Result<()> {
    anyhow::bail!("this program was built without llama.cpp: it cannot evaluate models")
}
