//! Loads one matrix, ready for statistics.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, ensure};
use llama_imatrix::convergence::{self, ConvergenceFile};
use llama_imatrix::imatrix::{ChunkSizes, Entry, Filled, Imatrix, Values};
use llama_imatrix::lens;
use llama_imatrix::lens::file::LensFile;

use crate::config::in_files::invalid;
use crate::ui::log;

/// Options for legacy files.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Legacy {
    /// Tokens per chunk of legacy .dat files, which do not store it
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(i32).range(1..))]
    legacy_chunk_size: i32,
}

/// Loads one file; `true` if it is a legacy one.
pub(super) fn load(path: &Path, legacy: Legacy) -> anyhow::Result<(Imatrix, bool)> {
    let loaded = Imatrix::load(path).with_context(|| format!("failed to load imatrix '{}'", path.display()))?;
    if let Some(problem) = invalid(&path.display().to_string(), &loaded) {
        log::warn(format_args!("{problem}"));
    }
    let sizes = ChunkSizes { run: legacy.legacy_chunk_size, legacy: legacy.legacy_chunk_size };
    let mut imatrix = Imatrix::default();
    let warnings = imatrix.merge(&loaded, sizes).with_context(|| format!("cannot use '{}'", path.display()))?;
    for warning in warnings {
        log::warn(format_args!("'{}': {warning}", path.display()));
    }
    Ok((imatrix, loaded.is_legacy))
}

/// Loads the convergence file beside a matrix with these entries, if there is one.
///
/// # Errors
/// Why an existing file is left out: it cannot be read, or is of another matrix.
pub(super) fn convergence_beside<V: Values>(
    matrix: &Path,
    entries: &BTreeMap<String, Entry<V>>,
    filled: &Filled,
) -> Result<Option<ConvergenceFile>, String> {
    let path = ConvergenceFile::beside(matrix);
    match ConvergenceFile::load(&path) {
        Ok(file) if file.is_of(entries, filled) => Ok(Some(file)),
        Ok(_) => Err(format!("'{}' is left out: it is of another run than '{}'", path.display(), matrix.display())),
        Err(convergence::Error::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("'{}' is left out: {error}", path.display())),
    }
}

/// Fails if a matrix has no data to print.
pub(super) fn ensure_data(path: &Path, weights: usize) -> anyhow::Result<()> {
    ensure!(weights > 0, "'{}' holds no data: no weight has a row with finite sums", path.display());
    Ok(())
}

/// Loads the lens file beside a matrix. If it cannot be read, also returns a note: the matrix can be shown without it.
pub(super) fn lens_beside(matrix: &Path) -> (Option<LensFile>, Option<String>) {
    let path = LensFile::beside(matrix);
    match LensFile::load(&path) {
        Ok(lens) => (Some(lens), None),
        Err(lens::file::Error::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => (None, None),
        Err(error) => (None, Some(format!("'{}' is left out: {error}", path.display()))),
    }
}
