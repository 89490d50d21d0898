//! The lens file, `imatrix.lens.json` beside `imatrix.gguf`: what a run found out about the layers.
//!
//! It is JSON; `docs/lens-file.md` describes it field by field, with the formulas. Numbers that have no meaning (a
//! reduction before the first layer, a mean over no position) are NaN here and `null` there.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};

use crate::imatrix::save_atomic;

/// What the field `format` says.
pub const FORMAT: &str = "llama-imatrix lens";
/// The version of the format that is read and written.
pub const VERSION: u32 = 1;
/// Bytes of the largest file that is read; a real one has less than a kilobyte a layer.
const MAX_BYTES: u64 = 64 << 20;
/// Layers of the largest model that is believed.
const MAX_LAYERS: u32 = 1 << 16;
/// How far above 1 a cosine or a share may lie, by rounding.
const ROUNDING: f64 = 1e-3;

/// A lens file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LensFile {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// The model that was looked into.
    pub model: Model,
    /// Name of the calibration file.
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

/// A rule that a lens file breaks. The path is the caller's to add.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Larger than any real file.
    #[error("not a lens file: {found} bytes, expected at most {MAX_BYTES}")]
    TooLarge {
        /// The file's size.
        found: u64,
    },
    /// No JSON, or a field that is missing or of another type.
    #[error("not a lens file: {0}")]
    Json(#[from] serde_json::Error),
    /// Another format.
    #[error("not a lens file: 'format' is \"{0}\", expected \"{FORMAT}\"")]
    Format(String),
    /// A version that is not known here.
    #[error("the lens file's version is {0}, expected {VERSION}")]
    Version(u32),
    /// A model of no or too many layers.
    #[error("the lens file's model has {0} layers, expected 1 to {MAX_LAYERS}")]
    Layers(u32),
    /// A layer out of order, twice or beyond the model's last.
    #[error("layer {layer} of '{section}' is out of order, given twice or not below the model's {n_layer} layers")]
    Layer {
        /// Where.
        section: &'static str,
        /// The layer.
        layer: u32,
        /// The model's layers.
        n_layer: u32,
    },
    /// A part that needs a layer and has none, or the other way round, or is given twice.
    #[error("part '{part:?}' of 'prism' has layer {layer:?}: missing, unexpected, or given twice")]
    Part {
        /// The part.
        part: Part,
        /// Its layer.
        layer: Option<u32>,
    },
    /// A number that cannot be.
    #[error("'{section}' has {what} {found}, expected {expected}")]
    Range {
        /// Where.
        section: &'static str,
        /// Which number.
        what: &'static str,
        /// The number.
        found: f64,
        /// What it may be.
        expected: &'static str,
    },
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
        save_atomic(path, |out| {
            serde_json::to_writer_pretty(&mut *out, self)?;
            out.write_all(b"\n").map_err(Error::from)
        })
    }

    /// What every file must satisfy, checked on reading and on writing.
    ///
    /// # Errors
    /// The rule that this breaks.
    pub fn check(&self) -> Result<(), Error> {
        check_head(&self.format, self.version)?;
        let n_layer = self.model.n_layer;
        if !(1..=MAX_LAYERS).contains(&n_layer) {
            return Err(Error::Layers(n_layer));
        }
        if let Some(Section::Measured(lens)) = &self.lens {
            ascending("lens", lens.layers.iter().map(|l| l.layer), n_layer)?;
            lens.embedding.iter().chain(lens.layers.iter().map(|l| &l.point)).try_for_each(check_point)?;
        }
        if let Some(Section::Measured(prism)) = &self.prism {
            check_prism(prism, n_layer)?;
        }
        if let Some(Section::Measured(similarity)) = &self.similarity {
            ascending("similarity", similarity.layers.iter().map(|l| l.layer), n_layer)?;
            for layer in &similarity.layers {
                let parts = [Some(layer.whole), layer.attention, layer.feed_forward];
                parts
                    .iter()
                    .flatten()
                    .try_for_each(|s| check_spread("similarity", s, -1.0 - ROUNDING, 1.0 + ROUNDING))?;
            }
        }
        Ok(())
    }
}

fn check_head(format: &str, version: u32) -> Result<(), Error> {
    if format != FORMAT {
        return Err(Error::Format(format.to_owned()));
    }
    if version != VERSION {
        return Err(Error::Version(version));
    }
    Ok(())
}

fn ascending(section: &'static str, layers: impl Iterator<Item = u32>, n_layer: u32) -> Result<(), Error> {
    let mut next = 0;
    for layer in layers {
        if layer < next || layer >= n_layer {
            return Err(Error::Layer { section, layer, n_layer });
        }
        next = layer + 1;
    }
    Ok(())
}

fn check_point(point: &LensPoint) -> Result<(), Error> {
    // A divergence of a rounded distribution from itself may come out a little below zero.
    check_spread("lens", &point.kl, -ROUNDING, f64::INFINITY)?;
    within("lens", "a top-1 agreement of", point.top1_agreement, 0.0, 1.0 + ROUNDING, "0 to 1")
}

fn check_prism(prism: &Prism, n_layer: u32) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    for p in &prism.parts {
        let fits = match p.part {
            Part::Embedding | Part::NormBias | Part::OutputBias => p.layer.is_none(),
            Part::Attention | Part::FeedForward | Part::SharedExperts | Part::RoutedExperts => p.layer.is_some(),
            Part::Other => true,
        };
        if !fits || !seen.insert((p.layer, p.part)) {
            return Err(Error::Part { part: p.part, layer: p.layer });
        }
        if let Some(layer) = p.layer.filter(|&layer| layer >= n_layer) {
            return Err(Error::Layer { section: "prism", layer, n_layer });
        }
        for addition in [p.raw, p.relative] {
            within("prism", "a mean absolute value of", addition.mean_abs, 0.0, f64::INFINITY, "0 or more")?;
            // A detail may be larger than the whole that it cancels out of.
            let most = if p.part.is_detail() { f64::INFINITY } else { 1.0 + ROUNDING };
            within("prism", "a share of", addition.share, 0.0, most, "0 to 1")?;
        }
    }
    Ok(())
}

fn check_spread(section: &'static str, s: &Spread, least: f64, most: f64) -> Result<(), Error> {
    let quantiles = [s.p5, s.p25, s.p50, s.p75, s.p95];
    let expected = if most.is_finite() { "-1 to 1" } else { "0 or more" };
    within(section, "a mean of", s.mean, least, most, expected)?;
    for x in quantiles {
        within(section, "a quantile of", x, least, most, expected)?;
    }
    match quantiles.windows(2).find(|pair| pair[0] > pair[1]) {
        Some(pair) => Err(Error::Range {
            section,
            what: "a quantile of",
            found: pair[1],
            expected: "no less than the one before",
        }),
        None => Ok(()),
    }
}

/// Lets NaN pass: it stands for what has no meaning.
fn within(
    section: &'static str,
    what: &'static str,
    found: f64,
    least: f64,
    most: f64,
    expected: &'static str,
) -> Result<(), Error> {
    if found < least || found > most {
        return Err(Error::Range { section, what, found, expected });
    }
    Ok(())
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
mod tests {
    use super::*;

    fn spread(x: f64) -> Spread {
        Spread { mean: x, p5: x, p25: x, p50: x, p75: x, p95: x }
    }

    fn point(kl: f64) -> LensPoint {
        LensPoint { kl: spread(kl), kl_reduction: f64::NAN, top1_agreement: 0.5, target_nll: 2.0 }
    }

    fn file() -> LensFile {
        let addition = Addition { mean: -1.0, mean_abs: 1.0, share: 0.5 };
        let part = |part, layer| PrismPart { part, layer, raw: addition, relative: addition };
        LensFile {
            format: FORMAT.into(),
            version: VERSION,
            model: Model { name: "m".into(), architecture: "llama".into(), n_layer: 2 },
            dataset: "text".into(),
            positions: Positions { chunks: 1, chunk_size: 512, per_chunk: 32, sampled: 32, seed: 7 },
            lens: Some(Section::Measured(Lens {
                base: "model".into(),
                embedding: Some(point(3.0)),
                layers: vec![LensLayer { layer: 1, point: point(0.0) }],
            })),
            prism: Some(Section::Measured(Prism {
                parts: vec![part(Part::Embedding, None), part(Part::Attention, Some(1))],
                sum_check: SumCheck { max_relative_error: 1e-6 },
            })),
            similarity: Some(Section::Unsupported { unsupported: "no residual stream".into() }),
        }
    }

    #[test]
    fn what_is_written_is_read_and_nan_is_null() {
        let dir = tempfile::tempdir().unwrap();
        let path = LensFile::beside(&dir.path().join("imatrix.gguf"));
        assert!(path.ends_with("imatrix.lens.json"));
        file().save(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("\"kl_reduction\": null") && text.contains("\"unsupported\": \"no residual"), "{text}");
        let read = LensFile::load(&path).unwrap();
        let Some(Section::Measured(lens)) = &read.lens else { panic!("{read:?}") };
        assert!(lens.layers[0].point.kl_reduction.is_nan());
        assert_eq!((&read.prism, &read.similarity), (&file().prism, &file().similarity));
    }

    #[test]
    fn each_rule_has_its_error() {
        let broken = |change: fn(&mut LensFile)| {
            let mut file = file();
            change(&mut file);
            file.check().unwrap_err().to_string()
        };
        let says = [
            (broken(|f| f.version = 2), "version is 2"),
            (broken(|f| f.format = "x".into()), "format"),
            (broken(|f| f.model.n_layer = 0), "0 layers"),
            (broken(|f| f.model.n_layer = 1), "layer 1 of 'lens'"),
            (broken(|f| lens(f).layers.push(LensLayer { layer: 0, point: point(0.0) })), "layer 0 of 'lens'"),
            (broken(|f| lens(f).layers[0].point.top1_agreement = 2.0), "top-1 agreement of 2"),
            (broken(|f| lens(f).layers[0].point.kl.p5 = 9.0), "no less than the one before"),
            (broken(|f| lens(f).layers[0].point.kl = spread(-1.0)), "mean of -1"),
            (broken(|f| prism(f).parts[1].layer = None), "Attention"),
            (broken(|f| prism(f).parts[0].raw.share = 1.5), "share of 1.5"),
        ];
        for (found, part) in says {
            assert!(found.contains(part), "'{found}' says nothing of '{part}'");
        }
        let wrong = serde_json::to_string(&file()).unwrap().replace("\"mean_abs\"", "\"mean_ab\"");
        assert!(LensFile::parse(wrong.as_bytes()).unwrap_err().to_string().contains("mean_abs"));
        assert!(matches!(
            LensFile::parse(b"{\"format\":\"llama-imatrix lens\",\"version\":9}"),
            Err(Error::Version(9))
        ));
        assert!(matches!(LensFile::parse(b"\x00"), Err(Error::Json(_))));
    }

    fn lens(file: &mut LensFile) -> &mut Lens {
        let Some(Section::Measured(lens)) = &mut file.lens else { panic!() };
        lens
    }

    fn prism(file: &mut LensFile) -> &mut Prism {
        let Some(Section::Measured(prism)) = &mut file.prism else { panic!() };
        prism
    }
}
