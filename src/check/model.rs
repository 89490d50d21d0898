//! A model's header: hyperparameters and tensors of all its files.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::gguf::{self, File, Value};
use crate::mixture::{Hparams, TensorInfo};
use crate::state::{FingerprintError, model_files};

/// The header of a model, whole or split.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its files, in order.
    pub files: Vec<PathBuf>,
    /// Hyperparameters that the rules depend on.
    pub hparams: Hparams,
    /// Tensors of all files.
    pub tensors: Vec<TensorInfo>,
}

/// A reason why a model's header cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The files of a split model cannot be found.
    #[error(transparent)]
    Files(#[from] FingerprintError),
    /// A file is damaged or cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The rule that it breaks.
        source: gguf::Error,
    },
    /// The file is not a model.
    #[error("{}: 'general.type' is \"{found}\", expected \"model\"", path.display())]
    NotModel {
        /// The file.
        path: PathBuf,
        /// The value of `general.type`.
        found: String,
    },
    /// The file does not name its architecture.
    #[error("{}: no key 'general.architecture', expected a model", path.display())]
    NoArchitecture {
        /// The file.
        path: PathBuf,
    },
    /// Two files of a split model have the same tensor.
    #[error("{}: tensor '{tensor}' is also in an earlier file", path.display())]
    Duplicate {
        /// The later file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// The files of a split model have another number of tensors than the first announces.
    #[error("{}: found {found} tensors in all files, 'split.tensors.count' announces {expected}", path.display())]
    TensorCount {
        /// The first file.
        path: PathBuf,
        /// Number of tensors found.
        found: usize,
        /// Number of tensors announced.
        expected: u64,
    },
}

impl Model {
    /// Reads the headers of a model; of a split model, `first` is the first file.
    ///
    /// # Errors
    /// [`ModelError`].
    pub fn open(first: impl AsRef<Path>) -> Result<Self, ModelError> {
        let files = model_files(first)?;
        let mut model = Self { files: Vec::new(), hparams: Hparams::default(), tensors: Vec::new() };
        let mut names = HashSet::new();
        let mut announced = None;
        for (index, path) in files.iter().enumerate() {
            let file = File::open(path).map_err(|source| ModelError::File { path: path.clone(), source })?;
            if index == 0 {
                model.hparams = hparams(path, &file)?;
                announced = file.get("split.tensors.count").and_then(Value::as_u64).filter(|_| files.len() > 1);
            }
            for tensor in file.tensors() {
                if !names.insert(tensor.name.to_owned()) {
                    return Err(ModelError::Duplicate { path: path.clone(), tensor: tensor.name.to_owned() });
                }
                let (name, dtype, shape) = (tensor.name.to_owned(), tensor.dtype, tensor.shape);
                model.tensors.push(TensorInfo { name, dtype, shape });
            }
        }
        let found = model.tensors.len();
        if let (Some(expected), Some(path)) = (announced.filter(|&n| n != found as u64), files.first()) {
            return Err(ModelError::TensorCount { path: path.clone(), found, expected });
        }
        model.files = files;
        Ok(model)
    }

    /// Returns the tensor with this name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

fn hparams(path: &Path, file: &File<'_>) -> Result<Hparams, ModelError> {
    let kind = file.get("general.type").and_then(Value::as_str).unwrap_or("model");
    if kind != "model" {
        return Err(ModelError::NotModel { path: path.to_owned(), found: kind.to_owned() });
    }
    let hparams = Hparams::of(file);
    if hparams.arch.is_empty() {
        return Err(ModelError::NoArchitecture { path: path.to_owned() });
    }
    Ok(hparams)
}
