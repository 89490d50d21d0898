//! The loop: chunks through the model, with the collector watching.

mod documents;
mod evaluator;
mod kept;
mod lanes;
mod layout;
mod memory;
mod nextn;
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
use crate::lens::{Findings, LensOptions};
use crate::llama::{self, ContextOptions, FlashAttention, Model, Outputs, Timings, Tuning};
use crate::nextn::Layer;
use crate::perplexity::Estimate;
use crate::state::{ChunkSet, Likelihoods};

pub use lanes::Lanes;
pub use layout::Layout;

/// How the model is run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Tokens a decode takes: several chunks as separate sequences, or a part of one.
    pub n_batch: usize,
    /// Tokens computed at once.
    pub n_ubatch: usize,
    /// Threads for a single token.
    pub n_threads: i32,
    /// Threads for several.
    pub n_threads_batch: i32,
    /// Fused attention.
    pub flash_attention: FlashAttention,
    /// What else there is to set of a context.
    pub tuning: Tuning,
    /// Whether to compute perplexity.
    pub perplexity: bool,
    /// Batches evaluated side by side.
    pub lanes: Lanes,
    /// The chunks that are taken, from 0, where it is not all.
    pub part: Option<Range<usize>>,
    /// Keep every token's likelihood, for a run whose state is to be merged with others.
    pub keep_likelihoods: bool,
    /// Chunks that may be discarded, since activations in them are not finite, before the run ends with an error; with 0
    /// the first such chunk is the error.
    pub max_bad_chunks: usize,
    /// What to find out about the layers on the way.
    pub lens: Option<LensOptions>,
    /// End once every expert has so many tokens, those of earlier sums included. Batches are then evaluated one by one.
    pub stop_when_covered: Option<u64>,
    /// Once set, the run ends as soon as the batches that have begun are through.
    pub stop: Arc<AtomicBool>,
    /// Number of tokens evaluated so far, counted per micro-batch, for a display of progress. It begins with the tokens
    /// that were done before the start, and falls when the run goes back to a checkpoint.
    pub tokens_done: Arc<AtomicU64>,
}

/// llama.cpp's defaults, on all CPUs, without perplexity; the first chunk that is not finite is an error.
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
            stop_when_covered: None,
            stop: Arc::default(),
            tokens_done: Arc::default(),
        }
    }
}

impl RunOptions {
    /// Batches that are evaluated side by side, unless there turns out to be no room for so many contexts.
    #[must_use]
    pub fn lanes(&self, layout: &Layout, chunks: &Chunks, nextn: bool) -> usize {
        let part = self.part.clone().unwrap_or(0..chunks.len());
        let n_batches = layout.batches.iter().filter(|batch| part.contains(&batch.start)).count();
        lanes::wanted(self, layout, chunks, nextn, n_batches)
    }

    /// The context of a lane.
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
                // A micro-batch that does not hold a token of each sequence comes in an order of its own.
                (true, false) if layout.n_seq > n_ubatch => Outputs::All,
                (true, false) => Outputs::Scores,
                (false, false) => Outputs::Nothing,
            },
            tuning,
        }
    }
}

/// Where a run begins.
#[derive(Debug, Clone)]
pub struct Start {
    /// The sums.
    pub earlier: Earlier,
    /// What is behind it.
    pub position: Position,
}

impl Start {
    /// The beginning, with these sums.
    #[must_use]
    pub fn new(earlier: Earlier) -> Self {
        Self { earlier, position: Position::default() }
    }
}

/// How far a run is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Position {
    /// Chunks that are in the sums or discarded.
    pub done: ChunkSet,
    /// Of those, the ones that were discarded.
    pub discarded: ChunkSet,
    /// Perplexity so far.
    pub likelihoods: Likelihoods,
    /// Tokens evaluated.
    pub tokens: u64,
}

/// A run at the end of a batch: enough to go on from.
#[derive(Debug, Clone, Copy)]
pub struct Checkpoint<'a> {
    /// The sums.
    pub snapshot: &'a Snapshot,
    /// What is in them.
    pub position: &'a Position,
}

/// Why a run stopped.
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
        /// Last chunk of the batch.
        last: usize,
        /// What happened.
        source: llama::Error,
    },
    /// Activations of a chunk are not finite.
    #[error("{}: {source}", bad_chunks(chunks, *tokens))]
    BadChunks {
        /// The chunks, from 0: one, or all of a batch where it cannot be told which.
        chunks: Vec<usize>,
        /// The tokens of the text it was found in, first and last, from 0.
        tokens: (usize, usize),
        /// What was found.
        source: llama::Error,
    },
    /// The run cannot be made so: its memory cannot be there, the model or its NextN layer does not allow it, or more chunks
    /// than [`RunOptions::max_bad_chunks`] are not finite.
    #[error("{0}")]
    Refused(String),
    /// Whoever listens to the run ended it.
    #[error(transparent)]
    Listener(Box<dyn std::error::Error + Send + Sync>),
}

fn bad_chunks(chunks: &[usize], (first, last): (usize, usize)) -> String {
    let numbers: Vec<_> = chunks.iter().map(|chunk| (chunk + 1).to_string()).collect();
    let s = if numbers.len() == 1 { "" } else { "s" };
    format!("chunk{s} {}, tokens {first} to {last} of the text", numbers.join(", "))
}

/// Hears of a run's progress: first how it is run, then in this order after each batch of chunks.
pub trait Listener {
    /// The model is set up.
    fn begins(&mut self, _: &Plan) {}

    /// Files are due, with these sums. All chunks up to a batch's end are in, none in part.
    ///
    /// # Errors
    /// Whatever it returns ends the run.
    fn due(&mut self, snapshot: &Snapshot) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;

    /// The first batch took `seconds`, for `n_seq` chunks of `n_chunks`.
    fn first_batch(&mut self, seconds: f32, n_chunks: usize, n_seq: usize);

    /// The perplexity up to and with chunk `chunk`, from 1.
    fn perplexity(&mut self, chunk: usize, value: f64);

    /// Whether [`experts`](Self::experts) shall be called: asked after each batch, since counts on a device have to be fetched.
    fn wants_experts(&mut self) -> bool {
        false
    }

    /// How the tokens so far have spread over the experts, before [`progress`](Self::progress) and if there are any.
    fn experts(&mut self, _: &Experts) {}

    /// `done` chunks of `n_chunks` are through.
    fn progress(&mut self, done: usize, n_chunks: usize);

    /// Whether [`checkpoint`](Self::checkpoint) shall be called: asked after each batch, and answered at the end of this
    /// one or, where others are under way, of the last of those.
    fn wants_checkpoint(&mut self, _: &Position) -> bool {
        false
    }

    /// All up to the end of a batch, on request.
    fn checkpoint(&mut self, _: &Checkpoint<'_>) {}

    /// Chunks are discarded. The sums of chunks since the last checkpoint are collected again.
    fn discarded(&mut self, _: &Error) {}

    /// Whether [`restore`](Self::restore) returns the last checkpoint. Where it does not, and chunks may be discarded, the
    /// run keeps checkpoints in memory: a second copy of the sums.
    fn keeps_checkpoints(&self) -> bool {
        false
    }

    /// The last checkpoint, if it was kept: where to go on after chunks were discarded.
    fn restore(&mut self) -> Option<Start> {
        None
    }
}

/// How a run goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Batches evaluated side by side.
    pub lanes: usize,
    /// Perplexity was asked for, and the model computes no logits: it is an encoder.
    pub no_perplexity: bool,
    /// Why perplexity needs the logits of all positions, where it could not have those it reads alone.
    pub all_logits: Option<&'static str>,
}

/// What a run leaves besides its sums.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Perplexity of the text, if it was asked for and there was a chunk.
    pub perplexity: Option<Estimate>,
    /// Where time went.
    pub timings: Timings,
    /// What is in the sums.
    pub position: Position,
    /// Whether [`RunOptions::stop`] ended it before the end.
    pub stopped: bool,
    /// Whether it ended since all experts had [their tokens](RunOptions::stop_when_covered).
    pub covered: bool,
    /// What was found out about the layers in the chunks that this run evaluated.
    pub findings: Option<Findings>,
}

/// Chunks that share a batch: as many as fit, at least one.
#[must_use]
pub(crate) fn sequences_per_batch(n_batch: usize, chunk_size: usize) -> usize {
    (n_batch / chunk_size.max(1)).max(1)
}

/// A decode has to be one evaluation of a graph, or it is not known which row is whose.
fn check_lens(nextn: bool, chunks: &Chunks, layout: &Layout, options: &RunOptions) -> Result<(), Error> {
    let n_ubatch = options.n_ubatch;
    let refuse = |needs: String| {
        Err(Error::Refused(format!(
            "micro-batches of {n_ubatch} tokens are too small to look into the layers: they need {needs} (--ubatch-size)"
        )))
    };
    if nextn && options.n_batch.min(layout.n_ctx) > n_ubatch {
        // A NextN layer follows decode by decode.
        return refuse(format!("a whole batch of {}, with a NextN layer", options.n_batch.min(layout.n_ctx)));
    }
    if !chunks.are_documents() && layout.n_seq > n_ubatch {
        return refuse(format!("a token of each of a batch's {} chunks", layout.n_seq));
    }
    Ok(())
}

/// Evaluates `model` over `chunks`, each from an empty memory, and brings what it sees into `collector`.
///
/// The first token of a chunk is replaced by BOS where the vocabulary begins texts with one, unless these are chunks of
/// documents, which have their own. Perplexity is taken over the second half of each whole chunk, where every token has at
/// least half a chunk of context. A tail, if it was kept, comes last, in a batch of its own. [`Layout`] says which chunks go
/// together. With a NextN layer, each batch goes also through the layer that follows `model`, and is collected along with it.
///
/// A chunk with activations that are not finite is discarded as a whole: the run goes back to the last checkpoint and
/// comes to the same sums as without that chunk.
///
/// # Errors
/// See [`Error`]; [`Error::Refused`] where, with a NextN layer, several chunks fit into a batch. What was due before is with the
/// listener.
pub fn run(
    model: &Model,
    nextn: Option<&Layer<'_>>,
    chunks: &Chunks,
    collector: &Collector,
    start: Start,
    options: &RunOptions,
    listener: &mut dyn Listener,
) -> Result<Outcome, Error> {
    let layout = Layout::new(model, nextn.is_some(), chunks, options.n_batch, options.n_ubatch);
    if nextn.is_some() && layout.n_seq > 1 {
        let n_seq = layout.n_seq;
        return Err(Error::Refused(format!("NextN layers need a single sequence per batch, found {n_seq}")));
    }
    if options.lens.is_some() {
        check_lens(nextn.is_some(), chunks, &layout, options)?;
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
    // A run that goes on has its state in a file.
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
        let mut discarded = delivery.discarded.clone();
        for &chunk in bad {
            discarded.insert(chunk as u64..chunk as u64 + 1);
            delivery.findings.remove(chunk);
        }
        let first_bad = bad[0];
        if discarded.len() > options.max_bad_chunks as u64 {
            // What was collected before is brought to its end all the same.
            end = Some(first_bad);
            let (found, limit) = (discarded.len() as usize, options.max_bad_chunks);
            failure = Some(match limit {
                0 => error,
                _ => Error::Refused(format!(
                    "{found} chunks with activations that are not finite, at most {limit} are discarded (--max-bad-chunks); \
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
                Error::Refused(
                    "a chunk is to be discarded, and the state of the run before it cannot be read again".to_owned(),
                )
            }));
        };
        attempt = restored;
    };
    if let Some(failure) = failure {
        let mut position = delivery.position;
        // Those discarded last are behind the last batch that came through.
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
    // A shard may have no chunk, and all chunks may be discarded.
    let (_, _, tokens_scored) = position.likelihoods.running.to_parts();
    Ok(Outcome {
        perplexity: (perplexity && tokens_scored > 0).then(|| position.likelihoods.running.estimate()),
        timings: Timings { load_ms, prompt_eval_ms, prompt_tokens },
        position,
        stopped,
        covered: delivery.covered,
        findings: options.lens.is_some().then_some(delivery.findings),
    })
}
