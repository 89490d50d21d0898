//! Fingerprints of models, from samples of their tensors.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::Digest;
use crate::gguf::{self, Tensor, Value};

/// Number of bytes that are hashed at the start, in the middle and at the end of a tensor.
const SAMPLE: usize = 4096;

/// The fingerprint of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelFingerprint {
    /// `general.architecture`.
    pub architecture: String,
    /// Number of tensors in all files.
    pub n_tensors: u64,
    /// Size of all files in bytes.
    pub n_bytes: u64,
    /// Hash of all tensors' names, types and shapes, in the order of the files.
    pub layout: Digest,
    /// Hash of 4 KiB at the start, in the middle and at the end of each tensor's data; of all data of tensors up to 12
    /// KiB.
    pub sample: Digest,
}

/// An error of computing a model's fingerprint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FingerprintError {
    /// A file is invalid or cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: gguf::Error,
    },
    /// `split.count` does not match the name of the first file, or exceeds 99999.
    #[error("{}: expected the name of the first of {count} files, as in name-00001-of-{count:05}.gguf", path.display())]
    SplitName {
        /// The file.
        path: PathBuf,
        /// Number of files according to `split.count`.
        count: u64,
    },
}

impl ModelFingerprint {
    /// Computes the fingerprint of a GGUF model, given its first or only file. Reads at most 12 KiB per tensor.
    ///
    /// # Errors
    /// See [`FingerprintError`].
    pub fn of_file(path: impl AsRef<Path>) -> Result<Self, FingerprintError> {
        let mut out = Self::default();
        let (mut layout, mut sample) = (Sha256::new(), Sha256::new());
        for (i, path) in model_files(path)?.into_iter().enumerate() {
            let file = open(&path)?;
            if i == 0 {
                text(file.get("general.architecture")).clone_into(&mut out.architecture);
            }
            out.n_bytes += file.n_bytes();
            for tensor in file.tensors() {
                out.n_tensors += 1;
                hash_layout(&mut layout, &tensor);
                hash_sample(&mut sample, tensor.data);
            }
        }
        out.layout = Digest(layout.finalize().into());
        out.sample = Digest(sample.finalize().into());
        Ok(out)
    }
}

/// Returns the files of a model, given the first one. Reads only this file's header.
///
/// # Errors
/// See [`FingerprintError`].
pub fn model_files(first: impl AsRef<Path>) -> Result<Vec<PathBuf>, FingerprintError> {
    let first = first.as_ref();
    let file = open(first)?;
    let wrong_name = || FingerprintError::SplitName { path: first.to_owned(), count: file.split_count() };
    file.split_files(first).ok_or_else(wrong_name)
}

fn open(path: &Path) -> Result<gguf::File<'static>, FingerprintError> {
    gguf::File::open(path).map_err(|source| FingerprintError::File { path: path.to_owned(), source })
}

fn text(value: Option<&Value>) -> &str {
    value.and_then(Value::as_str).unwrap_or_default()
}

fn hash_layout(hash: &mut Sha256, tensor: &Tensor<'_>) {
    hash.update((tensor.name.len() as u64).to_le_bytes());
    hash.update(tensor.name);
    hash.update(tensor.dtype.id().to_le_bytes());
    tensor.shape.iter().for_each(|n| hash.update(n.to_le_bytes()));
}

fn hash_sample(hash: &mut Sha256, data: &[u8]) {
    if data.len() <= 3 * SAMPLE {
        hash.update(data);
        return;
    }
    let middle = data.len() / 2 - SAMPLE / 2;
    for start in [0, middle, data.len() - SAMPLE] {
        hash.update(&data[start..][..SAMPLE]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{DType, Writer};

    fn model(architecture: &str, tensors: &[(&str, Vec<u8>)], splits: Option<(u16, u16)>) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.set("general.architecture", architecture);
        if let Some((number, count)) = splits {
            writer.set("split.no", number).set("split.count", count);
        }
        for (name, data) in tensors {
            writer.tensor(*name, DType::I8, &[data.len() as u64], data.clone()).unwrap();
        }
        let mut bytes = Vec::new();
        writer.write_to(&mut bytes).unwrap();
        bytes
    }

    fn of(bytes: &[u8]) -> ModelFingerprint {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("m.gguf"), bytes).unwrap();
        ModelFingerprint::of_file(dir.path().join("m.gguf")).unwrap()
    }

    #[test]
    fn each_field_changes_with_its_part_of_the_model() {
        let data = |at: usize| {
            let mut data = vec![3; 100_000];
            data[at] ^= 1;
            data
        };
        let base = of(&model("llama", &[("a", vec![1; 9]), ("b", data(0))], None));
        assert_eq!((base.architecture.as_str(), base.n_tensors), ("llama", 2));
        for at in [4095, 50_000, 99_999] {
            let changed = of(&model("llama", &[("a", vec![1; 9]), ("b", data(at))], None));
            assert_eq!(changed.layout, base.layout);
            assert_ne!(changed.sample, base.sample, "byte {at}");
        }
        let renamed = of(&model("llama", &[("a", vec![1; 9]), ("c", data(0))], None));
        assert_eq!((renamed.sample, renamed.n_bytes), (base.sample, base.n_bytes));
        assert_ne!(renamed.layout, base.layout);
        assert_ne!(of(&model("qwen3", &[("a", vec![1; 9]), ("b", data(0))], None)).architecture, base.architecture);
    }

    #[test]
    fn all_files_of_a_split_model_are_hashed() {
        let dir = tempfile::tempdir().unwrap();
        let path = |n: u32| dir.path().join(format!("m-{n:05}-of-00002.gguf"));
        let write = |n: u32, byte: u8| {
            std::fs::write(path(n), model("llama", &[(&format!("t{n}"), vec![byte; 9])], Some((n as u16 - 1, 2))))
                .unwrap();
        };
        write(1, 1);
        let missing = ModelFingerprint::of_file(path(1)).unwrap_err().to_string();
        assert!(missing.contains("m-00002-of-00002.gguf"), "{missing}");
        write(2, 1);
        let base = ModelFingerprint::of_file(path(1)).unwrap();
        assert_eq!(base.n_tensors, 2);
        write(2, 2);
        assert_ne!(ModelFingerprint::of_file(path(1)).unwrap().sample, base.sample);
        std::fs::rename(path(1), dir.path().join("first.gguf")).unwrap();
        let named = ModelFingerprint::of_file(dir.path().join("first.gguf")).unwrap_err();
        assert!(matches!(named, FingerprintError::SplitName { count: 2, .. }));
    }
}
