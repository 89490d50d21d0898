//! The calibration text as chunks of tokens.

use std::time::Instant;

use anyhow::Context as _;
use llama_imatrix::calibration::{Body, ChunkOptions, Chunks};
use llama_imatrix::llama::Model;
use llama_imatrix::state::Digest;

use super::chat::{NO_TEMPLATE, template};
use crate::config::Collect;
use crate::ui::{log, progress, units};

/// Chunks, and the digest of their tokens.
pub(crate) struct Text {
    pub(crate) chunks: Chunks,
    pub(crate) digest: Digest,
    /// Number of tokens of the whole text.
    pub(crate) n_tokens: usize,
    pub(crate) n_documents: usize,
}

pub(crate) fn tokenize(task: &Collect, model: &Model) -> anyhow::Result<Text> {
    let started = Instant::now();
    model.vocab().check().with_context(|| format!("'{}'", task.model.display()))?;
    let template = template(task, model)?;
    if !task.documents && task.corpus.items.iter().any(|item| item.line.is_some()) {
        log::info(format_args!(
            "all documents are joined and split into chunks; --documents evaluates each separately"
        ));
    }
    log::info(format_args!("tokenizing the input .."));
    start_progress(task);
    let template = template.as_ref().ok_or(NO_TEMPLATE);
    let documents = task.corpus.tokenize(&model.vocab(), template, &task.tokens, &progress::set_bytes);
    progress::finish();
    let documents = documents?;
    log::info(format_args!("tokenization took {:.1} ms", started.elapsed().as_secs_f64() * 1e3));

    let (n_tokens, n_documents) = (documents.tokens().len(), documents.len());
    if task.documents {
        let digest = Digest::of_documents(documents.tokens(), documents.lengths());
        let chunks = Chunks::of_documents(documents, task.chunks)?;
        return Ok(Text { chunks, digest, n_tokens, n_documents });
    }
    let ChunkOptions { size, skip, .. } = task.chunks;
    if skip > 0 {
        log::info(format_args!("removing initial {skip} chunks ({} tokens)", skip.saturating_mul(size)));
    }
    let tokens = documents.into_tokens();
    let digest = Digest::of_tokens(&tokens);
    let chunks = Chunks::new(tokens, task.chunks)?;
    Ok(Text { chunks, digest, n_tokens, n_documents })
}

fn start_progress(task: &Collect) {
    let n_bytes = task.corpus.n_bytes();
    match &task.corpus.items[..] {
        [item] if matches!(&item.body, Body::Text(_)) => {
            progress::spin(format!("tokenizing {}", units::bytes(n_bytes)));
        }
        _ => progress::start_bytes("tokenizing".to_owned(), Some(n_bytes)),
    }
}
