//! A tensor's description: name, operation, type, shape, sources, memory. For its data see `data.rs`.

use std::ffi::{CStr, c_char};
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::Device;

/// The operation of a graph node, as far as this crate distinguishes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Op {
    /// `dst = src0ᵀ · src1`.
    MulMat,
    /// The same with a matrix per row, chosen by the ids in `src2`: routed experts.
    MulMatId,
    /// Any other operation.
    Other,
}

/// The description of a tensor of a graph that is being computed, borrowed for one call of an
/// [`Observer`](super::Observer). It has no method that reads the tensor's data, since there may be none yet:
///
/// ```compile_fail
/// # use llama_imatrix::llama::TensorInfo;
/// fn reads(node: TensorInfo<'_>) -> Option<&[f32]> {
///     node.as_f32()
/// }
/// ```
///
/// Shapes are ggml's: `ne[0]` is the length of a row, the fastest dimension; `nb[i]` the step in bytes along
/// dimension `i`.
#[derive(Clone, Copy)]
pub struct TensorInfo<'a> {
    ptr: NonNull<sys::ggml_tensor>,
    graph: PhantomData<&'a sys::ggml_tensor>,
}

/// Returns a tensor's buffer, or that of the tensor it views; null if it is not allocated yet.
pub(super) fn buffer_of(tensor: &sys::ggml_tensor) -> sys::ggml_backend_buffer_t {
    // SAFETY: a view's source lives as long as the view.
    unsafe { tensor.view_src.as_ref() }.unwrap_or(tensor).buffer
}

/// Returns true if a tensor is in a buffer of weights and no operation computes it.
pub(super) fn is_weight(tensor: &sys::ggml_tensor) -> bool {
    let buffer = buffer_of(tensor);
    // SAFETY: the buffer, where there is one, lives as long as the tensor.
    let usage = unsafe {
        if buffer.is_null() {
            return false;
        }
        sys::ggml_backend_buffer_get_usage(buffer)
    };
    usage == sys::GGML_BACKEND_BUFFER_USAGE_WEIGHTS && tensor.op == sys::GGML_OP_NONE
}

/// Returns the device of a tensor's buffer type.
pub(super) fn device_of(tensor: &sys::ggml_tensor) -> Option<Device> {
    let buffer = NonNull::new(buffer_of(tensor))?;
    // SAFETY: the buffer lives as long as the tensor.
    unsafe { Device::of_buffer_type(sys::ggml_backend_buffer_get_type(buffer.as_ptr())) }
}

impl<'a> TensorInfo<'a> {
    /// # Safety
    /// `ptr`, if not null, is a ggml tensor that is alive during `'a`, and so are its sources, their sources and the
    /// tensors that they view. Nobody writes their fields while a reference from this value is in use.
    pub(super) unsafe fn new(ptr: *mut sys::ggml_tensor) -> Option<Self> {
        NonNull::new(ptr).map(|ptr| Self { ptr, graph: PhantomData })
    }

    pub(super) fn raw(self) -> &'a sys::ggml_tensor {
        // SAFETY: by the contract of new() the tensor is alive, and nobody writes it while the reference is in use.
        unsafe { self.ptr.as_ref() }
    }

    /// Identifies the tensor during one evaluation. Later evaluations may use the same number for other tensors.
    #[must_use]
    pub(crate) fn id(self) -> usize {
        self.ptr.as_ptr() as usize
    }

    pub(super) fn as_ptr(self) -> NonNull<sys::ggml_tensor> {
        self.ptr
    }

    /// Returns the tensor's name, such as `blk.0.attn_q.weight`, up to the first byte that is not UTF-8.
    #[must_use]
    pub fn name(self) -> &'a str {
        let name = &self.raw().name;
        // SAFETY: c_char and u8 have the same size and alignment; the length is the array's.
        let bytes = unsafe { std::slice::from_raw_parts(name.as_ptr().cast::<u8>(), name.len()) };
        let bytes = bytes.split(|&b| b == 0).next().unwrap_or_default();
        std::str::from_utf8(bytes).or_else(|e| std::str::from_utf8(&bytes[..e.valid_up_to()])).unwrap_or_default()
    }

    /// Returns the name of the original if the tensor is a copy that the scheduler made: `blk.0.attn_k.weight` for
    /// `CUDA0#blk.0.attn_k.weight#0`.
    #[must_use]
    pub(crate) fn base_name(self) -> &'a str {
        weight_name(self.name())
    }

    /// Returns the operation that computes this tensor.
    #[must_use]
    pub fn op(self) -> Op {
        match self.raw().op {
            sys::GGML_OP_MUL_MAT => Op::MulMat,
            sys::GGML_OP_MUL_MAT_ID => Op::MulMatId,
            _ => Op::Other,
        }
    }

    /// Returns source `i` of the operation, if it has one.
    #[must_use]
    pub fn src(self, i: usize) -> Option<Self> {
        let ptr = *self.raw().src.get(i)?;
        // SAFETY: by the contract of new(), which covers sources of sources.
        unsafe { Self::new(ptr) }
    }

    /// Number of elements along each dimension.
    #[must_use]
    pub fn ne(self) -> [i64; 4] {
        self.raw().ne
    }

    /// Bytes from one element to the next along each dimension.
    #[must_use]
    pub fn nb(self) -> [usize; 4] {
        self.raw().nb
    }

    /// Returns true if elements are 32-bit floats.
    #[must_use]
    pub fn is_f32(self) -> bool {
        self.raw().type_ == sys::GGML_TYPE_F32
    }

    /// Returns true if elements are 32-bit integers.
    #[must_use]
    pub(crate) fn is_i32(self) -> bool {
        self.raw().type_ == sys::GGML_TYPE_I32
    }

    /// Bytes from the first element to the end of the last, gaps included.
    #[must_use]
    pub fn n_bytes(self) -> usize {
        // SAFETY: reads the shape and type of a live tensor.
        unsafe { sys::ggml_nbytes(self.ptr.as_ptr()) }
    }

    /// Returns its buffer; null if it is not allocated yet.
    pub(super) fn buffer(self) -> sys::ggml_backend_buffer_t {
        buffer_of(self.raw())
    }

    /// Returns true if it is in a buffer of weights, which lives as long as the model, and no operation computes it.
    pub(super) fn is_weight(self) -> bool {
        is_weight(self.raw())
    }

    /// Returns true if its buffer is in host memory.
    #[must_use]
    pub(crate) fn is_on_host(self) -> bool {
        let buffer = self.buffer();
        // SAFETY: the buffer, where there is one, lives as long as the graph.
        !buffer.is_null() && unsafe { sys::ggml_backend_buffer_is_host(buffer) }
    }

    /// Number of elements.
    #[must_use]
    pub fn n_elements(self) -> usize {
        self.ne().iter().map(|&n| usize::try_from(n).unwrap_or(0)).product()
    }

    /// ggml's name of the elements' type, such as `f32`, `q4_K` or `iq2_xxs`.
    #[must_use]
    pub fn type_name(self) -> &'static str {
        // SAFETY: the type is that of a live tensor; names are string literals.
        unsafe { text(sys::ggml_type_name(self.raw().type_)) }
    }

    /// ggml's name of the operation, such as `MUL_MAT`, `RMS_NORM`, or `SILU` for a unary one.
    #[must_use]
    pub fn op_name(self) -> &'static str {
        // SAFETY: reads the operation of a live tensor; names are string literals.
        unsafe { text(sys::ggml_op_desc(self.raw())) }
    }

    /// Returns the tensor that this one is a view of.
    #[must_use]
    pub(crate) fn view_src(self) -> Option<Self> {
        // SAFETY: by the contract of new(), which covers the tensors that are viewed.
        unsafe { Self::new(self.raw().view_src) }
    }

    /// Returns the name of its buffer type, such as `CPU`, `CPU_Mapped`, `CUDA0` or `RPC0[host:port]`. `None` if it has
    /// no memory.
    #[must_use]
    pub fn buffer_name(self) -> Option<String> {
        let buffer = self.buffer();
        if buffer.is_null() {
            return None;
        }
        // SAFETY: the buffer lives as long as the tensor; its type's name is NUL-terminated and copied here.
        unsafe {
            let name = sys::ggml_backend_buft_name(sys::ggml_backend_buffer_get_type(buffer));
            (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
        }
    }
}

impl fmt::Debug for TensorInfo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TensorInfo")
            .field("name", &self.name())
            .field("op", &self.op())
            .field("ne", &self.ne())
            .finish()
    }
}

/// Returns the weight's name in the name of a copy that the scheduler made, `backend#name#copy`.
fn weight_name(tensor: &str) -> &str {
    match tensor.split_once('#') {
        None => tensor,
        Some((_, rest)) => rest.split_once('#').map_or(rest, |(name, _)| name),
    }
}

/// # Safety
/// `text`, if not null, is NUL-terminated and lives as long as the process.
unsafe fn text(text: *const c_char) -> &'static str {
    if text.is_null() {
        return "unknown";
    }
    // SAFETY: our own contract.
    unsafe { CStr::from_ptr(text) }.to_str().unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::weight_name;

    #[test]
    fn base_names_omit_the_backend_and_the_copy() {
        assert_eq!(weight_name("CUDA0#blk.0.attn_k.weight#0"), "blk.0.attn_k.weight");
        assert_eq!(weight_name("CUDA0#blk.0.attn_k.weight"), "blk.0.attn_k.weight");
        assert_eq!(weight_name("blk.0.attn_k.weight"), "blk.0.attn_k.weight");
        assert_eq!(weight_name("a##b"), "");
    }
}
