//! Several batches at once, each in a lane of its own, told of in order.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::time::Instant;

use crate::calibration::Chunks;
use crate::collect::{self, Collector};
use crate::llama::{self, Model};
use crate::nextn::Layer;
use crate::perplexity::Perplexity;

use super::pass::Pass;
use super::{Error, Listener, RunOptions};

/// How many batches are evaluated side by side, each with its share of the threads and a context of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lanes {
    /// Two where that is worth it: with two threads or more, four batches or more, and batches that are computed in one
    /// piece.
    #[default]
    Auto,
    /// So many, at least one, and no more than there are batches.
    Count(usize),
}

/// Batches that `Auto` takes for worth a second lane: the first is evaluated before lanes begin.
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

/// The chunks of each batch.
pub(super) struct Batches(Vec<Range<usize>>);

impl Batches {
    /// `n_seq` chunks a batch; a tail, being shorter, has one of its own.
    pub(super) fn new(chunks: &Chunks, n_seq: usize) -> Self {
        let mut batches = Vec::new();
        let mut first = 0;
        while first < chunks.len() {
            let end = if first < chunks.n_whole() { chunks.n_whole() } else { chunks.len() };
            let last = (first + n_seq).min(end);
            batches.push(first..last);
            first = last;
        }
        Self(batches)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// A context for each lane.
pub(super) fn passes<'a>(
    model: &'a Model,
    nextn: Option<&Layer<'a>>,
    chunks: &'a Chunks,
    collector: &Collector,
    options: &RunOptions,
    n_batches: usize,
) -> Result<Vec<Pass<'a>>, Error> {
    // Lanes take turns batch by batch: of a batch in several pieces the first would wait for the last of the one before.
    let n_seq = super::sequences_per_batch(options.n_batch, chunks.size());
    let in_one_piece = n_seq * chunks.size() <= options.n_ubatch.min(options.n_batch);
    let lanes = if nextn.is_some() { 1 } else { options.lanes.resolve(options, n_batches, in_one_piece) };
    (0..lanes).map(|_| Pass::new(model, nextn, chunks, collector, options)).collect()
}

/// What came of a batch.
struct Report {
    index: usize,
    nlls: Result<Vec<Vec<f64>>, Error>,
    seconds: f32,
}

/// Tells the listener of batches, in order.
pub(super) struct Delivery<'l> {
    pub(super) collector: &'l Collector,
    pub(super) listener: &'l mut dyn Listener,
    pub(super) n_chunks: usize,
    pub(super) n_seq: usize,
    pub(super) perplexity: Perplexity,
}

impl Delivery<'_> {
    fn deliver(&mut self, batches: &Batches, report: Report) -> Result<(), Error> {
        let nlls = report.nlls?;
        let chunks = &batches.0[report.index];
        for snapshot in self.collector.take_due(report.index) {
            self.listener.due(&snapshot).map_err(Error::Listener)?;
        }
        if report.index == 0 {
            self.listener.first_batch(report.seconds, self.n_chunks, self.n_seq);
        }
        for (chunk, nlls) in (chunks.start + 1..).zip(&nlls) {
            self.perplexity.add(nlls);
            self.listener.perplexity(chunk, self.perplexity.value());
        }
        self.listener.progress(chunks.end, self.n_chunks);
        Ok(())
    }
}

/// Evaluates all batches and returns the number of tokens.
pub(super) fn evaluate(
    mut passes: Vec<Pass<'_>>,
    batches: &Batches,
    options: &RunOptions,
    delivery: &mut Delivery<'_>,
) -> Result<i32, Error> {
    let mut alone = 0..batches.len();
    if passes.len() > 1 {
        // The first batch shows how often each input comes up; until then lanes could not tell when it is their turn.
        alone.end = 1;
    }
    for index in alone.clone() {
        delivery.deliver(batches, evaluate_one(&mut passes[0], batches, index))?;
    }
    if alone.end < batches.len() {
        delivery.collector.overlap();
        share_threads(&mut passes, options);
        return side_by_side(passes, batches, alone.end, delivery);
    }
    Ok(passes[0].timings().prompt_tokens)
}

fn evaluate_one(pass: &mut Pass<'_>, batches: &Batches, index: usize) -> Report {
    let started = Instant::now();
    let chunks = &batches.0[index];
    let nlls = pass.evaluate(index, chunks.start, chunks.end);
    Report { index, nlls, seconds: started.elapsed().as_secs_f32() }
}

fn share_threads(passes: &mut [Pass<'_>], options: &RunOptions) {
    let threads = usize::try_from(options.n_threads_batch).unwrap_or(1);
    let lanes = passes.len();
    for (lane, pass) in passes.iter_mut().enumerate() {
        pass.set_threads((threads / lanes + usize::from(lane < threads % lanes)).max(1));
    }
}

fn side_by_side(
    passes: Vec<Pass<'_>>,
    batches: &Batches,
    first: usize,
    delivery: &mut Delivery<'_>,
) -> Result<i32, Error> {
    let (next, stop) = (AtomicUsize::new(first), AtomicBool::new(false));
    let (sender, reports) = mpsc::channel();
    std::thread::scope(|scope| {
        let lanes: Vec<_> = passes
            .into_iter()
            .map(|pass| {
                let (sender, next, stop) = (sender.clone(), &next, &stop);
                scope.spawn(move || run_lane(pass, batches, next, stop, &sender))
            })
            .collect();
        drop(sender);
        let mut waiting = BTreeMap::new();
        let mut due = first;
        let mut result = Ok(());
        for report in reports {
            waiting.insert(report.index, report);
            while let Some(report) = waiting.remove(&due) {
                due += 1;
                let told = if result.is_ok() { delivery.deliver(batches, report) } else { report.nlls.map(drop) };
                result = first_cause(result, told);
            }
            if result.is_err() {
                stop.store(true, Ordering::Relaxed);
                delivery.collector.stop();
            }
        }
        // Of batches after one that is missing, only what went wrong matters.
        for report in waiting.into_values() {
            result = first_cause(result, report.nlls.map(drop));
        }
        let mut n_tokens = 0;
        for lane in lanes {
            match lane.join() {
                Ok(tokens) => n_tokens += tokens,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        result.map(|()| n_tokens)
    })
}

/// The earlier error, unless it only says that another lane has failed.
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
    mut pass: Pass<'_>,
    batches: &Batches,
    next: &AtomicUsize,
    stop: &AtomicBool,
    reports: &Sender<Report>,
) -> i32 {
    let collector = pass.collector();
    let _stop = StopOthers(&collector);
    while !stop.load(Ordering::Relaxed) {
        let index = next.fetch_add(1, Ordering::Relaxed);
        if index >= batches.len() {
            break;
        }
        let report = evaluate_one(&mut pass, batches, index);
        let failed = report.nlls.is_err();
        if failed {
            collector.stop();
        }
        if reports.send(report).is_err() || failed {
            break;
        }
    }
    pass.timings().prompt_tokens
}

/// Other lanes would wait for one that has panicked.
struct StopOthers<'c>(&'c Collector);

impl Drop for StopOthers<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}
