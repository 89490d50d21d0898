//! The state file of a run: written between chunks, continued by `--resume`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use llama_imatrix::atomic_file::{Way, save_as};
use llama_imatrix::collect::Earlier;
use llama_imatrix::evaluate::{Checkpoint, Position, Start};
use llama_imatrix::lens::{Findings, Measurements, Settings};
use llama_imatrix::llama::Backend;
use llama_imatrix::shown::SampledLayer;
use llama_imatrix::state::{Fingerprint, ModelFingerprint, Output, Progress, State};

use super::base::Base;
use super::saved;
use super::text::Text;
use crate::args::deciding;
use crate::config::Collect;
use crate::config::output::or_rescue;
use crate::ui::log;

/// With workers, a save is due after at least this many times the duration of the last one.
const SAVE_INTERVAL_PER_COST: u32 = 50;

/// With workers, the least time between saves: each transfers all sums, for experts some megabytes per layer.
const SHORTEST_SAVE_INTERVAL: Duration = Duration::from_secs(10);

/// When the state is saved, and what is in it besides the sums.
pub(crate) struct StateFile {
    path: PathBuf,
    way: Way,
    fingerprint: Fingerprint,
    output: Output,
    /// Settings of the measurements of layers, if there are any.
    settings: Option<Settings>,
    n_chunks: u64,
    shard: llama_imatrix::state::Shard,
    /// Chunks between saves; without it `interval` counts; without both nothing is saved.
    every: Option<u64>,
    interval: Option<Duration>,
    last: Instant,
    last_chunks: u64,
    /// Where a worker may be lost with the sums on it: when a save fell due, and how long the last one took from there.
    due_since: std::cell::Cell<Option<Instant>>,
    cost: Option<Duration>,
    workers: bool,
    /// True if the run keeps the halves of the text.
    convergence: bool,
    /// Layers whose rows are sampled, if they are.
    sample: Option<Arc<[SampledLayer]>>,
    /// True if the file is this run's.
    ours: bool,
}

impl StateFile {
    /// `None` where no state is kept.
    pub(crate) fn new(
        task: &Collect,
        backend: &Backend,
        text: &Text,
        base: &Base,
        settings: Option<Settings>,
        sample: Option<Arc<[SampledLayer]>>,
    ) -> anyhow::Result<Option<Self>> {
        let given = &task.flags;
        let Some(way) = task.state_way else { return Ok(None) };
        let model = match ModelFingerprint::of_file(&task.model) {
            Ok(model) => model,
            Err(error) if !given.resume && task.shard.is_whole() => {
                log::warn(format_args!("no state is kept, since the model has no fingerprint: {error}"));
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let draft = task.draft_model.as_ref().map(ModelFingerprint::of_file).transpose()?;
        Ok(Some(Self {
            path: task.state_path.clone(),
            way,
            fingerprint: Fingerprint {
                model,
                draft,
                text: text.digest,
                n_tokens: text.n_tokens as u64,
                chunk_size: text.chunks.size() as u32,
                n_batch: task.n_batch as u32,
                n_ubatch: task.n_ubatch as u32,
                accumulate: task.accumulate,
                llama_cpp: build(backend),
                flags: deciding(given)?,
            },
            output: Output {
                datasets: base.imatrix.datasets.clone(),
                chunk_size: base.imatrix.chunk_size,
                n_layer_nextn: base.imatrix.n_layer_nextn,
                base: base.digest,
            },
            settings,
            n_chunks: text.chunks.len() as u64,
            shard: task.shard,
            every: given.state_frequency.map(u64::from),
            interval: (given.state_interval > 0).then(|| Duration::from_secs(given.state_interval.into())),
            last: Instant::now(),
            last_chunks: 0,
            due_since: std::cell::Cell::new(None),
            cost: None,
            workers: !given.rpc.is_empty(),
            convergence: task.convergence.is_some(),
            sample,
            ours: false,
        }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns true if the file holds this run.
    pub(crate) fn is_saved(&self) -> bool {
        self.ours
    }

    /// Loads the run that the file holds. Fails if it is another run.
    pub(crate) fn load(&mut self) -> anyhow::Result<Option<Start>> {
        if !self.path.exists() {
            return Ok(None);
        }
        let shown = self.path.display();
        let state = State::load(&self.path).with_context(|| format!("cannot resume from '{shown}'"))?;
        state
            .fingerprint
            .compare(&self.fingerprint)
            .with_context(|| format!("cannot resume from '{shown}': another run"))?;
        let (found, expected) = (&state.progress, self.n_chunks);
        ensure!(
            found.n_chunks == expected,
            "cannot resume from '{shown}': its run has {} chunks, this one {expected} (--chunks)",
            found.n_chunks
        );
        ensure!(
            found.shard == self.shard,
            "cannot resume from '{shown}': it is shard {}/{}, not {}/{}",
            found.shard.index(),
            found.shard.count(),
            self.shard.index(),
            self.shard.count()
        );
        let earlier = Earlier::from_state(state.sums, state.progress.chunk_count);
        ensure!(
            !self.convergence || earlier.has_halves(),
            "cannot resume from '{shown}' with --convergence: its run did not keep the halves of the text\n\
             hint: leave out --convergence and --stop-when-converged, or delete the file to start over"
        );
        let layers = state.sample.as_ref().map(llama_imatrix::shown::RowSample::layers);
        ensure!(
            self.sample.is_none() || layers == self.sample.as_deref(),
            "cannot resume from '{shown}' with --fill-experts shown: its run did not sample the rows of these experts\n\
             hint: --fill-experts layer, or delete the file to start over"
        );
        state.output.compare(&self.output).with_context(|| format!("cannot resume from '{shown}': another run"))?;
        self.ours = true;
        saved::state_is_saved(&self.path);
        self.last_chunks = found.done.len();
        let State { progress, likelihoods, measurements, curve, sample, .. } = state;
        let findings = match (measurements, &self.settings) {
            (Some(measurements), Some(settings)) if measurements.settings == *settings => measurements.findings,
            _ => Findings::default(),
        };
        Ok(Some(Start {
            earlier,
            position: Position {
                done: progress.done,
                discarded: progress.discarded,
                likelihoods: likelihoods.unwrap_or_default(),
                tokens: progress.tokens,
                findings,
                curve: if self.convergence { curve } else { Vec::new() },
                sample: sample.filter(|_| self.sample.is_some()).unwrap_or_default(),
            },
        }))
    }

    /// The last state that this run has saved.
    pub(crate) fn restore(&mut self) -> Option<Start> {
        if !self.ours {
            return None;
        }
        self.load().unwrap_or_else(|error| {
            log::warn(format_args!("{error:#}; starting over"));
            None
        })
    }

    /// Refuses to write over a run that is not this one.
    pub(crate) fn refuse_to_overwrite(&self) -> anyhow::Result<()> {
        if !self.path.exists() {
            return Ok(());
        }
        let shown = self.path.display();
        match State::load(&self.path) {
            Ok(state) if state.progress.shard != self.shard => bail!(
                "'{shown}' holds shard {} and this is shard {}\nhint: give each shard its own --output",
                state.progress.shard,
                self.shard
            ),
            Ok(state) => bail!(
                "'{shown}' holds a run with {} of {} chunks done\nhint: --resume continues it; delete the file to start over",
                state.progress.done.len(),
                state.progress.n_chunks
            ),
            Err(error) => {
                bail!("'{shown}' exists and is not a readable state ({error})\nhint: delete it to start over")
            }
        }
    }

    /// Returns true if a save is due.
    pub(crate) fn is_due(&self, position: &Position) -> bool {
        let is_due = match (self.every, self.interval) {
            (Some(every), _) => position.done.len() >= self.last_chunks + every,
            (None, Some(interval)) => {
                self.last.elapsed() >= if self.workers { interval_with_workers(interval, self.cost) } else { interval }
            }
            (None, None) => false,
        };
        if is_due && self.due_since.get().is_none() {
            self.due_since.set(Some(Instant::now()));
        }
        is_due
    }

    /// Replaces the file. Where that fails the last one stays, and it is tried again when it is next due.
    pub(crate) fn save(&mut self, checkpoint: &Checkpoint<'_>) -> anyhow::Result<()> {
        let state = self.state(checkpoint);
        self.last = Instant::now();
        self.last_chunks = checkpoint.position.done.len();
        save_as(&self.path, self.way, |w| state.write(w))
            .with_context(|| format!("cannot save '{}'", self.path.display()))?;
        self.ours = true;
        saved::state_is_saved(&self.path);
        self.cost = self.due_since.take().map(|since| since.elapsed()).or(self.cost);
        Ok(())
    }

    /// Replaces the file, which is the result of a shard; where that fails, writes it to the temporary folder.
    pub(crate) fn save_final(&mut self, checkpoint: &Checkpoint<'_>) -> anyhow::Result<()> {
        let saved = self.save(checkpoint);
        or_rescue(saved, "state", &self.path, |w| self.state(checkpoint).write(w))
    }

    fn state<'c>(&self, checkpoint: &'c Checkpoint<'_>) -> State<'c> {
        let position = checkpoint.position;
        State {
            fingerprint: self.fingerprint.clone(),
            progress: Progress {
                n_chunks: self.n_chunks,
                done: position.done.clone(),
                discarded: position.discarded.clone(),
                shard: self.shard,
                tokens: position.tokens,
                chunk_count: checkpoint.snapshot.chunks,
            },
            output: self.output.clone(),
            likelihoods: Some(position.likelihoods.clone()),
            measurements: self
                .settings
                .clone()
                .map(|settings| Measurements { settings, findings: position.findings.clone() }),
            curve: position.curve.clone(),
            sample: self.sample.is_some().then(|| position.sample.clone()),
            sums: checkpoint.snapshot.sums(self.fingerprint.accumulate),
        }
    }

    /// Removes the file, once the run is complete and all results are saved.
    pub(crate) fn remove(&self) {
        if self.ours
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            log::warn(format_args!("cannot remove '{}', which is no longer needed: {error}", self.path.display()));
        }
    }
}

/// The time between saves with workers: as often as costs little, since what a worker has is lost with it. Before the first
/// save, which has no `cost` yet, none.
fn interval_with_workers(interval: Duration, cost: Option<Duration>) -> Duration {
    let affordable = cost.map_or(Duration::ZERO, |cost| (cost * SAVE_INTERVAL_PER_COST).max(SHORTEST_SAVE_INTERVAL));
    interval.min(affordable)
}

/// llama.cpp's version and what it was compiled for: kernels for other instructions add up in another order.
fn build(backend: &Backend) -> String {
    let features = backend.system_info().replace(" = 1", "").replace([':', '|'], "");
    let features: Vec<&str> = features.split_whitespace().collect();
    format!("{} for {}", Backend::version(), features.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saves_with_workers_are_ten_seconds_apart_or_fifty_times_what_one_takes() {
        let seconds = Duration::from_secs;
        assert_eq!(interval_with_workers(seconds(60), None), seconds(0), "the first save is made at once");
        assert_eq!(interval_with_workers(seconds(60), Some(Duration::from_millis(20))), seconds(10));
        assert_eq!(interval_with_workers(seconds(60), Some(Duration::from_millis(400))), seconds(20));
        assert_eq!(
            interval_with_workers(seconds(60), Some(seconds(3))),
            seconds(60),
            "--state-interval is the longest"
        );
        assert_eq!(interval_with_workers(seconds(5), Some(Duration::from_millis(20))), seconds(5));
    }
}
