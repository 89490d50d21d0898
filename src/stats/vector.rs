//! The statistics of one weight, over its columns.

use super::{Comparison, TensorStats};
use crate::imatrix::{Entry, Numbers, Values};

/// Smallest share of the energy that counts for the entropy.
const LEAST_SHARE: f64 = 1e-10;
const LOG2_E: f64 = 1.0 / std::f64::consts::LN_2; // rounded twice, as upstream has it
/// Columns read at once: the two buffers fit in the L1 cache.
const BLOCK: usize = 1024;

/// The counts or sums of an entry are empty, or their lengths do not match.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unusable;

/// Computes the statistics of one weight; `Ok(None)` if no column has finite data.
pub(super) fn statistics(name: &str, entry: &Entry<Numbers<'_>>) -> Result<Option<TensorStats>, Unusable> {
    let columns = Columns::new(entry)?;
    let means = Means::new(&columns);
    Ok((means.n > 0.0).then(|| describe(name, &columns, &means)))
}

fn describe(name: &str, columns: &Columns<'_>, means: &Means) -> TensorStats {
    let n = means.n;
    let Moments { square, cube, fourth, entropy } = Moments::new(columns, means);
    let variance = if n > 1.0 { square / n } else { 0.0 };
    let std_deviation = (if variance < 0.0 { 0.0 } else { variance } as f32).sqrt();
    let (mut skewness, mut kurtosis) = (0.0, 0.0);
    if std_deviation > 1e-10 {
        let m2 = square / n;
        skewness = (cube / n / (m2 * m2.sqrt())) as f32;
        kurtosis = (fourth / n / (m2 * m2) - 3.0) as f32;
    }
    TensorStats {
        tensor: name.to_owned(),
        legacy: columns.sums.is_none(),
        sum: means.sum,
        mean: means.mean as f32,
        elements: n as i64,
        std_deviation,
        skewness,
        kurtosis,
        entropy: entropy as f32,
        gain: f32::NAN,
        l2_dist: f32::NAN,
        cossim: f32::NAN,
        pearson: f32::NAN,
        covariance: f32::NAN,
        comparison: Comparison::default(),
    }
}

/// The columns of all matrices that have rows, without those whose sums are not finite.
struct Columns<'a> {
    entry: &'a Entry<Numbers<'a>>,
    /// `None` in legacy data.
    sums: Option<&'a Numbers<'a>>,
    /// Columns per matrix.
    row: usize,
}

impl<'a> Columns<'a> {
    fn new(entry: &'a Entry<Numbers<'a>>) -> Result<Self, Unusable> {
        let row = entry.row_len().filter(|&row| row > 0).ok_or(Unusable)?;
        let sums = entry.sum.as_ref().filter(|sum| !sum.is_empty());
        if sums.is_some_and(|sum| sum.len() != entry.sum2.len()) {
            return Err(Unusable);
        }
        Ok(Self { entry, sums, row })
    }

    /// Calls `f` with the average activation of each column (in legacy data, with its average square) and with its
    /// average square.
    fn for_each(&self, mut f: impl FnMut(f64, f64)) {
        let (mut squares, mut sums) = ([0.0_f32; BLOCK], [0.0_f32; BLOCK]);
        for (matrix, &count) in self.entry.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let inverse = 1.0 / f64::from(count as f32);
            for from in (0..self.row).step_by(BLOCK) {
                let (at, n) = (matrix * self.row + from, BLOCK.min(self.row - from));
                let (squares, sums) = (&mut squares[..n], &mut sums[..n]);
                self.entry.sum2.read(at, squares);
                match self.sums {
                    Some(numbers) => numbers.read(at, sums),
                    None => sums.copy_from_slice(squares),
                }
                for (&sum, &square) in sums.iter().zip(squares.iter()) {
                    // The count is at least 1, so an average is finite if its sum is.
                    if sum.is_finite() && square.is_finite() {
                        f(f64::from(sum) * inverse, f64::from(square) * inverse);
                    }
                }
            }
        }
    }
}

/// The running mean (Welford) of the averages, and sums of the average squares.
#[derive(Default)]
struct Means {
    n: f64,
    mean: f64,
    /// Sum of the average squares.
    sum: f64,
    /// Sum of the positive average squares.
    sum_energy: f64,
}

impl Means {
    fn new(columns: &Columns<'_>) -> Self {
        let mut m = Self::default();
        columns.for_each(|value, energy| {
            m.n += 1.0;
            m.sum += energy;
            m.mean += (value - m.mean) / m.n;
            m.sum_energy += if energy > 0.0 { energy } else { 0.0 };
        });
        m
    }
}

/// Sums of powers of the deviations from the mean, and the entropy in bits.
#[derive(Default)]
struct Moments {
    square: f64,
    cube: f64,
    fourth: f64,
    entropy: f64,
}

impl Moments {
    fn new(columns: &Columns<'_>, means: &Means) -> Self {
        let inverse_sum = if means.sum_energy > 0.0 { 1.0 / means.sum_energy } else { 0.0 };
        let mut m = Self::default();
        columns.for_each(|value, energy| {
            let diff = value - means.mean;
            m.square += diff * diff;
            m.cube += diff * diff * diff;
            m.fourth += diff * diff * diff * diff;
            let p = energy.max(0.0) * inverse_sum;
            if p > LEAST_SHARE {
                m.entropy -= p * p.ln() * LOG2_E;
            }
        });
        m
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sum2: &[f32], sum: Option<&[f32]>, counts: &[i64]) -> Entry {
        Entry { sum2: sum2.to_vec(), sum: sum.map(<[f32]>::to_vec), counts: counts.to_vec() }
    }

    fn statistics(name: &str, entry: &Entry) -> Result<Option<TensorStats>, Unusable> {
        super::statistics(name, &entry.view())
    }

    #[test]
    fn moments_and_entropy_of_four_columns_are_those_worked_out_by_hand() {
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
    fn unseen_experts_and_columns_that_are_not_finite_are_left_out() {
        let e = entry(&[2.0, 2.0, 9.0, 9.0, f32::NAN, 4.0], None, &[2, 0, 1]);
        let s = statistics("w", &e).unwrap().unwrap();
        assert_eq!((s.elements, s.mean, s.legacy), (3, 2.0, true));
        assert!((s.sum - 6.0).abs() < 1e-12);
        assert_eq!(statistics("w", &entry(&[1.0], None, &[0])), Ok(None));
        assert_eq!(statistics("w", &entry(&[], None, &[1])), Err(Unusable));
        assert_eq!(statistics("w", &entry(&[1.0; 3], None, &[1, 1])), Err(Unusable));
    }

    /// llama.cpp's formulas in one loop over all columns.
    fn one_by_one(entry: &Entry) -> [u64; 8] {
        let row = entry.row_len().unwrap();
        let mut columns = Vec::new();
        for (i, &sum2) in entry.sum2.iter().enumerate() {
            let count = entry.counts[i / row] as f32;
            let (inverse, sum) = (1.0 / f64::from(count), entry.sum.as_ref().map_or(sum2, |sum| sum[i]));
            let (value, energy) = (f64::from(sum) * inverse, f64::from(sum2) * inverse);
            if count > 0.0 && value.is_finite() && energy.is_finite() {
                columns.push((value, energy));
            }
        }
        let (mut sum, mut mean, mut sum_energy) = (0.0, 0.0, 0.0);
        for (i, &(value, energy)) in columns.iter().enumerate() {
            sum += energy;
            mean += (value - mean) / (i + 1) as f64;
            sum_energy += if energy > 0.0 { energy } else { 0.0 };
        }
        let (mut square, mut cube, mut fourth, mut entropy) = (0.0, 0.0, 0.0, 0.0);
        for &(value, energy) in &columns {
            let diff = value - mean;
            square += diff * diff;
            cube += diff * diff * diff;
            fourth += diff * diff * diff * diff;
            let p = energy.max(0.0) * if sum_energy > 0.0 { 1.0 / sum_energy } else { 0.0 };
            if p > LEAST_SHARE {
                entropy -= p * p.ln() * LOG2_E;
            }
        }
        let n = columns.len() as f64;
        let (m2, std_deviation) = (square / n, (square / n) as f32);
        let skewness = if std_deviation.sqrt() > 1e-10 { (cube / n / (m2 * m2.sqrt())) as f32 } else { 0.0 };
        let kurtosis = if std_deviation.sqrt() > 1e-10 { (fourth / n / (m2 * m2) - 3.0) as f32 } else { 0.0 };
        let singles = [mean as f32, std_deviation.sqrt(), skewness, kurtosis, entropy as f32];
        let bits = singles.map(|x| u64::from(x.to_bits()));
        [
            sum.to_bits(),
            columns.len() as u64,
            u64::from(entry.sum.is_none()),
            bits[0],
            bits[1],
            bits[2],
            bits[3],
            bits[4],
        ]
    }

    #[test]
    fn reading_in_blocks_gives_the_bits_of_one_loop_over_all_columns() {
        let mut state = 1_u64;
        let mut number = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32
        };
        for round in 0..200 {
            // Rows shorter and longer than a block, columns that are not finite, energies over many powers of ten.
            let (row, matrices) = (1 + (number() * 2.5 * BLOCK as f32) as usize, 1 + (number() * 4.0) as usize);
            let mut values: Vec<f32> = (0..row * matrices).map(|_| number() * 10_f32.powf(8.0 * number())).collect();
            let sums = values.iter().map(|x| x.sqrt() - 3.0 * number()).collect();
            if round % 3 == 1 {
                let at = values.len() / 2;
                values[at] = f32::NAN;
                values[0] = f32::INFINITY;
            }
            let counts = (0..matrices).map(|m| if m % 3 == 1 { 0 } else { (number() * 5000.0) as i64 }).collect();
            let entry = Entry { sum2: values, sum: (round % 4 != 2).then_some(sums), counts };
            let expected = one_by_one(&entry);
            let Some(s) = statistics("w", &entry).unwrap() else {
                assert_eq!(expected[1], 0);
                continue;
            };
            let bits = [s.mean, s.std_deviation, s.skewness, s.kurtosis, s.entropy].map(|x| u64::from(x.to_bits()));
            let [mean, std_deviation, skewness, kurtosis, entropy] = bits;
            let found = [
                s.sum.to_bits(),
                s.elements as u64,
                u64::from(s.legacy),
                mean,
                std_deviation,
                skewness,
                kurtosis,
                entropy,
            ];
            assert_eq!(found, expected, "round {round}, {} values", entry.sum2.len());
        }
    }
}
