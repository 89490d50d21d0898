//! The convergence file of a run, saved beside its matrix.

use std::path::Path;

use anyhow::Context as _;
use llama_imatrix::collect::Snapshot;
use llama_imatrix::convergence::ConvergenceFile;
use llama_imatrix::evaluate::{Outcome, Position};

use crate::config::Collect;
use crate::config::output::or_rescue;
use crate::ui::log;
use crate::ui::results::shell_word;

/// Compares the halves at the end of a run; `None` if it was not asked for, or if the text has no two halves.
pub(super) fn compare(task: &Collect, snapshot: &Snapshot, position: &Position) -> Option<ConvergenceFile> {
    task.convergence.as_ref()?;
    ConvergenceFile::new(snapshot.convergence()?, snapshot.chunks, &position.curve)
}

/// Saves the file, if the run writes one; to the temporary folder if that fails.
pub(super) fn save_final(task: &Collect, file: Option<&ConvergenceFile>) -> anyhow::Result<()> {
    let Some((path, file)) = path(task).zip(file) else { return Ok(()) };
    or_rescue(save(path, file), "convergence file", path, |w| file.write(w))
}

/// Saves the file beside a matrix that was saved during the run.
pub(super) fn save_during_run(task: &Collect, file: Option<&ConvergenceFile>) {
    if let Some((path, file)) = path(task).zip(file)
        && let Err(error) = save(path, file)
    {
        log::warn(format_args!("{error:#}; the run continues"));
    }
}

fn path(task: &Collect) -> Option<&Path> {
    task.convergence.as_ref()?.path.as_deref()
}

fn save(path: &Path, file: &ConvergenceFile) -> anyhow::Result<()> {
    file.save(path).with_context(|| format!("cannot save '{}'", path.display()))
}

/// Logs how well the halves agree at the end of a run, and whether `--stop-when-converged` has reached its goal.
pub(super) fn log_end(task: &Collect, compared: Option<&ConvergenceFile>, outcome: &Outcome) {
    if task.convergence.is_none() || !task.shard.is_whole() {
        return;
    }
    let Some(point) = compared.and_then(ConvergenceFile::last) else {
        log::warn(format_args!(
            "--convergence: the run had fewer than two batches with data, so its halves cannot be compared\n\
             hint: more text, or a smaller --batch-size"
        ));
        return;
    };
    let place = path(task).map_or_else(String::new, |path| format!("; {} has all weights", shell_word(path)));
    log::info(format_args!("convergence: {}{place}", point.describe()));
    let Some(goal) = task.flags.stop_when_converged else { return };
    if outcome.converged {
        log::info(format_args!(
            "the halves of every weight have a cosine of at least {goal} after chunks {}",
            outcome.position.done
        ));
    } else {
        log::warn(format_args!(
            "the text ended before the halves of every weight had a cosine of {goal}: the lowest is {:.4} ('{}')",
            point.cosine, point.weight
        ));
    }
}
