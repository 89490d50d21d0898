//! Handles the events of a run: prints lines, saves, updates the progress bar.

use std::borrow::Cow;

use llama_imatrix::collect::{Due, Experts, Snapshot};
use llama_imatrix::convergence::{Convergence, ConvergenceFile, Point};
use llama_imatrix::evaluate::{Checkpoint, Error, Listener, Plan, Position, Start};
use llama_imatrix::imatrix::{Entry, Imatrix, Numbers};

use super::micro_batch::Streaming;
use super::state_file::StateFile;
use super::{convergence, saved};
use crate::config::Collect;
use crate::ui::chain::describe;
use crate::ui::print::print_series;
use crate::ui::signals::Signals;
use crate::ui::{log, progress};

/// Handler of a run's events.
pub(crate) struct EventHandler<'a> {
    task: &'a Collect,
    /// Metadata of the matrix.
    base: Imatrix,
    state: Option<StateFile>,
    signals: Signals,
    /// The progress that is shown, once the evaluation has started.
    shown: Option<progress::Evaluation>,
    /// How the weights are read, if they do not fit into memory.
    streaming: Option<Streaming>,
    perplexity: Option<f64>,
    experts: Option<Experts>,
    /// The comparison of the halves at the last save.
    compared: Option<ConvergenceFile>,
    /// Set when a signal has asked for a report.
    report_asked: bool,
    /// Set when a signal has asked for a save, until it is made.
    save_asked: bool,
    saved_chunks: Option<i32>,
    /// Failed saves of copies, which are not tried again.
    failures: Vec<anyhow::Error>,
}

impl<'a> EventHandler<'a> {
    pub(crate) fn new(
        task: &'a Collect,
        base: Imatrix,
        state: Option<StateFile>,
        signals: Signals,
        streaming: Option<Streaming>,
    ) -> Self {
        Self {
            streaming,
            task,
            base,
            state,
            signals,
            shown: None,
            perplexity: None,
            experts: None,
            compared: None,
            report_asked: false,
            save_asked: false,
            saved_chunks: None,
            failures: Vec::new(),
        }
    }

    /// Returns the matrix of these sums, by reference.
    pub(crate) fn imatrix<'e>(&self, chunks: i32, entries: &'e [(&str, Cow<'_, Entry>)]) -> Imatrix<Numbers<'e>> {
        let mut imatrix = Imatrix::from_entries(entries.iter().map(|(name, entry)| (*name, entry.as_ref())));
        imatrix.chunk_count = chunks;
        imatrix.datasets.clone_from(&self.base.datasets);
        imatrix.chunk_size = self.base.chunk_size;
        imatrix.n_layer_nextn = self.base.n_layer_nextn;
        imatrix.filled.clone_from(&self.base.filled);
        imatrix
    }

    /// Sets the progress that is shown.
    pub(crate) fn show(&mut self, evaluation: progress::Evaluation) {
        self.shown = Some(evaluation);
    }

    /// Returns true in the first batch, if experts are read from disk.
    fn counts_experts_read(&self) -> bool {
        self.streaming.is_some() && self.experts.is_none()
    }

    /// Describes perplexity and unseen experts.
    fn so_far(&self) -> Vec<String> {
        let perplexity = self.perplexity.map(|value| format!("PPL {value:.4}"));
        let unseen = |experts: &Experts| format!("{} of {} experts unseen", experts.unseen, experts.total);
        perplexity.into_iter().chain(self.experts.as_ref().map(unseen)).collect()
    }

    /// Adds to an error which file holds the run.
    pub(crate) fn explain(&self, error: Error) -> anyhow::Error {
        let error = anyhow::Error::from(error);
        if let Some(state) = self.state.as_ref().filter(|state| state.is_saved()) {
            let shown = state.path().display();
            return anyhow::anyhow!(
                "{}; the run up to the last save is in '{shown}'; hint: --resume continues it",
                describe(&error)
            );
        }
        match self.saved_chunks {
            None => error,
            Some(chunks) => anyhow::anyhow!(
                "{}; the sums of the first {chunks} chunks are in '{}'",
                describe(&error),
                self.task.merge.output.path().display()
            ),
        }
    }

    /// Returns the signal that ended the run.
    pub(crate) fn ended_by(&self) -> i32 {
        self.signals.ended_by().unwrap_or(2)
    }

    /// Returns true if a signal has asked to end the run.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.signals.ended_by().is_some()
    }

    pub(crate) fn state(&mut self) -> Option<&mut StateFile> {
        self.state.as_mut()
    }

    /// Replaces the comparison of the halves by that of the end of the run.
    pub(crate) fn set_compared(&mut self, compared: Option<ConvergenceFile>) {
        self.compared = compared;
    }

    /// Returns the last comparison of the halves.
    pub(crate) fn compared(&self) -> Option<&ConvergenceFile> {
        self.compared.as_ref()
    }

    /// Takes the errors of copies that could not be saved.
    pub(crate) fn take_failures(&mut self) -> Vec<anyhow::Error> {
        std::mem::take(&mut self.failures)
    }

    /// Saves the state. What cannot be written now may be later: the sums are still in memory.
    fn save_state(&mut self, checkpoint: &Checkpoint<'_>) {
        if let Some(state) = &mut self.state
            && let Err(error) = state.save(checkpoint)
        {
            log::warn(format_args!("{error:#}; the run continues and will try again"));
        }
    }
}

impl Listener for EventHandler<'_> {
    fn begins(&mut self, plan: &Plan) {
        if plan.no_perplexity {
            log::warn(format_args!("the model computes no logits, so there is no perplexity"));
        }
        if let Some(reason) = plan.all_logits {
            log::debug(format_args!("perplexity requires the logits of all positions: {reason}"));
        }
        log::debug(format_args!("lanes: {}", plan.lanes));
    }

    fn compared(&mut self, convergence: Convergence, curve: &[Point]) {
        self.compared = curve.last().and_then(|last| ConvergenceFile::new(convergence, last.chunks, curve));
    }

    fn due(&mut self, snapshot: &Snapshot) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let entries: Vec<_> = snapshot.entries().collect();
        let imatrix = self.imatrix(snapshot.chunks, &entries);
        let due = &snapshot.due;
        let mut copies: Vec<Option<i32>> = due
            .iter()
            .map(|due| match due {
                Due::Output => None,
                Due::Copy(chunks) => Some(*chunks),
            })
            .collect();
        if log::verbosity() >= 1 {
            print_series(format_args!("{}", "\n".repeat(due.len())));
        }
        copies.dedup();
        // A stream gets the matrix once, at the end: whoever reads it could not tell one from the next.
        if !self.task.merge.output.is_file() {
            return Ok(());
        }
        for copy in copies {
            match self.task.merge.output.save(&imatrix, copy) {
                Ok(()) if copy.is_none() => {
                    self.saved_chunks = Some(snapshot.chunks);
                    saved::matrix_is_saved(self.task.merge.output.path(), snapshot.chunks);
                    convergence::save_during_run(self.task, self.compared.as_ref());
                }
                Ok(()) => {}
                Err(error) => {
                    log::warn(format_args!("{error:#}; the run continues"));
                    // Of the output there is a next save, which may succeed: the sums are still in memory.
                    if copy.is_some() {
                        self.failures.push(error);
                    }
                }
            }
        }
        Ok(())
    }

    fn first_batch(&mut self, seconds: f32, n_chunks: usize, n_seq: usize) {
        let total = (seconds * n_chunks as f32 / n_seq as f32) as i32;
        if !progress::visible() {
            log::info(format_args!("{seconds:.2} seconds per pass"));
        }
        if let Some(streaming) = &self.streaming {
            log::info(format_args!("{}", streaming.pace(seconds)));
        }
        let (hours, rest) = (total / 3600, total % 3600);
        if hours > 0 {
            print_series(format_args!("{hours} hours "));
        }
        let rest = if hours > 0 { rest } else { total };
        print_series(format_args!("{:.2} minutes\n", f64::from(rest) / 60.0));
    }

    fn perplexity(&mut self, chunk: usize, value: f64) {
        self.perplexity = Some(value);
        print_series(format_args!("[{chunk}]{value:.4},"));
    }

    fn wants_experts(&mut self) -> bool {
        self.report_asked |= self.signals.take_report();
        self.report_asked || progress::visible() || self.counts_experts_read()
    }

    fn experts(&mut self, experts: &Experts) {
        if self.counts_experts_read() {
            let read = experts.total - experts.unseen;
            log::info(format_args!(
                "{read} of {} experts had tokens in the first batch: only these are needed",
                experts.total
            ));
        }
        self.experts = Some(*experts);
    }

    fn progress(&mut self, done: usize, _: usize) {
        if let Some(shown) = &self.shown {
            let experts = self.experts.as_ref().map(|experts| (experts.unseen, experts.total));
            shown.end_batch(done, self.perplexity, experts);
        }
    }

    fn wants_checkpoint(&mut self, position: &Position) -> bool {
        if std::mem::take(&mut self.report_asked) {
            let so_far = [format!("{} chunks are done", position.done.len())].into_iter().chain(self.so_far());
            log::info(format_args!("{}", so_far.collect::<Vec<_>>().join(", ")));
            self.save_asked = true;
        }
        // Where an output is due at the same time there is none yet, and it is asked for again.
        self.state.as_ref().is_some_and(|state| self.save_asked || state.is_due(position))
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint<'_>) {
        self.save_asked = false;
        self.save_state(checkpoint);
    }

    fn discarded(&mut self, error: &Error) {
        let error = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
        let text = error
            .map(ToString::to_string)
            .reduce(|all, cause| if all.contains(&cause) { all } else { format!("{all}: {cause}") });
        log::warn(format_args!("discarded {}", text.unwrap_or_default()));
    }

    fn keeps_checkpoints(&self) -> bool {
        self.state.is_some()
    }

    fn restore(&mut self) -> Option<Start> {
        self.state.as_mut()?.restore()
    }
}
