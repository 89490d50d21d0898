//! Models and texts of the commands that evaluate, without the flags of a run.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use llama_imatrix::calibration::{Body, ChunkOptions, Chunks, Corpus, Date, Input, Layout, TokenOptions};
use llama_imatrix::llama::{Backend, BackendOptions, Model, ModelOptions};
use llama_imatrix::options::GpuLayers;

use super::chat::{NO_TEMPLATE, own_template};
use crate::ui::log;

/// Starts llama.cpp.
pub(super) fn start() {
    log::forward_llama_log();
    let _ = Backend::init_with(BackendOptions { fresh_pages: true });
}

/// Options of a model with some layers on devices.
pub(super) fn options(gpu_layers: Option<u32>) -> ModelOptions {
    let mut options = ModelOptions::default();
    if let Some(n) = gpu_layers {
        options.gpu_layers = if n == u32::MAX { GpuLayers::All } else { GpuLayers::Count(n) };
    }
    options
}

/// Loads a model.
pub(super) fn load(path: &Path, gpu_layers: Option<u32>) -> anyhow::Result<Model> {
    let model = Model::load(path, &options(gpu_layers))?;
    model.vocab().check().with_context(|| format!("'{}'", path.display()))?;
    Ok(model)
}

/// A text as chunks of documents.
pub(super) struct Text {
    pub(super) chunks: Chunks,
    /// File and line of each document; empty for chunks of a joined text.
    pub(super) documents: Vec<String>,
}

/// Reads the texts and cuts each document into chunks, as a run with --documents does. `path` is the model's.
pub(super) fn documents(
    files: &[PathBuf],
    model: &Model,
    path: &Path,
    size: u32,
    limit: Option<u32>,
) -> anyhow::Result<Text> {
    let corpus = read(files, Layout::Apart)?;
    let has_conversations = corpus.items.iter().any(|item| matches!(item.body, Body::Conversation(_)));
    let template = if has_conversations { own_template(model, path, Date::default())? } else { None };
    let template = template.as_ref().ok_or(NO_TEMPLATE);
    let documents = corpus.tokenize(&model.vocab(), template, &TokenOptions::default(), &|_| {})?;
    let origin = |&item: &usize| corpus.items.get(item).map_or_else(String::new, |item| corpus.origin(item));
    let names: Vec<String> = documents.origins().iter().map(origin).collect();
    let short = documents.lengths().filter(|&n| n < SHORTEST_DOCUMENT).count();
    if short > 0 {
        log::warn(format_args!(
            "{short} of {} documents are left out: they have fewer than {SHORTEST_DOCUMENT} tokens",
            names.len()
        ));
    }
    Ok(Text { chunks: Chunks::of_documents(documents, chunk_options(size, limit))?, documents: names })
}

/// Shorter documents have no token in their second half that has a next one.
const SHORTEST_DOCUMENT: u64 = 3;

fn read(files: &[PathBuf], layout: Layout) -> anyhow::Result<Corpus> {
    let inputs: Vec<Input> = files.iter().map(|path| Input { path: path.clone(), raw: false }).collect();
    let corpus = Corpus::read(&inputs, layout)?;
    for note in &corpus.notes {
        log::warn(format_args!("{note}"));
    }
    Ok(corpus)
}

fn chunk_options(size: u32, limit: Option<u32>) -> ChunkOptions {
    let limit = limit.and_then(|n| usize::try_from(n).ok());
    ChunkOptions { size: size as usize, skip: 0, limit, keep_tail: false, shuffle: None }
}

/// Reads the texts and cuts their tokens into chunks.
pub(super) fn chunks(files: &[PathBuf], model: &Model, size: u32, limit: Option<u32>) -> anyhow::Result<Chunks> {
    let corpus = read(files, Layout::Joined)?;
    let mut text = Vec::new();
    for item in &corpus.items {
        match &item.body {
            Body::Text(more) => text.extend_from_slice(more),
            Body::Conversation(_) => bail!(
                "'{}' has conversations, expected plain text",
                corpus.files.get(item.file).map_or("the text", String::as_str)
            ),
        }
    }
    let tokens = model.vocab().tokenize(&text, false)?;
    Ok(Chunks::new(tokens, chunk_options(size, limit))?)
}
