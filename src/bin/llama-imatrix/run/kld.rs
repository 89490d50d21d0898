//! `kld`: how far quantized models are from the original.

use std::path::PathBuf;

/// Compares the predictions of models with those of a reference: llama-perplexity's statistics, without a file of logits
#[derive(Debug, clap::Args)]
pub(crate) struct Kld {
    /// The model to compare with, or a file of its logits (--save-logits, llama-perplexity's --save-all-logits)
    #[arg(value_name = "REFERENCE")]
    reference: PathBuf,
    /// Models to compare: versions of the same model
    #[arg(required_unless_present = "save_logits", value_name = "CANDIDATE")]
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
    /// Also write the reference's logits to a file, as llama-perplexity's --save-all-logits does
    #[arg(long, value_name = "FILE")]
    save_logits: Option<PathBuf>,
    /// Print one JSON document, with the numbers per chunk, instead of tables
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
pub(crate) use comparing::run;

#[cfg(feature = "llama")]
mod comparing {
    use std::fs::File;
    use std::io::{Read as _, Write};
    use std::ops::ControlFlow;
    use std::path::{Path, PathBuf};

    use anyhow::{Context as _, ensure};
    use llama_imatrix::atomic_file;
    use llama_imatrix::calibration::Chunks;
    use llama_imatrix::lens::base::{LogitsFile, MAGIC};
    use llama_imatrix::llama::Model;
    use llama_imatrix::quantize::divergence::Divergence;
    use llama_imatrix::quantize::evaluation::{Baseline, EvaluationError, divergences};
    use llama_imatrix::report::divergence::{CHUNK_HEADING, chunk_line, statistics};

    use super::{Kld, document};
    use crate::config::overlap::Files;
    use crate::config::replaceable::refuse_foreign_logits;
    use crate::run::models;
    use crate::ui::print::print;
    use crate::ui::{log, progress};

    pub(crate) fn run(args: &Kld) -> anyhow::Result<()> {
        let has_logits = is_logits(&args.reference);
        refuse_output(args, has_logits)?;
        models::start();
        let load = |path: &PathBuf| models::load(path, args.gpu_layers);
        let reference = if has_logits {
            Reference::Logits(LogitsFile::open(&args.reference)?)
        } else {
            Reference::Model(load(&args.reference)?)
        };
        let candidates = args.candidates.iter().map(load).collect::<anyhow::Result<Vec<_>>>()?;
        let (baseline, tokenizing) = match &reference {
            Reference::Logits(file) => (Baseline::Logits(file), candidates.first()),
            Reference::Model(model) => (Baseline::Model(model), Some(model)),
        };
        let tokenizing = tokenizing.context("expected a candidate, whose vocabulary tokenizes the text")?;
        let chunks = models::chunks(&args.files, tokenizing, args.ctx_size, args.chunks)?;
        let n_chunks = baseline.n_chunks(&chunks)?;
        if n_chunks < chunks.n_whole() {
            log::warn(format_args!("the logits file has {n_chunks} of the text's {} chunks", chunks.n_whole()));
        }
        let compared = match &args.save_logits {
            None => compare(args, &baseline, n_chunks, &candidates, &chunks, None),
            Some(path) => {
                let mut all = None;
                atomic_file::save(path, |w| {
                    all = Some(compare(args, &baseline, n_chunks, &candidates, &chunks, Some(w))?);
                    Ok::<_, EvaluationError>(())
                })
                .map(|()| all.unwrap_or_default())
            }
        };
        progress::finish();
        let (all, per_chunk) = compared.with_context(|| match &args.candidates[..] {
            [candidate] => format!("cannot compare '{}' with '{}'", candidate.display(), args.reference.display()),
            _ => format!("cannot compare with '{}'", args.reference.display()),
        })?;
        if args.json {
            return document::print(args, &all, &per_chunk);
        }
        for (path, divergence) in args.candidates.iter().zip(&all) {
            if args.candidates.len() > 1 {
                print(format_args!("\n'{}' against '{}'\n", path.display(), args.reference.display()));
            }
            print(format_args!("\n{}", statistics(divergence)));
        }
        Ok(())
    }

    /// The reference, as it was given.
    enum Reference {
        Model(Model),
        Logits(LogitsFile),
    }

    /// The comparisons of the text per candidate, and per chunk and candidate.
    type Compared = (Vec<Divergence>, Vec<Vec<Divergence>>);

    fn compare(
        args: &Kld,
        baseline: &Baseline<'_>,
        n_chunks: usize,
        candidates: &[Model],
        chunks: &Chunks,
        save: Option<&mut dyn Write>,
    ) -> Result<Compared, EvaluationError> {
        match args.candidates.len() {
            0 => log::info(format_args!("evaluating {n_chunks} chunks of {} tokens", chunks.size())),
            _ => log::info(format_args!("comparing over {n_chunks} chunks of {} tokens", chunks.size())),
        }
        let lines = !args.json && candidates.len() == 1;
        if lines {
            print(format_args!("{CHUNK_HEADING}"));
        } else {
            progress::start_items(n_chunks, "chunks");
        }
        let threads = args.threads.map_or_else(crate::config::default_threads, i32::from);
        let threads = usize::try_from(threads).unwrap_or(1);
        let mut per_chunk = Vec::new();
        let all = divergences(baseline, candidates, chunks, threads, save, |number, all, own| {
            per_chunk.push(own.to_vec());
            if lines {
                print(format_args!("{}", chunk_line(number + 1, &all[0])));
            } else {
                progress::set_items(number + 1);
            }
            ControlFlow::Continue(())
        })?;
        Ok((all, per_chunk))
    }

    fn is_logits(path: &Path) -> bool {
        let mut magic = [0; MAGIC.len()];
        File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *MAGIC
    }

    /// Refuses a --save-logits that names a file that is read, or one that is not a logits file.
    fn refuse_output(args: &Kld, has_logits: bool) -> anyhow::Result<()> {
        let Some(path) = &args.save_logits else { return Ok(()) };
        ensure!(
            !has_logits,
            "--save-logits needs a model as the reference, and '{}' is a file of logits",
            args.reference.display()
        );
        let mut files = Files::default();
        files.read_model("kld", &args.reference);
        args.candidates.iter().for_each(|model| files.read_model("kld", model));
        args.files.iter().for_each(|file| files.read("--file", file.clone()));
        files.write("--save-logits", path.clone());
        files.refuse_overlap()?;
        refuse_foreign_logits(path)?;
        let failed = || format!("cannot write '{}'", path.display());
        atomic_file::Way::of(path).with_context(failed)?;
        // A run that was killed may have left gigabytes.
        atomic_file::remove_leftovers(path).with_context(failed)?;
        Ok(())
    }
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
        #[serde(flatten)]
        text: Comparison,
        per_chunk: Vec<Comparison>,
    }

    #[derive(Serialize)]
    struct Comparison {
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

    impl From<&Divergence> for Comparison {
        fn from(d: &Divergence) -> Self {
            let sorted = d.sorted_divergences();
            Self {
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
        }
    }

    pub(super) fn print(args: &Kld, all: &[Divergence], per_chunk: &[Vec<Divergence>]) -> anyhow::Result<()> {
        let text = |path: &std::path::PathBuf| path.display().to_string();
        let candidate = |i: usize| Candidate {
            file: text(&args.candidates[i]),
            text: (&all[i]).into(),
            per_chunk: per_chunk.iter().map(|chunk| (&chunk[i]).into()).collect(),
        };
        let document = Document {
            format: "llama-imatrix kld",
            version: 1,
            reference: text(&args.reference),
            files: args.files.iter().map(text).collect(),
            ctx_size: args.ctx_size,
            chunks: per_chunk.len(),
            candidates: (0..all.len()).map(candidate).collect(),
        };
        print_document(&(serde_json::to_string_pretty(&document)? + "\n"))
    }
}
