//! Computes small graphs on a separate backend instance.

use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::Device;
use super::graph_builder::{Arena, GraphBuilder, Node};
use super::log::with_reason;
use super::test_lacks::is_lacked;

/// An instance of a device's backend, apart from the scheduler's. Both reach the same memory. `compute` returns once
/// the device is done, so the scheduler, which waits meanwhile, reads no unfinished results.
#[derive(Debug)]
pub(super) struct GraphRunner {
    device: Device,
    backend: NonNull<sys::ggml_backend>,
    allocator: NonNull<sys::ggml_gallocr>,
    arena: Arena,
}

// SAFETY: this value owns the backend, allocator and memory, and none is bound to a thread.
unsafe impl Send for GraphRunner {}

impl GraphRunner {
    /// Creates a backend for `device`. Returns `None` if ggml fails.
    pub(super) fn new(device: Device) -> Option<Self> {
        // SAFETY: the device is the registry's; null stands for its default parameters. The backend is ours.
        let backend = NonNull::new(unsafe { sys::ggml_backend_dev_init(device.as_ptr(), std::ptr::null()) })?;
        // SAFETY: the backend is valid.
        let allocator = unsafe { sys::ggml_gallocr_new(sys::ggml_backend_get_default_buffer_type(backend.as_ptr())) };
        let Some(allocator) = NonNull::new(allocator) else {
            // SAFETY: the backend is ours and used nowhere else.
            unsafe { sys::ggml_backend_free(backend.as_ptr()) };
            return None;
        };
        Some(Self { device, backend, allocator, arena: Arena::new() })
    }

    pub(super) fn device(&self) -> Device {
        self.device
    }

    /// Returns true if the device supports every operation of the graph that `build` makes.
    pub(super) fn supports(&mut self, build: impl FnOnce(&GraphBuilder<'_>)) -> bool {
        let backend = self.backend.as_ptr();
        let Some(builder) = self.arena.builder() else { return false };
        build(&builder);
        // SAFETY: both are valid; the call reads the shapes, types and buffers of the node and its sources.
        let supports = |node: Node| unsafe { sys::ggml_backend_supports_op(backend, node.0.as_ptr()) };
        builder.nodes().all(|node| supports(node) && !is_lacked(node.op_name()))
    }

    /// Computes a graph: `build` makes it, `fill` fills its inputs, `read` reads its results. Waits for the device.
    /// Returns the reason if ggml fails.
    pub(super) fn compute<T, R>(
        &mut self,
        build: impl FnOnce(&GraphBuilder<'_>) -> T,
        fill: impl FnOnce(&T),
        read: impl FnOnce(&T) -> R,
    ) -> Result<R, String> {
        let (backend, allocator) = (self.backend.as_ptr(), self.allocator.as_ptr());
        let builder = self.arena.builder().ok_or("ggml has no room for a graph")?;
        let built = build(&builder);
        let graph = builder.graph.as_ptr();
        // SAFETY: graph and allocator are ours. The leaves over other memory are allocated; this call allocates the
        // rest.
        let (allocated, reason) = with_reason(|| unsafe { sys::ggml_gallocr_alloc_graph(allocator, graph) });
        if !allocated {
            return Err(format!("there is no room on it for intermediate results: {reason}"));
        }
        fill(&built);
        // SAFETY: graph and backend are ours, and all tensors are allocated. Returns once the device is done.
        let (status, reason) = with_reason(|| unsafe { sys::ggml_backend_graph_compute(backend, graph) });
        if status != sys::GGML_STATUS_SUCCESS {
            return Err(format!("a graph could not be computed: {reason} (status {status})"));
        }
        Ok(read(&built))
    }

    /// Sets the number of threads, if the backend has that setting.
    pub(super) fn set_threads(&self, n_threads: usize) {
        // SAFETY: the function that a device registers under this name has this type; the backend is ours.
        unsafe {
            let registry = sys::ggml_backend_dev_backend_reg(self.device.as_ptr());
            let function = sys::ggml_backend_reg_get_proc_address(registry, c"ggml_backend_set_n_threads".as_ptr());
            if let Some(function) = NonNull::new(function) {
                let set: unsafe extern "C" fn(sys::ggml_backend_t, i32) = std::mem::transmute(function.as_ptr());
                set(self.backend.as_ptr(), n_threads as i32);
            }
        }
    }
}

impl Drop for GraphRunner {
    fn drop(&mut self) {
        // SAFETY: both are ours and freed once.
        unsafe {
            sys::ggml_gallocr_free(self.allocator.as_ptr());
            sys::ggml_backend_free(self.backend.as_ptr());
        }
    }
}

/// Copies a tensor's f32 elements from its device, waiting for it.
pub(super) fn read_f32(node: Node) -> Vec<f32> {
    let mut values = vec![0.0_f32; node.ne().iter().product::<i64>() as usize];
    read_f32_into(node, &mut values);
    values
}

/// Copies a tensor's f32 elements into `values`, which must have the tensor's length.
pub(super) fn read_f32_into(node: Node, values: &mut [f32]) {
    // SAFETY: callers pass tensors that they keep or that `want_to_read` has kept: allocated and contiguous. ggml
    // checks that the tensor has the bytes that are copied, and `values` has room for them.
    unsafe {
        debug_assert_eq!(sys::ggml_nbytes(node.0.as_ptr()), size_of_val(values));
        sys::ggml_backend_tensor_get(node.0.as_ptr(), values.as_mut_ptr().cast(), 0, size_of_val(values));
    }
}

/// Writes a tensor's elements to its device.
pub(super) fn write<T: Copy>(node: Node, values: &[T]) {
    // SAFETY: callers pass tensors of this element type that are allocated and contiguous. ggml checks that the tensor
    // has room for the bytes of `values`.
    unsafe {
        debug_assert_eq!(sys::ggml_nbytes(node.0.as_ptr()), size_of_val(values));
        sys::ggml_backend_tensor_set(node.0.as_ptr(), values.as_ptr().cast(), 0, size_of_val(values));
    }
}
