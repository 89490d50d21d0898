//! A model over a text, to an importance matrix.
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
//!     if done < 8 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) } // enough: what there is comes back
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
use crate::imatrix::Imatrix;
use crate::llama::{self, Model, Timings, Token};
use crate::nextn::Layer;
use crate::options::SumOn;
use crate::perplexity::Estimate;
use crate::state::{Accumulate, ChunkSet};

/// What a [`Session`] does.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// How a text is cut into chunks; 512 tokens each, all of them.
    pub chunks: ChunkOptions,
    /// Whether control tokens written out in a text, such as `<|im_start|>`, are read as themselves.
    pub parse_special: bool,
    /// The text's name, which the matrix is to record.
    pub dataset: Option<String>,
    /// Which products are collected.
    pub rule: Rule,
    /// How sums are kept.
    pub accumulate: Accumulate,
    /// Where activations are summed.
    pub sum_on: SumOn,
    /// In [`Session::run`], [`Listener::due`] is called every so many chunks for the output, 0 for never.
    pub output_every: i32,
    /// The same for numbered copies.
    pub copy_every: i32,
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
            run: RunOptions::default(),
        }
    }
}

/// How far a session is.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Progress {
    /// The text has become tokens, and so many chunks of them are to come.
    Tokenized {
        /// Tokens of the whole text.
        tokens: usize,
        /// Chunks that are taken.
        chunks: usize,
    },
    /// A batch of chunks is through.
    Chunks {
        /// Chunks behind, from the first on.
        done: usize,
        /// Chunks in all.
        total: usize,
        /// The perplexity so far, if it is computed.
        perplexity: Option<f64>,
    },
    /// Chunks are left out, since activations in them are not finite: see [`RunOptions::max_bad_chunks`].
    Discarded {
        /// What was found where.
        reason: String,
    },
}

/// What a session leaves.
#[derive(Debug, Clone, PartialEq)]
pub struct Collected {
    /// The matrix of all chunks that came through.
    pub imatrix: Imatrix,
    /// The perplexity of the text, if [`RunOptions::perplexity`] asked for it and the model computes logits.
    pub perplexity: Option<Estimate>,
    /// Where time went.
    pub timings: Timings,
    /// Chunks behind, from 0: those in the matrix, and those discarded.
    pub done: ChunkSet,
    /// Chunks that were discarded.
    pub discarded: ChunkSet,
    /// Inputs that were not collected for want of rows: see [`Rule::min_rows`].
    pub inputs_of_too_few_rows: u64,
    /// Whether it was cancelled before the last chunk.
    pub cancelled: bool,
}

/// Why a session has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The text cannot be tokenized.
    #[error(transparent)]
    Tokenize(#[from] llama::Error),
    /// The text is too short.
    #[error(transparent)]
    Text(#[from] calibration::Error),
    /// A chunk size that is none.
    #[error("a chunk has 1 to 2147483647 tokens, found {0}")]
    ChunkSize(usize),
    /// The matrix to start from does not go with the sums.
    #[error(transparent)]
    Earlier(#[from] collect::Error),
    /// The model could not be evaluated.
    #[error(transparent)]
    Run(#[from] super::Error),
}

/// Ends a session from another thread, or from a signal's handler.
#[derive(Debug, Clone)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Has the session end as soon as the chunks that are being evaluated are through: its result is what there is then.
    /// A session stays cancelled.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was called.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A model to be collected from.
///
/// [`collect`](Self::collect) takes a text and gives a matrix; [`run`](Self::run) is what it is made of, for who saves in
/// between, resumes or takes a part: the program does.
#[derive(Debug, Clone)]
pub struct Session<'m> {
    model: &'m Model,
    nextn: Option<Layer<'m>>,
    earlier: Imatrix,
    options: SessionOptions,
}

impl<'m> Session<'m> {
    /// A session over `model`.
    #[must_use]
    pub fn new(model: &'m Model, options: SessionOptions) -> Self {
        Self { model, nextn: None, earlier: Imatrix::default(), options }
    }

    /// Also collects for a NextN layer that follows the model; needs [`RunOptions::n_batch`] below two chunks.
    #[must_use]
    pub fn with_nextn(mut self, layer: Option<Layer<'m>>) -> Self {
        self.nextn = layer;
        self
    }

    /// Adds to the sums of an earlier matrix instead of beginning with none.
    #[must_use]
    pub fn starting_from(mut self, earlier: Imatrix) -> Self {
        self.earlier = earlier;
        self
    }

    /// Cancels [`collect`](Self::collect) and [`run`](Self::run) from elsewhere.
    #[must_use]
    pub fn canceller(&self) -> Cancel {
        Cancel(Arc::clone(&self.options.run.stop))
    }

    /// Evaluates the model over a text. `progress` hears of it in order; once it returns [`ControlFlow::Break`], the
    /// session is cancelled.
    ///
    /// The text is tokenized as a whole, with the tokens the vocabulary puts around one, and cut into chunks, which the
    /// model sees each from an empty memory: the sums are those of llama.cpp's tool for the same text and options.
    ///
    /// # Errors
    /// See [`SessionError`].
    ///
    /// # Panics
    /// Goes on with a panic of `progress`.
    pub fn collect(
        &self,
        text: &[u8],
        progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Collected, SessionError> {
        let tokens = self.model.vocab().tokenize(text, self.options.parse_special)?;
        self.collect_tokens(tokens, progress)
    }

    /// As [`collect`](Self::collect), for tokens.
    ///
    /// # Errors
    /// See [`SessionError`].
    ///
    /// # Panics
    /// Goes on with a panic of `progress`.
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
            cancelled: outcome.stopped,
        })
    }

    /// Evaluates the model over chunks, from `start` on, and tells `listener` what comes up: see [`run`]. The sums are
    /// in the collector that comes back.
    ///
    /// # Errors
    /// As [`run`].
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
        });
        let (nextn, options) = (self.nextn.as_ref(), &self.options.run);
        let outcome = run(self.model, nextn, chunks, &collector, start, options, listener)?;
        Ok((collector, outcome))
    }
}

/// Tells a closure what a run does.
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
