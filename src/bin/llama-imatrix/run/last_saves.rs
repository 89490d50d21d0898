//! Saves at the end of a run: matrix and state first, then the rest; the state is removed last. After an error the other
//! files are still saved, and every error is reported.

use std::process::ExitCode;

use anyhow::bail;
use llama_imatrix::Collector;
use llama_imatrix::collect::Snapshot;
use llama_imatrix::evaluate::{Checkpoint, Outcome, Position};
use llama_imatrix::imatrix::Shown;
use llama_imatrix::shown::ShownExperts;

use super::events::EventHandler;
use super::lens::{self, LensResult};
use super::{convergence, shown};
use crate::config::Collect;
use crate::ui::chain::describe;
use crate::ui::print::print_series;
use crate::ui::results::warn_of_gaps;
use crate::ui::{log, signals};

/// Saves the results of a run that is complete, but does not remove its state: see [`end`].
pub(crate) fn complete(
    task: &Collect,
    events: &mut EventHandler<'_>,
    collector: &Collector,
    outcome: &Outcome,
    lens_result: Option<&LensResult>,
    shown_experts: Option<&mut ShownExperts<'_>>,
) -> Vec<anyhow::Error> {
    let mut errors = events.take_failures();
    let snapshot = collector.snapshot();
    let checkpoint = Checkpoint { snapshot: &snapshot, position: &outcome.position };
    if task.shard.is_whole() {
        let saved = save_matrix(task, events, &snapshot, shown_experts.map(|experts| (experts, outcome)));
        if let Err(error) = saved {
            errors.push(error);
            // It has all of the sums, too.
            errors.extend(events.state().map(|state| match state.save(&checkpoint) {
                Ok(()) => anyhow::anyhow!(
                    "the run is complete in '{}', --resume writes the matrix again",
                    state.path().display()
                ),
                Err(second) => second,
            }));
        }
        events.set_compared(convergence::compare(task, &snapshot, &outcome.position));
        errors.extend(convergence::save_final(task, events.compared()).err());
    } else if let Some(state) = events.state() {
        errors.extend(state.save_final(&checkpoint).err());
    }
    errors.extend(lens::save(lens_result).err());
    errors
}

/// Removes the state of a run that is complete, if everything else is saved.
pub(crate) fn end(task: &Collect, events: &mut EventHandler<'_>, errors: &[anyhow::Error]) -> anyhow::Result<()> {
    all_errors(errors)?;
    if let Some(state) = events.state().filter(|_| task.shard.is_whole()) {
        state.remove();
    }
    Ok(())
}

/// Saves everything so far, after a signal has ended the run.
pub(crate) fn interrupted(
    task: &Collect,
    events: &mut EventHandler<'_>,
    collector: &Collector,
    outcome: &Outcome,
    n_chunks: usize,
    lens_result: Option<&LensResult>,
) -> anyhow::Result<ExitCode> {
    let signal = events.ended_by();
    let interrupted = signals::interrupted(signal);
    let code = ExitCode::from((128 + signal) as u8);
    let position: &Position = &outcome.position;
    print_series(format_args!("\n"));
    if position.done.is_empty() {
        log::warn(format_args!("{interrupted} before the first chunk was complete; there is nothing to save"));
        return Ok(code);
    }
    let mut errors = events.take_failures();
    let snapshot = collector.snapshot();
    // What the run can go on from comes first.
    let state = events.state().map(|state| {
        let saved = state.save(&Checkpoint { snapshot: &snapshot, position });
        saved.map(|()| {
            format!("the state is in '{}': the same command with --resume continues it", state.path().display())
        })
    });
    let (resume, error) = match state {
        None => (Some("no state was kept".to_owned()), None),
        Some(Ok(resume)) => (Some(resume), None),
        Some(Err(error)) => (None, Some(error)),
    };
    if task.shard.is_whole() {
        errors.extend(save_matrix(task, events, &snapshot, None).err());
        let compared = convergence::compare(task, &snapshot, position);
        errors.extend(convergence::save_final(task, compared.as_ref()).err());
    }
    errors.extend(error);
    errors.extend(lens::save(lens_result).err());
    if !errors.is_empty() {
        errors.extend(resume.map(anyhow::Error::msg));
        return all_errors(&errors).map(|()| code);
    }
    let done = &position.done;
    let chunks = if done.len() == 1 { "chunk" } else { "chunks" };
    let matrix = if task.shard.is_whole() && task.merge.output.is_file() {
        format!("the matrix so far is in '{}', ", task.merge.output.path().display())
    } else {
        String::new()
    };
    log::warn(format_args!(
        "{interrupted} after {chunks} {done} of {n_chunks}; {matrix}{}",
        resume.unwrap_or_default()
    ));
    Ok(code)
}

/// Saves the matrix. With experts to be shown rows, saves it again afterwards: what is collected is safe before that takes
/// time. A stream gets the second alone.
fn save_matrix(
    task: &Collect,
    events: &EventHandler<'_>,
    snapshot: &Snapshot,
    shown: Option<(&mut ShownExperts<'_>, &Outcome)>,
) -> anyhow::Result<()> {
    let entries: Vec<_> = snapshot.entries().collect();
    let imatrix = events.imatrix(snapshot.chunks, &entries);
    warn_of_gaps(&imatrix);
    let output = &task.merge.output;
    let Some((experts, outcome)) = shown else { return output.save_final(&imatrix, &Shown::new()) };
    if output.is_file() {
        output.save_final(&imatrix, &Shown::new())?;
    }
    match shown::show(task, experts, &imatrix, outcome, || !events.is_interrupted()) {
        None if output.is_file() => Ok(()),
        shown => output.save_final(&imatrix, &shown.unwrap_or_default()),
    }
}

/// Joins all errors to one.
fn all_errors(errors: &[anyhow::Error]) -> anyhow::Result<()> {
    match errors.iter().map(describe).collect::<Vec<_>>() {
        all if all.is_empty() => Ok(()),
        all => bail!("{}", all.join("; ")),
    }
}
