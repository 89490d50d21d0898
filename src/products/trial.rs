//! A random product, computed by ggml and by a kernel.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::time::Duration;

use llama_cpp_sys_2 as sys;

use crate::llama::{BufferType, Device, set_threads, without_details};

use super::kernel::Kernel;
use super::kind::{Kind, Weights};
use super::product::Product;
use super::state::State;
use super::types::{Outcome, Shape, Values};

/// Tensors of one product, in separate memory.
pub(super) struct Trial {
    kernel: &'static Kernel,
    weights: Weights,
    context: NonNull<sys::ggml_context>,
    backend: sys::ggml_backend_t,
    /// Of the weights if they are not in plain memory, and of all other tensors.
    buffers: [sys::ggml_backend_buffer_t; 2],
    graph: *mut sys::ggml_cgraph,
    node: *mut sys::ggml_tensor,
    state: State,
    threads: usize,
}

impl Trial {
    /// Allocates the tensors. Returns `None` if ggml cannot.
    pub(super) fn new(kind: Kind, kernel: &'static Kernel, shape: Shape, threads: usize) -> Option<Self> {
        let (k, rows, tokens) = (shape.k as i64, shape.rows as i64, shape.tokens as i64);
        let (experts, used) = (shape.experts.0 as i64, shape.experts.1 as i64);
        // SAFETY: the context is checked for null and large enough for five tensors and a graph. The shape is valid
        // (see `Shape::is_valid`), so the view of the ids lies within its tensor. `Trial` owns all of it and frees it
        // together.
        unsafe {
            let params = sys::ggml_init_params {
                mem_size: 16 * sys::ggml_tensor_overhead() + sys::ggml_graph_overhead(),
                mem_buffer: std::ptr::null_mut(),
                no_alloc: true,
            };
            let context = NonNull::new(sys::ggml_init(params))?;
            let c = context.as_ptr();
            let weight_type = kind.weights.type_();
            let node = if kind.routed {
                let weight = sys::ggml_new_tensor_3d(c, weight_type, k, rows, experts);
                let input =
                    sys::ggml_new_tensor_3d(c, sys::GGML_TYPE_F32, k, if shape.own_rows { used } else { 1 }, tokens);
                // As in a model, the ids are part of a larger tensor.
                let ids = sys::ggml_new_tensor_2d(c, sys::GGML_TYPE_I32, experts, tokens);
                let ids = sys::ggml_view_2d(c, ids, used, tokens, (*ids).nb[1], 0);
                sys::ggml_mul_mat_id(c, weight, input, ids)
            } else {
                let weight = sys::ggml_new_tensor_2d(c, weight_type, k, rows);
                let input = sys::ggml_new_tensor_2d(c, sys::GGML_TYPE_F32, k, tokens);
                sys::ggml_mul_mat(c, weight, input)
            };
            let graph = sys::ggml_new_graph(c);
            sys::ggml_build_forward_expand(graph, node);
            let start = |device: Device| sys::ggml_backend_dev_init(device.as_ptr(), std::ptr::null());
            let backend = Device::cpu().map_or(std::ptr::null_mut(), start);
            let mut state = State::new();
            state.set_threads(threads);
            let buffers = [std::ptr::null_mut(); 2];
            let weights = kind.weights;
            let mut trial = Self { kernel, weights, context, backend, buffers, graph, node, state, threads };
            trial.allocate().then_some(trial)
        }
    }

    /// Allocates the tensors. Returns false if there is no memory.
    fn allocate(&mut self) -> bool {
        // SAFETY: the tensors are ours and have no memory yet. ggml lays out the shapes that a kernel for such weights fits.
        unsafe {
            let Some(backend) = NonNull::new(self.backend) else { return false };
            set_threads(backend, self.threads as i32);
            if let Some(type_) = self.weights.place().buffer_type().map(BufferType::as_ptr) {
                let weight = (*self.node).src[0];
                let bytes = sys::ggml_backend_buft_get_alloc_size(type_, weight);
                let buffer = sys::ggml_backend_buft_alloc_buffer(type_, bytes);
                self.buffers[0] = buffer;
                if buffer.is_null() {
                    return false;
                }
                sys::ggml_backend_tensor_alloc(buffer, weight, sys::ggml_backend_buffer_get_base(buffer));
            }
            self.buffers[1] = sys::ggml_backend_alloc_ctx_tensors(self.context.as_ptr(), self.backend);
            !self.buffers[1].is_null()
        }
    }

    /// Fills the tensors. The same seed gives the same values.
    pub(super) fn fill(&mut self, values: Values, seed: u64) {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        // SAFETY: the tensors are ours, contiguous, allocated in host memory, and not in use.
        unsafe {
            let node = &*self.node;
            fill_weights(node.src[0], self.weights, values, &mut random);
            let input = &*node.src[1];
            let count = (input.ne[0] * input.ne[1] * input.ne[2]) as usize;
            let row = input.ne[0] as usize;
            let floats = std::slice::from_raw_parts_mut(input.data.cast::<f32>(), count);
            for row in floats.chunks_mut(row) {
                random.fill(row, values);
            }
            if let Some(ids) = node.src[2].as_ref() {
                fill_ids(ids, (*node.src[0]).ne[2] as usize, &mut random);
            }
        }
    }

    /// Computes the product both ways and compares.
    pub(super) fn run(&mut self) -> Option<Outcome> {
        // SAFETY: the tensors are ours, filled, and in host memory. The graph is computed before its result is read,
        // and nothing else uses the node. `compare` and the tests pass a kernel of the product's kind.
        unsafe {
            let node = &*self.node;
            let count = (node.ne[0] * node.ne[1] * node.ne[2]) as usize;
            let begin = cpu_time();
            if sys::ggml_backend_graph_compute(self.backend, self.graph) != sys::GGML_STATUS_SUCCESS {
                return None;
            }
            let ggml = cpu_time().saturating_sub(begin);
            let result = std::slice::from_raw_parts_mut(node.data.cast::<f32>(), count);
            let expected = result.to_vec();
            result.fill(f32::MAX);
            let begin = cpu_time();
            self.state.set_threads(self.threads);
            let product = Product::new(node, self.kernel)?;
            if !self.state.compute(&product) {
                return None;
            }
            let kernel = cpu_time().saturating_sub(begin);
            let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
            let found = std::slice::from_raw_parts(node.data.cast::<f32>(), count);
            let apart = found.iter().zip(&expected).filter(|&(&a, &b)| !same(a, b)).count();
            Some(Outcome { results: count, apart, ggml, kernel })
        }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        // SAFETY: all are ours and freed once; ggml accepts null for the buffer and the backend.
        unsafe {
            for buffer in self.buffers {
                sys::ggml_backend_buffer_free(buffer);
            }
            sys::ggml_backend_free(self.backend);
            sys::ggml_free(self.context.as_ptr());
        }
    }
}

/// Returns the CPU time of the calling thread.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes the time to a local.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Fills a weight with random values, quantized by ggml, or with random blocks of a K-quant.
///
/// # Safety
/// The tensor is allocated in host memory, is of this type, and nobody else uses it.
unsafe fn fill_weights(weight: *mut sys::ggml_tensor, weights: Weights, values: Values, random: &mut Random) {
    // SAFETY: by contract the weight is alive and can be written as a whole; a row has `nb[1]` bytes, which is what
    // quantize_chunk writes.
    unsafe {
        let k = (*weight).ne[0] as usize;
        let mut data = vec![0; sys::ggml_nbytes(weight)];
        let mut floats = vec![0.0_f32; k];
        for row in data.chunks_exact_mut((*weight).nb[1]) {
            if let Some(scales) = scales_of_block(weights) {
                row.chunks_exact_mut(sys::ggml_type_size((*weight).type_))
                    .for_each(|block| random.fill_block(block, scales, values));
                continue;
            }
            // The weights of a model are finite.
            random.fill(&mut floats, if values == Values::NotFinite { Values::Extreme } else { values });
            let to = row.as_mut_ptr().cast::<c_void>();
            sys::ggml_quantize_chunk((*weight).type_, floats.as_ptr(), to, 0, 1, k as i64, std::ptr::null());
        }
        // ggml logs each weight that it repacks.
        without_details(|| sys::ggml_backend_tensor_set(weight, data.as_ptr().cast(), 0, data.len()));
    }
}

/// Returns where a K-quant's block has its f16 scales. All its other bytes can have any value.
fn scales_of_block(weights: Weights) -> Option<&'static [usize]> {
    match weights {
        Weights::Q4K | Weights::Q4KRepacked | Weights::Q5K => Some(&[0, 2]),
        Weights::Q6K => Some(&[208]),
        Weights::Q8_0 | Weights::Q8_0Amx | Weights::F16 | Weights::F16Amx | Weights::Bf16 => None,
    }
}

/// Fills the ids with random experts, each at most once per token. Few experts get most tokens, and some get none.
///
/// # Safety
/// As for [`fill_weights`].
unsafe fn fill_ids(ids: &sys::ggml_tensor, experts: usize, random: &mut Random) {
    for token in 0..ids.ne[1] as usize {
        let mut order: Vec<i32> = (0..experts as i32).collect();
        for slot in 0..ids.ne[0] as usize {
            let left = experts - slot;
            let pick = slot + random.below(left).min(random.below(left));
            order.swap(slot, pick);
            // SAFETY: by contract the tensor has this slot.
            unsafe {
                let to = ids.data.cast::<u8>().add(token * ids.nb[1] + slot * ids.nb[0]);
                to.cast::<i32>().write_unaligned(order[slot]);
            }
        }
    }
}

/// Xorshift: reproducible, and good enough for operands.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        ((self.next() >> 33) as usize) % n.max(1)
    }

    /// Returns a number from -1 to 1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Returns a power of two, from the smallest subnormal number to nearly the largest number.
    fn power(&mut self) -> f32 {
        match self.below(250) as u32 {
            subnormal @ 0..23 => f32::from_bits(1 << subnormal),
            exponent => f32::from_bits((exponent - 22) << 23),
        }
    }

    /// Fills a block whose f16 scales begin at the bytes `scales`.
    fn fill_block(&mut self, block: &mut [u8], scales: &[usize], values: Values) {
        block.fill_with(|| self.next() as u8);
        for &at in scales {
            let scale = match values {
                // From 2^-8 to 2^-7.
                Values::Usual => 0x1c00 | self.next() as u16 & 0x83ff,
                // From zero to below 2.
                _ => self.next() as u16 & 0xbfff,
            };
            block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }

    fn fill(&mut self, row: &mut [f32], values: Values) {
        // One magnitude per row, or one per value.
        let (scale, apart) = match values {
            Values::Usual => (1.0, false),
            _ => (self.power(), self.below(2) == 0),
        };
        for value in row.iter_mut() {
            *value = self.unit() * if apart { self.power() } else { scale };
            if values != Values::Usual && self.below(8) == 0 {
                *value = 0.0;
            }
        }
        if values == Values::NotFinite && self.below(2) == 0 {
            for _ in 0..=self.below(4) {
                let at = self.below(row.len());
                row[at] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX][self.below(4)];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llama::Backend;

    #[test]
    fn activations_are_shared_until_the_next_evaluation() {
        let _ = Backend::init();
        let kind = Kind::ALL[1];
        let Some(kernel) = kind.kernels().next() else { return };
        let shape = Shape { k: 64, rows: 9, tokens: 8, experts: (1, 1), own_rows: false };
        let mut trial = Trial::new(kind, kernel, shape, 1).unwrap();
        trial.fill(Values::Usual, 1);
        let node = trial.node;
        // Another product with the same activations: all rows of the weights but the first ones.
        let results = |state: &mut State, from: usize| {
            // SAFETY: the tensors are the trial's, which is alive and not in use.
            unsafe {
                let mut product = Product::new(&*node, kernel).unwrap();
                product.matrix = product.matrix.add(from * product.row_bytes);
                product.rows -= from;
                assert!(state.compute(&product));
                std::slice::from_raw_parts((*node).data.cast::<f32>(), shape.rows - from).to_vec()
            }
        };
        let state = &mut trial.state;
        state.set_threads(1);
        let first = results(state, 0);
        // SAFETY: as above.
        unsafe {
            let input = &*(*node).src[1];
            let values = std::slice::from_raw_parts_mut(input.data.cast::<f32>(), shape.k * shape.tokens);
            for value in values {
                *value = -*value;
            }
        }
        assert_eq!(results(state, 1), first[1..], "within an evaluation");
        state.set_threads(1);
        let negative: Vec<f32> = first[2..].iter().map(|value| -value).collect();
        assert_eq!(results(state, 2), negative, "in the next one");
    }
}
