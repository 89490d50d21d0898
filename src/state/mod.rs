//! State files, to resume a run or to merge the shards of one.
//!
//! A [`State`] holds the sums in full precision, the chunks that are in them, and a [`Fingerprint`] of everything that
//! determines their bits. `docs/state-file.md` describes the format.
//!
//! ```
//! use llama_imatrix::exact::ExactEntry;
//! use llama_imatrix::state::{Fingerprint, Output, Progress, State, SharedSums};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("imatrix.state");
//! # let accumulate = llama_imatrix::state::Accumulate::F64;
//! # let fingerprint = Fingerprint { chunk_size: 512, accumulate, ..Fingerprint::default() };
//! let entry = ExactEntry::zeros(8, 1);
//! let mut progress = Progress { n_chunks: 10, ..Progress::default() };
//! progress.done.insert(0..4);
//! let state = State {
//!     fingerprint: fingerprint.clone(),
//!     progress,
//!     output: Output { datasets: vec!["wiki.txt".into()], chunk_size: 512, ..Output::default() },
//!     likelihoods: None,
//!     measurements: None,
//!     curve: Vec::new(),
//!     sample: None,
//!     // Weights with the same entry share one copy of it in the file.
//!     sums: SharedSums::exact([("blk.0.attn_k.weight", &entry), ("blk.0.attn_q.weight", &entry)]),
//! };
//! state.save(&path)?;
//!
//! let saved = State::load(&path)?;
//! saved.fingerprint.compare(&fingerprint)?;
//! assert_eq!(saved.progress.done.to_string(), "1-4");
//! # Ok(())
//! # }
//! ```

mod chunk_set;
mod collected;
mod error;
mod fingerprint;
mod likelihoods;
mod measurements;
mod merge;
mod model;
mod output;
mod read;
mod sample;
mod seal;
mod shard;
mod sums;
mod write;

use std::borrow::Cow;
use std::path::Path;

pub use chunk_set::ChunkSet;
pub use error::{Error, MergeError};
pub use fingerprint::{Difference, Digest, Fingerprint, Mismatch};
pub use likelihoods::Likelihoods;
pub use merge::{Merger, merge};
pub use model::{FingerprintError, ModelFingerprint, model_files};
pub use output::Output;
pub use seal::reseal;
pub use shard::{Shard, ShardError};
pub use sums::{Group, SharedSums};
pub use write::KIND;

pub use crate::sums::Accumulate;

use crate::atomic_file;
use crate::convergence::{Convergence, Point};
use crate::gguf;
use crate::imatrix::Imatrix;
use crate::lens::Measurements;
use crate::shown::RowSample;

/// Version of the format that is written, and the only one that is read.
pub const VERSION: u32 = 1;

/// The state of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct State<'a> {
    /// Everything that determines the bits of the sums.
    pub fingerprint: Fingerprint,
    /// Chunks of the run, and those that are done.
    pub progress: Progress,
    /// Contents of the matrix besides its entries.
    pub output: Output,
    /// Perplexity so far; `None` if it is not computed.
    pub likelihoods: Option<Likelihoods>,
    /// Measurements of the layers so far; `None` if there are none.
    pub measurements: Option<Measurements>,
    /// How well the halves of the text agreed at each save; empty unless they are kept.
    pub curve: Vec<Point>,
    /// Sampled rows of experts; `None` if none were requested.
    pub sample: Option<RowSample>,
    /// The sums, including those of the matrices that the run started from.
    pub sums: SharedSums<'a>,
}

/// Progress of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Number of chunks of the whole run, all shards together.
    pub n_chunks: u64,
    /// Chunks that are in the sums or discarded.
    pub done: ChunkSet,
    /// Chunks that were discarded, a subset of `done`: they are not in the sums.
    pub discarded: ChunkSet,
    /// The part of the chunks that this run evaluates.
    pub shard: Shard,
    /// Number of tokens evaluated.
    pub tokens: u64,
    /// The collector's number of chunks: `imatrix.chunk_count`.
    pub chunk_count: i32,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            n_chunks: 0,
            done: ChunkSet::default(),
            discarded: ChunkSet::default(),
            shard: Shard::WHOLE,
            tokens: 0,
            chunk_count: 0,
        }
    }
}

impl State<'_> {
    /// Writes the state to a file. A crash at any time leaves the old file or the new one: see [`atomic_file::save`].
    ///
    /// # Errors
    /// An I/O error, or the rule that the state breaks.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        self.check()?;
        atomic_file::save(path.as_ref(), |w| write::write(self, w))
    }

    /// Writes the state to `w`. Equal states give equal bytes.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub fn write(&self, w: impl std::io::Write) -> Result<(), Error> {
        self.check()?;
        write::write(self, w)
    }

    /// Returns the importance matrix of these sums; exact sums are rounded.
    #[must_use]
    pub fn to_imatrix(&self) -> Imatrix {
        Imatrix {
            entries: self.sums.entries(),
            datasets: self.output.datasets.clone(),
            chunk_count: self.progress.chunk_count,
            chunk_size: self.output.chunk_size,
            n_layer_nextn: self.output.n_layer_nextn,
            ..Imatrix::default()
        }
    }

    /// Returns true if the state has the halves of the text, for [`convergence`](Self::convergence).
    #[must_use]
    pub fn has_halves(&self) -> bool {
        self.sums.halves().is_some()
    }

    /// Compares the halves of the text; `None` if the state does not have them.
    #[must_use]
    pub fn convergence(&self) -> Option<Convergence> {
        let halves = self.sums.halves().filter(|halves| !halves.is_empty())?;
        let entries = self.sums.entries();
        let all =
            halves.iter().filter_map(|(&weight, &even)| Some((weight, Cow::Borrowed(entries.get(weight)?), even)));
        Some(Convergence::measure(all))
    }

    /// Checks the rules that hold for every state, before writing and after reading.
    fn check(&self) -> Result<(), Error> {
        let Progress { n_chunks, done, discarded, .. } = &self.progress;
        if done.ranges().last().is_some_and(|range| range.end > *n_chunks) {
            return Err(Error::Chunks { set: "done", found: done.to_string(), rule: "chunks of the run" });
        }
        if discarded.intersection(done) != *discarded {
            return Err(Error::Chunks { set: "discarded", found: discarded.to_string(), rule: "a part of those done" });
        }
        if self.output.chunk_size <= 0 {
            return Err(Error::ChunkSize(self.output.chunk_size));
        }
        let sums = self.sums.accumulate();
        if sums != self.fingerprint.accumulate {
            return Err(Error::Accumulate { found: sums, expected: self.fingerprint.accumulate });
        }
        self.fingerprint.check()?;
        if let Some(likelihoods) = &self.likelihoods {
            likelihoods.check(done)?;
        }
        if let Some(measurements) = &self.measurements
            && !measurements.findings.are_of(|chunk| done.contains(chunk))
        {
            return Err(Error::Measurements("layers were measured in a chunk that is not done"));
        }
        if let Some(sample) = &self.sample {
            sample::check(sample, done)?;
        }
        self.sums.check()
    }
}

impl State<'static> {
    /// Reads and checks a state file.
    ///
    /// # Errors
    /// An I/O error, or the rule that the file breaks. A truncated or changed file gives [`Error::Incomplete`] or
    /// [`Error::Checksum`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        let bytes = gguf::map::open(path.as_ref())?;
        read::read(&bytes)
    }

    /// Reads and checks a state file that is in memory.
    ///
    /// # Errors
    /// The rule that the bytes break.
    pub fn load_from(bytes: &[u8]) -> Result<Self, Error> {
        read::read(bytes)
    }
}

#[cfg(test)]
mod tests;
