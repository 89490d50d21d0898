//! Groups chunks into batches and computes the size of the context.

use std::ops::Range;

use super::sequences_per_batch;
use crate::calibration::{Chunks, Room};
use crate::llama::Model;
use crate::state::Shard;

/// Maximum number of documents per batch. llama.cpp allows 256 sequences, but its graph has nodes per sequence.
const MOST_DOCUMENTS: usize = 64;

/// Batches of chunks. They do not depend on the part that a run evaluates, so that parts add up to the whole run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Chunks of each batch, in order.
    pub batches: Vec<Range<usize>>,
    /// Maximum number of sequences per batch.
    pub n_seq: usize,
    /// Number of tokens that the context holds.
    pub n_ctx: usize,
    /// True if each batch is a single micro-batch.
    pub in_one_piece: bool,
}

impl Layout {
    /// Groups the chunks of a run. Chunks of equal size share a batch if they fit into `n_batch` tokens; a batch has at
    /// least one. Documents share a batch if they fit into a micro-batch, or into the size of a chunk if that is
    /// larger. Each document has a separate batch with a `NextN` layer, and if the model has a recurrent state, which
    /// requires sequences of equal length.
    #[must_use]
    pub fn new(model: &Model, nextn: bool, chunks: &Chunks, n_batch: usize, n_ubatch: usize) -> Self {
        let alone = nextn || model.is_recurrent();
        Self::of(chunks, if alone { 1 } else { MOST_DOCUMENTS }, n_batch, n_ubatch)
    }

    fn of(chunks: &Chunks, most_documents: usize, n_batch: usize, n_ubatch: usize) -> Self {
        let at_once = n_batch.min(n_ubatch);
        if chunks.are_documents() {
            let room = Room { tokens: chunks.size().max(at_once), sequences: most_documents };
            let batches = chunks.batches(room);
            let n_ctx = batches.iter().map(|batch| chunks.tokens_in(batch)).max().unwrap_or(1);
            let n_seq = batches.iter().map(ExactSizeIterator::len).max().unwrap_or(1);
            return Self { batches, n_seq, n_ctx, in_one_piece: n_ctx <= at_once };
        }
        let n_seq = sequences_per_batch(n_batch, chunks.size());
        let n_ctx = n_seq * chunks.size();
        let batches = chunks.batches(Room { tokens: n_ctx, sequences: n_seq });
        Self { batches, n_seq, n_ctx, in_one_piece: n_ctx <= at_once }
    }

    /// Returns the number of micro-batches of the chunks in `part`: each reads all weights once.
    #[must_use]
    pub fn passes(&self, chunks: &Chunks, part: &Range<usize>, n_ubatch: usize) -> u64 {
        let batches = self.batches.iter().filter(|batch| part.contains(&batch.start));
        let passes = |batch: &Range<usize>| {
            if chunks.are_documents() {
                return chunks.tokens_in(batch).div_ceil(n_ubatch.max(1)) as u64;
            }
            let len = chunks.get(batch.start).len();
            // A micro-batch has as many tokens of each chunk.
            len.div_ceil((n_ubatch / batch.len().max(1)).clamp(1, len.max(1))) as u64
        };
        batches.map(passes).sum()
    }

    /// Returns the chunks of a shard, which consists of whole batches.
    #[must_use]
    pub fn part(&self, shard: Shard) -> Range<usize> {
        let batches = shard.range(self.batches.len() as u64, 1);
        let all = self.batches.last().map_or(0, |last| last.end);
        let start = |batch: u64| self.batches.get(batch as usize).map_or(all, |batch| batch.start);
        start(batches.start)..start(batches.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibration::{ChunkOptions, Documents};

    fn documents(lens: &[usize], size: usize) -> Chunks {
        let mut documents = Documents::default();
        for &len in lens {
            documents.push(&vec![0; len]);
        }
        Chunks::of_documents(documents, ChunkOptions { size, ..ChunkOptions::default() }).unwrap()
    }

    #[test]
    fn documents_share_a_batch_of_the_size_of_a_micro_batch_or_chunk() {
        let chunks = documents(&[10, 20, 30, 40, 70], 64);
        let of = |most, n_batch, n_ubatch| Layout::of(&chunks, most, n_batch, n_ubatch);
        let wide = of(64, 2048, 512);
        assert_eq!((wide.batches.len(), wide.n_seq, wide.n_ctx, wide.in_one_piece), (1, 6, 170, true));
        let narrow = of(64, 2048, 32);
        assert_eq!(narrow.batches, [0..3, 3..4, 4..5, 5..6]);
        assert_eq!((narrow.n_seq, narrow.n_ctx, narrow.in_one_piece), (3, 64, false));
        let alone = of(1, 2048, 512);
        assert_eq!((alone.batches.len(), alone.n_seq, alone.n_ctx), (6, 1, 64));
    }

    #[test]
    fn a_pass_over_the_weights_serves_as_many_chunks_as_a_micro_batch_has() {
        let chunks = Chunks::new(vec![0; 64 * 10], ChunkOptions { size: 64, ..ChunkOptions::default() }).unwrap();
        let passes = |n_batch, n_ubatch| Layout::of(&chunks, 64, n_batch, n_ubatch).passes(&chunks, &(0..10), n_ubatch);
        assert_eq!(passes(64, 64), 10);
        assert_eq!(passes(256, 64), 4 + 4 + 2);
        assert_eq!(passes(256, 256), 3);
        assert_eq!(passes(640, 640), 1);
        assert_eq!(passes(64, 16), 40);
        assert_eq!(Layout::of(&chunks, 64, 256, 256).passes(&chunks, &(4..10), 256), 2);
        let documents = documents(&[10, 20, 30, 40, 70], 64);
        let layout = Layout::of(&documents, 64, 2048, 512);
        assert_eq!((layout.passes(&documents, &(0..6), 512), layout.passes(&documents, &(0..6), 100)), (1, 2));
    }

    #[test]
    fn shards_of_batches_agree_with_shards_of_chunks() {
        let chunks = Chunks::new(vec![0; 64 * 10], ChunkOptions { size: 64, ..ChunkOptions::default() }).unwrap();
        let layout = Layout::of(&chunks, 64, 256, 512);
        assert_eq!((layout.batches.len(), layout.n_seq, layout.n_ctx, layout.in_one_piece), (3, 4, 256, true));
        for count in 1..5 {
            for index in 0..count {
                let shard = Shard::new(index, count).unwrap();
                let want = shard.range(10, 4);
                assert_eq!(layout.part(shard), want.start as usize..want.end as usize);
            }
        }
    }
}
