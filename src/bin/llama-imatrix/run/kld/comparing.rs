//! The comparison: models, text, tables.

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

use super::parts::Parts;
use super::{Kld, Part, document};
use crate::config::overlap::Files;
use crate::config::replaceable::refuse_foreign_logits;
use crate::run::models::{self, Text};
use crate::ui::print::print;
use crate::ui::{log, progress};

pub(crate) fn run(args: &Kld) -> anyhow::Result<()> {
    ensure!(args.by != Some(Part::Document) || args.documents, "--by document requires --documents");
    let has_logits = is_logits(&args.reference);
    refuse_output(args, has_logits)?;
    ensure!(
        !(has_logits && args.documents),
        "--documents needs a model as the reference, and '{}' is a file of logits, whose chunks have equal lengths",
        args.reference.display()
    );
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
    let text = if args.documents {
        models::documents(&args.files, tokenizing, &args.reference, args.ctx_size, args.chunks)?
    } else {
        let chunks = models::chunks(&args.files, tokenizing, args.ctx_size, args.chunks)?;
        Text { chunks, documents: Vec::new() }
    };
    let chunks = &text.chunks;
    let n_chunks = baseline.n_chunks(chunks)?;
    if n_chunks < chunks.n_whole() {
        log::warn(format_args!("the logits file has {n_chunks} of the text's {} chunks", chunks.n_whole()));
    }
    let mut parts = Parts::new(args.candidates.len());
    let compared = match &args.save_logits {
        None => compare(args, &baseline, n_chunks, &candidates, chunks, None, &mut parts),
        Some(path) => {
            let mut all = None;
            atomic_file::save(path, |w| {
                all = Some(compare(args, &baseline, n_chunks, &candidates, chunks, Some(w), &mut parts)?);
                Ok::<_, EvaluationError>(())
            })
            .map(|()| all.unwrap_or_default())
        }
    };
    progress::finish();
    let all = compared.with_context(|| match &args.candidates[..] {
        [candidate] => format!("cannot compare '{}' with '{}'", candidate.display(), args.reference.display()),
        _ => format!("cannot compare with '{}'", args.reference.display()),
    })?;
    let compared = parts.finish(&text);
    if args.json {
        return document::print(args, &all, &compared);
    }
    for (i, (path, divergence)) in args.candidates.iter().zip(&all).enumerate() {
        if args.candidates.len() > 1 {
            print(format_args!("\n'{}' against '{}'\n", path.display(), args.reference.display()));
        }
        print(format_args!("\n{}", statistics(divergence)));
        let by = args.by.or(args.documents.then_some(Part::Document));
        if let Some(by) = by {
            print(format_args!("\n{}", compared[i].table(by)));
        }
    }
    Ok(())
}

/// The reference, as it was given.
enum Reference {
    Model(Model),
    Logits(LogitsFile),
}

/// Compares over all chunks, and hands the comparison of each chunk to `parts`.
fn compare(
    args: &Kld,
    baseline: &Baseline<'_>,
    n_chunks: usize,
    candidates: &[Model],
    chunks: &Chunks,
    save: Option<&mut dyn Write>,
    parts: &mut Parts,
) -> Result<Vec<Divergence>, EvaluationError> {
    let what = if args.candidates.is_empty() { "evaluating" } else { "comparing over" };
    let most = if args.documents { "at most " } else { "" };
    log::info(format_args!("{what} {n_chunks} chunks of {most}{} tokens", chunks.size()));
    let lines = !args.json && candidates.len() == 1;
    if lines {
        print(format_args!("{CHUNK_HEADING}"));
    } else {
        progress::start_items(n_chunks, "chunks");
    }
    let threads = args.threads.map_or_else(crate::config::default_threads, i32::from);
    let threads = usize::try_from(threads).unwrap_or(1);
    divergences(baseline, candidates, chunks, threads, save, |number, all, own| {
        parts.add(number, chunks.document(number), own);
        if lines {
            print(format_args!("{}", chunk_line(number + 1, &all[0])));
        } else {
            progress::set_items(number + 1);
        }
        ControlFlow::Continue(())
    })
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
