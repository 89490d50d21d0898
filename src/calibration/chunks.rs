//! Splits tokens into chunks.

use std::ops::Range;

use super::documents::Documents;
use super::error::Error;
use super::shuffle::shuffle;

/// Chunk size and selection of chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChunkOptions {
    /// Tokens per chunk, at least 1.
    pub size: usize,
    /// Number of chunks to skip at the beginning.
    pub skip: usize,
    /// Maximum number of chunks.
    pub limit: Option<usize>,
    /// Keep the tail: the tokens after the last whole chunk. The text may then be shorter than a chunk.
    pub keep_tail: bool,
    /// Take chunks in the random order of this seed, the tail last. `skip` and the maximum apply to this order.
    pub shuffle: Option<u64>,
}

/// Tokens split into chunks: of equal size, except a tail that is kept, or of the documents' lengths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunks {
    tokens: Vec<i32>,
    size: usize,
    /// Range of tokens per chunk.
    spans: Vec<Range<usize>>,
    /// Number of chunks of `size` tokens, which come first.
    whole: usize,
    /// Number of the document per chunk, for chunks of documents.
    documents: Option<Vec<usize>>,
}

impl Chunks {
    /// Splits `tokens`, which are one text, into chunks.
    ///
    /// # Errors
    /// [`Error::TooShort`] below two chunks of tokens (with the tail kept: below one token), and [`Error::Rule`] if too
    /// few tokens are left after the skipped chunks.
    ///
    /// # Panics
    /// If the size is 0.
    pub fn new(tokens: Vec<i32>, options: ChunkOptions) -> Result<Self, Error> {
        let ChunkOptions { size, skip, limit, keep_tail, shuffle: seed } = options;
        assert!(size > 0, "a chunk has at least one token");
        let least = if keep_tail { 0 } else { 2 };
        let found = tokens.len();
        if skip > 0 {
            let needed = skip.saturating_add(least).saturating_mul(size);
            if needed >= found {
                return Err(Error::TooShortAfterSkip { skipped: skip, found, needed });
            }
        }
        let needed = size.saturating_mul(least).max(1);
        if found < needed {
            return Err(Error::TooShort { needed, found, chunk_size: size });
        }
        let whole = found / size;
        let mut spans: Vec<Range<usize>> = (0..whole).map(|i| i * size..(i + 1) * size).collect();
        if let Some(seed) = seed {
            shuffle(&mut spans, seed);
        }
        if keep_tail && whole * size < found {
            spans.push(whole * size..found);
        }
        spans.drain(..skip.min(spans.len()));
        spans.truncate(limit.unwrap_or(usize::MAX));
        let whole = whole.saturating_sub(skip).min(spans.len());
        Ok(Self { tokens, size, spans, whole, documents: None })
    }

    /// Splits each document separately, into chunks of `size` tokens and one of the rest. No tokens are dropped,
    /// whether or not the tail is kept. The chunks have the order of the documents.
    ///
    /// # Errors
    /// No tokens, or all chunks skipped.
    ///
    /// # Panics
    /// If the size is 0.
    pub fn of_documents(documents: Documents, options: ChunkOptions) -> Result<Self, Error> {
        let ChunkOptions { size, skip, limit, .. } = options;
        assert!(size > 0, "a chunk has at least one token");
        let cut = |(document, Range { start, end }): (usize, Range<usize>)| {
            (start..end).step_by(size).map(move |from| (document, from..from.saturating_add(size).min(end)))
        };
        let (mut numbers, mut spans): (Vec<usize>, Vec<Range<usize>>) =
            documents.spans().enumerate().flat_map(cut).unzip();
        if spans.is_empty() {
            return Err(Error::NoTokens);
        }
        if skip >= spans.len() {
            let found = spans.len();
            return Err(Error::Rule(format!("--chunk {skip} skips all {found} chunks of the documents")));
        }
        spans.drain(..skip);
        numbers.drain(..skip);
        spans.truncate(limit.unwrap_or(usize::MAX));
        let whole = spans.len();
        Ok(Self { tokens: documents.into_tokens(), size, spans, whole, documents: Some(numbers) })
    }

    /// Number of chunks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Returns true if there are no chunks, as with a limit of 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Tokens per chunk; for documents, the maximum.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Number of whole chunks: all but the tail. Chunks of documents are all whole.
    #[must_use]
    pub fn n_whole(&self) -> usize {
        self.whole
    }

    /// Returns true for chunks of documents. They keep their first tokens and differ in length. In other chunks BOS
    /// replaces the first token if the vocabulary begins texts with BOS.
    #[must_use]
    pub(crate) fn are_documents(&self) -> bool {
        self.documents.is_some()
    }

    /// Returns the number of the document that chunk `i` is of, from 0; `None` for chunks that are not of documents, and
    /// if there is no such chunk.
    #[must_use]
    pub fn document(&self, i: usize) -> Option<usize> {
        self.documents.as_ref()?.get(i).copied()
    }

    /// Returns the tokens of chunk `i`.
    ///
    /// # Panics
    /// If there is no such chunk.
    #[must_use]
    pub fn get(&self, i: usize) -> &[i32] {
        &self.tokens[self.spans[i].clone()]
    }

    /// Returns the number of tokens before chunk `i` in the text.
    ///
    /// # Panics
    /// If there is no such chunk.
    #[must_use]
    pub(crate) fn start(&self, i: usize) -> usize {
        self.spans[i].start
    }

    /// Returns the positions of chunk `i` whose next token counts for perplexity: those in the second half, which have
    /// at least half of the chunk before them. A tail has none.
    ///
    /// # Panics
    /// If there is no such chunk.
    #[must_use]
    pub fn scored(&self, i: usize) -> Range<usize> {
        let len = self.spans[i].len();
        if i < self.whole { len / 2..len.saturating_sub(1).max(len / 2) } else { 0..0 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OPTIONS: ChunkOptions = ChunkOptions { size: 8, skip: 0, limit: None, keep_tail: false, shuffle: None };

    fn cut(n: i32, options: ChunkOptions) -> Result<Vec<Vec<i32>>, Error> {
        Chunks::new((0..n).collect(), options).map(|chunks| all(&chunks))
    }

    fn all(chunks: &Chunks) -> Vec<Vec<i32>> {
        (0..chunks.len()).map(|i| chunks.get(i).to_vec()).collect()
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
    fn a_text_needs_two_chunks_after_skipping() {
        assert!(cut(16, OPTIONS).is_ok());
        let Err(Error::TooShort { needed: 16, found: 15, .. }) = cut(15, OPTIONS) else { panic!() };
        assert!(cut(25, ChunkOptions { skip: 1, ..OPTIONS }).is_ok());
        let skipped = cut(24, ChunkOptions { skip: 1, ..OPTIONS }).unwrap_err().to_string();
        assert!(skipped.ends_with("the text has 24 tokens, more than 24 are needed"), "{skipped}");
        assert!(cut(64, ChunkOptions { skip: usize::MAX, ..OPTIONS }).is_err());
    }

    #[test]
    fn shuffled_chunks_are_the_same_ones_and_the_tail_stays_last() {
        let plain = cut(67, ChunkOptions { keep_tail: true, ..OPTIONS }).unwrap();
        let options = ChunkOptions { keep_tail: true, shuffle: Some(5), ..OPTIONS };
        let shuffled = cut(67, options).unwrap();
        assert_ne!(shuffled, plain);
        assert_eq!(shuffled.last(), plain.last());
        let mut sorted = shuffled.clone();
        sorted.sort();
        assert_eq!(sorted, plain);
        // Two samples, one behind the other, have nothing in common.
        let first = cut(67, ChunkOptions { limit: Some(3), ..options }).unwrap();
        let second = cut(67, ChunkOptions { skip: 3, limit: Some(3), ..options }).unwrap();
        assert_eq!([first, second].concat(), shuffled[..6]);
    }

    #[test]
    fn each_document_is_split_separately() {
        let mut documents = Documents::default();
        documents.push(&(0..11).collect::<Vec<_>>());
        documents.push(&[20]);
        documents.push(&(30..38).collect::<Vec<_>>());
        let chunks = Chunks::of_documents(documents.clone(), OPTIONS).unwrap();
        assert_eq!(all(&chunks), [(0..8).collect(), vec![8, 9, 10], vec![20], (30..38).collect()]);
        assert_eq!((0..4).map(|i| chunks.scored(i)).collect::<Vec<_>>(), [4..7, 1..2, 0..0, 4..7]);
        assert_eq!((chunks.start(2), chunks.tokens_in(&(0..chunks.len()))), (11, 20));
        assert_eq!((0..5).map(|i| chunks.document(i)).collect::<Vec<_>>(), [Some(0), Some(0), Some(1), Some(2), None]);
        let some = ChunkOptions { skip: 1, limit: Some(2), ..OPTIONS };
        let some = Chunks::of_documents(documents.clone(), some).unwrap();
        assert_eq!((all(&some), some.document(1)), (vec![vec![8, 9, 10], vec![20]], Some(1)));
        assert!(Chunks::of_documents(documents, ChunkOptions { skip: 4, ..OPTIONS }).is_err());
        assert!(Chunks::of_documents(Documents::default(), OPTIONS).is_err());
    }

    proptest! {
        #[test]
        fn documents_keep_all_tokens_and_share_no_chunk(
            lens in prop::collection::vec(0_usize..40, 1..20),
            size in 1_usize..20,
        ) {
            let mut documents = Documents::default();
            for (i, &len) in lens.iter().enumerate() {
                documents.push(&vec![i as i32; len]);
            }
            let tokens: Vec<i32> = documents.tokens().to_vec();
            match Chunks::of_documents(documents, ChunkOptions { size, ..OPTIONS }) {
                Err(_) => prop_assert!(tokens.is_empty()),
                Ok(chunks) => {
                    let chunks = all(&chunks);
                    prop_assert!(chunks.iter().all(|chunk| (1..=size).contains(&chunk.len())));
                    prop_assert!(chunks.iter().all(|chunk| chunk.iter().all(|token| *token == chunk[0])));
                    prop_assert_eq!(chunks.concat(), tokens);
                }
            }
        }
    }
}
