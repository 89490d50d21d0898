//! All statistics of a matrix, per weight and per layer.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::coverage::ExpertCoverage;
use super::distribution::Distribution;
use super::name::{TensorName, layer_label};
use super::{LayerStats, Statistics, TensorStats, Warning, layer_statistics};
use crate::imatrix::Imatrix;

/// The statistics of one weight.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSummary {
    /// Upstream's statistics.
    pub stats: TensorStats,
    /// Statistics that upstream does not have.
    pub distribution: Distribution,
    /// Coverage of the experts, if the weight has several.
    pub experts: Option<ExpertCoverage>,
    /// Layer number; `None` outside the layers.
    pub block: Option<i32>,
    /// Layer label: the number, `mtp0` and up for `NextN` layers, `-` outside the layers.
    pub layer: String,
    /// Name without layer and `.weight`, such as `attn_q`.
    pub kind: String,
}

/// The statistics of one layer: sums over its weights, and comparisons with the preceding layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSummary {
    /// Layer number.
    pub block: i32,
    /// Layer label, as in [`TensorSummary::layer`].
    pub layer: String,
    /// Number of weights that have data.
    pub tensors: usize,
    /// Number of columns that have data.
    pub elements: i64,
    /// Sum of the columns' average squares.
    pub sum: f64,
    /// Upstream's statistics of layers; NaN for the first layer.
    pub stats: LayerStats,
    /// Largest number of unseen experts of a weight; `None` without experts.
    pub unseen: Option<usize>,
    /// Largest number of rarely seen experts of a weight; `None` without experts.
    pub rare: Option<usize>,
    /// Smallest load balance of a weight; NaN without experts.
    pub balance: f64,
}

/// The statistics of a matrix.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Weights that have data: by layer, then by name; weights outside the layers last.
    pub tensors: Vec<TensorSummary>,
    /// Layers, ascending.
    pub layers: Vec<LayerSummary>,
    /// Statistics that could not be computed.
    pub warnings: Vec<Warning>,
}

impl Summary {
    /// Computes all statistics on all cores.
    #[must_use]
    pub fn new(imatrix: &Imatrix) -> Self {
        let statistics = Statistics::new(&imatrix.entries, imatrix.n_layer_nextn);
        let per_layer = layer_statistics(&statistics.tensors);
        let nextn_start = statistics.nextn_start;
        let mut warnings = statistics.warnings;
        for (name, entry) in &imatrix.entries {
            let usable = statistics.tensors.binary_search_by(|t| t.tensor.cmp(name)).is_ok();
            if !usable && entry.row_len().is_some_and(|row| row > 0) {
                warnings.push(Warning::NothingFinite { tensor: name.clone() });
            }
        }
        let summarize = |stats: &TensorStats| {
            let entry = imatrix.entries.get(&stats.tensor)?;
            let block = TensorName::new(&stats.tensor).block();
            Some(TensorSummary {
                stats: stats.clone(),
                distribution: Distribution::new(entry, stats),
                experts: ExpertCoverage::new(entry),
                block,
                layer: layer_label(block.unwrap_or(-1), nextn_start),
                kind: kind(&stats.tensor),
            })
        };
        let mut tensors: Vec<TensorSummary> = statistics.tensors.par_iter().filter_map(summarize).collect();
        for t in tensors.iter().filter(|t| t.distribution.not_finite > 0) {
            let columns = t.distribution.not_finite;
            warnings.push(Warning::NotFinite { tensor: t.stats.tensor.clone(), columns });
        }
        // A stable sort keeps the weights of a layer sorted by name.
        tensors.sort_by_key(|t| t.block.map_or(i64::MAX, i64::from));
        let layers = layers(&tensors, &per_layer);
        Self { tensors, layers, warnings }
    }

    /// Returns the kinds of weights in the order of their first occurrence.
    #[must_use]
    pub(crate) fn kinds(&self) -> Vec<&str> {
        let mut kinds: Vec<&str> = Vec::new();
        for t in &self.tensors {
            if !kinds.contains(&t.kind.as_str()) {
                kinds.push(&t.kind);
            }
        }
        kinds
    }
}

/// Returns a weight's name without layer and `.weight`: `attn_q` for `blk.3.attn_q.weight`.
pub(crate) fn kind(tensor: &str) -> String {
    let parts: Vec<&str> = tensor.strip_suffix(".weight").unwrap_or(tensor).split('.').collect();
    match parts.iter().position(|&part| part == "blk") {
        Some(at) if at + 2 < parts.len() => {
            let rest = parts.iter().enumerate().filter(|(i, _)| *i != at && *i != at + 1);
            rest.map(|(_, part)| *part).collect::<Vec<_>>().join(".")
        }
        _ => parts.join("."),
    }
}

fn layers(tensors: &[TensorSummary], per_layer: &BTreeMap<i32, LayerStats>) -> Vec<LayerSummary> {
    let mut layers: BTreeMap<i32, LayerSummary> = BTreeMap::new();
    for t in tensors {
        let Some(block) = t.block else { continue };
        let layer = layers.entry(block).or_insert_with(|| LayerSummary {
            block,
            layer: t.layer.clone(),
            tensors: 0,
            elements: 0,
            sum: 0.0,
            stats: per_layer.get(&block).copied().unwrap_or(LayerStats::NONE),
            unseen: None,
            rare: None,
            balance: f64::NAN,
        });
        layer.tensors += 1;
        layer.elements += t.stats.elements;
        layer.sum += t.stats.sum;
        if let Some(experts) = t.experts {
            layer.unseen = layer.unseen.max(Some(experts.unseen));
            layer.rare = layer.rare.max(Some(experts.rare));
            layer.balance = layer.balance.min(experts.balance);
        }
    }
    layers.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imatrix::Entry;

    #[test]
    fn kinds_are_names_without_their_layer() {
        for (name, expected) in [
            ("blk.3.attn_q.weight", "attn_q"),
            ("blk.12.nextn.eh_proj.weight", "nextn.eh_proj"),
            ("output.weight", "output"),
            ("v.blk.1.attn.q.weight", "v.attn.q"),
            ("blk.0", "blk.0"),
            ("", ""),
        ] {
            assert_eq!(kind(name), expected, "{name}");
        }
    }

    #[test]
    fn layer_statistics_are_sums_over_the_weights() {
        let entry = |sum2: &[f32], counts: &[i64]| Entry { sum2: sum2.to_vec(), sum: None, counts: counts.to_vec() };
        let mut m = Imatrix::default();
        m.entries.insert("output.weight".into(), entry(&[1.0], &[1]));
        m.entries.insert("blk.10.a.weight".into(), entry(&[2.0, 4.0], &[2]));
        m.entries.insert("blk.2.e_exps.weight".into(), entry(&[2.0, 4.0, 6.0], &[2, 0, 3]));
        m.entries.insert("blk.2.f_exps.weight".into(), entry(&[2.0, f32::NAN, 6.0], &[1, 1, 1]));
        m.entries.insert("blk.2.none.weight".into(), entry(&[f32::NAN], &[1]));
        let s = Summary::new(&m);
        let names: Vec<_> = s.tensors.iter().map(|t| t.stats.tensor.as_str()).collect();
        assert_eq!(names, ["blk.2.e_exps.weight", "blk.2.f_exps.weight", "blk.10.a.weight", "output.weight"]);
        assert_eq!(s.kinds(), ["e_exps", "f_exps", "a", "output"]);
        let layer = &s.layers[0];
        assert_eq!((layer.block, layer.tensors, layer.elements, layer.unseen), (2, 2, 4, Some(1)));
        assert!((layer.sum - 11.0).abs() < 1e-6 && layer.balance < 0.9 && s.layers[1].balance.is_nan());
        let says: Vec<_> = s.warnings.iter().map(ToString::to_string).collect();
        assert!(says.iter().any(|w| w.contains("blk.2.none.weight")), "{says:?}");
        assert!(says.iter().any(|w| w.contains("blk.2.f_exps.weight")), "{says:?}");
    }
}
