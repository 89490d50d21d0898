//! The lens file `imatrix.lens.json`, which a run writes next to `imatrix.gguf`: its measurements of the layers.
//!
//! The format is JSON. `docs/lens-file.md` describes each field and its formula. Undefined numbers (the reduction before the
//! first layer, a mean over no positions) are NaN in memory and `null` in the file.

mod check;
mod error;

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};

pub use error::Error;

use crate::atomic_file;
use check::check_head;

/// Value of the field `format`.
pub const FORMAT: &str = "llama-imatrix lens";
/// Version of the format that is read and written.
pub const VERSION: u32 = 1;
/// Maximum size of a file in bytes; files have less than a kilobyte per layer.
const MAX_BYTES: u64 = 64 << 20;
/// Maximum number of layers.
const MAX_LAYERS: u32 = 1 << 16;

/// A lens file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LensFile {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// The model that was measured.
    pub model: Model,
    /// Names of the calibration files.
    pub dataset: String,
    /// The sampled positions.
    pub positions: Positions,
    /// The logit lens, if requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lens: Option<Section<Lens>>,
    /// The logit prism, if requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prism: Option<Section<Prism>>,
    /// Layer similarity, if requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub similarity: Option<Section<Similarity>>,
}

/// The model, by its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// `general.name`, or the file's name.
    pub name: String,
    /// `general.architecture`.
    pub architecture: String,
    /// Number of layers; layers are numbered from 0.
    pub n_layer: u32,
}

/// The sampled positions of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Positions {
    /// Number of chunks that were measured.
    pub chunks: u64,
    /// Number of chunks of the run. It is larger if the run was resumed or if the logits file has fewer chunks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_chunks: Option<u64>,
    /// Tokens per chunk.
    pub chunk_size: u32,
    /// Maximum number of positions per chunk.
    pub per_chunk: u32,
    /// Total number of sampled positions.
    pub sampled: u64,
    /// Seed for drawing positions.
    pub seed: u64,
}

/// The results of a measurement, or the reason why there are none.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Section<T> {
    /// The model's architecture does not allow it.
    Unsupported {
        /// The reason, with the name of the architecture.
        unsupported: String,
    },
    /// The results.
    Measured(T),
}

/// The logit lens: the model's LM head applied to the residual stream after each layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lens {
    /// Source of the final distribution: `model`, or the name of a logits file.
    pub base: String,
    /// Results for the stream before the first layer; the reduction is NaN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<LensPoint>,
    /// Results per layer, ascending.
    pub layers: Vec<LensLayer>,
}

/// The logit lens after one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LensLayer {
    /// Index of the layer.
    pub layer: u32,
    /// Results for the stream after the layer.
    #[serde(flatten)]
    pub point: LensPoint,
    /// Results for the stream after the layer's attention and before its feed-forward network; the reduction is from
    /// before the layer. `None` if the two read the same stream, or in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_attention: Option<LensPoint>,
}

/// Measures of how close the distribution at one point of the stream is to the final distribution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LensPoint {
    /// KL(final ‖ this), in nats.
    pub kl: Spread,
    /// Mean KL before the layer minus mean KL after the layer, in nats.
    #[serde(with = "nan_is_null")]
    pub kl_reduction: f64,
    /// Share of positions with the same most likely token as the final distribution.
    #[serde(with = "nan_is_null")]
    pub top1_agreement: f64,
    /// Mean of -ln p of the next token, in nats.
    #[serde(with = "nan_is_null")]
    pub target_nll: f64,
}

/// Mean and quantiles over the positions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Mean.
    #[serde(with = "nan_is_null")]
    pub mean: f64,
    /// 5 % quantile.
    #[serde(with = "nan_is_null")]
    pub p5: f64,
    /// Lower quartile.
    #[serde(with = "nan_is_null")]
    pub p25: f64,
    /// Median.
    #[serde(with = "nan_is_null")]
    pub p50: f64,
    /// Upper quartile.
    #[serde(with = "nan_is_null")]
    pub p75: f64,
    /// 95 % quantile.
    #[serde(with = "nan_is_null")]
    pub p95: f64,
}

/// The logit prism: the contribution of each part of the model to the logits of two tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prism {
    /// The logit of the text's next token.
    #[serde(flatten)]
    pub next_token: Decomposition,
    /// The logit of the token that the model finds likeliest. `None` in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub likeliest_token: Option<Decomposition>,
}

/// The contributions to a logit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decomposition {
    /// Parts: the embedding, the layers ascending, then parts outside the layers.
    pub parts: Vec<PrismPart>,
    /// Layers, ascending. Empty in files of earlier versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<PrismLayer>,
    /// Error of the sum of the parts.
    pub sum_check: SumCheck,
}

/// The contributions of a layer: of all its parts together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrismLayer {
    /// Index of the layer.
    pub layer: u32,
    /// Contribution to the logit. `mean_abs` is the mean of the absolute values of the sums, since parts of a layer may
    /// cancel each other; `share` is of all layers and the parts outside of them.
    pub raw: Addition,
    /// Contribution to the logit minus the mean logit of the vocabulary.
    pub relative: Addition,
}

/// The contributions of one part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrismPart {
    /// Kind of the part.
    pub part: Part,
    /// Index of the layer; `None` outside the layers.
    pub layer: Option<u32>,
    /// Contribution to the logit.
    pub raw: Addition,
    /// Contribution to the logit minus the mean logit of the vocabulary, the difference that the softmax depends on.
    pub relative: Addition,
}

/// The kind of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The input of the first layer.
    Embedding,
    /// A layer's attention, or the recurrence or convolution in its place.
    Attention,
    /// A layer's whole feed-forward network.
    FeedForward,
    /// The shared experts within [`FeedForward`](Self::FeedForward), which process every token.
    SharedExperts,
    /// The routed experts within [`FeedForward`](Self::FeedForward).
    RoutedExperts,
    /// Any other term of the residual stream, in a layer or outside.
    Other,
    /// The bias of the final norm, multiplied by the output matrix.
    NormBias,
    /// The bias of the output matrix.
    OutputBias,
    /// The error from rounding the input of the output matrix, which a quantized matrix requires.
    Rounding,
}

impl Part {
    /// Returns true if this is a detail of another part, so that it does not count in the sum.
    #[must_use]
    pub const fn is_detail(self) -> bool {
        matches!(self, Part::SharedExperts | Part::RoutedExperts)
    }
}

/// The contribution of a part, over the positions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Addition {
    /// Mean.
    #[serde(with = "nan_is_null")]
    pub mean: f64,
    /// Mean of the absolute values.
    #[serde(with = "nan_is_null")]
    pub mean_abs: f64,
    /// `mean_abs` divided by the sum of `mean_abs` over all parts that are not details.
    #[serde(with = "nan_is_null")]
    pub share: f64,
}

/// Compares the sum of the parts with the model's logit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SumCheck {
    /// Maximum over the positions of |sum - logit| / max(1, |logit|).
    #[serde(with = "nan_is_null")]
    pub max_relative_error: f64,
}

/// Layer similarity: how much each layer turns the residual stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Similarity {
    /// Layers, ascending.
    pub layers: Vec<SimilarityLayer>,
}

/// Cosines of the stream before and after a layer, over the positions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SimilarityLayer {
    /// Index of the layer.
    pub layer: u32,
    /// Before and after the layer.
    pub whole: Spread,
    /// Before and after its attention, or the operation in its place.
    pub attention: Option<Spread>,
    /// Before and after its feed-forward network.
    pub feed_forward: Option<Spread>,
    /// Relative distances. `None` in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distance: Option<Distance>,
}

/// Distances ‖after - before‖ / ‖before‖ of the stream before and after a layer, over the positions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distance {
    /// Before and after the layer.
    pub whole: Spread,
    /// Before and after its attention, or the operation in its place.
    pub attention: Option<Spread>,
    /// Before and after its feed-forward network.
    pub feed_forward: Option<Spread>,
}

impl LensFile {
    /// Returns the path of a matrix's lens file: `imatrix.lens.json` for `imatrix.gguf`.
    #[must_use]
    pub fn beside(matrix: &Path) -> PathBuf {
        matrix.with_extension("lens.json")
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`Error::Io`], or the rule that the file breaks.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let found = std::fs::metadata(path)?.len();
        if found > MAX_BYTES {
            let rule = format!("not a lens file: {found} bytes, expected at most {MAX_BYTES}");
            return Err(Error::Rule(rule));
        }
        Self::parse(&std::fs::read(path)?)
    }

    /// Reads and checks a file in memory.
    ///
    /// # Errors
    /// The rule that the bytes break.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        // Format and version are checked first: another version may have other fields.
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: u32,
        }
        let head: Head = serde_json::from_slice(bytes)?;
        check_head(&head.format, head.version)?;
        let file: Self = serde_json::from_slice(bytes)?;
        file.check()?;
        Ok(file)
    }

    /// Checks the contents and replaces the file at `path` atomically.
    ///
    /// # Errors
    /// [`Error::Io`], or the rule that the contents break.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        self.check()?;
        atomic_file::save(path, |out| self.write(out))
    }

    /// Checks the contents and writes them to `out`.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub fn write(&self, mut out: impl Write) -> Result<(), Error> {
        self.check()?;
        serde_json::to_writer_pretty(&mut out, self)?;
        out.write_all(b"\n").map_err(Error::from)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Section<T> {
    /// Serde's derived code for untagged enums would not report the wrong field.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        match value.get("unsupported") {
            Some(serde_json::Value::String(reason)) => Ok(Section::Unsupported { unsupported: reason.clone() }),
            Some(_) => Err(D::Error::custom("'unsupported' is not a string")),
            None => serde_json::from_value(value).map(Section::Measured).map_err(D::Error::custom),
        }
    }
}

/// Writes NaN and infinity, which JSON does not have, as `null`; reads `null` as NaN.
mod nan_is_null {
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(x: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if x.is_finite() { serializer.serialize_f64(*x) } else { serializer.serialize_none() }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Option::<f64>::deserialize(deserializer).map(|x| x.unwrap_or(f64::NAN))
    }
}

#[cfg(test)]
mod tests;
