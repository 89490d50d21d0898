//! NextN layers: hidden states of the trunk, and a second context that takes them with tokens.

use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::context::Kind;
use super::log::with_reason;
use super::{Context, ContextOptions, Error, Model, Observer, Token};

#[cfg(nextn)]
#[allow(dead_code, non_camel_case_types, unreachable_pub, reason = "generated")]
mod shim {
    use llama_cpp_sys_2::{llama_batch_ext, llama_context};
    include!(concat!(env!("OUT_DIR"), "/nextn.rs"));
}

/// Stands in for the shim if the build found no `src/llama-ext.h`. Every call fails.
#[cfg(not(nextn))]
mod shim {
    use llama_cpp_sys_2::{llama_batch_ext, llama_context};

    pub(super) const IMATRIX_NEXTN_OK: u32 = 0;
    const UNAVAILABLE: u32 = 4;

    pub(super) unsafe fn imatrix_nextn_keep_states(_: *mut llama_context) -> u32 {
        UNAVAILABLE
    }
    pub(super) unsafe fn imatrix_nextn_state(_: *mut llama_context, _: i32, _: *mut *const f32) -> u32 {
        UNAVAILABLE
    }
    pub(super) unsafe fn imatrix_nextn_batch_new(_: *mut llama_context, _: *mut *mut llama_batch_ext) -> u32 {
        UNAVAILABLE
    }
    pub(super) unsafe fn imatrix_nextn_batch_add(
        _: *mut llama_batch_ext,
        _: i32,
        _: i32,
        _: bool,
        _: *const f32,
        _: usize,
    ) -> u32 {
        UNAVAILABLE
    }
}

/// Returns true if this build supports NextN layers.
#[must_use]
pub const fn nextn_available() -> bool {
    cfg!(nextn)
}

impl<O: Observer> Context<'_, O> {
    /// Makes later decodes keep the hidden state of every token, for [`nextn_state`](Self::nextn_state).
    ///
    /// # Errors
    /// [`Error::NextnUnavailable`].
    pub fn keep_nextn_states(&mut self) -> Result<(), Error> {
        // SAFETY: the context is ours.
        match unsafe { shim::imatrix_nextn_keep_states(self.as_ptr()) } {
            shim::IMATRIX_NEXTN_OK => Ok(()),
            _ => Err(Error::NextnUnavailable),
        }
    }

    /// Returns the hidden state of token `row` of the last decode, as input for a NextN layer.
    ///
    /// # Errors
    /// [`Error::NextnState`] if there is no such row, or [`keep_nextn_states`](Self::keep_nextn_states) was not called.
    pub fn nextn_state(&mut self, row: usize) -> Result<&[f32], Error> {
        let ctx = self.as_ptr();
        let none = Error::NextnState { row };
        let Ok(c_row) = i32::try_from(row) else { return Err(none) };
        let mut state = std::ptr::null();
        // SAFETY: the context is ours; the call waits for the computation and writes the pointer only.
        let status = unsafe { shim::imatrix_nextn_state(ctx, c_row, &raw mut state) };
        if status != shim::IMATRIX_NEXTN_OK || state.is_null() {
            return Err(none);
        }
        // SAFETY: the context is ours and its model outlives it.
        let width = unsafe { sys::llama_model_n_embd_out(sys::llama_get_model(ctx)) };
        // SAFETY: llama.cpp has checked that its buffer has the row's `n_embd_out` floats. They stay until the next
        // decode, which needs `&mut self`.
        Ok(unsafe { std::slice::from_raw_parts(state, usize::try_from(width).unwrap_or(0)) })
    }
}

/// A context that evaluates a model's NextN layer on tokens, each with the trunk's hidden state for the token before
/// it.
pub struct NextnContext<'m, O: Observer> {
    /// Points into the context, and is freed before it.
    batch: NonNull<sys::llama_batch_ext>,
    len: usize,
    width: usize,
    /// True if logits are computed. Only then does the graph have the layer's output matrix.
    outputs: bool,
    context: Context<'m, O>,
}

// SAFETY: llama.cpp binds neither a context nor its batch to a thread, and this value owns both. The observer is
// `Send`.
unsafe impl<O: Observer + Send> Send for NextnContext<'_, O> {}

impl<'m, O: Observer> NextnContext<'m, O> {
    /// Creates a context over the NextN layer of `model`; `outputs` has it compute logits.
    ///
    /// # Errors
    /// [`Error::ContextInit`]; [`Error::NextnUnavailable`].
    pub fn new(model: &'m Model, options: &ContextOptions, observer: O, outputs: bool) -> Result<Self, Error> {
        let context = Context::of_kind(model, options, observer, Kind::Nextn)?;
        let mut batch = std::ptr::null_mut();
        // SAFETY: the context is ours.
        let status = unsafe { shim::imatrix_nextn_batch_new(context.as_ptr(), &raw mut batch) };
        let batch = NonNull::new(batch).filter(|_| status == shim::IMATRIX_NEXTN_OK).ok_or(Error::NextnUnavailable)?;
        Ok(Self { batch, len: 0, width: model.n_embd_out(), outputs, context })
    }

    /// Returns the observer, mutable.
    pub fn observer_mut(&mut self) -> &mut O {
        self.context.observer_mut()
    }

    /// Removes all tokens from the memory and from the batch.
    pub fn clear(&mut self) {
        self.context.clear_memory();
        self.clear_batch();
    }

    /// Number of tokens in the batch.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns true if the batch has no tokens.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a token at `position`, with the trunk's hidden state for the token before it.
    ///
    /// # Errors
    /// [`Error::NextnToken`] if the batch is full, the token is not in the vocabulary, or the state's width is not the
    /// model's. The batch is then empty.
    pub fn push(&mut self, token: Token, position: i32, state: &[f32]) -> Result<(), Error> {
        let added = state.len() == self.width && {
            // SAFETY: the batch is ours; the state is passed with its length, and llama.cpp copies it.
            let status = unsafe {
                let (batch, data) = (self.batch.as_ptr(), state.as_ptr());
                shim::imatrix_nextn_batch_add(batch, token, position, self.outputs, data, state.len())
            };
            status == shim::IMATRIX_NEXTN_OK
        };
        if !added {
            // llama.cpp leaves a token that it refuses in the batch, with part of its fields set.
            self.clear_batch();
            return Err(Error::NextnToken { position, width: state.len(), expected: self.width });
        }
        self.len += 1;
        Ok(())
    }

    /// Evaluates the batch and empties it. The observer sees each node it asks for.
    ///
    /// # Errors
    /// As [`Context::decode`].
    ///
    /// # Panics
    /// Resumes a panic of the observer.
    pub fn decode(&mut self) -> Result<(), Error> {
        self.context.check_weights()?;
        let (ctx, batch, n_tokens) = (self.context.as_ptr(), self.batch.as_ptr(), self.len);
        // SAFETY: both are ours, and the batch was made for this context. The trampoline makes the only reference to
        // the latch: others borrow `self`, which `&mut self` rules out.
        let (status, reason) =
            with_reason(|| unsafe { sys::llama_process(ctx, sys::LLAMA_PROCESS_TYPE_DECODE, batch) });
        self.clear_batch();
        self.context.finish_decode(status, n_tokens, reason)
    }

    fn clear_batch(&mut self) {
        self.len = 0;
        // SAFETY: the batch is ours.
        unsafe { sys::llama_batch_ext_clear(self.batch.as_ptr()) };
    }
}

impl<O: Observer> Drop for NextnContext<'_, O> {
    fn drop(&mut self) {
        // SAFETY: the batch is ours and freed once. The context that it points into is a field: it is dropped after
        // this.
        unsafe { sys::llama_batch_ext_free(self.batch.as_ptr()) };
    }
}
