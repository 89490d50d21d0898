//! Sums over the lanes of vectors, in ggml's orders.

use std::arch::x86_64::*;

/// The sums of four vectors, each as ggml's `hsum_float_8` adds: upper half to lower, then lanes two apart, then the
/// last two.
#[inline]
#[target_feature(enable = "avx")]
pub(super) fn sum_of_four(v: [__m256; 4]) -> __m128 {
    let halves = v.map(|v| _mm_add_ps(_mm256_extractf128_ps(v, 1), _mm256_castps256_ps128(v)));
    // Lanes of a: row 0 (0+2), row 1 (0+2), row 0 (1+3), row 1 (1+3).
    let a = _mm_add_ps(_mm_unpacklo_ps(halves[0], halves[1]), _mm_unpackhi_ps(halves[0], halves[1]));
    let b = _mm_add_ps(_mm_unpacklo_ps(halves[2], halves[3]), _mm_unpackhi_ps(halves[2], halves[3]));
    _mm_add_ps(_mm_movelh_ps(a, b), _mm_movehl_ps(b, a))
}

/// The sums of four vectors, each as ggml's `GGML_F32x8_REDUCE` adds: upper half to lower, then neighbours, then the
/// two left.
#[inline]
#[target_feature(enable = "avx")]
pub(super) fn sum_of_four_by_pairs(v: [__m256; 4]) -> __m128 {
    let halves = v.map(|v| _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1)));
    _mm_hadd_ps(_mm_hadd_ps(halves[0], halves[1]), _mm_hadd_ps(halves[2], halves[3]))
}
