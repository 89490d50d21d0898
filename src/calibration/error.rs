use std::path::{Path, PathBuf};

use super::encoding::NotText;

/// Reason why a text cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read.
    #[error("failed to open file '{}'", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not text.
    #[error("'{}' is no text: {reason}", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// The evidence that it is not text.
        reason: NotText,
    },
    /// Any other rule that a file, a line of it, or a text breaks.
    #[error("{0}")]
    Rule(String),
    /// Fewer than two chunks of tokens.
    #[error(
        "you need at least {needed} tokens for a context of {chunk_size} tokens\n\
         the data file you provided tokenizes to only {found} tokens"
    )]
    TooShort {
        /// Tokens needed.
        needed: usize,
        /// Tokens found.
        found: usize,
        /// Tokens per chunk.
        chunk_size: usize,
    },
    /// Too few tokens after the chunks that are skipped.
    #[error(
        "there will be not enough tokens left after removing {skipped} chunks: the text has {found} tokens, more than \
         {needed} are needed"
    )]
    TooShortAfterSkip {
        /// Chunks to skip.
        skipped: usize,
        /// Tokens there are.
        found: usize,
        /// Tokens that are not enough.
        needed: usize,
    },
    /// All documents are empty.
    #[error("the documents have no tokens")]
    NoTokens,
}

impl Error {
    pub(super) fn read(path: &Path, source: std::io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }

    /// Creates the error of a line of a file. Lines count from 1.
    pub(super) fn line(path: &Path, line: usize, problem: &str) -> Self {
        Self::Rule(format!("{}:{line}: {problem}", path.display()))
    }

    pub(super) fn compressed(path: &Path, reason: &str) -> Self {
        Self::Rule(format!("cannot decompress '{}': {reason}", path.display()))
    }
}
