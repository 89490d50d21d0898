//! Commands over files: they load no model and start no backend.

use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, bail};
use llama_imatrix::imatrix::{ChunkSizes, Imatrix};
use llama_imatrix::report::{self, Outcome};

use crate::config::{Merge, ShowStatistics};
use crate::log;
use crate::output::{print_saved, warn_of_dat, warn_of_gaps};

/// `--show-statistics`.
pub(crate) fn show_statistics(task: &ShowStatistics) -> anyhow::Result<()> {
    let imatrix = load_all(std::slice::from_ref(&task.file), task.chunk_sizes)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let outcome = report::show_statistics(&mut out, &imatrix, &task.file)
        .and_then(|outcome| out.flush().map(|()| outcome))
        .context("cannot write to standard output")?;
    for warning in outcome.warnings() {
        log::warn(format_args!("{warning}"));
    }
    match outcome {
        Outcome::Complete(_) => Ok(()),
        Outcome::LayerGap(_) => bail!("'{}' lacks layers: there are no layer statistics", task.file),
        Outcome::NoData(_) => bail!("'{}' holds no data", task.file),
    }
}

/// `--in-file` without a text: combines matrices, or converts one.
pub(crate) fn merge(task: &Merge) -> anyhow::Result<()> {
    log::info(format_args!("No prompt provided; combining precomputed matrices only."));
    let mut imatrix = load_all(&task.in_files, task.chunk_sizes)?;
    imatrix.settle_chunk_size(task.chunk_sizes.run);
    let kind = if task.in_files.len() > 1 { "combined imatrix" } else { "imatrix" };
    log::info(format_args!("saving {kind} to '{}'", task.output.path().display()));
    warn_of_gaps(&imatrix);
    warn_of_dat(&task.output, &imatrix);
    task.output.save(&imatrix, None)?;
    print_saved();
    Ok(())
}

/// Loads and adds up matrices, in order.
pub(crate) fn load_all(files: &[String], sizes: ChunkSizes) -> anyhow::Result<Imatrix> {
    let mut imatrix = Imatrix::default();
    for file in files {
        log::info(format_args!("loading imatrix from '{file}'"));
        let loaded = Imatrix::load(Path::new(file)).with_context(|| format!("failed to load imatrix '{file}'"))?;
        if loaded.is_legacy {
            log::info(format_args!(
                "'{file}' does not say its chunk size: {} tokens are assumed, --legacy-chunk-size says otherwise",
                sizes.legacy
            ));
        }
        let warnings = imatrix.merge(&loaded, sizes).with_context(|| format!("cannot add '{file}'"))?;
        for warning in warnings {
            log::warn(format_args!("'{file}': {warning}"));
        }
    }
    Ok(imatrix)
}
