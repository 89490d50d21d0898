//! What can be wrong with a state, its file, or a merge of several: one variant a rule.

use std::path::PathBuf;

use super::{Accumulate, Fingerprint, VERSION};
use crate::{exact, gguf};

/// A rule that a state or its file breaks. The path is the caller's to add.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The container is broken although its checksum is right: it was written so.
    #[error(transparent)]
    Gguf(gguf::Error),
    /// A file of another kind.
    #[error("not a state file: {0}")]
    NotState(String),
    /// The end of the file is not there.
    #[error("the state file is incomplete or damaged: its end does not fit its length of {length} bytes")]
    Incomplete {
        /// Bytes in the file.
        length: u64,
    },
    /// The bytes are not those that were written.
    #[error("the state file is damaged: its checksum is {found:032x}, the one it was written with {expected:032x}")]
    Checksum {
        /// Of the bytes.
        found: u128,
        /// As written.
        expected: u128,
    },
    /// A version of the format that is not known here.
    #[error("the state file has version {0} of the format, this program reads version {VERSION}")]
    Version(u32),
    /// A key that is missing or of another type or value.
    #[error("state key '{key}' is {found}, expected {expected}")]
    Key {
        /// The key.
        key: String,
        /// What is there.
        found: String,
        /// What it must be.
        expected: &'static str,
    },
    /// A tensor that is missing or of another type or shape.
    #[error("state tensor '{name}' is {found}, expected {expected}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is there.
        found: String,
        /// What it must be.
        expected: String,
    },
    /// Chunks that cannot be.
    #[error("the {set} chunks are {found}, expected {rule}")]
    Chunks {
        /// Which.
        set: &'static str,
        /// The chunks, from 1.
        found: String,
        /// What they must be.
        rule: &'static str,
    },
    /// A chunk size that nothing can be divided by.
    #[error("chunk size is {0}, expected a positive number of tokens")]
    ChunkSize(i32),
    /// Sums of one kind under the name of another.
    #[error("the sums are {found}, the fingerprint says {expected}")]
    Accumulate {
        /// Of the sums.
        found: Accumulate,
        /// Of the fingerprint.
        expected: Accumulate,
    },
    /// A flag's name that cannot be told from its value.
    #[error("flag '{0}' has no name, or one with '=' in it")]
    Flag(String),
    /// Likelihoods that do not go with the chunks.
    #[error("{0}")]
    Likelihoods(&'static str),
    /// A weight that occurs twice.
    #[error("weight '{0}' occurs twice")]
    DuplicateWeight(String),
    /// Sums without a weight, or a weight without sums.
    #[error("weight '{weight}' has sums number {found}, there are {groups}")]
    NoSums {
        /// The weight.
        weight: String,
        /// The number.
        found: u32,
        /// Sets of sums in the file.
        groups: usize,
    },
    /// Sums no weight has.
    #[error("sums number {0} belong to no weight")]
    NoWeight(usize),
    /// An f32 entry of impossible lengths.
    #[error(transparent)]
    Entry(crate::imatrix::Error),
    /// An exact entry of impossible lengths or values.
    #[error("weight '{weight}': {source}")]
    Exact {
        /// The weight.
        weight: String,
        /// The rule.
        source: exact::Error,
    },
    /// A count that is negative.
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

/// Why states do not make up a whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Error,
    },
    /// States that are not parts of one run, or not all of them.
    #[error("{0}")]
    Rule(String),
    /// Sums that do not go together although the fingerprints agree.
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
