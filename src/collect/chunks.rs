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
    pub(super) due: Vec<Due>,
}

impl ChunkClock {
    /// Takes note that some weight has seen `rows` rows.
    pub(super) fn saw(&mut self, rows: i64) {
        let chunks = rows_to_chunks(rows, self.chunk_size);
        if chunks <= self.chunks {
            return;
        }
        let step = chunks - self.chunks;
        self.chunks = chunks;
        // A batch of several chunks may step over the mark.
        let reached = |every: i32| every != 0 && (chunks % every) / step == 0;
        if reached(self.output_every) {
            self.due.push(Due::Output);
        }
        if self.copy_every > 0 && reached(self.copy_every) {
            self.due.push(Due::Copy(chunks));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_met_once_also_when_stepped_over() {
        let mut clock = ChunkClock { chunk_size: 16, chunks: 0, output_every: 10, copy_every: 3, due: Vec::new() };
        for batch in 1..=3 {
            clock.saw(batch * 4 * 16); // four chunks at a time: 4, 8, 12
            clock.saw(batch * 4 * 16); // another weight of the same batch
        }
        assert_eq!(clock.due, [Due::Copy(4), Due::Copy(8), Due::Output, Due::Copy(12)]);
        assert_eq!(clock.chunks, 12);
    }

    #[test]
    fn zero_means_never() {
        let mut clock = ChunkClock { chunk_size: 16, chunks: 0, output_every: 0, copy_every: 0, due: Vec::new() };
        clock.saw(160);
        assert!(clock.due.is_empty());
    }
}
