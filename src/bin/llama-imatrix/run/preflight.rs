//! Checks before the evaluation: files, free space, other runs of the same output.

use llama_imatrix::atomic_file::remove_leftovers;
use llama_imatrix::calibration::Chunks;
use llama_imatrix::evaluate::Layout;
use llama_imatrix::nextn::check_files;

use super::lock::Lock;
use super::weights::Weights;
use super::{chat, disk};
use crate::config::Collect;
use crate::ui::log;

/// Fails if a run cannot succeed, before a model is loaded.
pub(crate) fn check(task: &Collect, weights: Option<&Weights>) -> anyhow::Result<()> {
    check_files(&task.model, task.draft_model.as_deref())?;
    chat::check(task)?;
    if !task.flags.dry_run {
        disk::check_room(task, weights, None)?;
        if task.merge.output.is_file() {
            Lock::check(task.merge.output.path())?;
        }
    }
    Ok(())
}

/// Fails if the disk lacks space for all files of the run, numbered copies included.
pub(crate) fn check_room(
    task: &Collect,
    weights: Option<&Weights>,
    chunks: &Chunks,
    layout: &Layout,
) -> anyhow::Result<()> {
    disk::check_room(task, weights, Some((chunks, layout)))
}

/// Locks the output against other runs, and removes unfinished saves of killed runs.
pub(crate) fn lock_output(task: &Collect) -> anyhow::Result<Option<Lock>> {
    let output = &task.merge.output;
    if !output.is_file() {
        return Ok(None);
    }
    let lock = Lock::take(output.path())?;
    if lock.is_some() {
        for path in [output.path(), &task.state_path] {
            match remove_leftovers(path) {
                Ok(0) => {}
                Ok(n) => log::debug(format_args!("removed {n} unfinished saves of '{}'", path.display())),
                Err(error) => log::debug(format_args!("unfinished saves of '{}' stay: {error}", path.display())),
            }
        }
    }
    Ok(lock)
}
