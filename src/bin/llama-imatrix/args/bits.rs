//! Effect of a flag on the bits of a run's sums and perplexity: a run can only be resumed with the same bits.
//!
//! Each row of the flags' table says so of its flag, and the fingerprint's flags follow from those rows.

/// Effect of a flag on bits, and where a state file holds its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bits {
    /// The row does not say: a test fails.
    Unsaid,
    /// It decides none.
    Same,
    /// A key of the state file's own holds what it leads to.
    Key(Key),
    /// The fingerprint's flags hold its value under this name.
    Named(&'static str),
}

/// Keys of a state file that hold what flags lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// `fingerprint.model.*`
    Model,
    /// `fingerprint.draft.*`
    Draft,
    /// `fingerprint.text` and `.tokens`
    Text,
    /// `fingerprint.chunk_size`
    ChunkSize,
    /// `fingerprint.batch`
    Batch,
    /// `fingerprint.ubatch`
    Ubatch,
    /// `fingerprint.accumulate`
    Accumulate,
    /// `state.chunks`
    Chunks,
    /// `state.shard`
    Shard,
    /// `state.base`
    Base,
}
