//! What can be wrong with a lens file: one variant a rule.

use std::io;

use super::{FORMAT, MAX_BYTES, MAX_LAYERS, Part, VERSION};

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
    Json(serde_json::Error),
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

impl From<serde_json::Error> for Error {
    fn from(e: serde_json::Error) -> Self {
        if e.is_io() { Self::Io(e.into()) } else { Self::Json(e) }
    }
}
