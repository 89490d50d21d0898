//! Batches of document chunks: sequences of different lengths, one after the other.

use std::ops::Range;

use crate::calibration::Chunks;
use crate::llama::Batch;

/// The rows of a batch, one per token.
pub(super) struct Rows<'a> {
    chunks: &'a Chunks,
    /// Chunks of the batch, each with its first row.
    sequences: Vec<(usize, usize)>,
    len: usize,
}

impl<'a> Rows<'a> {
    pub(super) fn new(chunks: &'a Chunks, batch: &[usize]) -> Self {
        let mut len = 0;
        let mut sequences = Vec::with_capacity(batch.len());
        for &chunk in batch {
            sequences.push((chunk, len));
            len += chunks.get(chunk).len();
        }
        Self { chunks, sequences, len }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns the sequence and the chunk of a row, and its position in the chunk.
    pub(super) fn place(&self, row: usize) -> (usize, usize, usize) {
        let sequence = self.sequences.partition_point(|&(_, first)| first <= row) - 1;
        let (chunk, first) = self.sequences[sequence];
        (sequence, chunk, row - first)
    }

    /// Replaces the tokens of `batch` by these rows.
    pub(super) fn fill(&self, batch: &mut Batch, rows: Range<usize>) {
        batch.clear();
        for row in rows {
            let (sequence, chunk, position) = self.place(row);
            batch.add(self.chunks.get(chunk)[position], position as i32, sequence as i32);
        }
    }

    /// Returns the next token of each scored row, `None` for other rows.
    pub(super) fn targets(&self, rows: Range<usize>) -> Vec<Option<i32>> {
        let target = |row| {
            let (_, chunk, position) = self.place(row);
            self.chunks.scored(chunk).contains(&position).then(|| self.chunks.get(chunk)[position + 1])
        };
        rows.map(target).collect()
    }

    /// Appends the scores of these rows to their sequences. `scores` has one value per scored row.
    pub(super) fn sort(&self, rows: Range<usize>, scores: &[f64], into: &mut [Vec<f64>]) {
        let scored = rows.map(|row| self.place(row)).filter(|&(_, chunk, at)| self.chunks.scored(chunk).contains(&at));
        for ((sequence, ..), score) in scored.zip(scores) {
            into[sequence].push(*score);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibration::{ChunkOptions, Documents};

    #[test]
    fn rows_are_tokens_of_their_documents() {
        let mut documents = Documents::default();
        documents.push(&[10, 11, 12, 13]);
        documents.push(&[20]);
        documents.push(&[30, 31, 32]);
        let chunks = Chunks::of_documents(documents, ChunkOptions { size: 8, ..ChunkOptions::default() }).unwrap();
        let rows = Rows::new(&chunks, &[0, 1, 2]);
        assert_eq!(rows.len(), 8);
        let places: Vec<_> = (0..8).map(|row| rows.place(row)).collect();
        assert_eq!(places[3..6], [(0, 0, 3), (1, 1, 0), (2, 2, 0)]);
        assert_eq!(rows.targets(0..8), [None, None, Some(13), None, None, None, Some(32), None]);
        let mut scores = vec![Vec::new(); 3];
        rows.sort(0..4, &[0.5], &mut scores);
        rows.sort(4..8, &[0.25], &mut scores);
        assert_eq!(scores, [vec![0.5], vec![], vec![0.25]]);
        let mut batch = Batch::new();
        rows.fill(&mut batch, 2..6);
        assert_eq!(batch.tokens().collect::<Vec<_>>(), [(12, 2), (13, 3), (20, 0), (30, 0)]);
        // Chunk 1 was discarded.
        assert_eq!(Rows::new(&chunks, &[0, 2]).place(4), (1, 2, 0));
    }
}
