//! llama.cpp's clock: how many chunks the rows seen so far amount to, and what is to be written when.

use crate::imatrix::rows_to_chunks;

/// Something to write once the batch is through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// The output file.
    Output,
    /// A copy named after this number of chunks.
    Copy(i32),
}

/// Counts chunks as rows come in, by the weight that is ahead of all others.
#[derive(Debug)]
pub(super) struct ChunkClock {
    pub(super) chunk_size: i32,
    /// Chunks so far: `imatrix.chunk_count` of the file.
    pub(super) chunks: i32,
    pub(super) output_every: i32,
    pub(super) copy_every: i32,
    /// What is due after which batch.
    pub(super) due: Vec<(usize, Due)>,
    /// Chunks after which batch, one for each that moved the clock and has not ended.
    steps: Vec<(usize, i32)>,
    /// Chunks after the batches that have ended.
    ended: i32,
}

impl ChunkClock {
    /// A clock at zero.
    pub(super) fn new(chunk_size: i32, output_every: i32, copy_every: i32) -> Self {
        Self { chunk_size, chunks: 0, output_every, copy_every, due: Vec::new(), steps: Vec::new(), ended: 0 }
    }

    /// Chunks collected earlier.
    pub(super) fn start_from(&mut self, chunks: i32) {
        self.chunks = chunks;
        self.ended = chunks;
    }

    /// Takes note that some weight has seen `rows` rows, the last of them in `batch`.
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
        // A batch of several chunks may step over the mark.
        let reached = |every: i32| every != 0 && (chunks % every) / step == 0;
        if reached(self.output_every) {
            self.due.push((batch, Due::Output));
        }
        if self.copy_every > 0 && reached(self.copy_every) {
            self.due.push((batch, Due::Copy(chunks)));
        }
    }

    /// `batch` and all before it have ended: what was due by then, in order, and chunks at that time.
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
    fn marks_are_met_once_also_when_stepped_over() {
        let mut clock = ChunkClock::new(16, 10, 3);
        for batch in 1..=3 {
            clock.saw(batch * 4 * 16, batch as usize); // four chunks at a time: 4, 8, 12
            clock.saw(batch * 4 * 16, batch as usize); // another weight of the same batch
        }
        assert_eq!(clock.end_batch(0), (vec![], 0));
        assert_eq!(clock.end_batch(2), (vec![Due::Copy(4), Due::Copy(8)], 8));
        assert_eq!(clock.end_batch(3), (vec![Due::Output, Due::Copy(12)], 12));
        assert_eq!(clock.chunks, 12);
    }

    #[test]
    fn zero_means_never() {
        let mut clock = ChunkClock::new(16, 0, 0);
        clock.saw(160, 0);
        assert!(clock.due.is_empty());
    }
}
