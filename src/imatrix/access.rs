//! A matrix to work with: from a file in one call, by name, entry after entry.

use std::collections::btree_map;
use std::path::Path;

use super::{ChunkSizes, Entry, Error, Imatrix, Loaded, Values};

impl Imatrix {
    /// Reads a GGUF or legacy file to work with it. What a legacy file does not say is taken to be llama.cpp's default,
    /// 512 tokens a chunk; [`load`](Self::load) and [`Loaded::into_imatrix`] let the caller say.
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
    /// As [`load`](Self::load); counts out of range.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::load(path)?.into_imatrix(ChunkSizes::default())
    }
}

impl<V> Imatrix<V> {
    /// What was collected for `weight`, such as `blk.0.attn_q.weight`.
    #[must_use]
    pub fn get(&self, weight: &str) -> Option<&Entry<V>> {
        self.entries.get(weight)
    }

    /// The entries by name, in the order of a file's.
    pub fn iter(&self) -> btree_map::Iter<'_, String, Entry<V>> {
        self.entries.iter()
    }

    /// Number of weights.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
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
    /// Number of matrices that have sums of their own: experts, or heads; 1 of a plain weight. Where one count stands
    /// for several matrices, as of heads, it is 1 too: how many they are is the weight's shape to say.
    #[must_use]
    pub fn n_matrices(&self) -> usize {
        self.counts.len()
    }

    /// What a quantizer weighs the columns by: per column the mean square of its inputs, sum of squares over count, as
    /// long as [`sum2`](Self::sum2). Columns of a matrix that no row reached have 1, as `llama-quantize` has it.
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
    /// What the file holds as a matrix: sums and rows, also where it had averages and calls, and a chunk size.
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

/// As a file that has been read, so that it can be merged into another.
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
    fn a_quantizer_gets_means_and_ones_for_experts_without_rows() {
        let entry = Entry { sum2: vec![4.0, 9.0, 0.0, 0.0, 5.0, 1.0], sum: None, counts: vec![2, 0, 1] };
        assert_eq!(entry.importance(), [2.0, 4.5, 1.0, 1.0, 5.0, 1.0]);
        let heads = Entry { sum2: vec![4.0, 9.0, 6.0, 8.0], sum: None, counts: vec![2] };
        assert_eq!(heads.importance(), [2.0, 4.5, 3.0, 4.0]);
        assert_eq!((entry.n_matrices(), heads.n_matrices()), (3, 1));
        assert!(Entry::<Vec<f32>>::default().importance().is_empty());
    }

    #[test]
    fn a_matrix_comes_back_from_either_format() {
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
