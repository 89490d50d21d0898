//! Compares a weight with the weight of the same name in the nearest preceding layer.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rayon::prelude::*;

use super::name::TensorName;
use super::{TensorStats, Warning};
use crate::imatrix::{Entry, Numbers, Values};

/// A weight whose sum is at most this counts as unused when the gain is computed.
const NO_ENERGY: f64 = 1e-10_f32 as f64; // upstream's constant is single precision
/// Columns read at once: the two buffers fit in the L1 cache.
const BLOCK: usize = 1024;

/// The sums that a comparison with the preceding layer is computed from, over the columns that are finite in both. The
/// sums of a layer are the sums over its weights.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Comparison {
    /// Sum of products.
    pub(crate) dot: f64,
    /// Sum of squares of the weight.
    pub(crate) norm_sq: f64,
    /// Sum of squares of the preceding weight.
    pub(crate) prev_norm_sq: f64,
    /// Sum of squared differences.
    pub(crate) l2_sq: f64,
    /// Sum of products of the deviations from the means.
    pub(crate) cov_sum: f64,
    /// Sum of squared deviations of the weight.
    pub(crate) var_sum: f64,
    /// Sum of squared deviations of the preceding weight.
    pub(crate) prev_var_sum: f64,
    /// Number of columns compared.
    pub(crate) features: i64,
    /// Sum of average squares of the preceding weight; 0 if that weight is unused.
    pub(crate) prev_sum: f64,
    /// Number of columns of the preceding weight that have data; 0 if that weight is unused.
    pub(crate) prev_elements: i64,
}

/// A comparison and the gain, the only statistic that does not follow from the sums.
pub(super) struct Compared {
    sums: Comparison,
    gain: f32,
}

/// Compares every weight of a layer with its predecessor. `tensors` must be sorted by name; the results have its order.
pub(super) fn with_preceding(
    tensors: &[TensorStats],
    entries: &BTreeMap<String, Entry<Numbers<'_>>>,
    nextn_start: i32,
    warnings: &mut Vec<Warning>,
) -> Vec<Option<Compared>> {
    let layers = Layers::new(tensors);
    let mut pairs = Vec::with_capacity(tensors.len());
    for stats in tensors {
        let found = layers.preceding(&stats.tensor, nextn_start);
        if let Some(Err(NotFound)) = found {
            warnings.push(Warning::NoPrecedingLayer { tensor: stats.tensor.clone() });
        }
        let preceding = found
            .and_then(Result::ok)
            .and_then(|name| tensors.binary_search_by(|t| t.tensor.as_str().cmp(&name)).ok())
            .and_then(|i| tensors.get(i));
        pairs.push((stats, preceding));
    }
    let compare = |(stats, preceding): &(&TensorStats, Option<&TensorStats>)| {
        let preceding = (*preceding)?;
        let sums = Averages::new(entries, stats, preceding)?.compare()?;
        Some(Compared::new(stats, preceding, sums))
    };
    pairs.par_iter().map(compare).collect()
}

/// No preceding layer has a weight of this name.
struct NotFound;

/// The layers that have a weight, by the parts of its name before and after the layer number.
///
/// Upstream tries every lower number in turn, which takes hours for a name with a huge number.
struct Layers<'a>(HashMap<(&'a str, &'a str), BTreeSet<i32>>);

impl<'a> Layers<'a> {
    fn new(tensors: &'a [TensorStats]) -> Self {
        let mut layers: HashMap<_, BTreeSet<i32>> = HashMap::new();
        for stats in tensors {
            let name = stats.tensor.as_str();
            for (at, _) in name.match_indices("blk.") {
                let (before, after) = name.split_at(at + "blk.".len());
                let digits = after.bytes().take(10).take_while(u8::is_ascii_digit).count();
                // A search may put the number of any prefix of the digits here.
                for end in 1..=digits {
                    let (number, rest) = after.split_at(end);
                    if let Ok(n) = number.parse::<i32>()
                        && (end == 1 || !number.starts_with('0'))
                    {
                        layers.entry((before, rest)).or_default().insert(n);
                    }
                }
            }
        }
        Self(layers)
    }

    /// Returns the name of the weight to compare with; `None` for a weight outside the layers, in the first layer or in
    /// the first `NextN` layer, which have no predecessor.
    fn preceding(&self, tensor: &str, nextn_start: i32) -> Option<Result<String, NotFound>> {
        let name = TensorName::new(tensor);
        let block = name.block().filter(|&block| block > 0 && block != nextn_start)?;
        let first = if block > nextn_start { nextn_start } else { 0 };

        // The first occurrence of "blk." and the layer, even within a component.
        let pattern = format!("blk.{}", name.layer);
        let at = tensor.find(&pattern)?;
        let (before, rest) = (tensor.get(..at + 4)?, tensor.get(at + pattern.len()..)?);
        let nearest = self.0.get(&(before, rest)).and_then(|layers| layers.range(first..block).next_back());
        Some(nearest.map(|n| format!("{before}{n}{rest}")).ok_or(NotFound))
    }
}

/// The averages of a weight and of the preceding one, in single precision: of activations, or of squares if one of the
/// two has nothing else. Columns are left out unless both averages are finite; those of matrices without rows are NaN.
struct Averages<'a> {
    /// Sums and counts: of the weight, then of the preceding one.
    sides: [(&'a Numbers<'a>, &'a [i64]); 2],
}

impl<'a> Averages<'a> {
    fn new(
        entries: &'a BTreeMap<String, Entry<Numbers<'a>>>,
        here: &TensorStats,
        before: &TensorStats,
    ) -> Option<Self> {
        let by_activation = !here.legacy && !before.legacy;
        let side = |stats: &TensorStats| {
            let entry = entries.get(&stats.tensor)?;
            let sums = if by_activation { entry.sum.as_ref()? } else { &entry.sum2 };
            let matrices = entry.counts.len();
            let usable = !sums.is_empty() && matrices > 0 && sums.len() % matrices == 0;
            (usable && entry.counts.iter().any(|&c| c > 0)).then_some((sums, entry.counts.as_slice()))
        };
        let sides = [side(here)?, side(before)?];
        (sides[0].0.len() == sides[1].0.len()).then_some(Self { sides })
    }

    /// Computes the sums; `None` if no column is finite in both.
    fn compare(&self) -> Option<Comparison> {
        let (mut n, mut here, mut before) = (0.0, 0.0, 0.0);
        self.for_each(|c, p| {
            n += 1.0;
            here += c;
            before += p;
        });
        if n == 0.0 {
            return None;
        }
        let (mean, mean_before) = (here / n, before / n);
        let mut sums = Comparison { features: n as i64, ..Comparison::default() };
        self.for_each(|c, p| {
            sums.dot += c * p;
            sums.norm_sq += c * c;
            sums.prev_norm_sq += p * p;
            sums.l2_sq += (c - p) * (c - p);
            let (dc, dp) = (c - mean, p - mean_before);
            sums.cov_sum += dc * dp;
            sums.var_sum += dc * dc;
            sums.prev_var_sum += dp * dp;
        });
        Some(sums)
    }

    /// Calls `f` with both averages of each column.
    fn for_each(&self, mut f: impl FnMut(f64, f64)) {
        let mut buffers = [[0.0_f32; BLOCK]; 2];
        let len = self.sides[0].0.len();
        for at in (0..len).step_by(BLOCK) {
            let n = BLOCK.min(len - at);
            for (side, buffer) in self.sides.iter().zip(&mut buffers) {
                read_averages(*side, at, &mut buffer[..n]);
            }
            for (&c, &p) in buffers[0][..n].iter().zip(&buffers[1][..n]) {
                if c.is_finite() && p.is_finite() {
                    f(c.into(), p.into());
                }
            }
        }
    }
}

/// Reads the averages from `at` on. Those of matrices without rows are NaN.
fn read_averages((sums, counts): (&Numbers<'_>, &[i64]), at: usize, into: &mut [f32]) {
    sums.read(at, into);
    let row = sums.len() / counts.len();
    let (mut at, mut rest) = (at, into);
    while !rest.is_empty() {
        let (of_matrix, others) = rest.split_at_mut((row - at % row).min(rest.len()));
        let count = counts.get(at / row).copied().unwrap_or(0);
        if count > 0 {
            let scale = 1.0 / count as f32;
            for x in of_matrix.iter_mut() {
                *x *= scale;
            }
        } else {
            of_matrix.fill(f32::NAN);
        }
        at += of_matrix.len();
        rest = others;
    }
}

impl Compared {
    fn new(stats: &TensorStats, preceding: &TensorStats, mut sums: Comparison) -> Self {
        let gain = if preceding.sum > NO_ENERGY {
            sums.prev_sum = preceding.sum;
            sums.prev_elements = preceding.elements;
            let root_mean = |s: &TensorStats| (s.sum / s.elements as f64).sqrt();
            (root_mean(stats) / root_mean(preceding)) as f32
        } else if stats.sum <= NO_ENERGY {
            1.0
        } else {
            f32::NAN
        };
        Self { sums, gain }
    }

    /// Sets the statistics against the preceding layer.
    pub(super) fn store(self, stats: &mut TensorStats) {
        let c = self.sums;
        stats.gain = self.gain;
        stats.l2_dist = c.l2_sq.sqrt() as f32;
        if c.features > 1 {
            stats.covariance = (c.cov_sum / c.features as f64) as f32;
        }
        stats.cossim = normalized(c.dot, c.norm_sq, c.prev_norm_sq);
        stats.pearson = normalized(c.cov_sum, c.var_sum, c.prev_var_sum);
        stats.comparison = c;
    }
}

/// Returns `dot / (|a| |b|)` within [-1, 1]; 0 if one length is zero, NaN if both are.
pub(super) fn normalized(dot: f64, a_sq: f64, b_sq: f64) -> f32 {
    if a_sq > 0.0 && b_sq > 0.0 {
        // `clamp` keeps NaN, as std::clamp does.
        ((dot / (a_sq.sqrt() * b_sq.sqrt())) as f32).clamp(-1.0, 1.0)
    } else if a_sq == 0.0 && b_sq == 0.0 {
        f32::NAN
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Statistics;

    fn entry(sum: &[f32]) -> Entry {
        Entry { sum2: sum.iter().map(|x| x * x).collect(), sum: Some(sum.to_vec()), counts: vec![1] }
    }

    fn statistics(entries: &[(&str, Entry)], n_layer_nextn: i32) -> Statistics {
        Statistics::new(&entries.iter().map(|(n, e)| ((*n).to_owned(), e.clone())).collect(), n_layer_nextn)
    }

    #[test]
    fn distance_covariance_and_gain_are_those_worked_out_by_hand() {
        let s = statistics(&[("blk.0.a.weight", entry(&[1.0, 2.0])), ("blk.1.a.weight", entry(&[4.0, 2.0]))], 0);
        let t = s.get("blk.1.a.weight").unwrap();
        assert_eq!((t.l2_dist, t.covariance, t.pearson, t.gain), (3.0, -0.5, -1.0, 2.0));
        assert!((t.cossim - 0.8).abs() < 1e-6);
        assert!(s.get("blk.0.a.weight").unwrap().cossim.is_nan());
    }

    #[test]
    fn a_weight_is_compared_with_the_nearest_preceding_layer_that_has_it() {
        let found = |names: &[&str], of: &str, nextn| {
            let entries: Vec<_> = names.iter().map(|&n| (n, entry(&[1.0]))).collect();
            let s = statistics(&entries, 0);
            Layers::new(&s.tensors).preceding(of, nextn).map(Result::ok)
        };
        let some = |s: &str| Some(Some(s.to_owned()));
        let names =
            ["blk.1.a.weight", "blk.4.a.weight", "blk.12.a.weight", "blk.2000000000.a.weight", "blk.2.b.weight"];
        assert_eq!(found(&names, "blk.12.a.weight", i32::MAX), some("blk.4.a.weight"));
        assert_eq!(found(&names, "blk.2000000000.a.weight", i32::MAX), some("blk.12.a.weight"));
        assert_eq!(found(&names, "blk.1.a.weight", i32::MAX), Some(None));
        assert_eq!(found(&names, "blk.2.b.weight", i32::MAX), Some(None));
        // NextN layers are compared among themselves.
        assert_eq!(found(&names, "blk.12.a.weight", 4), some("blk.4.a.weight"));
        assert_eq!(found(&names, "blk.12.a.weight", 5), Some(None));
        assert_eq!(found(&names, "blk.12.a.weight", 12), None);
        assert_eq!(found(&names, "output.weight", i32::MAX), None);
        // The first "blk.1" lies inside "xblk.12".
        assert_eq!(found(&["xblk.02.blk.1.weight"], "xblk.12.blk.1.weight", i32::MAX), some("xblk.02.blk.1.weight"));
        // "blk.01" is never searched for.
        assert_eq!(found(&["blk.01.a.weight"], "blk.2.a.weight", i32::MAX), Some(None));
    }

    #[test]
    fn zero_vectors_compare_as_nan_or_zero() {
        assert!(normalized(0.0, 0.0, 0.0).is_nan());
        assert_eq!(normalized(0.0, 1.0, 0.0).to_bits(), 0.0_f32.to_bits());
        assert_eq!(normalized(5.0, 1.0, 1.0).to_bits(), 1.0_f32.to_bits());
    }
}
