//! The importance matrix: its contents, and how files are read, merged and written.

mod access;
mod dat;
mod error;
mod exact;
mod fill;
mod gguf;
mod invalid;
mod load;
mod merge;
mod numbers;
mod weighted;

use std::collections::BTreeMap;
use std::io;

pub use error::Error;
pub use fill::{Fill, Filled, Shown, ShownSums, describe as describe_filled};
pub use invalid::Invalid;
pub use load::{File, Loaded};
pub(crate) use merge::rows_to_chunks;
pub use merge::{ChunkSizes, Warning};
pub use numbers::{Numbers, Ready, Slice, Sum, Values};
pub use weighted::merge_weighted;

pub use crate::sums::Sums as Entry;

impl<V: Values> Entry<V> {
    /// Returns a view of the entry that borrows the sums.
    #[must_use]
    pub fn view(&self) -> Entry<Numbers<'_>> {
        let sum = self.present_sum().map(Values::numbers);
        Entry { sum2: self.sum2.numbers(), sum, counts: self.counts.clone() }
    }

    /// Returns the sums of activations if there are any.
    fn present_sum(&self) -> Option<&V> {
        self.sum.as_ref().filter(|sum| !sum.is_empty())
    }

    /// Returns the number of values per count; `None` without counts, or if the number of values is not a multiple of theirs.
    #[must_use]
    pub fn row_len(&self) -> Option<usize> {
        let (values, counts) = (self.sum2.len(), self.counts.len());
        (counts > 0 && values % counts == 0).then(|| values / counts)
    }

    /// Checks the lengths of the entry. This happens on reading and on writing.
    pub(crate) fn check(&self, name: &str) -> Result<(), Error> {
        let (values, counts) = (self.sum2.len(), self.counts.len());
        if let Some(sum) = self.present_sum().filter(|sum| sum.len() != values) {
            return Err(Error::SumLengths { name: name.to_owned(), sum: sum.len(), sum2: values });
        }
        if counts > 0 && values % counts != 0 {
            return Err(Error::Matrices { name: name.to_owned(), values, counts });
        }
        Ok(())
    }
}

/// An importance matrix: entries by weight name, and their origin.
///
/// An `Imatrix` owns its sums. An `Imatrix<Numbers>` borrows them from files ([`File`]) or from the accumulators of a run. It
/// writes the same bytes and has the same statistics.
///
/// ```
/// use llama_imatrix::imatrix::{Entry, Format, Imatrix};
/// let entry = Entry { sum2: vec![4.0, 9.0], sum: Some(vec![2.0, 3.0]), counts: vec![1] };
/// let owned = Imatrix { entries: [("blk.0.attn_q.weight".to_owned(), entry)].into(), chunk_size: 1, ..Imatrix::default() };
/// // A run does this at each save: it copies only names and counts.
/// let entries = owned.entries.iter().map(|(name, entry)| (name.as_str(), entry));
/// let borrowed = Imatrix { chunk_size: 1, ..Imatrix::from_entries(entries) };
/// let (mut a, mut b) = (Vec::new(), Vec::new());
/// owned.write(&mut a, Format::Gguf)?;
/// borrowed.write(&mut b, Format::Gguf)?;
/// assert_eq!(a, b);
/// # Ok::<(), llama_imatrix::imatrix::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Imatrix<V = Vec<f32>> {
    /// Entries by weight name.
    pub entries: BTreeMap<String, Entry<V>>,
    /// Names of the calibration files, oldest first, the run's file last. A `.dat` file stores only the last.
    pub datasets: Vec<String>,
    /// Number of chunks: the largest count, in chunks.
    pub chunk_count: i32,
    /// Tokens per chunk; 0 until a file sets it. Call [`Imatrix::settle_chunk_size`] before writing.
    pub chunk_size: i32,
    /// Number of `NextN` layers, which are the last layers.
    pub n_layer_nextn: i32,
    /// Experts whose sums were filled; empty unless [`Imatrix::fill_experts`] was called.
    pub filled: Filled,
}

/// The two file formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// GGUF with sums and counts.
    Gguf,
    /// The legacy format with averages of squares.
    Dat,
}

/// The statistics in a GGUF file. This module writes them and does not know their meaning.
#[derive(Debug)]
pub(crate) struct WeightStatistics<'a> {
    /// Names of the statistics, in file order.
    pub(crate) schema: &'a [&'a str],
    /// Per weight, its values in the order of `schema`. A weight that is missing here gets zeros.
    pub(crate) values: BTreeMap<&'a str, Vec<f32>>,
}

/// The part of an entry that has data; see [`Imatrix::coverage`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// Name of the weight.
    pub name: String,
    /// Number of counts that are zero.
    pub unseen: usize,
    /// Number of counts.
    pub total: usize,
}

impl Coverage {
    /// Returns true if nothing was collected.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.unseen == self.total
    }

    /// Returns the share of counts that are not zero, in percent and in the single precision that upstream prints.
    #[must_use]
    pub fn percent(&self) -> f32 {
        if self.total == 0 {
            return 0.0;
        }
        100.0 * (self.total - self.unseen) as f32 / self.total as f32
    }
}

impl<V> Imatrix<V> {
    const fn empty() -> Self {
        Self {
            entries: BTreeMap::new(),
            datasets: Vec::new(),
            chunk_count: 0,
            chunk_size: 0,
            n_layer_nextn: 0,
            filled: Filled::new(),
        }
    }

    /// Returns a matrix with other entries of the same origin.
    fn with_entries<W>(&self, entries: BTreeMap<String, Entry<W>>) -> Imatrix<W> {
        let (datasets, filled) = (self.datasets.clone(), self.filled.clone());
        let (chunk_count, chunk_size, n_layer_nextn) = (self.chunk_count, self.chunk_size, self.n_layer_nextn);
        Imatrix { entries, datasets, chunk_count, chunk_size, n_layer_nextn, filled }
    }
}

// Only for the owned type, so that `Imatrix::default()` needs no type annotation.
impl Default for Imatrix {
    fn default() -> Self {
        Self::empty()
    }
}

impl<'a> Imatrix<Numbers<'a>> {
    /// Creates an empty matrix that borrows the sums merged into it.
    #[must_use]
    pub fn new() -> Self {
        Self::empty()
    }

    /// Creates a matrix that borrows the sums of entries. All other fields have their defaults.
    pub fn from_entries<'n, V: Values + 'a>(entries: impl IntoIterator<Item = (&'n str, &'a Entry<V>)>) -> Self {
        let entries = entries.into_iter().map(|(name, entry)| (name.to_owned(), entry.view())).collect();
        Self { entries, ..Self::new() }
    }

    /// Copies the matrix and computes its sums.
    #[must_use]
    pub fn to_owned(&self) -> Imatrix {
        let entries = self.entries.iter().map(|(name, entry)| {
            let sum = entry.sum.as_ref().map(Numbers::to_vec);
            (name.clone(), Entry { sum2: entry.sum2.to_vec(), sum, counts: entry.counts.clone() })
        });
        self.with_entries(entries.collect())
    }
}

impl<V: Values> Imatrix<V> {
    /// Returns a view of the matrix that borrows the sums.
    #[must_use]
    pub fn view(&self) -> Imatrix<Numbers<'_>> {
        self.with_entries(self.entries.iter().map(|(name, entry)| (name.clone(), entry.view())).collect())
    }

    /// Returns the chunk size of the files, or `current` if no file has one.
    #[must_use]
    pub const fn effective_chunk_size(&self, current: i32) -> i32 {
        if self.chunk_size > 0 { self.chunk_size } else { current }
    }

    /// Sets the chunk size to the run's unless a file has set it. Call this after all files are merged.
    pub const fn settle_chunk_size(&mut self, current: i32) {
        self.chunk_size = self.effective_chunk_size(current);
    }

    /// Writes a GGUF file with the given statistics.
    pub(crate) fn write_gguf(&self, w: impl io::Write, statistics: &WeightStatistics<'_>) -> Result<(), Error> {
        self.check()?;
        gguf::write(&self.view(), statistics, w)
    }

    /// Writes a legacy file.
    pub(crate) fn write_dat(&self, w: impl io::Write) -> Result<(), Error> {
        self.check()?;
        dat::write(&self.view(), w)
    }

    /// Checks everything that readers rely on.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.chunk_size <= 0 {
            return Err(Error::ChunkSize(self.chunk_size));
        }
        for (name, entry) in &self.entries {
            entry.check(name)?;
            // Upstream's lengths are signed 32-bit in both formats.
            if i32::try_from(entry.sum2.len()).is_err() {
                return Err(Error::TooManyValues { name: name.clone(), found: entry.sum2.len() as u64 });
            }
        }
        Ok(())
    }

    /// Returns the entries that have matrices without rows, for warnings before saving.
    #[must_use]
    pub fn coverage(&self) -> Vec<Coverage> {
        let unseen = |counts: &[i64]| counts.iter().filter(|&&c| c == 0).count();
        self.entries
            .iter()
            .map(|(name, e)| Coverage { name: name.clone(), unseen: unseen(&e.counts), total: e.counts.len() })
            .filter(|c| c.unseen > 0 || c.total == 0)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(values: usize, counts: &[i64]) -> Entry {
        Entry { sum2: vec![1.0; values], sum: None, counts: counts.to_vec() }
    }

    #[test]
    fn coverage_lists_partial_and_empty_entries_only() {
        let mut m = Imatrix::default();
        m.entries.insert("full".into(), entry(4, &[3, 1]));
        m.entries.insert("half".into(), entry(4, &[3, 0]));
        m.entries.insert("none".into(), entry(4, &[0]));
        m.entries.insert("void".into(), entry(0, &[]));
        let seen: Vec<_> = m.coverage().into_iter().map(|c| (c.name.clone(), c.is_empty(), c.percent())).collect();
        let expected = [("half", false, 50.0), ("none", true, 0.0), ("void", true, 0.0)];
        assert_eq!(seen, expected.map(|(n, e, p)| (n.to_owned(), e, p)));
    }

    #[test]
    fn write_refuses_a_matrix_that_readers_would_reject() {
        let mut m = Imatrix::default();
        assert!(matches!(m.write(io::sink(), Format::Gguf), Err(Error::ChunkSize(0))));
        m.settle_chunk_size(512);
        m.entries.insert("x".into(), entry(5, &[1, 1]));
        for format in [Format::Gguf, Format::Dat] {
            assert!(matches!(m.write(io::sink(), format), Err(Error::Matrices { values: 5, counts: 2, .. })));
        }
        m.entries.insert("x".into(), Entry { sum: Some(vec![0.0; 3]), ..entry(4, &[1]) });
        assert!(matches!(m.write(io::sink(), Format::Gguf), Err(Error::SumLengths { sum: 3, sum2: 4, .. })));
    }

    #[test]
    fn a_saved_file_has_the_bytes_of_write() {
        let numbers = |seed: u32, n: usize| -> Vec<f32> {
            (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 * 1e-5).collect()
        };
        let mut m = Imatrix { chunk_size: 512, ..Imatrix::default() };
        for (layer, n) in [(0, 200_000), (1, 200_000), (2, 300)] {
            let (sum2, sum) = (numbers(layer, n), (layer != 1).then(|| numbers(layer + 9, n)));
            m.entries.insert(format!("blk.{layer}.ffn_up.weight"), Entry { sum2, sum, counts: vec![7, 0, 5, 1] });
        }
        m.entries.insert("void".into(), entry(0, &[]));
        let dir = tempfile::tempdir().unwrap();
        for format in [Format::Gguf, Format::Dat] {
            let path = dir.path().join("saved");
            let mut written = Vec::new();
            m.write(&mut written, format).unwrap();
            m.save(&path, format).unwrap();
            assert!(std::fs::read(&path).unwrap() == written, "{format:?}");
        }
    }

    #[test]
    fn borrowed_and_owned_merges_have_the_same_bytes() {
        let bytes = |sum: Option<Vec<f32>>, counts: &[i64], format| {
            let e = Entry { sum2: vec![0.1, -0.0, 3.0, 1e7], sum, counts: counts.to_vec() };
            let m = Imatrix { entries: [("w".to_owned(), e)].into(), chunk_size: 512, ..Imatrix::default() };
            let mut bytes = Vec::new();
            m.write(&mut bytes, format).unwrap();
            bytes
        };
        let full = bytes(Some(vec![-0.0, 0.3, 1.0, -7.0]), &[600, 700], Format::Gguf);
        let legacy = bytes(None, &[900], Format::Dat);
        let sizes = ChunkSizes { run: 512, legacy: 256 };
        for files in [vec![&full], vec![&full, &full, &full], vec![&legacy, &full], vec![&full, &legacy]] {
            let (mut owned, mut lazy) = (Imatrix::default(), Imatrix::new());
            let opened: Vec<_> = files.iter().map(|bytes| File::from_bytes(bytes).unwrap()).collect();
            let loaded: Vec<_> = opened.iter().map(|file| file.load().unwrap()).collect();
            for loaded in &loaded {
                assert_eq!(owned.merge(&loaded.to_owned(), sizes).unwrap(), lazy.merge(loaded, sizes).unwrap());
            }
            assert_eq!(lazy.to_owned(), owned);
            owned.settle_chunk_size(512);
            lazy.settle_chunk_size(512);
            for format in [Format::Gguf, Format::Dat] {
                let (mut a, mut b) = (Vec::new(), Vec::new());
                owned.write(&mut a, format).unwrap();
                lazy.write(&mut b, format).unwrap();
                assert_eq!(a, b);
            }
        }
    }
}
