//! Packs chunks into batches.

use std::ops::Range;

use super::Chunks;

/// Maximum size of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// Maximum number of tokens. A longer chunk gets a separate batch.
    pub(crate) tokens: usize,
    /// Maximum number of chunks, at least 1.
    pub sequences: usize,
}

impl Chunks {
    /// Returns batches of consecutive chunks, each with as many chunks as fit. A tail has a separate batch.
    ///
    /// Chunks of documents keep their order too: a shorter chunk never moves before a longer one.
    #[must_use]
    pub(crate) fn batches(&self, room: Room) -> Vec<Range<usize>> {
        let mut batches: Vec<Range<usize>> = Vec::new();
        let mut free = 0;
        for chunk in 0..self.len() {
            let len = self.get(chunk).len();
            let is_tail = chunk == self.n_whole();
            match batches.last_mut() {
                Some(last) if len <= free && last.len() < room.sequences && !is_tail => {
                    last.end = chunk + 1;
                    free -= len;
                }
                _ => {
                    batches.push(chunk..chunk + 1);
                    free = room.tokens.saturating_sub(len);
                }
            }
        }
        batches
    }

    /// Returns the number of tokens of a batch.
    #[must_use]
    pub(crate) fn tokens_in(&self, batch: &Range<usize>) -> usize {
        batch.clone().map(|chunk| self.get(chunk).len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{ChunkOptions, Chunks, Documents};
    use super::*;

    fn documents(lens: &[usize], size: usize) -> Chunks {
        let mut documents = Documents::default();
        for &len in lens {
            documents.push(&vec![0; len]);
        }
        Chunks::of_documents(documents, ChunkOptions { size, ..ChunkOptions::default() }).unwrap()
    }

    #[test]
    fn equal_chunks_fill_batches_and_a_tail_stays_alone() {
        let options = ChunkOptions { size: 8, keep_tail: true, ..ChunkOptions::default() };
        let chunks = Chunks::new(vec![0; 43], options).unwrap();
        assert_eq!(chunks.batches(Room { tokens: 16, sequences: 99 }), [0..2, 2..4, 4..5, 5..6]);
        assert_eq!(chunks.batches(Room { tokens: 4, sequences: 1 }), [0..1, 1..2, 2..3, 3..4, 4..5, 5..6]);
    }

    #[test]
    fn documents_fill_batches_in_their_order() {
        let chunks = documents(&[5, 3, 1, 8, 20], 8);
        assert_eq!(chunks.batches(Room { tokens: 8, sequences: 9 }), [0..2, 2..3, 3..4, 4..5, 5..6, 6..7]);
        assert_eq!(chunks.batches(Room { tokens: 9, sequences: 2 }), [0..2, 2..4, 4..5, 5..6, 6..7]);
    }

    proptest! {
        #[test]
        fn every_chunk_is_in_one_batch_that_has_room_for_it(
            lens in prop::collection::vec(1_usize..40, 1..30),
            size in 1_usize..20,
            tokens in 1_usize..64,
            sequences in 1_usize..6,
        ) {
            let chunks = documents(&lens, size);
            let batches = chunks.batches(Room { tokens, sequences });
            prop_assert_eq!(batches.iter().cloned().flatten().collect::<Vec<_>>(), (0..chunks.len()).collect::<Vec<_>>());
            for batch in &batches {
                prop_assert!(batch.len() <= sequences && !batch.is_empty());
                prop_assert!(batch.len() == 1 || chunks.tokens_in(batch) <= tokens);
            }
            // None could have taken the next one's first chunk as well.
            for pair in batches.windows(2) {
                let more = pair[0].start..pair[1].start + 1;
                prop_assert!(pair[0].len() == sequences || chunks.tokens_in(&more) > tokens);
            }
        }
    }
}
