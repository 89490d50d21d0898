//! The lens file, `imatrix.lens.json` beside `imatrix.gguf`: what a run found out about the layers.
//!
//! It is JSON; `docs/lens-file.md` describes it field by field, with the formulas. Numbers that have no meaning (a
//! reduction before the first layer, a mean over no position) are NaN here and `null` there.

mod check;
mod error;

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};

pub use error::Error;

use crate::atomic_file;
use check::check_head;

/// What the field `format` says.
pub const FORMAT: &str = "llama-imatrix lens";
/// The version of the format that is read and written.
pub const VERSION: u32 = 1;
/// Bytes of the largest file that is read; a real one has less than a kilobyte a layer.
const MAX_BYTES: u64 = 64 << 20;
/// Layers of the largest model that is believed.
const MAX_LAYERS: u32 = 1 << 16;

/// A lens file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LensFile {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// The model that was looked into.
    pub model: Model,
    /// Names of the calibration files.
    pub dataset: String,
    /// Where in the text it was looked at.
    pub positions: Positions,
    /// The logit lens, if it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lens: Option<Section<Lens>>,
    /// The logit prism, if it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prism: Option<Section<Prism>>,
    /// Layer similarity, if it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub similarity: Option<Section<Similarity>>,
}

/// The model, as its file describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// `general.name`, or the file's name.
    pub name: String,
    /// `general.architecture`.
    pub architecture: String,
    /// Layers, numbered from 0.
    pub n_layer: u32,
}

/// The positions of the text that were sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Positions {
    /// Chunks that were looked into.
    pub chunks: u64,
    /// Chunks of the run: more where it was resumed, or where a file of logits holds fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_chunks: Option<u64>,
    /// Tokens a chunk.
    pub chunk_size: u32,
    /// Positions sampled a chunk, at most.
    pub per_chunk: u32,
    /// Positions sampled in all.
    pub sampled: u64,
    /// The seed they were drawn with.
    pub seed: u64,
}

/// What was measured, or why it could not be.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Section<T> {
    /// The model's architecture does not allow it.
    Unsupported {
        /// Why not, naming the architecture.
        unsupported: String,
    },
    /// The results.
    Measured(T),
}

/// The residual stream after each layer, read by the model's own output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lens {
    /// Where the final distribution comes from: `model`, or a logits file's name.
    pub base: String,
    /// The stream before the first layer; its reduction is NaN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<LensPoint>,
    /// After each layer, ascending.
    pub layers: Vec<LensLayer>,
}

/// One layer's part of the lens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LensLayer {
    /// The layer.
    pub layer: u32,
    /// What its output says.
    #[serde(flatten)]
    pub point: LensPoint,
}

/// How near the stream at one place is to what the model finally says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LensPoint {
    /// KL(final ‖ here), in nats.
    pub kl: Spread,
    /// Mean KL before the layer minus mean KL after it, in nats.
    #[serde(with = "nan_is_null")]
    pub kl_reduction: f64,
    /// Share of positions where the likeliest token is the final distribution's.
    #[serde(with = "nan_is_null")]
    pub top1_agreement: f64,
    /// Mean of -ln p of the token that follows, in nats.
    #[serde(with = "nan_is_null")]
    pub target_nll: f64,
}

/// Mean and quantiles over positions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The mean.
    #[serde(with = "nan_is_null")]
    pub mean: f64,
    /// The 5 % quantile.
    #[serde(with = "nan_is_null")]
    pub p5: f64,
    /// The lower quartile.
    #[serde(with = "nan_is_null")]
    pub p25: f64,
    /// The median.
    #[serde(with = "nan_is_null")]
    pub p50: f64,
    /// The upper quartile.
    #[serde(with = "nan_is_null")]
    pub p75: f64,
    /// The 95 % quantile.
    #[serde(with = "nan_is_null")]
    pub p95: f64,
}

/// What each part of the model adds to the logit of the token that follows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prism {
    /// The parts: the embedding, the layers ascending, then what belongs to no layer.
    pub parts: Vec<PrismPart>,
    /// Whether they add up.
    pub sum_check: SumCheck,
}

/// One part's additions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrismPart {
    /// Which part.
    pub part: Part,
    /// Its layer, if it is of one.
    pub layer: Option<u32>,
    /// To the logit itself.
    pub raw: Addition,
    /// To the logit less the mean logit of the vocabulary, which is what the softmax sees.
    pub relative: Addition,
}

/// The kinds of parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// What enters the first layer.
    Embedding,
    /// A layer's attention, or what stands in its place (recurrence, convolution).
    Attention,
    /// A layer's feed-forward network, all of it.
    FeedForward,
    /// The experts within [`FeedForward`](Self::FeedForward) that every token goes through.
    SharedExperts,
    /// The experts within [`FeedForward`](Self::FeedForward) that tokens are routed to.
    RoutedExperts,
    /// What else is added to the residual stream, in a layer or outside.
    Other,
    /// The final norm's bias, seen through the output matrix.
    NormBias,
    /// The output matrix's bias.
    OutputBias,
    /// What the output matrix's product adds by rounding its input, as it does where the matrix is quantized.
    Rounding,
}

impl Part {
    /// Whether this splits another part further, so that it does not count in the sum.
    #[must_use]
    pub const fn is_detail(self) -> bool {
        matches!(self, Part::SharedExperts | Part::RoutedExperts)
    }
}

/// What a part adds, over the positions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Addition {
    /// The mean.
    #[serde(with = "nan_is_null")]
    pub mean: f64,
    /// The mean of absolute values.
    #[serde(with = "nan_is_null")]
    pub mean_abs: f64,
    /// `mean_abs` over the sum of `mean_abs` of all parts that are no detail.
    #[serde(with = "nan_is_null")]
    pub share: f64,
}

/// The parts' sum against the model's own logit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SumCheck {
    /// The largest, over positions, of |sum - logit| / max(1, |logit|).
    #[serde(with = "nan_is_null")]
    pub max_relative_error: f64,
}

/// How much each layer turns the residual stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Similarity {
    /// The layers, ascending.
    pub layers: Vec<SimilarityLayer>,
}

/// Cosines of the stream before and after, over positions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SimilarityLayer {
    /// The layer.
    pub layer: u32,
    /// Around the whole layer.
    pub whole: Spread,
    /// Around its attention, or what stands in its place.
    pub attention: Option<Spread>,
    /// Around its feed-forward network.
    pub feed_forward: Option<Spread>,
}

impl LensFile {
    /// Where the lens file of a matrix lies: `imatrix.lens.json` for `imatrix.gguf`.
    #[must_use]
    pub fn beside(matrix: &Path) -> PathBuf {
        matrix.with_extension("lens.json")
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// The operating system's, or the rule that the file breaks.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let found = std::fs::metadata(path)?.len();
        if found > MAX_BYTES {
            return Err(Error::TooLarge { found });
        }
        Self::parse(&std::fs::read(path)?)
    }

    /// As [`load`](Self::load), for a file that lies in memory.
    ///
    /// # Errors
    /// The rule that the bytes break.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        // Another version's fields need not be ours: what it is comes first.
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

    /// Checks, and replaces the file at `path` as a whole.
    ///
    /// # Errors
    /// The rule that this breaks, or the operating system's.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        self.check()?;
        atomic_file::save(path, |out| self.write(out))
    }

    /// As [`save`](Self::save), to wherever `out` leads.
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
    /// Serde's own way for enums without tags hides which field is wrong.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        match value.get("unsupported") {
            Some(serde_json::Value::String(reason)) => Ok(Section::Unsupported { unsupported: reason.clone() }),
            Some(_) => Err(D::Error::custom("'unsupported' is no text")),
            None => serde_json::from_value(value).map(Section::Measured).map_err(D::Error::custom),
        }
    }
}

/// NaN and infinity as `null`, which JSON has no other way to say; `null` as NaN.
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
