//! Notes about a corpus for its user.

use std::fmt;

use super::encoding::{Invalid, NotText};

/// A problem of a file that is not an error.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// Parts of it are not UTF-8. The tokenizer handles them.
    Invalid {
        /// The file, or the name of another source.
        origin: String,
        /// Offset and number of the invalid parts.
        what: Invalid,
    },
    /// It is not text and was skipped in its folder.
    Skipped {
        /// The file.
        origin: String,
        /// Why.
        reason: NotText,
    },
    /// It is not text, and was read unchanged on [request](super::Input::raw).
    Raw {
        /// The file.
        origin: String,
        /// Why.
        reason: NotText,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { origin, what: Invalid { offset, sequences } } => {
                let s = if *sequences == 1 { "" } else { "s" };
                write!(f, "{origin}: {sequences} byte sequence{s} not UTF-8, the first at offset {offset}")
            }
            Self::Skipped { origin, reason } => write!(f, "{origin}: skipped, it is no text: {reason}"),
            Self::Raw { origin, reason } => write!(f, "{origin}: taken as it is, but it is no text: {reason}"),
        }
    }
}
