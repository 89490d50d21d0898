//! A weight's own statistics, over its columns.

use super::lanes::{LANES, Lane, Pairs, run};
use super::{Comparison, TensorStats, lanes, logarithm};
use crate::imatrix::{Entry, Numbers, Values};

/// Smallest share of the energy that counts for the entropy.
const LEAST_SHARE: f64 = 1e-10;
const LOG2_E: f64 = 1.0 / std::f64::consts::LN_2; // rounded twice, as upstream has it

/// The entry's lengths are empty or do not fit together.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unusable;

/// A weight and its sums.
pub(super) type Named<'a> = (&'a str, &'a Entry<Numbers<'a>>);

/// The statistics of at most [`LANES`] weights; `Ok(None)` where no column has finite data.
pub(super) fn statistics(weights: &[Named<'_>]) -> Vec<Result<Option<TensorStats>, Unusable>> {
    let columns: Vec<_> = weights.iter().map(|(_, entry)| Columns::new(entry)).collect();
    let mut usable: Vec<Columns<'_>> = columns.iter().filter_map(|c| c.as_ref().ok().cloned()).collect();
    let mut means = Means::default();
    run(&mut usable.clone(), &mut means);
    let mut moments = Moments::new(&means);
    run(&mut usable, &mut moments);

    let mut lanes = 0..LANES;
    let results = weights.iter().zip(columns).map(|(&(name, _), columns)| {
        let (columns, lane) = (columns?, lanes.next().unwrap_or(0));
        Ok((means.n[lane] > 0.0).then(|| describe(name, columns, &means, &moments, lane)))
    });
    results.collect()
}

fn describe(name: &str, columns: Columns<'_>, means: &Means, moments: &Moments, lane: usize) -> TensorStats {
    let n = means.n[lane];
    let (square, cube, fourth) = (moments.square[lane], moments.cube[lane], moments.fourth[lane]);
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
        legacy: columns.legacy(),
        sum: means.sum[lane],
        mean: means.mean[lane] as f32,
        elements: n as i64,
        std_deviation,
        skewness,
        kurtosis,
        entropy: moments.rounded_entropy(n, lane).unwrap_or_else(|| entropy(columns, moments.inverse_sum[lane])),
        gain: f32::NAN,
        l2_dist: f32::NAN,
        cossim: f32::NAN,
        pearson: f32::NAN,
        covariance: f32::NAN,
        comparison: Comparison::default(),
    }
}

/// The columns with finite averages of all matrices that have rows. A column is what the moments
/// are of, the average activation (or its square in legacy data), and the average square.
#[derive(Clone)]
struct Columns<'a> {
    entry: &'a Entry<Numbers<'a>>,
    row: usize,
    matrix: usize,
    column: usize,
}

impl<'a> Columns<'a> {
    fn new(entry: &'a Entry<Numbers<'a>>) -> Result<Self, Unusable> {
        let row = entry.row_len().filter(|&row| row > 0).ok_or(Unusable)?;
        if entry.sum.as_ref().is_some_and(|sum| !sum.is_empty() && sum.len() != entry.sum2.len()) {
            return Err(Unusable);
        }
        Ok(Self { entry, row, matrix: 0, column: 0 })
    }

    fn sums(&self) -> Option<&'a Numbers<'a>> {
        self.entry.sum.as_ref().filter(|sum| !sum.is_empty())
    }

    fn legacy(&self) -> bool {
        self.sums().is_none()
    }
}

impl Pairs for Columns<'_> {
    fn next(&mut self, n: usize, mut put: impl FnMut(usize, f64, f64)) -> usize {
        let (mut squares, mut sums) = ([0.0_f32; lanes::BLOCK], [0.0_f32; lanes::BLOCK]);
        let mut done = 0;
        while let Some(&count) = self.entry.counts.get(self.matrix).filter(|_| done < n) {
            let here = (n - done).min(self.row - self.column).min(lanes::BLOCK);
            if count as f32 <= 0.0 || here == 0 {
                (self.matrix, self.column) = (self.matrix + 1, 0);
                continue;
            }
            let at = self.matrix * self.row + self.column;
            self.column += here;
            let (squares, sums) = (&mut squares[..here], &mut sums[..here]);
            self.entry.sum2.read(at, squares);
            match self.sums() {
                Some(numbers) => numbers.read(at, sums),
                None => sums.copy_from_slice(squares),
            }
            let inverse = 1.0 / f64::from(count as f32);
            // The count is at least 1, so that an average is finite if the sum is.
            let finite = |numbers: &[f32]| numbers.iter().fold(true, |all, x| all & x.is_finite());
            if finite(squares) & finite(sums) {
                for (i, (&sum, &square)) in sums.iter().zip(squares.iter()).enumerate() {
                    put(done + i, f64::from(sum) * inverse, f64::from(square) * inverse);
                }
                done += here;
            } else {
                for (&sum, &square) in sums.iter().zip(squares.iter()) {
                    if sum.is_finite() && square.is_finite() {
                        put(done, f64::from(sum) * inverse, f64::from(square) * inverse);
                        done += 1;
                    }
                }
            }
        }
        done
    }
}

/// Running means (Welford), the sum, and the energy's sum.
#[derive(Default)]
struct Means {
    n: Lane,
    mean: Lane,
    sum: Lane,
    sum_energy: Lane,
}

impl lanes::Chains for Means {
    #[inline]
    fn take(&mut self, lane: usize, value: f64, energy: f64) {
        self.n[lane] += 1.0;
        self.sum[lane] += energy;
        self.mean[lane] += (value - self.mean[lane]) / self.n[lane];
        self.sum_energy[lane] += if energy > 0.0 { energy } else { 0.0 };
    }
}

/// Sums of powers about the mean, and the entropy.
#[derive(Default)]
struct Moments {
    mean: Lane,
    inverse_sum: Lane,
    square: Lane,
    cube: Lane,
    fourth: Lane,
    /// Sum of p ln p, nearly.
    p_ln_p: Lane,
}

impl Moments {
    fn new(means: &Means) -> Self {
        let inverse = |sum: f64| if sum > 0.0 { 1.0 / sum } else { 0.0 };
        Self { mean: means.mean, inverse_sum: means.sum_energy.map(inverse), ..Self::default() }
    }

    /// The entropy in bits that [`entropy`] comes to, if that is certain: both ends of what its value in f64 may
    /// be are the same f32.
    ///
    /// The library's logarithm takes as long as all the rest together, and its last bits are all but always lost in
    /// that rounding. All terms but those of p = 1 have one sign, so the roundings of n additions are at most n 2^-53
    /// of the sum, here and there.
    fn rounded_entropy(&self, n: f64, lane: usize) -> Option<f32> {
        let near = -self.p_ln_p[lane] * LOG2_E;
        let error = near.abs() * (2.1 * n * f64::EPSILON / 2.0 + 2.0 * logarithm::MAX_ERROR) + 1e-14;
        let (low, high) = ((near - error) as f32, (near + error) as f32);
        (low.to_bits() == high.to_bits()).then_some(low)
    }
}

impl lanes::Chains for Moments {
    #[inline]
    fn take(&mut self, lane: usize, value: f64, energy: f64) {
        let diff = value - self.mean[lane];
        self.square[lane] += diff * diff;
        self.cube[lane] += diff * diff * diff;
        self.fourth[lane] += diff * diff * diff * diff;
        let p = energy.max(0.0) * self.inverse_sum[lane];
        let p = if p > LEAST_SHARE { p } else { 1.0 };
        self.p_ln_p[lane] += p * logarithm::ln(p);
    }
}

/// The entropy in bits, in upstream's order with the library's logarithm.
fn entropy(mut columns: Columns<'_>, inverse_sum: f64) -> f32 {
    let mut entropy = 0.0;
    let more = |entropy: &mut f64, energy: f64| {
        let p = energy.max(0.0) * inverse_sum;
        if p > LEAST_SHARE {
            *entropy -= p * p.ln() * LOG2_E;
        }
    };
    while columns.next(lanes::BLOCK, |_, _, energy| more(&mut entropy, energy)) == lanes::BLOCK {}
    entropy as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sum2: &[f32], sum: Option<&[f32]>, counts: &[i64]) -> Entry {
        Entry { sum2: sum2.to_vec(), sum: sum.map(<[f32]>::to_vec), counts: counts.to_vec() }
    }

    fn statistics(name: &str, entry: &Entry) -> Result<Option<TensorStats>, Unusable> {
        super::statistics(&[(name, &entry.view())]).remove(0)
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

    /// The formulas, column after column, as llama.cpp has them.
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
    fn side_by_side_as_one_by_one() {
        let mut state = 1_u64;
        let mut number = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32
        };
        for round in 0..60 {
            // Lengths and counts of their own, some columns without a number, energies over many powers of ten.
            let entries: Vec<Entry> = (0..=round % LANES)
                .map(|lane| {
                    let (row, matrices) = (1 + (number() * 300.0) as usize, 1 + (number() * 4.0) as usize);
                    let mut values: Vec<f32> =
                        (0..row * matrices).map(|_| number() * 10_f32.powf(8.0 * number())).collect();
                    let sums = values.iter().map(|x| x.sqrt() - 3.0 * number()).collect();
                    if lane % 3 == 1 {
                        let at = values.len() / 2;
                        values[at] = f32::NAN;
                        values[0] = f32::INFINITY;
                    }
                    let counts =
                        (0..matrices).map(|m| if m % 3 == 1 { 0 } else { (number() * 5000.0) as i64 }).collect();
                    Entry { sum2: values, sum: (lane % 4 != 2).then_some(sums), counts }
                })
                .collect();
            let views: Vec<_> = entries.iter().map(Entry::view).collect();
            let named: Vec<Named<'_>> = views.iter().map(|view| ("w", view)).collect();
            for (entry, found) in entries.iter().zip(super::statistics(&named)) {
                let expected = one_by_one(entry);
                let Some(s) = found.unwrap() else {
                    assert_eq!(expected[1], 0);
                    continue;
                };
                let bits = [s.mean, s.std_deviation, s.skewness, s.kurtosis, s.entropy].map(|x| u64::from(x.to_bits()));
                let found = [
                    s.sum.to_bits(),
                    s.elements as u64,
                    u64::from(s.legacy),
                    bits[0],
                    bits[1],
                    bits[2],
                    bits[3],
                    bits[4],
                ];
                assert_eq!(found, expected, "round {round}, {} values", entry.sum2.len());
            }
        }
    }
}
