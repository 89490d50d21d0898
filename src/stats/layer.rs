//! The statistics of a layer: sums over the comparisons of its weights.

use std::collections::BTreeMap;

use super::compare::normalized;
use super::name::TensorName;
use super::{Comparison, TensorStats};

/// The statistics of one layer against the preceding layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerStats {
    /// Cosine similarity.
    pub cossim: f32,
    /// Euclidean distance.
    pub l2_dist: f32,
    /// Pearson's correlation.
    pub pearson: f32,
    /// Covariance.
    pub covariance: f32,
    /// Root mean of the average squares, divided by that of the preceding layer.
    pub gain: f32,
}

impl LayerStats {
    /// The statistics of a layer without a predecessor: all NaN.
    pub const NONE: Self =
        Self { cossim: f32::NAN, l2_dist: f32::NAN, pearson: f32::NAN, covariance: f32::NAN, gain: f32::NAN };
}

/// Sums over the weights of a layer.
#[derive(Default)]
struct Sums {
    comparison: Comparison,
    /// Sum of average squares of the weights that have a gain.
    energy: f64,
    elements: i64,
}

/// Computes the statistics of every layer that has a weight to compare. The sums are f64, over `tensors` in their order.
#[must_use]
pub(crate) fn layer_statistics(tensors: &[TensorStats]) -> BTreeMap<i32, LayerStats> {
    let mut layers: BTreeMap<i32, Sums> = BTreeMap::new();
    for stats in tensors {
        let Some(block) = TensorName::new(&stats.tensor).block().filter(|&block| block > 0) else {
            continue;
        };
        let c = &stats.comparison;
        if c.norm_sq == 0.0 && c.prev_norm_sq == 0.0 && c.l2_sq == 0.0 {
            continue;
        }
        layers.entry(block).or_default().add(stats);
    }
    layers.iter().map(|(&block, sums)| (block, sums.statistics())).collect()
}

impl Sums {
    fn add(&mut self, stats: &TensorStats) {
        let (into, c) = (&mut self.comparison, &stats.comparison);
        into.dot += c.dot;
        into.norm_sq += c.norm_sq;
        into.prev_norm_sq += c.prev_norm_sq;
        into.l2_sq += c.l2_sq;
        into.cov_sum += c.cov_sum;
        into.var_sum += c.var_sum;
        into.prev_var_sum += c.prev_var_sum;
        into.features += c.features;
        if c.prev_elements > 0 {
            self.energy += stats.sum;
            into.prev_sum += c.prev_sum;
            self.elements += stats.elements;
            into.prev_elements += c.prev_elements;
        }
    }

    fn statistics(&self) -> LayerStats {
        let c = &self.comparison;
        let gain = if self.elements > 0 && c.prev_elements > 0 && c.prev_sum > 0.0 {
            let here = (self.energy / self.elements as f64).sqrt();
            let prev = (c.prev_sum / c.prev_elements as f64).sqrt();
            (here / prev) as f32
        } else {
            f32::NAN
        };
        LayerStats {
            cossim: normalized(c.dot, c.norm_sq, c.prev_norm_sq),
            l2_dist: c.l2_sq.sqrt() as f32,
            pearson: normalized(c.cov_sum, c.var_sum, c.prev_var_sum),
            covariance: if c.features > 0 { (c.cov_sum / c.features as f64) as f32 } else { f32::NAN },
            gain,
        }
    }
}
