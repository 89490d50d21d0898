//! Evaluates chunks with a model and collects the inputs of its weights.

mod documents;
mod evaluator;
mod kept;
mod lanes;
mod layout;
mod memory;
mod nextn;
mod read_ahead;
pub(crate) mod session;
mod watcher;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use lanes::{Batches, Delivery};

use crate::calibration::Chunks;
use crate::collect::collector::Collector;
use crate::collect::{Earlier, Experts, Snapshot};
use crate::convergence::{Convergence, Point};
use crate::lens::{Findings, LensOptions};
use crate::llama::{self, ContextOptions, FlashAttention, Model, Outputs, Timings, Tuning};
use crate::nextn::Layer;
use crate::perplexity::Estimate;
use crate::shown::{RowSample, SampledLayer};
use crate::state::{ChunkSet, Likelihoods};

pub use lanes::Lanes;
pub use layout::Layout;
pub use memory::available as available_memory;
pub use read_ahead::ReadAhead;

/// Options of a run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Maximum number of tokens per decode: several chunks as separate sequences, or a part of one.
    pub n_batch: usize,
    /// Maximum number of tokens per micro-batch.
    pub n_ubatch: usize,
    /// Number of threads for a decode of one token.
    pub n_threads: i32,
    /// Number of threads for a decode of several tokens.
    pub n_threads_batch: i32,
    /// Flash attention.
    pub flash_attention: FlashAttention,
    /// Further settings of the context.
    pub tuning: Tuning,
    /// Compute perplexity.
    pub perplexity: bool,
    /// Number of batches evaluated in parallel.
    pub lanes: Lanes,
    /// Chunks to evaluate, counted from 0; `None`: all.
    pub part: Option<Range<usize>>,
    /// Keep the likelihood of every scored token, for a state that will be merged with others.
    pub keep_likelihoods: bool,
    /// Maximum number of chunks that are discarded because their activations are not finite. One more ends the run with
    /// an error; with 0, the first does.
    pub max_bad_chunks: usize,
    /// Measurements of the layers during the run.
    pub lens: Option<LensOptions>,
    /// Sample the rows of these layers' experts, for [`ShownExperts`](crate::shown::ShownExperts).
    pub sample: Option<Arc<[SampledLayer]>>,
    /// End the run once every expert has this many tokens, including those of earlier sums. Batches are then evaluated
    /// one by one.
    pub stop_when_covered: Option<u64>,
    /// End the run at the first save at which the halves of every weight have this cosine: see [`Convergence`]. Requires
    /// [`CollectorOptions::convergence`](crate::CollectorOptions::convergence). Batches are then evaluated one by one. With
    /// [`stop_when_covered`](Self::stop_when_covered), the run ends once it has reached both goals.
    pub stop_when_converged: Option<f64>,
    /// Weights to read shortly before they are used, for a model that does not fit into memory. Only with one lane.
    pub read_ahead: Option<ReadAhead>,
    /// If it becomes true, the run ends after the batches that have begun.
    pub stop: Arc<AtomicBool>,
    /// Number of tokens evaluated so far, counted per micro-batch, for a display of progress. It begins with the tokens
    /// that were done before the start, and falls when the run goes back to a checkpoint.
    pub tokens_done: Arc<AtomicU64>,
}

/// llama.cpp's defaults, with all CPUs and without perplexity. The first chunk with activations that are not finite is
/// an error.
impl Default for RunOptions {
    fn default() -> Self {
        let n_threads = std::thread::available_parallelism().map_or(1, |n| i32::try_from(n.get()).unwrap_or(i32::MAX));
        Self {
            n_batch: 2048,
            n_ubatch: 512,
            n_threads,
            n_threads_batch: n_threads,
            flash_attention: FlashAttention::Auto,
            tuning: Tuning::default(),
            perplexity: false,
            lanes: Lanes::Auto,
            part: None,
            keep_likelihoods: false,
            max_bad_chunks: 0,
            lens: None,
            sample: None,
            stop_when_covered: None,
            stop_when_converged: None,
            read_ahead: None,
            stop: Arc::default(),
            tokens_done: Arc::default(),
        }
    }
}

impl RunOptions {
    /// Returns the number of batches evaluated in parallel, unless memory turns out to be insufficient for as many
    /// contexts.
    #[must_use]
    pub fn lanes(&self, layout: &Layout, chunks: &Chunks, nextn: bool) -> usize {
        let part = self.part.clone().unwrap_or(0..chunks.len());
        let n_batches = layout.batches.iter().filter(|batch| part.contains(&batch.start)).count();
        lanes::wanted(self, layout, chunks, nextn, n_batches)
    }

    /// Returns the options of a lane's context.
    #[must_use]
    pub fn context(&self, chunks: &Chunks, layout: &Layout, nextn: bool) -> ContextOptions {
        let mut n_batch = self.n_batch.min(layout.n_ctx);
        let mut tuning = self.tuning.clone();
        if chunks.are_documents() {
            n_batch = n_batch.min(self.n_ubatch);
            tuning.unified_cache = true;
        }
        let n_ubatch = self.n_ubatch.min(n_batch);
        ContextOptions {
            n_ctx: layout.n_ctx as u32,
            n_batch: n_batch as u32,
            n_ubatch: self.n_ubatch as u32,
            n_seq: layout.n_seq as u32,
            n_threads: self.n_threads,
            n_threads_batch: self.n_threads_batch,
            flash_attention: self.flash_attention,
            outputs: match (self.perplexity, nextn) {
                (_, true) => Outputs::All,
                // If a micro-batch cannot hold a token of each sequence, llama.cpp reorders the tokens.
                (true, false) if layout.n_seq > n_ubatch => Outputs::All,
                (true, false) => Outputs::Scores,
                (false, false) => Outputs::Nothing,
            },
            tuning,
        }
    }
}

/// The sums and the progress that a run starts from.
#[derive(Debug, Clone)]
pub struct Start {
    /// The sums.
    pub earlier: Earlier,
    /// Progress so far.
    pub position: Position,
}

impl Start {
    /// Starts at the first chunk, with these sums.
    #[must_use]
    pub fn new(earlier: Earlier) -> Self {
        Self { earlier, position: Position::default() }
    }
}

/// Progress of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Position {
    /// Chunks that are in the sums or discarded.
    pub done: ChunkSet,
    /// Chunks that were discarded, a subset of `done`.
    pub discarded: ChunkSet,
    /// Perplexity so far.
    pub likelihoods: Likelihoods,
    /// Number of tokens evaluated.
    pub tokens: u64,
    /// Measurements of the layers so far.
    pub findings: Findings,
    /// How well the halves of the text agreed at each save; empty unless they are kept.
    pub curve: Vec<Point>,
    /// Sampled rows of experts; empty unless they are [requested](RunOptions::sample).
    pub sample: RowSample,
}

/// Sums and progress at the end of a batch, sufficient to resume the run.
#[derive(Debug, Clone, Copy)]
pub struct Checkpoint<'a> {
    /// The sums.
    pub snapshot: &'a Snapshot,
    /// Progress up to the same batch.
    pub position: &'a Position,
}

/// An error of a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model could not be set up.
    #[error(transparent)]
    Setup(#[from] llama::Error),
    /// A batch could not be evaluated or collected.
    #[error("chunks {first} to {last}")]
    Chunks {
        /// First chunk of the batch, from 1.
        first: usize,
        /// Last chunk of the batch, from 1.
        last: usize,
        /// The cause.
        source: llama::Error,
    },
    /// Activations of a chunk are not finite.
    #[error("{}: {source}", bad_chunks(chunks, *tokens))]
    BadChunks {
        /// The chunks, from 0: all of the batch if it is unknown which.
        chunks: Vec<usize>,
        /// First and last token of the text that may be affected, from 0.
        tokens: (usize, usize),
        /// The cause.
        source: llama::Error,
    },
    /// The run is impossible: it does not fit into memory, the model or its NextN layer does not allow it, or more than
    /// [`RunOptions::max_bad_chunks`] chunks are not finite.
    #[error("{0}")]
    Refused(String),
    /// The listener ended the run.
    #[error(transparent)]
    Listener(Box<dyn std::error::Error + Send + Sync>),
}

fn bad_chunks(chunks: &[usize], (first, last): (usize, usize)) -> String {
    let numbers: Vec<_> = chunks.iter().map(|chunk| (chunk + 1).to_string()).collect();
    let s = if numbers.len() == 1 { "" } else { "s" };
    format!("chunk{s} {}, tokens {first} to {last} of the text", numbers.join(", "))
}

/// Receives the progress of a run: first the plan, then the other calls in this order after each batch.
pub trait Listener {
    /// Called once the model is set up.
    fn begins(&mut self, _: &Plan) {}

    /// Called before [`due`](Self::due) if the halves of the text are kept: how well they agree in these sums, and at all
    /// saves up to this one.
    fn compared(&mut self, _: Convergence, _: &[Point]) {}

    /// Called when files are due, with the sums at the end of a batch. They contain no chunk in part.
    ///
    /// # Errors
    /// Any error ends the run.
    fn due(&mut self, snapshot: &Snapshot) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;

    /// Called after the first batch, which took `seconds`. A batch has `n_seq` of the `n_chunks` chunks.
    fn first_batch(&mut self, seconds: f32, n_chunks: usize, n_seq: usize);

    /// Called with the perplexity up to and including chunk `chunk`, counted from 1.
    fn perplexity(&mut self, chunk: usize, value: f64);

    /// Returns true if [`experts`](Self::experts) must be called. Called after each batch, since counts on a device
    /// must be transferred.
    fn wants_experts(&mut self) -> bool {
        false
    }

    /// Called before [`progress`](Self::progress) with the distribution of tokens over the experts, if there are
    /// experts.
    fn experts(&mut self, _: &Experts) {}

    /// Called after each batch; its last chunk is number `done` of `n_chunks`.
    fn progress(&mut self, done: usize, n_chunks: usize);

    /// Returns true if [`checkpoint`](Self::checkpoint) must be called. Called after each batch. The checkpoint is that
    /// of this batch or, if others have begun, of the last of those.
    fn wants_checkpoint(&mut self, _: &Position) -> bool {
        false
    }

    /// Called with a requested checkpoint.
    fn checkpoint(&mut self, _: &Checkpoint<'_>) {}

    /// Called when chunks are discarded. The run goes back to the last checkpoint.
    fn discarded(&mut self, _: &Error) {}

    /// Returns true if [`restore`](Self::restore) returns the last checkpoint. Otherwise, if chunks may be discarded,
    /// the run keeps checkpoints in memory: a second copy of the sums.
    fn keeps_checkpoints(&self) -> bool {
        false
    }

    /// Returns the last checkpoint, if it was kept. The run continues from it after chunks were discarded.
    fn restore(&mut self) -> Option<Start> {
        None
    }
}

/// How a run is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Number of batches evaluated in parallel.
    pub lanes: usize,
    /// True if perplexity was requested but the model computes no logits: it is an encoder.
    pub no_perplexity: bool,
    /// Why the logits of all positions are computed although perplexity reads only some; `None` if they are not.
    pub all_logits: Option<&'static str>,
}

/// Results of a run besides its sums.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Perplexity of the text, if it was requested and at least one token was scored.
    pub perplexity: Option<Estimate>,
    /// Time spent on loading and evaluation.
    pub timings: Timings,
    /// Progress: the chunks in the sums.
    pub position: Position,
    /// True if [`RunOptions::stop`] ended the run before the end.
    pub stopped: bool,
    /// True if the run ended because all experts had [their tokens](RunOptions::stop_when_covered).
    pub covered: bool,
    /// True if at the last save the halves of every weight had [their cosine](RunOptions::stop_when_converged).
    pub converged: bool,
    /// Measurements of the layers, of the chunks that this run evaluated.
    pub findings: Option<Findings>,
}

/// Returns the number of chunks per batch: as many as fit, at least one.
#[must_use]
pub(crate) fn sequences_per_batch(n_batch: usize, chunk_size: usize) -> usize {
    (n_batch / chunk_size.max(1)).max(1)
}

/// Checks that each decode is a single micro-batch: only then is it known which row belongs to which token.
fn check_rows(nextn: bool, chunks: &Chunks, layout: &Layout, options: &RunOptions) -> Result<(), Error> {
    let n_ubatch = options.n_ubatch;
    let purpose = match (&options.lens, &options.sample) {
        (Some(_), _) => "to look into the layers",
        (None, Some(_)) => "to sample rows of experts (--fill-experts shown)",
        (None, None) => return Ok(()),
    };
    let refuse = |needs: String| {
        Err(Error::Refused(format!(
            "micro-batches of {n_ubatch} tokens are too small {purpose}: they need {needs} (--ubatch-size)"
        )))
    };
    if nextn && options.n_batch.min(layout.n_ctx) > n_ubatch {
        // With a NextN layer, a decode has up to `n_batch` tokens.
        return refuse(format!("a whole batch of {}, with a NextN layer", options.n_batch.min(layout.n_ctx)));
    }
    if !chunks.are_documents() && layout.n_seq > n_ubatch {
        return refuse(format!("a token of each of a batch's {} chunks", layout.n_seq));
    }
    Ok(())
}

/// Evaluates `model` over `chunks` and adds the inputs of its weights to `collector`.
///
/// Each chunk is evaluated with an empty memory. If the vocabulary begins texts with BOS, it replaces the first token
/// of each chunk, except in chunks of documents, which have their own. Perplexity is computed over the second half of
/// each whole chunk, where every token has at least half a chunk of context. A tail, if it was kept, is evaluated last
/// in a separate batch. [`Layout`] groups the chunks into batches. With a NextN layer, each batch is also evaluated by
/// this layer, whose inputs are collected too.
///
/// A chunk with activations that are not finite is discarded as a whole: the run goes back to the last checkpoint, and
/// its sums equal those of a run without that chunk.
///
/// # Errors
/// See [`Error`]. [`Error::Refused`] if there is a NextN layer and several chunks fit into a batch. Files that were due
/// before have been passed to the listener.
pub fn run(
    model: &Model,
    nextn: Option<&Layer<'_>>,
    chunks: &Chunks,
    collector: &Collector,
    mut start: Start,
    options: &RunOptions,
    listener: &mut dyn Listener,
) -> Result<Outcome, Error> {
    let layout = Layout::new(model, nextn.is_some(), chunks, options.n_batch, options.n_ubatch);
    if nextn.is_some() && layout.n_seq > 1 {
        let n_seq = layout.n_seq;
        return Err(Error::Refused(format!(
            "NextN layers need a single sequence per batch, found {n_seq}; hint: a smaller --batch-size"
        )));
    }
    check_rows(nextn.is_some(), chunks, &layout, options)?;
    let layers = options.sample.as_deref().unwrap_or_default();
    if start.position.sample.layers() != layers {
        start.position.sample = RowSample::new(layers);
    }
    let n_batches = Batches::new(&layout, options, &start.position, &start.position.discarded, None).len();
    let mut evaluators = lanes::evaluators(model, nextn, chunks, &layout, collector, options, n_batches)?;
    let perplexity = evaluators[0].perplexity() && chunks.n_whole() > 0;
    listener.begins(&Plan {
        lanes: evaluators.len(),
        no_perplexity: options.perplexity && !evaluators[0].perplexity(),
        all_logits: evaluators[0].computes_all_logits().filter(|_| evaluators[0].perplexity()),
    });
    let started = Instant::now();
    let load_ms = evaluators[0].timings().load_ms;
    let mut delivery = Delivery::new(collector, listener, chunks, &layout, options, start.position.clone());
    let tokens_before = start.position.tokens;
    // A resumed run is restored from its state file instead.
    let fresh = start.position.done.is_empty().then(|| start.clone());
    let mut attempt = start;
    let mut end = None;
    let mut failure = None;
    let stopped = loop {
        let batches = Batches::new(&layout, options, &attempt.position, &delivery.discarded, end);
        collector.start_from(attempt.earlier);
        options.tokens_done.store(attempt.position.tokens, Ordering::Relaxed);
        delivery.position = attempt.position;
        let error = match lanes::evaluate(&mut evaluators, &batches, options, &mut delivery) {
            Ok(stopped) => break stopped,
            Err(error) => error,
        };
        let Error::BadChunks { chunks: bad, .. } = &error else { return Err(error) };
        let bad = bad.clone();
        let mut discarded = delivery.discarded.clone();
        for &chunk in &bad {
            discarded.insert(chunk as u64..chunk as u64 + 1);
        }
        let first_bad = bad[0];
        if discarded.len() > options.max_bad_chunks as u64 {
            // The chunks before it are evaluated again, so that their sums can be saved.
            end = Some(first_bad);
            let (found, limit) = (discarded.len() as usize, options.max_bad_chunks);
            failure = Some(match limit {
                0 => error,
                _ => Error::Refused(format!(
                    "{found} chunks with activations that are not finite, expected at most {limit} (--max-bad-chunks); \
                     the last: {error}"
                )),
            });
        } else {
            delivery.listener.discarded(&error);
            delivery.discarded = discarded;
        }
        let restored = delivery.listener.restore().or_else(|| delivery.step_back());
        let Some(restored) = restored.or_else(|| fresh.clone()) else {
            return Err(failure.unwrap_or_else(|| {
                Error::Refused("cannot discard a chunk: failed to read the state of the run before it".to_owned())
            }));
        };
        attempt = restored;
        for chunk in bad {
            attempt.position.findings.remove(chunk);
        }
    };
    if let Some(failure) = failure {
        let mut position = delivery.position;
        // Chunks discarded after the last complete batch are done too.
        position.done.insert_all(&delivery.discarded);
        position.discarded = delivery.discarded;
        if position.done != position.discarded {
            let snapshot = collector.snapshot();
            delivery.listener.checkpoint(&Checkpoint { snapshot: &snapshot, position: &position });
        }
        return Err(failure);
    }
    let mut position = delivery.position;
    if !stopped {
        position.done.insert_all(&delivery.discarded);
        position.discarded = delivery.discarded;
    }
    let prompt_eval_ms = started.elapsed().as_secs_f64() * 1e3;
    let prompt_tokens = i32::try_from(position.tokens - tokens_before).unwrap_or(i32::MAX);
    // Nothing is scored if a shard is empty or all chunks are discarded.
    let (_, _, tokens_scored) = position.likelihoods.running.to_parts();
    Ok(Outcome {
        findings: options.lens.is_some().then(|| position.findings.clone()),
        perplexity: (perplexity && tokens_scored > 0).then(|| position.likelihoods.running.estimate()),
        timings: Timings { load_ms, prompt_eval_ms, prompt_tokens },
        position,
        stopped,
        covered: delivery.covered,
        converged: delivery.converged,
    })
}
