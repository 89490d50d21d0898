//! Measurements of the model's layers.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use llama_imatrix::calibration::Chunks;
use llama_imatrix::evaluate::{Outcome, RunOptions};
use llama_imatrix::lens::file::{LensFile, Model as ModelName};
use llama_imatrix::lens::{Base, LensOptions, Measurements, Settings};
use llama_imatrix::llama::Model;
use llama_imatrix::report::lens::tables;
use llama_imatrix::report::text::aligned;

use crate::config::Collect;
use crate::config::output::or_rescue;
use crate::ui::log;
use crate::ui::print::print;

/// Returns the measurements to make. Checks a file of logits against the model and the text.
pub(crate) fn options(task: &Collect, model: &Model, chunks: &Chunks) -> anyhow::Result<Option<LensOptions>> {
    let Some(lens) = &task.lens else { return Ok(None) };
    let mut base = None;
    if let Some(file) = &lens.base {
        let first_chunk = task.chunks.skip;
        let n_chunks = file.check(model.vocab().n_tokens(), chunks, first_chunk)?;
        if n_chunks < chunks.len() {
            log::warn(format_args!(
                "'{}' holds {n_chunks} of the {} chunks: layers are measured in those only",
                file.path().display(),
                chunks.len()
            ));
        }
        base = Some(Base { file: Arc::clone(file), first_chunk, n_chunks });
    }
    Ok(Some(LensOptions { base, ..lens.options.clone() }))
}

/// Returns the settings that measurements must share to be combined.
pub(crate) fn settings(model: &Model, options: &LensOptions) -> Settings {
    let n_layer = u32::try_from(model.n_layer()).unwrap_or(0);
    Settings::new(ModelName { name: model.name(), architecture: model.architecture(), n_layer }, options)
}

/// Results of the measurements.
pub(crate) struct LensResult {
    file: LensFile,
    /// Path of the lens file, if it is written.
    path: Option<PathBuf>,
}

impl LensResult {
    /// Returns `None` if no measurement was asked for, or no chunk was evaluated.
    pub(crate) fn new(
        task: &Collect,
        model: &Model,
        chunks: &Chunks,
        options: &RunOptions,
        outcome: &Outcome,
    ) -> Option<Self> {
        let (lens, options, findings) = (task.lens.as_ref()?, options.lens.as_ref()?, outcome.findings.as_ref()?);
        if findings.is_empty() {
            log::warn(format_args!("no chunk was evaluated: there are no measurements of layers"));
            return None;
        }
        let measurements = Measurements { settings: settings(model, options), findings: findings.clone() };
        let run_chunks = outcome.position.done.len() - outcome.position.discarded.len();
        let base_chunks = options.base.as_ref().map_or(chunks.len(), |base| base.n_chunks) as u64;
        if (findings.n_chunks() as u64) < run_chunks.min(base_chunks) {
            log::warn(format_args!(
                "layers were measured in {} of {run_chunks} chunks: the chunks before --resume were measured with other settings or not at all",
                findings.n_chunks()
            ));
        }
        let dataset = task.datasets.join(", ");
        let file = measurements.file(dataset, chunks.size() as u32, run_chunks);
        Some(Self { file, path: lens.path.clone() })
    }

    /// Prints the tables.
    pub(crate) fn print(&self) {
        for table in tables(&self.file) {
            print(format_args!("\n{}\n\n", table.title));
            match &table.sheet {
                Ok(sheet) => print(format_args!("{}", aligned(sheet))),
                Err(reason) => print(format_args!("not supported: {reason}\n")),
            }
            if let Some(note) = &table.note {
                print(format_args!("\n{note}\n"));
            }
        }
    }
}

/// Writes the lens file, if there is one; to the temporary folder if that fails.
pub(crate) fn save(result: Option<&LensResult>) -> anyhow::Result<()> {
    let Some((file, path)) = result.and_then(|result| Some((&result.file, result.path.as_ref()?))) else {
        return Ok(());
    };
    let saved = file.save(path).with_context(|| format!("cannot save '{}'", path.display()));
    or_rescue(saved, "lens file", path, |w| file.write(w))?;
    log::info(format_args!("saved the measurements of layers to '{}'", path.display()));
    Ok(())
}
