//! A model's weights as its files store them.

use std::path::{Path, PathBuf};

use super::Error;
use crate::gguf::{self, DType, MAX_DIMS, Tensor, Value};
use crate::state::model_files;
use crate::stats::name::TensorName;

/// A model: one GGUF file, or all files of a split model. Nothing is copied.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    files: Vec<gguf::File<'static>>,
    weights: Vec<Weight>,
}

/// A tensor of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Its name.
    pub name: String,
    /// Its type in the file.
    pub dtype: DType,
    /// Elements per dimension, innermost first.
    pub shape: [u64; MAX_DIMS],
    /// Index of its file.
    file: usize,
}

impl Weight {
    pub(crate) fn new(name: &str, dtype: DType, shape: [u64; MAX_DIMS], file: usize) -> Self {
        Self { name: name.to_owned(), dtype, shape, file }
    }

    /// Returns the number of elements.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.shape.iter().product() // the parser has checked it for overflow
    }

    /// Returns the elements per row.
    #[must_use]
    pub const fn columns(&self) -> u64 {
        self.shape[0]
    }

    /// Returns the rows per matrix.
    #[must_use]
    pub const fn rows(&self) -> u64 {
        self.shape[1]
    }

    /// Returns the number of matrices: experts, heads, or 1.
    #[must_use]
    pub const fn matrices(&self) -> u64 {
        self.shape[2].saturating_mul(self.shape[3])
    }

    /// Returns the number of dimensions as ggml counts them: up to the last that is not 1.
    #[must_use]
    pub fn n_dims(&self) -> usize {
        self.shape.iter().rposition(|&n| n != 1).map_or(1, |last| last + 1)
    }

    /// Returns the bytes of its data in another type; `None` if its rows do not consist of whole blocks.
    #[must_use]
    pub fn bytes_as(&self, dtype: DType) -> Option<u64> {
        let row = dtype.bytes_for(self.columns())?;
        row.checked_mul(self.rows().checked_mul(self.matrices())?)
    }

    /// Returns the layer it belongs to, if any.
    #[must_use]
    pub fn block(&self) -> Option<i32> {
        TensorName::new(&self.name).block()
    }
}

impl Source {
    /// Maps a model's file, or all files of a split model, given the first.
    ///
    /// # Errors
    /// A file that cannot be read or breaks the rules of GGUF; a tensor that occurs in two files.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref().to_owned();
        let mut files = Vec::new();
        for part in model_files(&path)? {
            files.push(gguf::File::open(&part).map_err(|source| Error::File { path: part, source })?);
        }
        let mut weights: Vec<Weight> = Vec::new();
        for (i, file) in files.iter().enumerate() {
            weights.extend(file.tensors().map(|t| Weight::new(t.name, t.dtype, t.shape, i)));
        }
        // llama-quantize's order.
        weights.sort_by(|a, b| (a.block().unwrap_or(-1), &a.name).cmp(&(b.block().unwrap_or(-1), &b.name)));
        if let Some(pair) = weights.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(Error::TwiceInModel { path, tensor: pair[0].name.clone() });
        }
        if weights.is_empty() || files[0].get("general.architecture").is_none() {
            return Err(Error::NoModel { path });
        }
        Ok(Self { path, files, weights })
    }

    /// Returns the path of the first file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the architecture's name.
    #[must_use]
    pub fn architecture(&self) -> &str {
        self.first().get("general.architecture").and_then(Value::as_str).unwrap_or_default()
    }

    /// Returns the first file, whose keys describe the model.
    #[must_use]
    pub fn first(&self) -> &gguf::File<'static> {
        &self.files[0]
    }

    /// Returns all tensors in the order in which `llama-quantize` writes them.
    #[must_use]
    pub fn weights(&self) -> &[Weight] {
        &self.weights
    }

    /// Returns the tensor with this name.
    #[must_use]
    pub fn weight(&self, name: &str) -> Option<&Weight> {
        self.weights.iter().find(|weight| weight.name == name)
    }

    /// Returns a tensor's data.
    #[must_use]
    pub fn tensor(&self, weight: &Weight) -> Option<Tensor<'_>> {
        self.files.get(weight.file)?.tensor(&weight.name)
    }

    /// Tells the system that a tensor's data are not needed for now: only one tensor at a time counts as memory.
    #[cfg(feature = "llama")]
    pub(crate) fn release(&self, weight: &Weight) {
        if let Some(file) = self.files.get(weight.file) {
            file.release(&weight.name);
        }
    }

    /// Returns the number of elements of all tensors.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.weights.iter().map(Weight::elements).sum()
    }
}
