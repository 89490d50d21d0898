//! IEEE 754 half precision.

/// Returns the bits of the nearest f16, ties to even. Overflow gives infinity; a NaN becomes a quiet NaN.
#[must_use]
pub fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    let exponent = (bits >> 23) & 0xff;
    let mantissa = bits & 0x007f_ffff;

    if exponent == 0xff {
        let payload = if mantissa == 0 { 0 } else { 0x0200 | (mantissa >> 13) as u16 };
        return sign | 0x7c00 | payload;
    }
    // 113 = 127 - 14: the smallest exponent that is normal in f16.
    let (value, dropped) = if exponent >= 113 {
        let rebased = exponent - 112;
        if rebased >= 31 {
            return sign | 0x7c00;
        }
        ((rebased << 23) | mantissa, 13)
    } else if exponent >= 102 {
        // Subnormal in f16: the hidden bit becomes explicit and is shifted right.
        (mantissa | 0x0080_0000, 126 - exponent)
    } else {
        return sign; // below half of the smallest subnormal
    };
    let kept = value >> dropped;
    let rest = value & ((1 << dropped) - 1);
    let half = 1 << (dropped - 1);
    let up = rest > half || (rest == half && kept & 1 == 1);
    // A carry from the mantissa correctly increments the exponent, up to infinity.
    sign | (kept + u32::from(up)) as u16
}

/// Returns the value of f16 bits. Every f16 is exact in f32.
#[must_use]
pub fn f16_to_f32(h: u16) -> f32 {
    let sign = u32::from(h & 0x8000) << 16;
    let exponent = u32::from(h >> 10) & 0x1f;
    let mantissa = u32::from(h) & 0x03ff;
    match exponent {
        0 => {
            let magnitude = mantissa as f32 * (1.0 / 16_777_216.0); // 2^-24
            f32::from_bits(sign | magnitude.to_bits())
        }
        31 => f32::from_bits(sign | 0x7f80_0000 | (mantissa << 13)),
        _ => f32::from_bits(sign | ((exponent + 112) << 23) | (mantissa << 13)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_survives_the_round_trip() {
        for h in 0..=u16::MAX {
            let x = f16_to_f32(h);
            if x.is_nan() {
                assert!(f16_to_f32(f32_to_f16(x)).is_nan());
            } else {
                assert_eq!(f32_to_f16(x), h, "{h:#06x}");
            }
        }
    }

    #[test]
    fn rounds_to_nearest_ties_to_even() {
        // Between each two neighbours: just below, at and just above the midpoint.
        for h in 0..0x7bff_u16 {
            let (lo, hi) = (f16_to_f32(h), f16_to_f32(h + 1));
            let mid = lo + (hi - lo) / 2.0;
            let even = if h % 2 == 0 { h } else { h + 1 };
            assert_eq!(f32_to_f16(mid), even, "{h:#06x}");
            assert_eq!(f32_to_f16(mid.next_down()), h, "{h:#06x}");
            assert_eq!(f32_to_f16(mid.next_up()), h + 1, "{h:#06x}");
            assert_eq!(f32_to_f16(-mid), even | 0x8000, "{h:#06x}");
        }
    }

    #[test]
    fn overflow_gives_infinity_and_nan_stays_nan() {
        assert_eq!(f32_to_f16(65519.996), 0x7bff);
        assert_eq!(f32_to_f16(65520.0), 0x7c00);
        assert_eq!(f32_to_f16(f32::MAX), 0x7c00);
        assert_eq!(f32_to_f16(f32::NEG_INFINITY), 0xfc00);
        assert_eq!(f32_to_f16(f32::NAN) & 0x7e00, 0x7e00);
        assert_eq!(f32_to_f16(f32::from_bits(1)), 0);
    }
}
