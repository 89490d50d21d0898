//! A validated GGUF file and its tensors.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use super::map::{self, Bytes};
use super::parse::{Info, Parsed, parse};
use super::{DType, Error, MAX_DIMS, Value, f16_to_f32};

/// A GGUF file that has passed validation.
///
/// Key/value pairs are parsed. Tensor data is not copied: [`File::open`] maps the file. As in llama.cpp's model loader,
/// padding may be missing after the last tensor; data may not.
#[derive(Debug)]
pub struct File<'a> {
    bytes: Bytes<'a>,
    version: u32,
    alignment: u32,
    keys: Vec<(String, Value)>,
    key_index: HashMap<String, usize>,
    key_bytes: u64,
    tensors: Vec<Info>,
    tensor_index: HashMap<String, usize>,
}

/// A tensor in a [`File`].
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'f> {
    /// Name, at most 63 bytes.
    pub name: &'f str,
    /// Element type.
    pub dtype: DType,
    /// Number of dimensions that the file stores. The rest of `shape` is 1.
    pub n_dims: usize,
    /// Number of elements per dimension, innermost first.
    pub shape: [u64; MAX_DIMS],
    /// Data as stored in the file.
    pub data: &'f [u8],
}

impl File<'static> {
    /// Maps and validates a file.
    ///
    /// # Errors
    /// [`Error::Io`], or the rule of the format that the file breaks.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::parse(map::open(path.as_ref())?)
    }
}

impl<'a> File<'a> {
    /// Validates a file in memory.
    ///
    /// # Errors
    /// The rule of the format that the bytes break.
    pub fn from_bytes(bytes: impl Into<Cow<'a, [u8]>>) -> Result<Self, Error> {
        Self::parse(Bytes::Held(bytes.into()))
    }

    pub(crate) fn parse(bytes: Bytes<'a>) -> Result<Self, Error> {
        let Parsed { version, alignment, keys, key_bytes, tensors } = parse(&bytes)?;
        let key_index = keys.iter().enumerate().map(|(i, (k, _))| (k.clone(), i)).collect();
        let tensor_index = tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        Ok(Self { bytes, version, alignment, keys, key_index, key_bytes, tensors, tensor_index })
    }

    /// Returns the version of the format, 2 or 3.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// Returns the alignment of tensor data in bytes.
    #[must_use]
    pub const fn alignment(&self) -> u32 {
        self.alignment
    }

    /// Returns the bytes of the file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the size of the file in bytes.
    #[must_use]
    pub(crate) fn n_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Returns the value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.key_index.get(key).and_then(|&i| self.keys.get(i)).map(|(_, v)| v)
    }

    /// Returns all key/value pairs in file order.
    #[must_use]
    pub fn keys(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.keys.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// Returns the size of all key/value pairs in bytes, as the file stores them.
    pub(crate) fn key_bytes(&self) -> u64 {
        self.key_bytes
    }

    /// Returns all tensors in file order.
    #[must_use]
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = Tensor<'_>> {
        self.tensors.iter().map(|t| self.view(t))
    }

    /// Returns the names of all tensors and the places of their data in the file.
    pub(crate) fn places(&self) -> impl Iterator<Item = (&str, std::ops::Range<usize>)> {
        self.tensors.iter().map(|t| (t.name.as_str(), t.data.clone()))
    }

    /// Returns the tensor with this name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.tensor_index.get(name).and_then(|&i| self.tensors.get(i)).map(|t| self.view(t))
    }

    /// Tells the system that a tensor's data are not needed for now.
    #[cfg(feature = "llama")]
    pub(crate) fn release(&self, name: &str) {
        if let Some(info) = self.tensor_index.get(name).and_then(|&i| self.tensors.get(i)) {
            self.bytes.release(info.data.clone());
        }
    }

    fn view<'f>(&'f self, info: &'f Info) -> Tensor<'f> {
        // `check_offsets` has checked the range. The empty slice rules out a panic in any case.
        let data = self.bytes.get(info.data.clone()).unwrap_or_default();
        Tensor { name: &info.name, dtype: info.dtype, n_dims: info.n_dims, shape: info.shape, data }
    }
}

impl Tensor<'_> {
    /// Returns the number of elements.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.shape.iter().product() // the parser has checked it for overflow
    }

    /// Returns the values of an F32, F16 or BF16 tensor; `None` for other types.
    #[must_use]
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        let halves = || self.data.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b));
        match self.dtype {
            DType::F32 => Some(self.data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
            DType::F16 => Some(halves().map(f16_to_f32).collect()),
            DType::BF16 => Some(halves().map(|h| f32::from_bits(u32::from(h) << 16)).collect()),
            _ => None,
        }
    }
}
