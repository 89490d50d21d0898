//! `--in-file` without a text.

use crate::config::Merge;
use crate::config::in_files::{add_up, load, open, warn_of_invalid, warn_of_names};
use crate::config::output::warn_of_dat;
use crate::ui::log;
use crate::ui::results::{log_saved, print_saved, warn_of_gaps};

/// Combines matrices, or converts one.
pub(crate) fn combine(task: &Merge) -> anyhow::Result<()> {
    log::info(format_args!("No prompt provided; combining precomputed matrices only."));
    let files = open(&task.in_files)?;
    let loaded = load(&files, task.chunk_sizes)?;
    warn_of_invalid(&loaded);
    warn_of_names(loaded.iter().map(|(name, loaded)| (*name, loaded)));
    let mut imatrix = add_up(&loaded, task.chunk_sizes)?;
    imatrix.settle_chunk_size(task.chunk_sizes.run);
    let kind = if task.in_files.len() > 1 { "combined imatrix" } else { "imatrix" };
    log::info(format_args!("saving {kind} to '{}'", task.output.path().display()));
    warn_of_gaps(&imatrix);
    warn_of_dat(&task.output, &imatrix);
    task.output.save(&imatrix, None)?;
    print_saved();
    log_saved(task.output.path(), &imatrix, &[]);
    Ok(())
}
