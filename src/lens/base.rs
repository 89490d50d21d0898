//! Logits files of `llama-perplexity --save-all-logits`: the model's distribution after each token of the second half of
//! each chunk.
//!
//! All numbers are little-endian. The header is `_logits_`, the tokens per chunk (u32), the size of the vocabulary and the
//! number of chunks (i32), and the tokens of the chunks (i32). Then follows a row per chunk and position, from the middle of
//! the chunk to its last token but one: a scale and a minimum log-probability (f32), and a u16 per token of the vocabulary,
//! padded to an even number. The log-probability is the minimum plus scale times that number. The minimum is at least the
//! largest log-probability minus 16; smaller values are raised to it.

mod row;

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

pub use row::BaseRow;
pub(crate) use row::log_sum_exp;

use crate::calibration::Chunks;

/// The first bytes of a logits file.
pub const MAGIC: &[u8; 8] = b"_logits_";
const HEADER: u64 = 20;

/// The reason why a logits file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BaseError {
    /// An error of the operating system.
    #[error("cannot read the logits file '{}': {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The file has another format, is damaged, or comes from another model, text or run.
    #[error("{0}")]
    Rule(String),
}

/// An open logits file.
#[derive(Debug)]
pub struct LogitsFile {
    path: PathBuf,
    file: Mutex<File>,
    n_ctx: usize,
    n_vocab: usize,
    n_chunk: usize,
    tokens: Vec<i32>,
}

impl BaseError {
    /// The error for chunks of documents.
    pub(crate) fn documents() -> Self {
        Self::Rule("a logits file has chunks of equal length, and chunks of documents differ in length".to_owned())
    }
}

impl LogitsFile {
    /// Opens and checks a file.
    ///
    /// # Errors
    /// See [`BaseError`].
    pub fn open(path: &Path) -> Result<Self, BaseError> {
        let io = |source| BaseError::Io { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        let mut head = Vec::new();
        (&mut file).take(HEADER).read_to_end(&mut head).map_err(io)?;
        if !head.starts_with(MAGIC) {
            let found = String::from_utf8_lossy(&head[..head.len().min(MAGIC.len())]).into_owned();
            return Err(BaseError::Rule(format!(
                "'{}' is not a logits file of llama-perplexity --save-all-logits: it begins with {found:?}, expected \"_logits_\"",
                path.display()
            )));
        }
        let number = |at: usize, what: &'static str, limit: i32| {
            let bytes = head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; 4]);
            let found = i32::from_le_bytes(bytes);
            if (1..=limit).contains(&found) {
                Ok(found as usize)
            } else {
                let path = path.display();
                Err(BaseError::Rule(format!("the logits file '{path}' has {found} {what}, expected 1 to {limit}")))
            }
        };
        let n_ctx = number(8, "tokens per chunk", 1 << 24)?;
        let n_vocab = number(12, "tokens in the vocabulary", 1 << 24)?;
        let n_chunk = number(16, "chunks", i32::MAX)?;
        let mut logits =
            Self { path: path.to_owned(), file: Mutex::new(file), n_ctx, n_vocab, n_chunk, tokens: Vec::new() };
        let expected = logits.offset(n_chunk, 0);
        if size != expected {
            return Err(BaseError::Rule(format!(
                "the logits file '{}' has {size} bytes, expected {expected} for {n_chunk} chunks of {n_ctx} tokens and a \
                 vocabulary of {n_vocab}",
                path.display()
            )));
        }
        let mut bytes = vec![0; n_chunk * n_ctx * 4];
        logits.read(HEADER, &mut bytes)?;
        logits.tokens = bytes.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        Ok(logits)
    }

    /// Returns the file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the number of tokens in the vocabulary.
    #[must_use]
    pub const fn n_vocab(&self) -> usize {
        self.n_vocab
    }

    /// Checks that the file has this vocabulary and this text, without the first `skip` chunks. Returns the number of chunks
    /// that the file has.
    ///
    /// # Errors
    /// Another vocabulary, chunk size or text.
    pub fn check(&self, n_vocab: usize, chunks: &Chunks, skip: usize) -> Result<usize, BaseError> {
        let path = self.path.display();
        let differs = |what: &str, found: usize, expected: usize, hint: &str| {
            BaseError::Rule(format!("the logits file '{path}' has {found} {what}, this run {expected}{hint}"))
        };
        if self.n_vocab != n_vocab {
            return Err(differs("tokens in the vocabulary", self.n_vocab, n_vocab, ": it comes from another model"));
        }
        if chunks.are_documents() {
            return Err(BaseError::documents());
        }
        if self.n_ctx != chunks.size() {
            return Err(differs("tokens per chunk", self.n_ctx, chunks.size(), " (--ctx-size)"));
        }
        if self.n_chunk <= skip {
            return Err(differs("chunks", self.n_chunk, skip + 1, " at least, since it skips chunks (--chunk)"));
        }
        let held = (self.n_chunk - skip).min(chunks.n_whole());
        for chunk in 0..held {
            let ours = chunks.get(chunk);
            let theirs = &self.tokens[(chunk + skip) * self.n_ctx..][..self.n_ctx];
            if let Some(token) = (0..self.n_ctx).find(|&token| ours[token] != theirs[token]) {
                return Err(BaseError::Rule(format!(
                    "the logits file '{path}' comes from another text: token {} of chunk {} is {}, in this run's text {}",
                    token + 1,
                    chunk + skip + 1,
                    theirs[token],
                    ours[token]
                )));
            }
        }
        Ok(held)
    }

    /// Returns the positions per chunk that the file has.
    pub fn positions(&self) -> Range<usize> {
        self.n_ctx / 2..self.n_ctx - 1
    }

    /// Returns the distribution after `position` of the file's chunk `chunk`, both from 0.
    ///
    /// # Errors
    /// [`BaseError::Io`]; [`BaseError::Rule`] for numbers that are not finite.
    ///
    /// # Panics
    /// For a chunk or position that the file does not have.
    pub fn row(&self, chunk: usize, position: usize) -> Result<BaseRow, BaseError> {
        assert!(chunk < self.n_chunk && self.positions().contains(&position), "chunk {chunk}, position {position}");
        let mut bytes = vec![0; BaseRow::size(self.n_vocab) as usize];
        self.read(self.offset(chunk, position - self.positions().start), &mut bytes)?;
        BaseRow::from_bytes(&bytes, self.n_vocab).map_err(|[scale, least]| {
            BaseError::Rule(format!(
                "the logits file '{}' is damaged: position {} of chunk {} has scale {scale} and minimum log-probability {least}",
                self.path.display(),
                position + 1,
                chunk + 1
            ))
        })
    }

    /// Appends the log-probabilities of a [`row`](Self::row) to `into`.
    ///
    /// # Errors
    /// As [`row`](Self::row).
    ///
    /// # Panics
    /// As [`row`](Self::row).
    pub fn append_row(&self, chunk: usize, position: usize, into: &mut Vec<f32>) -> Result<(), BaseError> {
        into.extend(self.row(chunk, position)?.log_probabilities());
        Ok(())
    }

    /// Returns the offset of a row of a chunk.
    fn offset(&self, chunk: usize, row: usize) -> u64 {
        let rows = chunk as u64 * self.positions().len() as u64 + row as u64;
        let tokens = 4 * self.n_chunk as u64 * self.n_ctx as u64;
        // The limits on header numbers allow products that exceed the size of any file.
        rows.saturating_mul(BaseRow::size(self.n_vocab)).saturating_add(HEADER + tokens)
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), BaseError> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let read = file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(into));
        read.map_err(|source| BaseError::Io { path: self.path.clone(), source })
    }
}

/// Writes the beginning of a logits file; the rows of all chunks follow, by [`BaseRow::write`].
///
/// # Errors
/// Those of the writer.
pub fn write_header(w: &mut (impl Write + ?Sized), n_vocab: usize, chunks: &Chunks) -> io::Result<()> {
    w.write_all(MAGIC)?;
    for number in [chunks.size(), n_vocab, chunks.n_whole()] {
        w.write_all(&i32::try_from(number).map_err(io::Error::other)?.to_le_bytes())?;
    }
    for chunk in 0..chunks.n_whole() {
        let tokens: Vec<u8> = chunks.get(chunk).iter().flat_map(|token| token.to_le_bytes()).collect();
        w.write_all(&tokens)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibration::ChunkOptions;

    const N_CTX: usize = 8;
    const N_VOCAB: usize = 5;

    fn bytes(n_ctx: i32, n_vocab: i32, tokens: &[i32], rows: usize) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        for n in [n_ctx, n_vocab, tokens.len() as i32 / n_ctx] {
            out.extend(n.to_le_bytes());
        }
        for token in tokens {
            out.extend(token.to_le_bytes());
        }
        for row in 0..rows {
            out.extend(0.5_f32.to_le_bytes());
            out.extend((-8.0_f32).to_le_bytes());
            for i in 0..6_u16 {
                out.extend((i + row as u16).to_le_bytes());
            }
        }
        out
    }

    fn open(bytes: &[u8]) -> Result<LogitsFile, BaseError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logits");
        std::fs::write(&path, bytes).unwrap();
        LogitsFile::open(&path)
    }

    fn tokens() -> Vec<i32> {
        (0..16).collect()
    }

    fn chunks(tokens: Vec<i32>, size: usize) -> Chunks {
        Chunks::new(tokens, ChunkOptions { size, ..ChunkOptions::default() }).unwrap()
    }

    #[test]
    fn rows_are_decompressed() {
        let file = open(&bytes(8, 5, &tokens(), 2 * 3)).unwrap();
        assert_eq!(file.positions(), 4..7);
        let mut row = Vec::new();
        file.append_row(1, 5, &mut row).unwrap(); // the fifth row
        assert_eq!(format!("{row:?}"), "[-6.0, -5.5, -5.0, -4.5, -4.0]");
        assert_eq!(file.check(N_VOCAB, &chunks(tokens(), N_CTX), 0).unwrap(), 2);
    }

    #[test]
    fn a_file_that_is_written_is_read_back() {
        let chunks = chunks(tokens(), N_CTX);
        let rows: Vec<BaseRow> = (0..2 * 3).map(|i| BaseRow::new(&[0.0, 1.0, -20.0, 0.5, i as f32])).collect();
        let mut bytes = Vec::new();
        write_header(&mut bytes, N_VOCAB, &chunks).unwrap();
        for row in &rows {
            row.write(&mut bytes).unwrap();
        }
        let file = open(&bytes).unwrap();
        assert_eq!(file.check(N_VOCAB, &chunks, 0).unwrap(), 2);
        let read = (0..2).flat_map(|chunk| file.positions().map(move |at| (chunk, at)));
        assert!(read.map(|(chunk, at)| file.row(chunk, at).unwrap()).eq(rows));
    }

    #[test]
    fn each_broken_rule_has_its_error() {
        let good = bytes(8, 5, &tokens(), 6);
        let error = |result: Result<LogitsFile, BaseError>| result.unwrap_err().to_string();
        for (found, says) in [
            (error(open(b"GGUF....")), "begins with \"GGUF....\", expected \"_logits_\""),
            (error(open(b"")), "begins with \"\""),
            (error(open(&good[..12])), "has 0 tokens in the vocabulary"),
            (error(open(&bytes(-1, 5, &[], 0))), "has -1 tokens per chunk"),
            (error(open(&good[..good.len() - 1])), "bytes, expected 204 for 2 chunks of 8 tokens"),
        ] {
            assert!(found.contains(says), "{found}");
        }
        let mut huge = good.clone();
        huge[16..20].copy_from_slice(&i32::MAX.to_le_bytes());
        assert!(error(open(&huge)).contains("2147483647 chunks"));

        let file = open(&good).unwrap();
        let error = |result: Result<usize, BaseError>| result.unwrap_err().to_string();
        let mut other = tokens();
        other[9] = 77;
        for (found, says) in [
            (error(file.check(6, &chunks(tokens(), 8), 0)), "has 5 tokens in the vocabulary, this run 6"),
            (error(file.check(5, &chunks(tokens(), 4), 0)), "has 8 tokens per chunk, this run 4 (--ctx-size)"),
            (error(file.check(5, &chunks(tokens(), 8), 2)), "has 2 chunks, this run 3 at least"),
            (error(file.check(5, &chunks(other, 8), 0)), "token 2 of chunk 2 is 9, in this run's text 77"),
        ] {
            assert!(found.contains(says), "{found}");
        }

        let mut documents = crate::calibration::Documents::default();
        documents.push(&[0, 1, 2]);
        let options = ChunkOptions { size: 8, ..ChunkOptions::default() };
        let short = Chunks::of_documents(documents, options).unwrap();
        assert!(error(file.check(5, &short, 0)).contains("chunks of documents"));

        let mut bad = good;
        let rows = bad.len() - 6 * 20;
        bad[rows..rows + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        let found = open(&bad).unwrap().append_row(0, 4, &mut Vec::new()).unwrap_err().to_string();
        assert!(found.contains("position 5 of chunk 1 has scale NaN"), "{found}");
    }

    #[test]
    fn a_file_may_have_fewer_or_more_chunks_than_the_run() {
        let file = open(&bytes(8, 5, &tokens(), 6)).unwrap();
        let longer = (0..40).collect();
        assert_eq!(file.check(5, &chunks(longer, 8), 0).unwrap(), 2);
        let later = Chunks::new(
            (0..40).collect(),
            ChunkOptions { size: 8, skip: 1, limit: Some(1), ..ChunkOptions::default() },
        );
        assert_eq!(file.check(5, &later.unwrap(), 1).unwrap(), 1);
    }
}
