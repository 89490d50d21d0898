//! Evaluates several batches in parallel, each in a separate lane, and reports them in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::time::Instant;

use crate::calibration::Chunks;
use crate::collect::collector::Collector;
use crate::collect::{self, Snapshot};
use crate::convergence::Convergence;
use crate::llama::{self, Model};
use crate::nextn::Layer;
use crate::state::ChunkSet;

use super::evaluator::{Evaluated, Evaluator};
use super::kept::Kept;
use super::memory;
use super::{Checkpoint, Error, Layout, Listener, Position, RunOptions, Start};

/// Number of batches evaluated in parallel, each in a separate context with its share of the threads.
///
/// The number is always one with a NextN layer, with [`RunOptions::stop_when_covered`] or
/// [`RunOptions::stop_when_converged`], and if a batch of documents is larger than a micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lanes {
    /// Two lanes if there are at least two threads and four batches, every batch is a single micro-batch, no device is
    /// remote, and a second context takes at most half of the available memory of the host and of each device.
    /// Otherwise one.
    #[default]
    Auto,
    /// This many lanes, but at least one and at most the number of batches.
    Count(usize),
}

/// Minimum number of batches for two lanes. The first batch is evaluated by one lane alone.
const WORTH_LANES: usize = 4;

impl Lanes {
    fn resolve(self, options: &RunOptions, n_batches: usize, in_one_piece: bool) -> usize {
        let threads = usize::try_from(options.n_threads_batch).unwrap_or(1);
        match self {
            Self::Auto if threads >= 2 && n_batches >= WORTH_LANES && in_one_piece => 2,
            Self::Auto => 1,
            Self::Count(lanes) => lanes.clamp(1, n_batches.max(1)),
        }
    }
}

/// The batches that a run evaluates.
pub(super) struct Batches(Vec<PlannedBatch>);

/// A batch that a run evaluates.
struct PlannedBatch {
    /// Number of the batch in the layout. It does not depend on the part, or on what is done or discarded.
    number: usize,
    chunks: Vec<usize>,
}

impl Batches {
    /// Returns the batches of the layout without chunks that are done, discarded, at or after `end`, or outside the
    /// part of the run.
    pub(super) fn new(
        layout: &Layout,
        options: &RunOptions,
        position: &Position,
        discarded: &ChunkSet,
        end: Option<usize>,
    ) -> Self {
        let part = options.part.clone().unwrap_or(0..usize::MAX);
        let end = end.unwrap_or(usize::MAX);
        let is_due = |&chunk: &usize| {
            part.contains(&chunk)
                && chunk < end
                && !position.done.contains(chunk as u64)
                && !discarded.contains(chunk as u64)
        };
        let batches = layout.batches.iter().enumerate();
        let batches =
            batches.map(|(number, batch)| PlannedBatch { number, chunks: batch.clone().filter(is_due).collect() });
        Self(batches.filter(|batch| !batch.chunks.is_empty()).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Creates an evaluator for each lane.
pub(super) fn evaluators<'a>(
    model: &'a Model,
    nextn: Option<&Layer<'a>>,
    chunks: &'a Chunks,
    layout: &Layout,
    collector: &Collector,
    options: &RunOptions,
    n_batches: usize,
) -> Result<Vec<Evaluator<'a>>, Error> {
    let mut lanes = wanted(options, layout, chunks, nextn.is_some(), n_batches);
    let evaluator = || Evaluator::new(model, nextn, chunks, layout, collector, options);
    let before = memory::reserved();
    let devices = if options.lanes == Lanes::Auto && lanes > 1 { memory::devices() } else { Vec::new() };
    let mut evaluators = vec![evaluator()?];
    if options.lanes == Lanes::Auto && !(has_room(before) && memory::have_room(&devices)) {
        lanes = 1;
    }
    memory::check(evaluators[0].host_memory(), lanes)?;
    while evaluators.len() < lanes {
        evaluators.push(evaluator()?);
    }
    Ok(evaluators)
}

pub(super) fn wanted(options: &RunOptions, layout: &Layout, chunks: &Chunks, nextn: bool, n_batches: usize) -> usize {
    // Lanes count the uses of an input per batch. Batches of documents agree in this number only if each is one
    // micro-batch.
    let uneven = chunks.are_documents() && !layout.in_one_piece;
    // With several lanes, the sums would include batches after the one at which the run ends.
    let alone = nextn || uneven || options.stop_when_covered.is_some() || options.stop_when_converged.is_some();
    if alone { 1 } else { options.lanes.resolve(options, n_batches, layout.in_one_piece) }
}

/// Returns true if another context takes at most half of the available memory. It is assumed to take what was reserved
/// since there were `before` bytes. Also true if the system does not report its memory.
fn has_room(before: Option<u64>) -> bool {
    let (Some(before), Some(after), Some(available)) = (before, memory::reserved(), memory::available()) else {
        return true;
    };
    after.saturating_sub(before) <= available / 2
}

/// Result of a batch.
struct Report {
    index: usize,
    evaluated: Result<Evaluated, Error>,
    seconds: f32,
}

/// Reports batches to the listener, in order.
#[expect(clippy::struct_excessive_bools, reason = "independent facts about what was delivered")]
pub(super) struct Delivery<'l> {
    collector: &'l Collector,
    pub(super) listener: &'l mut dyn Listener,
    chunks: &'l Chunks,
    n_seq: usize,
    keep_likelihoods: bool,
    /// Progress of the delivered batches.
    pub(super) position: Position,
    /// All chunks discarded so far. After a step back, the run has yet to reach some of them.
    pub(super) discarded: ChunkSet,
    /// Chunks reported to the listener, which are not reported again after a step back.
    told: ChunkSet,
    timed: bool,
    stop_when_covered: Option<u64>,
    stop_when_converged: Option<f64>,
    /// Tokens above this bound are no longer sampled.
    bound: Arc<AtomicU64>,
    /// True if the listener has requested a checkpoint that is not taken yet.
    asked: bool,
    /// The last checkpoint, if the listener keeps none and chunks may be discarded.
    kept: Option<Kept>,
    /// True if every expert has the requested number of tokens.
    pub(super) covered: bool,
    /// True if at the last save the halves of every weight had the requested cosine.
    pub(super) converged: bool,
}

impl<'l> Delivery<'l> {
    pub(super) fn new(
        collector: &'l Collector,
        listener: &'l mut dyn Listener,
        chunks: &'l Chunks,
        layout: &Layout,
        options: &RunOptions,
        position: Position,
    ) -> Self {
        let kept = (options.max_bad_chunks > 0 && !listener.keeps_checkpoints()).then(Kept::new);
        Self {
            collector,
            listener,
            chunks,
            n_seq: layout.n_seq,
            keep_likelihoods: options.keep_likelihoods,
            discarded: position.discarded.clone(),
            told: position.done.clone(),
            timed: false,
            stop_when_covered: options.stop_when_covered,
            stop_when_converged: options.stop_when_converged,
            bound: Arc::default(),
            asked: false,
            kept,
            covered: false,
            converged: false,
            position,
        }
    }

    fn deliver(&mut self, batches: &Batches, report: Report) -> Result<(), Error> {
        let Evaluated { nlls, findings, sample } = report.evaluated?;
        for (chunk, findings) in findings {
            self.position.findings.insert(chunk, findings);
        }
        self.position.sample.join(&sample);
        self.bound.store(self.position.sample.bound(), Ordering::Relaxed);
        let batch = &batches.0[report.index].chunks;
        let snapshots = self.collector.take_due(report.index);
        // Batches repeated after a step back are not saved again.
        let again = batch.iter().all(|&chunk| self.told.contains(chunk as u64));
        for snapshot in snapshots.iter().filter(|snapshot| !snapshot.due.is_empty()) {
            let convergence = snapshot.convergence();
            if let Some(convergence) = &convergence {
                self.compare(convergence, snapshot.chunks);
            }
            if again {
                continue;
            }
            if let Some(convergence) = convergence {
                self.listener.compared(convergence, &self.position.curve);
            }
            self.listener.due(snapshot).map_err(Error::Listener)?;
        }
        if !std::mem::replace(&mut self.timed, true) {
            let n_seq = if self.chunks.are_documents() { batch.len() } else { self.n_seq };
            self.listener.first_batch(report.seconds, self.chunks.len(), n_seq);
        }
        let mut nlls = nlls.into_iter();
        for &chunk in batch {
            let number = chunk as u64;
            self.position.done.insert(number..number + 1);
            self.position.tokens += self.chunks.get(chunk).len() as u64;
            let first_time = !self.told.contains(number);
            self.told.insert(number..number + 1);
            // A document of one or two tokens has no scored position.
            let Some(nlls) = nlls.next().filter(|nlls| !nlls.is_empty()) else { continue };
            self.position.likelihoods.add(number, &nlls, self.keep_likelihoods);
            if first_time {
                self.listener.perplexity(chunk + 1, self.position.likelihoods.running.value());
            }
        }
        // Chunks discarded before the end of this batch are done too.
        let behind = self.discarded.intersection(&before(batch[batch.len() - 1]));
        self.position.done.insert_all(&behind);
        self.position.discarded = behind;
        let wanted = self.listener.wants_experts() || self.stop_when_covered.is_some();
        if let Some(experts) = wanted.then(|| self.collector.experts()).flatten() {
            self.covered = self.stop_when_covered.is_some_and(|tokens| experts.least >= tokens);
            self.listener.experts(&experts);
        }
        self.listener.progress(batch[batch.len() - 1] + 1, self.chunks.len());
        for snapshot in snapshots.iter().filter(|snapshot| snapshot.due.is_empty()) {
            self.checkpoint(snapshot);
        }
        self.asked |= self.listener.wants_checkpoint(&self.position);
        let is_due = self.kept.as_mut().is_some_and(Kept::is_due_after_batch);
        if self.asked || is_due {
            self.collector.request_snapshot();
            for snapshot in self.collector.take_due(report.index) {
                self.checkpoint(&snapshot);
            }
        }
        Ok(())
    }

    /// Adds a point to the curve, and compares it with the goal of the run.
    fn compare(&mut self, convergence: &Convergence, chunks: i32) {
        let Some(point) = convergence.point(chunks) else { return };
        self.converged = self.stop_when_converged.is_some_and(|cosine| point.cosine >= cosine);
        self.position.curve.push(point);
    }

    /// Returns true if the run has reached all goals that end it early.
    fn has_reached_its_goals(&self) -> bool {
        let goals =
            [(self.stop_when_covered.is_some(), self.covered), (self.stop_when_converged.is_some(), self.converged)];
        goals.iter().any(|&(is_set, _)| is_set) && goals.iter().all(|&(is_set, reached)| reached || !is_set)
    }

    /// Keeps a checkpoint if the listener keeps none, and passes it to the listener if requested.
    fn checkpoint(&mut self, snapshot: &Snapshot) {
        let checkpoint = Checkpoint { snapshot, position: &self.position };
        if let Some(kept) = &mut self.kept {
            kept.keep(&checkpoint);
        }
        if std::mem::take(&mut self.asked) {
            self.listener.checkpoint(&checkpoint);
        }
    }

    /// Returns the last checkpoint in memory, to continue from.
    pub(super) fn step_back(&mut self) -> Option<Start> {
        self.asked = false;
        let kept = self.kept.as_mut()?;
        kept.step_back();
        kept.restore()
    }
}

/// Returns all chunks up to and including `chunk`.
fn before(chunk: usize) -> ChunkSet {
    let mut set = ChunkSet::default();
    set.insert(0..chunk as u64 + 1);
    set
}

/// Evaluates all batches. Returns true if it was stopped before the end.
pub(super) fn evaluate(
    evaluators: &mut [Evaluator<'_>],
    batches: &Batches,
    options: &RunOptions,
    delivery: &mut Delivery<'_>,
) -> Result<bool, Error> {
    delivery.bound.store(delivery.position.sample.bound(), Ordering::Relaxed);
    for evaluator in &mut *evaluators {
        evaluator.enter(delivery.collector, &delivery.bound);
    }
    let stop = || options.stop.load(Ordering::Relaxed);
    // Lanes need the number of uses of each input in the first batch to know when it is their turn.
    let alone = if evaluators.len() > 1 { 1 } else { batches.len() };
    evaluators[0].set_threads(usize::try_from(options.n_threads_batch).unwrap_or(1));
    for index in 0..alone.min(batches.len()) {
        if stop() {
            return Ok(true);
        }
        let report = evaluate_one(&mut evaluators[0], batches, index);
        delivery.deliver(batches, report)?;
        if delivery.has_reached_its_goals() {
            return Ok(false);
        }
    }
    if alone < batches.len() {
        delivery.collector.overlap();
        share_threads(evaluators, options);
        return side_by_side(evaluators, batches, alone, &options.stop, delivery);
    }
    Ok(false)
}

fn evaluate_one(evaluator: &mut Evaluator<'_>, batches: &Batches, index: usize) -> Report {
    let started = Instant::now();
    let PlannedBatch { number, chunks } = &batches.0[index];
    let evaluated = evaluator.evaluate(index, *number, chunks);
    Report { index, evaluated, seconds: started.elapsed().as_secs_f32() }
}

fn share_threads(evaluators: &mut [Evaluator<'_>], options: &RunOptions) {
    let threads = usize::try_from(options.n_threads_batch).unwrap_or(1);
    let lanes = evaluators.len();
    for (lane, evaluator) in evaluators.iter_mut().enumerate() {
        evaluator.set_threads((threads / lanes + usize::from(lane < threads % lanes)).max(1));
    }
}

fn side_by_side(
    evaluators: &mut [Evaluator<'_>],
    batches: &Batches,
    first: usize,
    stop: &AtomicBool,
    delivery: &mut Delivery<'_>,
) -> Result<bool, Error> {
    let (next, failed) = (AtomicUsize::new(first), AtomicBool::new(false));
    let (sender, reports) = mpsc::channel();
    std::thread::scope(|scope| {
        for evaluator in evaluators {
            let (sender, next, failed) = (sender.clone(), &next, &failed);
            let goes_on = move || !failed.load(Ordering::Relaxed) && !stop.load(Ordering::Relaxed);
            scope.spawn(move || run_lane(evaluator, batches, next, goes_on, &sender));
        }
        drop(sender);
        let mut waiting = BTreeMap::new();
        let mut due = first;
        let mut result = Ok(());
        for report in reports {
            waiting.insert(report.index, report);
            while let Some(report) = waiting.remove(&due) {
                due += 1;
                let told = if result.is_ok() { delivery.deliver(batches, report) } else { report.evaluated.map(drop) };
                result = first_cause(result, told);
            }
            if result.is_err() {
                failed.store(true, Ordering::Relaxed);
                delivery.collector.stop();
            }
        }
        // Batches after a missing one are not delivered; only their errors matter.
        for report in waiting.into_values() {
            result = first_cause(result, report.evaluated.map(drop));
        }
        result.map(|()| due < batches.len())
    })
}

/// Returns the earlier error, unless it only says that another lane has failed.
fn first_cause(earlier: Result<(), Error>, later: Result<(), Error>) -> Result<(), Error> {
    match (earlier, later) {
        (Ok(()), later) => later,
        (Err(earlier), Err(later)) if is_consequence(&earlier) => Err(later),
        (earlier, _) => earlier,
    }
}

fn is_consequence(error: &Error) -> bool {
    let Error::Chunks { source: llama::Error::Observer(cause), .. } = error else { return false };
    matches!(cause.downcast_ref(), Some(collect::Error::Stopped))
}

fn run_lane(
    evaluator: &mut Evaluator<'_>,
    batches: &Batches,
    next: &AtomicUsize,
    goes_on: impl Fn() -> bool,
    reports: &Sender<Report>,
) {
    let collector = evaluator.collector();
    let _stop = collector.stop_on_panic();
    while goes_on() {
        let index = next.fetch_add(1, Ordering::Relaxed);
        if index >= batches.len() {
            break;
        }
        let report = evaluate_one(evaluator, batches, index);
        let failed = report.evaluated.is_err();
        if failed {
            collector.stop();
        }
        if reports.send(report).is_err() || failed {
            break;
        }
    }
}
