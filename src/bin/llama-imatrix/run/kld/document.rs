//! The output of `kld --json`.

use std::path::{Path, PathBuf};

use llama_imatrix::quantize::divergence::{Divergence, Summary, Uncertain};
use serde::Serialize;

use super::parts::{Compared, Row};
use super::{Kld, Part};
use crate::ui::print::print_document;

#[derive(Serialize)]
struct Document<'a> {
    format: &'static str,
    version: u32,
    reference: String,
    files: Vec<String>,
    ctx_size: u32,
    documents: bool,
    chunks: usize,
    candidates: Vec<Candidate<'a>>,
}

#[derive(Serialize)]
struct Candidate<'a> {
    file: String,
    #[serde(flatten)]
    text: Comparison,
    /// With chunks as samples instead of tokens; null below ten.
    divergence_over_chunks: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    divergence_over_documents: Option<Number>,
    per_chunk: Vec<Section<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    per_document: Option<Vec<Section<'a>>>,
}

/// A chunk or a document.
#[derive(Serialize)]
struct Section<'a> {
    /// Number of the chunk from 1; file and line of the document.
    name: &'a str,
    #[serde(flatten)]
    comparison: Comparison,
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
        Self { value: x.value, error: x.error, interval: x.interval() }
    }
}

impl From<&Summary> for Comparison {
    fn from(s: &Summary) -> Self {
        Self {
            tokens: s.tokens,
            divergence: s.divergence.into(),
            divergence_median: s.median,
            divergence_p99: s.p99,
            divergence_max: s.max,
            same_top: s.same_top.into(),
            rms_difference: s.rms_difference.into(),
            log_perplexity_ratio: s.log_ratio.into(),
            log_perplexity: s.nll.into(),
            log_perplexity_reference: s.nll_base.into(),
        }
    }
}

fn sections(rows: &[Row]) -> Vec<Section<'_>> {
    rows.iter().map(|row| Section { name: &row.name, comparison: (&row.summary).into() }).collect()
}

fn candidate<'a>(args: &Kld, path: &Path, divergence: &Divergence, parts: &'a Compared) -> Candidate<'a> {
    Candidate {
        file: path.display().to_string(),
        text: (&Summary::from(divergence)).into(),
        divergence_over_chunks: parts.over(Part::Chunk).map(Number::from),
        divergence_over_documents: parts.over(Part::Document).map(Number::from),
        per_chunk: sections(&parts.chunks),
        per_document: args.documents.then(|| sections(&parts.documents)),
    }
}

pub(super) fn print(args: &Kld, all: &[Divergence], parts: &[Compared]) -> anyhow::Result<()> {
    let text = |path: &PathBuf| path.display().to_string();
    let document = Document {
        format: "llama-imatrix kld",
        version: 1,
        reference: text(&args.reference),
        files: args.files.iter().map(text).collect(),
        ctx_size: args.ctx_size,
        documents: args.documents,
        chunks: parts.first().map_or(0, |parts| parts.chunks.len()),
        candidates: args
            .candidates
            .iter()
            .zip(all)
            .zip(parts)
            .map(|((p, d), parts)| candidate(args, p, d, parts))
            .collect(),
    };
    print_document(&(serde_json::to_string_pretty(&document)? + "\n"))
}
