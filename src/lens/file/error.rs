//! The rules that a lens file can break: one variant per rule.

use std::io;

use super::{FORMAT, MAX_BYTES, MAX_LAYERS, Part, VERSION};

/// A rule that a lens file breaks. The caller adds the file's path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error of the operating system.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A file that is too large.
    #[error("not a lens file: {found} bytes, expected at most {MAX_BYTES}")]
    TooLarge {
        /// The file's size.
        found: u64,
    },
    /// Invalid JSON, or a field that is missing or has another type.
    #[error("not a lens file: {0}")]
    Json(serde_json::Error),
    /// Another format.
    #[error("not a lens file: 'format' is \"{0}\", expected \"{FORMAT}\"")]
    Format(String),
    /// An unsupported version.
    #[error("the lens file's version is {0}, expected {VERSION}")]
    Version(u32),
    /// A model without layers or with too many.
    #[error("the lens file's model has {0} layers, expected 1 to {MAX_LAYERS}")]
    Layers(u32),
    /// A layer that is out of order, a duplicate or beyond the model's last layer.
    #[error("layer {layer} of '{section}' is out of order, a duplicate, or not below the model's {n_layer} layers")]
    Layer {
        /// The section.
        section: &'static str,
        /// The layer.
        layer: u32,
        /// Number of layers of the model.
        n_layer: u32,
    },
    /// A part whose layer is missing or unexpected, or a duplicate.
    #[error("part '{part:?}' of 'prism' has layer {layer:?}: missing, unexpected, or a duplicate")]
    Part {
        /// The part.
        part: Part,
        /// Its layer.
        layer: Option<u32>,
    },
    /// A number that is out of range.
    #[error("'{section}' has {what} {found}, expected {expected}")]
    Range {
        /// The section.
        section: &'static str,
        /// Name of the number.
        what: &'static str,
        /// The number.
        found: f64,
        /// The valid range.
        expected: &'static str,
    },
}

impl From<serde_json::Error> for Error {
    fn from(e: serde_json::Error) -> Self {
        if e.is_io() { Self::Io(e.into()) } else { Self::Json(e) }
    }
}
