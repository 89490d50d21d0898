//! Convenient access to a matrix: reading a file, looking up and iterating over entries.

use std::collections::btree_map;
use std::path::Path;

use super::{ChunkSizes, Entry, Error, Imatrix, Loaded, Values};

impl Imatrix {
    /// Reads a GGUF or legacy file. A legacy file does not have the number of tokens per chunk; this function assumes
    /// llama.cpp's default of 512. Use [`load`](Self::load) and [`Loaded::into_imatrix`] for another number.
    ///
    /// ```
    /// use llama_imatrix::Imatrix;
    /// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/collect/llama.gguf");
    /// let imatrix = Imatrix::read(path)?;
    /// let entry = imatrix.get("blk.0.attn_q.weight").ok_or("no such weight")?;
    /// assert_eq!((entry.n_matrices(), entry.counts.len()), (1, 1));
    /// for (name, entry) in &imatrix {
    ///     let heaviest = entry.importance().into_iter().fold(0.0, f32::max);
    ///     println!("{name}: {} rows, heaviest channel {heaviest}", entry.counts[0]);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`load`](Self::load), and counts out of range.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::load(path)?.into_imatrix(ChunkSizes::default())
    }
}

impl<V> Imatrix<V> {
    /// Returns the entry of a weight, such as `blk.0.attn_q.weight`.
    #[must_use]
    pub fn get(&self, weight: &str) -> Option<&Entry<V>> {
        self.entries.get(weight)
    }

    /// Returns the entries sorted by name, which is the order of a file.
    pub fn iter(&self) -> btree_map::Iter<'_, String, Entry<V>> {
        self.entries.iter()
    }

    /// Returns the number of weights.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns true if the matrix has no weights.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl<'m, V> IntoIterator for &'m Imatrix<V> {
    type Item = (&'m String, &'m Entry<V>);
    type IntoIter = btree_map::Iter<'m, String, Entry<V>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<V: Values> Entry<V> {
    /// Returns the number of matrices with separate counts: the number of experts, or 1 for a plain weight. It is also 1 if
    /// one count applies to several matrices, such as heads; their number follows from the weight's shape.
    #[must_use]
    pub fn n_matrices(&self) -> usize {
        self.counts.len()
    }

    /// Returns the weights of the columns for a quantizer: per column the mean square of its inputs (sum of squares divided
    /// by count), as long as [`sum2`](Self::sum2). As in `llama-quantize`, columns of a matrix without rows have 1.
    #[must_use]
    pub fn importance(&self) -> Vec<f32> {
        let mut values = self.sum2.numbers().to_vec();
        let row = self.row_len().unwrap_or(values.len()).max(1);
        for (i, matrix) in values.chunks_mut(row).enumerate() {
            match self.counts.get(i) {
                Some(&count) if count > 0 => matrix.iter_mut().for_each(|value| *value /= count as f32),
                _ => matrix.fill(1.0),
            }
        }
        values
    }
}

impl Loaded {
    /// Converts the contents of a file to a matrix. A legacy file's averages and calls become sums and rows.
    ///
    /// # Errors
    /// A chunk size that is not positive; counts out of range.
    pub fn into_imatrix(self, sizes: ChunkSizes) -> Result<Imatrix, Error> {
        let mut imatrix = Imatrix::default();
        imatrix.merge(&self, sizes)?;
        imatrix.settle_chunk_size(sizes.run);
        Ok(imatrix)
    }
}

/// Turns a matrix into the contents of a file, to be merged into another matrix.
impl From<Imatrix> for Loaded {
    fn from(imatrix: Imatrix) -> Self {
        let Imatrix { entries, datasets, chunk_count, chunk_size, n_layer_nextn } = imatrix;
        Self { entries, datasets, chunk_count, chunk_size, n_layer_nextn, is_legacy: false, has_metadata: true }
    }
}

impl Default for ChunkSizes {
    /// llama.cpp's default of 512 tokens for both.
    fn default() -> Self {
        Self { run: 512, legacy: 512 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imatrix::Format;

    #[test]
    fn importance_is_the_mean_square_and_one_without_rows() {
        let entry = Entry { sum2: vec![4.0, 9.0, 0.0, 0.0, 5.0, 1.0], sum: None, counts: vec![2, 0, 1] };
        assert_eq!(entry.importance(), [2.0, 4.5, 1.0, 1.0, 5.0, 1.0]);
        let heads = Entry { sum2: vec![4.0, 9.0, 6.0, 8.0], sum: None, counts: vec![2] };
        assert_eq!(heads.importance(), [2.0, 4.5, 3.0, 4.0]);
        assert_eq!((entry.n_matrices(), heads.n_matrices()), (3, 1));
        assert!(Entry::<Vec<f32>>::default().importance().is_empty());
    }

    #[test]
    fn both_formats_round_trip() {
        let entry = Entry { sum2: vec![512.0, 1024.0], sum: Some(vec![1.0, 2.0]), counts: vec![1024] };
        let entries = [("blk.0.attn_q.weight".to_owned(), entry)].into();
        let matrix = Imatrix { entries, chunk_size: 512, chunk_count: 2, ..Imatrix::default() };
        let dir = tempfile::tempdir().unwrap();
        for format in [Format::Gguf, Format::Dat] {
            let path = dir.path().join("m");
            matrix.save(&path, format).unwrap();
            let read = Imatrix::read(&path).unwrap();
            let (name, found) = read.iter().next().unwrap();
            assert_eq!((read.len(), name.as_str(), read.chunk_size), (1, "blk.0.attn_q.weight", 512));
            assert_eq!(found.importance(), matrix.get(name).unwrap().importance(), "{format:?}");
            assert_eq!((found.counts[0], read.get("none")), (1024, None));
        }
        let mut twice = matrix.clone();
        twice.merge(&matrix.clone().into(), ChunkSizes::default()).unwrap();
        assert_eq!(twice.get("blk.0.attn_q.weight").unwrap().counts, [2048]);
        assert_eq!((twice.chunk_count, twice.is_empty()), (4, false));
    }
}
