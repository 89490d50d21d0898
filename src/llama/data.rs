//! Access to the elements of a computed tensor, of any type and on any device.

use std::ffi::c_void;
use std::fmt;
use std::ops::Deref;

use llama_cpp_sys_2 as sys;

use super::TensorInfo;
use super::tensor::device_of;

/// A tensor of a graph that is being computed, borrowed for one call of [`Observer::sees`](super::Observer::sees): its
/// [description](TensorInfo) and, if it is computed, its data.
#[derive(Clone, Copy)]
pub struct TensorRef<'a> {
    info: TensorInfo<'a>,
    data: Data,
}

/// Tensors whose data is valid: ggml reuses a graph's memory for later nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Data {
    /// The tensor and its sources.
    Own,
    /// Its sources: the tensor itself is not computed.
    Sources,
    /// The tensor alone: a node that was just computed reads it, or is a view of it.
    Source,
    /// Neither the tensor nor its sources.
    Gone,
}

/// Reason why a tensor's elements cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The tensor has no memory, as in a graph that is only being planned, or its memory holds other values: it is not
    /// computed, or it is neither the observed node nor one of its sources.
    #[error("tensor '{name}' has no data: it is not computed, or its memory is used again")]
    NotAllocated {
        /// The tensor.
        name: String,
    },
    /// The weight was repacked for a CPU kernel when the model was loaded.
    #[error("tensor '{name}' is in {buffer}, which cannot be read: load the model with no_repack")]
    Repacked {
        /// The tensor.
        name: String,
        /// Name of its buffer.
        buffer: String,
    },
    /// ggml has no conversion to f32: products use the type internally.
    #[error("tensor '{name}': ggml does not convert {type_name} to f32")]
    NoConversion {
        /// The tensor.
        name: String,
        /// Its type.
        type_name: &'static str,
    },
}

impl<'a> Deref for TensorRef<'a> {
    type Target = TensorInfo<'a>;

    fn deref(&self) -> &TensorInfo<'a> {
        &self.info
    }
}

impl<'a> TensorRef<'a> {
    /// Creates the reference to a computed node.
    ///
    /// # Safety
    /// The tensor and its sources are computed, and not written during `'a`.
    pub(super) unsafe fn computed(info: TensorInfo<'a>) -> Self {
        Self { info, data: Data::Own }
    }

    /// Creates the reference to a node of which only the sources are computed.
    ///
    /// # Safety
    /// The tensor's sources are computed, and not written during `'a`.
    pub(super) unsafe fn sources_computed(info: TensorInfo<'a>) -> Self {
        Self { info, data: Data::Sources }
    }

    /// Returns source `i` of the operation, if it has one. Of the sources of a source only weights can be read: the
    /// memory of others may hold other values by now.
    #[must_use]
    pub fn src(self, i: usize) -> Option<Self> {
        let data = match self.data {
            Data::Own | Data::Sources => Data::Source,
            Data::Source | Data::Gone => Data::Gone,
        };
        self.info.src(i).map(|info| Self { info, data })
    }

    /// Returns the tensor that this one is a view of. Its data is valid if this one's is.
    #[must_use]
    pub fn view_src(self) -> Option<Self> {
        let data = match self.data {
            Data::Own | Data::Source => Data::Source,
            Data::Sources | Data::Gone => Data::Gone,
        };
        self.info.view_src().map(|info| Self { info, data })
    }

    /// Returns true if the tensor's data is valid: it is computed, or it is a weight. ggml may reuse the memory of an
    /// input after the last node that reads it.
    fn is_computed(self) -> bool {
        matches!(self.data, Data::Own | Data::Source) || self.is_weight()
    }

    /// Returns the elements in place, without a copy. `None` if the tensor is not in host memory, is not
    /// [`is_f32`](TensorInfo::is_f32) or is not computed.
    #[must_use]
    pub fn as_f32(self) -> Option<&'a [f32]> {
        let raw = self.raw();
        // SAFETY: the buffer, where there is one, lives as long as the graph.
        let on_host = !raw.buffer.is_null() && unsafe { sys::ggml_backend_buffer_is_host(raw.buffer) };
        let data = raw.data.cast::<f32>();
        if !self.is_computed() || !on_host || !self.is_f32() || data.is_null() || !data.is_aligned() {
            return None;
        }
        // SAFETY: the tensor is allocated in a host buffer (checked), so its `n_bytes` bytes begin at `data`, which is
        // aligned (checked). They are initialized, since it is computed (checked), and nobody writes them during `'a`.
        Some(unsafe { std::slice::from_raw_parts(data, self.n_bytes() / size_of::<f32>()) })
    }

    /// Copies the elements, in host or device memory, and waits for the device. Returns false if they are not 32-bit
    /// floats or cannot be read.
    #[must_use]
    pub fn copy_f32(self, into: &mut Vec<f32>) -> bool {
        self.is_f32() && self.copy(into)
    }

    /// Copies the elements, in host or device memory, and waits for the device. Returns false if they are not 32-bit
    /// integers or cannot be read.
    #[must_use]
    pub fn copy_i32(self, into: &mut Vec<i32>) -> bool {
        self.is_i32() && self.copy(into)
    }

    /// Appends these rows, `ne[0]` values each, from host or device memory. Returns false, and appends nothing, if the
    /// tensor is not f32, has gaps, is not computed, or lacks one of the rows.
    #[must_use]
    pub fn append_rows(self, rows: &[usize], into: &mut Vec<f32>) -> bool {
        let raw = self.raw();
        // SAFETY: reads shape and type of a valid tensor.
        let contiguous = unsafe { sys::ggml_is_contiguous(self.as_ptr().as_ptr()) };
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
                    self.as_ptr().as_ptr(),
                    into[at..].as_mut_ptr().cast::<c_void>(),
                    offset,
                    bytes,
                );
            };
        }
        true
    }

    /// Returns true if the tensor's bytes can be copied. Those of repacked weights (`CPU_REPACK` and similar) cannot:
    /// ggml does not convert them back.
    pub(super) fn is_readable(self) -> bool {
        if !self.is_computed() || self.raw().data.is_null() || self.buffer().is_null() {
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
        // SAFETY: the tensor is allocated (checked), and `into` has room for the `n` elements that are copied. Any
        // bytes are valid elements: the callers' are integers and floats.
        unsafe {
            sys::ggml_backend_tensor_get(
                self.as_ptr().as_ptr(),
                into.as_mut_ptr().cast::<c_void>(),
                0,
                n * size_of::<T>(),
            );
        };
        true
    }

    /// Copies the tensor's [`n_bytes`](TensorInfo::n_bytes) bytes from host or device memory, with the gaps that
    /// [`nb`](TensorInfo::nb) describes, and waits for the device.
    ///
    /// # Errors
    /// [`DataError::NotAllocated`]; [`DataError::Repacked`].
    pub fn to_bytes(self, into: &mut Vec<u8>) -> Result<(), DataError> {
        if self.copy(into) {
            return Ok(());
        }
        let name = self.name().to_owned();
        Err(match self.buffer_name() {
            Some(buffer) if !self.raw().data.is_null() => DataError::Repacked { name, buffer },
            _ => DataError::NotAllocated { name },
        })
    }

    /// Converts all [`n_elements`](TensorInfo::n_elements) elements to f32, the first dimension fastest and without
    /// gaps, from host or device memory, and waits for the device. ggml's reference code dequantizes quantized types;
    /// integers and f64 are rounded to the nearest f32.
    ///
    /// # Errors
    /// [`DataError::NotAllocated`]; [`DataError::Repacked`]; [`DataError::NoConversion`] for `q8_1` and `q8_K`.
    pub fn to_f32(self, into: &mut Vec<f32>) -> Result<(), DataError> {
        let raw = self.raw();
        let no_conversion = || DataError::NoConversion { name: self.name().to_owned(), type_name: self.type_name() };
        // SAFETY: reads the entry of a valid tensor's type in a constant table.
        let Some(traits) = (unsafe { sys::ggml_get_type_traits(raw.type_).as_ref() }) else {
            return Err(no_conversion());
        };
        let convert = converter(raw.type_, traits).ok_or_else(no_conversion)?;

        let mut bytes = Vec::new();
        self.to_bytes(&mut bytes)?;
        into.clear();
        into.resize(self.n_elements(), 0.0);
        let [n0, n1, n2, n3] = self.ne().map(|n| usize::try_from(n).unwrap_or(0));
        let [nb0, nb1, nb2, nb3] = self.nb();
        // A whole row at once if its elements are adjacent, else each element alone.
        let packed = nb0 == traits.type_size;
        let run = if packed { n0 } else { 1 };
        let run_bytes =
            if packed { traits.type_size * n0 / (traits.blck_size.max(1) as usize) } else { traits.type_size };
        let mut scratch = vec![0_u64; run_bytes.div_ceil(size_of::<u64>())];
        let mut out = into.chunks_exact_mut(run.max(1));
        for i3 in 0..n3 {
            for i2 in 0..n2 {
                for i1 in 0..n1 {
                    for i0 in (0..n0).step_by(run.max(1)) {
                        let start = i0 * nb0 + i1 * nb1 + i2 * nb2 + i3 * nb3;
                        let (Some(from), Some(to)) = (bytes.get(start..start + run_bytes), out.next()) else {
                            return Err(no_conversion()); // steps that lead out of the tensor, which no graph has
                        };
                        convert.run(from, &mut scratch, to);
                    }
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for TensorRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info.fmt(f)
    }
}

/// Conversion of one type to f32.
enum Converter {
    /// ggml's function.
    Ggml(unsafe extern "C" fn(*const c_void, *mut f32, i64)),
    /// Our own, for numbers that ggml does not convert.
    Numbers { size: usize, convert: fn(&[u8]) -> f32 },
}

fn converter(of: sys::ggml_type, traits: &sys::ggml_type_traits) -> Option<Converter> {
    /// The bytes of one number.
    fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
        bytes.first_chunk().copied().unwrap_or([0; N])
    }
    let convert: fn(&[u8]) -> f32 = match of {
        sys::GGML_TYPE_F32 => |b| f32::from_ne_bytes(array(b)),
        sys::GGML_TYPE_F64 => |b| f64::from_ne_bytes(array(b)) as f32,
        sys::GGML_TYPE_I8 => |b| f32::from(i8::from_ne_bytes(array(b))),
        sys::GGML_TYPE_I16 => |b| f32::from(i16::from_ne_bytes(array(b))),
        sys::GGML_TYPE_I32 => |b| i32::from_ne_bytes(array(b)) as f32,
        sys::GGML_TYPE_I64 => |b| i64::from_ne_bytes(array(b)) as f32,
        _ => return traits.to_float.map(Converter::Ggml),
    };
    Some(Converter::Numbers { size: traits.type_size, convert })
}

impl Converter {
    /// Converts the elements in `from`, whole blocks of them, as many as `to` has room for. `scratch` has room for
    /// `from`.
    fn run(&self, from: &[u8], scratch: &mut [u64], to: &mut [f32]) {
        match self {
            Self::Numbers { size, convert } => {
                to.iter_mut().zip(from.chunks_exact(*size)).for_each(|(to, from)| *to = convert(from));
            }
            Self::Ggml(convert) => {
                // ggml reads blocks as structs, whose fields must be aligned.
                for (word, bytes) in scratch.iter_mut().zip(from.chunks(size_of::<u64>())) {
                    let mut all = [0; size_of::<u64>()];
                    all[..bytes.len()].copy_from_slice(bytes);
                    *word = u64::from_ne_bytes(all);
                }
                // SAFETY: `scratch` holds the blocks of the `to.len()` elements that are written, with at least the
                // alignment of any block.
                unsafe { convert(scratch.as_ptr().cast(), to.as_mut_ptr(), to.len() as i64) };
            }
        }
    }
}
