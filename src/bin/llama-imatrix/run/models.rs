//! Models and texts of the commands that evaluate, without the flags of a run.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use llama_imatrix::calibration::{Body, ChunkOptions, Chunks, Corpus, Input, Layout};
use llama_imatrix::llama::{Backend, BackendOptions, Model, ModelOptions};
use llama_imatrix::options::GpuLayers;

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

/// Reads the texts and cuts their tokens into chunks.
pub(super) fn chunks(files: &[PathBuf], model: &Model, size: u32, limit: Option<u32>) -> anyhow::Result<Chunks> {
    let inputs: Vec<Input> = files.iter().map(|path| Input { path: path.clone(), raw: false }).collect();
    let corpus = Corpus::read(&inputs, Layout::Joined)?;
    for note in &corpus.notes {
        log::warn(format_args!("{note}"));
    }
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
    let limit = limit.and_then(|n| usize::try_from(n).ok());
    Ok(Chunks::new(tokens, ChunkOptions { size: size as usize, skip: 0, limit, keep_tail: false, shuffle: None })?)
}
