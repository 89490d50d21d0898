//! Calibration text: from a file to tokens to chunks.

use std::path::{Path, PathBuf};

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

/// Which chunks of a text are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChunkOptions {
    /// Tokens a chunk, at least 1.
    pub size: usize,
    /// Chunks left out at the beginning.
    pub skip: usize,
    /// Chunks taken at most.
    pub limit: Option<usize>,
    /// Whether what is left at the end, less than a chunk, is taken too. The text may then be shorter than a chunk.
    pub keep_tail: bool,
}

/// Tokens cut into chunks of equal size, but for the last where the tail is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunks {
    tokens: Vec<i32>,
    size: usize,
    /// Whole chunks.
    whole: usize,
    len: usize,
}

impl Chunks {
    /// Cuts `tokens` into chunks.
    ///
    /// # Errors
    /// [`Error::TooShort`] below two chunks of tokens (with the tail kept: below one token), and
    /// [`Error::TooShortAfterSkip`] where no more are left after the chunks skipped.
    ///
    /// # Panics
    /// If the size is 0.
    pub fn new(mut tokens: Vec<i32>, options: ChunkOptions) -> Result<Self, Error> {
        let ChunkOptions { size, skip, limit, keep_tail } = options;
        assert!(size > 0, "a chunk has at least one token");
        let least = if keep_tail { 0 } else { 2 };
        let found = tokens.len();
        if skip > 0 {
            let needed = skip.saturating_add(least).saturating_mul(size);
            if needed >= found {
                return Err(Error::TooShortAfterSkip { skipped: skip, found, needed });
            }
            tokens.drain(..skip * size);
        }
        let needed = size.saturating_mul(least).max(1);
        if tokens.len() < needed {
            return Err(Error::TooShort { needed, found: tokens.len(), chunk_size: size });
        }
        let whole = tokens.len() / size;
        let all = whole + usize::from(keep_tail && whole * size < tokens.len());
        Ok(Self { tokens, size, whole, len: limit.map_or(all, |limit| limit.min(all)) })
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

    /// Number of whole chunks: all but the tail.
    #[must_use]
    pub fn n_whole(&self) -> usize {
        self.whole.min(self.len)
    }

    /// The tokens of chunk `i`.
    ///
    /// # Panics
    /// If there is no such chunk.
    #[must_use]
    pub fn get(&self, i: usize) -> &[i32] {
        assert!(i < self.len, "chunk {i} of {}", self.len);
        &self.tokens[i * self.size..((i + 1) * self.size).min(self.tokens.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: ChunkOptions = ChunkOptions { size: 8, skip: 0, limit: None, keep_tail: false };

    fn cut(n: i32, options: ChunkOptions) -> Result<Vec<Vec<i32>>, Error> {
        let chunks = Chunks::new((0..n).collect(), options)?;
        Ok((0..chunks.len()).map(|i| chunks.get(i).to_vec()).collect())
    }

    #[test]
    fn the_tail_is_dropped_and_the_first_chunks_skipped() {
        let chunks = cut(35, OPTIONS).unwrap();
        assert_eq!((chunks.len(), &chunks[3]), (4, &(24..32).collect()));
        let chunks = cut(35, ChunkOptions { skip: 1, limit: Some(2), ..OPTIONS }).unwrap();
        assert_eq!((chunks.len(), chunks[0][0]), (2, 8));
    }

    #[test]
    fn the_tail_is_kept_on_request() {
        let options = ChunkOptions { keep_tail: true, ..OPTIONS };
        let lens = |n, options| cut(n, options).unwrap().iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lens(19, options), [8, 8, 3]);
        assert_eq!(lens(16, options), [8, 8]);
        assert_eq!(lens(3, options), [3]);
        assert_eq!(lens(19, ChunkOptions { limit: Some(2), ..options }), [8, 8]);
        assert_eq!(lens(19, ChunkOptions { skip: 2, ..options }), [3]);
        assert!(cut(0, options).is_err());
        assert!(cut(16, ChunkOptions { skip: 2, ..options }).is_err());
        assert_eq!(Chunks::new(vec![0; 19], options).unwrap().n_whole(), 2);
    }

    #[test]
    fn two_chunks_are_the_least_and_more_than_two_after_skipping() {
        assert!(cut(16, OPTIONS).is_ok());
        let Err(Error::TooShort { needed: 16, found: 15, .. }) = cut(15, OPTIONS) else { panic!() };
        assert!(cut(25, ChunkOptions { skip: 1, ..OPTIONS }).is_ok());
        let Err(Error::TooShortAfterSkip { needed: 24, found: 24, .. }) = cut(24, ChunkOptions { skip: 1, ..OPTIONS })
        else {
            panic!()
        };
        assert!(cut(64, ChunkOptions { skip: usize::MAX, ..OPTIONS }).is_err());
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
