//! Reads a few bytes from a busy RPC server from time to time, so that the watchdog sees it respond.
//!
//! A server does not answer when it receives a graph, and the results of a whole batch may be fetched at its end. So a
//! slow server may send nothing for minutes, as a stopped one does. From time to time the client therefore reads four
//! bytes of the node that was computed last. The server answers once it has computed the node, which shows the watchdog
//! that it works.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use llama_cpp_sys_2 as sys;

use super::super::tensor::buffer_of;

/// Shortest interval between answers. Below it, answers are requested half as often.
const TOO_OFTEN: Duration = Duration::from_secs(1);
/// Longest interval between answers. Above it, answers are requested twice as often.
const TOO_SELDOM: Duration = Duration::from_secs(4);
/// Observed nodes from one answer to the next, at most: some dozens of layers.
const MAX_SPACING: u32 = 256;

/// Decides after which of the observed nodes a server is asked for an answer.
#[derive(Debug)]
pub(in crate::llama) struct Pulse {
    /// Observed nodes from one answer to the next.
    spacing: u32,
    /// Nodes since the last answer.
    nodes: u32,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { spacing: 1, nodes: 0 }
    }
}

impl Pulse {
    /// Counts an observed node in a server's memory. After every `spacing` nodes, waits for the server's answer.
    ///
    /// # Safety
    /// `node` is a node of the graph that is being computed, sent to its server, and nothing writes its fields.
    pub(in crate::llama) unsafe fn computed(&mut self, node: NonNull<sys::ggml_tensor>) {
        self.nodes += 1;
        if self.nodes < self.spacing {
            return;
        }
        // SAFETY: by contract.
        let tensor = unsafe { node.as_ref() };
        // SAFETY: reads shape and type of a valid tensor.
        let bytes = unsafe { sys::ggml_nbytes(node.as_ptr()) }.min(size_of::<u32>());
        if tensor.data.is_null() || buffer_of(tensor).is_null() || bytes == 0 {
            return;
        }
        let started = Instant::now();
        let mut read = 0_u32;
        // SAFETY: the tensor is allocated (checked) and has at least `bytes` bytes; `read` has room for them.
        unsafe { sys::ggml_backend_tensor_get(node.as_ptr(), (&raw mut read).cast::<c_void>(), 0, bytes) };
        self.answered(started.elapsed());
    }

    fn answered(&mut self, waited: Duration) {
        self.nodes = 0;
        if waited < TOO_OFTEN {
            self.spacing = (self.spacing * 2).min(MAX_SPACING);
        } else if waited > TOO_SELDOM {
            self.spacing = (self.spacing / 2).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_server_is_asked_seldom_and_a_slow_one_after_each_node() {
        let mut pulse = Pulse::default();
        for _ in 0..20 {
            pulse.answered(Duration::from_millis(1));
        }
        assert_eq!(pulse.spacing, MAX_SPACING);
        for _ in 0..20 {
            pulse.answered(Duration::from_secs(5));
        }
        assert_eq!(pulse.spacing, 1);
        pulse.answered(Duration::from_secs(2));
        assert_eq!(pulse.spacing, 1);
    }
}
