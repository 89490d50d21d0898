//! Activations as columns: converted by ggml to the type that it multiplies with, then laid out for a kernel. Products
//! that read the same activations share them: query, key and value; gate and up; all experts.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use llama_cpp_sys_2 as sys;

use super::cpu;
use super::memory::{Bytes, Shared};
use super::product::Product;
use super::team;

/// Columns of one input.
#[derive(Default)]
pub(super) struct Columns {
    bytes: Bytes,
    stride: usize,
    /// A row as ggml converts it, per thread.
    converted: Vec<Bytes>,
    held: Option<Held>,
    /// True if the columns keep ggml's layout because the kernel does not give ggml's bits for them.
    plain: bool,
}

/// The input whose columns are cached.
struct Held {
    key: Key,
    /// The products that have read them in this evaluation of a graph.
    readers: Vec<*const u8>,
}

#[derive(PartialEq, Eq)]
struct Key {
    tensor: *const sys::ggml_tensor,
    data: *const u8,
    rows: [usize; 2],
    bytes: [usize; 2],
    k: usize,
    kernel: &'static str,
}

/// Rows that a thread converts in turn.
const ROWS_AT_ONCE: usize = 4;

impl Columns {
    /// Drops the cached columns: the next evaluation may have other values in the same tensors.
    pub(super) fn forget(&mut self) {
        self.held = None;
    }

    /// Holds the columns of the product's input. Returns false if a thread panicked.
    ///
    /// # Safety
    /// The product is of a node whose sources are computed.
    pub(super) unsafe fn hold(&mut self, product: &Product, threads: usize) -> bool {
        let input = product.input;
        let key = Key {
            tensor: input.tensor,
            data: input.data,
            rows: input.rows,
            bytes: input.bytes,
            k: product.k,
            kernel: product.kernel.name,
        };
        // If a product comes again, another evaluation has begun, even if `forget` was not called.
        let shared = self.held.as_mut().filter(|held| held.key == key && !held.readers.contains(&product.matrix));
        if let Some(held) = shared {
            held.readers.push(product.matrix);
            return true;
        }
        self.held = None;
        // SAFETY: our own contract.
        let done =
            unsafe { self.convert(product, threads, false) && (!self.plain || self.convert(product, threads, true)) };
        if done {
            self.held = Some(Held { key, readers: vec![product.matrix] });
        }
        done
    }

    /// Converts all rows, and lays them out unless `plain`. Sets `self.plain` if the kernel does not have ggml's bits
    /// for them.
    ///
    /// # Safety
    /// As for [`hold`](Self::hold).
    unsafe fn convert(&mut self, product: &Product, threads: usize, plain: bool) -> bool {
        let (kernel, k, input) = (product.kernel, product.k, product.input);
        let rows = input.rows[0] * input.rows[1];
        let Some(type_) = product.weights.activations() else { return false };
        let Some(from_float) = cpu::traits(type_).and_then(|traits| traits.from_float) else { return false };
        // SAFETY: computes a size from constants.
        let converted_bytes = unsafe { sys::ggml_row_size(type_, k as i64) };
        let column_bytes = if plain { converted_bytes } else { (kernel.column_bytes)(k) };
        self.stride = column_bytes.next_multiple_of(64);
        self.bytes.at_least(self.stride * rows);
        self.converted.resize_with(threads.max(1), Bytes::default);
        for converted in &mut self.converted {
            converted.at_least(converted_bytes * ROWS_AT_ONCE);
        }
        let convert_four = kernel.convert_four.zip(cpu::convert_four());
        let next = AtomicUsize::new(0);
        let columns = Shared(self.bytes.as_mut_ptr());
        let converted: Vec<_> = self.converted.iter_mut().map(|bytes| Shared(bytes.as_mut_ptr())).collect();
        let data = Shared(input.data.cast_mut());
        let stride = self.stride;
        let faithful = AtomicBool::new(true);
        let done = team::run(threads, |thread, _| {
            let (columns, converted, data) = (columns.get(), converted[thread].get(), data.get());
            loop {
                let first = next.fetch_add(ROWS_AT_ONCE, Ordering::Relaxed);
                if first >= rows {
                    break;
                }
                if let Some((convert_four, ggml)) = convert_four {
                    // SAFETY: as below; the rows follow one another, and their number is a multiple of four.
                    unsafe {
                        let columns = [0, 1, 2, 3].map(|i| columns.add((first + i) * stride));
                        convert_four(ggml, data.add(first * input.bytes[0]).cast(), k, converted, columns);
                    }
                    continue;
                }
                for row in first..rows.min(first + ROWS_AT_ONCE) {
                    let (inner, outer) = (row % input.rows[0], row / input.rows[0]);
                    // SAFETY: by contract each row of the input has `k` floats. Each row is given out once, so only
                    // this thread writes its column. Each thread has its own number, so only this one uses `converted`.
                    unsafe {
                        let from = data.add(inner * input.bytes[0] + outer * input.bytes[1]);
                        let column = columns.add(row * stride);
                        let to = if plain { column } else { converted };
                        from_float(from.cast(), to.cast(), k as i64);
                        if !plain && !(kernel.prepare)(converted, k, column) {
                            faithful.store(false, Ordering::Relaxed);
                        }
                    }
                }
            }
        });
        self.plain = plain || !faithful.into_inner();
        done
    }

    /// Returns true if the columns keep ggml's layout, for ggml's `vec_dot`.
    pub(super) fn are_plain(&self) -> bool {
        self.plain
    }

    /// The first column, and bytes from one to the next.
    pub(super) fn layout(&self) -> (*const u8, usize) {
        (self.bytes.as_ptr(), self.stride)
    }
}
