//! A natural logarithm that the compiler can do several at once of.

use std::f64::consts::{LN_2, SQRT_2};

/// Bounds the relative error of [`ln`]: the series' cut (below), a handful of roundings (2^-53 each)
/// and the one of `LN_2`.
pub(super) const MAX_ERROR: f64 = 1e-14;

/// The natural logarithm of a normal number between 2^-1000 and 2^1000.
///
/// With x = 2^k m and m within [√½, √2): ln x = k ln 2 + 2 atanh f, f = (m - 1) / (m + 1), whose
/// series in f² ends here after ten terms. |f| is at most 0.1716, so what is cut off is below
/// f²⁰ / 21 · 1.04 < 3e-17 of the sum.
#[inline]
pub(super) fn ln(x: f64) -> f64 {
    const SQRT_HALF: u64 = (SQRT_2 / 2.0).to_bits();
    const MANTISSA: u64 = (1 << 52) - 1;
    const TWO_52: f64 = (1_u64 << 52) as f64;
    // The exponent as if mantissas began at √½, still biased by 1023.
    let shifted = x.to_bits().wrapping_add(1.0_f64.to_bits()).wrapping_sub(SQRT_HALF);
    let m = f64::from_bits((shifted & MANTISSA) + SQRT_HALF);
    // An integer below 2^52 in the low bits of 2^52 is that float; there is no vector conversion to use.
    let k = f64::from_bits(TWO_52.to_bits() | (shifted >> 52)) - (TWO_52 + 1023.0);
    let f = (m - 1.0) / (m + 1.0);
    let s = f * f;
    let mut series = 1.0 / 19.0;
    for divisor in [17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        series = series * s + 1.0 / divisor;
    }
    k * LN_2 + 2.0 * f * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_its_bound_of_the_library_s() {
        let mut worst = 0.0_f64;
        let mut check = |x: f64| worst = worst.max(((ln(x) - x.ln()) / x.ln().abs().max(1e-300)).abs());
        for i in 0..200_000_u32 {
            check(1e-10 * 1.000_115_2_f64.powi(i as i32)); // to 1 and beyond
        }
        for step in 1..1000_u32 {
            check(1.0 - f64::from(step) * f64::EPSILON);
            check(SQRT_2 / 2.0 + (f64::from(step) - 500.0) * f64::EPSILON);
        }
        assert!(worst < MAX_ERROR / 4.0, "{worst:e}");
        assert_eq!(ln(1.0).to_bits(), 0.0_f64.to_bits());
    }
}
