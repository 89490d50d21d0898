use std::path::{Path, PathBuf};

use super::encoding::NotText;

/// Why a text cannot be used.
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
    /// A file that is no text.
    #[error("'{}' is no text: {reason}", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// How it is told.
        reason: NotText,
    },
    /// A folder without a text in it.
    #[error("the folder '{}' holds no files that are text (hidden ones do not count)", path.display())]
    EmptyFolder {
        /// The folder.
        path: PathBuf,
    },
    /// A name that cannot go into the matrix.
    #[error("the name of '{}' is not UTF-8", path.display())]
    Name {
        /// The file.
        path: PathBuf,
    },
    /// A compressed file is damaged, or not what its suffix says.
    #[error("cannot decompress '{}': {reason}", path.display())]
    Compressed {
        /// The file.
        path: PathBuf,
        /// What the decoder says.
        reason: String,
    },
    /// A compressed file of far more text than it is safe to take.
    #[error(
        "'{}' decompresses to more than {limit} MiB, the most that is taken of a file of its size: decompress it \
         yourself if that is meant",
        path.display()
    )]
    Bomb {
        /// The file.
        path: PathBuf,
        /// Mebibytes that are taken.
        limit: u64,
    },
    /// A line of a JSONL file is not what it should be.
    #[error("{}:{line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Field, what was found and what was expected.
        problem: String,
    },
    /// A conversation, and no template to render it with.
    #[error("{}:{line}: a conversation needs a chat template: {reason}", path.display())]
    NoTemplate {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Why there is none.
        reason: String,
    },
    /// A text that cannot be tokenized.
    #[error("{origin}: {reason}")]
    Tokenize {
        /// Where it is from.
        origin: String,
        /// What the tokenizer says.
        reason: String,
    },
    /// Fewer than two chunks of tokens.
    #[error(
        "you need at least {needed} tokens for a context of {chunk_size} tokens\n\
         the data file you provided tokenizes to only {found} tokens"
    )]
    TooShort {
        /// Tokens needed.
        needed: usize,
        /// Tokens there are.
        found: usize,
        /// Tokens a chunk.
        chunk_size: usize,
    },
    /// Too few tokens after the first chunks are skipped.
    #[error(
        "there will be not enough tokens left after removing {skipped} chunks: \
         the text has {found} tokens, more than {needed} are needed"
    )]
    TooShortAfterSkip {
        /// Chunks to skip.
        skipped: usize,
        /// Tokens there are.
        found: usize,
        /// Tokens that are not enough.
        needed: usize,
    },
    /// No document has a token.
    #[error("the documents have no tokens")]
    NoTokens,
    /// All chunks of all documents are skipped.
    #[error("there are {found} chunks of documents, and {skipped} are to be left out (--chunk)")]
    NoneLeft {
        /// Chunks there are.
        found: usize,
        /// Chunks to skip.
        skipped: usize,
    },
}

impl Error {
    pub(super) fn read(path: &Path, source: std::io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }
}
