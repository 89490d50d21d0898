//! The columns of a weight that statistics go over.

use crate::imatrix::Entry;

/// One column's averages over its rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Averages {
    /// What the moments are of: the average activation, or its square in legacy data.
    pub(super) value: f64,
    /// The average square.
    pub(super) energy: f64,
}

/// The columns of all matrices that have rows, those that are not finite too. None where the entry's lengths do not fit
/// together.
pub(super) fn columns(entry: &Entry) -> impl Iterator<Item = Averages> {
    let row = entry.row_len().unwrap_or(0);
    let activations = entry.activations();
    let with_rows = entry.counts.iter().enumerate().filter(|(_, count)| **count > 0);
    with_rows.flat_map(move |(matrix, &count)| {
        let inverse = 1.0 / count as f64;
        let range = matrix * row..(matrix + 1) * row;
        let squares = entry.sum2.get(range.clone()).unwrap_or_default();
        let sums = activations.get(range);
        squares.iter().enumerate().map(move |(j, &sum2)| {
            let energy = f64::from(sum2) * inverse;
            Averages { value: sums.and_then(|s| s.get(j)).map_or(energy, |&sum| f64::from(sum) * inverse), energy }
        })
    })
}

impl Averages {
    pub(super) fn is_finite(&self) -> bool {
        self.value.is_finite() && self.energy.is_finite()
    }
}

/// How many of `n` columns the top 1 % are: at least one.
pub(super) const fn top_percent(n: usize) -> usize {
    n.div_ceil(100)
}
