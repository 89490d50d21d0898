//! Removes the sources of computed nodes in RPC memory, so that ggml does not send them again.
//!
//! ggml's RPC sends a graph with all sources of its nodes, the sources of these, and so on. The scheduler splits a
//! graph after each observed node, so every part would be sent with all parts before it: the bytes would grow with the
//! square of the number of layers. So nodes in a server's memory lose their sources once they are computed, and get
//! them back before llama.cpp reads the graph again.

use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::Device;
use super::tensor::buffer_of;

/// The nodes of an evaluation that have lost their sources.
#[derive(Default)]
pub(super) struct RpcDetach {
    /// The first node of the evaluation. When it is announced again, the next evaluation has begun.
    first: Option<NonNull<sys::ggml_tensor>>,
    /// Nodes that were announced and are not known to be computed.
    announced: Vec<NonNull<sys::ggml_tensor>>,
    taken: Vec<Taken>,
    /// Buffer types, and whether they are a server's.
    kinds: Vec<(sys::ggml_backend_buffer_type_t, bool)>,
}

struct Taken {
    node: NonNull<sys::ggml_tensor>,
    op: sys::ggml_op,
    sources: Sources,
}

/// Sources of a node; the length is `GGML_MAX_SRC`.
type Sources = [*mut sys::ggml_tensor; 10];
const NONE: Sources = [std::ptr::null_mut(); 10];

impl RpcDetach {
    /// Records a remote node that the scheduler is about to compute.
    ///
    /// # Safety
    /// For the scheduler's callback: `node` is the node of the graph that it asks about, and nobody holds a reference
    /// to a node of this or the last evaluation.
    pub(super) unsafe fn announce(&mut self, node: NonNull<sys::ggml_tensor>) {
        if self.first == Some(node) {
            // SAFETY: the last evaluation is over, and no node of this one is computed yet. The context is alive, since
            // its callback runs.
            unsafe { self.restore() };
        }
        self.first.get_or_insert(node);
        // SAFETY: by contract a node of a graph.
        if unsafe { self.is_remote(node) } {
            self.announced.push(node);
        }
    }

    /// Removes the sources of all announced nodes: they are computed, and the observer has seen them.
    ///
    /// # Safety
    /// As for [`announce`](Self::announce), of the node that was computed last.
    pub(super) unsafe fn computed(&mut self) {
        for mut node in self.announced.drain(..) {
            // SAFETY: by the contract of `announce` the node was part of the graph that is being computed, which waits
            // for us; this is the only reference to it.
            let tensor = unsafe { node.as_mut() };
            if !tensor.src[0].is_null() {
                self.taken.push(Taken { node, op: tensor.op, sources: tensor.src });
                tensor.src = NONE;
            }
        }
    }

    /// Restores the sources of all nodes.
    ///
    /// A decode of several micro-batches may build a new graph in the same memory. So a node gets its sources back only
    /// if it still has its operation and no sources, which no new node has. The latest node is restored first, since an
    /// earlier one may have been at the same address.
    ///
    /// # Safety
    /// No node is being computed, nobody holds a reference to one, and the context is alive: it keeps the memory of its
    /// graphs allocated.
    pub(super) unsafe fn restore(&mut self) {
        for Taken { mut node, op, sources } in self.taken.drain(..).rev() {
            // SAFETY: by contract the memory is allocated, and holds this node or a later tensor of the same context.
            let tensor = unsafe { node.as_mut() };
            if tensor.op == op && tensor.src == NONE {
                tensor.src = sources;
            }
        }
        self.announced.clear();
        self.first = None;
    }

    /// Returns true if a node's buffer is on an RPC server.
    ///
    /// # Safety
    /// `node` is a node of a graph.
    pub(super) unsafe fn is_remote(&mut self, node: NonNull<sys::ggml_tensor>) -> bool {
        // SAFETY: by contract the node is alive; its buffer lives as long.
        let kind = unsafe {
            let buffer = buffer_of(node.as_ref());
            if buffer.is_null() {
                return false;
            }
            sys::ggml_backend_buffer_get_type(buffer)
        };
        if let Some((_, remote)) = self.kinds.iter().find(|(known, _)| *known == kind) {
            return *remote;
        }
        // SAFETY: the type is that of a live buffer.
        let device = unsafe { Device::of_buffer_type(kind) };
        let remote = device.is_some_and(Device::is_remote);
        self.kinds.push((kind, remote));
        remote
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(op: sys::ggml_op, source: *mut sys::ggml_tensor) -> Box<sys::ggml_tensor> {
        // SAFETY: the struct has numbers and raw pointers, for which zeros are valid.
        let mut tensor: Box<sys::ggml_tensor> = Box::new(unsafe { std::mem::zeroed() });
        tensor.op = op;
        tensor.src[0] = source;
        tensor
    }

    #[test]
    fn sources_are_restored_unless_the_memory_has_another_graph() {
        let mut leaf = tensor(sys::GGML_OP_NONE, std::ptr::null_mut());
        let source = &raw mut *leaf;
        let mut nodes = [(); 3].map(|()| tensor(sys::GGML_OP_ADD, source));
        let pointers: Vec<_> = nodes.iter_mut().map(|node| NonNull::from(&mut **node)).collect();
        let mut detach = RpcDetach { announced: pointers.clone(), ..RpcDetach::default() };
        // SAFETY: the nodes are ours, and nothing computes them.
        unsafe {
            detach.computed();
            assert!(pointers.iter().all(|node| node.as_ref().src == NONE));
            (*pointers[1].as_ptr()).op = sys::GGML_OP_NONE; // a leaf of another graph
            (*pointers[2].as_ptr()).src[0] = pointers[0].as_ptr(); // the same operation, with a source
            detach.restore();
            assert_eq!(pointers[0].as_ref().src[0], source);
            assert!(pointers[1].as_ref().src[0].is_null());
            assert_eq!(pointers[2].as_ref().src[0], pointers[0].as_ptr());
        }
    }
}
