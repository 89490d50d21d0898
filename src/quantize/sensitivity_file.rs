//! Files of measured sensitivities: JSON, one object per weight, or per group of weights that were measured together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Weight;
use crate::stats::kind;

/// What a file's `format` says.
const FORMAT: &str = "llama-imatrix sensitivity";

/// The contents of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SensitivityFile {
    format: String,
    version: u32,
    /// What the measurements depend on: all files of one measurement have the same.
    pub setup: Setup,
    /// The weights measured alone so far, by name.
    pub weights: BTreeMap<String, Measurement>,
    /// The groups measured so far, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, GroupMeasurement>,
}

/// The weights that are quantized together for one measurement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// Each weight alone.
    #[default]
    Weight,
    /// The weights of a layer; each weight outside the layers alone.
    Layer,
    /// The weights of a kind in all layers, such as `attn_q`.
    Kind,
}

impl By {
    /// Returns the name of a weight's group: the weight's own name if it is alone by definition.
    #[must_use]
    pub fn group(self, weight: &Weight) -> String {
        match (self, weight.block()) {
            (Self::Layer, Some(block)) => format!("blk.{block}"),
            (Self::Kind, Some(_)) => kind(&weight.name),
            _ => weight.name.clone(),
        }
    }
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
    /// The weights that were measured together.
    #[serde(default)]
    pub by: By,
}

/// The measurement of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupMeasurement {
    /// KL divergence that the errors of all its weights together caused.
    pub divergence: f32,
    /// Its weights by name.
    pub weights: BTreeMap<String, GroupWeight>,
}

/// A weight of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupWeight {
    /// The type that the weight was quantized to.
    #[serde(rename = "type")]
    pub dtype: String,
    /// Expected squared error of its product.
    pub error: f32,
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
        Self { format: FORMAT.to_owned(), version: 1, setup, weights: BTreeMap::new(), groups: BTreeMap::new() }
    }

    /// Returns true if a group, or a weight measured alone, is in the file.
    #[must_use]
    pub fn has(&self, group: &str) -> bool {
        self.weights.contains_key(group) || self.groups.contains_key(group)
    }

    /// Returns the number of measurements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.weights.len() + self.groups.len()
    }

    /// Returns true if there are no measurements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the names of all weights that were measured.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let grouped = self.groups.values().flat_map(|group| group.weights.keys());
        self.weights.keys().chain(grouped).map(String::as_str)
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
        let is_error = |error: f32| error.is_finite() && error >= 0.0;
        let alone = file.weights.iter().find(|(_, m)| !(is_error(m.error) && m.divergence.is_finite()));
        let group = file.groups.iter().find(|(_, group)| {
            !(group.divergence.is_finite() && group.weights.values().all(|weight| is_error(weight.error)))
        });
        if let Some(name) = alone.map(|(name, _)| name).or(group.map(|(name, _)| name)) {
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
            by: By::Layer,
        };
        let mut file = SensitivityFile::new(setup);
        let measured = Measurement { dtype: "q3_K".into(), error: 4.0, divergence: 0.1 };
        assert!((measured.sensitivity() - 0.025).abs() < 1e-8);
        assert!(Measurement { divergence: -0.1, ..measured.clone() }.sensitivity().abs() < 1e-30);
        file.weights.insert("output.weight".into(), measured);
        let weight = GroupWeight { dtype: "q3_K".into(), error: 8.0 };
        let group = GroupMeasurement { divergence: 0.5, weights: [("blk.1.attn_q.weight".to_owned(), weight)].into() };
        file.groups.insert("blk.1".into(), group);
        assert!(file.has("blk.1") && file.has("output.weight") && !file.has("blk.2") && file.len() == 2);
        assert_eq!(file.names().collect::<Vec<_>>(), ["output.weight", "blk.1.attn_q.weight"]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.json");
        std::fs::write(&path, file.to_json()).unwrap();
        assert_eq!(SensitivityFile::load(&path).unwrap(), file);
        for (from, to) in [
            ("sensitivity\"", "stats\""),
            ("\"version\": 1", "\"version\": 2"),
            ("4.0", "-4.0"),
            ("4.0", "null"),
            ("8.0", "-8.0"),
        ] {
            std::fs::write(&path, file.to_json().replace(from, to)).unwrap();
            assert!(matches!(SensitivityFile::load(&path), Err(FileError::Format { .. })), "{to}");
        }
        // Files of weights need not say so.
        let older = file.to_json().replace(",\n    \"by\": \"layer\"", "");
        assert!(!older.contains("\"by\""), "{older}");
        std::fs::write(&path, older).unwrap();
        assert_eq!(SensitivityFile::load(&path).unwrap().setup.by, By::Weight);
    }

    #[test]
    fn groups_are_layers_or_kinds_and_weights_outside_the_layers_are_alone() {
        use crate::gguf::DType;
        let weight = |name: &str| Weight::new(name, DType::F16, [64, 64, 1, 1], 0);
        for (name, layer, kind) in [
            ("blk.12.attn_q.weight", "blk.12", "attn_q"),
            ("blk.0.ffn_up_exps.weight", "blk.0", "ffn_up_exps"),
            ("output.weight", "output.weight", "output.weight"),
        ] {
            let groups = [By::Weight, By::Layer, By::Kind].map(|by| by.group(&weight(name)));
            assert_eq!(groups, [name, layer, kind], "{name}");
        }
    }
}
