//! Sums of any size and exponent, for those that must not depend on the order of their terms.

use num_bigint::BigInt;

/// Numbers are in units of 2^-298: the square of the smallest f32 is one.
const UNIT: u32 = 298;
/// Terms below 2^-36 may be rounded, each by at most 2^-60, and their squares by at most 2^-120.
const SMALLEST_EXACT: f32 = 1.0 / (1_u64 << 36) as f32;

#[derive(Debug, Clone)]
pub(super) struct ExactSums {
    sum: Vec<BigInt>,
    sum2: Vec<BigInt>,
    /// Terms of each channel that may be rounded.
    small: Vec<u32>,
}

impl ExactSums {
    pub(super) fn zeros(values: usize) -> Self {
        Self { sum: vec![BigInt::ZERO; values], sum2: vec![BigInt::ZERO; values], small: vec![0; values] }
    }

    pub(super) fn from_rounded(sum: &[f32], sum2: &[f32]) -> Self {
        let small = |(sum, sum2): (&f32, &f32)| {
            u32::from(*sum != 0.0 && sum.abs() < SMALLEST_EXACT || *sum2 != 0.0 && *sum2 < SMALLEST_EXACT)
        };
        Self {
            sum: sum.iter().map(|&x| big(x)).collect(),
            sum2: sum2.iter().map(|&x| big(x)).collect(),
            small: sum.iter().zip(sum2).map(small).collect(),
        }
    }

    /// Adds a term. One that is not finite is left to the f32 sums beside, by which the chunk is then discarded.
    pub(super) fn add(&mut self, i: usize, x: f32) {
        if !x.is_finite() {
            return;
        }
        let (mantissa, exponent) = parts(x);
        self.sum[i] += shifted(mantissa, exponent);
        self.sum2[i] += shifted(mantissa * mantissa, 2 * exponent);
        self.small[i] += u32::from(x != 0.0 && x.abs() < SMALLEST_EXACT);
    }

    /// The first value whose sum is not the exact one, rounded once.
    pub(super) fn first_difference(&self, sum: &[f32], sum2: &[f32]) -> Option<String> {
        for i in 0..self.sum.len() {
            let small = BigInt::from(self.small[i]);
            for (what, found, want, slack) in [
                ("sum", sum[i], &self.sum[i], &small << (UNIT - 60)),
                ("sum2", sum2[i], &self.sum2[i], &small << (UNIT - 120)),
            ] {
                if !is_nearest(found, want, &slack) {
                    return Some(format!("{what}[{i}] {found:e} is not the exact sum rounded"));
                }
            }
        }
        None
    }
}

/// `x = mantissa * 2^exponent`.
fn parts(x: f32) -> (i64, i32) {
    assert!(x.is_finite());
    let (field, fraction) = ((x.to_bits() >> 23 & 0xff) as i32, i64::from(x.to_bits() & 0x7f_ffff));
    let size = if field == 0 { fraction } else { fraction + (1 << 23) };
    (if x < 0.0 { -size } else { size }, field.max(1) - 150)
}

fn shifted(mantissa: i64, exponent: i32) -> BigInt {
    BigInt::from(mantissa) << (exponent + UNIT as i32) as u32
}

fn big(x: f32) -> BigInt {
    let (mantissa, exponent) = parts(x);
    shifted(mantissa, exponent)
}

/// Whether `found` is the f32 nearest to a number that is `slack` at most from `exact`.
fn is_nearest(found: f32, exact: &BigInt, slack: &BigInt) -> bool {
    let distance = |x: f32| {
        let d = big(x) - exact;
        if d < BigInt::ZERO { -d } else { d }
    };
    let own = distance(found);
    [found.next_up(), found.next_down()].into_iter().all(|other| {
        let other = distance(other) + slack + slack;
        own < other || own == other && found.to_bits().is_multiple_of(2)
    })
}

#[test]
fn exact_sums_round_once() {
    let mut sums = ExactSums::zeros(1);
    for x in [1e8, 1.0, -1e8, 0.25] {
        sums.add(0, x);
    }
    let square = (1e16_f64 + 1e16 + 1.0625) as f32;
    assert_eq!(sums.first_difference(&[1.25], &[square]), None);
    assert!(sums.first_difference(&[1.25_f32.next_up()], &[square]).is_some());
    assert!(sums.first_difference(&[1.25], &[square.next_down()]).is_some());
}
