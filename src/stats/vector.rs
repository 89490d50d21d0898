//! A weight's own statistics, over its columns.

use super::{Comparison, TensorStats};
use crate::imatrix::Entry;

/// The entry's lengths are empty or do not fit together.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unusable;

/// One column's averages.
struct Column {
    /// What the moments are of: the average activation, or its square in legacy data.
    value: f64,
    /// The average square.
    energy: f64,
}

/// The statistics of one entry; `Ok(None)` where no column has finite data.
pub(super) fn statistics(name: &str, entry: &Entry) -> Result<Option<TensorStats>, Unusable> {
    let legacy = entry.activations().is_empty();
    let row = entry.row_len().filter(|&row| row > 0).ok_or(Unusable)?;
    if !legacy && entry.activations().len() != entry.sum2.len() {
        return Err(Unusable);
    }

    // Running mean (Welford); the sum and the energy's sum beside it.
    let (mut sum, mut mean, mut sum_energy) = (0.0_f64, 0.0_f64, 0.0_f64);
    let mut valid = 0_u64;
    for column in columns(entry, row) {
        sum += column.energy;
        valid += 1;
        mean += (column.value - mean) / valid as f64;
        if column.energy > 0.0 {
            sum_energy += column.energy;
        }
    }
    if valid == 0 {
        return Ok(None);
    }
    let n = valid as f64;
    let moments = Moments::new(entry, row, mean, sum_energy);

    let variance = if valid > 1 { moments.square / n } else { 0.0 };
    let std_deviation = (if variance < 0.0 { 0.0 } else { variance } as f32).sqrt();
    let (mut skewness, mut kurtosis) = (0.0, 0.0);
    if std_deviation > 1e-10 {
        let m2 = moments.square / n;
        skewness = (moments.cube / n / (m2 * m2.sqrt())) as f32;
        kurtosis = (moments.fourth / n / (m2 * m2) - 3.0) as f32;
    }
    Ok(Some(TensorStats {
        tensor: name.to_owned(),
        legacy,
        sum,
        mean: mean as f32,
        elements: valid as i64,
        std_deviation,
        skewness,
        kurtosis,
        entropy: moments.entropy as f32,
        gain: f32::NAN,
        l2_dist: f32::NAN,
        cossim: f32::NAN,
        pearson: f32::NAN,
        covariance: f32::NAN,
        comparison: Comparison::default(),
    }))
}

/// The columns with finite averages of all matrices that have rows.
fn columns(entry: &Entry, row: usize) -> impl Iterator<Item = Column> {
    let activations = entry.activations();
    let with_rows = entry.counts.iter().enumerate().filter(|(_, count)| **count as f32 > 0.0);
    with_rows
        .flat_map(move |(matrix, &count)| {
            let inverse = 1.0 / f64::from(count as f32);
            let start = matrix * row;
            let squares = entry.sum2.get(start..start + row).unwrap_or_default();
            let sums = activations.get(start..start + row);
            squares.iter().enumerate().map(move |(j, &sum2)| {
                let energy = f64::from(sum2) * inverse;
                let value = sums.and_then(|s| s.get(j)).map_or(energy, |&sum| f64::from(sum) * inverse);
                Column { value, energy }
            })
        })
        .filter(|c| c.value.is_finite() && c.energy.is_finite())
}

/// Sums of powers about the mean, and the entropy.
#[derive(Default)]
struct Moments {
    square: f64,
    cube: f64,
    fourth: f64,
    /// In bits.
    entropy: f64,
}

impl Moments {
    fn new(entry: &Entry, row: usize, mean: f64, sum_energy: f64) -> Self {
        const LOG2_E: f64 = 1.0 / std::f64::consts::LN_2; // rounded twice, as upstream has it
        let inverse_sum = if sum_energy > 0.0 { 1.0 / sum_energy } else { 0.0 };
        let mut m = Self::default();
        for column in columns(entry, row) {
            let diff = column.value - mean;
            m.square += diff * diff;
            m.cube += diff * diff * diff;
            m.fourth += diff * diff * diff * diff;
            if inverse_sum > 0.0 {
                let p = column.energy.max(0.0) * inverse_sum;
                if p > 1e-10 {
                    m.entropy -= p * p.ln() * LOG2_E;
                }
            }
        }
        m
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sum2: &[f32], sum: Option<&[f32]>, counts: &[i64]) -> Entry {
        Entry { sum2: sum2.to_vec(), sum: sum.map(<[f32]>::to_vec), counts: counts.to_vec() }
    }

    #[test]
    fn by_hand() {
        // Averages 1, 2, 3, 6: mean 3, variance 3.5, third moment 4.5, fourth 24.5.
        let e = entry(&[4.0, 4.0, 4.0, 4.0], Some(&[2.0, 4.0, 6.0, 12.0]), &[2]);
        let s = statistics("w", &e).unwrap().unwrap();
        assert!((s.sum - 8.0).abs() < 1e-12);
        assert_eq!((s.mean, s.elements, s.legacy), (3.0, 4, false));
        assert!((s.std_deviation - 3.5_f32.sqrt()).abs() < 1e-6);
        assert!((s.skewness - 4.5 / 3.5_f32.powf(1.5)).abs() < 1e-6);
        assert!((s.kurtosis - (24.5 / 12.25 - 3.0)).abs() < 1e-6);
        // Four equal energies: two bits, 100 percent.
        assert!((s.entropy - 2.0).abs() < 1e-6 && (s.h_norm() - 100.0).abs() < 1e-4);
    }

    #[test]
    fn unseen_experts_and_values_that_are_not_finite_do_not_count() {
        let e = entry(&[2.0, 2.0, 9.0, 9.0, f32::NAN, 4.0], None, &[2, 0, 1]);
        let s = statistics("w", &e).unwrap().unwrap();
        assert_eq!((s.elements, s.mean, s.legacy), (3, 2.0, true));
        assert!((s.sum - 6.0).abs() < 1e-12);
        assert_eq!(statistics("w", &entry(&[1.0], None, &[0])), Ok(None));
        assert_eq!(statistics("w", &entry(&[], None, &[1])), Err(Unusable));
        assert_eq!(statistics("w", &entry(&[1.0; 3], None, &[1, 1])), Err(Unusable));
    }
}
