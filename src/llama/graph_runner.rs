//! Computes small graphs on a separate backend instance.

use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::Device;
use super::graph_builder::{Arena, GraphBuilder, MAX_TENSORS, Node};
use super::log::with_reason;
use super::test_lacks::is_lacked;

/// An instance of a device's backend, apart from the scheduler's. Both reach the same memory. `compute` returns once
/// the device is done, so the scheduler, which waits meanwhile, reads no unfinished results.
#[derive(Debug)]
pub(super) struct GraphRunner {
    device: Device,
    backend: NonNull<sys::ggml_backend>,
    allocator: NonNull<sys::ggml_gallocr>,
    /// On the CPU: has the products with weights computed as in llama.cpp's own graphs.
    scheduler: Option<Scheduler>,
    arena: Arena,
}

/// ggml's scheduler of a CPU backend and of the backend of [`products`](crate::products).
#[derive(Debug)]
struct Scheduler {
    sched: NonNull<sys::ggml_backend_sched>,
    products: NonNull<sys::ggml_backend>,
    n_threads: i32,
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
        let products = device.is_cpu().then(Device::products).flatten();
        // SAFETY: the backend is valid, and freed after the scheduler.
        let scheduler = products.and_then(|products| unsafe { Scheduler::new(products, backend) });
        Some(Self { device, backend, allocator, scheduler, arena: Arena::new() })
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
        let (allocated, reason) = with_reason(|| unsafe {
            match &self.scheduler {
                Some(scheduler) => scheduler.allocate(graph),
                None => sys::ggml_gallocr_alloc_graph(allocator, graph),
            }
        });
        if !allocated {
            return Err(format!("there is no room on it for intermediate results: {reason}"));
        }
        fill(&built);
        // SAFETY: graph and backend are ours, and all tensors are allocated. Returns once the device is done.
        let (status, reason) = with_reason(|| unsafe {
            match &self.scheduler {
                Some(scheduler) => sys::ggml_backend_sched_graph_compute(scheduler.sched.as_ptr(), graph),
                None => sys::ggml_backend_graph_compute(backend, graph),
            }
        });
        if status != sys::GGML_STATUS_SUCCESS {
            return Err(format!("a graph could not be computed: {reason} (status {status})"));
        }
        Ok(read(&built))
    }

    /// Sets the number of threads, if the backend has that setting.
    pub(super) fn set_threads(&mut self, n_threads: usize) {
        let n_threads = n_threads as i32;
        // SAFETY: the backend is ours, so it is valid.
        unsafe { set_threads(self.backend, n_threads) };
        if let Some(scheduler) = &mut self.scheduler {
            scheduler.n_threads = n_threads;
        }
    }
}

impl Scheduler {
    /// Returns `None` if ggml fails.
    ///
    /// # Safety
    /// `cpu` is a CPU backend that outlives the scheduler.
    unsafe fn new(products: Device, cpu: NonNull<sys::ggml_backend>) -> Option<Self> {
        // SAFETY: the device is the registry's; null stands for its default parameters. The backend is ours.
        let products = NonNull::new(unsafe { sys::ggml_backend_dev_init(products.as_ptr(), std::ptr::null()) })?;
        let mut backends = [products.as_ptr(), cpu.as_ptr()];
        // SAFETY: both backends are valid and the last one is a CPU's, which ggml requires; null stands for their default
        // buffer types. Twice the nodes of a graph: ggml counts its leaves too.
        let sched = NonNull::new(unsafe {
            sys::ggml_backend_sched_new(backends.as_mut_ptr(), std::ptr::null_mut(), 2, 2 * MAX_TENSORS, false, false)
        });
        let Some(sched) = sched else {
            // SAFETY: the backend is ours and used nowhere else.
            unsafe { sys::ggml_backend_free(products.as_ptr()) };
            return None;
        };
        Some(Self { sched, products, n_threads: 1 })
    }

    /// Allocates what the graph lacks. Returns false if there is no memory.
    ///
    /// # Safety
    /// The graph is valid until it has been computed.
    unsafe fn allocate(&self, graph: *mut sys::ggml_cgraph) -> bool {
        // SAFETY: backend and scheduler are ours; the graph by contract. Setting the threads also makes the backend forget
        // the activations of the last graph: this one's may be at the same address.
        unsafe {
            set_threads(self.products, self.n_threads);
            sys::ggml_backend_sched_reset(self.sched.as_ptr());
            sys::ggml_backend_sched_alloc_graph(self.sched.as_ptr(), graph)
        }
    }
}

/// Sets the number of threads of a backend, if it has that setting.
///
/// # Safety
/// The backend is valid.
pub(crate) unsafe fn set_threads(backend: NonNull<sys::ggml_backend>, n_threads: i32) {
    // SAFETY: by contract.
    let device = Device::new(unsafe { sys::ggml_backend_get_device(backend.as_ptr()) });
    let Some(function) = device.and_then(|device| device.function(c"ggml_backend_set_n_threads")) else { return };
    // SAFETY: the function that a device registers under this name has this type; the backend by contract.
    unsafe {
        let set: unsafe extern "C" fn(sys::ggml_backend_t, i32) = std::mem::transmute(function.as_ptr());
        set(backend.as_ptr(), n_threads);
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        // SAFETY: both are ours and freed once.
        unsafe {
            sys::ggml_backend_sched_free(self.sched.as_ptr());
            sys::ggml_backend_free(self.products.as_ptr());
        }
    }
}

impl Drop for GraphRunner {
    fn drop(&mut self) {
        self.scheduler = None; // before the backend that it uses
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llama::Backend;

    const CHANNELS: usize = 64;
    const ROWS: usize = 16;

    /// Matrices of type `Q8_0`, marked as a model's weights.
    struct Weights {
        context: *mut sys::ggml_context,
        buffer: *mut sys::ggml_backend_buffer,
        matrices: [Node; 2],
    }

    impl Weights {
        fn new() -> Self {
            // SAFETY: the context has room for two tensors; the buffer holds both, and each row is written within it.
            unsafe {
                let context = sys::ggml_init(sys::ggml_init_params {
                    mem_size: 4 * sys::ggml_tensor_overhead(),
                    mem_buffer: std::ptr::null_mut(),
                    no_alloc: true,
                });
                let matrices = [(); 2].map(|()| {
                    let (k, rows) = (CHANNELS as i64, ROWS as i64);
                    Node(NonNull::new(sys::ggml_new_tensor_2d(context, sys::GGML_TYPE_Q8_0, k, rows)).unwrap())
                });
                let buffer_type = Device::cpu().unwrap().buffer_type().unwrap();
                let buffer = sys::ggml_backend_alloc_ctx_tensors_from_buft(context, buffer_type.as_ptr());
                sys::ggml_backend_buffer_set_usage(buffer, sys::GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
                for (i, matrix) in matrices.iter().enumerate() {
                    let values = floats(ROWS, i + 1);
                    let data = (*matrix.0.as_ptr()).data;
                    let (rows, k) = (ROWS as i64, CHANNELS as i64);
                    sys::ggml_quantize_chunk(sys::GGML_TYPE_Q8_0, values.as_ptr(), data, 0, rows, k, std::ptr::null());
                }
                Self { context, buffer, matrices }
            }
        }
    }

    impl Drop for Weights {
        fn drop(&mut self) {
            // SAFETY: both are ours and freed once.
            unsafe {
                sys::ggml_backend_buffer_free(self.buffer);
                sys::ggml_free(self.context);
            }
        }
    }

    fn floats(rows: usize, step: usize) -> Vec<f32> {
        (0..rows * CHANNELS).map(|i| ((i * (2 * step + 3)) % 17) as f32 / 8.0 - 1.0).collect()
    }

    fn product(runner: &mut GraphRunner, matrix: Node, rows: &[f32]) -> Vec<f32> {
        let build = |builder: &GraphBuilder<'_>| {
            let input = builder.input_rows(CHANNELS as i64, (rows.len() / CHANNELS) as i64);
            let product = builder.mul_mat(matrix, input);
            builder.want_to_read(product);
            (input, product)
        };
        runner.compute(build, |&(input, _)| write(input, rows), |&(_, product)| read_f32(product)).unwrap()
    }

    /// Both graphs have their input at the same address: what was prepared of the first must not serve the second.
    #[test]
    fn a_graph_does_not_read_the_activations_of_the_last_one() {
        let _ = Backend::init();
        crate::products::register();
        let weights = Weights::new();
        let mut runner = GraphRunner::new(Device::cpu().unwrap()).unwrap();
        let mut plain = GraphRunner::new(Device::cpu().unwrap()).unwrap();
        plain.scheduler = None;
        for (matrix, step) in [(0, 1), (1, 2), (0, 3), (0, 1)] {
            let (matrix, rows) = (weights.matrices[matrix], floats(9, step));
            assert_eq!(product(&mut runner, matrix, &rows), product(&mut plain, matrix, &rows), "rows of step {step}");
        }
    }
}
