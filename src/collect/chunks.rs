//! Counts chunks from the rows seen so far, as llama.cpp's tool does, and determines which files are due.

use crate::imatrix::rows_to_chunks;

/// A file that is due at the end of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// The output file.
    Output,
    /// A numbered copy, with its number of chunks.
    Copy(i32),
}

/// Counts chunks by the weight that has seen the most rows.
#[derive(Debug)]
pub(super) struct ChunkClock {
    pub(super) chunk_size: i32,
    /// Number of chunks so far, written as `imatrix.chunk_count`.
    pub(super) chunks: i32,
    pub(super) output_every: i32,
    pub(super) copy_every: i32,
    /// Files that are due, each after the batch at whose end it is written; in order of batches.
    pub(super) due: Vec<(usize, Due)>,
    /// Number of chunks after each batch that increased it and has not ended.
    steps: Vec<(usize, i32)>,
    /// Number of chunks after the batches that have ended.
    ended: i32,
}

impl ChunkClock {
    /// Creates a clock at 0 chunks.
    pub(super) fn new(chunk_size: i32, output_every: i32, copy_every: i32) -> Self {
        Self { chunk_size, chunks: 0, output_every, copy_every, due: Vec::new(), steps: Vec::new(), ended: 0 }
    }

    /// Sets the number of chunks collected earlier.
    pub(super) fn start_from(&mut self, chunks: i32) {
        self.chunks = chunks;
        self.ended = chunks;
    }

    /// Records that a weight has seen `rows` rows in total, the last of them in `batch`.
    pub(super) fn saw(&mut self, rows: i64, batch: usize) {
        let chunks = rows_to_chunks(rows, self.chunk_size);
        if chunks <= self.chunks {
            return;
        }
        let step = chunks - self.chunks;
        self.chunks = chunks;
        match self.steps.last_mut() {
            Some(last) if last.0 == batch => last.1 = chunks,
            _ => self.steps.push((batch, chunks)),
        }
        // A batch of several chunks may skip the exact multiple.
        let reached = |every: i32| every != 0 && (chunks % every) / step == 0;
        if reached(self.output_every) {
            self.due.push((batch, Due::Output));
        }
        if self.copy_every > 0 && reached(self.copy_every) {
            self.due.push((batch, Due::Copy(chunks)));
        }
    }

    /// Ends `batch` and all batches before it. Returns the files that were due by then, in order, and the number of
    /// chunks at that time.
    pub(super) fn end_batch(&mut self, batch: usize) -> (Vec<Due>, i32) {
        let later = self.due.iter().position(|&(of, _)| of > batch).unwrap_or(self.due.len());
        let due = self.due.drain(..later).map(|(_, due)| due).collect();
        let passed = self.steps.iter().take_while(|&&(of, _)| of <= batch).count();
        if let Some((_, chunks)) = self.steps.drain(..passed).next_back() {
            self.ended = chunks;
        }
        (due, self.ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_due_once_even_if_a_batch_skips_the_multiple() {
        let mut clock = ChunkClock::new(16, 10, 3);
        for batch in 1..=3 {
            clock.saw(batch * 4 * 16, batch as usize); // 4 chunks per batch: 4, 8, 12
            clock.saw(batch * 4 * 16, batch as usize); // another weight of the same batch
        }
        assert_eq!(clock.end_batch(0), (vec![], 0));
        assert_eq!(clock.end_batch(2), (vec![Due::Copy(4), Due::Copy(8)], 8));
        assert_eq!(clock.end_batch(3), (vec![Due::Output, Due::Copy(12)], 12));
        assert_eq!(clock.chunks, 12);
    }

    #[test]
    fn nothing_is_due_with_an_interval_of_zero() {
        let mut clock = ChunkClock::new(16, 0, 0);
        clock.saw(160, 0);
        assert!(clock.due.is_empty());
    }
}
