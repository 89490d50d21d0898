//! The loop: chunks through the model, with the collector watching.

mod nextn;

use std::time::Instant;

use nextn::Follower;

use crate::calibration::Chunks;
use crate::collect::{Collector, Due};
use crate::llama::{self, Batch, Context, ContextOptions, FlashAttention, Model, Outputs, Timings, Tuning};
use crate::nextn::Layer;
use crate::perplexity::{Estimate, Perplexity, negative_log_likelihoods};

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

/// Hears of a run's progress: first whether there is no perplexity, then in this order after each batch of chunks.
pub trait Listener {
    /// Perplexity was asked for, and the model computes no logits: it is an encoder.
    fn no_perplexity(&mut self) {}

    /// Files are due. All chunks of the batch are in, none in part.
    ///
    /// # Errors
    /// Whatever it returns ends the run.
    fn due(&mut self, collector: &Collector, due: &[Due]) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;

    /// The first batch took `seconds`, for `n_seq` chunks of `n_chunks`.
    fn first_batch(&mut self, seconds: f32, n_chunks: usize, n_seq: usize);

    /// The perplexity up to and with chunk `chunk`, from 1.
    fn perplexity(&mut self, chunk: usize, value: f64);

    /// `done` chunks of `n_chunks` are through.
    fn progress(&mut self, done: usize, n_chunks: usize);
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
    let mut pass = Pass::new(model, nextn, chunks, collector, options)?;
    if options.perplexity && !pass.perplexity {
        listener.no_perplexity();
    }
    let mut perplexity = Perplexity::default();
    let mut last = 0;
    while last < chunks.len() {
        let first = last;
        let end = if first < chunks.n_whole() { chunks.n_whole() } else { chunks.len() };
        last = (first + n_seq).min(end);
        let started = Instant::now();
        let nlls = pass.evaluate(first, last)?;
        if first == 0 {
            pass.context.synchronize();
        }
        let seconds = started.elapsed().as_secs_f32();

        let due = pass.context.observer_mut().take_due();
        if !due.is_empty() {
            listener.due(pass.context.observer(), &due).map_err(Error::Listener)?;
        }
        if first == 0 {
            listener.first_batch(seconds, chunks.len(), n_seq);
        }
        for (chunk, nlls) in (first + 1..).zip(&nlls) {
            perplexity.add(nlls);
            listener.perplexity(chunk, perplexity.value());
        }
        listener.progress(last, chunks.len());
    }
    let outcome = Outcome {
        perplexity: (pass.perplexity && chunks.n_whole() > 0).then(|| perplexity.estimate()),
        timings: pass.context.timings(),
    };
    Ok((pass.context.into_observer(), outcome))
}

/// What stays the same from batch to batch.
struct Pass<'a> {
    context: Context<'a, Collector>,
    nextn: Option<Follower<'a>>,
    chunks: &'a Chunks,
    batch: Batch,
    /// Tokens of each chunk in one decode.
    n_step: usize,
    n_vocab: usize,
    bos: Option<i32>,
    perplexity: bool,
}

impl<'a> Pass<'a> {
    fn new(
        model: &'a Model,
        nextn: Option<&Layer<'a>>,
        chunks: &'a Chunks,
        collector: Collector,
        options: &RunOptions,
    ) -> Result<Self, Error> {
        if model.is_encoder_decoder() {
            return Err(Error::EncoderDecoder);
        }
        let n_seq = sequences_per_batch(options.n_batch, chunks.size());
        let n_ctx = n_seq * chunks.size();
        let mut n_batch = options.n_batch.min(n_ctx);
        let mut context_options = ContextOptions {
            n_ctx: n_ctx as u32,
            n_batch: n_batch as u32,
            n_ubatch: options.n_ubatch as u32,
            n_seq: n_seq as u32,
            n_threads: options.n_threads,
            n_threads_batch: options.n_threads_batch,
            flash_attention: options.flash_attention,
            outputs: if options.perplexity || collector.collects_output() || nextn.is_some() {
                Outputs::All
            } else {
                Outputs::Nothing
            },
            tuning: options.tuning.clone(),
        };
        let mut context = Context::new(model, &context_options, collector)?;
        if !context.has_memory() && n_batch < chunks.size() {
            // The second part of a chunk would not see the first.
            n_batch = chunks.size();
            context_options.n_batch = n_batch as u32;
            context = Context::new(model, &context_options, context.into_observer())?;
        }
        let nextn = nextn
            .map(|layer| Follower::new(layer, &context_options, &mut context))
            .transpose()
            .map_err(Error::NextnContext)?;
        let vocab = model.vocab();
        // Of the models that see one batch at a time, those that do not make text are encoders.
        let has_logits = context.has_memory() || model.is_diffusion();
        Ok(Self {
            context,
            nextn,
            chunks,
            batch: Batch::new(),
            n_step: n_batch.min(chunks.size()),
            n_vocab: vocab.n_tokens(),
            bos: vocab.leading_bos(),
            perplexity: options.perplexity && has_logits,
        })
    }

    /// Evaluates chunks `first..last` side by side and returns each one's negative log-likelihoods, if perplexity is wanted.
    fn evaluate(&mut self, first: usize, last: usize) -> Result<Vec<Vec<f64>>, Error> {
        let in_chunks = |source| Error::Chunks { first: first + 1, last, source };
        let len = self.chunks.get(first).len();
        let perplexity = self.perplexity && len == self.chunks.size();
        let mut nlls = vec![Vec::new(); if perplexity { last - first } else { 0 }];
        self.context.clear_memory();
        if let Some(nextn) = &mut self.nextn {
            nextn.clear();
        }
        for from in (0..len).step_by(self.n_step) {
            let to = (from + self.n_step).min(len);
            self.fill_batch(first, last, from, to);
            self.context.observer_mut().begin_decode();
            self.context.decode(&mut self.batch).map_err(in_chunks)?;
            if let Some(nextn) = &mut self.nextn {
                nextn.follow(&mut self.context, &self.batch).map_err(in_chunks)?;
            }
            if perplexity {
                self.read_logits(first, from, to, &mut nlls)?;
            }
        }
        Ok(nlls)
    }

    fn fill_batch(&mut self, first: usize, last: usize, from: usize, to: usize) {
        self.batch.clear();
        for (sequence, chunk) in (0..).zip(first..last) {
            for (position, &token) in self.chunks.get(chunk)[from..to].iter().enumerate() {
                let position = from + position;
                let token = self.bos.filter(|_| position == 0).unwrap_or(token);
                self.batch.add(token, position as i32, sequence);
            }
        }
    }

    /// Takes from the logits of positions `from..to` those that predict the second half of a chunk.
    fn read_logits(&mut self, first: usize, from: usize, to: usize, nlls: &mut [Vec<f64>]) -> Result<(), Error> {
        let size = self.chunks.size();
        let (start, end) = (from.max(size / 2), to.min(size - 1));
        if start >= end {
            return Ok(());
        }
        let logits = self.context.logits(self.batch.len()).ok_or(Error::NoLogits)?;
        for (sequence, nlls) in nlls.iter_mut().enumerate() {
            let row = sequence * (to - from) + start - from;
            let rows = &logits[row * self.n_vocab..(row + end - start) * self.n_vocab];
            let targets = &self.chunks.get(first + sequence)[start + 1..=end];
            nlls.extend(negative_log_likelihoods(rows, self.n_vocab, targets));
        }
        Ok(())
    }
}
