//! What the user of a corpus should hear of.

use std::fmt;

use super::encoding::{Invalid, NotText};

/// Something about a file that a run does not fail over.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// Parts of it are not UTF-8: the tokenizer makes of them what it can.
    Invalid {
        /// The file, or what stands for one.
        origin: String,
        /// Where and how much.
        what: Invalid,
    },
    /// It is no text and was left out of its folder.
    Skipped {
        /// The file.
        origin: String,
        /// Why.
        reason: NotText,
    },
    /// It is no text and was taken all the same, since it was asked for [as it is](super::Input::raw).
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
