//! The importance matrix: what it holds, how files are read, merged and written.

mod access;
mod dat;
mod error;
mod gguf;
mod invalid;
mod load;
mod merge;
mod numbers;
mod weighted;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::atomic_file::{self, Target};

pub use error::Error;
pub use invalid::Invalid;
pub use load::{File, Loaded};
pub use merge::{ChunkSizes, Warning, rows_to_chunks};
pub use numbers::{Numbers, Ready, Slice, Sum, Values};
pub use weighted::merge_weighted;

/// What was collected for one weight.
///
/// A weight has one or more matrices (one for a plain weight, a head's or an expert's each for 3-D
/// ones) of `n` columns. The sums lie matrix after matrix, `n` numbers each: in the entry itself, or
/// elsewhere for an `Entry<Numbers>` or `Entry<Slice>`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry<V = Vec<f32>> {
    /// Per column, the sum of squared activations over all rows. `matrices * n` long.
    pub sum2: V,
    /// Per column, the sum of activations over all rows, as long as `sum2`; `None` where the data
    /// came through a legacy file, which has none.
    pub sum: Option<V>,
    /// Rows seen: one number for the whole weight, or one a matrix. Never negative.
    pub counts: Vec<i64>,
}

impl Entry {
    /// The sums of activations, empty where there are none.
    #[must_use]
    pub fn activations(&self) -> &[f32] {
        self.sum.as_deref().unwrap_or_default()
    }
}

impl<V: Values> Entry<V> {
    /// The same entry, its sums where they are.
    #[must_use]
    pub fn view(&self) -> Entry<Numbers<'_>> {
        let sum = self.present_sum().map(Values::numbers);
        Entry { sum2: self.sum2.numbers(), sum, counts: self.counts.clone() }
    }

    /// The sums of activations, unless there are none.
    fn present_sum(&self) -> Option<&V> {
        self.sum.as_ref().filter(|sum| !sum.is_empty())
    }

    /// Numbers a count stands for; `None` without counts or where they do not divide the sums.
    #[must_use]
    pub fn row_len(&self) -> Option<usize> {
        let (values, counts) = (self.sum2.len(), self.counts.len());
        (counts > 0 && values % counts == 0).then(|| values / counts)
    }

    /// What every entry must satisfy, checked on reading and on writing.
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

/// An importance matrix: entries by weight name, and where they came from.
///
/// `Imatrix` owns its entries. An `Imatrix<Numbers>` has them elsewhere: in files
/// ([`File`]), or in whatever holds them during a run. It writes the same
/// bytes and has the same statistics.
///
/// ```
/// use llama_imatrix::imatrix::{Entry, Format, Imatrix};
/// let entry = Entry { sum2: vec![4.0, 9.0], sum: Some(vec![2.0, 3.0]), counts: vec![1] };
/// let owned = Imatrix { entries: [("blk.0.attn_q.weight".to_owned(), entry)].into(), chunk_size: 1, ..Imatrix::default() };
/// // What a run does at each save: nothing but names and counts is copied.
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
    /// What was collected, by the weight's name.
    pub entries: BTreeMap<String, Entry<V>>,
    /// Names of the calibration files, oldest first; the run's own file last. A `.dat` file keeps
    /// only the last.
    pub datasets: Vec<String>,
    /// Chunks the entries were collected over: the largest count, in chunks.
    pub chunk_count: i32,
    /// Tokens a chunk; 0 as long as no file has said. [`Imatrix::settle_chunk_size`] before
    /// writing.
    pub chunk_size: i32,
    /// How many of the top layers are `NextN` layers.
    pub n_layer_nextn: i32,
}

/// The two file formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// GGUF with sums and counts.
    Gguf,
    /// The legacy format with averages of squares.
    Dat,
}

/// How much of an entry has data; see [`Imatrix::coverage`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// The weight.
    pub name: String,
    /// Counts that are zero.
    pub unseen: usize,
    /// All its counts.
    pub total: usize,
}

impl Coverage {
    /// Whether nothing was collected at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.unseen == self.total
    }

    /// The part that has data, in percent, in the single precision upstream prints.
    #[must_use]
    pub fn percent(&self) -> f32 {
        if self.total == 0 {
            return 0.0;
        }
        100.0 * (self.total - self.unseen) as f32 / self.total as f32
    }
}

// For this one alone, so that a plain `Imatrix::default()` says which.
impl Default for Imatrix {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), datasets: Vec::new(), chunk_count: 0, chunk_size: 0, n_layer_nextn: 0 }
    }
}

impl<'a> Imatrix<Numbers<'a>> {
    /// An empty matrix, to merge into what stays where it is.
    #[must_use]
    pub fn new() -> Self {
        Self { entries: BTreeMap::new(), datasets: Vec::new(), chunk_count: 0, chunk_size: 0, n_layer_nextn: 0 }
    }

    /// A matrix whose entries stay where they are; the rest is at its default, to be set.
    pub fn from_entries<'n, V: Values + 'a>(entries: impl IntoIterator<Item = (&'n str, &'a Entry<V>)>) -> Self {
        let entries = entries.into_iter().map(|(name, entry)| (name.to_owned(), entry.view())).collect();
        Self { entries, ..Self::new() }
    }

    /// The same matrix, its sums added up and copied.
    #[must_use]
    pub fn to_owned(&self) -> Imatrix {
        let entries = self.entries.iter().map(|(name, entry)| {
            let sum = entry.sum.as_ref().map(Numbers::to_vec);
            (name.clone(), Entry { sum2: entry.sum2.to_vec(), sum, counts: entry.counts.clone() })
        });
        Imatrix {
            entries: entries.collect(),
            datasets: self.datasets.clone(),
            chunk_count: self.chunk_count,
            chunk_size: self.chunk_size,
            n_layer_nextn: self.n_layer_nextn,
        }
    }
}

impl<V: Values> Imatrix<V> {
    /// The same matrix, its sums where they are.
    #[must_use]
    pub fn view(&self) -> Imatrix<Numbers<'_>> {
        Imatrix {
            entries: self.entries.iter().map(|(name, entry)| (name.clone(), entry.view())).collect(),
            datasets: self.datasets.clone(),
            chunk_count: self.chunk_count,
            chunk_size: self.chunk_size,
            n_layer_nextn: self.n_layer_nextn,
        }
    }

    /// The chunk size that counts: the files', or else the run's.
    #[must_use]
    pub const fn effective_chunk_size(&self, current: i32) -> i32 {
        if self.chunk_size > 0 { self.chunk_size } else { current }
    }

    /// Sets the chunk size to the run's unless a file has set it; for when all files are merged.
    pub const fn settle_chunk_size(&mut self, current: i32) {
        self.chunk_size = self.effective_chunk_size(current);
    }

    /// Writes the file that upstream would, to the byte.
    ///
    /// Buffering is up to `w`; [`save`](Self::save), which is faster, buffers.
    ///
    /// # Errors
    /// What `w` reports; [`Error::ChunkSize`] unless the chunk size is positive; entries whose
    /// lengths disagree or are more than the format can say.
    pub fn write(&self, w: impl io::Write, format: Format) -> Result<(), Error> {
        self.check()?;
        match format {
            Format::Gguf => gguf::write(&self.view(), w),
            Format::Dat => dat::write(&self.view(), w),
        }
    }

    /// Replaces a file by this matrix as [`atomic_file::save`] does.
    ///
    /// The bytes are those of [`write`](Self::write); the statistics that a GGUF file has are
    /// computed while the sums go to the disk.
    ///
    /// # Errors
    /// As [`write`](Self::write) and [`atomic_file::save`].
    pub fn save(&self, path: &Path, format: Format) -> Result<(), Error> {
        self.check()?;
        let view = self.view();
        atomic_file::save_with(path, |target| match (format, target) {
            (Format::Gguf, Target::File(w)) => gguf::write_beside_statistics(&view, w),
            (Format::Gguf, Target::Stream(w)) => gguf::write(&view, w),
            (Format::Dat, Target::File(w)) => dat::write(&view, w),
            (Format::Dat, Target::Stream(w)) => dat::write(&view, w),
        })
    }

    fn check(&self) -> Result<(), Error> {
        if self.chunk_size <= 0 {
            return Err(Error::ChunkSize(self.chunk_size));
        }
        for (name, entry) in &self.entries {
            entry.check(name)?;
            // Both formats' lengths are signed 32-bit for upstream.
            if i32::try_from(entry.sum2.len()).is_err() {
                return Err(Error::TooManyValues { name: name.clone(), found: entry.sum2.len() as u64 });
            }
        }
        Ok(())
    }

    /// The entries with matrices that no row has reached, for warnings before saving.
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
    fn write_refuses_what_a_reader_could_not_make_sense_of() {
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
    fn a_large_file_is_saved_in_parts_and_is_the_one_that_is_written() {
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
    fn files_merge_to_the_same_bytes_where_they_lie() {
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
