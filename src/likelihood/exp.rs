//! Exponentials of logits, which take most of the time of a log-softmax.
//!
//! The f32 exponentials must have libm's bits, since llama.cpp's tools print ten digits of their sum. glibc computes
//! `e^x = 2^(k/32) * 2^r` in f64, with a table of the 32 roots and a cubic in r (`expf` of Arm's Optimized Routines,
//! <https://github.com/ARM-software/optimized-routines>). This module does the same for several values at a time. glibc uses
//! fused multiply-add if the CPU has it; in a build without it, this module calls libm.

/// Number of exponentials computed before they are added in order.
const BLOCK: usize = 256;

/// Computes `sum(exp(logit - max))` with f32 exponentials, added in f64 in order.
pub(super) fn sum(logits: &[f32], max: f32) -> f64 {
    let mut block = [0.0_f32; BLOCK];
    let mut sum = 0.0;
    for logits in logits.chunks(BLOCK) {
        for (exponential, &logit) in block.iter_mut().zip(logits) {
            *exponential = exp(logit - max);
        }
        sum = block[..logits.len()].iter().fold(sum, |sum, &exponential| sum + f64::from(exponential));
    }
    sum
}

#[cfg(not(target_feature = "fma"))]
fn exp(x: f32) -> f32 {
    x.exp()
}

#[cfg(target_feature = "fma")]
use fused::exp;

#[cfg(target_feature = "fma")]
mod fused {
    /// Adding this to a number below 2^51 rounds it to an integer, which is then in the low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52
    const ROOTS: u64 = 32;
    /// 32 / ln 2.
    const ROOTS_PER_NAT: f64 = f64::from_bits(0x4047_1547_652b_82fe);
    /// The cubic's coefficients above the constant 1, highest first: about `(ln 2 / 32)^n / n!`.
    const CUBIC: [f64; 3] = [
        f64::from_bits(0x3ebc_6af8_4b91_2394),
        f64::from_bits(0x3f2e_bfce_50fa_c4f3),
        f64::from_bits(0x3f96_2e42_ff0c_52d6),
    ];
    /// Below this value the result rounds to 0 in f32.
    const LOWEST: f32 = -110.0;

    /// The bits of `2^(i/32)` minus `i << 47`. Entry `k % 32` plus `k << 47` gives the bits of `2^(k/32)`.
    static POWERS: [u64; ROOTS as usize] = powers();

    const fn powers() -> [u64; ROOTS as usize] {
        // Correctly rounded mantissas of 2^(i/32) for i from 0 to 31.
        const MANTISSAS: [u64; ROOTS as usize] = [
            0x0000_0000_0000_0000,
            0x0000_59b0_d315_8574,
            0x0000_b558_6cf9_890f,
            0x0001_1301_d012_5b51,
            0x0001_72b8_3c7d_517b,
            0x0001_d487_3168_b9aa,
            0x0002_387a_6e75_6238,
            0x0002_9e9d_f51f_dee1,
            0x0003_06fe_0a31_b715,
            0x0003_71a7_373a_a9cb,
            0x0003_dea6_4c12_3422,
            0x0004_4e08_6061_892d,
            0x0004_bfda_d536_2a27,
            0x0005_342b_569d_4f82,
            0x0005_ab07_dd48_5429,
            0x0006_247e_b03a_5585,
            0x0006_a09e_667f_3bcd,
            0x0007_1f75_e8ec_5f74,
            0x0007_a114_73eb_0187,
            0x0008_2589_994c_ce13,
            0x0008_ace5_422a_a0db,
            0x0009_3737_b0cd_c5e5,
            0x0009_c491_82a3_f090,
            0x000a_5503_b23e_255d,
            0x000a_e89f_995a_d3ad,
            0x000b_7f76_f2fb_5e47,
            0x000c_199b_dd85_529c,
            0x000c_b720_dcef_9069,
            0x000d_5818_dcfb_a487,
            0x000d_fc97_337b_9b5f,
            0x000e_a4af_a2a4_90da,
            0x000f_5076_5b6e_4540,
        ];
        let mut powers = [0; ROOTS as usize];
        let mut i = 0;
        while i < powers.len() {
            powers[i] = ((1023_u64 << 52) | MANTISSAS[i]).wrapping_sub((i as u64) << 47);
            i += 1;
        }
        powers
    }

    /// Computes `e^x` for `x` up to 88.
    #[inline]
    pub(super) fn exp(x: f32) -> f32 {
        let x = f64::from(if x < LOWEST { LOWEST } else { x });
        let rounded = ROOTS_PER_NAT.mul_add(x, ROUND);
        let k = rounded.to_bits();
        let r = ROOTS_PER_NAT.mul_add(x, -(rounded - ROUND));
        let power = f64::from_bits(POWERS[(k % ROOTS) as usize].wrapping_add(k << 47));
        let high = CUBIC[0].mul_add(r, CUBIC[1]);
        let low = CUBIC[2].mul_add(r, 1.0);
        (high.mul_add(r * r, low) * power) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn exponentials_equal_those_of_libm() {
        // Every 997th f32 from -0 to -104, and the ends.
        let bits = ((-0.0_f32).to_bits()..(-104.0_f32).to_bits()).step_by(997);
        for x in bits.map(f32::from_bits).chain([0.0, -200.0, f32::NEG_INFINITY]) {
            let (found, want) = (exp(x), x.exp());
            // Other libms may differ in the last bit.
            let bound = u32::from(!cfg!(target_env = "gnu"));
            assert!(found.to_bits().abs_diff(want.to_bits()) <= bound, "exp({x}) = {found}, not {want}");
        }
        assert!(exp(f32::NAN).is_nan());
    }
}
