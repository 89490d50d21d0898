//! A graph node as a product: shapes and pointers of its operands.

use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::kernel::Kernel;
use super::kind::{Kind, Place, Weights};

/// Fewest rows of activations. With fewer, laying out the weights would cost more than the tiles gain.
const LEAST_ROWS: i64 = 8;

/// A product that a kernel computes. The pointers are those of the node.
pub(super) struct Product {
    pub(super) kernel: &'static Kernel,
    pub(super) weights: Weights,
    /// Values per row.
    pub(super) k: usize,
    /// Rows of weights per matrix.
    pub(super) rows: usize,
    /// The first row of the first matrix, bytes per row, bytes per matrix.
    pub(super) matrix: *const u8,
    pub(super) row_bytes: usize,
    pub(super) matrix_bytes: usize,
    /// Number of matrices: the number of experts, or 1.
    pub(super) matrices: usize,
    pub(super) input: Input,
    /// Experts per token; `None` for a dense product.
    pub(super) routes: Option<Routes>,
    pub(super) output: *mut u8,
    /// Bytes from one column of the result to the next, and from one token to the next.
    pub(super) output_bytes: [usize; 2],
}

/// Rows of activations, f32.
#[derive(Clone, Copy)]
pub(super) struct Input {
    /// The tensor that holds the activations, before any reshape.
    pub(super) tensor: *const sys::ggml_tensor,
    pub(super) data: *const u8,
    /// Rows: per token, and tokens.
    pub(super) rows: [usize; 2],
    /// Bytes from row to row, and from token to token.
    pub(super) bytes: [usize; 2],
}

/// Experts per token.
#[derive(Clone, Copy)]
pub(super) struct Routes {
    data: *const u8,
    pub(super) experts_per_token: usize,
    pub(super) tokens: usize,
    bytes: [usize; 2],
}

impl Product {
    /// Returns true if this backend computes the node.
    ///
    /// # Safety
    /// `node` is a node of a graph, its sources are alive.
    pub(super) unsafe fn is_taken(node: &sys::ggml_tensor) -> bool {
        // SAFETY: our own contract.
        let Some((kind, weight)) = (unsafe { kind_of(node) }) else { return false };
        // SAFETY: a weight's buffer, if it has one, lives as long as the weight.
        let in_model = !weight.buffer.is_null()
            && unsafe { sys::ggml_backend_buffer_get_usage(weight.buffer) } == sys::GGML_BACKEND_BUFFER_USAGE_WEIGHTS;
        // SAFETY: our own contract; kind_of() has found the second source.
        in_model && kind.kernel().is_some_and(|kernel| unsafe { fits(kernel, weight, &*node.src[1]) })
    }

    /// The kernel that computes the kind of product that `node` is.
    ///
    /// # Safety
    /// As for [`is_taken`](Self::is_taken).
    pub(super) unsafe fn kernel(node: &sys::ggml_tensor) -> Option<&'static Kernel> {
        // SAFETY: our own contract.
        unsafe { kind_of(node) }?.0.kernel()
    }

    /// The product that `node` is, computed with `kernel`.
    ///
    /// # Safety
    /// As for [`is_taken`](Self::is_taken); the kernel is one for the kind of the node.
    pub(super) unsafe fn new(node: &sys::ggml_tensor, kernel: &'static Kernel) -> Option<Self> {
        // SAFETY: our own contract.
        let (kind, weight) = unsafe { kind_of(node)? };
        // SAFETY: kind_of() has found these sources; they live as long as the node.
        let input = unsafe { &*node.src[1] };
        let routes = kind.routed.then(|| {
            // SAFETY: as above.
            let ids = unsafe { &*node.src[2] };
            Routes {
                data: ids.data.cast(),
                experts_per_token: ids.ne[0] as usize,
                tokens: ids.ne[1] as usize,
                bytes: [ids.nb[0], ids.nb[1]],
            }
        });
        if weight.data.is_null() || input.data.is_null() || node.data.is_null() || !fits(kernel, weight, input) {
            return None;
        }
        Some(Self {
            kernel,
            weights: kind.weights,
            k: weight.ne[0] as usize,
            rows: weight.ne[1] as usize,
            matrix: weight.data.cast(),
            row_bytes: kind.weights.row_bytes(weight.ne[0] as usize, weight.nb[1]),
            matrix_bytes: weight.nb[2],
            matrices: weight.ne[2] as usize,
            input: Input {
                // SAFETY: our own contract: the sources of a live tensor are alive.
                tensor: unsafe { identity(input) },
                data: input.data.cast(),
                rows: [input.ne[1] as usize, input.ne[2] as usize],
                bytes: [input.nb[1], input.nb[2]],
            },
            routes,
            output: node.data.cast(),
            output_bytes: [node.nb[1], node.nb[2]],
        })
    }
}

impl Routes {
    /// The expert that the token is routed to in the slot.
    ///
    /// # Safety
    /// Both are in range, and the tensor is computed.
    pub(super) unsafe fn expert(&self, token: usize, slot: usize) -> i32 {
        // SAFETY: by contract the tensor has an i32 for this token and slot.
        unsafe { self.data.add(token * self.bytes[1] + slot * self.bytes[0]).cast::<i32>().read_unaligned() }
    }
}

/// Returns true if the kernel computes products of this shape.
fn fits(kernel: &Kernel, weight: &sys::ggml_tensor, input: &sys::ggml_tensor) -> bool {
    kernel.fits(weight.ne[0] as usize, weight.ne[1] as usize, (input.ne[1] * input.ne[2]) as usize)
        && (kernel.convert_four.is_none() || input.nb[1] as i64 == 4 * input.ne[0])
}

/// Returns the kind of product and the weight of a node, if kernels can compute its shape.
///
/// # Safety
/// `node` and its sources are alive.
unsafe fn kind_of(node: &sys::ggml_tensor) -> Option<(Kind, &sys::ggml_tensor)> {
    // SAFETY: by contract.
    let source = |i: usize| NonNull::new(node.src[i]).map(|source| unsafe { source.as_ref() });
    let routed = match node.op {
        // The second parameter says that a product is a Hadamard transform, which ggml computes in another way.
        sys::GGML_OP_MUL_MAT if node.op_params[1] == 0 => false,
        sys::GGML_OP_MUL_MAT_ID => true,
        _ => return None,
    };
    let (weight, input) = (source(0)?, source(1)?);
    let place = if weight.buffer.is_null() {
        Place::Memory
    } else {
        // SAFETY: by contract the weight is alive, so its buffer is.
        Place::of(unsafe { sys::ggml_backend_buffer_get_type(weight.buffer) })
    };
    let kind = Kind { weights: Weights::of(weight.type_, place)?, routed };
    // SAFETY: reads constants about a type.
    let weight_bytes = unsafe { sys::ggml_type_size(weight.type_) };
    let floats = |t: &sys::ggml_tensor| {
        t.type_ == sys::GGML_TYPE_F32 && t.nb[0] == 4 && t.nb[1].is_multiple_of(4) && t.nb[2].is_multiple_of(4)
    };
    let plain = weight.extra.is_null() == (place == Place::Memory) && weight.nb[0] == weight_bytes && weight.ne[3] == 1;
    let fits = plain && floats(input) && floats(node) && input.ne[0] == weight.ne[0] && node.ne[0] == weight.ne[1];
    let shape = if routed {
        let ids = source(2)?;
        ids.type_ == sys::GGML_TYPE_I32
            && ids.ne[1] >= LEAST_ROWS
            && ids.ne[1] == input.ne[2]
            && input.ne[1] >= 1
            && ids.ne[2] == 1
            && ids.ne[3] == 1
            && input.ne[3] == 1
            && node.ne[1] == ids.ne[0]
            && node.ne[2] == ids.ne[1]
    } else {
        let flat = |t: &sys::ggml_tensor| t.ne[2] == 1 && t.ne[3] == 1;
        flat(weight) && flat(input) && flat(node) && input.ne[1] >= LEAST_ROWS && node.ne[1] == input.ne[1]
    };
    (fits && shape).then_some((kind, weight))
}

/// Returns the tensor before any reshapes. Memory is no identity: tensors may share it.
///
/// # Safety
/// `tensor` and what it was made of are alive.
unsafe fn identity(mut tensor: &sys::ggml_tensor) -> *const sys::ggml_tensor {
    while tensor.op == sys::GGML_OP_RESHAPE {
        let Some(source) = NonNull::new(tensor.src[0]) else { break };
        // SAFETY: by contract.
        tensor = unsafe { source.as_ref() };
    }
    tensor
}
