//! Writes a matrix together with its statistics, which a GGUF file has per weight.

use std::io;
use std::path::Path;

use super::{SCHEMA, Statistics};
use crate::atomic_file;
use crate::imatrix::{Error, Format, Imatrix, Values, WeightStatistics};

impl<V: Values> Imatrix<V> {
    /// Writes the bytes that upstream writes.
    ///
    /// Many small pieces are written: pass a buffered writer, or use [`save`](Self::save).
    ///
    /// # Errors
    /// An error of `w`; [`Error::ChunkSize`] unless the chunk size is positive; entries whose lengths disagree or exceed
    /// the format's limits.
    pub fn write(&self, w: impl io::Write, format: Format) -> Result<(), Error> {
        match format {
            Format::Gguf => {
                let statistics = Statistics::new(&self.entries, self.n_layer_nextn);
                let values = statistics.tensors.iter().map(|t| (t.tensor.as_str(), t.values().to_vec())).collect();
                self.write_gguf(w, &WeightStatistics { schema: &SCHEMA, values })
            }
            Format::Dat => self.write_dat(w),
        }
    }

    /// Replaces the file at `path` atomically; see [`atomic_file::save`]. The bytes are those of [`write`](Self::write).
    ///
    /// # Errors
    /// As [`write`](Self::write) and [`atomic_file::save`].
    pub fn save(&self, path: &Path, format: Format) -> Result<(), Error> {
        self.check()?;
        atomic_file::save(path, |w| self.write(w, format))
    }
}
