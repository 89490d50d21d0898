//! Sheets that compare two matrices.

use super::sheet::{Cell, Heading, Sheet};
use crate::stats::{Counts, Divergence, LayerDivergence, MatrixDivergence, TensorDivergence};

/// The measure of a difference; 0 means equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Jensen-Shannon divergence, in bits.
    Jsd,
    /// Euclidean norm of the difference, divided by the norm of the first.
    RelativeL2,
    /// 1 minus the cosine.
    Cosine,
    /// 1 minus Spearman's rank correlation.
    Spearman,
}

impl Metric {
    /// Returns the difference; NaN if undefined.
    #[must_use]
    pub(crate) fn of(self, d: &Divergence) -> f64 {
        match self {
            Metric::Jsd => d.jsd,
            Metric::RelativeL2 => d.relative_l2,
            Metric::Cosine => 1.0 - d.cosine,
            Metric::Spearman => 1.0 - d.spearman,
        }
    }
}

pub(super) const MEASURES: [Heading; 5] = [
    Heading::new("cosine", "Cosine", 6),
    Heading::new("relative_l2", "Rel L2", 4),
    Heading::new("spearman", "Spearman", 4),
    Heading::new("jsd", "JSD", 6),
    Heading::new("energy_ratio", "Energy", 4),
];

pub(super) fn measures(d: &Divergence) -> impl Iterator<Item = Cell> {
    [d.cosine, d.relative_l2, d.spearman, d.jsd, d.energy_ratio].into_iter().map(Cell::Number)
}

/// Sorts by difference, largest first. An undefined difference comes before all others, since it is not agreement.
pub(super) fn by_difference<T>(items: &mut [T], of: impl Fn(&T) -> f64) {
    let key = |item: &T| {
        let x = of(item);
        if x.is_nan() { f64::INFINITY } else { x }
    };
    items.sort_by(|a, b| key(b).total_cmp(&key(a)));
}

/// Returns the sheet of the weights, largest difference first.
#[must_use]
pub fn tensors<'a>(tensors: impl IntoIterator<Item = &'a TensorDivergence>, by: Metric) -> Sheet {
    let mut headings = vec![Heading::new("layer", "Layer", 0), Heading::new("tensor", "Tensor", 0)];
    headings.extend(MEASURES);
    headings.extend([
        Heading::new("columns", "Columns", 0),
        Heading::new("rows_a", "Rows A", 0),
        Heading::new("rows_b", "Rows B", 0),
        Heading::new("unseen_a", "Unseen A", 0),
        Heading::new("unseen_b", "Unseen B", 0),
        Heading::new("note", "Note", 0),
    ]);
    let mut tensors: Vec<_> = tensors.into_iter().collect();
    by_difference(&mut tensors, |t| by.of(&t.divergence));
    let row = |t: &TensorDivergence| {
        let mut row = vec![Cell::Text(t.layer.clone()), Cell::Text(t.tensor.clone())];
        row.extend(measures(&t.divergence));
        let count = |c: Option<Counts>, of: fn(Counts) -> i64| Cell::count(c.map(of));
        row.extend([
            Cell::count(Some(t.common)),
            count(t.first, |c| c.rows),
            count(t.second, |c| c.rows),
            count(t.first, |c| c.unseen as i64),
            count(t.second, |c| c.unseen as i64),
            Cell::Text(note(t).to_owned()),
        ]);
        row
    };
    Sheet { headings, rows: tensors.into_iter().map(row).collect() }
}

/// Returns the reason why a weight could not be compared.
fn note(t: &TensorDivergence) -> &'static str {
    match (t.first, t.second) {
        (None, _) => "not in A",
        (_, None) => "not in B",
        _ if t.sizes_differ => "sizes differ",
        _ if t.common == 0 => "no common data",
        _ => "",
    }
}

/// Returns the sheet of the layers, largest difference first.
#[must_use]
pub fn layers<'a>(layers: impl IntoIterator<Item = &'a LayerDivergence>, by: Metric) -> Sheet {
    let mut headings = vec![Heading::new("layer", "Layer", 0), Heading::new("tensors", "Tensors", 0)];
    headings.extend(MEASURES);
    let mut layers: Vec<_> = layers.into_iter().collect();
    by_difference(&mut layers, |l| by.of(&l.divergence));
    let row = |l: &LayerDivergence| {
        let mut row = vec![Cell::Text(l.layer.clone()), Cell::count(Some(l.tensors))];
        row.extend(measures(&l.divergence));
        row
    };
    Sheet { headings, rows: layers.into_iter().map(row).collect() }
}

/// Returns the weight with the largest difference, and that difference; NaN if a weight cannot be compared.
#[must_use]
pub fn largest(matrices: &MatrixDivergence, by: Metric) -> Option<(&TensorDivergence, f64)> {
    let mut tensors: Vec<_> = matrices.tensors.iter().collect();
    by_difference(&mut tensors, |t| by.of(&t.divergence));
    tensors.first().map(|t| (*t, by.of(&t.divergence)))
}
