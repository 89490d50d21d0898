//! The one place where C calls Rust: ggml's scheduler asks about each node of a graph and shows those that were wanted.
//!
//! Nothing unwinds into C++. A panic or an error is latched, the rest of the evaluation is cut short, and the code that
//! called `llama_decode` raises it: the scheduler itself cannot be made to fail, since it takes an unwilling callback
//! for the end of a split and reports success.

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
/// For each node in order of computation [`asks`](Self::asks) is called before the node is computed and, where it
/// returned `true`, [`sees`](Self::sees) right after. A node that is asked for ends a run of nodes that are computed
/// together, so ask for few. Neither is called again in a decode once `sees` has failed or either has panicked.
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
    /// Whether [`sees`](Self::sees) shall be called once `node` is computed. Where not [all logits](super::Outputs) are computed, neither can those of the product with the
    /// output matrix be later, only its input's.
    fn asks(&mut self, node: TensorInfo<'_>) -> bool;

    /// `node` and its sources are computed and stay so until this returns.
    ///
    /// # Errors
    /// An error ends the decode; [`Context::decode`](super::Context::decode) returns it.
    fn sees(&mut self, node: TensorRef<'_>) -> Result<(), ObserverError>;

    /// A decode has ended, well or not. It evaluated one graph, or several in turn, one for each of its micro-batches.
    fn end_decode(&mut self) {}
}

/// Watches nothing.
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
    /// An error is returned, a panic goes on.
    pub(super) fn raise(self) -> Result<(), ObserverError> {
        match self {
            Self::Error(error) => Err(error),
            Self::Panic(payload) => resume_unwind(payload),
        }
    }
}

/// An observer and the first thing that went wrong with it.
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

    /// Ends a decode and raises what was latched in it: errors are returned, panics go on.
    ///
    /// # Safety
    /// The decode is over, and the context that it was of is alive.
    pub(super) unsafe fn release(&mut self) -> Result<(), ObserverError> {
        // SAFETY: our own contract. Before the head, whose product may be among them.
        unsafe { self.rpc_detach.restore() };
        self.observer.end_decode();
        if let Head::Cut(head) = &mut self.head {
            head.restore(); // for when the computation failed before it was computed
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

    /// Whether `node` is dealt with here, and the answer then: all nodes where the end of the graph is cut off, and of an
    /// evaluation that is not the observer's.
    ///
    /// # Safety
    /// As for the trampoline.
    unsafe fn on_head(&mut self, node: NonNull<sys::ggml_tensor>, tensor: TensorInfo<'_>, ask: bool) -> Option<bool> {
        match &mut self.head {
            Head::Whole => None,
            Head::Probed(probe) => {
                // SAFETY: by contract a node of the graph that is being computed.
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
                    // SAFETY: by contract the node is a graph's that waits for our answer.
                    unsafe { head.cut(node, observed) };
                }
                Some(observed || ends)
            }
            Head::Cut(head) => {
                let observed = head.is_cut(node)?;
                head.restore();
                if observed {
                    // SAFETY: by contract the node's turn has come, so its sources are computed; the node was cut.
                    self.after(unsafe { TensorRef::sources_computed(tensor) });
                }
                if let Head::Cut(head) = &mut self.head
                    && let Some(scorer) = &mut head.scorer
                    // SAFETY: the node is computed and restored, and of a graph like the one that was probed.
                    && let Err(reason) = unsafe { scorer.take(node.as_ref()) }
                {
                    self.fault.get_or_insert(Fault::Error(reason.into()));
                }
                Some(false) // leaves the split: what follows is not wanted
            }
        }
    }

    /// The answer for the scheduler before a node is computed. Once latched: ask for the next node, to refuse it then.
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

    /// The answer after it is computed. Once latched: no, which leaves the split at once.
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

    /// The answer for the scheduler.
    ///
    /// # Safety
    /// Where it is not asked whether `node` is wanted, it and its sources are computed, and not written meanwhile.
    pub(super) unsafe fn on_node(&mut self, node: TensorInfo<'_>, ask: bool) -> bool {
        // SAFETY: our own contract.
        if ask { self.before(node) } else { self.after(unsafe { TensorRef::computed(node) }) }
    }
}

/// The `cb_eval` for a context whose user data is a `Latch<O>`.
///
/// # Safety
/// For llama.cpp alone: `tensor` is a node of the graph that the scheduler is computing on this thread, and
/// `user_data` the `Latch<O>` the context was created with, which no reference is held to during a decode.
pub(super) unsafe extern "C" fn trampoline<O: Observer>(
    tensor: *mut sys::ggml_tensor,
    ask: bool,
    user_data: *mut c_void,
) -> bool {
    // SAFETY: by contract valid and unaliased until this returns.
    let latch = unsafe { &mut *user_data.cast::<Latch<O>>() };
    // SAFETY: the scheduler waits for us, so nothing writes the node or its sources until this returns.
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
        // SAFETY: our own contract is the same, and the observer no longer reads the sources.
        unsafe {
            if !latch.has_fault() && latch.rpc_detach.is_remote(ptr) {
                latch.pulse.computed(ptr);
            }
            latch.rpc_detach.computed();
        }
    }
    answer
}
