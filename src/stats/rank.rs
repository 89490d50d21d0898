//! Rank correlation.

/// Computes Spearman's correlation: Pearson's correlation of the ranks, where equal numbers share their mean rank. NaN for
/// fewer than two numbers, or if all numbers of one slice are equal. The numbers must be finite, the lengths equal.
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

/// Returns twice the rank of each number. Doubled, a shared mean rank is an integer.
fn ranks(values: &[f32]) -> Vec<u32> {
    // The upper half is the number as an integer of the same order, the lower half its index.
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

/// Returns an integer that has the order of the number; both zeros are equal.
fn ordered(x: f32) -> u32 {
    let bits = (x + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_and_correlations_are_those_worked_out_by_hand() {
        assert_eq!(ranks(&[3.0, -1.0, 3.0, 0.0, -0.0]), [9, 2, 9, 5, 5]);
        assert!((spearman(&[1.0, 2.0, 3.0], &[10.0, 20.0, 1000.0]) - 1.0).abs() < 1e-12);
        assert!((spearman(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]) + 1.0).abs() < 1e-12);
        // 1 - 6 * (1 + 1 + 0 + 0) / (4 * 15)
        assert!((spearman(&[1.0, 2.0, 3.0, 4.0], &[2.0, 1.0, 3.0, 4.0]) - 0.8).abs() < 1e-12);
        assert!(spearman(&[1.0, 1.0], &[1.0, 2.0]).is_nan() && spearman(&[1.0], &[1.0]).is_nan());
    }
}
