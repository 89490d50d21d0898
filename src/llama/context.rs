use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::callback::Latch;
use super::create::{Created, create};
use super::graph::Graph;
use super::log::with_reason;
use super::logit_ops::LogitOpsProbe;
use super::outputs::{Head, HeadCut, Targets};
use super::sampler::NoSampler;
use super::scorer::Scorer;
use super::threads::{Pools, clamp_threads};
use super::{Batch, Error, Model, Observer, Outputs, Token, Tuning};
use crate::likelihood::negative_log_likelihoods;

/// Use of flash attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FlashAttention {
    /// On if every backend in use supports it.
    #[default]
    Auto,
    /// Always on.
    On,
    /// Always off.
    Off,
}

/// The shape of a [`Context`].
#[derive(Debug, Clone)]
pub struct ContextOptions {
    /// Tokens the context holds, all sequences together.
    pub n_ctx: u32,
    /// Most tokens per decode.
    pub n_batch: u32,
    /// Tokens per micro-batch: llama.cpp splits a decode into parts of this size.
    pub n_ubatch: u32,
    /// Number of separate sequences.
    pub n_seq: u32,
    /// Threads for decodes of one token.
    pub n_threads: i32,
    /// Threads for decodes of several tokens.
    pub n_threads_batch: i32,
    /// Fused attention.
    pub flash_attention: FlashAttention,
    /// Which logits are computed.
    pub outputs: Outputs,
    /// Settings that have defaults.
    pub tuning: Tuning,
}

impl ContextOptions {
    /// Returns the options of a context for one sequence of at most `n_tokens` tokens, decoded at once on one thread.
    #[must_use]
    pub fn new(n_tokens: u32, outputs: Outputs) -> Self {
        Self {
            n_ctx: n_tokens,
            n_batch: n_tokens,
            n_ubatch: n_tokens,
            n_seq: 1,
            n_threads: 1,
            n_threads_batch: 1,
            flash_attention: FlashAttention::Auto,
            outputs,
            tuning: Tuning::default(),
        }
    }
}

/// llama.cpp's performance counters, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timings {
    /// Time for loading the model.
    pub load_ms: f64,
    /// Time for evaluating batches of several tokens.
    pub prompt_eval_ms: f64,
    /// Tokens in these batches.
    pub prompt_tokens: i32,
}

/// The layers that a context evaluates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// All but its NextN layers.
    Trunk,
    /// A NextN layer.
    Nextn,
    /// The same as `Trunk`, to compute its memory without that of the logits. It cannot be evaluated.
    Measured,
}

/// A model being evaluated, with an [`Observer`] that sees its tensors.
pub struct Context<'m, O: Observer> {
    ptr: NonNull<sys::llama_context>,
    /// Owned; a raw pointer since llama.cpp holds the same one and uses it during a decode.
    latch: NonNull<Latch<O>>,
    /// Thread pools, if they are ours and not ggml's.
    pools: Option<Pools>,
    /// Samplers that the context uses. The context is freed first.
    samplers: Vec<NoSampler>,
    n_batch: usize,
    n_ubatch: usize,
    n_vocab: usize,
    n_threads: usize,
    outputs: Outputs,
    /// Reason why all logits are computed although fewer were requested.
    all_logits: Option<&'static str>,
    /// Rows of logits that the last decode left.
    logit_rows: usize,
    /// True if the model has its weights.
    has_weights: bool,
    /// True if the model computes logits.
    has_logits: bool,
    learned_positions: Option<i32>,
    model: PhantomData<&'m Model>,
}

// SAFETY: llama.cpp binds no context to a thread. This value owns the context, its pools, samplers and latch; the
// pointers in the latch are to the context's graph and to the model, which any thread may read. The observer is `Send`.
unsafe impl<O: Observer + Send> Send for Context<'_, O> {}

impl<'m, O: Observer> Context<'m, O> {
    /// Creates a context over `model`.
    ///
    /// A model without memory between decodes (diffusion models, encoders) attends to all tokens of a batch at once:
    /// for it `n_ubatch` is raised to `n_batch`, where llama.cpp would abort the process.
    ///
    /// # Errors
    /// [`Error::ContextInit`], in most cases because memory ran out.
    pub fn new(model: &'m Model, options: &ContextOptions, observer: O) -> Result<Self, Error> {
        Self::of_kind(model, options, observer, Kind::Trunk)
    }

    pub(super) fn of_kind(model: &'m Model, options: &ContextOptions, observer: O, kind: Kind) -> Result<Self, Error> {
        if options.outputs != Outputs::Scores {
            return Self::with_outputs(model, options, observer, kind);
        }
        let mut context = Self::with_outputs(model, options, observer, kind)?;
        match context.prepare_scores(model) {
            Ok(()) => Ok(context),
            Err(reason) => {
                let options = ContextOptions { outputs: Outputs::All, ..options.clone() };
                let mut context = Self::with_outputs(model, &options, context.into_observer(), kind)?;
                context.all_logits = Some(reason);
                Ok(context)
            }
        }
    }

    fn with_outputs(model: &'m Model, options: &ContextOptions, observer: O, kind: Kind) -> Result<Self, Error> {
        let head = match options.outputs {
            Outputs::All => Head::Whole,
            Outputs::Scores => Head::Probed(LogitOpsProbe::default()),
            Outputs::Nothing => Head::Cut(HeadCut::default()),
        };
        let latch = NonNull::from(Box::leak(Box::new(Latch::new(observer, head))));
        match create::<O>(model, options, kind, latch) {
            Ok(Created { ptr, pools, samplers }) => Ok(Self {
                ptr,
                latch,
                pools,
                samplers,
                n_batch: options.n_batch as usize,
                n_ubatch: options.n_ubatch as usize,
                n_vocab: model.vocab().n_tokens(),
                n_threads: clamp_threads(usize::try_from(options.n_threads_batch).unwrap_or(1)),
                outputs: options.outputs,
                all_logits: None,
                logit_rows: 0,
                learned_positions: model.learned_positions(),
                has_weights: !model.is_dry(),
                // A model without memory between batches is a diffusion model or an encoder.
                // SAFETY: the context was just created.
                has_logits: model.is_diffusion() || !unsafe { sys::llama_get_memory(ptr.as_ptr()) }.is_null(),
                model: PhantomData,
            }),
            Err(error) => {
                // SAFETY: the latch came from a Box, and `create` has freed every context that pointed to it.
                drop(unsafe { Box::from_raw(latch.as_ptr()) });
                Err(error)
            }
        }
    }

    /// Evaluates two tokens without the observer, to find the operations that compute the logits.
    fn prepare_scores(&mut self, model: &Model) -> Result<(), &'static str> {
        if !self.has_memory() {
            return Err("the model keeps no memory between batches");
        }
        let mut batch = Batch::new();
        let token = model.vocab().leading_bos().unwrap_or(0);
        for position in 0..self.n_batch.min(2) {
            batch.add(token, position as i32, 0);
        }
        let probed = self.decode(&mut batch);
        let head = std::mem::replace(&mut self.latch_mut().head, Head::Cut(HeadCut::default()));
        let Head::Probed(probe) = head else { return Err("the graph was not probed") };
        probed.map_err(|_| "two tokens could not be evaluated")?;
        // SAFETY: the probe saw the graph of the last decode, which stays allocated until the next. The operands that
        // the scorer keeps are weights of the model, which outlives the context.
        let scorer = unsafe { Scorer::new(probe.finish()?, self.n_threads) }?;
        self.latch_mut().head = Head::Cut(HeadCut::scoring(scorer));
        self.clear_memory();
        // SAFETY: the context is ours.
        unsafe { sys::llama_perf_context_reset(self.ptr.as_ptr()) };
        Ok(())
    }

    /// Returns the reason why all logits are computed despite [`Outputs::Scores`], if they are.
    #[must_use]
    pub fn computes_all_logits(&self) -> Option<&'static str> {
        self.all_logits
    }

    /// Sets the number of threads, 1 to 512.
    pub fn set_threads(&mut self, n_threads: usize) {
        self.n_threads = clamp_threads(n_threads);
        let n = self.n_threads as i32;
        // SAFETY: the context is ours.
        unsafe { sys::llama_set_n_threads(self.ptr.as_ptr(), n, n) };
        if let Head::Cut(HeadCut { scorer: Some(scorer), .. }) = &mut self.latch_mut().head {
            scorer.set_threads(n as usize);
        }
    }

    /// Evaluates a batch. Returns the negative log-likelihood, in nats, of the target of each row that has one, in the
    /// batch's order. `None` if the model computes no logits.
    ///
    /// With [`Outputs::Scores`], llama.cpp keeps the rows of several sequences in the batch's order only under these
    /// conditions: the batch has at most `n_ubatch` tokens, the sequences follow one another, and all have the same
    /// number of tokens unless the cache is [unified](Tuning::unified_cache).
    ///
    /// # Errors
    /// [`Error::Targets`] unless there is one target per token and every target is a token of the vocabulary; otherwise
    /// as for [`decode`](Self::decode).
    ///
    /// # Panics
    /// Resumes a panic of the observer.
    pub fn score(&mut self, batch: &mut Batch, targets: Vec<Option<Token>>) -> Result<Option<Vec<f64>>, Error> {
        let known = |token: Token| usize::try_from(token).is_ok_and(|token| token < self.n_vocab);
        if targets.len() != batch.len() || !targets.iter().flatten().all(|&token| known(token)) {
            return Err(Error::Targets { found: targets.len(), expected: batch.len(), n_vocab: self.n_vocab });
        }
        if self.outputs == Outputs::Scores
            && let Head::Cut(HeadCut { scorer: Some(scorer), .. }) = &mut self.latch_mut().head
        {
            scorer.begin(targets, batch.is_one_sequence());
            self.decode(batch)?;
            let Head::Cut(HeadCut { scorer: Some(scorer), .. }) = &mut self.latch_mut().head else { return Ok(None) };
            return Ok(Some(scorer.finish()));
        }
        self.decode(batch)?;
        Ok(self.scores_from_logits(&targets))
    }

    fn scores_from_logits(&mut self, targets: &Targets) -> Option<Vec<f64>> {
        let (n_vocab, n_threads) = (self.n_vocab, self.n_threads);
        let logits = if targets.iter().any(Option::is_some) { self.logits()? } else { &[] };
        let mut scores = Vec::new();
        let mut from = 0;
        while let Some(start) = targets[from..].iter().position(Option::is_some).map(|skipped| from + skipped) {
            let wanted: Vec<Token> = targets[start..].iter().copied().map_while(|target| target).collect();
            let end = start + wanted.len();
            scores.extend(negative_log_likelihoods(
                &logits[start * n_vocab..end * n_vocab],
                n_vocab,
                &wanted,
                n_threads,
            ));
            from = end;
        }
        Some(scores)
    }

    /// Evaluates a batch. The observer sees each node it asks for.
    ///
    /// # Errors
    /// [`Error::BatchTooLarge`]; [`Error::NoWeights`]; [`Error::Position`]; [`Error::Decode`] if llama.cpp fails;
    /// [`Error::Observer`] if the observer does.
    ///
    /// # Panics
    /// Resumes a panic of the observer.
    pub fn decode(&mut self, batch: &mut Batch) -> Result<(), Error> {
        let n_tokens = batch.len();
        self.logit_rows = 0;
        if n_tokens > self.n_batch {
            return Err(Error::BatchTooLarge { found: n_tokens, limit: self.n_batch });
        }
        self.check_weights()?;
        if let Some(limit) = self.learned_positions
            && let Some(found) = batch.position_beyond(limit)
        {
            return Err(Error::Position { found, limit }); // ggml would abort the process
        }
        let ctx = self.ptr.as_ptr();
        // SAFETY: the context is ours and the batch's arrays are valid during the call. The trampoline makes the only
        // reference to the latch: others borrow `self`, which `&mut self` rules out.
        let (status, reason) = with_reason(|| batch.with_c(|batch| unsafe { sys::llama_decode(ctx, batch) }));
        self.finish_decode(status, n_tokens, reason)?;
        if self.outputs == Outputs::All && self.has_logits {
            self.logit_rows = n_tokens;
        }
        Ok(())
    }

    /// Refuses a model without weights: llama.cpp would read null pointers.
    pub(super) fn check_weights(&self) -> Result<(), Error> {
        if self.has_weights { Ok(()) } else { Err(Error::NoWeights) }
    }

    /// Ends a decode. Raises the fault that the observer latched, or else the status that llama.cpp returned.
    pub(super) fn finish_decode(&mut self, status: i32, n_tokens: usize, reason: String) -> Result<(), Error> {
        // SAFETY: the decode is over and the context is ours.
        unsafe { self.latch_mut().release() }.map_err(Error::Observer)?;
        if status == 0 { Ok(()) } else { Err(Error::Decode { status, n_tokens, reason }) }
    }

    /// Clears the KV cache or recurrent state.
    pub fn clear_memory(&mut self) {
        // SAFETY: the context is ours; a model without memory gives null, which the call ignores.
        unsafe { sys::llama_memory_clear(sys::llama_get_memory(self.ptr.as_ptr()), true) };
    }

    /// Returns true if the context keeps tokens of earlier decodes. Diffusion models and encoders do not.
    #[must_use]
    pub fn has_memory(&self) -> bool {
        // SAFETY: the context is ours.
        !unsafe { sys::llama_get_memory(self.ptr.as_ptr()) }.is_null()
    }

    /// Evaluates a batch with an empty memory and without the observer, and returns its graph. The memory is empty
    /// afterwards.
    ///
    /// # Errors
    /// As for [`decode`](Self::decode).
    pub fn record(&mut self, batch: &mut Batch) -> Result<Graph<'m>, Error> {
        self.clear_memory();
        let head = std::mem::replace(&mut self.latch_mut().head, Head::Recorded(Box::default()));
        let decoded = self.decode(batch);
        let recorded = std::mem::replace(&mut self.latch_mut().head, head);
        self.logit_rows = 0;
        self.synchronize();
        self.clear_memory();
        decoded?;
        let Head::Recorded(recorder) = recorded else { return Ok(Graph::default()) };
        // SAFETY: the recorder saw this context's evaluation alone, and the context borrows its model for 'm.
        Ok(unsafe { recorder.finish() })
    }

    /// Waits until all started computation has finished.
    pub fn synchronize(&mut self) {
        // SAFETY: the context is ours.
        unsafe { sys::llama_synchronize(self.ptr.as_ptr()) };
    }

    /// Returns the logits of the last decode, `[tokens of its batch, n_vocab]`, in the batch's order. `None` if there
    /// are none: the decode failed or was made by [`record`](Self::record), logits were not [requested](Outputs), or
    /// the model is an encoder.
    pub fn logits(&mut self) -> Option<&[f32]> {
        if self.logit_rows == 0 {
            return None;
        }
        // SAFETY: the context is ours; waits for the computation.
        let ptr = unsafe { sys::llama_get_logits(self.ptr.as_ptr()) };
        if ptr.is_null() {
            return None;
        }
        // SAFETY: every token of a batch requests its logits, so the last decode, which succeeded, has left
        // `logit_rows` rows of `n_vocab` values. They stay until the next decode, which needs `&mut self`.
        Some(unsafe { std::slice::from_raw_parts(ptr, self.logit_rows * self.n_vocab) })
    }

    /// Bytes that llama.cpp allocates for the logits of a micro-batch and their copies, and that stay unused if no
    /// logits are computed.
    pub(crate) fn unused_logits(&self) -> usize {
        const COPIES: usize = 5;
        match self.outputs {
            Outputs::All => 0,
            Outputs::Scores | Outputs::Nothing => {
                COPIES.saturating_mul(self.n_ubatch).saturating_mul(self.n_vocab).saturating_mul(size_of::<f32>())
            }
        }
    }

    /// Returns llama.cpp's performance counters.
    #[must_use]
    pub(crate) fn timings(&self) -> Timings {
        // SAFETY: reads counters of our context.
        let data = unsafe { sys::llama_perf_context(self.ptr.as_ptr()) };
        Timings { load_ms: data.t_load_ms, prompt_eval_ms: data.t_p_eval_ms, prompt_tokens: data.n_p_eval }
    }

    /// Returns the observer.
    #[must_use]
    pub fn observer(&self) -> &O {
        // SAFETY: the latch is ours and alive. llama.cpp uses it only during a decode, which needs `&mut self`.
        unsafe { &self.latch.as_ref().observer }
    }

    /// Returns the observer, mutable.
    pub(crate) fn observer_mut(&mut self) -> &mut O {
        &mut self.latch_mut().observer
    }

    /// Frees the context and returns the observer.
    #[must_use]
    pub fn into_observer(self) -> O {
        let mut this = ManuallyDrop::new(self);
        let pools = this.pools.take();
        let samplers = std::mem::take(&mut this.samplers);
        // SAFETY: both are ours, and `this` is never dropped, so they are freed here alone. The context goes first,
        // since it points to the latch, and to the pools and samplers, which are dropped below.
        let observer = unsafe {
            sys::llama_free(this.ptr.as_ptr());
            Box::from_raw(this.latch.as_ptr()).observer
        };
        drop((pools, samplers));
        observer
    }

    /// Returns true if the model was loaded without its weights.
    pub(super) fn is_dry(&self) -> bool {
        !self.has_weights
    }

    pub(super) fn as_ptr(&self) -> *mut sys::llama_context {
        self.ptr.as_ptr()
    }

    pub(super) fn latch_mut(&mut self) -> &mut Latch<O> {
        // SAFETY: as in observer(), and `&mut self` makes the reference unique.
        unsafe { self.latch.as_mut() }
    }
}

impl<O: Observer> Drop for Context<'_, O> {
    fn drop(&mut self) {
        // SAFETY: both are ours and freed once. The context goes first, since it points to the latch. Pools and
        // samplers, which it points to as well, are fields: they are dropped after this.
        unsafe {
            sys::llama_free(self.ptr.as_ptr());
            drop(Box::from_raw(self.latch.as_ptr()));
        }
    }
}
