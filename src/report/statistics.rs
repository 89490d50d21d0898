//! Sheets of a matrix's statistics.

use super::sheet::{Cell, Heading, Sheet, shortest};
use crate::stats::{LayerSummary, TensorSummary};

/// A statistic of a weight.
pub struct Statistic {
    /// Key, title and number of decimals.
    pub heading: Heading,
    /// Short description.
    pub about: &'static str,
    /// Returns its value.
    pub of: fn(&TensorSummary) -> Cell,
}

const fn statistic(
    key: &'static str,
    title: &'static str,
    decimals: usize,
    about: &'static str,
    of: fn(&TensorSummary) -> Cell,
) -> Statistic {
    Statistic { heading: Heading::new(key, title, decimals), about, of }
}

fn single(x: f32) -> Cell {
    Cell::Number(shortest(x))
}

/// All statistics of weights, in display order. `docs/stats.md` has the formulas.
pub const STATISTICS: [Statistic; 25] = [
    statistic("elements", "Columns", 0, "columns with finite data", |t| Cell::Count(t.stats.elements)),
    statistic("sum_sq", "∑ E[A²]", 4, "energy: sum of the columns' average squares", |t| Cell::Number(t.stats.sum)),
    statistic("mean", "Mean", 4, "mean of the columns' averages", |t| single(t.stats.mean)),
    statistic("std_deviation", "StdDev", 4, "standard deviation of the columns' averages", |t| {
        single(t.stats.std_deviation)
    }),
    statistic("min", "Min", 4, "smallest column average", |t| Cell::Number(t.distribution.min)),
    statistic("max", "Max", 4, "largest column average", |t| Cell::Number(t.distribution.max)),
    statistic("skewness", "Skew", 3, "skewness of the columns' averages", |t| single(t.stats.skewness)),
    statistic("kurtosis", "Kurt", 2, "excess kurtosis of the columns' averages", |t| single(t.stats.kurtosis)),
    statistic("zd1", "ZD>1", 4, "share of columns more than 1 standard deviation from the mean", |t| {
        Cell::Number(t.distribution.zd1)
    }),
    statistic("zd3", "ZD>3", 4, "share of columns more than 3 standard deviations from the mean", |t| {
        Cell::Number(t.distribution.zd3)
    }),
    statistic("h_norm", "H Norm", 2, "entropy of the energy over the columns, in percent of the maximum", |t| {
        single(t.stats.h_norm())
    }),
    statistic("top1_energy", "Top 1%", 4, "share of energy in the 1 % of columns with the most energy", |t| {
        Cell::Number(t.distribution.top1_energy)
    }),
    statistic("mean_to_rms", "Mean/RMS", 4, "constant part of the input: 0 none, 1 all", |t| {
        Cell::Number(t.distribution.mean_to_rms)
    }),
    statistic("gain", "Gain", 3, "root mean square, divided by that of the preceding layer", |t| single(t.stats.gain)),
    statistic("l2_dist", "L2 Dist", 4, "Euclidean distance from the preceding layer", |t| single(t.stats.l2_dist)),
    statistic("cossim", "CosSim", 4, "cosine similarity with the preceding layer", |t| single(t.stats.cossim)),
    statistic("pearson", "PCC", 4, "Pearson's correlation with the preceding layer", |t| single(t.stats.pearson)),
    statistic("covariance", "Cov", 4, "covariance with the preceding layer", |t| single(t.stats.covariance)),
    statistic("experts", "Experts", 0, "number of experts", |t| Cell::count(t.experts.map(|e| e.experts))),
    statistic("unseen", "Unseen", 0, "experts without rows", |t| Cell::count(t.experts.map(|e| e.unseen))),
    statistic("rare", "Rare", 0, "experts with less than a tenth of an equal share of the rows", |t| {
        Cell::count(t.experts.map(|e| e.rare))
    }),
    statistic("balance", "Balance", 4, "evenness of the rows over the experts: 1 is even", |t| {
        t.experts.map_or(Cell::Missing, |e| Cell::Number(e.balance))
    }),
    statistic("expert_rows_min", "Min rows", 0, "smallest number of rows of an expert", |t| {
        Cell::count(t.experts.map(|e| e.min))
    }),
    statistic("expert_rows_max", "Max rows", 0, "largest number of rows of an expert", |t| {
        Cell::count(t.experts.map(|e| e.max))
    }),
    statistic("not_finite", "Not finite", 0, "columns left out because their sums are not finite", |t| {
        Cell::count(Some(t.distribution.not_finite))
    }),
];

const LAYER: [Heading; 12] = [
    Heading::new("layer", "Layer", 0),
    Heading::new("tensors", "Tensors", 0),
    Heading::new("elements", "Columns", 0),
    Heading::new("sum_sq", "∑ E[A²]", 4),
    Heading::new("gain", "Gain", 3),
    Heading::new("l2_dist", "L2 Dist", 4),
    Heading::new("cossim", "CosSim", 4),
    Heading::new("pearson", "PCC", 4),
    Heading::new("covariance", "Cov", 4),
    Heading::new("unseen", "Unseen", 0),
    Heading::new("rare", "Rare", 0),
    Heading::new("balance", "Balance", 4),
];

/// Returns the sheet of the weights.
#[must_use]
pub fn tensors<'a>(tensors: impl IntoIterator<Item = &'a TensorSummary>) -> Sheet {
    let mut headings = vec![Heading::new("layer", "Layer", 0), Heading::new("tensor", "Tensor", 0)];
    headings.extend(STATISTICS.iter().map(|s| s.heading));
    let row = |t: &TensorSummary| {
        let mut row = vec![Cell::Text(t.layer.clone()), Cell::Text(t.stats.tensor.clone())];
        row.extend(STATISTICS.iter().map(|s| (s.of)(t)));
        row
    };
    Sheet { headings, rows: tensors.into_iter().map(row).collect() }
}

/// Returns the sheet of the layers.
#[must_use]
pub fn layers<'a>(layers: impl IntoIterator<Item = &'a LayerSummary>) -> Sheet {
    let row = |l: &LayerSummary| {
        vec![
            Cell::Text(l.layer.clone()),
            Cell::count(Some(l.tensors)),
            Cell::Count(l.elements),
            Cell::Number(l.sum),
            single(l.stats.gain),
            single(l.stats.l2_dist),
            single(l.stats.cossim),
            single(l.stats.pearson),
            single(l.stats.covariance),
            Cell::count(l.unseen),
            Cell::count(l.rare),
            if l.unseen.is_some() { Cell::Number(l.balance) } else { Cell::Missing },
        ]
    };
    Sheet { headings: LAYER.to_vec(), rows: layers.into_iter().map(row).collect() }
}
