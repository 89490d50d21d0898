//! Access to the elements of a computed tensor, of any type and on any device.

use std::ffi::c_void;
use std::fmt;
use std::ops::Deref;

use llama_cpp_sys_2 as sys;

use super::TensorInfo;
use super::tensor::device_of;

/// A tensor of a graph that is being computed, borrowed for one call of [`Observer::sees`](super::Observer::sees): its
/// [description](TensorInfo), and its data where it has been computed.
#[derive(Clone, Copy)]
pub struct TensorRef<'a> {
    info: TensorInfo<'a>,
    data: Data,
}

/// Tensors whose data is valid: ggml reuses a graph's memory for later nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Data {
    /// The tensor, and its sources.
    Own,
    /// Its sources: the tensor itself is left out of the computation.
    Sources,
    /// The tensor: it is the source of one that was just computed.
    Source,
    /// Neither the tensor nor its sources.
    Gone,
}

/// Reason why a tensor's elements cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// There is no memory behind the tensor, as in a graph that is only being planned, or the memory holds something else:
    /// the tensor is not computed, or is neither the one that is seen nor one of its sources.
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
    /// ggml has no conversion to f32: the type is one that products use inside.
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
    /// A node that is computed.
    ///
    /// # Safety
    /// The tensor and its sources are computed, and not written during `'a`.
    pub(super) unsafe fn computed(info: TensorInfo<'a>) -> Self {
        Self { info, data: Data::Own }
    }

    /// A node of which only the sources are computed.
    ///
    /// # Safety
    /// The tensor's sources are computed, and not written during `'a`.
    pub(super) unsafe fn sources_computed(info: TensorInfo<'a>) -> Self {
        Self { info, data: Data::Sources }
    }

    /// Source `i` of the operation, if it has one. A source's own sources can be described, and read only where they are
    /// weights or inputs.
    #[must_use]
    pub fn src(self, i: usize) -> Option<Self> {
        let data = match self.data {
            Data::Own | Data::Sources => Data::Source,
            Data::Source | Data::Gone => Data::Gone,
        };
        self.info.src(i).map(|info| Self { info, data })
    }

    /// The tensor that this one is a view of.
    #[must_use]
    pub fn view_src(self) -> Option<Self> {
        self.info.view_src().map(|info| Self { info, data: self.data })
    }

    /// Returns true if the tensor's data is valid: it is computed, or it is a weight or an input.
    fn is_computed(self) -> bool {
        let raw = self.raw();
        matches!(self.data, Data::Own | Data::Source) || (raw.op == sys::GGML_OP_NONE && raw.view_src.is_null())
    }

    /// The elements where they lie, if that is memory this process can read.
    ///
    /// `None` for a tensor on a device, one that is not [`is_f32`](TensorInfo::is_f32), or one not computed yet.
    #[must_use]
    pub fn as_f32(self) -> Option<&'a [f32]> {
        let raw = self.raw();
        // SAFETY: the buffer, where there is one, lives as long as the graph.
        let on_host = !raw.buffer.is_null() && unsafe { sys::ggml_backend_buffer_is_host(raw.buffer) };
        let data = raw.data.cast::<f32>();
        if !self.is_computed() || !on_host || !self.is_f32() || data.is_null() || !data.is_aligned() {
            return None;
        }
        // SAFETY: a host buffer holds ggml_nbytes of this tensor from `data` on, aligned (checked), initialized since it is
        // computed (checked), and not written while the observer holds the graph.
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

    /// Whether there is memory, and bytes can be had from it. Of weights that a CPU kernel has laid out anew (`CPU_REPACK`
    /// and its like) they cannot: ggml has no way back.
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
        // SAFETY: the tensor is allocated (checked) and `into` has room for the `n` elements that are asked for.
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

    /// Copies the elements as they lie, [`n_bytes`](TensorInfo::n_bytes) of them with the gaps that [`nb`](TensorInfo::nb) tells of,
    /// from wherever they are, waiting for the device.
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

    /// Converts all elements to f32, the first dimension fastest and without gaps: [`n_elements`](TensorInfo::n_elements) of
    /// them, from wherever they are, waiting for the device. Quantized ones are dequantized by ggml's reference code;
    /// integers and f64 are rounded to the nearest f32.
    ///
    /// # Errors
    /// [`DataError::NotAllocated`]; [`DataError::Repacked`]; [`DataError::NoConversion`] of `q8_1` and `q8_K`.
    pub fn to_f32(self, into: &mut Vec<f32>) -> Result<(), DataError> {
        let raw = self.raw();
        let no_conversion = || DataError::NoConversion { name: self.name().to_owned(), type_name: self.type_name() };
        // SAFETY: the type of a valid tensor; the table is constant. Null for a number that is no type.
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
        // Elements of a row that lie one after the other; where they do not, each is converted alone.
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
                            return Err(no_conversion()); // steps that lead out of the tensor: no graph has such
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

/// Elements of one type to f32.
enum Converter {
    /// ggml's.
    Ggml(unsafe extern "C" fn(*const c_void, *mut f32, i64)),
    /// Of numbers that ggml does not convert.
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
    /// Converts the elements in `from`, whole blocks of them, as many as `to` has room for. `scratch` has room for `from`.
    fn run(&self, from: &[u8], scratch: &mut [u64], to: &mut [f32]) {
        match self {
            Self::Numbers { size, convert } => {
                to.iter_mut().zip(from.chunks_exact(*size)).for_each(|(to, from)| *to = convert(from));
            }
            Self::Ggml(convert) => {
                // ggml reads blocks by their fields, which are to be aligned.
                for (word, bytes) in scratch.iter_mut().zip(from.chunks(size_of::<u64>())) {
                    let mut all = [0; size_of::<u64>()];
                    all[..bytes.len()].copy_from_slice(bytes);
                    *word = u64::from_ne_bytes(all);
                }
                // SAFETY: `scratch` holds the type's blocks for the `to.len()` elements that are written, aligned to more
                // than any block is.
                unsafe { convert(scratch.as_ptr().cast(), to.as_mut_ptr(), to.len() as i64) };
            }
        }
    }
}
