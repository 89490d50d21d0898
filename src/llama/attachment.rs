//! An observer in a context that somebody else made.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llama_cpp_sys_2 as sys;

use super::callback::{Fault, Latch};
use super::outputs::Head;
use super::{Error, Observer, TensorInfo};

/// What goes into `llama_context_params`, or into `ggml_backend_sched_set_eval_callback`.
#[derive(Debug, Clone, Copy)]
pub struct EvalCallback {
    /// `cb_eval`: asked before and after each node of a graph.
    pub function: unsafe extern "C" fn(node: *mut sys::ggml_tensor, ask: bool, user_data: *mut c_void) -> bool,
    /// `cb_eval_user_data`: what it is to be called with.
    pub user_data: *mut c_void,
}

/// An [`Observer`] for a context of your own: one made with `llama-cpp-sys-2` or other bindings, or by a program in
/// another language that takes a `cb_eval`.
///
/// Where the context can be ours, [`Context`](super::Context) needs no unsafe code.
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
/// # What a context is to be like
///
/// For llama.cpp's own tool's sums, to the bit, in `llama_context_params`:
///
/// | field | value | |
/// |---|---|---|
/// | `n_ctx`, `n_seq_max` | chunk × sequences, sequences | they decide how tokens are grouped |
/// | `n_batch`, `n_ubatch` | as the run to compare with | experts' rows are added in the order of micro-batches |
/// | `flash_attn_type` | `AUTO`, the default | another kernel rounds otherwise |
/// | `kv_unified` | `false`, the default | |
/// | `swa_full` | `false`; the library's default is `true` | |
/// | `type_k`, `type_v` | `F16`, the default | |
/// | `embeddings` | `false`, the default | |
///
/// Threads and repacked weights make no difference. Every token of a batch is to ask for logits: llama.cpp leaves the
/// rows of those that do not out of the last layer, where they are then not seen. Dense inputs of fewer rows than
/// [`Rule::min_rows`](crate::collect::Rule::min_rows), 16 as in llama.cpp's tool, are not collected: set it to 1 where
/// tokens come one by one.
///
/// Errors and panics in the observer do not cross C: they are kept until [`finish_decode`](Self::finish_decode), the rest
/// of that decode is cut short (`llama_decode` still returns 0, and its logits are not to be used), and the observer is
/// not called until then. Call it after every decode: a collector also learns from it where one ends.
pub struct Attachment<O> {
    shared: Arc<Shared<O>>,
}

/// What the callback's user data points to.
struct Shared<O>(Mutex<Latch<O>>);

// SAFETY: the head is `Whole` and no links are taken, so there are no pointers; the observer, which goes with whoever has
// the lock, is `Send`.
unsafe impl<O: Send> Send for Shared<O> {}
// SAFETY: as above, and all is behind a lock.
unsafe impl<O: Send> Sync for Shared<O> {}

impl<O: Observer + Send> Attachment<O> {
    /// An attachment, not attached yet.
    pub fn new(observer: O) -> Self {
        Self { shared: Arc::new(Shared(Mutex::new(Latch::new(observer, Head::Whole)))) }
    }

    /// The callback for one context, to be set as the context is created.
    ///
    /// # Safety
    /// Whoever calls the function promises, as llama.cpp's scheduler does:
    ///
    /// - `user_data` is the one given here, and the function is called no more once this attachment is dropped: free the
    ///   context first, or give its scheduler another callback;
    /// - `node` is a tensor of a graph whose nodes, their sources and their memory stay allocated during the call and are
    ///   not written meanwhile, and where `ask` is `false`, it and its sources are computed;
    /// - tensors are laid out as in the ggml that this crate links, which [`Backend::version`](super::Backend::version)
    ///   tells: it is the same library or one of the same version.
    ///
    /// One attachment is for one context: the nodes of two would be taken for one graph's. (That gives wrong sums, no
    /// undefined behaviour.) The function may be called on any thread.
    #[must_use]
    pub unsafe fn eval_callback(&self) -> EvalCallback {
        EvalCallback { function: on_eval::<O>, user_data: Arc::as_ptr(&self.shared).cast_mut().cast() }
    }

    /// A decode has ended: returns the first error of the observer in it. To be called after every decode, before its
    /// results are used.
    ///
    /// # Errors
    /// [`Error::Observer`] with what [`Observer::sees`] returned.
    ///
    /// # Panics
    /// Goes on with a panic of the observer.
    pub fn finish_decode(&self) -> Result<(), Error> {
        let fault = {
            let mut latch = self.shared.lock();
            latch.observer.end_decode();
            latch.take_fault()
        };
        // With the lock given back: a panic may go on.
        fault.map_or(Ok(()), Fault::raise).map_err(Error::Observer)
    }

    /// Whether the observer has failed since the last [`finish_decode`](Self::finish_decode).
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.shared.lock().has_fault()
    }

    /// Lets `look` at the observer, and change it. A decode on another thread waits meanwhile; from within the observer
    /// itself this would wait for ever.
    pub fn with_observer<T>(&self, look: impl FnOnce(&mut O) -> T) -> T {
        look(&mut self.shared.lock().observer)
    }
}

impl<O> Shared<O> {
    /// A panic of the observer is caught while this is held, so the lock is never poisoned by one; one in
    /// [`Attachment::with_observer`] is its caller's, and leaves a latch that is whole.
    fn lock(&self) -> MutexGuard<'_, Latch<O>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// # Safety
/// See [`Attachment::eval_callback`].
unsafe extern "C" fn on_eval<O: Observer>(node: *mut sys::ggml_tensor, ask: bool, user_data: *mut c_void) -> bool {
    let Some(shared) = NonNull::new(user_data.cast::<Shared<O>>()) else { return false };
    // SAFETY: by contract the user data of an attachment that is alive.
    let shared = unsafe { shared.as_ref() };
    // SAFETY: by contract a tensor that is not written before this returns, nor are its sources.
    let Some(node) = (unsafe { TensorInfo::new(node) }) else { return false };
    // SAFETY: by contract computed, with its sources, where `ask` is false.
    unsafe { shared.lock().on_node(node, ask) }
}
