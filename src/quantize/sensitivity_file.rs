//! Files of measured sensitivities: JSON, one object per weight.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What a file's `format` says.
const FORMAT: &str = "llama-imatrix sensitivity";

/// The contents of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SensitivityFile {
    format: String,
    version: u32,
    /// What the measurements depend on: all files of one measurement have the same.
    pub setup: Setup,
    /// The weights measured so far, by name.
    pub weights: BTreeMap<String, Measurement>,
}

/// What measurements depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// Hash of samples of the model's tensors.
    pub model: String,
    /// Hash of the matrix.
    pub matrix: String,
    /// Hash of the tokens.
    pub text: String,
    /// Tokens per chunk.
    pub ctx_size: u32,
    /// Number of chunks.
    pub chunks: usize,
    /// The type that weights are quantized to; those whose rows do not fit its blocks to what `llama-quantize` falls
    /// back to.
    #[serde(rename = "type")]
    pub dtype: String,
}

/// The measurement of one weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// The type that the weight was quantized to.
    #[serde(rename = "type")]
    pub dtype: String,
    /// Expected squared error of its product. Single precision is read back as it was written; the JSON reader may
    /// round f64.
    pub error: f32,
    /// KL divergence that this error caused.
    pub divergence: f32,
}

impl Measurement {
    /// Returns the divergence per squared error. Noise may make a small divergence negative: then 0.
    #[must_use]
    pub fn sensitivity(&self) -> f64 {
        let (divergence, error) = (f64::from(self.divergence), f64::from(self.error));
        if error > 0.0 { (divergence / error).max(0.0) } else { 0.0 }
    }
}

/// The reason why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// An error of the operating system.
    #[error("cannot read '{}': {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// Not a file of this kind.
    #[error("'{}' is not a file of llama-imatrix sensitivity: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The rule that it breaks.
        reason: String,
    },
}

impl SensitivityFile {
    /// Creates a file without measurements.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        Self { format: FORMAT.to_owned(), version: 1, setup, weights: BTreeMap::new() }
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// See [`FileError`].
    pub fn load(path: &Path) -> Result<Self, FileError> {
        let text = std::fs::read_to_string(path).map_err(|source| FileError::Io { path: path.to_owned(), source })?;
        let wrong = |reason: String| FileError::Format { path: path.to_owned(), reason };
        let file: Self = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if file.format != FORMAT || file.version != 1 {
            return Err(wrong(format!(
                "it says '{}', version {}, expected '{FORMAT}', version 1",
                file.format, file.version
            )));
        }
        let odd = |m: &Measurement| !(m.error.is_finite() && m.error >= 0.0 && m.divergence.is_finite());
        if let Some((name, _)) = file.weights.iter().find(|(_, m)| odd(m)) {
            return Err(wrong(format!("'{name}' has an error or a divergence that is no such number")));
        }
        Ok(file)
    }

    /// Returns the file's text.
    #[must_use]
    pub fn to_json(&self) -> String {
        // A tree of texts and finite numbers always has a text.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_they_were_written_and_others_refused() {
        let setup = Setup {
            model: "m".into(),
            matrix: "i".into(),
            text: "t".into(),
            ctx_size: 512,
            chunks: 3,
            dtype: "q3_K".into(),
        };
        let mut file = SensitivityFile::new(setup);
        let measured = Measurement { dtype: "q3_K".into(), error: 4.0, divergence: 0.1 };
        assert!((measured.sensitivity() - 0.025).abs() < 1e-8);
        assert!(Measurement { divergence: -0.1, ..measured.clone() }.sensitivity().abs() < 1e-30);
        file.weights.insert("output.weight".into(), measured);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.json");
        std::fs::write(&path, file.to_json()).unwrap();
        assert_eq!(SensitivityFile::load(&path).unwrap(), file);
        for (from, to) in
            [("sensitivity\"", "stats\""), ("\"version\": 1", "\"version\": 2"), ("4.0", "-4.0"), ("4.0", "null")]
        {
            std::fs::write(&path, file.to_json().replace(from, to)).unwrap();
            assert!(matches!(SensitivityFile::load(&path), Err(FileError::Format { .. })), "{to}");
        }
    }
}
