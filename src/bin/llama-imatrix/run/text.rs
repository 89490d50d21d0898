//! The calibration text as chunks of tokens.

use std::time::Instant;

use anyhow::Context as _;
use llama_imatrix::calibration::{Body, ChunkOptions, Chunks, TokenOptions};
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
    let flags = &task.flags;
    let started = Instant::now();
    model.vocab().check().with_context(|| format!("'{}'", task.model.display()))?;
    let template = template(task, model)?;
    if !flags.documents && task.corpus.items.iter().any(|item| item.line.is_some()) {
        log::info(format_args!(
            "all documents are joined and split into chunks; --documents evaluates each separately"
        ));
    }
    log::info(format_args!("tokenizing the input .."));
    start_progress(task, model);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // Without --documents it is chunks that are drawn and counted: all of the text is needed.
    let options = TokenOptions {
        parse_special: flags.parse_special,
        shuffle: task.shuffle.filter(|_| flags.documents),
        budget: flags.tokens.filter(|_| flags.documents),
        threads,
    };
    let template = template.as_ref().ok_or(NO_TEMPLATE);
    let documents = task.corpus.tokenize(&model.vocab(), template, &options, &progress::set_bytes);
    progress::finish();
    let documents = documents?;
    log::info(format_args!("tokenization took {:.1} ms", started.elapsed().as_secs_f64() * 1e3));

    let size = flags.ctx_size as usize;
    let skip = usize::try_from(flags.chunk)?;
    let limit = usize::try_from(flags.chunks).ok();
    let (n_tokens, n_documents) = (documents.tokens().len(), documents.len());
    let chunk_options = ChunkOptions { size, skip, limit, keep_tail: flags.keep_tail, shuffle: task.shuffle };
    if flags.documents {
        let digest = Digest::of_documents(documents.tokens(), documents.lengths());
        let chunks = Chunks::of_documents(documents, chunk_options)?;
        return Ok(Text { chunks, digest, n_tokens, n_documents });
    }
    if skip > 0 {
        log::info(format_args!("removing initial {skip} chunks ({} tokens)", skip.saturating_mul(size)));
    }
    let tokens = documents.into_tokens();
    let digest = Digest::of_tokens(&tokens);
    let within_budget = flags.tokens.map(|budget| usize::try_from(budget / size as u64).unwrap_or(usize::MAX));
    let limit = [limit, within_budget].into_iter().flatten().min();
    let chunks = Chunks::new(tokens, ChunkOptions { limit, ..chunk_options })?;
    Ok(Text { chunks, digest, n_tokens, n_documents })
}

fn start_progress(task: &Collect, model: &Model) {
    let n_bytes = task.corpus.n_bytes();
    match &task.corpus.items[..] {
        [item] if matches!(&item.body, Body::Text(text) if model.vocab().pieces(text).len() == 1) => {
            progress::spin(format!("tokenizing {}", units::bytes(n_bytes)));
        }
        _ => progress::start_bytes("tokenizing".to_owned(), Some(n_bytes)),
    }
}
