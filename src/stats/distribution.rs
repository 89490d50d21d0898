//! The distribution of a weight's columns: extremes, outliers, concentration, constant offset.

use super::TensorStats;
use super::columns::{columns, top_percent};
use crate::imatrix::Entry;

/// Statistics that upstream does not have, over the same columns. NaN if undefined.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distribution {
    /// Smallest column average (of activations; of squares in legacy data).
    pub min: f64,
    /// Largest column average.
    pub max: f64,
    /// Share of columns whose average is more than one standard deviation from the mean, on either side. Named after the
    /// ZD score of arXiv 2406.17415, which counts weights. It cannot be compared with that score or with that of llama.cpp
    /// PR 12718.
    pub zd1: f64,
    /// Share of columns more than three standard deviations from the mean.
    pub zd3: f64,
    /// Share of the energy in the 1 % of columns that have the most energy.
    pub top1_energy: f64,
    /// Square root of Σ x̄² / Σ e: 1 if the inputs are constant, 0 if their averages are zero. NaN in legacy data.
    pub mean_to_rms: f64,
    /// Number of columns left out because their sums are not finite.
    pub not_finite: u64,
}

impl Distribution {
    pub(super) fn new(entry: &Entry, stats: &TensorStats) -> Self {
        let (mean, deviation) = (f64::from(stats.mean), f64::from(stats.std_deviation));
        let (mut min, mut max) = (f64::INFINITY, f64::NEG_INFINITY);
        let (mut over1, mut over3, mut not_finite) = (0_u64, 0_u64, 0_u64);
        let (mut offset, mut energy) = (0.0_f64, 0.0_f64);
        let mut energies = Vec::with_capacity(entry.sum2.len());
        for c in columns(entry) {
            if !c.is_finite() {
                not_finite += 1;
                continue;
            }
            min = min.min(c.value);
            max = max.max(c.value);
            let distance = (c.value - mean).abs();
            over1 += u64::from(distance > deviation);
            over3 += u64::from(distance > 3.0 * deviation);
            offset += c.value * c.value;
            energy += c.energy;
            energies.push(c.energy as f32);
        }
        let n = energies.len();
        // Equal columns have no outliers: their distances from the mean are rounding errors.
        let share = |over: u64| if deviation > 0.0 && n > 1 { over as f64 / n as f64 } else { f64::NAN };
        let (zd1, zd3) = (share(over1), share(over3));
        Self {
            min: if n > 0 { min } else { f64::NAN },
            max: if n > 0 { max } else { f64::NAN },
            zd1,
            zd3,
            top1_energy: top_share(energies),
            mean_to_rms: if stats.legacy || energy <= 0.0 { f64::NAN } else { (offset / energy).sqrt() },
            not_finite,
        }
    }
}

fn top_share(mut energies: Vec<f32>) -> f64 {
    let n = energies.len();
    if n == 0 {
        return f64::NAN;
    }
    let total: f64 = energies.iter().map(|&e| f64::from(e)).sum();
    let (largest, last, _) = energies.select_nth_unstable_by(top_percent(n) - 1, |a, b| b.total_cmp(a));
    // Summed in order of size, since the selection leaves them in an unspecified order.
    largest.sort_unstable_by(|a, b| b.total_cmp(a));
    let top = largest.iter().map(|&e| f64::from(e)).sum::<f64>() + f64::from(*last);
    if total > 0.0 { top / total } else { f64::NAN }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::vector;

    fn distribution(sum2: &[f32], sum: Option<&[f32]>, counts: &[i64]) -> Distribution {
        let entry = Entry { sum2: sum2.to_vec(), sum: sum.map(<[f32]>::to_vec), counts: counts.to_vec() };
        let stats = vector::statistics("w", &entry.view()).unwrap().unwrap();
        Distribution::new(&entry, &stats)
    }

    #[test]
    fn extremes_outliers_and_shares_are_those_worked_out_by_hand() {
        // Averages 1, 2, 3, 6 (mean 3, deviation 1.87); energies 2, 4, 9, 85.
        let d = distribution(&[4.0, 8.0, 18.0, 170.0], Some(&[2.0, 4.0, 6.0, 12.0]), &[2]);
        assert_eq!((d.min, d.max, d.zd1, d.zd3, d.not_finite), (1.0, 6.0, 0.5, 0.0, 0));
        assert!((d.top1_energy - 0.85).abs() < 1e-6);
        assert!((d.mean_to_rms - (50.0_f64 / 100.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn undefined_statistics_are_nan() {
        let one = distribution(&[4.0], Some(&[2.0]), &[1]);
        assert!(one.zd1.is_nan() && (one.mean_to_rms - 1.0).abs() < 1e-12 && (one.top1_energy - 1.0).abs() < 1e-12);
        let silent = distribution(&[0.0, 0.0], Some(&[0.0, 0.0]), &[1]);
        assert!(silent.top1_energy.is_nan() && silent.mean_to_rms.is_nan() && silent.zd3.is_nan());
        let broken = distribution(&[1.0, f32::NAN, 9.0, 3.0], None, &[1, 0]);
        assert!(broken.mean_to_rms.is_nan());
        assert_eq!((broken.not_finite, broken.max), (1, 1.0));
    }
}
