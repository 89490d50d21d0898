//! Evaluates a model over a text and returns its importance matrix.
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use llama_imatrix::llama::{Model, ModelOptions};
//! use llama_imatrix::{Progress, Session, SessionOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let quickstart = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/quickstart");
//! # let (model, text) = (format!("{quickstart}/quickstart.gguf"), format!("{quickstart}/calibration.txt"));
//! let model = Model::load(model.as_ref(), &ModelOptions::default())?;
//! let text = std::fs::read(text)?;
//! let session = Session::new(&model, SessionOptions::default());
//! let collected = session.collect(&text, |progress| {
//!     let Progress::Chunks { done, total, .. } = progress else { return ControlFlow::Continue(()) };
//!     eprintln!("{done} of {total}");
//!     if done < 8 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) } // stop: returns the matrix so far
//! })?;
//! assert!(collected.cancelled && collected.imatrix.chunk_count >= 8);
//! assert!(collected.imatrix.get("blk.0.ffn_down.weight").is_some());
//! # Ok(())
//! # }
//! ```

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Listener, Outcome, RunOptions, Start, run};
use crate::calibration::{self, ChunkOptions, Chunks};
use crate::collect::collector::{Collector, CollectorOptions};
use crate::collect::{self, Earlier, Rule, Snapshot};
use crate::convergence::Convergence;
use crate::imatrix::Imatrix;
use crate::llama::{self, Model, Timings, Token};
use crate::nextn::Layer;
use crate::options::SumOn;
use crate::perplexity::Estimate;
use crate::state::{Accumulate, ChunkSet};

/// Options of a [`Session`].
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// How a text is split into chunks. By default all chunks, of 512 tokens each.
    pub chunks: ChunkOptions,
    /// Parse control tokens that are written in the text, such as `<|im_start|>`.
    pub parse_special: bool,
    /// Name of the text, recorded in the matrix.
    pub dataset: Option<String>,
    /// Selects the products whose inputs are collected.
    pub rule: Rule,
    /// How sums are added up.
    pub accumulate: Accumulate,
    /// Where activations are summed.
    pub sum_on: SumOn,
    /// Number of chunks between two calls of [`Listener::due`] for the output, in [`Session::run`]; 0: none.
    pub output_every: i32,
    /// Number of chunks between two calls for a numbered copy; 0: none.
    pub copy_every: i32,
    /// Also compare the halves of the text: see [`Collected::convergence`].
    pub convergence: bool,
    /// How the model is evaluated.
    pub run: RunOptions,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            chunks: ChunkOptions { size: 512, ..ChunkOptions::default() },
            parse_special: false,
            dataset: None,
            rule: Rule::default(),
            accumulate: Accumulate::F32,
            sum_on: SumOn::default(),
            output_every: 0,
            copy_every: 0,
            convergence: false,
            run: RunOptions::default(),
        }
    }
}

/// Progress of a session.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Progress {
    /// The text was tokenized and split into chunks.
    Tokenized {
        /// Number of tokens in the whole text.
        tokens: usize,
        /// Number of chunks, as limited by [`SessionOptions::chunks`].
        chunks: usize,
    },
    /// A batch was evaluated.
    Chunks {
        /// Number of the last chunk of the batch, from 1.
        done: usize,
        /// Number of chunks, as limited by [`SessionOptions::chunks`].
        total: usize,
        /// Perplexity so far, if it is computed.
        perplexity: Option<f64>,
    },
    /// Chunks were discarded because their activations are not finite: see [`RunOptions::max_bad_chunks`].
    Discarded {
        /// The chunks, and what was found in them.
        reason: String,
    },
}

/// Results of a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Collected {
    /// Matrix of all chunks that were evaluated and not discarded, and of the earlier matrix.
    pub imatrix: Imatrix,
    /// Perplexity of the text, if [`RunOptions::perplexity`] requested it and the model computes logits.
    pub perplexity: Option<Estimate>,
    /// Time spent on loading and evaluation.
    pub timings: Timings,
    /// Chunks that are in the matrix or discarded, from 0.
    pub done: ChunkSet,
    /// Chunks that were discarded.
    pub discarded: ChunkSet,
    /// Number of inputs that were not collected because they have fewer rows than [`Rule::min_rows`].
    pub inputs_of_too_few_rows: u64,
    /// How well the halves of the text agree, if [`SessionOptions::convergence`] requested it and there is no earlier matrix.
    pub convergence: Option<Convergence>,
    /// True if the session was cancelled before the last chunk.
    pub cancelled: bool,
}

/// An error of a session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The text cannot be tokenized.
    #[error(transparent)]
    Tokenize(#[from] llama::Error),
    /// The text is too short.
    #[error(transparent)]
    Text(#[from] calibration::Error),
    /// The chunk size is out of range.
    #[error("expected a chunk of 1 to 2147483647 tokens, found {0}")]
    ChunkSize(usize),
    /// The sums of the earlier matrix cannot be continued.
    #[error(transparent)]
    Earlier(#[from] collect::Error),
    /// The model could not be evaluated.
    #[error(transparent)]
    Run(#[from] super::Error),
}

/// Cancels a session from another thread or a signal handler.
#[derive(Debug, Clone)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Ends the session after the chunks that are being evaluated; it returns the results so far. A session stays
    /// cancelled.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Returns true if the session was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Collects importance matrices from a model.
///
/// [`collect`](Self::collect) takes a text and returns a matrix. [`run`](Self::run) is the lower-level method for
/// callers that save during the run, resume it or evaluate a part of the chunks, as the program does.
#[derive(Debug, Clone)]
pub struct Session<'m> {
    model: &'m Model,
    nextn: Option<Layer<'m>>,
    earlier: Imatrix,
    options: SessionOptions,
}

impl<'m> Session<'m> {
    /// Creates a session for `model`.
    #[must_use]
    pub fn new(model: &'m Model, options: SessionOptions) -> Self {
        Self { model, nextn: None, earlier: Imatrix::default(), options }
    }

    /// Also collects for a NextN layer that follows the model. Requires [`RunOptions::n_batch`] below the size of two
    /// chunks.
    #[must_use]
    pub fn with_nextn(mut self, layer: Option<Layer<'m>>) -> Self {
        self.nextn = layer;
        self
    }

    /// Starts from the sums of an earlier matrix.
    #[must_use]
    pub fn starting_from(mut self, earlier: Imatrix) -> Self {
        self.earlier = earlier;
        self
    }

    /// Returns a handle that cancels [`collect`](Self::collect) and [`run`](Self::run).
    #[must_use]
    pub fn canceller(&self) -> Cancel {
        Cancel(Arc::clone(&self.options.run.stop))
    }

    /// Evaluates the model over a text and calls `progress` along the way. If this returns [`ControlFlow::Break`], the
    /// session is cancelled.
    ///
    /// The text is tokenized as a whole, including the special tokens that the vocabulary adds, and split into chunks.
    /// Each chunk is evaluated with an empty memory. The sums equal those of llama.cpp's tool for the same text and
    /// options.
    ///
    /// # Errors
    /// See [`SessionError`].
    ///
    /// # Panics
    /// If `progress` panics.
    pub fn collect(
        &self,
        text: &[u8],
        progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Collected, SessionError> {
        let tokens = self.model.vocab().tokenize(text, self.options.parse_special)?;
        self.collect_tokens(tokens, progress)
    }

    /// Does the same as [`collect`](Self::collect) for tokens.
    ///
    /// # Errors
    /// See [`SessionError`].
    ///
    /// # Panics
    /// If `progress` panics.
    pub fn collect_tokens(
        &self,
        tokens: Vec<Token>,
        mut progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Collected, SessionError> {
        let size = self.options.chunks.size;
        let Some(chunk_size) = i32::try_from(size).ok().filter(|&size| size > 0) else {
            return Err(SessionError::ChunkSize(size));
        };
        let n_tokens = tokens.len();
        let chunks = Chunks::new(tokens, self.options.chunks)?;
        let mut teller = Teller { progress: &mut progress, stop: &self.options.run.stop, perplexity: None };
        teller.tell(Progress::Tokenized { tokens: n_tokens, chunks: chunks.len() });
        let start = Start::new(Earlier::from_imatrix(&self.earlier, self.options.accumulate)?);
        let (collector, outcome) = self.run(&chunks, start, &mut teller)?;

        let mut imatrix = collector.finish()?;
        imatrix.chunk_size = self.earlier.effective_chunk_size(chunk_size);
        imatrix.datasets.clone_from(&self.earlier.datasets);
        imatrix.datasets.extend(self.options.dataset.clone());
        imatrix.n_layer_nextn = if self.nextn.is_some() { 1 } else { self.earlier.n_layer_nextn };
        Ok(Collected {
            imatrix,
            perplexity: outcome.perplexity,
            timings: outcome.timings,
            done: outcome.position.done,
            discarded: outcome.position.discarded,
            inputs_of_too_few_rows: collector.inputs_of_too_few_rows(),
            convergence: if self.options.convergence { collector.snapshot().convergence() } else { None },
            cancelled: outcome.stopped,
        })
    }

    /// Evaluates the model over chunks from `start` on and reports to `listener`: see [`run`]. The returned collector
    /// has the sums.
    ///
    /// # Errors
    /// See [`run`].
    pub fn run(
        &self,
        chunks: &Chunks,
        start: Start,
        listener: &mut dyn Listener,
    ) -> Result<(Collector, Outcome), super::Error> {
        let collector = Collector::new(&CollectorOptions {
            rule: self.options.rule,
            chunk_size: i32::try_from(chunks.size()).unwrap_or(i32::MAX),
            output_every: self.options.output_every,
            copy_every: self.options.copy_every,
            accumulate: self.options.accumulate,
            sum_on: self.options.sum_on,
            convergence: self.options.convergence,
        });
        let (nextn, options) = (self.nextn.as_ref(), &self.options.run);
        let outcome = run(self.model, nextn, chunks, &collector, start, options, listener)?;
        Ok((collector, outcome))
    }
}

/// Reports the progress of a run to a closure.
struct Teller<'p> {
    progress: &'p mut dyn FnMut(Progress) -> ControlFlow<()>,
    stop: &'p AtomicBool,
    perplexity: Option<f64>,
}

impl Teller<'_> {
    fn tell(&mut self, progress: Progress) {
        if (self.progress)(progress).is_break() {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}

impl Listener for Teller<'_> {
    fn due(&mut self, _: &Snapshot) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
    }

    fn first_batch(&mut self, _: f32, _: usize, _: usize) {}

    fn perplexity(&mut self, _: usize, value: f64) {
        self.perplexity = Some(value);
    }

    fn progress(&mut self, done: usize, total: usize) {
        self.tell(Progress::Chunks { done, total, perplexity: self.perplexity });
    }

    fn discarded(&mut self, error: &super::Error) {
        self.tell(Progress::Discarded { reason: error.to_string() });
    }
}
