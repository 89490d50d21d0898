//! Merges files with weights.

use std::collections::BTreeMap;

use super::{ChunkSizes, Entry, Error, Imatrix, Loaded, Warning, rows_to_chunks};

/// Merges files with one weight per file: a row of a file with weight `w` counts as `w` rows.
///
/// For an entry with sums `S_k` and counts `C_k` in file `k`, per matrix:
///
/// ```text
/// count = max(1, round(Σ w_k C_k))            0 if no file has rows
/// sum   = count * (Σ w_k S_k) / (Σ w_k C_k)
/// ```
///
/// The same formula applies to sums of squares and sums of activations. Although counts are integers, `sum / count`, which
/// `llama-quantize` uses, is the weighted mean of the rows to the last digit of f32. Up to rounding, weight 2 is the same as
/// giving a file twice. Weight 0.5 for all files changes the counts and no mean. Two files have equal influence if their
/// weights are the reciprocals of their numbers of rows. If all weights are 1, the result has the bytes of
/// [`Imatrix::merge`], file after file.
///
/// # Errors
/// [`Error::Weight`] unless all weights are positive and finite; otherwise as [`Imatrix::merge`].
pub fn merge_weighted(files: &[(Loaded, f64)], sizes: ChunkSizes) -> Result<(Imatrix, Vec<Warning>), Error> {
    let mut imatrix = Imatrix::default();
    let mut warnings = Vec::new();
    if let Some(&(_, weight)) = files.iter().find(|(_, weight)| !(weight.is_finite() && *weight > 0.0)) {
        return Err(Error::Weight(weight));
    }
    if files.iter().all(|&(_, weight)| weight.to_bits() == 1.0_f64.to_bits()) {
        for (loaded, _) in files {
            warnings.extend(imatrix.merge(loaded, sizes)?);
        }
        return Ok((imatrix, warnings));
    }
    let mut entries: BTreeMap<&str, Weighted> = BTreeMap::new();
    for (loaded, weight) in files {
        // Merges datasets and chunk size without entries.
        let Loaded { datasets, chunk_count, chunk_size, n_layer_nextn, is_legacy, has_metadata, filled, entries: _ } =
            loaded;
        warnings.extend(imatrix.merge(
            &Loaded {
                entries: BTreeMap::<String, Entry>::new(),
                datasets: datasets.clone(),
                chunk_count: *chunk_count,
                chunk_size: *chunk_size,
                n_layer_nextn: *n_layer_nextn,
                is_legacy: *is_legacy,
                has_metadata: *has_metadata,
                filled: filled.clone(),
            },
            sizes,
        )?);
        // Merging the file alone converts averages to sums and checks the lengths.
        let mut alone = Imatrix::default();
        alone.merge(loaded, sizes)?;
        for (name, entry) in &alone.entries {
            let Some((name, _)) = loaded.entries.get_key_value(name) else { continue };
            entries.entry(name).or_default().add(name, entry, *weight, *is_legacy)?;
        }
    }
    imatrix.entries = entries
        .into_iter()
        .map(|(name, entry)| Ok((name.to_owned(), entry.finish(name)?)))
        .collect::<Result<_, Error>>()?;
    let most = imatrix.entries.values().flat_map(|entry| &entry.counts).copied().max().unwrap_or(0);
    imatrix.chunk_count = rows_to_chunks(most, imatrix.effective_chunk_size(sizes.run));
    Ok((imatrix, warnings))
}

/// The weighted sums of one entry.
#[derive(Default)]
struct Weighted {
    sum2: Vec<f64>,
    /// `None` once a file has no sums of activations.
    sum: Option<Vec<f64>>,
    counts: Vec<f64>,
}

impl Weighted {
    fn add(&mut self, name: &str, entry: &Entry, weight: f64, is_legacy: bool) -> Result<(), Error> {
        let mismatch = |part, found, expected| Error::SizeMismatch { name: name.to_owned(), part, found, expected };
        let first = self.sum2.is_empty() && self.counts.is_empty();
        if first {
            self.sum2.resize(entry.sum2.len(), 0.0);
            self.sum = Some(vec![0.0; entry.sum2.len()]);
            self.counts.resize(entry.counts.len(), 0.0);
        }
        if self.sum2.len() != entry.sum2.len() {
            return Err(mismatch("values", entry.sum2.len(), self.sum2.len()));
        }
        // A single count applies to all matrices, in the sums so far or in a legacy file.
        if self.counts.len() == 1 {
            self.counts.resize(entry.counts.len().max(1), self.counts[0]);
        }
        if self.counts.len() != entry.counts.len() && !(is_legacy && entry.counts.len() == 1) {
            return Err(mismatch("counts", entry.counts.len(), self.counts.len()));
        }
        for (i, count) in self.counts.iter_mut().enumerate() {
            let more = entry.counts.get(i).or(entry.counts.first()).copied().unwrap_or(0);
            *count += weight * more as f64;
        }
        add(&mut self.sum2, &entry.sum2, weight);
        match (&mut self.sum, entry.activations()) {
            (Some(sum), activations) if activations.len() == sum.len() => add(sum, activations, weight),
            _ => self.sum = None,
        }
        Ok(())
    }

    fn finish(self, name: &str) -> Result<Entry, Error> {
        let counts = self.counts.iter().map(|&count| match count {
            0.0 => Ok(0),
            1.0.. if count > MAX_COUNT => Err(Error::CountOverflow(name.to_owned())),
            _ => Ok(count.round().max(1.0) as i64),
        });
        let counts = counts.collect::<Result<Vec<i64>, _>>()?;
        // Factor from a matrix's weighted sums to sums for its integer count; 1 without rows.
        let scale: Vec<f64> = (counts.iter().zip(&self.counts))
            .map(|(&whole, &count)| if count == 0.0 { 1.0 } else { whole as f64 / count })
            .collect();
        let row = self.sum2.len().checked_div(counts.len()).unwrap_or(0).max(1);
        let round = |sums: &[f64]| -> Vec<f32> {
            let scaled = |(matrix, sums): (usize, &[f64])| {
                let scale = scale.get(matrix).copied().unwrap_or(1.0);
                sums.iter().map(|sum| (sum * scale) as f32).collect::<Vec<f32>>()
            };
            sums.chunks(row).enumerate().flat_map(scaled).collect()
        };
        Ok(Entry { sum2: round(&self.sum2), sum: self.sum.as_deref().map(round), counts })
    }
}

/// Maximum number of rows: f64 and the files represent all integers up to here.
const MAX_COUNT: f64 = 9_007_199_254_740_992.0; // 2^53

fn add(sums: &mut [f64], more: &[f32], weight: f64) {
    for (sum, &more) in sums.iter_mut().zip(more) {
        *sum += weight * f64::from(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imatrix::Format;

    const SIZES: ChunkSizes = ChunkSizes { run: 4, legacy: 4 };

    fn file(dataset: &str, sum2: &[f32], sum: Option<&[f32]>, counts: &[i64]) -> Loaded {
        let entry = Entry { sum2: sum2.to_vec(), sum: sum.map(<[f32]>::to_vec), counts: counts.to_vec() };
        let entries = [("w".to_owned(), entry)].into();
        Loaded { entries, datasets: vec![dataset.into()], chunk_size: 4, ..Loaded::default() }
    }

    #[test]
    fn means_are_weighted_and_counts_stay_integers() {
        let a = file("a", &[10.0, 20.0, 1.0, 2.0], Some(&[5.0, 6.0, 7.0, 8.0]), &[10, 1]);
        let b = file("b", &[40.0, 60.0, 0.0, 0.0], Some(&[1.0, 1.0, 0.0, 0.0]), &[20, 0]);
        let (merged, _) = merge_weighted(&[(a.clone(), 0.5), (b.clone(), 2.0)], SIZES).unwrap();
        let entry = &merged.entries["w"];
        // 5 + 40 rows. Half a row becomes one, and its sums are scaled.
        assert_eq!(entry.counts, [45, 1]);
        assert_eq!(entry.sum2, [85.0, 130.0, 1.0, 2.0]);
        assert_eq!(entry.sum, Some(vec![4.5, 5.0, 7.0, 8.0]));
        assert_eq!((merged.datasets, merged.chunk_size, merged.chunk_count), (vec!["a".into(), "b".into()], 4, 11));
        // An integer weight is the number of copies.
        let twice = merge_weighted(&[(a.clone(), 2.0), (b.clone(), 1.0)], SIZES).unwrap().0;
        let mut copies = Imatrix::default();
        for file in [&a, &a, &b] {
            copies.merge(file, SIZES).unwrap();
        }
        assert_eq!(twice.entries, copies.entries);
    }

    #[test]
    fn weights_of_one_give_the_plain_merge() {
        let files = [file("a", &[0.1, 0.7], Some(&[0.3, 0.4]), &[10]), file("b", &[0.2, 0.3], None, &[20])];
        let mut plain = Imatrix::default();
        for file in &files {
            assert_eq!(plain.merge(file, SIZES).unwrap(), []);
        }
        let (merged, _) = merge_weighted(&files.map(|file| (file, 1.0)), SIZES).unwrap();
        assert_eq!(merged, plain);
        assert!(merged.write(std::io::sink(), Format::Gguf).is_ok());
    }

    #[test]
    fn legacy_files_and_single_counts_can_be_weighted() {
        let legacy = Loaded { is_legacy: true, chunk_size: 0, ..file("old", &[6.0, 8.0], None, &[2]) };
        let routed = file("new", &[3.0, 5.0], Some(&[1.0, 1.0]), &[4, 0]);
        // 2 calls of 4 rows: sums of 24 and 32 over 8 rows.
        let (merged, _) = merge_weighted(&[(legacy.clone(), 0.25), (routed.clone(), 1.0)], SIZES).unwrap();
        assert_eq!(merged.entries["w"], Entry { sum2: vec![9.0, 13.0], sum: None, counts: vec![6, 2] });
        let (merged, _) = merge_weighted(&[(routed.clone(), 1.0), (legacy, 0.25)], SIZES).unwrap();
        assert_eq!(merged.entries["w"], Entry { sum2: vec![9.0, 13.0], sum: None, counts: vec![6, 2] });
        let one = file("one", &[1.0, 1.0], None, &[1]);
        assert!(matches!(
            merge_weighted(&[(routed, 2.0), (one, 1.0)], SIZES),
            Err(Error::SizeMismatch { part: "counts", found: 1, expected: 2, .. })
        ));
    }

    #[test]
    fn bad_weights_and_counts_are_refused() {
        let a = file("a", &[1.0], None, &[1 << 53]);
        for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(merge_weighted(&[(a.clone(), weight)], SIZES), Err(Error::Weight(_))));
        }
        assert!(matches!(merge_weighted(&[(a.clone(), 2.0)], SIZES), Err(Error::CountOverflow(_))));
        let none = file("none", &[0.0, 0.0], None, &[0, 0]);
        assert_eq!(merge_weighted(&[(none, 0.5)], SIZES).unwrap().0.entries["w"].counts, [0, 0]);
    }
}
