//! Which chunks are evaluated together, and how large a context that takes.

use std::ops::Range;

use super::sequences_per_batch;
use crate::calibration::{Chunks, Room};
use crate::llama::Model;
use crate::state::Shard;

/// Documents that share a batch at most: llama.cpp has room for 256 sequences, and its graph has nodes for each.
const MOST_DOCUMENTS: usize = 64;

/// Batches of chunks: the same whichever part of them a run takes, so that parts add up to the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The chunks of each batch, in order.
    pub batches: Vec<Range<usize>>,
    /// Sequences that a batch has at most.
    pub n_seq: usize,
    /// Tokens that the context holds.
    pub n_ctx: usize,
    /// Whether each batch is computed at once.
    pub in_one_piece: bool,
}

impl Layout {
    /// Chunks of equal size go together as many as fit into `n_batch` tokens, at least one. Documents go together as long
    /// as they fit into one micro-batch, or into the size of a chunk if that is more; with a `NextN` layer, or where a model
    /// has a state rather than a cache, which takes sequences of equal length only, each goes alone.
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

    /// The chunks of a shard, which takes whole batches.
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
    fn documents_share_a_micro_batch_or_a_chunks_size() {
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
    fn shards_of_batches_are_shards_of_chunks() {
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
