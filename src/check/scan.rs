//! One pass over the numbers of a matrix, on all cores.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::Model;
use crate::imatrix::{Entry, Loaded, Numbers, Slice, Values};

/// Numbers that are read at once.
const BLOCK: usize = 1 << 12;

/// The numbers of one matrix of an entry: of an expert, of a head or of the whole weight.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct MatrixScan {
    /// Number of tokens; `None` if the file does not store it per matrix.
    pub(super) tokens: Option<i64>,
    /// True if no token reached it: its numbers are not from data.
    pub(super) unseen: bool,
    /// Number of values that are not finite.
    pub(super) not_finite: usize,
    /// Number of values below zero.
    pub(super) negative: usize,
    /// True if all values are zero.
    pub(super) all_zero: bool,
}

/// The numbers of one entry.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct EntryScan {
    /// True if the number of values is that of the weight.
    pub(super) fits: bool,
    /// Per matrix.
    pub(super) matrices: Vec<MatrixScan>,
    /// Number of sums of activations that are not finite.
    pub(super) not_finite_sums: usize,
}

impl EntryScan {
    /// Returns the matrices that no token reached.
    pub(super) fn unseen(&self) -> impl Iterator<Item = usize> {
        self.matrices.iter().enumerate().filter(|(_, matrix)| matrix.unseen).map(|(index, _)| index)
    }
}

/// The scans of all entries, by name.
#[derive(Debug, Default)]
pub(super) struct Scans<'m>(BTreeMap<&'m str, EntryScan>);

impl<'m> Scans<'m> {
    pub(super) fn new(model: &Model, matrix: &'m Loaded<Slice<'_>>) -> Self {
        let shapes: BTreeMap<&str, [u64; 2]> =
            model.tensors.iter().map(|t| (t.name.as_str(), [t.shape[0], t.shape[2]])).collect();
        let entries: Vec<_> = matrix.entries.iter().collect();
        let scanned = entries
            .par_iter()
            .map(|(name, entry)| (name.as_str(), scan(entry, shapes.get(name.as_str()).copied(), matrix.is_legacy)));
        Self(scanned.collect())
    }

    pub(super) fn of(&self, name: &str) -> Option<&EntryScan> {
        self.0.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &EntryScan)> {
        self.0.iter().map(|(name, scan)| (*name, scan))
    }
}

fn scan(entry: &Entry<Slice<'_>>, shape: Option<[u64; 2]>, is_legacy: bool) -> EntryScan {
    let values = entry.sum2.len();
    let expected = shape.and_then(|[row, matrices]| row.checked_mul(matrices));
    let fits = expected == Some(values as u64);
    // An entry may have one count for several matrices, such as heads.
    let matrices = match shape.filter(|_| fits) {
        Some([_, matrices]) => (matrices as usize).max(1),
        None => entry.counts.len().max(1),
    };
    let per_matrix = entry.counts.len() == matrices && !(is_legacy && matrices > 1);
    let row = (values / matrices).max(1);
    let numbers = entry.sum2.numbers();
    let one = |index: usize| {
        let count = entry.counts.get(index).or(entry.counts.first()).copied().unwrap_or(0);
        // A legacy file has an average of 1 in all columns of an expert that no token reached.
        let filler = (is_legacy && matrices > 1).then_some(count as f32);
        let mut found = scan_values(&numbers, index * row..((index + 1) * row).min(values), filler);
        found.tokens = (per_matrix && !is_legacy).then_some(count);
        found.unseen |= !is_legacy && count <= 0;
        found
    };
    let matrices = (0..matrices).into_par_iter().map(one).collect();
    let sums = entry.sum.as_ref().map(Values::numbers);
    let not_finite_sums = sums.map_or(0, |sums| scan_values(&sums, 0..values, None).not_finite);
    EntryScan { fits, matrices, not_finite_sums }
}

fn scan_values(numbers: &Numbers<'_>, range: std::ops::Range<usize>, filler: Option<f32>) -> MatrixScan {
    let mut block = [0.0_f32; BLOCK];
    let (mut not_finite, mut negative, mut zeros, mut fillers) = (0, 0, 0, 0);
    for from in range.clone().step_by(BLOCK) {
        let part = &mut block[..BLOCK.min(range.end - from)];
        numbers.read(from, part);
        let count = |is: &dyn Fn(f32) -> bool| part.iter().map(|&x| usize::from(is(x))).sum::<usize>();
        not_finite += part.iter().map(|x| u32::from(!x.is_finite())).sum::<u32>() as usize;
        negative += part.iter().map(|&x| u32::from(x < 0.0)).sum::<u32>() as usize;
        zeros += part.iter().map(|&x| u32::from(x == 0.0)).sum::<u32>() as usize;
        if let Some(filler) = filler {
            fillers += count(&|x| x.to_bits() == filler.to_bits());
        }
    }
    let n = range.len();
    MatrixScan {
        tokens: None,
        unseen: n > 0 && filler.is_some() && fillers == n,
        not_finite,
        negative,
        all_zero: n > 0 && zeros == n,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'a>(sum2: &'a [f32], counts: &[i64]) -> Entry<Slice<'a>> {
        Entry { sum2: Slice::Memory(sum2), sum: None, counts: counts.to_vec() }
    }

    #[test]
    fn each_expert_is_judged_by_its_numbers_and_tokens() {
        let values = [1.0, 2.0, 0.0, 0.0, f32::NAN, -1.0, 1.0, 1.0];
        let found = scan(&entry(&values, &[3, 4, 5, 0]), Some([2, 4]), false);
        assert!(found.fits);
        assert_eq!(found.matrices.iter().map(|m| m.tokens).collect::<Vec<_>>(), [Some(3), Some(4), Some(5), Some(0)]);
        assert_eq!(found.unseen().collect::<Vec<_>>(), [3]);
        assert!(found.matrices[1].all_zero && !found.matrices[0].all_zero);
        assert_eq!((found.matrices[2].not_finite, found.matrices[2].negative), (1, 1));
    }

    #[test]
    fn ones_that_upstream_wrote_for_an_unseen_expert_count_as_unseen() {
        let found = scan(&entry(&[6.0, 2.0, 3.0, 3.0], &[3]), Some([2, 2]), true);
        assert_eq!(found.unseen().collect::<Vec<_>>(), [1]);
        assert_eq!(found.matrices[0].tokens, None);
        // In a dense weight all averages may be 1.
        assert_eq!(scan(&entry(&[3.0, 3.0], &[3]), Some([2, 1]), true).unseen().count(), 0);
    }

    #[test]
    fn heads_share_one_count_and_other_sizes_do_not_fit() {
        let found = scan(&entry(&[1.0; 8], &[9]), Some([2, 4]), false);
        assert_eq!((found.fits, found.matrices.len(), found.matrices[3].tokens), (true, 4, None));
        assert!(!scan(&entry(&[1.0; 8], &[9]), Some([2, 3]), false).fits);
        assert!(!scan(&entry(&[1.0; 8], &[9]), None, false).fits);
    }
}
