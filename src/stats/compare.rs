//! A weight against the weight of its name in the nearest layer before it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::lanes::{self, LANES, Lane, Pairs, run};
use super::name::TensorName;
use super::{TensorStats, Warning, parallel};
use crate::imatrix::{Entry, Numbers, Values};

/// Sums up to which a weight counts as unused when the gain is formed.
const NO_ENERGY: f64 = 1e-10_f32 as f64; // upstream's constant is single precision

/// The sums that a comparison with the layer before is made of, over the columns that are finite
/// in both. Layers add them up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Sum of products.
    pub dot: f64,
    /// Sum of squares here.
    pub norm_sq: f64,
    /// Sum of squares in the layer before.
    pub prev_norm_sq: f64,
    /// Sum of squared differences.
    pub l2_sq: f64,
    /// Sum of products of the deviations from the means.
    pub cov_sum: f64,
    /// Sum of squared deviations here.
    pub var_sum: f64,
    /// Sum of squared deviations in the layer before.
    pub prev_var_sum: f64,
    /// Columns compared.
    pub features: i64,
    /// The other's sum of average squares, 0 where it has no energy to form a gain with.
    pub prev_sum: f64,
    /// The other's columns with data, 0 likewise.
    pub prev_elements: i64,
}

/// A comparison and the gain, the one statistic that the sums alone do not give.
pub(super) struct Compared {
    sums: Comparison,
    gain: f32,
}

/// Compares every weight of a layer with its predecessor; the results are in the order of
/// `tensors`, which is that of their names.
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
    let averages: Vec<Option<Averages<'_>>> =
        pairs.iter().map(|(stats, preceding)| Averages::new(entries, stats, (*preceding)?)).collect();
    let comparable = averages.iter().map(|a| a.as_ref().map_or(0, Averages::len));
    let groups = parallel::groups(&comparable.collect::<Vec<_>>());
    let work = entries.values().map(|e| e.sum2.len()).sum();
    let sums = parallel::map(&groups, work, |group| sums(group.iter().filter_map(|&i| averages[i].clone()).collect()));

    let mut out: Vec<Option<Compared>> = pairs.iter().map(|_| None).collect();
    for (group, sums) in groups.iter().zip(sums) {
        let comparable = group.iter().filter(|&&i| averages[i].is_some());
        for (&i, sums) in comparable.zip(sums) {
            if let ((stats, Some(preceding)), Some(sums)) = (&pairs[i], sums) {
                out[i] = Some(Compared::new(stats, preceding, sums));
            }
        }
    }
    out
}

/// No layer before has a weight of this name.
struct NotFound;

/// Which layers have a weight, by what stands before and after the layer's number in its name.
///
/// Upstream goes down the numbers one at a time; a name with a huge number would keep it busy for
/// hours.
struct Layers<'a>(HashMap<(&'a str, &'a str), BTreeSet<i32>>);

impl<'a> Layers<'a> {
    fn new(tensors: &'a [TensorStats]) -> Self {
        let mut layers: HashMap<_, BTreeSet<i32>> = HashMap::new();
        for stats in tensors {
            let name = stats.tensor.as_str();
            for (at, _) in name.match_indices("blk.") {
                let (before, after) = name.split_at(at + "blk.".len());
                let digits = after.bytes().take(10).take_while(u8::is_ascii_digit).count();
                // Each beginning of the digits is a number that a search may put here.
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

    /// The name of the weight to compare with. `None` where the weight is not compared: it is in
    /// no layer, in the first, or in the first of the `NextN` layers, which follow no other.
    fn preceding(&self, tensor: &str, nextn_start: i32) -> Option<Result<String, NotFound>> {
        let name = TensorName::new(tensor);
        let block = name.block().filter(|&block| block > 0 && block != nextn_start)?;
        let first = if block > nextn_start { nextn_start } else { 0 };

        // The first place where "blk." and the layer occur, be it in the middle of a component.
        let pattern = format!("blk.{}", name.layer);
        let at = tensor.find(&pattern)?;
        let (before, rest) = (tensor.get(..at + 4)?, tensor.get(at + pattern.len()..)?);
        let nearest = self.0.get(&(before, rest)).and_then(|layers| layers.range(first..block).next_back());
        Some(nearest.map(|n| format!("{before}{n}{rest}")).ok_or(NotFound))
    }
}

/// The averages of a weight and of the one before it, in single precision: by activation, or by its
/// square where one side has nothing else. Columns that are not finite in both are left out, as those
/// of matrices without rows.
#[derive(Clone)]
struct Averages<'a> {
    sides: [(&'a Numbers<'a>, &'a [i64]); 2],
    at: usize,
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
        (sides[0].0.len() == sides[1].0.len()).then_some(Self { sides, at: 0 })
    }

    fn len(&self) -> usize {
        self.sides[0].0.len()
    }
}

/// The averages from `at` on, NaN for matrices without rows.
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

impl Pairs for Averages<'_> {
    fn next(&mut self, n: usize, mut put: impl FnMut(usize, f64, f64)) -> usize {
        let mut buffers = [[0.0_f32; lanes::BLOCK]; 2];
        let mut done = 0;
        while done < n && self.at < self.len() {
            let size = (n - done).min(self.len() - self.at).min(lanes::BLOCK);
            for (side, buffer) in self.sides.iter().zip(&mut buffers) {
                read_averages(*side, self.at, &mut buffer[..size]);
            }
            self.at += size;
            let [here, before] = buffers.each_ref().map(|buffer| &buffer[..size]);
            let both = here.iter().zip(before);
            if both.clone().fold(true, |all, (c, p)| all & c.is_finite() & p.is_finite()) {
                both.enumerate().for_each(|(i, (&c, &p))| put(done + i, c.into(), p.into()));
                done += size;
            } else {
                for (&c, &p) in both.filter(|(c, p)| c.is_finite() && p.is_finite()) {
                    put(done, c.into(), p.into());
                    done += 1;
                }
            }
        }
        done
    }
}

/// The sums of at most [`LANES`] comparisons; `None` for one without columns that are finite in both.
fn sums(mut averages: Vec<Averages<'_>>) -> Vec<Option<Comparison>> {
    let mut totals = Totals::default();
    run(&mut averages.clone(), &mut totals);
    let mut products = Products::default();
    for lane in 0..LANES {
        products.mean[lane] = totals.here[lane] / totals.n[lane];
        products.mean_before[lane] = totals.before[lane] / totals.n[lane];
    }
    run(&mut averages, &mut products);
    let comparison = |lane: usize| Comparison {
        dot: products.dot[lane],
        norm_sq: products.norm_sq[lane],
        prev_norm_sq: products.prev_norm_sq[lane],
        l2_sq: products.l2_sq[lane],
        cov_sum: products.cov_sum[lane],
        var_sum: products.var_sum[lane],
        prev_var_sum: products.prev_var_sum[lane],
        features: totals.n[lane] as i64,
        prev_sum: 0.0,
        prev_elements: 0,
    };
    (0..averages.len()).map(|lane| (totals.n[lane] > 0.0).then(|| comparison(lane))).collect()
}

#[derive(Default)]
struct Totals {
    n: Lane,
    here: Lane,
    before: Lane,
}

impl lanes::Chains for Totals {
    #[inline]
    fn take(&mut self, lane: usize, here: f64, before: f64) {
        self.n[lane] += 1.0;
        self.here[lane] += here;
        self.before[lane] += before;
    }
}

/// The fields of [`Comparison`], a lane each.
#[derive(Default)]
struct Products {
    mean: Lane,
    mean_before: Lane,
    dot: Lane,
    norm_sq: Lane,
    prev_norm_sq: Lane,
    l2_sq: Lane,
    cov_sum: Lane,
    var_sum: Lane,
    prev_var_sum: Lane,
}

impl lanes::Chains for Products {
    #[inline]
    fn take(&mut self, lane: usize, here: f64, before: f64) {
        self.dot[lane] += here * before;
        self.norm_sq[lane] += here * here;
        self.prev_norm_sq[lane] += before * before;
        let diff = here - before;
        self.l2_sq[lane] += diff * diff;
        let (dc, dp) = (here - self.mean[lane], before - self.mean_before[lane]);
        self.cov_sum[lane] += dc * dp;
        self.var_sum[lane] += dc * dc;
        self.prev_var_sum[lane] += dp * dp;
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

    /// Fills in the statistics against the layer before.
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

/// `dot / (|a| |b|)` within [-1, 1]; 0 where one length is zero, NaN where both are.
pub(super) fn normalized(dot: f64, a_sq: f64, b_sq: f64) -> f32 {
    if a_sq > 0.0 && b_sq > 0.0 {
        // `clamp` lets a NaN pass, as std::clamp does.
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
    fn by_hand() {
        let s = statistics(&[("blk.0.a.weight", entry(&[1.0, 2.0])), ("blk.1.a.weight", entry(&[4.0, 2.0]))], 0);
        let t = s.get("blk.1.a.weight").unwrap();
        assert_eq!((t.l2_dist, t.covariance, t.pearson, t.gain), (3.0, -0.5, -1.0, 2.0));
        assert!((t.cossim - 0.8).abs() < 1e-6);
        assert!(s.get("blk.0.a.weight").unwrap().cossim.is_nan());
    }

    #[test]
    fn the_nearest_layer_that_has_the_weight_counts() {
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
        // "blk.01" is never asked for.
        assert_eq!(found(&["blk.01.a.weight"], "blk.2.a.weight", i32::MAX), Some(None));
    }

    #[test]
    fn silence_compares_as_nan_or_zero() {
        assert!(normalized(0.0, 0.0, 0.0).is_nan());
        assert_eq!(normalized(0.0, 1.0, 0.0).to_bits(), 0.0_f32.to_bits());
        assert_eq!(normalized(5.0, 1.0, 1.0).to_bits(), 1.0_f32.to_bits());
    }
}
