//! Tensors that stay on a device.

use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use crate::llama::Device;
use crate::llama::graph_builder::Node;
use crate::llama::log::with_reason;

/// f32 matrices in device memory, zero at first.
#[derive(Debug)]
pub(super) struct DeviceBuffer {
    ctx: NonNull<sys::ggml_context>,
    buffer: NonNull<sys::ggml_backend_buffer>,
    nodes: Vec<Node>,
}

// SAFETY: this value owns the context and the buffer, and ggml binds neither to a thread.
unsafe impl Send for DeviceBuffer {}

impl DeviceBuffer {
    /// Allocates one matrix per shape (row length, rows). Returns the size that was needed if there is no room.
    pub(super) fn new(device: Device, shapes: &[[i64; 2]]) -> Result<Self, String> {
        // SAFETY: reads a constant.
        let mem_size = (shapes.len() + 1) * unsafe { sys::ggml_tensor_overhead() };
        let params = sys::ggml_init_params { mem_size, mem_buffer: std::ptr::null_mut(), no_alloc: true };
        // SAFETY: ggml allocates the memory; the context is ours.
        let ctx = NonNull::new(unsafe { sys::ggml_init(params) }).ok_or("ggml has no room for tensors")?;
        let tensors = shapes.iter().filter_map(|&[n0, n1]| {
            // SAFETY: the context has room for one tensor per shape.
            NonNull::new(unsafe { sys::ggml_new_tensor_2d(ctx.as_ptr(), sys::GGML_TYPE_F32, n0, n1) }).map(Node)
        });
        let nodes: Vec<Node> = tensors.collect();
        // SAFETY: the device and the context are valid, and the tensors are not allocated yet. The buffer is ours.
        let (buffer, reason) = with_reason(|| unsafe {
            sys::ggml_backend_alloc_ctx_tensors_from_buft(
                ctx.as_ptr(),
                sys::ggml_backend_dev_buffer_type(device.as_ptr()),
            )
        });
        let Some(buffer) = NonNull::new(buffer) else {
            // SAFETY: the context is ours and used nowhere else.
            unsafe { sys::ggml_free(ctx.as_ptr()) };
            let bytes = shapes.iter().map(|[n0, n1]| n0 * n1 * 4).sum::<i64>();
            return Err(format!("there is no room on it for {:.1} MiB: {reason}", bytes as f64 / f64::from(1 << 20)));
        };
        let new = Self { ctx, buffer, nodes };
        new.clear();
        Ok(new)
    }

    pub(super) fn get(&self, i: usize) -> Node {
        self.nodes[i]
    }

    /// Sets all values to zero.
    pub(super) fn clear(&self) {
        // SAFETY: the buffer is ours.
        unsafe { sys::ggml_backend_buffer_clear(self.buffer.as_ptr(), 0) };
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        // SAFETY: both are ours and freed once.
        unsafe {
            sys::ggml_backend_buffer_free(self.buffer.as_ptr());
            sys::ggml_free(self.ctx.as_ptr());
        }
    }
}
