//! The callback of ggml's scheduler. It is called before each node of a graph, and after each node that was asked for.
//!
//! Nothing unwinds into C++. The latch keeps the first error or panic and ends the evaluation early. The code that
//! called `llama_decode` raises it. The callback cannot make the scheduler itself fail: if it returns false, the
//! scheduler goes on with the next split and reports success.

use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::outputs::{Head, is_output_matrix};
use super::rpc::Pulse;
use super::rpc_detach::RpcDetach;
use super::{TensorInfo, TensorRef};

/// Error of an observer.
pub type ObserverError = Box<dyn std::error::Error + Send + Sync>;

/// Sees the tensors of a graph while it is computed.
///
/// For each node, in order of computation, [`asks`](Self::asks) is called before the node is computed. If it returned
/// `true`, [`sees`](Self::sees) is called right after. Each node that is asked for splits the graph into one more part,
/// so ask for few. Neither is called again in a decode once `sees` has failed or either has panicked.
///
/// ```
/// use llama_imatrix::llama::{Observer, ObserverError, TensorInfo, TensorRef};
///
/// /// Prints the mean of what leaves each layer.
/// struct Means(Vec<f32>);
///
/// impl Observer for Means {
///     fn asks(&mut self, node: TensorInfo<'_>) -> bool {
///         node.name().starts_with("l_out-")
///     }
///
///     fn sees(&mut self, node: TensorRef<'_>) -> Result<(), ObserverError> {
///         node.to_f32(&mut self.0)?; // of any type, on any device
///         let mean = self.0.iter().sum::<f32>() / self.0.len() as f32;
///         println!("{} {} {:?} {mean}", node.name(), node.type_name(), node.ne());
///         Ok(())
///     }
/// }
/// ```
///
/// The tensor is borrowed for the call and cannot be kept:
///
/// ```compile_fail
/// # use llama_imatrix::llama::{Observer, ObserverError, TensorInfo, TensorRef};
/// struct Keeps<'a>(Option<TensorRef<'a>>);
///
/// impl<'a> Observer for Keeps<'a> {
///     fn sees(&mut self, node: TensorRef<'_>) -> Result<(), ObserverError> {
///         self.0 = Some(node);
///         Ok(())
///     }
/// #   fn asks(&mut self, _: TensorInfo<'_>) -> bool { false }
/// }
/// ```
pub trait Observer {
    /// Returns true if [`sees`](Self::sees) must be called once `node` is computed. Unless [all logits](super::Outputs)
    /// are computed, the product with the output matrix has no data: `sees` can read its input alone.
    fn asks(&mut self, node: TensorInfo<'_>) -> bool;

    /// Receives a node that was asked for. It and its sources are computed, and stay valid until this returns.
    ///
    /// # Errors
    /// An error ends the decode; [`Context::decode`](super::Context::decode) returns it.
    fn sees(&mut self, node: TensorRef<'_>) -> Result<(), ObserverError>;

    /// Called when a decode has ended, with success or not. A decode evaluates one graph per micro-batch.
    fn end_decode(&mut self) {}
}

/// Asks for no node.
impl Observer for () {
    fn asks(&mut self, _: TensorInfo<'_>) -> bool {
        false
    }

    fn sees(&mut self, _: TensorRef<'_>) -> Result<(), ObserverError> {
        Ok(())
    }
}

pub(super) enum Fault {
    Error(ObserverError),
    Panic(Box<dyn Any + Send>),
}

impl Fault {
    /// Returns an error; resumes a panic.
    pub(super) fn raise(self) -> Result<(), ObserverError> {
        match self {
            Self::Error(error) => Err(error),
            Self::Panic(payload) => resume_unwind(payload),
        }
    }
}

/// An observer and its first error or panic.
pub(super) struct Latch<O> {
    pub(super) observer: O,
    fault: Option<Fault>,
    /// How the product with the output matrix is handled.
    pub(super) head: Head,
    rpc_detach: RpcDetach,
    pulse: Pulse,
}

impl<O: Observer> Latch<O> {
    pub(super) fn new(observer: O, head: Head) -> Self {
        Self { observer, fault: None, head, rpc_detach: RpcDetach::default(), pulse: Pulse::default() }
    }

    /// Ends a decode and raises the fault that was latched in it: returns an error, resumes a panic.
    ///
    /// # Safety
    /// The decode is over, and its context is alive.
    pub(super) unsafe fn release(&mut self) -> Result<(), ObserverError> {
        // SAFETY: our own contract. This comes first: it recognizes a node by its operation, which restoring the head
        // changes.
        unsafe { self.rpc_detach.restore() };
        self.observer.end_decode();
        if let Head::Cut(head) = &mut self.head {
            head.restore(); // if the computation failed before it came to the product
        }
        self.take_fault().map_or(Ok(()), Fault::raise)
    }

    /// Takes the fault that was latched since the last call.
    pub(super) fn take_fault(&mut self) -> Option<Fault> {
        self.fault.take()
    }

    /// Returns true if a fault was latched that [`release`](Self::release) would raise.
    pub(super) fn has_fault(&self) -> bool {
        self.fault.is_some()
    }

    /// Handles nodes that need more than the observer: all nodes of an evaluation that is probed or recorded, and the
    /// product with the output matrix if it is cut. Returns the answer for the scheduler, or `None` if the node is the
    /// observer's.
    ///
    /// # Safety
    /// As for the trampoline; `tensor` describes `node`.
    unsafe fn on_head(&mut self, node: NonNull<sys::ggml_tensor>, tensor: TensorInfo<'_>, ask: bool) -> Option<bool> {
        match &mut self.head {
            Head::Whole => None,
            Head::Probed(probe) => {
                // SAFETY: by contract a node of the graph that is about to be computed.
                unsafe { probe.watch(node, tensor) };
                Some(false)
            }
            Head::Recorded(recorder) => {
                // SAFETY: as above.
                unsafe { recorder.watch(node, tensor) };
                Some(false)
            }
            Head::Cut(_) if self.fault.is_some() => None,
            Head::Cut(_) if ask => {
                let observed = self.before(tensor);
                let ends = is_output_matrix(tensor);
                if ends && let Head::Cut(head) = &mut self.head {
                    // SAFETY: by contract the scheduler waits for our answer with a node that is not computed yet, and
                    // uses it again only to compute it and to call back. `restore` follows then, or in `release`.
                    unsafe { head.cut(node, observed) };
                }
                Some(observed || ends)
            }
            Head::Cut(head) => {
                let observed = head.is_cut(node)?;
                head.restore();
                if observed {
                    // SAFETY: by contract the scheduler has come to the node, so its sources are computed; the node
                    // itself is not, since it was cut.
                    self.after(unsafe { TensorRef::sources_computed(tensor) });
                }
                if let Head::Cut(head) = &mut self.head
                    && let Some(scorer) = &mut head.scorer
                    // SAFETY: the node is the product with the output matrix, restored, and its sources are computed.
                    && let Err(reason) = unsafe { scorer.take(node.as_ref()) }
                {
                    self.fault.get_or_insert(Fault::Error(reason.into()));
                }
                Some(false) // ends the split: nothing reads the nodes that follow
            }
        }
    }

    /// Returns the answer before a node is computed. After a fault: true, so that the scheduler calls again after this
    /// node.
    fn before(&mut self, node: TensorInfo<'_>) -> bool {
        if self.fault.is_some() {
            return true;
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| self.observer.asks(node)));
        outcome.unwrap_or_else(|payload| {
            self.fault = Some(Fault::Panic(payload));
            true
        })
    }

    /// Returns the answer after a node is computed. After a fault: false, which ends the split at once.
    fn after(&mut self, node: TensorRef<'_>) -> bool {
        if self.fault.is_some() {
            return false;
        }
        match catch_unwind(AssertUnwindSafe(|| self.observer.sees(node))) {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => self.fault = Some(Fault::Error(error)),
            Err(payload) => self.fault = Some(Fault::Panic(payload)),
        }
        false
    }

    /// Returns the observer's answer for the scheduler.
    ///
    /// # Safety
    /// Unless `ask`, `node` and its sources are computed and not written until this returns.
    pub(super) unsafe fn on_node(&mut self, node: TensorInfo<'_>, ask: bool) -> bool {
        // SAFETY: our own contract.
        if ask { self.before(node) } else { self.after(unsafe { TensorRef::computed(node) }) }
    }
}

/// The `cb_eval` for a context whose user data is a `Latch<O>`.
///
/// # Safety
/// For llama.cpp alone: `tensor` is a node of the graph that the scheduler is computing on this thread, computed with
/// its sources unless `ask`. `user_data` is the `Latch<O>` that the context was created with; nobody holds a reference
/// to it during a decode.
pub(super) unsafe extern "C" fn trampoline<O: Observer>(
    tensor: *mut sys::ggml_tensor,
    ask: bool,
    user_data: *mut c_void,
) -> bool {
    // SAFETY: by contract the latch is alive, and this is the only reference to it until this returns.
    let latch = unsafe { &mut *user_data.cast::<Latch<O>>() };
    // SAFETY: the scheduler waits for us. Only `on_head` and `rpc_detach` write to the node, and neither does so while
    // a reference to it is in use: the observer cannot keep one beyond its calls.
    let (Some(node), Some(ptr)) = (unsafe { TensorInfo::new(tensor) }, NonNull::new(tensor)) else { return false };
    if ask {
        // SAFETY: our own contract is the same.
        unsafe { latch.rpc_detach.announce(ptr) };
    }
    // SAFETY: our own contract is the same.
    let answer = match unsafe { latch.on_head(ptr, node, ask) } {
        Some(answer) => answer,
        // SAFETY: our own contract is the same.
        None => unsafe { latch.on_node(node, ask) },
    };
    if !ask {
        // SAFETY: our own contract is the same, and the observer, which has returned, no longer reads the sources.
        unsafe {
            if !latch.has_fault() && latch.rpc_detach.is_remote(ptr) {
                latch.pulse.computed(ptr);
            }
            latch.rpc_detach.computed();
        }
    }
    answer
}
