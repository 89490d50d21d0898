//! Commands over files: they load no model and start no backend.

use std::io::Write;

use anyhow::{Context as _, bail};
use llama_imatrix::imatrix::{ChunkSizes, File, Imatrix, Loaded, Numbers, Slice};
use llama_imatrix::report::{self, Outcome};

use crate::config::{Merge, ShowStatistics};
use crate::log;
use crate::output::{print_saved, unless_nobody_reads, warn_of_dat, warn_of_gaps};

/// `--show-statistics`.
pub(crate) fn show_statistics(task: &ShowStatistics) -> anyhow::Result<()> {
    let files = open(std::slice::from_ref(&task.file))?;
    let loaded = load(&files, task.chunk_sizes)?;
    let imatrix = add_up(&loaded, task.chunk_sizes)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let written = report::show_statistics(&mut out, &imatrix, &task.file)
        .and_then(|outcome| out.flush().map(|()| outcome));
    let Some(outcome) = unless_nobody_reads(written)? else { return Ok(()) };
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
    let files = open(&task.in_files)?;
    let loaded = load(&files, task.chunk_sizes)?;
    let mut imatrix = add_up(&loaded, task.chunk_sizes)?;
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
    let files = open(files)?;
    Ok(add_up(&load(&files, sizes)?, sizes)?.to_owned())
}

/// Files that are mapped: their numbers are read when something is made of them.
fn open(files: &[String]) -> anyhow::Result<Vec<(&str, File<'static>)>> {
    files.iter().map(|file| Ok((file.as_str(), File::open(file).with_context(|| failed(file))?))).collect()
}

fn failed(file: &str) -> String {
    format!("failed to load imatrix '{file}'")
}

fn load<'f>(
    files: &'f [(&str, File<'static>)],
    sizes: ChunkSizes,
) -> anyhow::Result<Vec<(&'f str, Loaded<Slice<'f>>)>> {
    let load = |(name, file): &'f (&str, File<'static>)| {
        log::info(format_args!("loading imatrix from '{name}'"));
        let loaded = file.load().with_context(|| failed(name))?;
        if loaded.is_legacy {
            log::info(format_args!(
                "'{name}' does not say its chunk size: {} tokens are assumed, --legacy-chunk-size says otherwise",
                sizes.legacy
            ));
        }
        Ok((*name, loaded))
    };
    files.iter().map(load).collect()
}

fn add_up<'f>(files: &'f [(&str, Loaded<Slice<'f>>)], sizes: ChunkSizes) -> anyhow::Result<Imatrix<Numbers<'f>>> {
    let mut imatrix = Imatrix::new();
    for (name, loaded) in files {
        let warnings = imatrix.merge(loaded, sizes).with_context(|| format!("cannot add '{name}'"))?;
        for warning in warnings {
            log::warn(format_args!("'{name}': {warning}"));
        }
    }
    Ok(imatrix)
}
