//! Writes GGUF version 3 with the bytes that ggml writes.

use std::borrow::Cow;
use std::collections::HashSet;
use std::io;

use super::{
    ALIGNMENT_KEY, DEFAULT_ALIGNMENT, DType, Error, MAGIC, MAX_DIMS, MAX_NAME_BYTES, VERSION, Value, f32_to_f16,
};

/// Collects key/value pairs and tensors, then writes them in the order in which they were added.
///
/// ```
/// use llama_imatrix::gguf::{DType, File, Writer};
/// let mut w = Writer::new();
/// w.set("general.type", "imatrix").set("imatrix.chunk_count", 3_u32);
/// w.f32_tensor("blk.0.attn_q.weight.counts", &[1, 1], vec![512.0_f32])?;
/// let mut bytes = Vec::new();
/// w.write_to(&mut bytes)?;
/// let file = File::from_bytes(bytes)?;
/// assert_eq!(file.get("general.type").and_then(|v| v.as_str()), Some("imatrix"));
/// # Ok::<(), llama_imatrix::gguf::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Writer<'a> {
    keys: Vec<(String, Value)>,
    tensors: Vec<Described<'a>>,
    names: HashSet<String>,
}

#[derive(Debug)]
struct Described<'a> {
    name: String,
    dtype: DType,
    /// Innermost first, without trailing ones, never empty.
    shape: Vec<u64>,
    data: Data<'a>,
}

/// Numbers that the writer reads in blocks while it writes: an importance matrix can take gigabytes.
pub(crate) trait F32Source: Sync {
    /// Returns the number of values.
    fn len(&self) -> usize;

    /// Fills `into` with the values from `at` on. The writer calls this in order and never beyond the end.
    fn read(&self, at: usize, into: &mut [f32]);
}

/// Numbers that are converted to bytes at once.
const BLOCK: usize = 1 << 16;

enum Data<'a> {
    Bytes(Cow<'a, [u8]>),
    F32(Cow<'a, [f32]>),
    I64(Cow<'a, [i64]>),
    Source(&'a dyn F32Source),
}

impl std::fmt::Debug for Data<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

impl Data<'_> {
    fn len(&self) -> u64 {
        match self {
            Data::Bytes(b) => b.len() as u64,
            Data::F32(v) => v.len() as u64 * 4,
            Data::I64(v) => v.len() as u64 * 8,
            Data::Source(v) => v.len() as u64 * 4,
        }
    }
}

impl<'a> Writer<'a> {
    /// Creates a writer for an empty file.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key. A key that is already set moves to the end, as in ggml.
    ///
    /// `general.alignment` sets the alignment of the tensor data.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) -> &mut Self {
        let key = key.into();
        self.keys.retain(|(k, _)| *k != key);
        self.keys.push((key, value.into()));
        self
    }

    /// Adds a tensor. `data` has the bytes that the file stores; `shape` is innermost first.
    ///
    /// # Errors
    /// A name that is too long or a duplicate, more than four dimensions, rows that do not consist of whole blocks, or
    /// data whose length does not match type and shape.
    pub fn tensor(
        &mut self,
        name: impl Into<String>,
        dtype: DType,
        shape: &[u64],
        data: impl Into<Cow<'a, [u8]>>,
    ) -> Result<&mut Self, Error> {
        self.push(name.into(), dtype, shape, Data::Bytes(data.into()))
    }

    /// Adds an F32 tensor.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn f32_tensor(
        &mut self,
        name: impl Into<String>,
        shape: &[u64],
        data: impl Into<Cow<'a, [f32]>>,
    ) -> Result<&mut Self, Error> {
        self.push(name.into(), DType::F32, shape, Data::F32(data.into()))
    }

    /// Adds an I64 tensor.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub(crate) fn i64_tensor(
        &mut self,
        name: impl Into<String>,
        shape: &[u64],
        data: impl Into<Cow<'a, [i64]>>,
    ) -> Result<&mut Self, Error> {
        self.push(name.into(), DType::I64, shape, Data::I64(data.into()))
    }

    /// Adds an F32 tensor whose values are read when the file is written.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub(crate) fn f32_source(
        &mut self,
        name: impl Into<String>,
        shape: &[u64],
        data: &'a dyn F32Source,
    ) -> Result<&mut Self, Error> {
        self.push(name.into(), DType::F32, shape, Data::Source(data))
    }

    /// Adds an F16 tensor. The values are rounded to nearest, ties to even.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn f16_tensor(&mut self, name: impl Into<String>, shape: &[u64], data: &[f32]) -> Result<&mut Self, Error> {
        let bytes: Vec<u8> = data.iter().flat_map(|&x| f32_to_f16(x).to_le_bytes()).collect();
        self.push(name.into(), DType::F16, shape, Data::Bytes(bytes.into()))
    }

    fn push(&mut self, name: String, dtype: DType, shape: &[u64], data: Data<'a>) -> Result<&mut Self, Error> {
        if name.len() > MAX_NAME_BYTES {
            return Err(Error::NameLength { name });
        }
        let expected = tensor_bytes(&name, dtype, shape)?;
        if data.len() != expected {
            return Err(Error::DataLength { name, found: data.len(), expected });
        }
        if !self.names.insert(name.clone()) {
            return Err(Error::DuplicateTensor(name));
        }
        // ggml counts dimensions up to the last that is not 1.
        let dims = shape.iter().rposition(|&n| n != 1).map_or(1, |last| last + 1);
        let shape = shape.iter().copied().chain([1]).take(dims).collect();
        self.tensors.push(Described { name, dtype, shape, data });
        Ok(self)
    }

    /// Writes the file. Many small pieces are written: pass a buffered writer.
    ///
    /// # Errors
    /// An error of `w`; an empty key; a `general.alignment` that is not a u32 or not a power of two.
    pub fn write_to(&self, w: impl io::Write) -> Result<(), Error> {
        let alignment = self.alignment()?;
        let mut out = Counted { inner: w, written: 0 };
        self.write_header(&mut out, alignment)?;
        let mut block = Block::default();
        for t in &self.tensors {
            match &t.data {
                Data::Bytes(b) => out.bytes(b)?,
                Data::F32(v) => out.f32s(v)?,
                Data::I64(v) => out.i64s(v)?,
                Data::Source(v) => out.source(*v, &mut block)?,
            }
            out.pad(alignment)?;
        }
        out.inner.flush()?;
        Ok(())
    }

    /// Writes everything before the tensor data.
    fn write_header(&self, out: &mut Counted<impl io::Write>, alignment: u64) -> Result<(), Error> {
        out.bytes(&MAGIC)?;
        out.bytes(&VERSION.to_le_bytes())?;
        out.bytes(&(self.tensors.len() as u64).to_le_bytes())?;
        out.bytes(&(self.keys.len() as u64).to_le_bytes())?;
        for (index, (key, value)) in self.keys.iter().enumerate() {
            if key.is_empty() {
                return Err(Error::EmptyKey { index: index as u64 });
            }
            out.string(key)?;
            value.write(&mut |bytes| out.bytes(bytes))?;
        }
        let mut offset = 0_u64;
        for t in &self.tensors {
            out.string(&t.name)?;
            out.bytes(&(t.shape.len() as u32).to_le_bytes())?;
            for n in &t.shape {
                out.bytes(&n.to_le_bytes())?;
            }
            out.bytes(&t.dtype.id().to_le_bytes())?;
            out.bytes(&offset.to_le_bytes())?;
            offset += t.data.len().next_multiple_of(alignment);
        }
        Ok(out.pad(alignment)?)
    }

    fn alignment(&self) -> Result<u64, Error> {
        match self.keys.iter().find(|(k, _)| k == ALIGNMENT_KEY) {
            None => Ok(DEFAULT_ALIGNMENT.into()),
            Some((_, Value::U32(n))) if n.is_power_of_two() => Ok((*n).into()),
            Some((_, Value::U32(n))) => Err(Error::Alignment(*n)),
            Some((_, other)) => Err(Error::AlignmentType(other.value_type().name())),
        }
    }
}

/// Returns the size of a tensor's data in bytes, after the checks that the reader makes.
fn tensor_bytes(name: &str, dtype: DType, shape: &[u64]) -> Result<u64, Error> {
    if shape.len() > MAX_DIMS {
        return Err(Error::Dimensions { name: name.to_owned(), found: shape.len() as u64 });
    }
    let row = shape.first().copied().unwrap_or(1);
    if !row.is_multiple_of(dtype.block_len()) {
        return Err(Error::RowBlocks { name: name.to_owned(), row, dtype });
    }
    shape
        .iter()
        .try_fold(1_u64, |product, &n| product.checked_mul(n))
        .and_then(|elements| dtype.bytes_for(elements))
        .filter(|&bytes| i64::try_from(bytes).is_ok())
        .ok_or_else(|| Error::ShapeOverflow { name: name.to_owned(), shape: shape.to_vec() })
}

/// Buffers for a block of a source's numbers and for their bytes.
#[derive(Default)]
struct Block {
    numbers: Vec<f32>,
    bytes: Vec<u8>,
}

/// Converts numbers to bytes at the beginning of `room` and returns that part.
fn into_bytes<'r>(numbers: &[f32], room: &'r mut [u8]) -> &'r [u8] {
    for (to, x) in room.as_chunks_mut().0.iter_mut().zip(numbers) {
        *to = x.to_le_bytes();
    }
    &room[..numbers.len() * 4]
}

/// A writer that counts its bytes, for the padding.
struct Counted<W> {
    inner: W,
    written: u64,
}

impl<W: io::Write> Counted<W> {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self, alignment: u64) -> io::Result<()> {
        const ZEROS: [u8; 64] = [0; 64];
        let mut missing = self.written.next_multiple_of(alignment) - self.written;
        while missing > 0 {
            let n = missing.min(ZEROS.len() as u64);
            self.bytes(&ZEROS[..n as usize])?;
            missing -= n;
        }
        Ok(())
    }

    fn f32s(&mut self, values: &[f32]) -> io::Result<()> {
        let mut buffer = [0_u8; 4096];
        for part in values.chunks(buffer.len() / 4) {
            self.bytes(into_bytes(part, &mut buffer))?;
        }
        Ok(())
    }

    fn source(&mut self, values: &dyn F32Source, block: &mut Block) -> io::Result<()> {
        for at in (0..values.len()).step_by(BLOCK) {
            let n = BLOCK.min(values.len() - at);
            block.numbers.resize(n, 0.0);
            block.bytes.resize(n * 4, 0);
            values.read(at, &mut block.numbers);
            self.bytes(into_bytes(&block.numbers, &mut block.bytes))?;
        }
        Ok(())
    }

    fn i64s(&mut self, values: &[i64]) -> io::Result<()> {
        let mut buffer = [0_u8; 4096];
        for part in values.chunks(buffer.len() / 8) {
            for (to, x) in buffer.as_chunks_mut().0.iter_mut().zip(part) {
                *to = x.to_le_bytes();
            }
            self.bytes(&buffer[..part.len() * 8])?;
        }
        Ok(())
    }

    fn string(&mut self, s: &str) -> io::Result<()> {
        self.bytes(&(s.len() as u64).to_le_bytes())?;
        self.bytes(s.as_bytes())
    }
}
