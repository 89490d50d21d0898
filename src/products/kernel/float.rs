//! F16 and BF16 weights, multiplied as f32, with the bits of ggml's `ggml_vec_dot_f16` and `ggml_vec_dot_bf16` on x86.
//!
//! These have four vectors of eight lanes per dot product. Of each 32 values, vector `p` takes those from `32i + 8p` on.
//! They convert each value to f32 when they read it; the kernels convert weights once per panel.
//! Dense products do not go this way in ggml, but through tinyBLAS, which gains nothing from panels.
//!
//! A panel holds, for each of the vectors in turn, the eight values of each row as f32, step by step. A column holds
//! its values in the same order and its own type: it streams through the cache, and half the bytes cost less than the
//! conversion.

use std::arch::x86_64::*;

use super::lanes::{sum_of_four, sum_of_four_by_pairs};
use super::{Instructions, Kernel};

/// Rows and columns per tile: 12 sums, 3 columns and a row are all of AVX2's registers.
const ROWS: usize = 4;
const COLS: usize = 3;
/// Lanes per vector.
const LANES: usize = 8;

/// `ggml_vec_dot_f16`.
pub(super) const F16_ROUTED: Kernel = kernel("F16 AVX2", pack::<false>, prepare, tile::<false, true, PAIRS>);
/// `ggml_vec_dot_bf16` where the compiler has fused its multiplications and additions, as GCC does.
pub(super) const BF16_ROUTED_FUSED: Kernel =
    kernel("BF16 AVX2 fused", pack::<true>, prepare, tile::<true, true, HALVES>);
/// `ggml_vec_dot_bf16` as it is written.
pub(super) const BF16_ROUTED: Kernel = kernel("BF16 AVX2", pack::<true>, prepare, tile::<true, false, HALVES>);
/// The last lanes are added two apart, and a sum of zero has no sign: ggml adds it to a zero.
const HALVES: u8 = 0;
/// The last lanes are added in pairs.
const PAIRS: u8 = 1;
/// Vectors of sums per dot product.
const PARTS: usize = 4;

const fn kernel(
    name: &'static str,
    pack: unsafe fn(&[*const u8], usize, *mut u8),
    prepare: unsafe fn(*const u8, usize, *mut u8) -> bool,
    tile: unsafe fn(usize, *const u8, &[*const u8], *mut f32, *mut f32),
) -> Kernel {
    Kernel {
        name,
        instructions: Instructions::Avx2,
        rows: ROWS,
        cols: COLS,
        step: PARTS * LANES,
        panel_bytes: |k| ROWS * k * 4,
        column_bytes: |k| k * 2,
        scratch: |_| PARTS * ROWS * COLS * LANES,
        prepare,
        pack,
        tile,
    }
}

/// Eight values at `i`, as f32.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn load<const BF16: bool>(row: *const u8, i: usize) -> __m256 {
    // SAFETY: by contract of the callers eight values of two bytes are there.
    let halves = unsafe { _mm_loadu_si128(row.add(i * 2).cast()) };
    if BF16 {
        _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16))
    } else {
        _mm256_cvtph_ps(halves)
    }
}

#[target_feature(enable = "avx2,f16c")]
unsafe fn prepare(converted: *const u8, k: usize, column: *mut u8) -> bool {
    let steps = k / (PARTS * LANES);
    for part in 0..PARTS {
        for step in 0..steps {
            // SAFETY: by contract the source has `k` values, each read once, and the destination has room for `k`
            // values.
            unsafe {
                let values = _mm_loadu_si128(converted.add((step * PARTS + part) * LANES * 2).cast());
                _mm_storeu_si128(column.add((part * steps + step) * LANES * 2).cast(), values);
            }
        }
    }
    true
}

#[target_feature(enable = "avx2,f16c")]
unsafe fn pack<const BF16: bool>(rows: &[*const u8], k: usize, panel: *mut u8) {
    let steps = k / (PARTS * LANES);
    let mut to = panel.cast::<f32>();
    for part in 0..PARTS {
        for step in 0..steps {
            for &row in &rows[..ROWS] {
                // SAFETY: by contract each row has `k` values, and the panel has room for `k` floats per row.
                unsafe {
                    _mm256_storeu_ps(to, load::<BF16>(row, (step * PARTS + part) * LANES));
                    to = to.add(LANES);
                }
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<const BF16: bool, const FUSED: bool, const SUM: u8>(
    k: usize,
    panel: *const u8,
    columns: &[*const u8],
    scratch: *mut f32,
    out: *mut f32,
) {
    let steps = k / (PARTS * LANES);
    // SAFETY: by contract the panel has 4 rows of `k` floats, the three columns `k` values each, `scratch` has 4
    // vectors per row and column, and `out` has 12 floats.
    unsafe {
        let mut x = panel.cast::<f32>();
        let mut y: [*const u8; COLS] = [0, 1, 2].map(|c| *columns.get_unchecked(c));
        for part in 0..PARTS {
            let mut sums = [[_mm256_setzero_ps(); ROWS]; COLS];
            for _ in 0..steps {
                let columns = y.map(|y| load::<BF16>(y, 0));
                for r in 0..ROWS {
                    let row = _mm256_loadu_ps(x.add(r * LANES));
                    for c in 0..COLS {
                        sums[c][r] = if FUSED {
                            _mm256_fmadd_ps(row, columns[c], sums[c][r])
                        } else {
                            _mm256_add_ps(_mm256_mul_ps(row, columns[c]), sums[c][r])
                        };
                    }
                }
                x = x.add(ROWS * LANES);
                y = y.map(|y| y.add(LANES * 2));
            }
            for c in 0..COLS {
                for r in 0..ROWS {
                    _mm256_storeu_ps(scratch.add(((c * ROWS + r) * PARTS + part) * LANES), sums[c][r]);
                }
            }
        }
        for c in 0..COLS {
            let sums = [0, 1, 2, 3].map(|r| {
                let part = |p: usize| _mm256_loadu_ps(scratch.add(((c * ROWS + r) * PARTS + p) * LANES));
                _mm256_add_ps(_mm256_add_ps(part(0), part(2)), _mm256_add_ps(part(1), part(3)))
            });
            let sum = match SUM {
                PAIRS => sum_of_four_by_pairs(sums),
                _ => _mm_add_ps(sum_of_four(sums), _mm_setzero_ps()),
            };
            _mm_storeu_ps(out.add(c * ROWS), sum);
        }
    }
}
