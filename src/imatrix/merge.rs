//! Adds the entries of a file to a matrix.

use std::fmt;

use super::{Entry, Error, Imatrix, Loaded, Ready, Sum, Values, fill};

/// A mismatch that does not make a merge fail, but that the user should know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// The file has another number of `NextN` layers. The first file's is used.
    NextnLayers {
        /// Value in the file.
        found: i32,
        /// Value used.
        used: i32,
    },
    /// The file has another chunk size. The first file's is used.
    ChunkSize {
        /// Value in the file.
        found: i32,
        /// Value used.
        used: i32,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::NextnLayers { found, used } => {
                write!(f, "NextN layer count mismatch: {found} != {used}, using {used}")
            }
            Warning::ChunkSize { found, used } => {
                write!(f, "chunk size mismatch: {found} != {used}, using {used}")
            }
        }
    }
}

/// Tokens per chunk for files that do not have this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkSizes {
    /// Chunk size of the matrix, unless a file sets it.
    pub run: i32,
    /// Chunk size of the runs that wrote the legacy files. It decides their weight relative to other files. Upstream uses the
    /// matrix's chunk size, so the same file has more weight in a run with longer chunks.
    pub legacy: i32,
}

/// Converts rows to chunks, rounded to the nearest number.
///
/// `chunk_size` must be positive. As in upstream, the result wraps at 32 bits.
#[must_use]
pub(crate) const fn rows_to_chunks(rows: i64, chunk_size: i32) -> i32 {
    if chunk_size <= 0 {
        return 0;
    }
    (rows.saturating_add((chunk_size / 2) as i64) / chunk_size as i64) as i32
}

impl<'a, V: Sum<'a> + Default> Imatrix<V> {
    /// Adds the contents of a file as upstream's `load_imatrix` does: in f32, file after file.
    ///
    /// The averages of a legacy file become sums with `sizes.legacy` rows per call. Sums of activations are kept only while all
    /// files have them. A single count is extended to the number of counts of a file.
    ///
    /// # Errors
    /// Entries whose sizes differ; a chunk size that is not positive; counts out of range. The matrix is then unchanged.
    pub fn merge<R: Ready>(&mut self, loaded: &'a Loaded<R>, sizes: ChunkSizes) -> Result<Vec<Warning>, Error> {
        let sets_chunk_size = !loaded.is_legacy && loaded.chunk_size > 0;
        let first_size = if self.chunk_size == 0 && sets_chunk_size { loaded.chunk_size } else { self.chunk_size };
        let chunk_size = if first_size > 0 { first_size } else { sizes.run };
        if let Some(size) = [chunk_size, sizes.legacy].into_iter().find(|&size| size <= 0) {
            return Err(Error::ChunkSize(size));
        }
        let scale = loaded.is_legacy.then_some(sizes.legacy);
        for (name, entry) in &loaded.entries {
            entry.check(name)?;
            check_sizes(name, self.entries.get(name), entry, scale)?;
        }

        let mut warnings = Vec::new();
        if loaded.n_layer_nextn > 0 {
            if self.n_layer_nextn == 0 {
                self.n_layer_nextn = loaded.n_layer_nextn;
            } else if self.n_layer_nextn != loaded.n_layer_nextn {
                warnings.push(Warning::NextnLayers { found: loaded.n_layer_nextn, used: self.n_layer_nextn });
            }
        }
        self.chunk_size = first_size;
        if sets_chunk_size && self.chunk_size != loaded.chunk_size {
            warnings.push(Warning::ChunkSize { found: loaded.chunk_size, used: self.chunk_size });
        }
        for (name, entry) in &loaded.entries {
            let into = self.entries.entry(name.clone()).or_default();
            match scale {
                Some(chunk_size) => into.add_legacy(entry, chunk_size),
                None => into.add(entry),
            }
        }
        self.datasets.extend_from_slice(&loaded.datasets);
        for (name, experts) in &loaded.filled {
            fill::add(self.filled.entry(name.clone()).or_default(), experts);
        }
        let most = self.entries.values().flat_map(|e| &e.counts).copied().max().unwrap_or(0);
        self.chunk_count = rows_to_chunks(most.max(0), chunk_size);
        Ok(warnings)
    }
}

/// Checks everything that could fail while adding `new`. `scale` is the chunk size for a legacy file.
fn check_sizes(
    name: &str,
    so_far: Option<&Entry<impl Values>>,
    new: &Entry<impl Values>,
    scale: Option<i32>,
) -> Result<(), Error> {
    let (have_values, have_counts) = so_far.map_or((0, [].as_slice()), |e| (e.sum2.len(), e.counts.as_slice()));
    let mismatch = |part, found, expected| Error::SizeMismatch { name: name.to_owned(), part, found, expected };

    let (have, found) = (have_values, new.sum2.len());
    if have != 0 && have != found {
        return Err(mismatch("values", found, have));
    }
    let (have, found) = (have_counts.len(), new.counts.len());
    if scale.is_none() && (have > 1 && have != found || have == 1 && found == 0) {
        return Err(mismatch("counts", found, have));
    }
    // Either entry may have a single count for all matrices.
    let spread = |counts: &[i64], i: usize| counts.get(i).or(counts.first()).copied().unwrap_or(0);
    for i in 0..have.max(found) {
        spread(&new.counts, i)
            .checked_mul(scale.unwrap_or(1).into())
            .and_then(|n| n.checked_add(spread(have_counts, i)))
            .ok_or_else(|| Error::CountOverflow(name.to_owned()))?;
    }
    Ok(())
}

impl<'a, V: Sum<'a>> Entry<V> {
    fn add(&mut self, new: &'a Entry<impl Ready>) {
        let first = self.sum2.is_empty();
        if first {
            self.sum2 = V::zeros(new.sum2.len());
        }
        match (self.counts.len(), new.counts.len()) {
            (0, n) => self.counts.resize(n, 0),
            (1, n) if n > 1 => self.counts.resize(n, self.counts[0]),
            _ => {}
        }
        // As in upstream, added to zeros and not copied: -0 becomes 0.
        self.sum2.add(new.sum2.slice(), 1.0);
        for (have, more) in self.counts.iter_mut().zip(&new.counts) {
            *have += more;
        }
        match new.present_sum() {
            Some(more) if first => self.sum.insert(V::zeros(more.len())).add(more.slice(), 1.0),
            Some(more) if self.present_sum().is_some() => {
                self.sum.iter_mut().for_each(|sum| sum.add(more.slice(), 1.0));
            }
            _ => self.sum = None,
        }
    }

    fn add_legacy(&mut self, new: &'a Entry<impl Ready>, chunk_size: i32) {
        if self.sum2.is_empty() {
            self.sum2 = V::zeros(new.sum2.len());
            self.counts.resize(1, 0);
        }
        self.sum2.add(new.sum2.slice(), chunk_size as f32);
        let calls = new.counts.first().copied().unwrap_or(0);
        for have in &mut self.counts {
            *have += calls * i64::from(chunk_size);
        }
        self.sum = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: ChunkSizes = ChunkSizes { run: 512, legacy: 512 };

    fn entry(sum2: &[f32], sum: Option<&[f32]>, counts: &[i64]) -> Entry {
        Entry { sum2: sum2.to_vec(), sum: sum.map(<[f32]>::to_vec), counts: counts.to_vec() }
    }

    fn loaded(e: Entry) -> Loaded {
        Loaded { entries: [("w".to_owned(), e)].into(), chunk_size: 4, ..Loaded::default() }
    }

    fn legacy(e: Entry) -> Loaded {
        Loaded { is_legacy: true, chunk_size: 0, ..loaded(e) }
    }

    #[test]
    fn sums_and_counts_add_and_a_single_count_is_extended() {
        let mut m = Imatrix::default();
        m.merge(&loaded(entry(&[1.0, 2.0], Some(&[3.0, 4.0]), &[10])), SIZES).unwrap();
        m.merge(&loaded(entry(&[5.0, 6.0], Some(&[7.0, 8.0]), &[1, 2])), SIZES).unwrap();
        assert_eq!(m.entries["w"], entry(&[6.0, 8.0], Some(&[10.0, 12.0]), &[11, 12]));
        assert_eq!((m.chunk_size, m.chunk_count), (4, 3));
        // As in upstream, one count after several is a mismatch.
        let one = loaded(entry(&[1.0, 1.0], None, &[1]));
        assert!(matches!(m.merge(&one, SIZES), Err(Error::SizeMismatch { part: "counts", found: 1, expected: 2, .. })));
    }

    #[test]
    fn sums_of_activations_are_kept_only_while_all_files_have_them() {
        let with = loaded(entry(&[1.0], Some(&[1.0]), &[1]));
        let without = loaded(entry(&[1.0], None, &[1]));
        for order in [[&with, &without, &with], [&without, &with, &with]] {
            let mut m = Imatrix::default();
            for file in order {
                m.merge(file, SIZES).unwrap();
            }
            assert_eq!(m.entries["w"], entry(&[3.0], None, &[3]));
        }
    }

    #[test]
    fn legacy_files_are_scaled_by_their_own_chunk_size() {
        let mut m = Imatrix::default();
        let sizes = ChunkSizes { run: 16, legacy: 8 };
        m.merge(&legacy(entry(&[0.5, 2.0], None, &[3])), sizes).unwrap();
        assert_eq!(m.entries["w"], entry(&[4.0, 16.0], None, &[24]));
        assert_eq!((m.chunk_size, m.chunk_count), (0, 2));
        // The first file that has a chunk size sets it, without a warning.
        assert_eq!(m.merge(&loaded(entry(&[1.0, 1.0], Some(&[1.0, 1.0]), &[4])), sizes).unwrap(), []);
        assert_eq!(m.entries["w"], entry(&[5.0, 17.0], None, &[28]));
        // That does not change the weight of a legacy file.
        m.merge(&legacy(entry(&[1.0, 1.0], None, &[1])), sizes).unwrap();
        assert_eq!(m.entries["w"], entry(&[13.0, 25.0], None, &[36]));
        assert_eq!((m.chunk_size, m.chunk_count), (4, 9));
    }

    #[test]
    fn mismatches_warn_and_the_first_file_decides() {
        let mut m = Imatrix::default();
        let a = Loaded { n_layer_nextn: 1, ..loaded(entry(&[1.0], None, &[4])) };
        let b = Loaded { n_layer_nextn: 2, chunk_size: 16, ..a.clone() };
        assert_eq!(m.merge(&a, SIZES).unwrap(), []);
        let expected = [Warning::NextnLayers { found: 2, used: 1 }, Warning::ChunkSize { found: 16, used: 4 }];
        assert_eq!(m.merge(&b, SIZES).unwrap(), expected);
        assert_eq!((m.n_layer_nextn, m.chunk_size, m.chunk_count), (1, 4, 2));
    }

    #[test]
    fn a_failed_merge_changes_nothing() {
        let mut m = Imatrix::default();
        m.merge(&loaded(entry(&[1.0, 2.0], Some(&[1.0, 1.0]), &[4])), SIZES).unwrap();
        let before = m.clone();
        let mut wrong = loaded(entry(&[1.0, 2.0, 3.0], None, &[1]));
        wrong.entries.insert("a".into(), entry(&[1.0], None, &[1])); // sorts first, would be added
        wrong.datasets.push("x".into());
        assert!(matches!(
            m.merge(&wrong, SIZES),
            Err(Error::SizeMismatch { part: "values", found: 3, expected: 2, .. })
        ));
        assert_eq!(m, before);
        // Upstream writes past the end of its heap block here.
        wrong.is_legacy = true;
        assert!(matches!(m.merge(&wrong, SIZES), Err(Error::SizeMismatch { part: "values", .. })));
        assert_eq!(m, before);
        let full = loaded(entry(&[1.0, 1.0], None, &[i64::MAX]));
        assert!(matches!(m.merge(&full, SIZES), Err(Error::CountOverflow(_))));
        assert_eq!(m, before);
        assert!(matches!(
            Imatrix::default().merge(&legacy(entry(&[1.0], None, &[1])), ChunkSizes { legacy: 0, ..SIZES }),
            Err(Error::ChunkSize(0))
        ));
    }

    #[test]
    fn rows_round_to_the_nearest_chunk() {
        assert_eq!([0, 255, 256, 512, 768].map(|n| rows_to_chunks(n, 512)), [0, 0, 1, 1, 2]);
        assert_eq!(rows_to_chunks(2, 3), 1);
    }
}
