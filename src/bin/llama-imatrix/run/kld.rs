//! `kld`: how far quantized models are from the original.

use std::path::PathBuf;

/// Compares the predictions of models with those of a reference: llama-perplexity's statistics, without a file of logits
#[derive(Debug, clap::Args)]
pub(crate) struct Kld {
    /// The model to compare with
    #[arg(value_name = "REFERENCE")]
    reference: PathBuf,
    /// Models to compare: versions of the same model
    #[arg(required = true, value_name = "CANDIDATE")]
    candidates: Vec<PathBuf>,
    /// The text; may be given more than once
    #[arg(short, long = "file", required = true, value_name = "FNAME")]
    files: Vec<PathBuf>,
    /// Tokens per chunk; the second half of each counts
    #[arg(short, long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(4..))]
    ctx_size: u32,
    /// Evaluate at most N chunks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,
    /// Threads [default: one per core]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Layers of each model on devices: a number, or all
    #[arg(long = "n-gpu-layers", visible_alias = "gpu-layers", value_name = "N", value_parser = gpu_layers)]
    gpu_layers: Option<u32>,
    /// Print one JSON document instead of tables
    #[arg(long)]
    json: bool,
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

#[cfg(feature = "llama")]
pub(crate) fn run(args: &Kld) -> anyhow::Result<()> {
    use std::ops::ControlFlow;

    use anyhow::Context as _;
    use llama_imatrix::quantize::evaluation::divergences;
    use llama_imatrix::report::divergence::{CHUNK_HEADING, chunk_line, statistics};

    use super::models::{chunks, load, start};
    use crate::ui::print::print;
    use crate::ui::{log, progress};

    start();
    let reference = load(&args.reference, args.gpu_layers)?;
    let candidates = args.candidates.iter().map(|path| load(path, args.gpu_layers)).collect::<Result<Vec<_>, _>>()?;
    let chunks = chunks(&args.files, &reference, args.ctx_size, args.chunks)?;
    log::info(format_args!("comparing over {} chunks of {} tokens", chunks.n_whole(), chunks.size()));
    let lines = !args.json && candidates.len() == 1;
    if lines {
        print(format_args!("{CHUNK_HEADING}"));
    } else {
        progress::start_items(chunks.n_whole(), "chunks");
    }
    let threads = args.threads.map_or_else(crate::config::default_threads, i32::from);
    let threads = usize::try_from(threads)?;
    let all = divergences(&reference, &candidates, &chunks, threads, |number, all| {
        if lines {
            print(format_args!("{}", chunk_line(number + 1, &all[0])));
        } else {
            progress::set_items(number + 1);
        }
        ControlFlow::Continue(())
    });
    progress::finish();
    let all = all.with_context(|| match &args.candidates[..] {
        [candidate] => format!("cannot compare '{}' with '{}'", candidate.display(), args.reference.display()),
        _ => format!("cannot compare with '{}'", args.reference.display()),
    })?;
    if args.json {
        return document::print(args, chunks.n_whole(), &all);
    }
    for (path, divergence) in args.candidates.iter().zip(&all) {
        if args.candidates.len() > 1 {
            print(format_args!("\n'{}' against '{}'\n", path.display(), args.reference.display()));
        }
        print(format_args!("\n{}", statistics(divergence)));
    }
    Ok(())
}

/// The output of `kld --json`.
#[cfg(feature = "llama")]
mod document {
    use llama_imatrix::quantize::divergence::{Divergence, Uncertain, median, percentile};
    use serde::Serialize;

    use super::Kld;
    use crate::ui::print::print_document;

    #[derive(Serialize)]
    struct Document {
        format: &'static str,
        version: u32,
        reference: String,
        files: Vec<String>,
        ctx_size: u32,
        chunks: usize,
        candidates: Vec<Candidate>,
    }

    #[derive(Serialize)]
    struct Candidate {
        file: String,
        tokens: usize,
        divergence: Number,
        divergence_median: f32,
        divergence_p99: f32,
        divergence_max: f32,
        same_top: Number,
        rms_difference: Number,
        log_perplexity_ratio: Number,
        log_perplexity: Number,
        log_perplexity_reference: Number,
    }

    /// A value, its standard error and its 95 % confidence interval.
    #[derive(Serialize)]
    struct Number {
        value: f64,
        error: f64,
        interval: [f64; 2],
    }

    impl From<Uncertain> for Number {
        fn from(x: Uncertain) -> Self {
            let half = 1.96 * x.error;
            Self { value: x.value, error: x.error, interval: [x.value - half, x.value + half] }
        }
    }

    pub(super) fn print(args: &Kld, chunks: usize, all: &[Divergence]) -> anyhow::Result<()> {
        let text = |path: &std::path::PathBuf| path.display().to_string();
        let candidate = |(path, d): (&std::path::PathBuf, &Divergence)| {
            let sorted = d.sorted_divergences();
            Candidate {
                file: text(path),
                tokens: d.count(),
                divergence: d.divergence().into(),
                divergence_median: median(&sorted),
                divergence_p99: percentile(&sorted, 0.99),
                divergence_max: percentile(&sorted, 1.0),
                same_top: d.same_top().into(),
                rms_difference: d.rms_difference().into(),
                log_perplexity_ratio: d.log_ratio().into(),
                log_perplexity: d.nll().into(),
                log_perplexity_reference: d.nll_base().into(),
            }
        };
        let document = Document {
            format: "llama-imatrix kld",
            version: 1,
            reference: text(&args.reference),
            files: args.files.iter().map(text).collect(),
            ctx_size: args.ctx_size,
            chunks,
            candidates: args.candidates.iter().zip(all).map(candidate).collect(),
        };
        print_document(&(serde_json::to_string_pretty(&document)? + "\n"))
    }
}
