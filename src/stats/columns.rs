//! The columns of a weight.

use crate::imatrix::Entry;

/// The averages of one column over its rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Averages {
    /// Average activation; in legacy data the average square.
    pub(super) value: f64,
    /// Average square.
    pub(super) energy: f64,
}

/// Returns the columns of all matrices that have rows, including columns that are not finite. Empty if the entry's lengths
/// do not match.
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

/// Returns the number of columns in the top 1 % of `n` columns: at least one.
pub(super) const fn top_percent(n: usize) -> usize {
    n.div_ceil(100)
}
