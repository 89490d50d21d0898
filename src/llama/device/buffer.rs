//! Tensors that stay on a device.

use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use crate::llama::Device;
use crate::llama::graph_builder::Node;
use crate::llama::graph_runner::read_f32;
use crate::llama::log::with_reason;

/// f32 matrices in device memory, with any values at first.
#[derive(Debug)]
pub(super) struct DeviceBuffer {
    ctx: NonNull<sys::ggml_context>,
    buffer: NonNull<sys::ggml_backend_buffer>,
    matrices: Vec<Node>,
    /// Offset of each matrix in bytes.
    offsets: Vec<usize>,
    /// The matrices and what lies between them.
    all: Node,
}

// SAFETY: this value owns the context and the buffer, and ggml binds neither to a thread.
unsafe impl Send for DeviceBuffer {}

impl DeviceBuffer {
    /// Allocates one matrix per shape (row length, rows). Returns the size that was needed if there is no room.
    pub(super) fn new(device: Device, shapes: &[[i64; 2]]) -> Result<Self, String> {
        // SAFETY: the device is valid, and so is its buffer type.
        let (buffer_type, alignment) = unsafe {
            let buffer_type = sys::ggml_backend_dev_buffer_type(device.as_ptr());
            (buffer_type, sys::ggml_backend_buft_get_alignment(buffer_type))
        };
        let mut size = 0_usize;
        let offsets = shapes.iter().map(|[n0, n1]| {
            let offset = size.next_multiple_of(alignment);
            size = offset + (n0 * n1) as usize * size_of::<f32>();
            offset
        });
        let offsets: Vec<usize> = offsets.collect();
        // SAFETY: reads a constant.
        let mem_size = (shapes.len() + 2) * unsafe { sys::ggml_tensor_overhead() };
        let params = sys::ggml_init_params { mem_size, mem_buffer: std::ptr::null_mut(), no_alloc: true };
        // SAFETY: ggml allocates the memory; the context is ours.
        let ctx = NonNull::new(unsafe { sys::ggml_init(params) }).ok_or("ggml has no room for tensors")?;
        // SAFETY: the buffer type is valid. The buffer is ours.
        let (buffer, reason) = with_reason(|| unsafe { sys::ggml_backend_buft_alloc_buffer(buffer_type, size) });
        let Some(buffer) = NonNull::new(buffer) else {
            // SAFETY: the context is ours and used nowhere else.
            unsafe { sys::ggml_free(ctx.as_ptr()) };
            return Err(format!("there is no room on it for {:.1} MiB: {reason}", size as f64 / f64::from(1 << 20)));
        };
        let matrix = |offset: usize, n0: i64, n1: i64| {
            // SAFETY: the context has room for one tensor per shape and one more, so none is null. The tensor lies within
            // the buffer, since `size` includes it.
            unsafe {
                let tensor = NonNull::new(sys::ggml_new_tensor_2d(ctx.as_ptr(), sys::GGML_TYPE_F32, n0, n1))
                    .expect("the context has room");
                let base = sys::ggml_backend_buffer_get_base(buffer.as_ptr()).cast::<u8>();
                sys::ggml_backend_tensor_alloc(buffer.as_ptr(), tensor.as_ptr(), base.add(offset).cast());
                Node(tensor)
            }
        };
        let all = matrix(0, (size / size_of::<f32>()) as i64, 1);
        let matrices = offsets.iter().zip(shapes).map(|(&offset, &[n0, n1])| matrix(offset, n0, n1)).collect();
        Ok(Self { ctx, buffer, matrices, offsets, all })
    }

    pub(super) fn get(&self, i: usize) -> Node {
        self.matrices[i]
    }

    /// Copies all matrices from the device, in one transfer.
    pub(super) fn read(&self) -> Vec<Vec<f32>> {
        let all = read_f32(self.all);
        let values = |(&matrix, &offset): (&Node, &usize)| {
            let from = offset / size_of::<f32>();
            all[from..][..matrix.ne().iter().product::<i64>() as usize].to_vec()
        };
        self.matrices.iter().zip(&self.offsets).map(values).collect()
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
