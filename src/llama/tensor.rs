use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::Device;

/// The operation of a graph node, as far as this crate tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Op {
    /// `dst = src0ᵀ · src1`.
    MulMat,
    /// The same with a matrix for each row, chosen by the ids in `src2`: routed experts.
    MulMatId,
    /// Any other.
    Other,
}

/// A tensor of a graph that is being computed, borrowed for one call of an [`Observer`](super::Observer).
///
/// Shapes are ggml's: `ne[0]` is the length of a row, the fastest dimension; `nb[i]` the step in bytes along
/// dimension `i`.
#[derive(Clone, Copy)]
pub struct TensorRef<'a> {
    ptr: NonNull<sys::ggml_tensor>,
    graph: PhantomData<&'a sys::ggml_tensor>,
}

/// The buffer that a tensor lies in, its own or that of what it is a view of; null where there is none yet.
pub(super) fn buffer_of(tensor: &sys::ggml_tensor) -> sys::ggml_backend_buffer_t {
    // SAFETY: a view's source lives as long as the view.
    unsafe { tensor.view_src.as_ref() }.unwrap_or(tensor).buffer
}

/// The device whose memory a tensor lies in, as its buffer names it.
pub(super) fn device_of(tensor: &sys::ggml_tensor) -> Option<Device> {
    let buffer = NonNull::new(buffer_of(tensor))?;
    // SAFETY: the buffer lives as long as the tensor.
    unsafe { Device::of_buffer_type(sys::ggml_backend_buffer_get_type(buffer.as_ptr())) }
}

impl<'a> TensorRef<'a> {
    /// # Safety
    /// `ptr`, if not null, is a ggml tensor that nobody writes during `'a`, and so are its sources.
    pub(super) unsafe fn new(ptr: *mut sys::ggml_tensor) -> Option<Self> {
        NonNull::new(ptr).map(|ptr| Self { ptr, graph: PhantomData })
    }

    pub(super) fn raw(self) -> &'a sys::ggml_tensor {
        // SAFETY: new()'s contract: valid and unwritten during 'a.
        unsafe { self.ptr.as_ref() }
    }

    /// Which tensor of the graph this is: equal for the same tensor during one evaluation, reused in later ones.
    #[must_use]
    pub fn id(self) -> usize {
        self.ptr.as_ptr() as usize
    }

    pub(super) fn as_ptr(self) -> NonNull<sys::ggml_tensor> {
        self.ptr
    }

    /// The tensor's name, such as `blk.0.attn_q.weight`; cut at the first byte that is not UTF-8.
    #[must_use]
    pub fn name(self) -> &'a str {
        let name = &self.raw().name;
        // SAFETY: c_char and u8 have one size and alignment; the length is the array's.
        let bytes = unsafe { std::slice::from_raw_parts(name.as_ptr().cast::<u8>(), name.len()) };
        let bytes = bytes.split(|&b| b == 0).next().unwrap_or_default();
        std::str::from_utf8(bytes).or_else(|e| std::str::from_utf8(&bytes[..e.valid_up_to()])).unwrap_or_default()
    }

    /// The name without what the scheduler puts around a copy of it: `CUDA0#blk.0.attn_k.weight#0` is
    /// `blk.0.attn_k.weight`.
    #[must_use]
    pub fn base_name(self) -> &'a str {
        crate::collect::weight_name(self.name())
    }

    /// Whether it is written into the memory of another tensor, such as a cache, which may outlive the graph.
    pub(crate) fn writes_elsewhere(self) -> bool {
        const IN_PLACE: [sys::ggml_op; 5] =
            [sys::GGML_OP_NONE, sys::GGML_OP_VIEW, sys::GGML_OP_RESHAPE, sys::GGML_OP_PERMUTE, sys::GGML_OP_TRANSPOSE];
        let tensor = self.raw();
        !tensor.view_src.is_null() && !IN_PLACE.contains(&tensor.op)
    }

    /// The operation that computes this tensor.
    #[must_use]
    pub fn op(self) -> Op {
        match self.raw().op {
            sys::GGML_OP_MUL_MAT => Op::MulMat,
            sys::GGML_OP_MUL_MAT_ID => Op::MulMatId,
            _ => Op::Other,
        }
    }

    /// Source `i` of the operation, if it has one.
    #[must_use]
    pub fn src(self, i: usize) -> Option<TensorRef<'a>> {
        let ptr = *self.raw().src.get(i)?;
        // SAFETY: a node's sources live as long as the node does.
        unsafe { TensorRef::new(ptr) }
    }

    /// Elements along each dimension.
    #[must_use]
    pub fn ne(self) -> [i64; 4] {
        self.raw().ne
    }

    /// Bytes from one element to the next along each dimension.
    #[must_use]
    pub fn nb(self) -> [usize; 4] {
        self.raw().nb
    }

    /// Whether elements are 32-bit floats.
    #[must_use]
    pub fn is_f32(self) -> bool {
        self.raw().type_ == sys::GGML_TYPE_F32
    }

    /// Whether elements are 32-bit integers.
    #[must_use]
    pub fn is_i32(self) -> bool {
        self.raw().type_ == sys::GGML_TYPE_I32
    }

    /// Bytes from the first element to the end of the last, gaps included.
    #[must_use]
    pub fn n_bytes(self) -> usize {
        // SAFETY: reads shape and type of a valid tensor.
        unsafe { sys::ggml_nbytes(self.ptr.as_ptr()) }
    }

    /// The buffer it lies in; null where it has none yet.
    pub(super) fn buffer(self) -> sys::ggml_backend_buffer_t {
        buffer_of(self.raw())
    }

    /// Whether it lies in memory that this process can read.
    #[must_use]
    pub fn is_on_host(self) -> bool {
        let buffer = self.buffer();
        // SAFETY: the buffer, where there is one, lives as long as the graph.
        !buffer.is_null() && unsafe { sys::ggml_backend_buffer_is_host(buffer) }
    }

    /// The elements where they lie, if that is memory this process can read.
    ///
    /// `None` for a tensor on a device, one that is not [`is_f32`](Self::is_f32), or one not computed yet.
    #[must_use]
    pub fn as_f32(self) -> Option<&'a [f32]> {
        let raw = self.raw();
        // SAFETY: the buffer, where there is one, lives as long as the graph.
        let on_host = !raw.buffer.is_null() && unsafe { sys::ggml_backend_buffer_is_host(raw.buffer) };
        let data = raw.data.cast::<f32>();
        if !on_host || !self.is_f32() || data.is_null() || !data.is_aligned() {
            return None;
        }
        // SAFETY: a host buffer holds ggml_nbytes of this tensor from `data` on, aligned (checked), initialized once the
        // node is computed (which is when observers see it), and not written while the observer holds the graph.
        Some(unsafe { std::slice::from_raw_parts(data, self.n_bytes() / size_of::<f32>()) })
    }

    /// Copies 32-bit floats from wherever they lie, waiting for the device. `false` where the tensor holds others.
    #[must_use]
    pub fn copy_f32(self, into: &mut Vec<f32>) -> bool {
        self.is_f32() && self.copy(into)
    }

    /// Copies 32-bit integers from wherever they lie, waiting for the device. `false` where the tensor holds others.
    #[must_use]
    pub fn copy_i32(self, into: &mut Vec<i32>) -> bool {
        self.is_i32() && self.copy(into)
    }

    /// Appends these rows of a tensor without gaps, `ne[0]` values each, from wherever they lie. `false`, and nothing
    /// appended, where it is not f32, has gaps, is not computed, or has no such row.
    #[must_use]
    pub fn append_rows(self, rows: &[usize], into: &mut Vec<f32>) -> bool {
        let raw = self.raw();
        // SAFETY: reads shape and type of a valid tensor.
        let contiguous = unsafe { sys::ggml_is_contiguous(self.ptr.as_ptr()) };
        let [width, n1, n2, n3] = raw.ne.map(|n| usize::try_from(n).unwrap_or(0));
        if !self.is_f32() || !contiguous || rows.iter().any(|&row| row >= n1 * n2 * n3) {
            return false;
        }
        if let Some(data) = self.as_f32() {
            for &row in rows {
                into.extend_from_slice(&data[row * width..][..width]);
            }
            return true;
        }
        if !self.is_readable() {
            return false;
        }
        for &row in rows {
            let at = into.len();
            into.resize(at + width, 0.0);
            let (offset, bytes) = (row * width * size_of::<f32>(), width * size_of::<f32>());
            // SAFETY: the tensor is allocated and has the row (checked), and `into` has room for its values.
            unsafe {
                sys::ggml_backend_tensor_get(
                    self.ptr.as_ptr(),
                    into[at..].as_mut_ptr().cast::<c_void>(),
                    offset,
                    bytes,
                );
            };
        }
        true
    }

    /// Whether there is memory, and bytes can be had from it. Of weights that a CPU kernel has laid out anew (`CPU_REPACK`
    /// and its like) they cannot: ggml has no way back.
    pub(super) fn is_readable(self) -> bool {
        if self.raw().data.is_null() || self.buffer().is_null() {
            return false;
        }
        self.is_on_host() || device_of(self.raw()).is_some_and(|device| !device.is_cpu())
    }

    pub(super) fn copy<T: Copy + Default>(self, into: &mut Vec<T>) -> bool {
        if !self.is_readable() {
            return false; // ggml_backend_tensor_get would abort the process
        }
        let n = self.n_bytes() / size_of::<T>();
        into.clear();
        into.resize(n, T::default());
        // SAFETY: the tensor is allocated (checked) and `into` has room for the `n` elements that are asked for.
        unsafe {
            sys::ggml_backend_tensor_get(self.ptr.as_ptr(), into.as_mut_ptr().cast::<c_void>(), 0, n * size_of::<T>());
        };
        true
    }
}

impl fmt::Debug for TensorRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TensorRef").field("name", &self.name()).field("op", &self.op()).field("ne", &self.ne()).finish()
    }
}
