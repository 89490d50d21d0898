//! A tensor's elements, whatever their type and wherever they lie.

use std::ffi::{CStr, c_char, c_void};

use llama_cpp_sys_2 as sys;

use super::TensorRef;

/// Why a tensor's elements cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// There is no memory behind the tensor, as in a graph that is only being planned.
    #[error("tensor '{name}' has no data: it is not allocated")]
    NotAllocated {
        /// The tensor.
        name: String,
    },
    /// A weight that a kernel has laid out for itself as the model was loaded.
    #[error("tensor '{name}' is in {buffer}, which cannot be read: load the model with no_repack")]
    Repacked {
        /// The tensor.
        name: String,
        /// Where it lies.
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

impl TensorRef<'_> {
    /// Number of elements.
    #[must_use]
    pub fn n_elements(self) -> usize {
        self.ne().iter().map(|&n| usize::try_from(n).unwrap_or(0)).product()
    }

    /// ggml's name of the elements' type, such as `f32`, `q4_K` or `iq2_xxs`.
    #[must_use]
    pub fn type_name(self) -> &'static str {
        // SAFETY: the type of a valid tensor; names are string literals.
        unsafe { text(sys::ggml_type_name(self.raw().type_)) }
    }

    /// ggml's name of the operation, such as `MUL_MAT`, `RMS_NORM` or, of unary ones, `SILU`.
    #[must_use]
    pub fn op_name(self) -> &'static str {
        // SAFETY: reads the operation of a valid tensor; names are string literals.
        unsafe { text(sys::ggml_op_desc(self.raw())) }
    }

    /// The tensor that this one is a view of.
    #[must_use]
    pub fn view_src(self) -> Option<Self> {
        // SAFETY: a view's source lives as long as the view, and is written no more than it.
        unsafe { TensorRef::new(self.raw().view_src) }
    }

    /// The memory that holds it, such as `CPU`, `CPU_Mapped`, `CUDA0` or `RPC0[host:port]`; `None` where there is none.
    #[must_use]
    pub fn buffer_name(self) -> Option<String> {
        let buffer = self.buffer();
        if buffer.is_null() {
            return None;
        }
        // SAFETY: the buffer of a tensor of a live graph; its name is NUL-terminated and copied here.
        unsafe {
            let name = sys::ggml_backend_buft_name(sys::ggml_backend_buffer_get_type(buffer));
            (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
        }
    }

    /// Copies the elements as they lie, [`n_bytes`](Self::n_bytes) of them with the gaps that [`nb`](Self::nb) tells of,
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

    /// Converts all elements to f32, the first dimension fastest and without gaps: [`n_elements`](Self::n_elements) of
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

/// # Safety
/// `text`, if not null, is NUL-terminated and lives as long as the process.
unsafe fn text(text: *const c_char) -> &'static str {
    if text.is_null() {
        return "unknown";
    }
    // SAFETY: our own contract.
    unsafe { CStr::from_ptr(text) }.to_str().unwrap_or("unknown")
}
