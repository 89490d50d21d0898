//! Calibration text: from a file to tokens to chunks.

use std::path::{Path, PathBuf};

/// Why a text cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read.
    #[error("failed to open file '{}': {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
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
}

/// Reads a text file as bytes, less one newline at its end.
///
/// # Errors
/// [`Error::Read`].
pub fn read_text(path: &Path) -> Result<Vec<u8>, Error> {
    let mut text = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    if text.last() == Some(&b'\n') {
        text.pop();
    }
    Ok(text)
}

/// Tokens cut into chunks of equal size; what is left at the end is dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunks {
    tokens: Vec<i32>,
    size: usize,
    len: usize,
}

impl Chunks {
    /// Cuts `tokens` into chunks of `size`, without the first `skip` of them and at most `limit`.
    ///
    /// # Errors
    /// [`Error::TooShort`] below two chunks of tokens, [`Error::TooShortAfterSkip`] where `skip` leaves fewer.
    ///
    /// # Panics
    /// If `size` is 0.
    pub fn new(mut tokens: Vec<i32>, size: usize, skip: usize, limit: Option<usize>) -> Result<Self, Error> {
        assert!(size > 0, "a chunk has at least one token");
        let found = tokens.len();
        if skip > 0 {
            let needed = skip.saturating_add(2).saturating_mul(size);
            if needed >= found {
                return Err(Error::TooShortAfterSkip { skipped: skip, found, needed });
            }
            tokens.drain(..skip * size);
        }
        let needed = size.saturating_mul(2);
        if tokens.len() < needed {
            return Err(Error::TooShort { needed, found: tokens.len(), chunk_size: size });
        }
        let all = tokens.len() / size;
        Ok(Self { tokens, size, len: limit.map_or(all, |limit| limit.min(all)) })
    }

    /// Number of chunks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none, as with a limit of 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens a chunk.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// The tokens of chunk `i`.
    ///
    /// # Panics
    /// If there is no such chunk.
    #[must_use]
    pub fn get(&self, i: usize) -> &[i32] {
        assert!(i < self.len, "chunk {i} of {}", self.len);
        &self.tokens[i * self.size..(i + 1) * self.size]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_dropped_and_the_first_chunks_skipped() {
        let chunks = Chunks::new((0..35).collect(), 8, 0, None).unwrap();
        assert_eq!((chunks.len(), chunks.get(3)), (4, &[24, 25, 26, 27, 28, 29, 30, 31][..]));
        let chunks = Chunks::new((0..35).collect(), 8, 1, Some(2)).unwrap();
        assert_eq!((chunks.len(), chunks.get(0)[0]), (2, 8));
    }

    #[test]
    fn two_chunks_are_the_least_and_more_than_two_after_skipping() {
        assert!(Chunks::new(vec![0; 16], 8, 0, None).is_ok());
        let Err(Error::TooShort { needed: 16, found: 15, .. }) = Chunks::new(vec![0; 15], 8, 0, None) else { panic!() };
        assert!(Chunks::new(vec![0; 25], 8, 1, None).is_ok());
        let Err(Error::TooShortAfterSkip { needed: 24, found: 24, .. }) = Chunks::new(vec![0; 24], 8, 1, None) else {
            panic!()
        };
        assert!(Chunks::new(vec![0; 64], 8, usize::MAX, None).is_err());
    }

    #[test]
    fn one_newline_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text");
        for (text, want) in [("a\n\n", "a\n"), ("a", "a"), ("", "")] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read_text(&path).unwrap(), want.as_bytes());
        }
        assert!(read_text(&dir.path().join("none")).unwrap_err().to_string().contains("none"));
    }
}
