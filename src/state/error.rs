//! Errors of states, of their files and of merges: one variant per rule.

use std::path::PathBuf;

use super::{Accumulate, Fingerprint, VERSION};
use crate::{exact, gguf};

/// A rule that a state or its file breaks. The message does not contain the path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An I/O error.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The GGUF container is invalid although its checksum is correct.
    #[error(transparent)]
    Gguf(gguf::Error),
    /// The file is not a state file.
    #[error("not a state file: {0}")]
    NotState(String),
    /// The checksum record at the end of the file is missing or does not match its length.
    #[error("the state file is incomplete or damaged: its last 32 bytes do not match its length of {length} bytes")]
    Incomplete {
        /// Length of the file in bytes.
        length: u64,
    },
    /// The bytes differ from those that were written.
    #[error("the state file is damaged: found checksum {found:032x}, expected {expected:032x}")]
    Checksum {
        /// Checksum of the bytes.
        found: u128,
        /// Checksum in the file.
        expected: u128,
    },
    /// The version of the format is unknown.
    #[error("the state file has version {0} of the format, expected {VERSION}")]
    Version(u32),
    /// A key is missing or has another type or value.
    #[error("state key '{key}' is {found}, expected {expected}")]
    Key {
        /// The key.
        key: String,
        /// Description of what was found.
        found: String,
        /// Description of what is expected.
        expected: &'static str,
    },
    /// A tensor is missing or has another type or shape.
    #[error("state tensor '{name}' is {found}, expected {expected}")]
    Tensor {
        /// The tensor.
        name: String,
        /// Description of what was found.
        found: String,
        /// Description of what is expected.
        expected: String,
    },
    /// The measurements of layers break a rule.
    #[error("the measurements of layers: {0}")]
    Measurements(&'static str),
    /// The sampled rows of experts break a rule.
    #[error("the sampled rows: {0}")]
    Sample(&'static str),
    /// A set of chunks breaks a rule.
    #[error("the {set} chunks are {found}, expected {rule}")]
    Chunks {
        /// Name of the set: `done` or `discarded`.
        set: &'static str,
        /// Chunks of the set, counted from 1.
        found: String,
        /// Rule for the chunks.
        rule: &'static str,
    },
    /// The chunk size is not positive.
    #[error("chunk size is {0}, expected a positive number of tokens")]
    ChunkSize(i32),
    /// The kind of the sums differs from the one in the fingerprint.
    #[error("the sums are {found}, expected {expected} as in the fingerprint")]
    Accumulate {
        /// Kind of the sums.
        found: Accumulate,
        /// Kind in the fingerprint.
        expected: Accumulate,
    },
    /// A flag has no value, or its name is empty or contains `=`.
    #[error("expected NAME=VALUE with a name without '=', found flag '{0}'")]
    Flag(String),
    /// The likelihoods do not match the chunks.
    #[error("{0}")]
    Likelihoods(&'static str),
    /// A weight occurs twice.
    #[error("weight '{0}' occurs twice")]
    DuplicateWeight(String),
    /// A weight refers to sums that cannot exist: there are at most as many as weights.
    #[error("weight '{weight}' has sums number {found}, expected a number below that of weights")]
    NoSums {
        /// The weight.
        weight: String,
        /// Number of the sums.
        found: u32,
        /// Highest number in the file plus 1.
        groups: usize,
    },
    /// Sums belong to no weight.
    #[error("sums number {0} belong to no weight")]
    NoWeight(usize),
    /// The lengths of an entry do not match.
    #[error(transparent)]
    Entry(crate::imatrix::Error),
    /// The lengths or values of an exact entry are invalid.
    #[error("weight '{weight}': {source}")]
    Exact {
        /// The weight.
        weight: String,
        /// The rule.
        source: exact::Error,
    },
    /// The even half of a weight's sums does not fit to the sums.
    #[error("weight '{0}': expected an even half as long as its sums, finite, with 0 to all of its rows")]
    Half(String),
    /// A count is negative.
    #[error("weight '{weight}' has count {found}, expected 0 or more")]
    Count {
        /// The weight.
        weight: String,
        /// The count.
        found: i64,
    },
}

impl From<gguf::Error> for Error {
    fn from(e: gguf::Error) -> Self {
        match e {
            gguf::Error::Io(io) => Error::Io(io),
            other => Error::Gguf(other),
        }
    }
}

/// An error of merging states.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Error,
    },
    /// The states are not parts of one run, or some are missing.
    #[error("{0}")]
    Rule(String),
    /// Sums of a weight cannot be added although the fingerprints are equal.
    #[error("{}: weight '{weight}': {source}", path.display())]
    Sums {
        /// The file.
        path: PathBuf,
        /// The weight.
        weight: String,
        /// The rule.
        source: exact::Error,
    },
}

impl Fingerprint {
    pub(super) fn check(&self) -> Result<(), Error> {
        match self.flags.keys().find(|name| name.is_empty() || name.contains('=')) {
            Some(name) => Err(Error::Flag(name.clone())),
            None => Ok(()),
        }
    }
}
