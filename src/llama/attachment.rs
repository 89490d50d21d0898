//! An observer in a context that was created elsewhere.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llama_cpp_sys_2 as sys;

use super::callback::{Fault, Latch};
use super::outputs::Head;
use super::{Error, Observer, TensorInfo};

/// A callback for `llama_context_params`, or for `ggml_backend_sched_set_eval_callback`.
#[derive(Debug, Clone, Copy)]
pub struct EvalCallback {
    /// `cb_eval`: called before and after each node of a graph.
    pub function: unsafe extern "C" fn(node: *mut sys::ggml_tensor, ask: bool, user_data: *mut c_void) -> bool,
    /// `cb_eval_user_data`: the argument that llama.cpp must pass to it.
    pub user_data: *mut c_void,
}

/// An [`Observer`] for a context that this crate did not create: one made with `llama-cpp-sys-2` or other bindings, or
/// by a program in another language that takes a `cb_eval`.
///
/// [`Context`](super::Context) does the same without unsafe code, for contexts that this crate creates.
///
/// ```no_run
/// # use llama_cpp_sys_2 as sys;
/// use llama_imatrix::llama::Attachment;
/// use llama_imatrix::{Collector, CollectorOptions};
///
/// # fn example(model: *mut sys::llama_model, batch: sys::llama_batch) -> Result<(), Box<dyn std::error::Error>> {
/// let collector = Collector::new(&CollectorOptions::default());
/// let attachment = Attachment::new(collector.lane());
/// // SAFETY: returns a struct of plain values.
/// let mut params = unsafe { sys::llama_context_default_params() };
/// // SAFETY: one llama.cpp; the context is freed below, before `attachment` is dropped.
/// let callback = unsafe { attachment.eval_callback() };
/// (params.cb_eval, params.cb_eval_user_data) = (Some(callback.function), callback.user_data);
/// // SAFETY: the model is loaded.
/// let context = unsafe { sys::llama_init_from_model(model, params) };
/// // SAFETY: the context is valid, and the batch is one of the model's tokens.
/// unsafe { sys::llama_decode(context, batch) };
/// attachment.finish_decode()?;
/// // SAFETY: ours, and used no more.
/// unsafe { sys::llama_free(context) };
/// collector.finish()?.save("imatrix.gguf".as_ref(), llama_imatrix::imatrix::Format::Gguf)?;
/// # Ok(())
/// # }
/// ```
///
/// # Settings of the context
///
/// `llama_context_params` for which the sums have the bits of llama.cpp's own tool:
///
/// | field | value | |
/// |---|---|---|
/// | `n_ctx`, `n_seq_max` | chunk × sequences, sequences | they decide how tokens are grouped |
/// | `n_batch`, `n_ubatch` | as the run to compare with | rows of experts are added in the order of micro-batches |
/// | `flash_attn_type` | `AUTO`, the default | other kernels round differently |
/// | `kv_unified` | `false`, the default | |
/// | `swa_full` | `false`; the library's default is `true` | |
/// | `type_k`, `type_v` | `F16`, the default | |
/// | `embeddings` | `false`, the default | |
///
/// Threads and repacked weights make no difference. Every token of a batch must ask for logits: otherwise llama.cpp
/// leaves its row out of the last layer, and the observer does not see it there. Dense inputs of fewer rows than
/// [`Rule::min_rows`](crate::collect::Rule::min_rows), 16 as in llama.cpp's tool, are not collected: set it to 1 if you
/// evaluate one token per batch.
///
/// Errors and panics of the observer do not cross C. The attachment keeps the first one until
/// [`finish_decode`](Self::finish_decode) and ends the decode early: `llama_decode` still returns 0, but its logits are
/// invalid. Until then the observer is not called again. Call `finish_decode` after every decode: it also tells a
/// collector that the decode has ended.
pub struct Attachment<O> {
    shared: Arc<Shared<O>>,
}

/// What the callback's user data points to.
struct Shared<O>(Mutex<Latch<O>>);

// SAFETY: a latch is not `Send` by itself, since its head and its detached sources hold raw pointers. Here it has none:
// `new` makes the head `Whole`, and `on_eval` detaches no sources. What is left is the observer, which is `Send`.
unsafe impl<O: Send> Send for Shared<O> {}
// SAFETY: as above; the latch is reached through the mutex alone.
unsafe impl<O: Send> Sync for Shared<O> {}

impl<O: Observer + Send> Attachment<O> {
    /// Creates an attachment that is not attached yet.
    pub fn new(observer: O) -> Self {
        Self { shared: Arc::new(Shared(Mutex::new(Latch::new(observer, Head::Whole)))) }
    }

    /// Returns the callback for one context. Set it when the context is created.
    ///
    /// # Safety
    /// The caller of the function guarantees, as llama.cpp's scheduler does:
    ///
    /// - `user_data` is the pointer returned here, and the function is not called after this attachment is dropped: free the
    ///   context first, or give its scheduler another callback;
    /// - `node` is a tensor of a graph whose nodes, their sources and their memory stay allocated and unwritten during the
    ///   call; if `ask` is `false`, the node and its sources are computed;
    /// - tensors have the layout of the ggml that this crate links: the caller uses the same library, or one of the same
    ///   version (see [`Backend::version`](super::Backend::version)).
    ///
    /// Use one attachment per context. With two, nodes of both count as one graph: the sums are wrong, though there is
    /// no undefined behaviour. The function may be called on any thread.
    #[must_use]
    pub unsafe fn eval_callback(&self) -> EvalCallback {
        EvalCallback { function: on_eval::<O>, user_data: Arc::as_ptr(&self.shared).cast_mut().cast() }
    }

    /// Ends a decode and returns the observer's first error in it. Call this after every decode, before you use its
    /// results.
    ///
    /// # Errors
    /// [`Error::Observer`] with what [`Observer::sees`] returned.
    ///
    /// # Panics
    /// Resumes a panic of the observer.
    pub fn finish_decode(&self) -> Result<(), Error> {
        let fault = {
            let mut latch = self.shared.lock();
            latch.observer.end_decode();
            latch.take_fault()
        };
        // The lock is released: a panic may be resumed.
        fault.map_or(Ok(()), Fault::raise).map_err(Error::Observer)
    }

    /// Returns true if the observer has failed since the last [`finish_decode`](Self::finish_decode).
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.shared.lock().has_fault()
    }

    /// Calls `look` with the observer. A decode on another thread waits until it returns. Called by the observer
    /// itself, this waits for ever.
    pub fn with_observer<T>(&self, look: impl FnOnce(&mut O) -> T) -> T {
        look(&mut self.shared.lock().observer)
    }
}

impl<O> Shared<O> {
    /// Locks the latch, poisoned or not. A panic of the observer is caught while the lock is held, so it does not
    /// poison it. A panic in the closure of [`Attachment::with_observer`] does, but leaves the latch consistent.
    fn lock(&self) -> MutexGuard<'_, Latch<O>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// # Safety
/// See [`Attachment::eval_callback`].
unsafe extern "C" fn on_eval<O: Observer>(node: *mut sys::ggml_tensor, ask: bool, user_data: *mut c_void) -> bool {
    let Some(shared) = NonNull::new(user_data.cast::<Shared<O>>()) else { return false };
    // SAFETY: by contract the user data is that of an attachment that is alive.
    let shared = unsafe { shared.as_ref() };
    // SAFETY: by contract a tensor that, like its sources, is not written before this returns.
    let Some(node) = (unsafe { TensorInfo::new(node) }) else { return false };
    // SAFETY: by contract the node and its sources are computed if `ask` is false.
    unsafe { shared.lock().on_node(node, ask) }
}
