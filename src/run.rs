//! The loop: chunks through the model, with the collector watching.

mod lanes;
mod nextn;
mod pass;

use std::time::Instant;

use lanes::{Batches, Delivery};

use crate::calibration::Chunks;
use crate::collect::{Collector, Snapshot};
use crate::llama::{self, FlashAttention, Model, Timings, Tuning};
use crate::nextn::Layer;
use crate::perplexity::{Estimate, Perplexity};

pub use lanes::Lanes;

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
    /// The model computes no logits, so there is no perplexity.
    #[error("the model computes no logits: perplexity needs them, run with --no-ppl")]
    NoLogits,
    /// The NextN layer cannot be evaluated.
    #[error("failed to create the NextN context; llama.cpp evaluates the NextN layers of some architectures only: {0}")]
    NextnContext(llama::Error),
    /// A NextN layer follows one sequence.
    #[error("NextN layers need a single sequence per batch, found {n_seq}")]
    NextnSequences {
        /// Sequences a batch.
        n_seq: usize,
    },
    /// A model of two parts, such as T5: the decoder cannot run without the encoder's output for another text.
    #[error("encoder-decoder models are not supported: a calibration text has no second half to translate to")]
    EncoderDecoder,
    /// Whoever listens to the run ended it.
    #[error(transparent)]
    Listener(Box<dyn std::error::Error + Send + Sync>),
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

    /// `done` chunks of `n_chunks` are through.
    fn progress(&mut self, done: usize, n_chunks: usize);
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
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Perplexity of the text, if it was asked for and there was a chunk.
    pub perplexity: Option<Estimate>,
    /// Where time went.
    pub timings: Timings,
}

/// Chunks that share a batch: as many as fit, at least one.
#[must_use]
pub fn sequences_per_batch(n_batch: usize, chunk_size: usize) -> usize {
    (n_batch / chunk_size.max(1)).max(1)
}

/// Evaluates `model` over `chunks`, each from an empty memory, while `collector` watches, and returns the collector.
///
/// The first token of a chunk is replaced by BOS where the vocabulary begins texts with one. Perplexity is taken over
/// the second half of each whole chunk, where every token has at least half a chunk of context. A tail, if it was kept,
/// comes last, in a batch of its own.
///
/// # Errors
/// See [`Error`]. What was due before is with the listener.
pub fn run(
    model: &Model,
    chunks: &Chunks,
    collector: Collector,
    options: &RunOptions,
    listener: &mut dyn Listener,
) -> Result<(Collector, Outcome), Error> {
    run_with_nextn(model, None, chunks, collector, options, listener)
}

/// [`run`], and each batch also through the NextN layer that follows `model`, collected along with it.
///
/// # Errors
/// See [`Error`]; [`Error::NextnSequences`] where several chunks fit into a batch.
pub fn run_with_nextn(
    model: &Model,
    nextn: Option<&Layer<'_>>,
    chunks: &Chunks,
    collector: Collector,
    options: &RunOptions,
    listener: &mut dyn Listener,
) -> Result<(Collector, Outcome), Error> {
    let n_seq = sequences_per_batch(options.n_batch, chunks.size());
    if nextn.is_some() && n_seq > 1 {
        return Err(Error::NextnSequences { n_seq });
    }
    let batches = Batches::new(chunks, n_seq);
    let passes = lanes::passes(model, nextn, chunks, &collector, options, batches.len())?;
    listener.begins(&Plan {
        lanes: passes.len(),
        no_perplexity: options.perplexity && !passes[0].perplexity(),
        all_logits: passes[0].computes_all_logits().filter(|_| passes[0].perplexity()),
    });
    let perplexity = passes[0].perplexity() && chunks.n_whole() > 0;
    let started = Instant::now();
    let load_ms = passes[0].timings().load_ms;
    let mut delivery =
        Delivery { collector: &collector, listener, n_chunks: chunks.len(), n_seq, perplexity: Perplexity::default() };
    let prompt_tokens = lanes::evaluate(passes, &batches, options, &mut delivery)?;
    let outcome = Outcome {
        perplexity: perplexity.then(|| delivery.perplexity.estimate()),
        timings: Timings { load_ms, prompt_eval_ms: started.elapsed().as_secs_f64() * 1e3, prompt_tokens },
    };
    Ok((collector, outcome))
}
