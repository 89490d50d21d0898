//! Rank correlation.

/// Spearman's correlation: Pearson's of the ranks, equal numbers sharing the mean of theirs. NaN for fewer than two
/// numbers, or where all on one side are equal. The numbers must be finite and as many on both sides.
pub(super) fn spearman(a: &[f32], b: &[f32]) -> f64 {
    let n = a.len();
    if n < 2 || b.len() != n || n > u32::MAX as usize {
        return f64::NAN;
    }
    let mean = 0.5 * (n as f64 + 1.0);
    let (mut product, mut left, mut right) = (0.0, 0.0, 0.0);
    for (x, y) in ranks(a).into_iter().zip(ranks(b)) {
        let (x, y) = (f64::from(x) / 2.0 - mean, f64::from(y) / 2.0 - mean);
        product += x * y;
        left += x * x;
        right += y * y;
    }
    if left > 0.0 && right > 0.0 { (product / (left.sqrt() * right.sqrt())).clamp(-1.0, 1.0) } else { f64::NAN }
}

/// Twice the rank of each number, which is whole even where equal numbers share it.
fn ranks(values: &[f32]) -> Vec<u32> {
    // The number in the upper half, as an integer of the same order; where it stood in the lower.
    let mut order: Vec<u64> = values.iter().enumerate().map(|(i, &x)| u64::from(ordered(x)) << 32 | i as u64).collect();
    order.sort_unstable();
    let mut out = vec![0; values.len()];
    let mut before = 0_u32;
    for equal in order.chunk_by(|a, b| a >> 32 == b >> 32) {
        let n = equal.len() as u32;
        let twice = before.wrapping_mul(2).wrapping_add(n + 1);
        for &key in equal {
            if let Some(rank) = out.get_mut((key & u64::from(u32::MAX)) as usize) {
                *rank = twice;
            }
        }
        before += n;
    }
    out
}

/// An integer that orders as the number does; both zeros are one.
fn ordered(x: f32) -> u32 {
    let bits = (x + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        assert_eq!(ranks(&[3.0, -1.0, 3.0, 0.0, -0.0]), [9, 2, 9, 5, 5]);
        assert!((spearman(&[1.0, 2.0, 3.0], &[10.0, 20.0, 1000.0]) - 1.0).abs() < 1e-12);
        assert!((spearman(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]) + 1.0).abs() < 1e-12);
        // 1 - 6 * (1 + 1 + 0 + 0) / (4 * 15)
        assert!((spearman(&[1.0, 2.0, 3.0, 4.0], &[2.0, 1.0, 3.0, 4.0]) - 0.8).abs() < 1e-12);
        assert!(spearman(&[1.0, 1.0], &[1.0, 2.0]).is_nan() && spearman(&[1.0], &[1.0]).is_nan());
    }
}
